"""Batches of ours that nobody waits for: a create got no answer, the vendor listed nothing, and it was sent again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.submission.doubt import Doubt

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Batch, Job

log = logging.getLogger(__name__)


def look_for_orphans(store: JobStore, hook: LLMBatchHook, job: Job) -> list[Batch]:
    """Search once more, now that time has passed, where a create was given up; what is there is told, and cancelled
    when it is certainly ours and still runs."""
    listing = store.listing()
    found = []
    for shard in job.shards:
        attempts = listing.attempts(shard.index)
        for number, void in sorted(attempts.voids().items()):
            if void.reason != "never created":
                continue
            for batch in Doubt(store, hook, job, shard).candidates(attempts.intent(number)):
                found.append(batch)
                tell(batch, shard.index, hook)
    return found


def tell(batch: Batch, index: int, hook: LLMBatchHook) -> None:
    if not hook.provider.is_marked:
        log.warning("Batch %s may be a lost create of shard %d, which was sent again: look at it.", batch.id, index)
        return
    log.warning(
        "Batch %s (%s) is a lost create of shard %d, which was sent again: what it has finished is billed beside it.",
        batch.id, batch.status, index,
    )  # fmt: skip
    if batch.outcome is None:
        hook.cancel_batch(batch.id)
        log.warning("Its cancellation was asked for.")
