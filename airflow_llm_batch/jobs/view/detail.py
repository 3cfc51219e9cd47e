"""One job in full: its shards' way through the vendor, what was landed, what failed and why."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel, Field

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import LLMBatchError
from airflow_llm_batch.jobs.directory.address import JobKey
from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT
from airflow_llm_batch.jobs.directory.compared import NAME, Comparison
from airflow_llm_batch.jobs.directory.failures import failures
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.directory.tried import Tried
from airflow_llm_batch.jobs.landing.figures import spared_figures
from airflow_llm_batch.jobs.view.job import JobView, total, view
from airflow_llm_batch.jobs.view.overview import FILES_AT_ONCE, RoundFiles, modified
from airflow_llm_batch.models import Batch, Created, Rules, Shard, ShardProgress, Void, is_call
from airflow_llm_batch.results import Failure, Reason, Usage
from airflow_llm_batch.storage import modified_at, read_small, storage_path

if TYPE_CHECKING:
    from airflow_llm_batch.results import LandedRound, Manifest

#: facts that never change, by their files: a page is drawn again every few seconds
WRITTEN_ONCE: dict[str, Any] = {}
MOST_KEPT = 20_000
LOCK = Lock()
#: shards, and failed rows, that are shown one by one
MOST_SHARDS, MOST_FAILURES = 2000, 50


class ShardView(BaseModel):
    """One vendor batch.

    :param state: ``planned``, ``creating``, ``running`` or ``ended``; ``status`` is the vendor's own word.
    :param tries: what became of the tries that made no batch: ``no room``, ``rejected``...
    :param is_tried: its rows were called before the others were sent.
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
    is_tried: bool = False
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
    tried: Tried | None = None
    counts: dict[str, int] | None = None
    usage: list[Usage] = Field(default_factory=list)
    reasons: list[Reason] = Field(default_factory=list)
    failures: list[FailureView] = Field(default_factory=list)
    destination: str | None = None
    files: list[str] = Field(default_factory=list)
    sync_cost_usd: float | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_saving_usd: float | None = None
    input_error_percent: float | None = None
    estimate_basis: str = ""
    spared: dict[str, int] = Field(default_factory=dict)
    spared_usd: float | None = None
    comparison: Comparison | None = None
    rules: Rules = Rules()


def detail(key: JobKey, rounds: list[RoundFiles], *, replaced: bool = False) -> JobDetail:
    """Read what an overview does not.

    :param replaced: another job has taken its place.
    """
    first = rounds[0].job
    assert first is not None
    newest = next((found for found in reversed(rounds) if found.manifest is not None), None)
    manifest = newest.manifest if newest is not None else None
    facts: dict[str, Any] = {}
    if newest is not None and manifest is not None:
        own = [done for done in manifest.rounds if f"{done.job}/".startswith(f"{rounds[0].uri}/")]
        facts = landed(manifest, own) | {"failures": failed_rows(newest)}
        if "taken_over.json" in newest.files:
            # What lies there now was landed by the job that repaired this one.
            facts |= {"destination": None, "files": []}
    return JobDetail(
        **view(key, rounds, replaced=replaced).model_dump(),
        conn_id=first.conn_id,
        sources=list(first.sources),
        request=first.request,
        estimate=first.estimate,
        timeline=[shard for found in rounds for shard in timeline(found)],
        tried=read_now(rounds[0], "tried.json", Tried),
        comparison=read_now(rounds[0], NAME, Comparison),
        rules=manifest.rules if manifest is not None else first.rules,
        **facts,
    )


def landed(manifest: Manifest, own: list[LandedRound]) -> dict[str, Any]:
    """:param own: the rounds that are this task's; a repair's manifest tells of those before it too."""
    return {
        "counts": manifest.counts,
        "usage": [line for done in own for line in done.usage],
        "reasons": manifest.reasons,
        "destination": manifest.destination,
        "files": manifest.files,
        "sync_cost_usd": total(done.sync_cost_usd for done in own),
        "input_tokens": sum(done.input_tokens for done in own),
        "cached_tokens": sum(done.cached_tokens for done in own),
        "cache_write_tokens": sum(done.cache_write_tokens for done in own),
        "cache_saving_usd": total(done.cache_saving_usd for done in own),
        "input_error_percent": manifest.input_error_percent,
        "estimate_basis": manifest.estimate_basis,
        **spared_figures(own),
    }


def failed_rows(found: RoundFiles) -> list[FailureView]:
    """The first rows that failed, all rounds together."""
    if "failed.jsonl" not in found.files:
        return []
    decode = msgspec.json.decode
    first: list[Failure] = []
    with suppress(ValueError, LLMBatchError):  # cut off, or gone since
        first.extend(islice(failures(JobStore(found.uri)), MOST_FAILURES))
    return [
        FailureView(
            row=failure.row,
            key=msgspec.json.encode(decode(failure.key)).decode(),
            status=failure.status,
            error_code=failure.error_code,
            error_message=failure.error_message,
            round=failure.round,
        )
        for failure in first
    ]


def timeline(found: RoundFiles) -> list[ShardView]:
    """The shards of one round."""
    job = found.job
    assert job is not None
    states = found.states()
    seen = found.seen
    with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-detail") as pool:
        return list(
            pool.map(
                lambda shard: shard_view(found, shard, states[shard.index], seen.get(shard.index, ShardProgress())),
                job.shards[:MOST_SHARDS],
            )
        )


def shard_view(found: RoundFiles, shard: Shard, state: str, seen: ShardProgress) -> ShardView:
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
            if void.reason == "given up":
                state, batch = "ended", NEVER_SENT
            continue
        created = read(found, f"{at}/created.json", Created)
        batch = read(found, f"{at}/ended.json", Batch)
        ended_at = written_at(found, f"{at}/ended.json") if batch else None
    if batch is not None:
        seen = ShardProgress(status=batch.status, succeeded=batch.succeeded, failed=batch.failed)
    return ShardView(
        round=job.round,
        index=shard.index,
        rows=shard.rows,
        bytes=shard.bytes,
        tokens=shard.tokens,
        state=state,
        batch_id=created.batch_id if created else None,
        status=seen.status or None if created or batch else None,
        outcome=batch.outcome if batch else None,
        succeeded=seen.succeeded,
        failed=seen.failed,
        planned_at=job.created_at,
        created_at=created.at if created else None,
        ended_at=ended_at,
        tries=tried,
        is_tried=shard.is_tried and created is not None and is_call(created.batch_id),
        errors=[f"{code}: {message}" for code, message in batch.errors] if batch else [],
        console_url=job.console_url.format(id=created.batch_id)
        if created and job.console_url and not is_call(created.batch_id)
        else "",
    )


def read_now(found: RoundFiles, name: str, model: Any) -> Any:
    """A small file of the job that may be written again, None when there is none, or when it cannot be read."""
    if name not in found.files:
        return None
    with suppress(ValueError):
        return model.model_validate_json(read_small(storage_path(f"{found.uri}/{name}")) or b"")
    return None


def read(found: RoundFiles, name: str, model: Any) -> Any:
    """A small file of the job, None when there is none."""
    if name not in found.files:
        return None
    uri = f"{found.uri}/{name}"
    with LOCK:
        if (known := WRITTEN_ONCE.get(uri)) is not None:
            return known
    try:
        value = model.model_validate_json(read_small(storage_path(uri)) or b"")
    except ValueError:
        return None  # cut off while it was written
    with LOCK:
        if len(WRITTEN_ONCE) > MOST_KEPT:
            WRITTEN_ONCE.clear()
        WRITTEN_ONCE[uri] = value
    return value


def written_at(found: RoundFiles, name: str) -> datetime | None:
    """When a file of the job was written, as far as its store tells."""
    info = found.files[name]
    return modified(info) or modified_at(storage_path(f"{found.uri}/{name}"))
