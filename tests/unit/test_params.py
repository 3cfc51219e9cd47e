"""Parameters and conversations in the spelling of SDKs, of templates and of other libraries."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.data.output_schema import json_schema
from airflow_llm_batch.data.outputs import OutputCheck
from airflow_llm_batch.data.params import NUMBERS, given_params
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.results import Result


class Answer(BaseModel):
    label: str


def body(params, row=None, **more):
    render = ChatRequest("m", user="{text}", params=params, **more).compile()
    made = render({"text": "a", **(row or {})}).body
    return {name: value for name, value in made.items() if name not in ("model", "messages")}


GIVEN = [
    ({"temperature": None, "stop": [], "tools": [], "logit_bias": {}}, {"logit_bias": {}}),
    ({"logit_bias": {50256: -100}}, {"logit_bias": {"50256": -100}}),
    ({"temperature": "0.2", "seed": "7", "n": " 2 ", "top_p": "1.0", "top_k": "1e3"},
     {"temperature": 0.2, "seed": 7, "n": 2, "top_p": 1.0, "top_k": 1000}),
    ({"temperature": "{t}", "seed": "{n}", "user": "{n}"}, {"temperature": 0.5, "seed": None, "user": None}),
    ({"temperature": "{e}", "top_k": "{e}"}, {}),
    ({"transforms": [], "prompt_mode": None, "timeout": 60}, {"transforms": [], "prompt_mode": None, "timeout": 60}),
    ({"stop": ("a", "b"), "user": "7"}, {"stop": ["a", "b"], "user": "7"}),
]  # fmt: skip


@pytest.mark.parametrize(("params", "expected"), GIVEN)
def test_parameters_are_what_was_meant(params, expected):
    """Null says nothing, keys are text, a number is one although a template or a CSV file gave it as text."""
    made = body(params, {"t": "0.5", "n": None, "e": ""})
    assert made == expected
    assert [type(value) for value in made.values()] == [type(value) for value in expected.values()]


@given(st.dictionaries(st.sampled_from(sorted(NUMBERS)), st.integers() | st.floats(-2, 2).map(lambda n: round(n, 9))))
def test_numbers_come_back_from_text(params):
    """Whatever the number; those that were numbers stay what they are."""
    assert body({name: str(value) for name, value in params.items()}) == body(params) == given_params(params)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
REFUSED = [
    ({"temperature": "warm"}, {}, "temperature is 'warm'"),
    ({"temperature": "nan"}, {}, "temperature is 'nan'"),
    ({"temperature": "{t}"}, {}, "temperature is 'x'"),
    ({"response_format": Answer}, {}, r"params\['response_format'\].* output"),
    ({"tools": [Answer]}, {}, r"params\['tools'\].*model_json_schema"),
    ({"extra_body": 1}, {}, "'extra_body', an argument of the vendor's SDK"),
    ({"tools": [TOOL, TOOL]}, {}, "Two tools are named 'f'"),
    ({"tools": [TOOL, {"name": "f", "input_schema": {}}]}, {}, "Two tools are named 'f'"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, {}, "tool_choice is 'g'"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, {}, "tool_choice is 'g'"),
    ({"tool_choice": {"type": "function", "name": "g"}}, {}, "tool_choice is 'g'"),
    ({}, {"user": None, "messages": [("user", "{text}")]}, "messages is"),
    ({}, {"user": None, "messages": []}, r"messages is \[\]"),
    ({}, {"user": None, "messages": "hello"}, "messages is 'hello'"),
    ({}, {"user": None, "messages": [{"role": "human", "content": "{text}"}]}, "'human'; here it is 'user'"),
    ({}, {"user": 5}, "user is 5; give a text"),
    ({}, {"system": ["be brief"]}, "system is"),
]


@pytest.mark.parametrize(("params", "more", "why"), REFUSED)
def test_what_every_row_would_fail_for_is_refused_by_name(params, more, why):
    """Before anything is sent, and never by an error of Python's own."""
    with pytest.raises(InputError, match=why):
        ChatRequest("m", **{"user": "{text}", **more}, params=params).compile()({"text": "a", "t": "x"})


def test_tools_with_names_of_their_own_are_taken():
    """Chosen by name, in words, or by a column; a vendor's own have types for names."""
    own = [TOOL, {"type": "web_search"}, {"type": "code_interpreter"}]
    for choice in ("auto", {"type": "function", "function": {"name": "f"}}, {"type": "web_search"}, {"name": "{t}"}):
        assert body({"tools": own, "tool_choice": choice}, {"t": "f"})["tools"] == own


@pytest.mark.parametrize("tools", ["{t}", ["{t}"], [TOOL, {"type": "function", "function": {"name": "{t}"}}]])
def test_tools_that_rows_bring_may_be_chosen(tools):
    """What they are named is not known before; neither is what a server of tools has."""
    choice = {"type": "function", "function": {"name": "g"}}
    assert body({"tools": tools, "tool_choice": choice}, {"t": "g"})["tool_choice"] == choice
    remote = {"type": "mcp", "server_label": "s", "name": "of-the-server"}
    assert body({"tools": [{"type": "mcp", "server_label": "s"}], "tool_choice": remote})["tool_choice"] == remote


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses", "/v1/completions"])
def test_no_batch_streams(endpoint):
    """Not asked for, it may be said."""
    provider = OpenAI("http://h/v1")
    render = RawRequest({"model": "m", "input": "{text}", "stream": True}, endpoint).compile()
    with pytest.raises(InputError, match=r"stream .*Nothing was sent"):
        provider.translate(render({"text": "a"}))
    silent = RawRequest({"model": "m", "input": "{text}", "stream": False}, endpoint).compile()
    provider.translate(silent({"text": "a"}))


def test_other_requests_take_the_same_spellings():
    """An embedding's parameters and the numbers that are keys of a body."""
    embedding = EmbeddingRequest("e", params={"seed": None, "user": None}).compile()
    assert embedding({"text": "a"}).body == {"model": "e", "input": "a", "user": None}
    raw = RawRequest({"model": "m", "logit_bias": {5: 1}, "prompt": "{text}"}).compile()
    assert raw({"text": "a"}).body == {"model": "m", "logit_bias": {"5": 1}, "prompt": "a"}


SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}}


@pytest.mark.parametrize(
    "output", [{"name": "answer", "strict": True, "schema": SCHEMA}, {"label": "string"}, {"title": "A", "$defs": {}}]
)
def test_what_would_hold_no_answer_to_anything_is_no_schema(output):
    """OpenAI's object around a schema, an example of an answer: every row would be paid and called good."""
    with pytest.raises(InputError, match=r"none of JSON schema's keywords.*Nothing was sent"):
        ChatRequest("m", user="{text}", output=output).compile()
    assert ChatRequest("m", user="{text}", output=SCHEMA).schema() == SCHEMA


NULLABLE = [
    ({"type": "string", "nullable": True}, {"type": ["string", "null"]}, None),
    ({"type": "string", "enum": ["a"], "description": "d", "nullable": True},
     {"description": "d", "anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null"}]}, None),
    ({"$ref": "#/$defs/nullable", "nullable": True}, {"anyOf": [{"$ref": "#/$defs/nullable"}, {"type": "null"}]}, None),
    ({"type": "array", "items": {"type": "integer", "nullable": True}},
     {"type": "array", "items": {"type": ["integer", "null"]}}, [None]),
    ({"type": "string", "nullable": False}, {"type": "string", "nullable": False}, "a"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "expected", "answer"), NULLABLE)
def test_what_openapi_calls_nullable_may_be_null(part, expected, answer):
    """It is asked for and landed so; a property of that name is a property."""
    rest = {"required": ["x"], "additionalProperties": False}
    definitions = {"nullable": {"type": "object", "properties": {"nullable": {"type": "string"}}}}
    schema = {"type": "object", "properties": {"x": part}, **rest, "$defs": definitions}
    request = ChatRequest("m", user="{text}", output=schema)
    wanted = {**schema, "properties": {"x": expected}}
    asked = request.compile()({"text": "a"}).body["response_format"]["json_schema"]["schema"]
    assert request.schema() == asked == wanted
    result = Result(status="succeeded", text=json.dumps({"x": answer}))
    OutputCheck(request.schema())(result)
    assert (result.status, result.output) == ("succeeded", {"x": answer})


def test_what_a_whole_schema_defines_stays_where_it_is_referred_to():
    """Of a root that may be null, too."""
    defined = {"$defs": {"A": {"type": "string"}}}
    assert json_schema({"$ref": "#/$defs/A", **defined, "nullable": True}) == {
        **defined, "anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}],
    }  # fmt: skip
