"""Result lines of Vertex AI: what is read from them, whatever stands there."""

from __future__ import annotations

import json

import anthropic
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_llm_batch.providers.vertex.protocol import Vertex

types = pytest.importorskip("google.genai.types")

MADE = Vertex(None, {"project": "p1"})
GEMINI = {
    "candidates": [
        {
            "content": {"role": "model", "parts": [{"text": "Thinking.", "thought": True}, {"text": "Good day"}]},
            "finishReason": "STOP",
            "avgLogprobs": -0.1,
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 12,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 5,
        "cachedContentTokenCount": 4,
        "totalTokenCount": 20,
        "trafficType": "ON_DEMAND",
    },
    "modelVersion": "gemini-2.0-flash-001@default",
    "createTime": "2026-11-01T18:13:16.826Z",
    "responseId": "x",
}
CLAUDE = {
    "id": "msg_vrtx_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5-20251001",
    "content": [{"type": "text", "text": "Good day"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 8, "output_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0},
}
EMBEDDING = {"tokenCount": "2", "embedding": {"values": [0.5, -0.25]}}
REFUSED = {"error": {"code": 400, "message": "Model x does not support it.", "status": "INVALID_ARGUMENT"}}


def labelled(row="r-0"):
    return {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "labels": {"team": "x", "llm_batch_row": row}}


def read(**line):
    return MADE.read(json.dumps(line).encode())


def test_an_answer_of_geminis_is_what_the_sdk_reads():
    """Text, thoughts, usage: ours beside the SDK's types, from the same bytes."""
    line = json.dumps({"status": "", "processed_time": "now", "request": labelled(), "response": GEMINI}).encode()
    result, theirs = MADE.read(line), types.GenerateContentResponse.model_validate(json.loads(line)["response"])
    usage = theirs.usage_metadata
    assert (result.custom_id, result.status, result.text) == ("r-0", "succeeded", theirs.text)
    assert result.reasoning == "Thinking."
    assert (result.input_tokens, result.cached_tokens) == (usage.prompt_token_count, usage.cached_content_token_count)
    assert result.output_tokens == usage.candidates_token_count + usage.thoughts_token_count
    assert result.finish_reason == theirs.candidates[0].finish_reason.value
    # The price list knows no @default.
    assert result.model == "gemini-2.0-flash-001"


@pytest.mark.parametrize("response", [CLAUDE, {"status_code": 200, "body": CLAUDE}])
def test_an_answer_of_claudes_is_what_the_sdk_reads(response):
    """Bare, and in an HTTP answer as other partners' are."""
    result, theirs = read(custom_id="r-0", status="", response=response), anthropic.types.Message.model_validate(CLAUDE)
    assert (result.custom_id, result.status, result.text) == ("r-0", "succeeded", theirs.content[0].text)
    assert (result.input_tokens, result.cached_tokens) == (12, theirs.usage.cache_read_input_tokens)
    assert (result.output_tokens, result.model) == (theirs.usage.output_tokens, theirs.model)


def test_lines_as_anthropic_itself_writes_them():
    """A partner's results may come in its own shape."""
    result = read(custom_id="r-0", result={"type": "succeeded", "message": CLAUDE})
    assert (result.custom_id, result.status, result.text) == ("r-0", "succeeded", "Good day")
    assert read(custom_id="r-0", result={"type": "expired"}).status == "expired"


@pytest.mark.parametrize(
    "response", [EMBEDDING, {"embedding": EMBEDDING["embedding"], "usageMetadata": {"promptTokenCount": 2}}]
)
def test_a_vector(response):
    """Named by its key; tokens beside it, or in usageMetadata."""
    result = read(key="r-0", request={}, response=response)
    assert (result.custom_id, result.status) == ("r-0", "succeeded")
    assert list(result.embedding) == types.ContentEmbedding.model_validate(EMBEDDING["embedding"]).values
    assert (result.input_tokens, result.output_tokens) == (2, 0)


@pytest.mark.parametrize(
    ("status", "code", "row_status", "part"),
    [
        (f"Bad Request: {json.dumps(REFUSED)}", "INVALID_ARGUMENT", "errored", "does not support"),
        ("Too Many Requests: " + json.dumps({"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}),
         "RESOURCE_EXHAUSTED", "errored", "m"),
        ("Internal error encountered.", "server_error", "errored", "Internal error"),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT", "errored", "INVALID_ARGUMENT"),
        ("RESOURCE_EXHAUSTED: Quota exceeded.", "RESOURCE_EXHAUSTED", "errored", "Quota"),
        (f"Bad Request: [{json.dumps(REFUSED)}]", "INVALID_ARGUMENT", "errored", "does not support"),
        ("Bad Request: {cut off", "unknown_error", "errored", "cut off"),
        ({"code": 3, "message": "bad"}, "invalid_argument", "errored", "bad"),
        ({"code": 13, "message": "broken"}, "internal", "errored", "broken"),
        ({"code": 1, "message": "stopped"}, "batch_cancelled", "cancelled", "stopped"),
    ],
)  # fmt: skip
def test_a_status_that_says_something_is_an_error(status, code, row_status, part):
    """With its code and message, in each of the spellings; the response beside it is empty."""
    for line in ({"request": labelled(), "response": {}}, {"custom_id": "r-0"}, {"key": "r-0", "response": None}):
        result = read(status=status, **line)
        assert (result.custom_id, result.status, result.error_code) == ("r-0", row_status, code)
        assert part in result.error_message


def test_an_answer_is_believed_before_a_status():
    """What was answered is paid for, whatever stands beside it."""
    assert read(status="OK", request=labelled(), response=GEMINI).text == "Good day"
    assert read(status="odd", custom_id="r-0", response=CLAUDE).text == "Good day"


def test_neither_an_answer_nor_an_error():
    """A row has a result all the same; one that is not named has none."""
    result = read(request=labelled(), status="", response={})
    assert (result.status, result.error_code) == ("invalid", "unreadable_answer")
    for line in ({"status": "", "request": {}, "response": GEMINI}, {"request": {"labels": {"llm_batch_row": 7}}}):
        with pytest.raises(KeyError):
            read(**line)


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (200, GEMINI, ("succeeded", "Good day", None)),
        (200, CLAUDE, ("succeeded", "Good day", None)),
        (400, REFUSED, ("errored", None, "INVALID_ARGUMENT")),
        (429, {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}},
         ("errored", None, "RESOURCE_EXHAUSTED")),
        (503, {"odd": 1}, ("errored", None, "http_503")),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
         ("errored", None, "overloaded_error")),
    ],
)  # fmt: skip
def test_a_call_is_read_as_a_batch_is(status, body, wanted):
    """What a call answered, as the line that a batch would have."""
    line = MADE.answered("r-7", status, json.dumps(body).encode())
    result = MADE.read(line)
    assert result.custom_id == MADE.id_of(json.loads(line)) == "r-7"
    assert (result.status, result.text, result.error_code) == wanted


def test_a_good_vector_call_is_read():
    """embedContent's answer has its tokens elsewhere."""
    body = {"embedding": {"values": [1.0]}, "usageMetadata": {"promptTokenCount": 3}, "truncated": False}
    result = MADE.read(MADE.answered("r", 200, json.dumps(body).encode()))
    assert (result.status, result.input_tokens) == ("succeeded", 3)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "status",
        "response",
        "error",
        "request",
        "status_code",
        "instance",
        "candidates",
        "content",
        "parts",
        "finishReason",
        "usageMetadata",
        "type",
        "body",
        "promptTokenCount",
        "embedding",
        "values",
        "promptFeedback",
        "code",
        "message",
        "modelVersion",
        "usage",
        "stop_reason",
        "tokenCount",
        "labels",
        "predictions",
        "details",
        "role",
        "text",
    ]
)
KNOWN = st.sampled_from([GEMINI, CLAUDE, EMBEDDING, REFUSED, labelled(), "", "Bad Request: {}", "message", "STOP", -1])
LINES = st.recursive(
    ODD | KNOWN, lambda inner: st.dictionaries(NAMES, inner, max_size=5) | st.lists(inner, max_size=3), max_leaves=12
)


@settings(max_examples=400)
@given(st.dictionaries(NAMES, LINES, max_size=6), st.sampled_from(["custom_id", "key", "label"]))
def test_whatever_stands_in_a_line_its_row_gets_a_result(line, named):
    """Any JSON in any place: a named row has a status, a code where it has failed, and numbers that can be stored."""
    if named == "label":
        line["request"] = labelled()
    else:
        line[named] = "r-0"
    result = MADE.decode(line)
    assert result.custom_id == "r-0"
    assert result.status in ("succeeded", "errored", "refused", "truncated", "invalid", "cancelled", "expired")
    assert result.status == "succeeded" or result.error_code or result.status in ("truncated", "refused")
    for count in (result.input_tokens, result.output_tokens, result.cached_tokens):
        assert count is None or isinstance(count, int)
    answer = line.get("response")
    if result.status == "succeeded":
        assert isinstance(answer, dict)
        assert result.text or result.tool_calls or result.embedding or result.choices


MEMBERS = st.sampled_from(
    ["name", "state", "error", "labels", "createTime", "completionStats", "outputInfo", "outputConfig", "inputConfig"]
)
INNER = st.sampled_from(
    [
        "gcsSource",
        "uris",
        "gcsOutputDirectory",
        "gcsDestination",
        "outputUriPrefix",
        "successfulCount",
        "failedCount",
        "code",
        "message",
    ]
)


@settings(max_examples=200)
@given(st.dictionaries(MEMBERS, ODD | st.dictionaries(INNER, ODD), max_size=8), ODD)
def test_one_odd_job_hides_no_other(odd, strange):
    """A listing may hold anybody's jobs; ours is found beside them."""
    ours = {"name": "projects/p/locations/l/batchPredictionJobs/7", "state": "JOB_STATE_RUNNING"}
    flow = MADE.list()
    next(flow)
    body = json.dumps({"batchPredictionJobs": [odd, strange, ours], "nextPageToken": strange}).encode()
    with pytest.raises(StopIteration) as stop:
        flow.send(httpx.Response(200, content=body))
    assert stop.value.value.items[-1].id == "7"
