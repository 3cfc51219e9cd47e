"""Gemini's answers: what we read of them is what Google's own types read of the same bytes."""

from __future__ import annotations

import json

import pytest
from google.genai import types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_llm_batch.providers.gemini.lines import read_frequent, read_line
from airflow_llm_batch.providers.gemini.protocol import Gemini
from airflow_llm_batch.providers.gemini.words import snake
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.results import ROW_STATUSES

USAGE = {"promptTokenCount": 12, "candidatesTokenCount": 5, "totalTokenCount": 17}
PARTS = {
    "text": [{"text": "a"}, {"text": "b"}],
    "thoughts": [{"text": "hm", "thought": True}, {"text": "4"}],
    "call": [{"functionCall": {"name": "f", "args": {"x": [1, None]}, "id": "c1"}}],
    "calls and text": [
        {"text": "so:"},
        {"functionCall": {"name": "f", "args": {}}},
        {"functionCall": {"name": "g"}, "thoughtSignature": "AA=="},
    ],
}


QUOTA = "You exceeded your current quota, please check your plan and billing details"


def response(parts=None, finish="STOP", usage=None, **candidate):
    content = {"content": {"role": "model", "parts": PARTS["text"] if parts is None else parts}}
    candidate = {**content, "finishReason": finish, **candidate}
    return {"candidates": [candidate], "usageMetadata": usage or USAGE, "modelVersion": "gemini-3.8-flash"}


def read(said=None, **line):
    return Gemini("http://h").read(json.dumps({"key": "a-1", **({"response": said} if said else {}), **line}).encode())


def snaked(value):
    """The same in the other spelling."""
    if isinstance(value, list):
        return [snaked(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {snake(name): inner if name == "args" else snaked(inner) for name, inner in value.items()}


@pytest.mark.parametrize("spelling", ["camelCase", "snake_case"])
@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_an_answer_is_what_the_sdk_says(parts, spelling):
    """Text, calls, thoughts, usage, model and ending, in both spellings."""
    usage = {**USAGE, "thoughtsTokenCount": 7, "cachedContentTokenCount": 4, "toolUsePromptTokenCount": 3}
    said = response(parts, usage=usage)
    theirs = types.GenerateContentResponse.model_validate(json.loads(json.dumps(said)))
    ours = read(said if spelling == "camelCase" else snaked(said))
    assert (ours.status, ours.custom_id) == ("succeeded", "a-1")
    assert (ours.text or None) == theirs.text
    calls = [{"id": c.id, "name": c.name, "arguments": c.args or {}} for c in theirs.function_calls or ()]
    assert (ours.tool_calls or []) == calls
    said = theirs.candidates[0]
    assert ours.finish_reason == said.finish_reason.value
    assert ours.reasoning == ("\n".join(p.text for p in said.content.parts if p.thought) or None)
    counted = theirs.usage_metadata
    assert ours.model == theirs.model_version
    assert ours.input_tokens == counted.prompt_token_count + counted.tool_use_prompt_token_count
    assert ours.cached_tokens == counted.cached_content_token_count
    assert ours.output_tokens == counted.candidates_token_count + counted.thoughts_token_count
    assert ours.reasoning_tokens == counted.thoughts_token_count


FILTERS = (
    "SAFETY",
    "RECITATION",
    "BLOCKLIST",
    "PROHIBITED_CONTENT",
    "SPII",
    "LANGUAGE",
    "IMAGE_SAFETY",
    "MODEL_ARMOR",
    "ESCALATION",
    "IMAGE_PROHIBITED_CONTENT",
    "IMAGE_RECITATION",
    "PUP_LIMITED_DISABLED",
)
BROKEN = (
    "MALFORMED_FUNCTION_CALL",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MALFORMED_RESPONSE",
    "MISSING_THOUGHT_SIGNATURE",
)
CUT = ("MAX_TOKENS", "CONTINUATION")


def test_every_ending_that_the_sdk_knows_is_judged():
    """Only STOP succeeds; filters refuse, what the model broke is invalid, the rest is cut short."""
    for reason in types.FinishReason:
        word = reason.value
        result = read(response(finish=word))
        wanted = (
            "succeeded"
            if word == "STOP"
            else "refused"
            if word in FILTERS
            else "invalid"
            if word in BROKEN
            else "truncated"
        )
        assert (word, result.status) == (word, wanted)
        assert result.finish_reason == word
        if wanted == "truncated" and word not in CUT:
            assert result.error_code == "unknown_ending"
        assert wanted == "succeeded" or word in CUT or result.error_code
    assert read(response(finish="SOMETHING_NEW")).status == "truncated"
    assert read(response(finish=None)).error_code == "no_ending"


def test_a_block_tells_its_categories():
    """Of a prompt and of an answer: what the filter says is the code, and its words the message."""
    ratings = [
        {"category": "HARM_CATEGORY_HARASSMENT", "probability": "HIGH", "blocked": True},
        {"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "LOW"},
    ]
    for reason in types.BlockedReason:
        if reason.value.endswith("UNSPECIFIED"):
            continue
        feedback = {"blockReason": reason.value, "blockReasonMessage": "no"}
        blocked = read({"promptFeedback": feedback, "usageMetadata": {"promptTokenCount": 3}})
        assert (blocked.status, blocked.error_code, blocked.error_message) == ("refused", reason.value, "no")
        assert (blocked.input_tokens, blocked.output_tokens) == (3, 0)
    answer = read(response([], "SAFETY", safetyRatings=ratings, finishMessage="harmful"))
    assert (answer.status, answer.error_code) == ("refused", "HARM_CATEGORY_HARASSMENT")
    assert answer.error_message == "harmful"


def test_each_candidate_has_an_ending_of_its_own():
    """The first is the row's answer, by index; a zero index is left out; all of them are choices."""
    said = response([{"text": "second"}], "MAX_TOKENS", index=1)
    said["candidates"].append(response([{"text": "first"}])["candidates"][0])
    result = read(said)
    assert (result.text, result.status) == ("first", "succeeded")
    assert [(c["text"], c["status"], c["finish_reason"]) for c in result.choices] == [
        ("first", "succeeded", "STOP"),
        ("second", "truncated", "MAX_TOKENS"),
    ]


def test_what_is_more_than_text_is_kept():
    """Images and code as media, citations, searches, audio, log probabilities in OpenAI's shape."""
    parts = [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": "AA"}}]
    result = read(
        response(
            parts,
            usage={
                **USAGE,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 2}, {"modality": "AUDIO", "tokenCount": 10}],
            },
            citationMetadata={"citationSources": [{"uri": "u"}]},
            groundingMetadata={"webSearchQueries": ["q", "r"], "groundingChunks": [{"web": {"uri": "w"}}]},
            logprobsResult={
                "chosenCandidates": [{"token": "a", "logProbability": -0.5}],
                "topCandidates": [
                    {"candidates": [{"token": "a", "logProbability": -0.5}, {"token": "b", "logProbability": -2}]}
                ],
            },
        )
    )
    assert result.choices[0]["media"] == parts[1:]
    assert result.citations == [{"uri": "u"}, {"web": {"uri": "w"}}]
    assert result.tool_uses == {"audio_input_tokens": 10, "web_search": 2, "image_output_tokens": 0}
    assert result.logprobs == {
        "content": [
            {
                "token": "a",
                "logprob": -0.5,
                "top_logprobs": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -2}],
            }
        ]
    }
    image = read(response(parts[1:]))
    assert (image.status, image.text) == ("succeeded", None)
    asked = read(response([{"executableCode": {"code": "1"}}]))
    assert (asked.status, asked.error_code) == ("invalid", "empty_answer")


def test_searches_are_billed_by_prompt_on_older_models():
    """However many there are."""
    said = {**response(groundingMetadata={"webSearchQueries": ["q", "r"]}), "modelVersion": "gemini-2.5-flash"}
    assert read(said).tool_uses == {"web_search": 1}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"code": 3, "message": "bad"}, "errored", "invalid_argument"),
        ({"code": 400, "status": "INVALID_ARGUMENT", "message": "bad"}, "errored", "INVALID_ARGUMENT"),
        ({"code": 8, "message": "quota"}, "errored", "resource_exhausted"),
        ({"code": "13", "message": "oops"}, "errored", "internal"),
        ({"code": 1, "message": "stopped"}, "cancelled", "batch_cancelled"),
        ({"message": "blocked by content filter"}, "refused", "unknown_error"),
        # The sentence alone is that of an account without a quota.
        ({"code": 8, "message": f"{QUOTA}."}, "errored", "insufficient_quota"),
        ({"code": 8, "message": f"{QUOTA}.", "details": [{"retryDelay": "30s"}]}, "errored", "resource_exhausted"),
        ({}, "errored", "unknown_error"),
        ("odd", "errored", "unknown_error"),
    ],
)
def test_failed_lines_of_a_batch_that_succeeded(error, status, code):
    """``google.rpc.Status`` beside good lines; also within the response, and beside an empty one."""
    for line in ({"error": error}, {"error": error, "response": None}):
        result = read(**line)
        assert (result.status, result.error_code) == (status, code)
        assert result.error_message
    if error:
        assert read({"error": error}).status == status


def test_embeddings_are_read_from_batches_and_calls():
    """Nested, beside the key, several; tokens where they are told; what is no vector is invalid."""
    vector = {"embedding": {"values": [0.5, -1]}}
    for line in (
        {"response": {**vector, "tokenCount": "3"}},
        {"response": {**vector, "usageMetadata": {"promptTokenCount": 3}}},
        {**vector, "tokenCount": 3},
    ):
        result = read(**line)
        assert (result.status, result.embedding, result.input_tokens, result.output_tokens) == (
            "succeeded",
            [0.5, -1],
            3,
            0,
        )
    assert read({"embeddings": [{"values": [1]}, {"values": [2]}]}).embedding == [[1], [2]]
    for odd in ({}, {"values": []}, {"values": [None]}, "x", None):
        assert read({"embedding": odd}).error_code == "bad_vector"


def test_rows_are_named_in_several_ways():
    """``key``, ``custom_id``, the metadata of inline items; a line without any is nobody's."""
    for named in ({"key": "k"}, {"custom_id": "k"}, {"metadata": {"key": "k"}}):
        assert read_line({**named, "response": response()}).custom_id == "k"
    for unnamed in ({}, {"key": None}, {"key": True}, {"metadata": "k"}):
        with pytest.raises(KeyError):
            read_line({**unnamed, "response": response()})


def test_the_short_way_reads_what_the_long_way_reads():
    """The most frequent lines at half the price; all others take the long way."""
    plain = {"key": "a", "response": response([{"text": "x"}], usage={**USAGE, "thoughtsTokenCount": 2})}
    line = json.dumps(plain).encode()
    assert read_frequent(line) == read_line(plain) == Gemini("http://h").read(line)
    audio = {**USAGE, "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}]}
    others = (
        response([{"text": "x"}], "MAX_TOKENS"),
        response([{"text": "x", "thought": True}]),
        response([]),
        response(),
        response([{"text": "x"}], usage=audio),
        response([{"text": "x"}], groundingMetadata={"webSearchQueries": ["q"]}),
    )
    for said in others:
        assert read_frequent(json.dumps({"key": "a", "response": said}).encode()) is None


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "STOP", "SAFETY", "7", "\ud83d"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "code", "parts", "values", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)
GOOD = [
    response(
        PARTS["calls and text"], safetyRatings=[{"category": "c", "blocked": True}], citationMetadata={"citations": []}
    ),
    response([{"text": "x"}]),
    response(
        [],
        "SAFETY",
        groundingMetadata={"groundingChunks": [{"maps": {}}]},
        logprobsResult={"chosenCandidates": [{"token": "a"}]},
    ),
    {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": []}},
    {"embedding": {"values": [1, 2]}, "tokenCount": "1"},
]


def places(value, path=()):
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


def test_an_ending_in_an_odd_shape_has_its_code():
    """A list where a word should be: refused all the same, and by what."""
    answer = {"candidates": [{"content": {"parts": []}, "finishReason": ["SAFETY"]}], "modelVersion": "m"}
    result = Gemini("http://h").read(json.dumps({"key": "a", "response": answer}).encode())
    assert (result.status, result.error_code) == ("refused", '["SAFETY"]')


@settings(max_examples=1500, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(GOOD), st.data())
def test_whatever_json_stands_in_an_answer_the_row_gets_a_result(said, data):
    """One to three places changed: a status that is known, and both ways agree where the short one goes."""
    line = {"key": "a", "response": said}
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([p for p in places(line) if p and p != ("key",)]))
        line = changed(line, path, data.draw(odd))
    raw = json.dumps(line).encode()
    result = Gemini("http://h").read(raw)
    assert result.status in ROW_STATUSES
    assert result.status == "succeeded" or result.status == "truncated" or result.error_code
    if (short := read_frequent(raw)) is not None:
        assert short == read_line(parse_line(raw))
