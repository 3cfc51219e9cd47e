"""A batch that was made elsewhere, as a job directory: its rows are what the vendor says was sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.downloads import batch_lines, lines_of
from airflow_llm_batch.exceptions import RequestRejected, ResultsUnusable
from airflow_llm_batch.jobs.directory.index import announce
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.models import Batch, Created, Intent, Job, Shard
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.json_lines import UNREADABLE, parse_line
from airflow_llm_batch.storage import whole_file

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook


PLAN = "adopted"


def adopted_job(store: JobStore, hook: LLMBatchHook, batch: Batch) -> Job:
    """The job of an ended batch of unknown origin: one shard, each row's key its ``custom_id``.

    The rows are read from the batch's input file where the vendor still has it, else from the results themselves.
    """
    if job := store.load_job():
        return job
    rows, several = 0, False
    with whole_file(store.rows(0, PLAN)) as file:
        for rows, line in enumerate(named_lines(hook, batch), 1):
            custom_id = hook.provider.id_of(line)
            several = several or embeds_several(line)
            entry = {"row": rows - 1, "key": custom_id, "custom_id": custom_id}
            file.write(msgspec.json.encode(entry) + b"\n")
    if not rows:
        reasons = "; ".join(f"{code}: {message}" for code, message in batch.errors) or batch.status
        raise ResultsUnusable(f"Batch {batch.id} has neither an input file nor results to land ({reasons}).")
    now = datetime.now(UTC)
    store.attempts(0).begin(Intent(at=batch.created_at or now), 1)
    store.attempts(0).save_created(Created(batch_id=batch.id, at=now, adopted=True), 1)
    job = Job(
        id=store.job_id,
        fingerprint="",
        provider=hook.provider.name,
        conn_id=hook.conn_id,
        created_at=batch.created_at or now,
        rows=rows,
        shards=(Shard(endpoint="", rows=rows, token=PLAN),),
        key_kind="string",
        several_vectors=several,
        adopted=True,
    )
    announce(store.address)
    store.save_job(job)
    return job


def embeds_several(line: Mapping[str, Any]) -> bool:
    """Whether a request line embeds several texts, or a result line holds several vectors."""
    texts = members(line.get("body")).get("input")
    vectors = members(members(line.get("response")).get("body")).get("data")
    return any(isinstance(items, list) and items[1:] and not isinstance(items[0], int) for items in (texts, vectors))


def named_lines(hook: LLMBatchHook, batch: Batch) -> Iterator[dict[str, Any]]:
    """A line for every ``custom_id`` of a batch: of its input where the vendor still has it, else of its results."""
    sources = hook.provider.inputs(batch)
    if sources:
        try:
            yield from map(parse_line, lines_of(hook, sources))
            return
        except RequestRejected:
            pass  # deleted or expired: before the first line, so nothing was yielded yet
    seen: set[str] = set()
    for line in batch_lines(hook, batch):
        try:
            parsed = parse_line(line)
            custom_id = hook.provider.id_of(parsed)
        except UNREADABLE:
            continue
        if custom_id not in seen:
            seen.add(custom_id)
            yield parsed
