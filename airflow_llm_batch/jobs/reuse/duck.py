"""DuckDB as what joins and sorts far more rows than memory holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: what it may hold in memory; the rest goes into a temporary folder
MEMORY = "150MB"


@contextmanager
def session() -> Iterator[DuckDBPyConnection]:
    """A database of its own, in memory and a temporary folder, that loads nothing from elsewhere.

    :raises ConfigurationError: when DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise ConfigurationError(
            "An answer cache needs DuckDB: pip install 'airflow-provider-llm-batch[answers]'. Nothing was sent."
        ) from None
    with tempfile.TemporaryDirectory(prefix="llm-batch-duckdb-") as folder:
        settings: dict[str, Any] = {
            "threads": 1,
            "memory_limit": MEMORY,
            "temp_directory": folder,
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        connection = duckdb.connect(":memory:", config=settings)
        try:
            yield connection
        finally:
            connection.close()
