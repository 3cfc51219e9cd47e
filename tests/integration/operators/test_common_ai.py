"""common-ai's own operator and trigger over our vendors, found by its entry point group."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Literal

import httpx
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from pydantic import BaseModel
from support import SECRET, read_jsonl

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.providers.registry import OURS, provider_class

common_ai = pytest.importorskip("airflow.providers.common.ai.operators.llm_batch")

from airflow.providers.common.ai.batch import dispatch  # noqa: E402
from airflow.providers.common.ai.batch.output_schema import build_output_spec  # noqa: E402
from airflow.providers.common.ai.exceptions import (  # noqa: E402
    LLMBatchInputError,
    LLMBatchJobError,
    LLMBatchLimitExceededError,
    LLMBatchModelMismatchError,
    LLMBatchOrphanedIntentError,
)

from airflow_llm_batch import adapters  # noqa: E402

#: where each API lies at the emulator, and a model
BASES = {
    "azure": ("", "batch-mini"),
    "dashscope": ("/dashscope/compatible-mode/v1", "qwen-plus"),
    "deepinfra": ("/deepinfra/v1/openai", "m"),
    "gemini": ("", "gemini-2.5-flash"),
    "groq": ("/groq/openai/v1", "llama-3.1-8b-instant"),
    "litellm": ("/litellm/v1", "gpt-5-mini"),
    "mistral": ("/mistral/v1", "mistral-small-latest"),
    "novita": ("/novita/openai/v1", "m"),
    "openrouter": ("/openrouter/api/v1", "openai/gpt-5-mini"),
    "xai": ("/xai/v1", "grok-4.3"),
}
#: a proxy routes by options, which connections of common-ai do not have
WHOLE = sorted(set(adapters.VENDORS) - {"litellm"})
FINDING = [v for v in WHOLE if provider_class(v).found_by in adapters.FINDS]
TEXT = build_output_spec(str)


class Label(BaseModel):
    label: Literal["a", "b"]
    note: str = "none"


@pytest.fixture(scope="module")
def running():
    with Emulator(duration=0) as emulator:
        yield emulator


@pytest.fixture
def emulator(running):
    """It has forgotten everything."""
    httpx.post(f"{running.url}/_emulator/reset").raise_for_status()
    return running


@pytest.fixture
def task(emulator, monkeypatch, tmp_path):
    """A task of theirs on a vendor, and its context."""

    def make(vendor, requests=("one", "two", "three"), **arguments):
        base, model = BASES.get(vendor, (f"/{vendor}/v1", "m"))
        connection = {"conn_type": "pydanticai", "host": f"{emulator.url}{base}", "password": SECRET}
        monkeypatch.setenv("AIRFLOW_CONN_AI", json.dumps(connection))
        given = {"requests": list(requests), "result_path": f"file://{tmp_path}/out", "model_id": f"{vendor}:{model}"}
        made = common_ai.LLMBatchOperator(task_id="ask", llm_conn_id="ai", deferrable=True, **{**given, **arguments})
        # Less than 30 seconds are for tests alone.
        made.poll_interval = 0.02
        return made

    return make


@pytest.fixture
def context(tmp_path):
    pushed = {}
    ti = SimpleNamespace(
        dag_id="dag", run_id=f"run-{tmp_path.name}", task_id="ask", map_index=-1,
        xcom_push=lambda key, value: pushed.update({key: value}),
    )  # fmt: skip
    return {"ti": ti, "task_instance": ti, "pushed": pushed}


def drive(operator, context):
    """The deferral's trigger fires, as it is serialized, and a fresh operator takes up its event."""
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    path, arguments = deferred.value.trigger.serialize()
    assert path.startswith("airflow.providers.common.ai.")
    event = asyncio.run(only_event(type(deferred.value.trigger)(**arguments)))
    return operator.execute_complete(context, event)


async def only_event(trigger):
    [event] = [event async for event in trigger.run()]
    return event.payload


def rows(manifest):
    return sorted(read_jsonl(manifest["result_uri"]), key=lambda row: row["index"])


def adapter(emulator, vendor="groq", key=SECRET):
    return adapters.adapter_of(vendor)(api_key=key, base_url=f"{emulator.url}{BASES[vendor][0]}")


@pytest.mark.parametrize("vendor", WHOLE)
def test_their_operator_and_trigger_carry_a_whole_job(vendor, task, context, emulator, tmp_path):
    """Free text: one batch, each row once under its own index, and the key is nowhere."""
    manifest = drive(task(vendor, system_prompt="Be kind."), context)
    landed = rows(manifest)
    assert [(row["index"], row["status"], row["output"]) for row in landed] == [
        (n, "success", text) for n, text in enumerate(["one", "two", "three"])
    ]
    assert all(row["usage"]["input_tokens"] > 0 for row in landed)
    assert (manifest["adapter"], manifest["terminal_reason"]) == (vendor, "succeeded")
    stats = emulator.vendor.stats()
    assert (list(stats["batches"]), stats["billed_rows"]) == ([context["pushed"]["batch_id"].rpartition("/")[2]], 3)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize("vendor", WHOLE)
def test_answers_fit_their_output_type(vendor, task, context):
    """The schema is asked for in the vendor's own words, and theirs validates what comes back."""
    landed = rows(drive(task(vendor, output_type=Label, max_tokens=200), context))
    assert [row["status"] for row in landed] == ["success"] * 3
    assert all(row["output"]["label"] in "ab" for row in landed)


@pytest.mark.parametrize("vendor", ["groq", "mistral", "xai", "together", "gemini", "openrouter"])
def test_rows_that_fail_are_told_with_the_vendors_reason(vendor, task, context, emulator):
    """An error is no answer, and the rest is landed."""
    emulator.faults(row_errors=0.5)
    manifest = drive(task(vendor, [f"row {n}" for n in range(8)]), context)
    landed = rows(manifest)
    failed = [row for row in landed if row["status"] == "error"]
    assert 0 < len(failed) < 8
    assert manifest["counts"] == {
        **dict.fromkeys(manifest["counts"], 0),
        "succeeded": 8 - len(failed),
        "errored": len(failed),
    }
    assert all(row["error"]["message"] and row["output"] is None for row in failed)


@pytest.mark.parametrize("vendor", ["groq", "mistral", "together"])
def test_a_batch_that_expires_lands_what_was_done(vendor, task, context, emulator):
    emulator.faults(expire=0.5)
    manifest = drive(task(vendor, [f"row {n}" for n in range(4)]), context)
    assert (manifest["terminal_reason"], manifest["counts"]["succeeded"], manifest["counts"]["expired"]) == (
        "expired",
        2,
        2,
    )


@pytest.mark.parametrize("vendor", ["groq", "mistral", "openrouter", "together", "xai"])
def test_a_batch_that_never_ran_fails_the_task_and_is_sent_anew(vendor, task, context, emulator):
    """Their state forgets it: the next try's batch is another."""
    emulator.faults(fail="invalid_request")
    with pytest.raises(LLMBatchJobError, match="failed before processing"):
        drive(task(vendor), context)
    assert emulator.vendor.stats()["billed_rows"] == 0
    emulator.faults()
    assert drive(task(vendor), context)["counts"]["succeeded"] == 3
    assert len(emulator.vendor.batches) == 2


@pytest.mark.parametrize("vendor", FINDING)
def test_a_create_without_an_answer_is_found_by_the_next_try(vendor, task, context, emulator):
    """The vendor keeps a name or metadata: the batch is taken up, and billed once."""
    create = {
        "azure": "POST /openai/v1/batches", "gemini": "POST /v1beta/models/*",
        "mistral": "POST /mistral/v1/batch/jobs",
    }.get(vendor, f"POST {BASES.get(vendor, (f'/{vendor}/v1',))[0]}/batches")  # fmt: skip
    emulator.faults(http=[{"on": create, "cut": "after"}])
    with pytest.raises(Exception, match="failed: "):
        task(vendor).execute(context)
    assert len(emulator.vendor.batches) == 1
    # It has ended by now: nothing is waited for.
    manifest = task(vendor, on_orphaned_intent="fail").execute(context)
    assert manifest["counts"]["succeeded"] == 3
    assert (len(emulator.vendor.batches), emulator.vendor.stats()["billed_rows"]) == (1, 3)


def test_where_nothing_marks_a_batch_their_policy_decides(task, context, emulator):
    emulator.faults(http=[{"on": "POST /together/v1/batches", "cut": "after"}])
    with pytest.raises(Exception, match="failed: "):
        task("together").execute(context)
    with pytest.raises(LLMBatchOrphanedIntentError):
        task("together", on_orphaned_intent="fail").execute(context)


def test_an_orphan_is_of_this_input_and_since_the_intent(emulator):
    """Another input's batch is not taken, nor one from before the intent; of two the newest."""
    made = adapter(emulator)
    asked = {"model": "m", "output_spec": TEXT, "idempotency_key": "k" * 16}
    for fingerprint in ("a" * 64, "b" * 64):
        made.submit([{"prompt": "x"}], input_fingerprint=fingerprint, **asked)
    first, second = emulator.vendor.batches
    now = datetime.now(UTC)
    assert made.find_orphaned_batch("k" * 16, "a" * 64, now.isoformat()) == first
    assert made.find_orphaned_batch("k" * 16, "b" * 64, "") == second
    assert made.find_orphaned_batch("k" * 16, "c" * 64, now.isoformat()) is None
    assert made.find_orphaned_batch("k" * 16, "a" * 64, (now + timedelta(hours=1)).isoformat()) is None
    made.close()


def test_the_same_input_sent_again_is_another_batch_at_perplexity(emulator):
    """Its key against repeated creates would give a failed batch back for ever."""
    made = adapters.adapter_of("perplexity")(api_key=SECRET, base_url=f"{emulator.url}/perplexity/v1")
    asked = {"model": "m", "output_spec": TEXT, "idempotency_key": "k" * 16, "input_fingerprint": "a" * 64}
    ids = {made.submit([{"prompt": "x"}], **asked).batch_id for _ in range(2)}
    assert ids == set(emulator.vendor.batches)
    assert len(ids) == 2
    made.close()


def test_a_batch_that_is_gone_is_told_as_their_sdks_do(emulator):
    made = adapter(emulator)
    with pytest.raises(adapters.NotFound) as gone:
        made.get_batch("batch_nobody")
    assert gone.value.status_code == 404
    made.close()


def test_a_running_batch_is_cancelled(task, context, emulator):
    emulator.vendor.settings.duration = 60
    try:
        made = adapter(emulator)
        asked = {"model": "m", "output_spec": TEXT, "idempotency_key": "k" * 16, "input_fingerprint": "a" * 64}
        batch = made.submit([{"prompt": "x"}], **asked).batch_id
        assert made.get_batch(batch).status == "in_progress"
        made.cancel_batch(batch)
        assert made.get_batch(batch).status in ("in_progress", "cancelled")
        assert emulator.vendor.calls[f"POST /groq/openai/v1/batches/{batch}/cancel"] == 1
        made.close()
    finally:
        emulator.vendor.settings.duration = 0


def test_a_window_is_asked_for_in_the_vendors_words(emulator):
    """Theirs says 24 hours where nobody has said anything: that asks for the vendor's usual window."""
    asked = {"model": "m", "output_spec": TEXT, "idempotency_key": "k" * 16, "input_fingerprint": "a" * 64}
    made = adapter(emulator)
    made.submit([{"prompt": "x"}], completion_window="7d", **asked)
    usual = adapter(emulator, "novita")
    usual.submit([{"prompt": "x"}], completion_window="24h", **asked)
    assert [batch.window for batch in emulator.vendor.batches.values()] == ["7d", "48h"]
    made.close()
    usual.close()


LARGE = [{"prompt": "x" * 60_000_000}] * 2
TWO = [{"prompt": "x"}, {"prompt": "y", "model": "groq:n"}]


@pytest.mark.parametrize(
    ("requests", "arguments", "error", "said"),
    [
        ([{"prompt": "x"}] * 50_001, {}, LLMBatchLimitExceededError, r"50,000 requests.*50,001.*expand.*Nothing was"),
        (LARGE, {}, LLMBatchLimitExceededError, r"100,000,000 bytes.*request 2 of 2.*expand.*Nothing was"),
        (TWO, {}, LLMBatchModelMismatchError, r"for m, .*for n\..*Nothing was sent"),
        ([{"prompt": "x", "model": "openai:n"}], {}, LLMBatchModelMismatchError, "openai:n"),
        ([{"prompt": "x"}], {"request_params": {"n": 2}}, LLMBatchInputError, "Request 0: .*n=2"),
    ],
)
def test_what_a_vendor_would_refuse_is_refused_before(requests, arguments, error, said, emulator):
    made = adapter(emulator)
    with pytest.raises(error, match=said):
        made.validate_requests(requests, model="m", output_spec=TEXT, idempotency_key="k" * 16, **arguments)
    assert not emulator.vendor.calls
    made.close()


def test_a_missing_key_is_told_before_anything_is_written(monkeypatch, context, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_AI", json.dumps({"conn_type": "pydanticai"}))
    asked = {"task_id": "ask", "requests": ["x"], "result_path": f"file://{tmp_path}/out", "llm_conn_id": "ai"}
    with pytest.raises(Exception, match=r"has no key for https://api\.groq\.com"):
        common_ai.LLMBatchOperator(model_id="groq:m", **asked).execute(context)
    assert not list(tmp_path.iterdir())


def test_every_vendor_of_a_key_and_a_url_is_offered():
    """By an entry point each, which loads alone; theirs stay theirs, and the others need more than that, or have no
    batches."""
    offered = {
        point.name: point
        for point in entry_points(group=adapters.GROUP)
        if point.module == "airflow_llm_batch.adapters"
    }
    assert set(offered) == set(adapters.VENDORS)
    for name in adapters.VENDORS:
        found = dispatch.import_adapter_class(name)
        assert found is offered[name].load()
        assert (found.name, issubclass(found, adapters.VendorAdapter)) == (name, True)
        assert found.max_requests == provider_class(name).default_limits.requests
    theirs, more = (
        {"openai", "anthropic"},
        {"anthropic-aws", "anthropic-google", "bedrock", "bedrock-openai", "vertex", "fireworks"},
    )
    rest = set(OURS) - set(adapters.VENDORS) - theirs - more
    assert not any(provider_class(name).batch_api for name in rest)
    assert all(dispatch.import_adapter_class(name).__module__.startswith("airflow.providers.") for name in theirs)


def test_an_azure_connection_of_theirs_is_taken():
    assert dispatch.resolve_adapter_name("pydanticai_azure", "azure:gpt-5-mini") == "azure"
    assert dispatch.resolve_adapter_name("pydanticai", "azure:gpt-5-mini") == "azure"
    with pytest.raises(Exception, match="pydanticai_azure"):
        dispatch.resolve_adapter_name("pydanticai_azure", "groq:m")


def test_nothing_of_ours_needs_common_ai():
    """What users import brings neither the adapters nor the contract that they are written for."""
    code = (
        "import sys\n"
        "import airflow_llm_batch.operators, airflow_llm_batch.plugin, airflow_llm_batch.provider_info\n"
        "import airflow_llm_batch.console.cli, airflow_llm_batch.decorators, airflow_llm_batch.testing\n"
        "theirs = ('airflow.providers.common.ai.batch', 'airflow_llm_batch.adapters')\n"
        "sys.exit(', '.join(name for name in sys.modules if name.startswith(theirs)) or 0)"
    )
    # Until 3.1 is dropped, which tells of its database's plugins where it is imported.
    quiet = {**os.environ, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=quiet)
    assert (done.returncode, done.stderr.strip()) == (0, "")
