"""How a task's jobs follow each other: rounds of one, and others that took its place or ask other models."""

from __future__ import annotations

from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.jobs.directory.attempts import Listing
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.models import Job
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.results import Manifest
from airflow_llm_batch.storage import fresh, storage_path


def rounds(store: JobStore) -> list[tuple[JobStore, Job]]:
    """A job and the further rounds that its task has made of it, oldest first; empty when nothing was planned."""
    found = []
    while job := store.load_job():
        found.append((store, job))
        store = following(store, job.round + 1)
    return found


def following(store: JobStore, number: int) -> JobStore:
    """Where a task keeps a further round of its job."""
    return JobStore(store.address.of_round(number).uri)


def first(store: JobStore) -> JobStore:
    """The job that a task's further rounds began with; itself when it is that."""
    return store if store.address.round == 1 else JobStore(store.address.first.uri)


def chain(store: JobStore) -> list[tuple[JobStore, Job]]:
    """A job and those whose failed rows it asks again, of other tasks too, oldest first."""
    jobs = [(store, store.job())]
    while (repairs := jobs[0][1].repairs) is not None:
        earlier = JobStore(repairs)
        jobs.insert(0, (earlier, earlier.job()))
    return jobs


def landings(store: JobStore) -> list[Manifest]:
    """The manifests of a job and its further rounds."""
    return [manifest for found, _ in rounds(store) if (manifest := found.manifest()) is not None]


def newest(store: JobStore) -> JobStore:
    """The job that has taken a job's place last; itself when none has."""
    while (following := JobStore(store.address.next_generation.uri)).load_job() is not None:
        store = following
    return store


def siblings(store: JobStore) -> list[JobStore]:
    """Every job that the task instance has made, this one included: of other models, and of other input."""
    folder = fresh(storage_path(store.address.folder))
    paths = patiently(folder.fs.ls, folder.path, detail=False)
    names = sorted(path.rstrip("/").rpartition("/")[2] for path in paths)
    found = (JobAddress.parse(f"{store.address.folder}/{name}") for name in names)
    return [JobStore(address.uri) for address in found if address.is_of_task(store.address)]


def is_begun(store: JobStore, job: Job) -> bool:
    """Whether a create of any shard was ever claimed."""
    listing = store.listing()
    return any(listing.attempts(shard.index).last() for shard in job.shards)


def lane(listing: Listing, job: Job) -> str | None:
    """How a job was begun: its rows ``online`` or at ``flex``, or as a ``batch``; None when it was not."""
    for shard in job.shards:
        attempts = listing.attempts(shard.index)
        if number := attempts.last():
            return attempts.intent(number).lane
    return None
