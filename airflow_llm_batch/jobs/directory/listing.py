"""The jobs that a storage holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow_llm_batch.jobs.directory.store import JobStore, default_storage
from airflow_llm_batch.storage import fresh, storage_path


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
    for folder in sorted(level, key=lambda name: (name.rpartition("/")[0], name.partition(".")[0], generation(name))):
        if root.fs.exists(f"{folder}/job.json"):
            yield JobStore(uri + folder.removeprefix(top))


def generation(uri: str) -> int:
    """How many jobs of the same task instance a job has replaced."""
    number = uri.rpartition(".")[2] if "." in uri.rpartition("/")[2] else "1"
    return int(number) if number.isdigit() else 1


def folders(fs: Any, folder: str) -> list[str]:
    """The directories in one, by name; none in one that does not exist."""
    try:
        return sorted(entry["name"] for entry in fs.ls(folder, detail=True) if entry["type"] == "directory")
    except FileNotFoundError:
        return []
