"""Answers as vendors and gateways write them: what is good is taken, and what was paid for is kept."""

import array
import base64
import json
import struct

import pytest
from pydantic import BaseModel

from airflow_llm_batch.data.outputs import OutputCheck
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.results import Result

OPENAI, ANTHROPIC = OpenAI("http://h"), Anthropic("http://h")
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def line(body, status=200, **more):
    answer = {"status_code": status, "body": body}
    return json.dumps({"custom_id": "a", "response": answer, "error": None, **more}).encode()


def completion(content="fine", finish="stop", **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE}


NULLS = {"code": None, "message": None, "type": None, "param": None}
TAKEN = [
    line(completion()),
    line(completion(), None),
    json.dumps({"custom_id": "a", "response": {"body": completion()}}).encode(),
    line(completion(), error=NULLS),
    line({**completion(), "error": NULLS}),
    line({**completion(), "error": {"inner": {"message": ""}}}),
]


@pytest.mark.parametrize("line", TAKEN)
def test_a_good_answer_is_taken(line):
    """Without a status, and beside an error that says nothing."""
    result = OPENAI.read(line)
    assert (result.status, result.text, result.error_code) == ("succeeded", "fine", None)


@pytest.mark.parametrize("response", [{"body": None}, {"body": {}}, {"status_code": 0, "body": completion()}, {"x": 1}])
def test_no_status_beside_no_body_is_no_success(response):
    """A status that is told counts, and without one only a body does."""
    line = json.dumps({"custom_id": "a", "response": response, "error": None}).encode()
    assert OPENAI.read(line).status == "errored"


FILTERS = [
    # Bedrock, Gemini, Cohere, Zhipu, Gemini's compatible address
    "content_filter", "guardrail_intervened", "content_filtered", "SPII", "IMAGE_SAFETY", "ERROR_TOXIC", "sensitive",
    "content_filter: PROHIBITED_CONTENT", "RECITATION", "refusal", "ContentFilter",
]  # fmt: skip
#: DeepSeek's, vLLM's and SGLang's, Zhipu's
BROKEN = ["insufficient_system_resource", "abort", "network_error", "error"]


@pytest.mark.parametrize("ending", FILTERS)
def test_a_filter_ends_an_answer_in_any_spelling(ending):
    """The row is refused."""
    assert OPENAI.read(line(completion("", ending))).status == "refused"


@pytest.mark.parametrize("ending", BROKEN)
def test_an_answer_that_the_server_gave_up_is_errored(ending):
    """With a code that may pass, and what came of it."""
    result = OPENAI.read(line(completion("half", ending)))
    assert (result.status, result.error_code, result.text) == ("errored", "ended_in_error", "half")
    assert ending in result.error_message


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo"}}
SOUND = {"id": "audio_1", "data": "UklGRiQAAABXQVZF", "transcript": "hello"}
RAN = {"index": 0, "type": "search", "output": "x"}
MEDIA = [
    ({"images": [IMAGE]}, [IMAGE], "succeeded"),  # OpenRouter, LiteLLM
    ({"audio": SOUND}, [SOUND], "succeeded"),  # OpenAI
    ({"executed_tools": [RAN]}, [RAN], "invalid"),  # Groq: no answer by itself
]


@pytest.mark.parametrize(("message", "media", "alone"), MEDIA)
def test_media_are_kept(message, media, alone):
    """As the vendor wrote them, also where they are all there is."""
    both = OPENAI.read(line(completion("see", **message)))
    assert (both.text, both.choices[0]["media"], both.choices[0]["text"]) == ("see", media, "see")
    only = OPENAI.read(line(completion(None, **message)))
    assert (only.status, only.choices[0]["media"]) == (alone, media)
    assert OPENAI.read(line(completion())).choices is None


def test_media_of_several_answers_stay_with_theirs():
    """Each choice has its own."""
    body = completion("a")
    second = {"index": 1, "message": {"content": "b", "images": [IMAGE]}, "finish_reason": "stop"}
    body["choices"].append(second)
    assert [choice.get("media") for choice in OPENAI.read(line(body)).choices] == [None, [IMAGE]]


def test_what_anthropics_tools_made_is_kept():
    """Results of code, with the ids of its files; what the model asked for alone is no answer."""
    asked = {"type": "server_tool_use", "id": "s", "name": "bash_code_execution", "input": {}}
    made = {"type": "bash_code_execution_tool_result", "content": {"content": [{"file_id": "file_011ABC"}]}}
    message = {"model": "m", "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}

    def read(*content):
        answer = {"type": "succeeded", "message": {**message, "content": content}}
        return ANTHROPIC.read(json.dumps({"custom_id": "a", "result": answer}).encode())

    result = read(asked, made, {"type": "text", "text": "done"})
    assert (result.status, result.text, result.choices[0]["media"]) == ("succeeded", "done", [asked, made])
    assert read(asked, made).status == "succeeded"
    assert read(asked).error_code == "empty_answer"
    assert read({"type": ["odd"]}, {"type": "text", "text": "done"}).text == "done"


HIDDEN = [
    ({"context": {"citations": [{"url": "u"}]}}, "citations", [{"url": "u"}]),  # Azure, on your data
    ({"provider_specific_fields": {"citations": [[{"cited_text": "x"}]]}}, "citations", [[{"cited_text": "x"}]]),
    ({"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "x"}]}, "reasoning", "hm"),  # LiteLLM
    ({"provider_specific_fields": {"reasoning_content": "hm"}}, "reasoning", "hm"),
    ({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "reasoning", "hm"),  # OpenRouter
    ({"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]}, "reasoning", "hm"),
    ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, "reasoning", None),
    ({"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "reasoning", "hm"),
]


@pytest.mark.parametrize(("message", "field", "kept"), HIDDEN)
def test_citations_and_thoughts_are_found_wherever_they_stand(message, field, kept):
    """In fields of the vendor's own, and those of proxies."""
    result = OPENAI.read(line(completion(**message)))
    assert (result.status, result.text, getattr(result, field)) == ("succeeded", "fine", kept)


def call(arguments, kind="function"):
    named = {"name": "f", "arguments" if kind == "function" else "input": arguments}
    return {"tool_calls": [{"id": "c", "type": kind, kind: named}]}


CALLS = [
    (call('{"a": 1}'), "succeeded", {"a": 1}),
    (call('{"a": 1, "b": '), "invalid", '{"a": 1, "b": '),
    (call(""), "succeeded", ""),
    (call('"{}"'), "succeeded", "{}"),
    (call('"no object"'), "invalid", "no object"),
    (call("free text", "custom"), "succeeded", "free text"),
    ({"function_call": {"name": "f", "arguments": '{"a'}}, "invalid", '{"a'),
]


@pytest.mark.parametrize(("message", "status", "arguments"), CALLS)
def test_a_call_that_was_cut_is_invalid(message, status, arguments):
    """Its arguments are kept as they came; a tool that takes free text gets it."""
    result = OPENAI.read(line(completion(None, "tool_calls", **message)))
    assert (result.status, result.tool_calls[0]["arguments"]) == (status, arguments)
    assert result.error_code == ("invalid_tool_arguments" if status == "invalid" else None)


def test_a_call_of_the_responses_api_that_was_cut_is_invalid():
    """And an item whose type is no text does not cost the answer."""
    asked = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a'}
    said = {"type": "message", "content": [{"type": "output_text", "text": "fine"}]}
    body = {"object": "response", "status": "completed", "model": "m", "usage": {"input_tokens": 1}}
    assert OPENAI.read(line({**body, "output": [asked]})).error_code == "invalid_tool_arguments"
    custom = {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "go"}
    assert OPENAI.read(line({**body, "output": [custom]})).status == "succeeded"
    for kind in (["odd"], {"odd": 1}, 3, None):
        assert OPENAI.read(line({**body, "output": [{"type": kind}, said]})).text == "fine"


def packed(kind, numbers):
    return base64.b64encode(array.array(kind, numbers).tobytes()).decode()


VECTORS = [
    (base64.b64encode(struct.pack("<4f", 0.5, -1, 0, 1e-3)).decode(), True),
    (base64.b64encode(struct.pack("<3f", 0, 0, 0)).decode(), True),
    # Voyage's and Mistral's output_dtype, base64
    (packed("b", [n % 200 - 100 for n in range(1024)]), False),
    (packed("b", [n % 7 - 3 for n in range(1024)]), False),
    (packed("B", [n * 37 % 256 for n in range(128)]), False),
    (packed("b", [1, 2, 3]), False),
    (base64.b64encode(struct.pack("<2f", float("nan"), 1)).decode(), False),
    ([[0.1, 0.2], [0.3, 0.4]], False),  # a vector per token: Jina's ColBERT, vLLM's token_embed
    ([None, 1], False),
    ("no base64", False),
]


@pytest.mark.parametrize(("vector", "good"), VECTORS)
def test_a_vector_that_cannot_be_read_is_kept_as_it_came(vector, good):
    """Bytes that are no float32 are not taken for some; what was paid for is in output."""
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    result = OPENAI.read(line({"object": "list", "model": "e", "data": data, "usage": {"prompt_tokens": 1}}))
    if good:
        assert (result.status, result.error_code, result.output) == ("succeeded", None, None)
    else:
        assert (result.status, result.error_code, result.output) == ("invalid", "bad_vector", data)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
WRITTEN = [
    ('{"n": 1}', {"n": 1}, None),
    ('```json\n{"n": 1}\n```', {"n": 1}, None),
    ('```\n{"n": 1}```\n', {"n": 1}, None),
    ('<think>\nHm, {good}.\n</think>\n\n{"n": 1}', {"n": 1}, "Hm, {good}."),
    ('Hm.</think>{"n": 1}', {"n": 1}, "Hm."),
    ('<think>\n\n</think>\n```json\n{"n": 1}\n```', {"n": 1}, None),
    ('Here it is: {"n": 1}', None, None),
    ('```json\n{"n": 1}\n``` and ```json\n{"n": 2}\n```', None, None),
    ('```json\n{"n": ', None, None),
    ("<think>{}", None, None),
    ('```json {"n": 1}```', {"n": 1}, None),
    ('```\n{"n": 1, "code": "```x```"}\n```', {"n": 1, "code": "```x```"}, None),
    ("```", None, None),
    ("```json\n{" + "\n" * 200_000, None, None),
    ('Here it is:\n```json\n{"n": 1}\n```\nDone.', {"n": 1}, None),
    ('<think>{"n": 0}</think>So:\n  ```json\n{"n": 1}\n```', {"n": 1}, '{"n": 0}'),
    ('``` json\n{"n": 1}\n```', {"n": 1}, None),
    ('````json\n{"n": 1}\n````', {"n": 1}, None),
    ('In ```{"n": 1}``` or so', None, None),
    ('```py\nn = 1\n```\n```json\n{"n": 1}\n```', None, None),
    ('It has "```1```": {"n": 2}', None, None),
    ('\ufeff\xa0{"n": 1}\u200b\n', {"n": 1}, None),
    ('{"n": 1,\n\t"s": "a\nb\tc\x00"}', {"n": 1, "s": "a\nb\tc\0"}, None),
    ('{"n": 1, "s": "\\ud83d", "f": 1e999}', None, None),
    ('{"n": 1, "s": "\\ud83d", "f": 1e9}', {"n": 1, "s": "\ufffd", "f": 1e9}, None),
]


@pytest.mark.parametrize(("text", "output", "reasoning"), WRITTEN)
def test_an_answers_json_is_found_in_its_fence_and_after_thoughts(text, output, reasoning):
    """One fence that begins a line, thoughts before it, control characters in its texts; anything else is no JSON, and
    the text stays as it is."""
    result = Result(status="succeeded", text=text)
    OutputCheck(SCHEMA)(result)
    assert (result.output, result.reasoning, result.text) == (output, reasoning, text)
    assert result.status == ("succeeded" if output else "invalid")
    answer = Result(status="succeeded", text=text, reasoning="told")
    OutputCheck(SCHEMA)(answer)
    assert answer.reasoning == "told"


def test_a_set_may_be_answered_with_duplicates():
    """As the model that asked for it takes them; a property of that name is checked."""

    class Tags(BaseModel):
        tags: set[str]

    result = Result(status="succeeded", text='{"tags": ["a", "a"]}')
    OutputCheck(Tags.model_json_schema())(result)
    assert (result.status, result.output) == ("succeeded", {"tags": ["a", "a"]})
    named = {**SCHEMA, "properties": {"uniqueItems": {"enum": [{"uniqueItems": 1}]}}, "required": ["uniqueItems"]}
    for value, status in ({"uniqueItems": 1}, "succeeded"), ({}, "invalid"), (3, "invalid"):
        result = Result(status="succeeded", text=json.dumps({"uniqueItems": value}))
        OutputCheck(named)(result)
        assert result.status == status


SEEN = [
    line(completion()),
    *(line(completion(**message)) for message, _, _ in (*MEDIA, *HIDDEN)),
    *(line(completion(None, "tool_calls", **message)) for message, _, _ in CALLS),
    *(
        line({**completion(), "usage": {**USAGE, **more}})
        for more in (
            {"total_tokens": 500},
            {"total_tokens": None},
            {"total_tokens": None, "completion_tokens_details": {"reasoning_tokens": 50}},
            {"prompt_tokens_details": {"audio_tokens": 3}},
            {"prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 2}},
            {"prompt_cache_hit_tokens": 3},
            {"cached_tokens": 3},
            {"cache_creation_input_tokens": 3},
        )
    ),
    line({**completion(), "model": "gpt-4o-search-preview"}),
]


@pytest.mark.parametrize("line", SEEN)
def test_the_quick_way_reads_what_the_long_way_reads(line):
    """Or leaves the line to it: nothing that was paid for is lost on lines that look ordinary."""
    assert OPENAI.read(line) == OPENAI.decode(json.loads(line))
