"""Answers in every shape that servers have been seen to write, and in shapes that nobody has seen yet."""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter

import msgspec
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import read_jsonl
from support.jobs import chat, land, spec, submit, texts

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.landing import records as results_module
from airflow_llm_batch.jobs.landing.records import Landing
from airflow_llm_batch.jobs.options import Target
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.troubles import is_empty_account, is_passing_code, trouble_of
from airflow_llm_batch.results import ROW_STATUSES

OURS = OpenAI("http://h"), Anthropic("http://h")


def openai_line(body=None, status=200, custom_id="a", **line):
    answer = {"response": {"status_code": status, "request_id": "r", "body": body}, "error": None}
    return {"id": "b", "custom_id": custom_id, **answer, **line}


def completion(content="fine", finish="stop", message=None, choice=None, **body):
    said = {"role": "assistant", "content": content, "refusal": None, **(message or {})}
    chosen = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish, **(choice or {})}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"object": "chat.completion", "model": "gpt-4o-mini", "choices": [chosen], "usage": usage, **body}


def message_line(content=None, stop="end_turn", custom_id="a", **message):
    blocks = [{"type": "text", "text": "fine"}] if content is None else content
    usage = {"input_tokens": 10, "output_tokens": 5}
    usual = {"type": "message", "model": "claude-sonnet-4-5", "content": blocks, "stop_reason": stop, "usage": usage}
    return {"custom_id": custom_id, "result": {"type": "succeeded", "message": {**usual, **message}}}


def candidate_line(parts, finish="STOP", **candidate):
    usage = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 2,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}],
    }
    answer = {"content": {"parts": parts, "role": "model"}, "finishReason": finish, **candidate}
    return {"response": {"candidates": [answer], "usageMetadata": usage, "modelVersion": "gemini-3.8-flash"}}


def read(line):
    provider = OURS["result" in line]
    return provider.read(json.dumps(line).encode())


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "stop", "end_turn", "error", "429", "tool_use", "\ud83d", "x" * 300, "1e400", "NaN"])
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "code", "message", "value", "k"]), inner, max_size=3)
    ),
    max_leaves=6,
)
CALL = {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]}
VECTOR = {"index": 0, "embedding": [0.5, 1]}
SAID = {"type": "output_text", "text": "a"}
TOOL_USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
WHOLE = {
    "openai": [
        openai_line(completion()),
        openai_line(completion(message={**CALL, "reasoning_content": "hm", "annotations": [{"type": "url_citation"}]})),
        openai_line(completion([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}])),
        openai_line(completion('{"label": "x", "n": 3}', choice={"logprobs": {"content": []}})),
        openai_line({"object": "list", "model": "e", "data": [VECTOR], "usage": {"prompt_tokens": 1}}),
        openai_line({"error": {"message": "no", "code": "x", "type": "y"}}, 400),
        openai_line(error={"code": "batch_expired", "message": "late"}, response=None),
        openai_line(
            {
                "object": "response",
                "status": "completed",
                "model": "m",
                "output": [{"type": "message", "phase": "final_answer", "content": [SAID]}],
                "usage": {"input_tokens": 1, "output_tokens": 1, "output_tokens_details": {"reasoning_tokens": 1}},
            }
        ),
    ],
    "anthropic": [
        message_line(),
        message_line([{"type": "thinking", "thinking": "hm"}, TOOL_USE], "tool_use"),
        message_line([{"type": "text", "text": '{"label": "x", "n": 1}', "citations": [{"type": "c"}]}]),
        message_line([], "refusal", stop_details={"category": "cyber", "explanation": "no"}),
        {"custom_id": "a", "result": {"type": "errored", "error": {"type": "error", "error": {"type": "x"}}}},
        {"custom_id": "a", "result": {"type": "expired"}},
    ],
    "gemini": [
        candidate_line([{"text": '{"label": "x", "n": 1}'}]),
        candidate_line([{"text": "hm", "thought": True}, {"functionCall": {"name": "f", "args": {"x": 1}}}]),
        candidate_line(
            [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": "AA"}}],
            citationMetadata={"citationSources": [{"uri": "u"}]},
            groundingMetadata={"webSearchQueries": ["q"], "groundingChunks": [{"web": {"uri": "u"}}]},
            logprobsResult={
                "chosenCandidates": [{"token": "a", "logProbability": -1}],
                "topCandidates": [{"candidates": [{"token": "a", "logProbability": -1}]}],
            },
        ),
        candidate_line([], "SAFETY", safetyRatings=[{"category": "HARM_CATEGORY_HARASSMENT", "blocked": True}]),
        {"response": {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 3}}},
        {"response": {"embedding": {"values": [0.5, 1]}, "tokenCount": "2"}},
        {"error": {"code": 8, "message": "no", "status": "RESOURCE_EXHAUSTED", "details": [{"reason": "x"}]}},
    ],
}  # fmt: skip
WHOLE["azure"] = WHOLE["openai"]


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield from places(part, (*path, name))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@st.composite
def mutated(draw, vendor, custom_id):
    """A good line with other JSON in one to three of its places; its id may go, too."""
    line = {**draw(st.sampled_from(WHOLE[vendor])), "custom_id": custom_id}
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in places(line) if p]))
        line = changed(line, path, draw(odd))
    return json.dumps(line).encode()


CLOSED = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["label", "n"],
    "additionalProperties": False,
}
ROWS = 40


@pytest.fixture(scope="module")
def fuzzed():
    """What the fuzzing has tried, printed at its end."""
    tried: Counter[str] = Counter()
    yield tried
    print(f"\n{tried['lines']:,} mutated lines; rows landed {tried['rows']:,}, lost {tried['lost']}, exceptions 0")
    assert tried["lost"] == 0


@pytest.mark.parametrize("examples", [8, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("wanted", ["text", "output"])
def test_any_json_in_any_place_lands_every_row_once(
    hook, provider, store, tmp_path, monkeypatch, wanted, fuzzed, examples
):
    """Thousands of mutated lines through both formats: no exception, a record per row, alike in both."""
    request = chat(provider, output=CLOSED if wanted == "output" else None)
    submit(store, hook, spec([f"t{n}" for n in range(ROWS)], request))
    job = store.job()
    land(store, hook, job, tmp_path / "first")
    batches = {
        shard.index: store.attempts(shard.index).ended().model_copy(update={"succeeded": 0}) for shard in job.shards
    }

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data):
        lines = [data.draw(mutated(provider, f"{job.id}-{row}")) for row in range(ROWS)]
        monkeypatch.setattr(results_module, "batch_lines", lambda hook, batch: iter(lines))
        landed = {}
        for name in ("jsonl", "parquet"):
            target = Target(f"file://{tmp_path}/{name}", name, keep_raw=name == "jsonl")
            manifest = Landing(store, job, hook, target, LOG).land(dict(batches))
            (path,) = (file.removeprefix("file://") for file in manifest.files)
            rows = read_jsonl(path) if name == "jsonl" else pq.read_table(path).to_pylist()
            assert sum(manifest.counts.values()) == ROWS
            assert {row["status"] for row in rows} <= set(ROW_STATUSES)
            landed[name] = {row["row"]: row for row in rows}
            fuzzed["lost"] += ROWS - len(landed[name])
            fuzzed["rows"] += len(rows)
        fuzzed["lines"] += len(lines)
        for number, ours in landed["jsonl"].items():
            other = landed["parquet"][number]
            assert ours["status"] == other["status"] or other["error_code"] == "unwritable"
            if other["status"] == "succeeded":
                for name in ("text", "output", "tool_calls", "embedding"):
                    assert (ours[name] is None) == (other[name] is None), name

    run()


class Quiet:
    """A logger that nobody reads."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


LOG = Quiet()


ENDINGS = [
    (openai_line(completion()), "succeeded", None),
    (openai_line(completion(finish="eos_token")), "succeeded", None),
    (openai_line(completion(None, "tool_calls", CALL)), "succeeded", None),
    (openai_line(completion(None, "stop", CALL)), "succeeded", None),
    (openai_line(completion(None, "tool_calls")), "invalid", "no_tool_call"),
    (openai_line(completion("")), "invalid", "empty_answer"),
    (openai_line(completion(None)), "invalid", "empty_answer"),
    (openai_line(completion(finish=None)), "truncated", "no_ending"),
    (openai_line(completion(finish="abort")), "errored", "ended_in_error"),
    (openai_line(completion(finish="whatever")), "truncated", "unknown_ending"),
    (openai_line(completion(finish="length")), "truncated", None),
    (openai_line(completion(finish="content_filter")), "refused", None),
    (openai_line(completion(None, message={"refusal": "I will not."})), "refused", None),
    (openai_line(completion(finish="error")), "errored", "ended_in_error"),
    (openai_line(completion(choice={"error": {"code": 502, "message": "Bad provider"}})), "errored", "http_502"),
    (openai_line({"error": {"code": 429, "message": "slow down"}}), "errored", "http_429"),
    (openai_line({"detail": "Model not loaded, try again"}), "errored", "server_error"),
    (openai_line(completion(choices=[])), "invalid", "unreadable_answer"),
    (openai_line([1, 2]), "invalid", "unreadable_answer"),
    (message_line(), "succeeded", None),
    (message_line(stop="stop_sequence"), "succeeded", None),
    (message_line(stop="pause_turn"), "truncated", "pause_turn"),
    (message_line(stop="max_tokens"), "truncated", None),
    (message_line(stop="model_context_window_exceeded"), "truncated", None),
    (message_line(stop="tool_use"), "invalid", "no_tool_call"),
    (message_line(stop="compaction"), "truncated", "unknown_ending"),
    (message_line(stop=None), "truncated", "no_ending"),
    (message_line([]), "invalid", "empty_answer"),
    (message_line([{"type": "text", "text": " \n"}]), "invalid", "empty_answer"),
    (openai_line(completion("\n \t\u3000")), "invalid", "empty_answer"),
    (openai_line(completion(" x ")), "succeeded", None),
    (message_line(stop="refusal"), "refused", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "status", "code"), ENDINGS)
def test_only_known_good_endings_succeed(line, status, code):
    """Every other ending has its own status and reason, and what came is kept."""
    result = read(line)
    assert (result.status, result.error_code) == (status, code)
    if code is not None:
        assert result.error_message


PASSING = [
    ({"code": "rate_limit_exceeded"}, 429),
    ({"code": "429"}, 0),
    ({"code": 429, "message": "x"}, 0),
    ({"type": "throttling_error"}, 0),
    ({"code": None, "message": "Too many requests"}, 0),
    ("Rate limit reached for requests", 0),
    ({"error": {"error": {"code": 503}}}, 0),
    ({"detail": [{"msg": "upstream timed out"}]}, 0),
    ({"type": "overloaded_error", "message": "Overloaded"}, 0),
    ({"message": "no message worth reading"}, 500),
    ({"code": "InternalServerError"}, 0),
    ({"status": "RESOURCE_EXHAUSTED", "code": 429, "message": "exceeded your current quota, retry in 36s"}, 0),
    ({"code": "deadline_exceeded"}, 0),
    ("<html>502 Bad Gateway</html>", 502),
    (None, 504),
]  # fmt: skip
EMPTY = [
    ({"code": "insufficient_quota", "type": "insufficient_quota"}, 429),
    ({"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}, 400),
    ({"message": "Insufficient Balance"}, 402),
    ({"code": 402, "message": "needs more credits"}, 402),
    ({"code": "billing_hard_limit_reached"}, 400),
    ({"error": {"message": "You exceeded your current quota, please check your plan and billing details."}}, 429),
]
FINAL = [
    ({"code": "invalid_request_error", "message": "timeout must be below 60"}, 400),
    ({"code": 400, "type": "BadRequestError", "message": "too long"}, 400),
    ({"type": "not_found_error", "message": "model: x"}, 404),
    ({"code": "content_policy_violation"}, 400),
    ("Bad Request", 400),
]


@pytest.mark.parametrize(("error", "status"), PASSING)
def test_what_may_pass_is_known_in_any_spelling(error, status):
    """In the status, in the code as word, number or text, nested, in a sentence alone."""
    code = trouble_of(error, status).code
    assert is_passing_code(code), code
    assert not is_empty_account(code)


@pytest.mark.parametrize(("error", "status"), EMPTY)
def test_an_empty_account_does_not_pass(error, status):
    """Waiting does not fill it: a choice of its own."""
    code = trouble_of(error, status).code
    assert is_empty_account(code), code
    assert not is_passing_code(code)


@pytest.mark.parametrize(("error", "status"), FINAL)
def test_what_is_final_stays_final(error, status):
    """A refused request is never asked again, whatever its message holds."""
    code = trouble_of(error, status).code
    assert not is_passing_code(code), code
    assert not is_empty_account(code)


REASONS = [
    {"error": {"message": "THE REASON"}},
    {"error": "THE REASON"},
    {"error": {"error": {"message": "THE REASON"}}},
    {"detail": "THE REASON"},
    {"detail": [{"loc": ["body"], "msg": "THE REASON", "type": "value_error"}]},
    {"message": "THE REASON", "code": 400},
    {"errors": [{"message": "THE REASON"}]},
    {"error": {"code": "x", "details": [{"reason": "y", "message": "THE REASON"}]}},
    {"fault": {"text": "THE REASON"}},
    "THE REASON",
]


@pytest.mark.parametrize("body", REASONS)
def test_a_reason_is_never_lost(body):
    """Error bodies in every shape, as a row's answer."""
    result = read(openai_line(body, 400))
    assert result.status == "errored"
    assert "THE REASON" in result.error_message


def test_everything_that_was_paid_for_is_kept():
    """Choices, logprobs, reasoning, citations, tools' uses, tier, audio, old and custom calls."""
    several = completion()
    several["choices"] = [{**several["choices"][0], "index": n, "message": {"content": f"a{n}"}} for n in (2, 0, 1)]
    result = read(openai_line(several))
    assert (result.text, [choice["text"] for choice in result.choices]) == ("a0", ["a0", "a1", "a2"])
    probs = {"content": [{"token": "y", "logprob": -0.1}]}
    assert read(openai_line(completion(choice={"logprobs": probs}))).logprobs == probs
    for name in ("reasoning_content", "reasoning", "thinking"):
        assert read(openai_line(completion(message={name: "hm"}))).reasoning == "hm"
    thought = read(message_line([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}]))
    assert (thought.reasoning, thought.text) == ("hm", "4")
    noted = [{"type": "url_citation", "url": "u"}]
    assert read(openai_line(completion(message={"annotations": noted}))).citations == noted
    assert read(openai_line(completion(citations=["u"]))).citations == ["u"]
    assert read(message_line([{"type": "text", "text": "x", "citations": noted}])).citations == noted
    used = read(
        message_line(usage={"input_tokens": 1, "output_tokens": 1, "server_tool_use": {"web_search_requests": 2}})
    )
    assert used.tool_uses == {"web_search": 2}
    assert read(openai_line(completion(service_tier="flex"))).service_tier == "flex"
    assert read(openai_line(completion(None, message={"audio": {"transcript": "hello"}}))).text == "hello"
    old = completion(None, "function_call", {"function_call": {"name": "f", "arguments": "{}"}})
    assert read(openai_line(old)).tool_calls == [{"id": None, "name": "f", "arguments": {}}]
    custom = completion(
        None, "tool_calls", {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "g", "input": "go"}}]}
    )
    assert read(openai_line(custom)).tool_calls == [{"id": "c", "name": "g", "arguments": "go"}]
    filtered = completion("", "content_filter", choice={"content_filter_results": {"violence": {"filtered": True}}})
    assert "violence" in read(openai_line(filtered)).error_message
    refused = read(message_line([], "refusal", stop_details={"category": "cyber", "explanation": "attack"}))
    assert (refused.error_code, refused.error_message) == ("cyber", "attack")


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_vectors_of_every_kind_land(connect, store, tmp_path, format_):
    """Base64, several to a row, of two lengths; a null among the numbers makes the row invalid."""
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()

    def line(n, *vectors):
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        return openai_line(
            {"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1}}, custom_id=f"r-{n}"
        )

    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        rows = [{"texts": ["a", "b"]}, *({"texts": ["a"]} for _ in range(3))]
        submit(store, hook, spec(rows, RawRequest({"model": "e", "input": "{texts}"}, "/v1/embeddings")))
        job = store.job()
        assert job.several_vectors
        land(store, hook, job, tmp_path / "first")
        lines = [line(0, [1, 2], [3.5, 4]), line(1, packed), line(2, [1, 2, 3]), line(3, [None, 1])]
        encoded = [json.dumps({**one, "custom_id": f"{job.id}-{n}"}).encode() for n, one in enumerate(lines)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(results_module, "batch_lines", lambda hook, batch: iter(encoded))
            manifest, records = land(store, hook, job, tmp_path / "out", format_)
        if format_ == "parquet":
            records = pq.read_table(tmp_path / "out").to_pylist()
            assert [r["embedding"] for r in records] == [[[1, 2], [3.5, 4]], [[0.5, -1]], [[1, 2, 3]], None]
        else:
            assert [r["embedding"] for r in records] == [[[1, 2], [3.5, 4]], [0.5, -1], [1, 2, 3], None]
        assert [r["status"] for r in records] == ["succeeded"] * 3 + ["invalid"]
        assert manifest.counts["invalid"] == 1


def test_one_text_to_a_row_has_flat_vectors(connect, store, tmp_path):
    """As pandas, polars and duckdb want them, failed rows null among them."""
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        submit(store, hook, spec(["a", "b"], EmbeddingRequest("text-embedding-3-small", dimensions=4)))
        land(store, hook, store.job(), tmp_path / "out", "parquet")
    table = pq.read_table(tmp_path / "out")
    assert str(table.schema.field("embedding").type) == "list<element: float>"
    assert [len(vector) for vector in table["embedding"].to_pylist()] == [4, 4]


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_the_whole_answer_is_kept_by_choice(hook, provider, store, tmp_path, format_):
    """``keep_raw``: the vendor's line, as an object in JSON lines and as JSON text in Parquet."""
    submit(store, hook, spec(["a", "b"], chat(provider)))
    job = store.job()
    _, records = land(store, hook, job, tmp_path / "out", format_, None, True)
    if format_ == "parquet":
        records = [{**row, "raw": json.loads(row["raw"])} for row in pq.read_table(tmp_path / "out").to_pylist()]
    assert [hook.provider.id_of(row["raw"]) for row in records] == [row["custom_id"] for row in records]
    _, plain = land(store, hook, job, tmp_path / "plain")
    assert [row["raw"] for row in plain] == [None, None]


def test_a_row_that_its_format_cannot_hold_lands_as_invalid(connect, store, tmp_path):
    """An integer over 63 bits: JSON has it, a Parquet column does not; the answer is in text and in raw."""
    big = 2**64 - 1
    schema = {**CLOSED, "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        submit(store, hook, spec(["a", "b"], ChatRequest("gpt-5-mini", user="{text}", output=schema, max_tokens=50)))
        job = store.job()
        land(store, hook, job, tmp_path / "first")
        answers = [f'{{"n": {big}}}', '{"n": 1}']
        lines = [
            json.dumps(openai_line(completion(text), custom_id=f"{job.id}-{n}")).encode()
            for n, text in enumerate(answers)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(results_module, "batch_lines", lambda hook, batch: iter(lines))
            _, records = land(store, hook, job, tmp_path / "jsonl")
            manifest, _ = land(store, hook, job, tmp_path / "out", "parquet")
    assert [row["output"] for row in records] == [{"n": big}, {"n": 1}]
    landed = pq.read_table(tmp_path / "out").to_pylist()
    assert [(row["status"], row["output"]) for row in landed] == [("invalid", None), ("succeeded", {"n": 1})]
    assert landed[0]["error_code"] == "unwritable"
    assert str(big) in landed[0]["text"]
    assert str(big) in json.loads(landed[0]["raw"])["response"]["body"]["choices"][0]["message"]["content"]
    assert manifest.counts == {**dict.fromkeys(ROW_STATUSES, 0), "invalid": 1, "succeeded": 1}


def test_the_final_answer_of_a_response_in_phases():
    """What the model says on its way is no part of the answer; without phases all of it is."""

    def message(text, **phase):
        return {"type": "message", "content": [{"type": "output_text", "text": text}], **phase}

    body = {"object": "response", "status": "completed", "usage": {"input_tokens": 1, "output_tokens": 1}}
    phased = [message("hm", phase="commentary"), message("42", phase="final_answer")]
    assert read(openai_line({**body, "output": phased})).text == "42"
    assert read(openai_line({**body, "output": [message("4"), message("2")]})).text == "42"
    searched = [{"type": "web_search_call"}, {"type": "web_search_call"}, message("42")]
    assert read(openai_line({**body, "output": searched})).tool_uses == {"web_search": 2}


def test_batch_lines_with_one_schema_are_validated(connect, store, tmp_path):
    """Existing input files bring their schema in the body; output is parsed, rubbish is invalid."""
    wanted = {"type": "json_schema", "json_schema": {"name": "o", "strict": True, "schema": CLOSED}}
    rows = [
        {
            "custom_id": f"mine-{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": f"t{n}"}], "response_format": wanted},
        }
        for n in range(3)
    ]
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        submit(store, hook, spec(rows, None))
        _, records = land(store, hook, store.job(), tmp_path / "out")
    assert [set(row["output"]) for row in records] == [{"label", "n"}] * 3


def test_halves_of_emojis_in_answers_are_made_legal(connect, store, tmp_path):
    """A model's JSON that a surrogate half is escaped in parses, as its text does."""
    from airflow_llm_batch.data.outputs import OutputCheck

    result = msgspec.structs.replace(read(openai_line(completion('{"label": "\\ud83d!", "n": 1}'))))
    OutputCheck(CLOSED)(result)
    assert (result.status, result.output) == ("succeeded", {"label": "\ufffd!", "n": 1})


def test_plain_completions_land(connect, store, tmp_path):
    """An endpoint whose choices have a text and no message."""
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        body = {"model": "gpt-3.5-turbo-instruct", "prompt": "{text}", "max_tokens": 9}
        submit(store, hook, spec(texts(3), RawRequest(body, "/v1/completions")))
        manifest, rows = land(store, hook, store.job(), tmp_path)
        assert manifest.counts["succeeded"] == 3
        assert all(row["text"] for row in rows)
