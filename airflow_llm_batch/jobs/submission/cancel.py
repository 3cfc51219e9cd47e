"""Cancelling what runs of a job that nobody wants any more."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.submission.doubt import Doubt
from airflow_llm_batch.models import is_call

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job

log = logging.getLogger(__name__)


def cancel_running(store: JobStore, hook: LLMBatchHook, job: Job) -> None:
    """Ask for the cancellation of what still runs of a job that is not wanted any more, and is certainly ours."""
    if job.provider != hook.provider.name:
        log.warning("The unwanted job ran at %s; its batches are left as they are.", job.provider)
        return
    if not hook.provider.cancels:
        log.warning("%s cannot cancel batches: those of the unwanted job go on, and are billed.", hook.provider.title)
        return
    listing = store.listing()
    for shard in job.shards:
        attempts = listing.attempts(shard.index)
        created = attempts.created()
        if attempts.ended() is not None or (created and is_call(created.batch_id)):
            continue
        if not hook.provider.is_marked and (created is None or created.provisional):
            if attempts.last():
                log.warning(
                    "Shard %d of the unwanted job may run at the vendor as %s; it is not cancelled, for it may be "
                    "somebody else's.", shard.index, created.batch_id if created else "a batch we have no answer of",
                )  # fmt: skip
            continue
        # A create may be in doubt: a batch nobody knows of would go on being billed.
        batch = hook.get_batch(created.batch_id) if created else Doubt(store, hook, job, shard).look()
        if batch is not None and batch.outcome is None:
            hook.cancel_batch(batch.id)
            log.info("Cancellation of batch %s was asked for; finished rows stay billed.", batch.id)
