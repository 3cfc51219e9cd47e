"""Taking away what a landing replaces: rows must not lie there twice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.landing.layouts import owner_at
from airflow_llm_batch.unfinished import sweep_all

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.data.destinations import Destination
    from airflow_llm_batch.models import Job
    from airflow_llm_batch.results import Manifest


def remove_superseded(
    store: JobStore, job: Job, destination: Destination, manifest: Manifest, before: Manifest | None, log: Logger
) -> None:
    """Take away what was landed in the same place by jobs that this one replaced or repaired, and by an earlier landing
    of this one in another format or other sizes."""
    earlier = [JobStore(address.uri) for address in store.address.previous_generations]
    others = [landed for previous in earlier for landed in history.landings(previous)]
    if job.repairs is not None:
        repaired = JobStore(job.repairs)
        others += filter(None, [repaired.manifest()])
        repaired.notes.save_taken_over(store)
    for landed in filter(None, [before, *others]):
        superseded = set(landed.places.get(manifest.destination, ()))
        for place in destination.remove(sorted(superseded - set(manifest.files))):
            log.info("Removed %s, landed earlier and superseded.", place)
    destination.sweep(manifest.files)
    for name in sweep_all(store.root):
        log.info("Took away %s, which a killed process had left unfinished.", name)


def remove_others(stores: Sequence[JobStore], places: Collection[str], destination: Destination, log: Logger) -> None:
    """Take away what the task instance has landed in this place and does not account for now: other models' rows, say,
    that are not asked any more.

    :param stores: the jobs that it has landed now, one for each model, and ``places`` what it has landed of them.
    """
    unwanted_jobs = set()
    for sibling in history.siblings(stores[0]):
        for landed in history.landings(sibling):
            if destination.uri not in landed.places:
                continue
            unwanted_jobs.add(owner_at(sibling))
            unwanted = set(landed.places[destination.uri]) - set(places)
            for place in destination.remove(sorted(unwanted)):
                log.info("Removed %s, which this task has landed earlier.", place)
    for job in sorted(unwanted_jobs - {owner_at(store) for store in stores}):
        if gone := destination.withdraw(job):
            log.info(
                "Removed %d rows of %s from %s, which this task does not ask any more.", gone, job, destination.uri
            )
