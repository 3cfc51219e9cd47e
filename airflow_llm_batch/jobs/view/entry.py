"""A landed job's entry in the index of its storage: all that a listing shows, so that nobody opens its directory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory.index import announce
from airflow_llm_batch.jobs.view.files import Contents, RoundFiles, rounds_of
from airflow_llm_batch.jobs.view.job import view

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job
    from airflow_llm_batch.results import Manifest

log = logging.getLogger(__name__)


def enter_landed(store: JobStore, job: Job, manifest: Manifest) -> None:
    """Write it: one small file, after the manifest. Killed in between, whoever looks at the job at work writes it.

    A failure is told and harms nothing.
    """
    address = store.address.first
    try:
        if store.address.round == 1 and manifest.job == store.uri:
            rounds = [RoundFiles(store.uri, job=job, manifest=manifest)]
        else:
            rounds = rounds_of(address.storage, address.key, Contents(), details=False)
        shown = view(address.key, rounds)
    except Exception as error:
        log.warning("The index of %s was not told of the landing: %s: %s", address.uri, type(error).__name__, error)
        return
    announce(address, shown.model_dump_json().encode())
