"""The whole storage listed, and its index put right: once for the jobs that are older than the index, and daily since.

What the index does not know, or takes for unlanded though it is landed, is read from its directory; what is there no
more goes. It takes one listing of all files, and reads of those jobs alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from airflow_llm_batch.jobs.directory.address import ROUND, JobKey
from airflow_llm_batch.jobs.directory.index import IndexEntry, note_checked
from airflow_llm_batch.jobs.directory.indexed import Index, rewrite
from airflow_llm_batch.jobs.view.files import FILES_AT_ONCE, Contents, listing, rounds_of
from airflow_llm_batch.jobs.view.job import JobView, view
from airflow_llm_batch.storage import fresh, storage_path

log = logging.getLogger(__name__)
#: parts of a path below the storage that name a task's job
DEPTH = 4
#: milliseconds for which a job that was announced may take to be planned
PLANNING = 3600 * 1000


class Names(NamedTuple):
    """What a listing tells of a job: its directories with a plan, and those with a landing."""

    planned: set[str]
    landed: set[str]

    @property
    def is_landed(self) -> bool:
        return self.planned <= self.landed


def check(storage: str, clock: Callable[[], float] = time.time) -> list[IndexEntry]:
    """Put the index of a storage right; what it has not had, or not as it is.

    :raises Exception: what the store raises when it is read. That nothing can be written is told in the log.
    """
    index = Index(storage, clock)
    began = index.now()
    index.read(None)
    found = jobs_in(storage)
    changes = {job: IndexEntry(job, index.entries[job].at + 1, gone=True) for job in lost(index, found, began)}
    wrong = [key for key, names in found.items() if not agrees(index.entries.get("/".join(key)), names)]
    contents = Contents()
    with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-check") as pool:
        for entry in pool.map(lambda key: entry_of(storage, key, index, contents), wrong):
            if entry is not None:
                changes[entry.job] = entry
    try:
        rewrite(index, changes)
        note_checked(index.root, began, index.checked)
    except Exception as error:
        log.warning("The index of %s could not be put right: %s: %s", storage, type(error).__name__, error)
    else:
        log.info("The index of %s was checked, and %d of %d jobs put right.", storage, len(changes), len(found))
    return list(changes.values())


def jobs_in(storage: str) -> dict[JobKey, Names]:
    """Every job that was planned: one listing of all files."""
    root = fresh(storage_path(storage))
    top = root.path.rstrip("/")
    found: dict[JobKey, Names] = {}
    for path, _ in listing(root):
        parts = path[len(top) + 1 :].split("/")
        directory, name = parts[DEPTH:-1], parts[-1]
        if len(parts) <= DEPTH or len(directory) > 1 or not all(part.startswith(ROUND) for part in directory):
            continue
        if name in ("job.json", "manifest.json"):
            names = found.setdefault(JobKey(*parts[:DEPTH]), Names(set(), set()))
            (names.planned if name == "job.json" else names.landed).add("/".join(directory))
    return {key: names for key, names in found.items() if names.planned}


def lost(index: Index, found: dict[JobKey, Names], now: int) -> list[str]:
    """Jobs that the index knows and that are not there any more."""
    return [
        job
        for job, entry in index.entries.items()
        if not entry.gone and entry.at < now - PLANNING and entry.key not in found
    ]


class Landed(msgspec.Struct):
    """What is compared of a view."""

    rounds: int = 0
    landed_at: str | None = None


def agrees(entry: IndexEntry | None, names: Names) -> bool:
    """Whether the index knows a job as a listing tells it. One at work is looked at anyway."""
    if entry is None or entry.gone:
        return False
    try:
        shown = msgspec.json.decode(entry.view, type=Landed) if entry.view is not None else Landed()
    except ValueError:
        return False
    if not names.is_landed:
        return shown.landed_at is None
    return shown.landed_at is not None and shown.rounds == len(names.planned)


def entry_of(storage: str, key: JobKey, index: Index, contents: Contents) -> IndexEntry | None:
    """A job's entry from its directory, None for one that cannot be shown."""
    rounds = rounds_of(storage.rstrip("/"), key, contents, details=False)
    try:
        shown: JobView | None = view(key, rounds) if rounds else None
    except (LookupError, TypeError, ValueError, AttributeError):
        return None  # damaged: it hides nothing but itself
    if shown is None:
        return None
    job = "/".join(key)
    known = index.entries.get(job)
    at = int((shown.landed_at or shown.created_at).timestamp() * 1000)
    if known is not None:
        at = max(at, known.at + 1)
    return IndexEntry(job, at, msgspec.Raw(shown.model_dump_json().encode()))
