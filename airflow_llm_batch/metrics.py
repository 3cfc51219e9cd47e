"""Figures for Airflow's own metrics (StatsD, Datadog, OpenTelemetry), as ``[metrics]`` configures them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.money.accounts import Account
    from airflow_llm_batch.jobs.money.tally import Tally
    from airflow_llm_batch.models import Job


def count_landing(job: Job, tally: Tally) -> None:
    """``llm_batch.rows`` by status, ``llm_batch.tokens`` by kind and ``llm_batch.microdollars``, of one round.

    All are counters tagged with provider, model and dag_id. A cost that is not known is not counted.
    """
    stats = airflow_stats()
    for (model, status), sums in tally.sums.items():
        tags = {"provider": job.provider, "model": model or "unknown", "dag_id": job.dag_id or ""}
        stats.incr("llm_batch.rows", sums.requests, tags={**tags, "status": status})
        stats.incr("llm_batch.tokens", sums.input_tokens, tags={**tags, "kind": "input"})
        stats.incr("llm_batch.tokens", sums.output_tokens, tags={**tags, "kind": "output"})
        if not sums.unpriced:
            stats.incr("llm_batch.microdollars", round(sums.cost / 10**6), tags=tags)


def time_wait(job: Job) -> None:
    """``llm_batch.wait``, milliseconds from a job's planning until it was seen to have ended."""
    waited = datetime.now(UTC) - job.created_at
    tags = {"provider": job.provider, "dag_id": job.dag_id or ""}
    airflow_stats().timing("llm_batch.wait", waited.total_seconds() * 1000, tags=tags)


def count_event(conn_id: str, *, new: bool) -> None:
    """``llm_batch.events``, what vendors have pushed, by connection; ``new`` is ``false`` for repeats."""
    airflow_stats().incr("llm_batch.events", 1, tags={"connection": conn_id, "new": str(new).lower()})


def gauge_budget(account: Account, spent: float, reserved: float) -> None:
    """``llm_batch.budget``, dollars ``spent``, ``reserved`` and ``left`` of a budget that spans jobs."""
    tags = {"scope": account.scope, "by": account.by, "value": account.value, "period": account.period[:7]}
    figures = {"spent": spent, "reserved": reserved, "left": account.limit - spent - reserved}
    for kind, dollars in figures.items():
        airflow_stats().gauge("llm_batch.budget", dollars, tags={**tags, "kind": kind})


def airflow_stats() -> Any:
    from airflow.providers.common.compat.sdk import Stats

    return Stats
