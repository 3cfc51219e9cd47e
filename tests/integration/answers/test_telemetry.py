"""A landed job in OpenTelemetry's words, read by its own SDK."""

import time

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as words
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as names
from support import MODELS
from support.jobs import chat, log, spec, submit, texts

from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.landing.land import land
from airflow_llm_batch.jobs.options import Target
from airflow_llm_batch.jobs.waiting.wait import JobWait


@pytest.fixture(scope="module")
def collected():
    """What Airflow sets up when tracing and metrics are on."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


def points(reader, name):
    return [
        point
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


def test_a_landing_is_a_span_and_two_metrics(collected, emulator, provider, connect, store, tmp_path):
    """By the names that OpenTelemetry's own package has; below the span that is open; tokens and dollars are the
    manifest's."""
    spans, reader = collected
    spans.clear()
    hook = LLMBatchHook(connect(emulator.url, provider))
    job, _ = submit(store, hook, spec(texts(6), chat(provider)))
    watch = JobWait(hook, store, log)
    for _ in range(500):
        if watch.look().action == "ended":
            break
        time.sleep(0.02)
    with trace.get_tracer("airflow").start_as_current_span("task") as task:
        manifest = land(store, job, hook, Target(f"file://{tmp_path}/out"), log)
    span = next(span for span in spans.get_finished_spans() if span.name != "task")
    assert span.parent.span_id == task.get_span_context().span_id
    attributes = dict(span.attributes)
    assert attributes[words.GEN_AI_OPERATION_NAME] == "chat"
    assert attributes[words.GEN_AI_PROVIDER_NAME] == {"gemini": "gcp.gemini", "azure": "azure.ai.openai"}.get(
        provider, provider
    )
    assert attributes[words.GEN_AI_REQUEST_MODEL].startswith(MODELS[provider])
    assert attributes[words.GEN_AI_USAGE_INPUT_TOKENS] == manifest.input_tokens > 0
    assert attributes[words.GEN_AI_USAGE_OUTPUT_TOKENS] == manifest.output_tokens > 0
    assert attributes["llm_batch.rows.succeeded"] == 6
    assert attributes["llm_batch.cost_usd"] == pytest.approx(manifest.cost_usd)
    assert span.end_time > span.start_time == int(job.created_at.timestamp() * 1e9)
    mine = [
        p
        for p in points(reader, names.GEN_AI_CLIENT_TOKEN_USAGE)
        if p.attributes[words.GEN_AI_PROVIDER_NAME] == attributes[words.GEN_AI_PROVIDER_NAME]
    ]
    assert {p.attributes[words.GEN_AI_TOKEN_TYPE]: p.sum for p in mine} == {
        "input": manifest.input_tokens,
        "output": manifest.output_tokens,
    }
    assert points(reader, names.GEN_AI_CLIENT_OPERATION_DURATION)
    # Landed once more, nothing is counted twice.
    land(store, job, hook, Target(f"file://{tmp_path}/out"), log)
    assert len([span for span in spans.get_finished_spans() if span.name != "task"]) == 1
    hook.close()
