"""One job in full: its shards' way through the vendor, what was landed, what failed and why."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel, Field

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import LLMBatchError
from airflow_llm_batch.jobs.directory.address import JobKey
from airflow_llm_batch.jobs.directory.compared import NAME, Comparison
from airflow_llm_batch.jobs.directory.failures import failures
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.directory.tried import Tried
from airflow_llm_batch.jobs.landing.figures import spared_figures
from airflow_llm_batch.jobs.view.job import JobView, total, view
from airflow_llm_batch.jobs.view.shards import ShardView, timeline
from airflow_llm_batch.models import Rules
from airflow_llm_batch.results import Failure, Reason, Usage
from airflow_llm_batch.storage import read_small, storage_path

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.view.files import RoundFiles
    from airflow_llm_batch.results import LandedRound, Manifest

#: failed rows that are shown one by one
MOST_FAILURES = 50


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


def read_now(found: RoundFiles, name: str, model: Any) -> Any:
    """A small file of the job that may be written again, None when there is none, or when it cannot be read."""
    if name not in found.files:
        return None
    with suppress(ValueError):
        return model.model_validate_json(read_small(storage_path(f"{found.uri}/{name}")) or b"")
    return None
