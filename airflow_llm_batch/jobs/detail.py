"""One job in full: its shards' way through the vendor, what was landed, what failed and why."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel, Field

from airflow_llm_batch.jobs.overview import AT_ONCE, JobView, Key, Round, modified, view
from airflow_llm_batch.jobs.store import ONLINE, JobStore
from airflow_llm_batch.models import Batch, Created, Estimate, Reason, Shard, Usage, Void
from airflow_llm_batch.storage import read_small, storage_path

if TYPE_CHECKING:
    from airflow_llm_batch.models import Manifest

#: shards, and failed rows, that are shown one by one
MOST_SHARDS, MOST_FAILURES = 2000, 50


class ShardView(BaseModel):
    """One vendor batch.

    :param state: ``planned``, ``creating``, ``running`` or ``ended``; ``status`` is the vendor's own word.
    :param tries: what became of the tries that made no batch: ``no room``, ``rejected``...
    :param ended_at: when it was seen to have ended.
    """

    round: int
    index: int
    rows: int
    bytes: int
    tokens: int
    state: str
    batch_id: str | None = None
    status: str | None = None
    outcome: str | None = None
    succeeded: int | None = None
    failed: int | None = None
    planned_at: datetime
    created_at: datetime | None = None
    ended_at: datetime | None = None
    tries: list[str] = []
    errors: list[str] = []
    console_url: str = ""


class FailureView(BaseModel):
    """A landed row that did not succeed; ``key`` is JSON."""

    row: int
    key: str
    status: str
    error_code: str | None
    error_message: str | None
    round: int


class JobDetail(JobView):
    """A job's page."""

    conn_id: str
    sources: list[str]
    request: dict[str, Any] | None
    estimate: dict[str, Estimate]
    timeline: list[ShardView]
    counts: dict[str, int] | None = None
    usage: list[Usage] = Field(default_factory=list)
    reasons: list[Reason] = Field(default_factory=list)
    failures: list[FailureView] = Field(default_factory=list)
    destination: str | None = None
    files: list[str] = Field(default_factory=list)
    sync_cost_usd: float | None = None


def detail(key: Key, rounds: list[Round]) -> JobDetail:
    """Read what an overview does not."""
    first = rounds[0].job
    assert first is not None
    newest = next((found for found in reversed(rounds) if found.manifest is not None), None)
    manifest = newest.manifest if newest is not None else None
    told: dict[str, Any] = {}
    if newest is not None and manifest is not None:
        told = landed(manifest) | {"failures": failures(newest)}
    return JobDetail(
        **view(key, rounds).model_dump(),
        conn_id=first.conn_id,
        sources=list(first.sources),
        request=first.request,
        estimate=first.estimate,
        timeline=[shard for found in rounds for shard in timeline(found)],
        **told,
    )


def landed(manifest: Manifest) -> dict[str, Any]:
    return {
        "counts": manifest.counts,
        "usage": manifest.usage,
        "reasons": manifest.reasons,
        "destination": manifest.destination,
        "files": manifest.files,
        "sync_cost_usd": manifest.sync_cost_usd,
    }


def failures(found: Round) -> list[FailureView]:
    """The first rows that failed, all rounds together."""
    if "failed.jsonl" not in found.files:
        return []
    decode = msgspec.json.decode
    return [
        FailureView(
            row=failure.row,
            key=msgspec.json.encode(decode(failure.key)).decode(),
            status=failure.status,
            error_code=failure.error_code,
            error_message=failure.error_message,
            round=failure.round,
        )
        for failure in islice(JobStore(found.uri).failures(), MOST_FAILURES)
    ]


def timeline(found: Round) -> list[ShardView]:
    """The shards of one round."""
    job = found.job
    assert job is not None
    states = found.states()
    seen = found.seen()
    with ThreadPoolExecutor(AT_ONCE, "llm-batch-detail") as pool:
        return list(
            pool.map(
                lambda shard: shard_view(found, shard, states[shard.index], seen.get(str(shard.index), {})),
                job.shards[:MOST_SHARDS],
            )
        )


def shard_view(found: Round, shard: Shard, state: str, seen: dict[str, Any]) -> ShardView:
    job = found.job
    assert job is not None
    folder = f"shards/{shard.index:05d}"
    numbers = [n for n in range(1, 1000) if f"{folder}/try-{n}/intent.json" in found.files]
    tried: list[str] = []
    created: Created | None = None
    batch: Batch | None = None
    ended_at = None
    for number in numbers:
        at = f"{folder}/try-{number}"
        if void := read(found, f"{at}/void.json", Void):
            tried.append(void.reason)
            continue
        created = read(found, f"{at}/created.json", Created)
        batch = read(found, f"{at}/ended.json", Batch)
        ended_at = modified(found.files[f"{at}/ended.json"]) if batch else None
    if batch is not None:
        seen = {"status": batch.status, "succeeded": batch.succeeded, "failed": batch.failed}
    return ShardView(
        round=job.round,
        index=shard.index,
        rows=shard.rows,
        bytes=shard.bytes,
        tokens=shard.tokens,
        state=state,
        batch_id=created.batch_id if created else None,
        status=seen.get("status") if created else None,
        outcome=batch.outcome if batch else None,
        succeeded=seen.get("succeeded"),
        failed=seen.get("failed"),
        planned_at=job.created_at,
        created_at=created.at if created else None,
        ended_at=ended_at,
        tries=tried,
        errors=[f"{code}: {message}" for code, message in batch.errors] if batch else [],
        console_url=job.console_url.format(id=created.batch_id)
        if created and job.console_url and not created.batch_id.startswith(ONLINE)
        else "",
    )


def read(found: Round, name: str, model: Any) -> Any:
    """A small file of the job, None when there is none."""
    if name not in found.files:
        return None
    data = read_small(storage_path(f"{found.uri}/{name}"))
    return model.model_validate_json(data) if data else None
