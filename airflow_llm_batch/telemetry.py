"""Landed jobs as OpenTelemetry tells of generative AI: spans and metrics, where Airflow has them on.

Names are those of the GenAI semantic conventions; what these have no word for (rows, dollars) is ``llm_batch.*``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.money.tally import Sums, Tally
    from airflow_llm_batch.models import Job

SCOPE = "airflow_llm_batch"
#: ``gen_ai.provider.name`` where it is not ours
PROVIDERS = {
    "anthropic-aws": "anthropic",
    "anthropic-google": "anthropic",
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock-openai": "aws.bedrock",
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "xai": "x_ai",
    "mistral": "mistral_ai",
}


def trace_landing(job: Job, tally: Tally) -> None:
    """A span for each model that a job has asked, from its planning to now, below the task's own; and the same figures
    as ``gen_ai.client.token.usage`` and ``gen_ai.client.operation.duration``.

    Without an exporter that Airflow has set up, nothing comes of it.
    """
    from opentelemetry import trace

    now = datetime.now(UTC)
    tracer = trace.get_tracer(SCOPE)
    for model, by_status in tally.by_model().items():
        known = attributes(job, model)
        used = by_status["all"]
        name = f"{known['gen_ai.operation.name']} {model}".strip()
        span = tracer.start_span(name, start_time=nanoseconds(job.created_at), attributes=known)
        span.set_attributes(figures(job, by_status))
        span.end(nanoseconds(now))
        tokens, duration = instruments()
        for kind, count in (("input", used.input_tokens), ("output", used.output_tokens)):
            tokens.record(count, {**known, "gen_ai.token.type": kind})
        duration.record((now - job.created_at).total_seconds(), known)


def attributes(job: Job, model: str) -> dict[str, Any]:
    endpoint = job.shards[0].endpoint if job.shards else ""
    return {
        "gen_ai.operation.name": "embeddings" if "embed" in endpoint.lower() else "chat",
        "gen_ai.provider.name": PROVIDERS.get(job.provider, job.provider),
        "gen_ai.request.model": model,
    }


def figures(job: Job, by_status: dict[str, Sums]) -> dict[str, Any]:
    used = by_status["all"]
    attributes: dict[str, Any] = {
        "gen_ai.usage.input_tokens": used.input_tokens,
        "gen_ai.usage.output_tokens": used.output_tokens,
        "llm_batch.job": job.id,
        "llm_batch.round": job.round,
        "llm_batch.dag_id": job.dag_id or "",
        "llm_batch.task_id": job.task_id or "",
        "llm_batch.run_id": job.run_id or "",
    }
    attributes |= {f"llm_batch.rows.{status}": sums.requests for status, sums in by_status.items() if status != "all"}
    if used.cost_usd is not None:
        attributes["llm_batch.cost_usd"] = used.cost_usd
    return attributes


@cache
def instruments() -> tuple[Any, Any]:
    from opentelemetry import metrics

    meter = metrics.get_meter(SCOPE)
    tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}", "Tokens that a job has used, by kind.")
    duration = meter.create_histogram("gen_ai.client.operation.duration", "s", "From a job's planning to its landing.")
    return tokens, duration


def nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
