"""Taking away what a landing replaces: rows must not lie there twice."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.store import JobStore

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
        repaired.save_taken_over(store.uri)
    for landed in filter(None, [before, *others]):
        superseded = set(landed.places.get(manifest.destination, ()))
        for place in destination.remove(sorted(superseded - set(manifest.files))):
            log.info("Removed %s, landed earlier and superseded.", place)
    destination.sweep(manifest.files)


def remove_others(store: JobStore, places: Collection[str], destination: Destination, log: Logger) -> None:
    """Take away what the task instance has landed in this place and does not account for now: other models' rows, say,
    that are not asked any more.

    :param places: what it has landed now, all models together.
    """
    for sibling in history.siblings(store):
        for landed in history.landings(sibling):
            unwanted = set(landed.places.get(destination.uri, ())) - set(places)
            for place in destination.remove(sorted(unwanted)):
                log.info("Removed %s, which this task has landed earlier.", place)
