"""The jobs that a storage holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow_llm_batch.jobs.directory.address import JobAddress, default_storage
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import exists, fresh, storage_path


def find_jobs(storage: str | None = None, dag_id: str | None = None) -> Iterator[JobStore]:
    """Every job directory, further rounds not counted: ``{storage}/{dag}/{run}/{task}/{map index}``.

    :param storage: object storage URI, ``[llm_batch] storage`` by default.
    :param dag_id: of one DAG only.
    """
    uri = (storage or default_storage()).rstrip("/")
    root = fresh(storage_path(uri))
    top = root.path.rstrip("/")
    level = [f"{top}/{dag_id}" if dag_id else top]
    for _ in range(3 if dag_id else 4):
        level = [name for folder in level for name in folders(root.fs, folder)]
    for folder in sorted(level, key=in_order):
        store = JobStore(uri + folder.removeprefix(top))
        if exists(store.path("job.json")):
            yield store


def in_order(path: str) -> tuple[str, str, str, int]:
    """Jobs of one task instance follow each other."""
    address = JobAddress.parse(path)
    return address.folder, address.map_index, address.model or "", address.generation


def folders(fs: Any, folder: str) -> list[str]:
    """The directories in one, by name; none in one that does not exist."""
    try:
        return sorted(entry["name"] for entry in patiently(fs.ls, folder, detail=True) if entry["type"] == "directory")
    except FileNotFoundError:
        return []
