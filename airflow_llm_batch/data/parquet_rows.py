"""Rows from Parquet files, some at a time and only the columns that are needed. Needs the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.storage import open_random

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: rows decoded at once, and bytes of a column asked for at once: row groups may be larger than memory
ROWS, BYTES = 1000, 2**20


def read_parquet(path: ObjectStoragePath, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """The file's rows.

    :param columns: the columns to read, None for all.
    :raises InputError: for a column the file does not have, and for a file that is not Parquet.
    """
    try:
        with open_random(path) as file, pq.ParquetFile(file, buffer_size=BYTES, pre_buffer=False) as parquet:
            names = parquet.schema_arrow.names
            if missing := sorted(set(columns or ()) - set(names)):
                raise InputError(
                    f"{path} has no column {missing[0]!r}, which the request template, the key or passthrough names; "
                    f"it has {', '.join(map(repr, names)) or 'no columns'}. Nothing was sent."
                )
            # Without a column there would be no rows to count.
            wanted = None if columns is None else [name for name in names if name in columns] or names[:1]
            for batch in parquet.iter_batches(ROWS, columns=wanted, use_threads=False):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise InputError(f"Cannot read {path}: {type(error).__name__}: {error}. Nothing was sent.") from error
