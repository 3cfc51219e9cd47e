"""The two short ways, of encoding rows and of reading results, against the long ones they must agree with."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.planning.lines import encode_between, encode_whole
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.anthropic.results import read_frequent as anthropic_frequent
from airflow_llm_batch.providers.anthropic.results import read_line as anthropic_line
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.openai.results import read_frequent as openai_frequent
from airflow_llm_batch.providers.openai.results import read_line as openai_line

PROVIDERS = [OpenAI("http://h"), Anthropic("http://h")]
JOB = "0a1b2c3d"
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}

#: braces, quotes, controls and every script, as they come in real rows
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
cell = text | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.none() | st.booleans()
cell |= st.lists(st.integers(), max_size=3) | st.dictionaries(text, text, max_size=2)
constant = st.sampled_from(['Label "it"\n', "{{text}} as {text}", "\u2028 {product}:{text}{text}", "", "é{product}"])


@st.composite
def requests(draw):
    """Chats whose rows differ in texts alone."""
    kind = draw(st.sampled_from(["user", "turns", "parts"]))
    given = {"model": "m", "max_tokens": draw(st.integers(1, 99)), "output": draw(st.sampled_from([None, SCHEMA]))}
    if kind == "user":
        return ChatRequest(system=draw(constant) or None, user=draw(constant), **given)
    turns = [{"role": role, "content": draw(constant)} for role in draw(st.permutations(["system", "user", "user"]))]
    if kind == "parts":
        turns[-1] = {"role": "user", "content": [{"type": "text", "text": draw(constant)}, IMAGE]}
    return ChatRequest(messages=turns, params=draw(st.sampled_from([{}, {"temperature": 0.5}])), **given)


@settings(max_examples=300)
@given(requests(), cell, cell, st.integers(0, 10**9), st.sampled_from(PROVIDERS))
def test_a_line_cut_at_its_columns_is_the_line_encoded_whole(request, product, text, number, provider):
    """Byte for byte, whatever a row holds and wherever a column stands."""
    row = {"product": product, "text": text, "unused": object()}

    def made(encode):
        try:
            encoder = encode(request, provider, JOB)
            if encoder is None:
                # What is refused of every row is told by the first one's place.
                refusal = made(encode_whole)
                assert isinstance(refusal, str)
                return refusal
            return encoder(number, row)
        except InputError as error:
            return str(error)

    between, whole = made(encode_between), made(encode_whole)
    if isinstance(whole, str):
        assert between == whole
    else:
        assert (between.request, between.kind, between.digest) == (whole.request, whole.kind, whole.digest)
        assert abs(between.tokens - whole.tokens) <= 1


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest(model="{model}", user="{text}"),
        ChatRequest(model="m", user="{text}", params={"temperature": "{heat}"}),
        ChatRequest(model="m", messages=[{"role": "{who}", "content": "{text}"}]),
        ChatRequest(model="m", messages=[{"role": "user", "content": [{**IMAGE, "image_url": {"url": "{url}"}}]}]),
        EmbeddingRequest(model="m"),
        RawRequest({"model": "m", "input": "{text}"}),
    ],
)
def test_a_request_that_differs_in_more_than_texts_is_encoded_whole(request_):
    """A model, a number, a role or a picture from the row: a provider may look at those."""
    assert encode_between(request_, PROVIDERS[0], JOB) is None


optional = st.none() | st.integers(0, 10**6)
odd = st.sampled_from([None, "7", 1.5, True, {}, [], "text", {"cached_tokens": 3}])


@st.composite
def openai_lines(draw):
    """Answers as OpenAI and its kin write them, mostly regular."""
    message = {"role": "assistant", "content": draw(text | odd), "refusal": draw(st.none() | text)}
    if draw(st.booleans()):
        message["tool_calls"] = draw(st.sampled_from([None, [], [{"id": "a", "function": {"name": "f"}}]]))
    usage = {"prompt_tokens": draw(optional | odd), "completion_tokens": draw(optional)}
    if draw(st.booleans()):
        usage["prompt_tokens_details"] = draw(odd | st.just({"cached_tokens": 4, "audio_tokens": 0}))
        usage["completion_tokens_details"] = draw(st.none() | st.just({"reasoning_tokens": 5}))
    reason = draw(st.sampled_from(["stop", "length", "content_filter", "tool_calls", None]))
    choices = [{"index": 0, "message": message, "finish_reason": reason}] * draw(st.integers(0, 2))
    body = {"id": "c", "model": draw(text | odd), "usage": draw(st.just(usage) | odd)}
    if draw(st.booleans()):
        body |= {"object": "list", "data": [{"embedding": [0.5, -1e-3]}] * draw(st.integers(0, 2))}
    else:
        body["choices"] = choices
    status = draw(st.sampled_from([200, 200, 200, 201, 400, "200", None]))
    line = {"id": "b", "custom_id": draw(text), "response": {"status_code": status, "body": body}, "error": None}
    return draw(st.just(line) | st.just({**line, "error": {"code": "x"}}) | st.just({**line, "response": None}))


@st.composite
def anthropic_lines(draw):
    """Answers as Anthropic writes them, mostly regular."""
    block = st.fixed_dictionaries({"type": st.just("text"), "text": text})
    other = st.just({"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}) | st.just({"type": "thinking"})
    usage = {"input_tokens": draw(optional | odd), "output_tokens": draw(optional)}
    if draw(st.booleans()):
        usage |= {"cache_read_input_tokens": draw(optional), "cache_creation_input_tokens": draw(optional)}
    message = {
        "model": draw(text | odd),
        "content": draw(st.lists(block | other, max_size=3) | odd),
        "stop_reason": draw(st.sampled_from(["end_turn", "max_tokens", "refusal", "tool_use", "stop_sequence", None])),
        "usage": draw(st.just(usage) | odd),
    }
    kind = draw(st.sampled_from(["succeeded", "succeeded", "succeeded", "errored", "expired"]))
    return {"custom_id": draw(text), "result": {"type": kind, "message": message}}


def facts_of(result):
    """A result with everything in it parsed."""
    return msgspec.json.decode(msgspec.json.encode(result))


def check(lines, frequent, whole):
    line = json.dumps(lines, ensure_ascii=False).encode()
    short = frequent(line)
    if short is not None:
        assert facts_of(short) == facts_of(whole(json.loads(line)))
    return short


@settings(max_examples=400)
@given(openai_lines())
def test_openais_frequent_lines_are_read_alike(line):
    """What the short way takes, it reads as the long way does."""
    check(line, openai_frequent, openai_line)


@settings(max_examples=400)
@given(anthropic_lines())
def test_anthropics_frequent_lines_are_read_alike(line):
    """Likewise."""
    check(line, anthropic_frequent, anthropic_line)


def test_the_usual_answers_take_the_short_way():
    """Else it would be tested in vain."""
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 1}}
    choice = {"message": {"role": "assistant", "content": "hi", "refusal": None}, "finish_reason": "stop"}
    for body in (
        {"model": "m", "usage": usage, "choices": [choice]},
        {"model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}, "data": [{"embedding": [0.5]}]},
    ):
        line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
        assert check(line, openai_frequent, openai_line) is not None
    message = {"model": "m", "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn"}
    message["usage"] = {"input_tokens": 5, "output_tokens": 6, "cache_read_input_tokens": 2}
    line = {"custom_id": "a", "result": {"type": "succeeded", "message": message}}
    assert check(line, anthropic_frequent, anthropic_line).input_tokens == 7
