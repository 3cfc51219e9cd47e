"""``failed.jsonl``: every landed row that did not succeed, a ``Failure`` a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.results import Failure
from airflow_llm_batch.storage import open_blocks

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


def failures_file(store: JobStore) -> ObjectStoragePath:
    """Where a job's failures are written down, once it has landed."""
    return store.path("failed.jsonl")


def failures(store: JobStore) -> Iterator[Failure]:
    """The rows of a landed job that did not succeed, in constant memory.

    :raises ConfigurationError: when they were not written down.
    """
    decode = msgspec.json.Decoder(Failure).decode
    file = failures_file(store)
    try:
        with open_blocks(file) as lines:
            yield from map(decode, lines)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file} is missing: which rows failed is written down when a job is landed. Clear the "
            "FetchResultsOperator that landed it; nothing is paid again."
        ) from None
