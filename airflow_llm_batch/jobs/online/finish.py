"""A batched job's deadline, kept: what its batches have left undone is called."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.downloads import batch_lines
from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.jobs.directory.claims import Claim
from airflow_llm_batch.jobs.directory.rows import RowNumber, sent
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.money.budget import hold_to_budget
from airflow_llm_batch.jobs.money.funds import reserve_more
from airflow_llm_batch.jobs.online.online import Online
from airflow_llm_batch.models import is_call
from airflow_llm_batch.providers.json_lines import UNREADABLE

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.online.endpoint import Calls
    from airflow_llm_batch.models import Job


def unfinished(store: JobStore, hook: LLMBatchHook, job: Job) -> RowSet:
    """The rows that a job's ended batches have not worked on: cancelled, expired, never sent, or lost."""
    left = RowSet()
    prefix = f"{job.id}-"
    number = msgspec.json.Decoder(RowNumber).decode
    listing = store.listing()
    for shard in job.shards:
        batch = listing.attempts(shard.index).ended()
        if batch is None or batch.outcome == "completed" or is_call(batch.id):
            continue
        worked, finished = RowSet(), 0
        for line in batch_lines(hook, batch) if batch.id else ():
            try:
                result = hook.provider.read(line)
            except UNREADABLE:
                continue
            row = result.custom_id.removeprefix(prefix)
            if result.status not in ("cancelled", "expired") and row.isdigit():
                worked.add(int(row))
                finished += 1
        if finished < (batch.succeeded or 0):
            raise VendorUnavailable(
                f"The download of batch {batch.id} has {finished:,} of {batch.succeeded:,} finished rows; nothing is "
                "called before all of them are known."
            )
        for _, entry in sent(store, shard.index, shard.token):
            if (planned := number(entry).row) not in worked:
                left.add(planned)
    return left


def finish(store: JobStore, hook: LLMBatchHook, job: Job, calls: Calls, stop: Event) -> int:
    """Call what the job's batches have left undone; its answers are landed with theirs.

    :param calls: at flex too they are held to the synchronous price: where flex has no room for long they cost that.
    :return: how many rows that were.
    :raises BudgetExceeded: when the synchronous price of those rows may take the job above its ``max_cost``.
    """
    with Claim.of(store, "calls", hook.options) as claim:
        rows = unfinished(store, hook, job)
        if len(rows):
            reserve_more(hook, store, hold_to_budget(job, len(rows)), "late")
            asyncio.run(Online(store, hook, job, calls, stop=stop, claim=claim).call(rows))
            claim.check()
    return len(rows)
