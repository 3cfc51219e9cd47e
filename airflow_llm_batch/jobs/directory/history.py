"""How a task's jobs follow each other: rounds of one, and others that took its place or ask other models."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.jobs.directory.attempts import Listing
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.models import Job, Shard
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.results import Manifest
from airflow_llm_batch.storage import fresh, storage_path

#: earlier jobs of a task that tell how long one takes, and how many it takes to tell
MOST_EARLIER, FEWEST_EARLIER = 20, 3


def rounds(store: JobStore) -> list[tuple[JobStore, Job]]:
    """A job and the further rounds that its task has made of it, oldest first; empty when nothing was planned."""
    found = []
    while job := store.load_job():
        found.append((store, job))
        store = following(store, job.round + 1)
    return found


def last(store: JobStore) -> tuple[JobStore, Job]:
    """The newest round of the job that stands in this one's place now.

    :raises ConfigurationError: when there is none any more.
    """
    store = newest(store)
    return (rounds(store) or [(store, store.job_now())])[-1]


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
    """Whether a create of any shard was ever claimed; rows that were tried first begin nothing."""
    return lane(store.listing(), job) is not None


def is_sent(store: JobStore, job: Job) -> bool:
    """Whether anything but rows that were tried first is with the vendor, or may be."""
    listing = store.listing()
    states = listing.states(job)
    begun = [shard for shard in job.shards if states[shard.index] != "planned"]
    return any(lane_of(listing, shard) is not None for shard in begun)


def lane(listing: Listing, job: Job) -> str | None:
    """How a job was begun: its rows ``online``, at ``flex``, or as a ``batch``; None when it was not."""
    return next(filter(None, (lane_of(listing, shard) for shard in job.shards)), None)


def lane_of(listing: Listing, shard: Shard) -> str | None:
    """The same of one shard; None for one whose rows were tried, and were not given back to be sent in a batch."""
    attempts = listing.attempts(shard.index)
    number = attempts.last()
    if not number:
        return None
    found = attempts.intent(number).lane
    return None if shard.is_tried and found != "batch" else found


def usual_seconds(store: JobStore) -> float | None:
    """How long the same task's jobs have taken from planning until the last batch was seen to have ended: the median of
    the newest; None where there are too few to tell."""
    took = []
    for earlier in earlier_jobs(store):
        try:
            job, manifest, progress = earlier.load_job(), earlier.manifest(), earlier.progress()
        except ConfigurationError:
            continue  # damaged, which is no concern of this one
        if job is not None and manifest is not None:
            ended_at = manifest.landed_at.timestamp() if progress is None else progress.at
            took.append(ended_at - job.created_at.timestamp())
    return median(took) if len(took) >= FEWEST_EARLIER else None


def earlier_jobs(store: JobStore) -> list[JobStore]:
    """The first rounds of the same task in other runs, newest runs first."""
    address = store.address.first
    dag = address.folder.rsplit("/", 2)[0]
    place = replace(address, generation=1).place
    folder = fresh(storage_path(dag))
    try:
        paths = patiently(folder.fs.ls, folder.path, detail=False)
    except FileNotFoundError:
        return []
    runs = {path.rstrip("/").rpartition("/")[2] for path in paths} - {address.key.run_id}
    newest_first = sorted(runs, key=lambda run: run.partition("__")[2] or run, reverse=True)[:MOST_EARLIER]
    return [JobStore(f"{dag}/{run}/{address.key.task_id}/{place}") for run in newest_first]
