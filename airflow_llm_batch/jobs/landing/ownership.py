"""Whose files lie in a destination: a job lands over its own earlier landing, and over nobody else's.

The names of landed files begin with the job's id, which comes of its directory's address. Another Airflow with the same
DAG, run and address of storage has the same id, and its rows may be in the same destination.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.exceptions import ResultsUnusable
from airflow_llm_batch.storage import read_small, storage_path, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.data.destinations import Destination
    from airflow_llm_batch.jobs.directory.store import JobStore


def stem(store: JobStore) -> str:
    """What the names of all that a job lands begin with."""
    return f"results-{store.job_id}-"


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def note_of(store: JobStore, destination: Destination) -> ObjectStoragePath:
    """Where a job notes, before its first file is published, that it lands in a destination."""
    return store.path("landings", f"{short_hash(destination.uri)}.json")


def check_place(store: JobStore, destination: Destination) -> None:
    """Refuse a destination where the job's names are taken by files that it has not landed.

    :raises ResultsUnusable: names them, and whose they may be.
    """
    if read_small(note_of(store, destination)) is not None:
        return
    manifest = store.manifest()
    own = {bare(place) for places in manifest.places.values() for place in places} if manifest is not None else set()
    taken = [place for place in destination.named(stem(store)) if bare(place) not in own]
    if taken:
        more = f" and {len(taken) - 1} more" if taken[1:] else ""
        raise ResultsUnusable(
            f"{taken[0]}{more} lie in {destination.uri} already, under the names of this job ({store.job_id}), and it "
            f"has not landed them: they are of a job with the same address, {store.uri}, in another Airflow, or in "
            "this one before the job's directory was removed. They were left as they are. Give this task a destination "
            "of its own, or remove them, and clear it: what was answered is not lost, and not paid again."
        )


def take_place(store: JobStore, destination: Destination) -> None:
    """Make a destination the job's, before anything is published there.

    :raises ResultsUnusable: as ``check_place``.
    """
    check_place(store, destination)
    note = note_of(store, destination)
    if read_small(note) is None:
        write_whole(note, msgspec.json.encode({"destination": destination.uri, "at": datetime.now(UTC)}))


def bare(place: str) -> str:
    """A file, whichever connection its URI names."""
    path = storage_path(place)
    return f"{path.protocol}:{path.path}"
