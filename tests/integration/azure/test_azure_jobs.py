"""Whole jobs on Azure OpenAI, through hook and operators, over the emulator."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from support.jobs import land, spec, submit, texts
from support.tasks import drive, landed, operator, run

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.emulator.azure_lines import FILTERED
from airflow_llm_batch.exceptions import InputError, RequestRejected
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators import CompletionOperator
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.storage import storage_path
from airflow_llm_batch.transport import stored_payload

DEPLOYMENTS = {"batch-mini": "gpt-5-mini", "vectors": "text-embedding-3-small"}
DATED = {"api_version": "2025-04-01-preview"}
CAPITALS = {"api_version": "2024-07-01-preview"}
SURFACES = [pytest.param({}, id="v1"), pytest.param(DATED, id="dated"), pytest.param(CAPITALS, id="capitals")]
REQUEST = ChatRequest("batch-mini", user="{text}", max_tokens=100)


@pytest.fixture
def azure(connect):
    """An emulator of some settings, and a connection to it."""
    started = []

    def start(extra=None, settings=None):
        emulator = Emulator(**{"duration": 0, "deployments": DEPLOYMENTS, **(settings or {})}).__enter__()
        started.append(emulator)
        return emulator, connect(emulator.url, "azure", **{"deployments": DEPLOYMENTS, **(extra or {})})

    yield start
    for emulator in started:
        emulator.__exit__(None, None, None)


@pytest.mark.parametrize("extra", SURFACES)
def test_a_job_lands_every_row_with_the_price_of_the_model_behind(azure, store, tmp_path, extra):
    """Key, row number, text, tokens, half the synchronous price; the input file is deleted when all is landed."""
    emulator, conn_id = azure(extra)
    hook = LLMBatchHook(conn_id)
    job, ids = submit(store, hook, spec(texts(30), REQUEST, "id", ["id"]))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert len(ids) == 1
    assert {(r["key"], r["row"], r["text"]) for r in rows} == {(f"k{n}", n, f"text {n}") for n in range(30)}
    assert {(r["status"], r["model"], r["provider"]) for r in rows} == {("succeeded", "gpt-5-mini", "azure")}
    assert manifest.cost_usd == pytest.approx(sum(r["cost_usd"] for r in rows))
    assert manifest.cost_usd == pytest.approx(manifest.sync_cost_usd / 2)
    assert manifest.cost_usd > 0
    assert job.estimate["batch-mini"].cost_usd > manifest.cost_usd
    prefix = "/openai" if extra else "/openai/v1"
    assert emulator.vendor.calls[f"POST {prefix}/batches"] == 1


@pytest.mark.parametrize("extra", SURFACES)
def test_the_responses_api_names_the_deployment_and_costs_what_its_model_does(azure, store, tmp_path, extra):
    """Its answers say batch-mini: the price is gpt-5-mini's all the same."""
    _, conn_id = azure(extra)
    hook = LLMBatchHook(conn_id)
    request = ChatRequest("batch-mini", user="{text}", max_tokens=100, api="responses")
    job, _ = submit(store, hook, spec(texts(3), request, "id"))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert {(r["status"], r["model"]) for r in rows} == {("succeeded", "batch-mini")}
    assert manifest.cost_usd == pytest.approx(manifest.sync_cost_usd / 2)
    assert manifest.cost_usd > 0


@pytest.mark.parametrize("extra", [{}, DATED])
def test_vectors(azure, store, tmp_path, extra):
    """Embeddings by batch, as their endpoint has them."""
    _, conn_id = azure(extra)
    hook = LLMBatchHook(conn_id)
    job, _ = submit(store, hook, spec(texts(4), EmbeddingRequest("vectors", dimensions=8), "id"))
    _, rows = land(store, hook, job, tmp_path / "out")
    assert [len(r["embedding"]) for r in rows] == [8] * 4


@pytest.mark.parametrize("extra", SURFACES)
@pytest.mark.parametrize("duration", [0, 0.3])
def test_failed_rows_are_asked_again_and_filtered_ones_are_not(azure, context, tmp_path, extra, duration):
    """One task for all of it, deferred or not: a second batch of the rows that failed, refused rows landed as such."""
    emulator, conn_id = azure(extra, {"duration": duration, "faults": {"row_errors": 0.2, "heal": 1}})
    rows = [{"id": f"k{n}", "text": f"{FILTERED} {n}" if n < 5 else f"text {n}"} for n in range(100)]
    task = operator(conn_id, tmp_path, request=REQUEST, rows=rows, passthrough=None, fail_on=0.5)
    summary = drive(task, context)
    found = landed(summary)
    assert [row["key"] for row in found] == [f"k{n}" for n in range(100)]
    # One that failed of itself at first was not filtered then.
    assert all((row["status"] == "refused") == (row["row"] < 5) for row in found)
    assert {row["error_code"] for row in found if row["status"] == "refused"} == {"content_filter"}
    batches = [batch.total for batch in emulator.vendor.batches.values()]
    assert batches == [100, sum(row["round"] == 2 for row in found)]
    assert summary["counts"]["succeeded"] == 95


def test_three_tasks(azure, context, tmp_path):
    """Submit, wait in poke mode, fetch."""
    _, conn_id = azure()
    summary, rows = run(
        context, conn_id, tmp_path, rows=texts(10), key="id", request=REQUEST, fetch={"fail_on": "none"}
    )
    assert summary["counts"]["succeeded"] == len(rows) == 10


def test_a_file_that_is_still_processed_is_waited_for(azure, store, tmp_path):
    """The job takes its time; nothing is created of a file that is pending."""
    emulator, conn_id = azure(settings={"file_seconds": 1.2})
    hook = LLMBatchHook(conn_id)
    job, _ = submit(store, hook, spec(texts(3), REQUEST, "id"))
    _, rows = land(store, hook, job, tmp_path / "out")
    assert len(rows) == 3
    assert emulator.vendor.calls["POST /openai/v1/batches"] == 1
    looks = sum(n for call, n in emulator.vendor.calls.items() if call.startswith("GET /openai/v1/files/file-"))
    assert looks > 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_create_of_a_pending_file_waits_and_is_made_again(azure, tmp_path, asynchronous):
    """As when a task was killed between an upload and its end: one batch, though two creates were sent."""
    emulator, conn_id = azure(settings={"file_seconds": 0.7})
    hook = LLMBatchHook(conn_id)
    source = tmp_path / "in.jsonl"
    body = {"model": "batch-mini", "messages": [{"role": "user", "content": "x"}]}
    source.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}))
    ref = hook.run(OpenAI.upload(hook.provider, "in.jsonl", stored_payload(storage_path(str(source)))))
    if asynchronous:
        shard = SimpleNamespace(endpoint="/v1/chat/completions", metadata={}, key="")
        shard.model_copy = lambda update: SimpleNamespace(**{**vars(shard), **update})

        async def create():
            async with hook.session():
                return await hook.arun(hook.provider.create(shard, ref, None))

        batch = asyncio.run(create())
    else:
        batch = hook.create_batch(ref)
    assert [*emulator.vendor.batches] == [batch.id]
    assert emulator.vendor.calls["POST /openai/v1/batches"] == 2


def test_a_file_that_never_is_processed_fails_the_task_for_now(azure, store):
    """The message names file and remedy; no batch was made."""
    emulator, conn_id = azure({"file_seconds": 0.3}, {"file_seconds": 1000})
    with pytest.raises(
        RequestRejected, match=r"file file-\w+ within 0.3 s.*nothing billed.*raise file_seconds"
    ) as caught:
        submit(store, LLMBatchHook(conn_id), spec(texts(3), REQUEST, "id"))
    assert caught.value.retry_helps
    assert not emulator.vendor.batches


@pytest.mark.parametrize("refuse", [None, 400])
@pytest.mark.parametrize("extra", [{}, DATED, {"api_version": "2024-07-01-preview"}])
def test_a_full_queue_is_waited_for_in_either_form(azure, context, tmp_path, refuse, extra):
    """A refusal at the door, or a batch that fails with two files of no bytes: every shard runs in the end, once."""
    faults = {"enqueued_tokens": 150, **({"refuse_enqueued": refuse} if refuse else {})}
    extra = {**extra, "limits": {"requests": 4}, "room_seconds": 0.05}
    emulator, conn_id = azure(extra, {"duration": 0.05, "faults": faults})
    task = operator(conn_id, tmp_path, request=REQUEST, rows=texts(20), passthrough=None)
    summary = drive(task, context)
    assert summary["counts"]["succeeded"] == 20
    ran = [batch for batch in emulator.vendor.batches.values() if not batch.problems]
    assert sorted(batch.total for batch in ran) == [4] * 5
    failed = len(emulator.vendor.batches) - len(ran)
    assert bool(failed) == (refuse is None)
    refused = emulator.vendor.calls[f"POST /openai{'' if 'api_version' in extra else '/v1'}/batches"]
    assert refused > 5


def test_a_limit_in_thousands_is_not_taken_for_a_small_one(azure, context, tmp_path):
    """A shard of some hundred tokens waits below a limit of 1K, and is not told that it never fits."""
    faults = {"enqueued_tokens": 1000, "refuse_enqueued": 400}
    extra = {"limits": {"requests": 10}, "room_seconds": 0.05}
    _, conn_id = azure(extra, {"duration": 0.2, "faults": faults})
    rows = [{"id": n, "text": f"text {n} " * 20} for n in range(40)]
    summary = drive(operator(conn_id, tmp_path, request=REQUEST, rows=rows, passthrough=None), context)
    assert summary["counts"]["succeeded"] == 40


@pytest.mark.parametrize("cut", ["before", "after"])
@pytest.mark.parametrize("extra", [{}, DATED])
def test_a_create_without_an_answer_makes_one_batch(azure, store, tmp_path, cut, extra):
    """The lost one is found by the metadata that it carries."""
    emulator, conn_id = azure(extra)
    path = "/openai/batches" if extra else "/openai/v1/batches"
    emulator.faults(http=[{"on": f"POST {path}", "cut": cut}])
    hook = LLMBatchHook(conn_id)
    job, _ = submit(store, hook, spec(texts(3), REQUEST, "id"))
    _, rows = land(store, hook, job, tmp_path / "out")
    assert len(rows) == 3
    assert len(emulator.vendor.batches) == 1


@pytest.mark.parametrize("code", ["model_not_found", "invalid_request"])
def test_a_batch_that_fails_for_good_says_why(azure, context, tmp_path, code):
    """Azure's code and words reach the rows; its two files of no bytes are read and harm nothing."""
    _, conn_id = azure(settings={"faults": {"fail": code}})
    task = operator(conn_id, tmp_path, request=REQUEST, rows=texts(3), passthrough=None, max_rounds=1, fail_on="none")
    found = landed(drive(task, context))
    assert {(row["status"], row["error_code"]) for row in found} == {("errored", code)}


class Machine:
    """The machine's identity, whose tokens the emulator has given out."""

    def __init__(self, emulator):
        self.emulator, self.asked = emulator, 0

    def get_token(self, *scopes):
        from airflow_llm_batch.emulator.entra import issue

        self.asked += 1
        token, _ = issue(self.emulator.vendor)
        return SimpleNamespace(token=token, expires_on=self.emulator.vendor.tokens[token])


@pytest.fixture
def machine(azure, monkeypatch):
    """A machine with tokens of a second, where a key would be refused."""

    def start(**settings):
        emulator, conn_id = azure({"managed_identity": True}, {"token_seconds": 0.6, "api_key": "no", **settings})
        made = Machine(emulator)
        monkeypatch.setattr("airflow_llm_batch.providers.azure.protocol.of_machine", lambda *_: made)
        return emulator, conn_id, made

    return start


@pytest.mark.parametrize("deferred", [True, False])
def test_a_token_expires_in_the_midst_of_a_wait(machine, context, tmp_path, deferred):
    """Several do: each look has one that is good, and nothing that is written holds any."""
    emulator, conn_id, made = machine(duration=2.5)
    if deferred:
        summary = drive(operator(conn_id, tmp_path, request=REQUEST, rows=texts(5), passthrough=None), context)
    else:
        summary, _ = run(context, conn_id, tmp_path, rows=texts(5), key="id", request=REQUEST)
    assert summary["counts"]["succeeded"] == 5
    assert made.asked > 3
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert written
    assert not any(token.encode() in written for token in emulator.vendor.tokens)


@pytest.mark.parametrize("extra", [{}, DATED])
def test_calls_one_by_one(azure, context, tmp_path, extra):
    """The online lane on both surfaces; each row once, at the synchronous price."""
    emulator, conn_id = azure(extra)
    given = {"rows": texts(20), "key": "id", "request": REQUEST, "destination": f"file://{tmp_path}/out"}
    summary = CompletionOperator(task_id="submit", conn_id=conn_id, **given).execute(context)
    assert summary["counts"]["succeeded"] == 20
    assert summary["cost_usd"] == pytest.approx(summary["sync_cost_usd"])
    path = "/openai/deployments/batch-mini/chat/completions" if extra else "/openai/v1/chat/completions"
    assert emulator.vendor.calls[f"POST {path}"] == 20


def test_calls_one_by_one_with_tokens_that_were_taken_back(machine, context, tmp_path):
    """Each call that is refused for its token is made again with another, and answered once."""
    emulator, conn_id, made = machine(token_seconds=3600)
    forget = iter(range(10**6))
    issued = emulator.vendor.tokens

    class Fickle(dict):
        def get(self, key, default=None):
            if next(forget) % 7 == 6:
                self.clear()
            return super().get(key, default)

    emulator.vendor.tokens = Fickle(issued)
    given = {"rows": texts(40), "key": "id", "request": REQUEST, "destination": f"file://{tmp_path}/out"}
    summary = CompletionOperator(task_id="submit", conn_id=conn_id, concurrency=1, **given).execute(context)
    assert summary["counts"]["succeeded"] == 40
    assert made.asked > 4


def test_what_the_model_behind_refuses_is_refused_before_anything_is_sent(azure, store):
    """gpt-5-mini has no temperature, whatever its deployment is called."""
    emulator, conn_id = azure()
    request = ChatRequest("batch-mini", user="{text}", max_tokens=9, params={"temperature": 0.3})
    with pytest.raises(InputError, match=r"refuses temperature=0\.3.*Nothing was sent"):
        submit(store, LLMBatchHook(conn_id), spec(texts(3), request, "id"))
    assert not emulator.vendor.calls


def test_the_connection_can_be_tested(azure):
    """By its newest batch; the address is told."""
    emulator, conn_id = azure()
    good, said = LLMBatchHook(conn_id).test_connection()
    assert good
    assert f"azure at {emulator.url}/openai/v1 accepts the key" in said
