"""Servers that are not OpenAI, trouble in every spelling, and the Responses API behind the same rows."""

from __future__ import annotations

import threading

import pytest
from pydantic import BaseModel
from support.jobs import land, spec, submit
from support.servers import GOOD, server
from support.tasks import drive, explicit, landed, next_task
from support.tasks import operator as batch_operator

from airflow_llm_batch.data import ChatRequest, FailedRows, RawRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, InputError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.operators import CompletionOperator
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.request import Request


class Mood(BaseModel):
    mood: str
    score: int


def call(connect, context, tmp_path, url, rows=("a", "b"), **arguments):
    given = {"request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=50), "fail_on": "none", **arguments}
    operator = CompletionOperator(
        task_id="submit", conn_id=connect(url), rows=list(rows), destination=f"file://{tmp_path}/out", **given
    )
    summary = operator.execute(context)
    return summary, landed(summary)


PASSING = [
    (200, {"error": {"code": 429, "message": "slow down"}}),
    (200, {"error": {"message": "The server had an error, try again"}}),
    (400, {"error": {"code": "rate_limit_exceeded", "message": "x"}}),
    (403, {"detail": {"code": "ThrottlingException"}}),
    (200, {**GOOD, "choices": [{"error": {"code": 502, "message": "bad"}, "message": {}, "finish_reason": "error"}]}),
    (503, b"<html>not now</html>"),
]


@pytest.mark.parametrize("trouble", PASSING, ids=lambda t: f"{t[0]}-{str(t[1])[:40]}")
def test_calls_are_repeated_whatever_the_trouble_is_called(connect, context, tmp_path, trouble):
    """In the status, in the body of a 200, of a 400: asked once more, and answered."""
    with server(lambda before, body: (200, GOOD) if before else trouble, retry_after_ms=10) as (url, asked, _):
        _, rows = call(connect, context, tmp_path, url)
    assert [row["status"] for row in rows] == ["succeeded"] * 2
    assert set(asked.values()) == {2}


def test_an_answer_that_cannot_be_read_has_no_known_cost(connect, context, tmp_path):
    """A proxy's list of answers was paid for: invalid, what came is kept, and its cost is null."""
    with server(lambda before, body: (200, [GOOD, GOOD])) as (url, asked, _):
        summary, rows = call(connect, context, tmp_path, url, keep_raw=True)
    assert [(row["status"], row["error_code"], row["cost_usd"]) for row in rows] == [
        ("invalid", "unreadable_answer", None)
    ] * 2
    assert summary["cost_usd"] is None
    assert rows[0]["raw"]["response"]["body"]["answer"] == [GOOD, GOOD]
    assert set(asked.values()) == {1}


CAPS = [
    ("https://api.openai.com/v1", "gpt-4o-mini", {}, "max_completion_tokens"),
    ("https://api.openai.com/v1", "gpt-5-mini", {}, "max_completion_tokens"),
    ("http://ollama:11434/v1", "gemma3", {}, "max_tokens"),
    ("http://proxy/v1", "openai/gpt-5-mini", {}, "max_completion_tokens"),
    ("http://proxy/v1", "o4-mini", {}, "max_completion_tokens"),
    ("http://proxy/v1", "gpt-4o", {}, "max_tokens"),
    ("http://proxy/v1", "gpt-4o", {"token_cap": "max_completion_tokens"}, "max_completion_tokens"),
    ("https://api.openai.com/v1", "ft:old", {"token_cap": "max_tokens"}, "max_tokens"),
]


@pytest.mark.parametrize(("url", "model", "options", "name"), CAPS)
def test_the_token_cap_has_the_name_that_the_server_knows(url, model, options, name):
    """By address and model, or as the connection says; the old name is mended only for a model that refuses it."""
    body = {"model": model, "messages": [], "max_completion_tokens": 5}
    sent = OpenAI(url, options).translate(Request("/v1/chat/completions", body)).body
    assert {key: sent[key] for key in sent if key.startswith("max")} == {name: 5}
    own = {"model": model, "messages": [], "max_tokens": 5}
    sent = OpenAI(url, options).translate(Request("/v1/chat/completions", own)).body
    kept = "max_tokens" if model.endswith(("gpt-4o", "gpt-4o-mini")) else name
    assert {key: sent[key] for key in sent if key.startswith("max")} == {kept: 5}


TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}},
}
PNG = "data:image/png;base64,iVBORw0KGgo="
CALL = {"id": "c1", "function": {"name": "look_up", "arguments": '{"q":"x"}'}}
PICTURE = {"url": PNG, "detail": "low"}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "see {text}"}, {"type": "image_url", "image_url": PICTURE}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "user", "content": "and {text}?"},
]  # fmt: skip


def test_the_responses_api_takes_the_same_conversation():
    """Every role and part, schema, tools, caps and effort in its words; what it has no word for is refused by name."""
    provider = OpenAI()
    params = {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look_up"}}, "verbosity": "low"}
    request = ChatRequest(
        "gpt-5.4", messages=TALK, output=Mood, max_tokens=90, params={**params, "reasoning_effort": "low"}
    )
    made = provider.translate(request.compile()({"text": "me"}))
    assert made.endpoint == "/v1/responses"
    body, seen = made.body, {"type": "input_image", "image_url": PNG, "detail": "low"}
    assert body["input"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "see me"}, seen]},
        {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": '{"q":"x"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {"role": "user", "content": "and me?"},
    ]  # fmt: skip
    assert (body["max_output_tokens"], body["reasoning"], body["text"]["verbosity"]) == (90, {"effort": "low"}, "low")
    assert body["tools"] == [{"type": "function", "strict": False, **TOOL["function"]}]
    assert body["tool_choice"] == {"type": "function", "name": "look_up"}
    with pytest.raises(InputError, match=r"no parameter 'stop'.*Nothing was sent"):
        provider.translate(ChatRequest("m", api="responses", params={"stop": "x"}).compile()({"text": "a"}))
    with pytest.raises(InputError, match="api is 'chats'"):
        ChatRequest("m", api="chats")


MODELS = [
    ("gpt-5.4", True, "low", None, "/v1/responses"),
    ("gpt-6-astra", True, "high", None, "/v1/responses"),
    ("gpt-5.4", True, "low", "chat", "/v1/chat/completions"),
    ("gpt-5.4", True, None, None, "/v1/chat/completions"),
    ("gpt-5.4", False, "low", None, "/v1/chat/completions"),
    ("gpt-5-mini", True, "low", None, "/v1/chat/completions"),
    ("gpt-5-mini", False, None, "responses", "/v1/responses"),
]


@pytest.mark.parametrize(("model", "tools", "effort", "api", "endpoint"), MODELS)
def test_the_api_is_the_one_that_the_model_takes(model, tools, effort, api, endpoint):
    """From GPT-5.4 on tools beside reasoning_effort need the Responses API."""
    params = {**({"tools": [TOOL]} if tools else {}), **({"reasoning_effort": effort} if effort else {})}
    request = ChatRequest(model, user="{text}", params=params, api=api)
    assert OpenAI().translate(request.compile()({"text": "a"})).endpoint == endpoint


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_the_same_rows_give_the_same_results_in_both_apis(connect, store, tmp_path, api):
    """Keys, parsed and validated output, tokens, dollars."""
    rows = [{"id": f"k{n}", "text": f"text {n}"} for n in range(12)]
    request = ChatRequest("gpt-5-mini", system="Be kind.", user="{text}", output=Mood, max_tokens=60, api=api)
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        submit(store, hook, spec(rows, request, "id"))
        manifest, records = land(store, hook, store.job(), tmp_path / "out")
    assert store.job().shards[0].endpoint == ("/v1/responses" if api == "responses" else "/v1/chat/completions")
    assert [row["key"] for row in records] == [f"k{n}" for n in range(12)]
    assert manifest.counts["succeeded"] == 12
    assert all(set(row["output"]) == {"mood", "score"} for row in records)
    assert all(row["cost_usd"] > 0 for row in records)


def test_a_job_whose_model_needs_the_responses_api_runs(connect, store, tmp_path):
    """The emulator refuses tools beside reasoning_effort in chat completions, as OpenAI does: it is not asked there."""
    params = {"tools": [TOOL], "reasoning_effort": "low"}
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        submit(store, hook, spec(["a", "b"], ChatRequest("gpt-5.4", user="{text}", max_tokens=60, params=params)))
        _, records = land(store, hook, store.job(), tmp_path / "out")
        other = JobStore(f"{store.uri}-chat")
        submit(other, hook, spec(["a"], ChatRequest("gpt-5.4", user="{text}", params=params, api="chat")))
        _, refused = land(other, hook, other.job(), tmp_path / "chat")
    assert [row["tool_calls"][0]["name"] for row in records] == ["look_up", "look_up"]
    assert "/v1/responses" in refused[0]["error_message"]


def test_an_account_without_money_is_a_choice_of_its_own(connect, context, tmp_path):
    """Rounds do not ask such rows again by themselves; a repair after it was filled does, and no others."""
    paid = threading.Event()

    def upstream(before, body):
        poor = not paid.is_set() and int(body["messages"][-1]["content"].rpartition(" ")[2]) % 4 == 0
        error = {
            "message": "You exceeded your current quota",
            "type": "insufficient_quota",
            "code": "insufficient_quota",
        }
        return (429, {"error": error}) if poor else (200, GOOD)

    rows = [{"id": f"k{n}", "text": f"text {n}"} for n in range(20)]
    with server(upstream) as (url, asked, _), Emulator(duration=0, upstream=url.removesuffix("/v1")) as emulator:
        conn_id = connect(emulator.url)
        first = drive(batch_operator(conn_id, tmp_path, rows=rows, fail_on="none"), context)
        assert (first["counts"]["errored"], first["rounds"]) == (5, 1)
        assert {row["error_code"] for row in landed(first) if row["status"] == "errored"} == {"insufficient_quota"}
        paid.set()
        again = explicit(next_task(context, "again"), conn_id, tmp_path, FailedRows(first))
        assert (again["counts"]["succeeded"], again["rounds"]) == (20, 2)
        assert sum(asked.values()) == 25
    with pytest.raises(ConfigurationError, match="quota"):
        FailedRows(None, also=["poor"])


def test_several_answers_to_a_row_land(connect, store, tmp_path):
    """``n`` and lists of prompts: all of them, and what they cost."""
    raw = RawRequest({"model": "m", "prompt": ["{text}", "x"], "max_tokens": 5}, "/v1/completions")
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        request = ChatRequest("gpt-4o-mini", user="{text}", max_tokens=50, params={"n": 3, "logprobs": True})
        submit(store, hook, spec(["a"], request))
        assert store.job().estimate["gpt-4o-mini"].output_tokens == 150
        manifest, records = land(store, hook, store.job(), tmp_path / "out")
        two = JobStore(f"{store.uri}-two")
        submit(two, hook, spec(["a"], raw))
        assert two.job().estimate["m"].output_tokens == 10
    assert [choice["text"] for choice in records[0]["choices"]] == ["a"] * 3
    assert records[0]["logprobs"]["content"]
    assert manifest.output_tokens == 3
