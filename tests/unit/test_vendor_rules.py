"""What vendors refuse row by row is refused, or fitted, before anything is sent; gateways and unknown names pass."""

from __future__ import annotations

import pytest

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.planning.encoding import RowSpec, encode_rows
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.openai.protocol import OpenAI

OPENAI, CLAUDE, GATEWAY = OpenAI(), Anthropic(), OpenAI("http://gateway/v1")
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
THINK = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CACHE = {"type": "ephemeral"}


def sent(provider, model, row=None, **more):
    """The request of one row as it goes out."""
    more = {"user": "{text}", "max_tokens": 5000, **({"user": None} if "messages" in more else {}), **more}
    return provider.translate(ChatRequest(model, **more).compile()(row or {"text": "a"}))


OPENAI_REFUSES = [
    ("gpt-5-mini", {"params": {"temperature": 0}}, "temperature"),
    ("o3", {"params": {"top_p": 0.2}}, "top_p"),
    ("o4-mini-2025-04-16", {"params": {"stop": ["x"]}}, "stop"),
    ("gpt-5", {"params": {"logprobs": True}}, "logprobs"),
    ("ft:o4-mini:us::1", {"params": {"presence_penalty": 1}}, "presence_penalty"),
    ("gpt-5.1", {"params": {"temperature": 0, "reasoning_effort": "low"}}, "temperature"),
    ("gpt-4o", {"params": {"reasoning_effort": "low"}}, "reasoning effort"),
    ("gpt-4.1-mini", {"api": "responses", "params": {"reasoning": {"effort": "low"}}}, "reasoning effort"),
    ("gpt-4-turbo", {"output": SCHEMA}, "structured outputs"),
    ("gpt-3.5-turbo-0125", {"output": SCHEMA}, "structured outputs"),
    ("gpt-4o-2024-05-13", {"output": SCHEMA}, "structured outputs"),
    ("gpt-4o", {"params": {"response_format": {"type": "json_object"}}}, "the word JSON"),
    ("gpt-4o", {"api": "responses", "max_tokens": 5}, "16"),
    ("o3-pro", {"api": "chat"}, "Responses API alone"),
    ("gpt-4o", {"params": {"tools": [{"type": "function", "function": {"name": "a.b"}}]}}, "a.b"),
    ("gpt-4o", {"messages": [{"role": "tool", "content": "42"}]}, "tool_call_id"),
    ("o3", {"params": {"max_tokens": 9}}, "max_tokens"),
    ("gpt-4o", {"system": "S", "params": {"system": "T"}}, "system"),
    ("gpt-4o", {"max_tokens": "many"}, "many"),
]
for address in ("s3://bucket/a.png", "/data/a.png", "iVBORw0KGgo" * 200):
    picture = {"type": "image_url", "image_url": {"url": address}}
    OPENAI_REFUSES.append(("gpt-4o", {"messages": [{"role": "user", "content": [picture]}]}, "image's address"))


@pytest.mark.parametrize(("model", "asked", "word"), OPENAI_REFUSES)
def test_openai_rules(model, asked, word):
    """Each by its name, with what to do, and that nothing was sent."""
    with pytest.raises(InputError, match=r"Nothing was sent") as refused:
        sent(OPENAI, model, **asked)
    assert word in str(refused.value)


OPENAI_TAKES = [
    ("gpt-4o", {"params": {"temperature": 0, "stop": "x", "logprobs": True}}),
    ("gpt-5.1", {"params": {"temperature": 0}}),
    ("gpt-5.2", {"params": {"temperature": 0, "reasoning_effort": "none"}}),
    ("gpt-5-chat-latest", {"params": {"temperature": 0}}),
    ("gpt-4.1", {"output": SCHEMA}),
    ("gpt-4o", {"user": "As json: {text}", "params": {"response_format": {"type": "json_object"}}}),
    ("some-model", {"params": {"temperature": 0, "reasoning_effort": "low"}, "output": SCHEMA}),
]


@pytest.mark.parametrize(("model", "asked"), OPENAI_TAKES)
def test_openai_takes(model, asked):
    """What the model takes goes out as it was given."""
    body = sent(OPENAI, model, **asked).body
    assert asked.get("params", {}).items() <= body.items()


def test_a_gateway_has_rules_of_its_own():
    """The same names elsewhere mean what the gateway makes of them."""
    params = {"temperature": 0, "reasoning_effort": "low", "response_format": {"type": "json_object"}}
    assert params.items() <= sent(GATEWAY, "gpt-5-mini", params=params).body.items()
    assert sent(GATEWAY, "o3-pro").endpoint == "/v1/chat/completions"
    assert sent(GATEWAY, "gpt-4-turbo", output=SCHEMA).body["response_format"]["type"] == "json_schema"
    sent(Anthropic("http://gateway"), "claude-opus-4-7", params={"temperature": 0.5})


def test_what_openai_wants_otherwise_is_fitted():
    """Defaults that a model refuses, the cap's old name, an image's address alone, arguments as an object."""
    body = sent(OPENAI, "gpt-5-mini", params={"temperature": 1, "frequency_penalty": 0}).body
    assert not body.keys() & {"temperature", "frequency_penalty"}
    raw = {"model": "o3", "max_tokens": 9, "messages": [{"role": "user", "content": "{text}"}]}
    body = OPENAI.translate(RawRequest(raw).compile()({"text": "a"})).body
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 9)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    talk = [
        {"role": "user", "content": [{"type": "image_url", "image_url": "https://x/y.png"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    made = sent(OPENAI, "gpt-4o", messages=talk).body["messages"]
    assert made[0]["content"] == [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    assert made[1]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


@pytest.mark.parametrize(
    "model", ["o1-pro", "o3-pro", "gpt-5-pro", "gpt-5-codex", "gpt-5.1-codex-mini", "o3-deep-research"]
)
def test_models_of_the_responses_api_alone_are_asked_there(model):
    """Without being told to."""
    assert sent(OPENAI, model).endpoint == "/v1/responses"


def test_tools_in_the_responses_api_are_flat():
    """Custom tools, their calls and results, and a choice among some."""
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: X"}}
    tools = [{"type": "custom", "custom": {"name": "c", "format": grammar}}, FUNCTION]
    chosen = {"mode": "auto", "tools": [{"type": "custom", "custom": {"name": "c"}}]}
    talk = [
        {"role": "user", "content": "{text}"},
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "c", "input": "x"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    choice = {"type": "allowed_tools", "allowed_tools": chosen}
    body = sent(OPENAI, "gpt-5.4", messages=talk, api="responses", params={"tools": tools, "tool_choice": choice}).body
    assert body["tools"][0] == {
        "type": "custom",
        "name": "c",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: X"},
    }
    assert body["tool_choice"] == {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "custom", "name": "c"}],
    }
    assert body["input"][1:] == [
        {"type": "custom_tool_call", "call_id": "1", "name": "c", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "42"},
    ]


def turns(*more):
    return {"messages": [{"role": "user", "content": "{text}"}, *more]}


def called(arguments):
    return turns({"role": "assistant", "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": arguments}}]})


CLAUDE_REFUSES = [
    ("claude-opus-4-7", {"params": {"temperature": 0}}, "temperature"),
    ("claude-opus-4-8-20260601", {"params": {"top_k": 5}}, "top_k"),
    ("claude-sonnet-5", {"params": {"top_p": 0.9}}, "top_p"),
    ("claude-opus-4-7", {"params": THINK}, "thinking"),
    ("claude-sonnet-4-5", {"params": {**THINK, "top_p": 0.5}}, "top_p"),
    ("claude-sonnet-4-5", {"params": {"inference_geo": "us"}}, "inference_geo"),
    ("claude-sonnet-4-5", {"params": {"temperature": 1.3}}, "temperature"),
    ("claude-sonnet-4-5", {"params": {"stop": ["\n", "END"]}}, "stop sequence"),
    ("claude-3-haiku-20240307", {"output": SCHEMA}, "structured outputs"),
    ("claude-sonnet-4-20250514", {"output": SCHEMA}, "structured outputs"),
    ("claude-opus-4-6", turns({"role": "assistant", "content": "So"}), "beginning of an answer"),
    ("claude-sonnet-4-5", {"messages": [{"role": "system", "content": "{text}"}]}, "system message alone"),
    ("claude-sonnet-4-5", {"messages": [{"role": "user", "name": "Bob", "content": "{text}"}]}, "name"),
    ("claude-sonnet-4-5", {"params": {"tools": [{"type": "function", "function": {"name": "a.b"}}]}}, "a.b"),
    ("claude-sonnet-4-5", called("[1]"), "arguments"),
    ("claude-sonnet-4-5", called("{a: 1"), "arguments"),
    ("claude-sonnet-4-5", turns({"role": "tool", "content": "42"}), "tool_call_id"),
    ("claude-sonnet-4-5", turns({"role": "user", "content": [picture]}), "image's address"),
    ("claude-sonnet-4-5", {"system": "S", "params": {"system": [{"type": "text", "text": "T"}]}}, "system"),
]


@pytest.mark.parametrize(("model", "asked", "word"), CLAUDE_REFUSES)
def test_anthropic_rules(model, asked, word):
    """Each by its name, with what to do, and that nothing was sent."""
    with pytest.raises(InputError, match=r"Nothing was sent") as refused:
        sent(CLAUDE, model, **asked)
    assert word in str(refused.value)


CLAUDE_TAKES = [
    ("claude-sonnet-4-6", {"params": {"temperature": 0.5}}),
    ("claude-opus-4-7", {"params": {"temperature": 1, "thinking": {"type": "adaptive"}}}),
    ("claude-opus-4-20250514", {"params": {"temperature": 0.5, "top_k": 3}}),
    ("claude-opus-4-6", {"params": {"inference_geo": "us"}}),
    ("claude-opus-4-1-20250805", {"output": SCHEMA}),
]


@pytest.mark.parametrize(("model", "asked"), CLAUDE_TAKES)
def test_anthropic_takes(model, asked):
    """What the model takes goes out as it was given."""
    assert asked.get("params", {}).items() <= sent(CLAUDE, model, **asked).body.items()


def test_nothing_of_a_conversation_is_lost_on_the_way_to_anthropic():
    """Thoughts before calls, marks of the cache on tools, messages and parts, arguments as an object."""
    thought = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    call = {"id": "t", "function": {"name": "f", "arguments": {"a": 1}}}
    image = {"type": "image_url", "image_url": {"url": "https://x/y.png"}, "cache_control": CACHE}
    talk = [
        {"role": "system", "content": "long", "cache_control": CACHE},
        {"role": "user", "content": [image]},
        {"role": "assistant", "content": None, "thinking_blocks": [thought], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t", "name": "f", "content": "42", "cache_control": CACHE},
        {"role": "user", "content": "{text}"},
        {"role": "assistant", "content": "It is: "},
    ]
    tools = [{**FUNCTION, "cache_control": CACHE}]
    body = sent(CLAUDE, "claude-sonnet-4-5", messages=talk, params={"tools": tools}).body
    assert body["system"] == [{"type": "text", "text": "long", "cache_control": CACHE}]
    assert body["tools"][0]["cache_control"] == CACHE
    assert [turn["content"] for turn in body["messages"]] == [
        [{"type": "image", "source": {"type": "url", "url": "https://x/y.png"}, "cache_control": CACHE}],
        [thought, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}],
        [
            {"type": "tool_result", "tool_use_id": "t", "content": "42", "cache_control": CACHE},
            {"type": "text", "text": "a"},
        ],
        "It is:",
    ]


def lines(request, rows, provider=OPENAI, **spec):
    made = RowSpec(rows, request, spec.get("key"), spec.get("passthrough", {}))
    return [line.request for line in encode_rows(made, provider, "job")]


def test_what_is_wrong_in_the_fixed_part_is_told_by_its_row():
    """Broken arguments and a missing id stand in the template, and the first row names them."""
    asked = ChatRequest("claude-sonnet-4-5", max_tokens=5, **called("{a: 1"))
    with pytest.raises(InputError, match=r"^row 0: .*arguments.*Nothing was sent"):
        lines(asked, ["a", "b"], CLAUDE)


def test_the_word_json_may_come_from_the_rows():
    """A fixed part without it is no reason to refuse rows that have it."""
    asked = ChatRequest("gpt-4o", user="{text}", params={"response_format": {"type": "json_object"}})
    assert len(lines(asked, ["as JSON please", "json"])) == 2
    with pytest.raises(InputError, match=r"^row 1: .*the word JSON"):
        lines(asked, ["as JSON please", "hello"])


def test_the_end_of_a_prefill_is_the_rows_own():
    """A row's blanks at its end are taken away, as those of the template are."""
    talk = turns({"role": "assistant", "content": "So {start}"})
    asked = ChatRequest("claude-sonnet-4-5", max_tokens=5, **talk)
    made = lines(asked, [{"text": "a", "start": "far  "}, {"text": "b", "start": "x"}], CLAUDE)
    assert b'"content":"So far"' in made[0]
    assert b'"content":"So x"' in made[1]


def test_vectors_that_cannot_be_read_back_are_not_asked_for():
    """Bytes in base64 that may be int8, uint8 or bits; floats are read."""
    asked = {"encoding_format": "base64", "output_dtype": "int8"}
    with pytest.raises(InputError, match="int8"):
        lines(EmbeddingRequest("voyage-3.5", params=asked), ["a"], GATEWAY)
    assert lines(EmbeddingRequest("voyage-3.5", params={**asked, "output_dtype": "float"}), ["a"], GATEWAY)


def test_a_list_of_texts_is_embedded_text_by_text():
    """One placeholder alone gives the list; inside a text, and for other values, it gives text."""
    [line] = lines(EmbeddingRequest("e", input="{chunks}"), [{"chunks": ["one", "two"]}])
    assert b'"input":["one","two"]' in line
    assert b'"input":"5"' in lines(EmbeddingRequest("e", input="{n}"), [{"n": 5}])[0]
    for empty in ([], ["a", ""], ["a", None]):
        with pytest.raises(InputError, match=r"row 0: .*empty"):
            lines(EmbeddingRequest("e", input="{chunks}"), [{"chunks": empty}])
