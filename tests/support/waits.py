"""Triggers driven as a triggerer drives them."""

from __future__ import annotations

import asyncio
from collections import Counter

from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.triggers import BatchTrigger
from support.jobs import chat, spec, submit, texts

QUICKLY = {"poll_interval": 0.1, "max_poll_interval": 0.1}


def jobs_of(hook, provider, tmp_path, count, rows=1):
    """The directories of ``count`` submitted jobs."""
    stores = [JobStore(f"file://{tmp_path}/jobs/{number}") for number in range(count)]
    for store in stores:
        submit(store, hook, spec(texts(rows), chat(provider)))
    return stores


async def event_of(trigger):
    async for event in trigger.run():
        return event.payload
    return None


async def events_of(stores, conn_id="llm_test", **options):
    triggers = [BatchTrigger(store.uri, conn_id, **{**QUICKLY, **options}) for store in stores]
    return await asyncio.wait_for(asyncio.gather(*map(event_of, triggers)), 60)


def reads(emulator):
    """Listings and single reads."""
    counts: Counter[str] = Counter()
    for call, n in emulator.vendor.calls.items():
        if call.startswith("GET") and "batches" in call:
            counts["listings" if call.endswith("batches") else "singles"] += n
    return counts
