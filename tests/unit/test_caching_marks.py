"""Where ``ChatRequest(cache=True)`` puts its mark, in each vendor's words: from their guides to prompt caching."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_llm_batch.data.requests import ChatRequest
from airflow_llm_batch.data.static import static_of
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.planning.lines import encode_between, encode_whole
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.azure.protocol import Azure
from airflow_llm_batch.providers.bedrock.protocol import Bedrock
from airflow_llm_batch.providers.gemini.protocol import Gemini
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.vertex.protocol import Vertex

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
HOUR, MINUTES = {"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral"}
EXPLICIT = {"mode": "explicit"}
ROW = {"text": "hello", "name": "world"}


def made(provider, model, called=False, row=ROW, **more):
    """The body that is sent."""
    request = ChatRequest(**{"model": model, "user": "Say {text}", "max_tokens": 50, "cache": True, **more})
    request = request.for_calls() if called else request
    line = json.loads(encode_whole(request, provider, "j")(0, row).request)
    return line.get("body") or line.get("params") or line.get("modelInput") or line["request"]


CLAUDE = [
    # the text is split where the rows begin to differ
    ({}, ("messages", 0, "content", 0)),
    ({"system": "S"}, ("messages", 0, "content", 0)),
    # nothing but blanks stands before the column: the system prompt is the last that is static
    ({"system": "S", "user": " {text}"}, ("system", 0)),
    # a system prompt that differs itself
    ({"system": "S {name}"}, ("system", 0)),
    # tools alone
    ({"user": "{text}", "params": {"tools": [TOOL]}}, ("tools", 0)),
    # a picture that is the same for all rows
    (
        {"user": None, "messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "{text}"}]}]},
        ("messages", 0, "content", 0),
    ),
    # an earlier turn
    (
        {
            "user": None,
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A"},
                {"role": "user", "content": "{text}"},
            ],
        },
        ("messages", 1, "content", 0),
    ),
    # nothing is static
    ({"user": "{text} {name}"}, None),
    ({"user": "Say {text}", "params": {"tools": [{**TOOL, "function": {**TOOL["function"], "name": "{name}"}}]}}, None),
]


def marks(value, name, path=()):
    """Where a body is marked, and how."""
    found = []
    if isinstance(value, dict):
        found += [(path, value[name])] if name in value else []
        for key, inner in value.items():
            found += marks(inner, name, (*path, key)) if key != name else []
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            found += marks(inner, name, (*path, place))
    return found


@pytest.mark.parametrize(("more", "place"), CLAUDE)
def test_claude_is_marked_at_the_end_of_what_is_static(more, place):
    """Once, for an hour in a batch and for five minutes in calls."""
    for called, mark in ((False, HOUR), (True, MINUTES)):
        found = marks(made(Anthropic(), "claude-sonnet-4-5", called, **more), "cache_control")
        assert found == ([] if place is None else [(place, mark)])


@pytest.mark.parametrize(("life", "called", "mark"), [("5m", False, MINUTES), ("1h", True, HOUR)])
def test_a_life_that_is_wished_for_is_kept(life, called, mark):
    """Whatever the lane."""
    [(_, found)] = marks(made(Anthropic(), "claude-sonnet-4-5", called, cache=life), "cache_control")
    assert found == mark


def test_without_cache_nothing_is_marked():
    """And marks of one's own go on as they are."""
    assert marks(made(Anthropic(), "claude-sonnet-4-5", cache=None), "cache_control") == []
    own = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "x", "cache_control": MINUTES}, {"type": "text", "text": "{text}"}],
        }
    ]
    body = made(Anthropic(), "claude-sonnet-4-5", cache=None, user=None, messages=own)
    assert marks(body, "cache_control") == [(("messages", 0, "content", 0), MINUTES)]


def test_openais_key_is_that_of_the_static_part():
    """Of tools, schema and all up to the first column: the same in every row, another for another prompt."""
    key = made(OpenAI(), "gpt-5-mini")["prompt_cache_key"]
    assert len(key) <= 64
    assert made(OpenAI(), "gpt-5-mini", row={"text": "other", "name": "x"})["prompt_cache_key"] == key
    for more in (
        {"system": "S"},
        {"user": "Tell {text}"},
        {"params": {"tools": [TOOL]}},
        {"output": {"type": "object"}},
    ):
        assert made(OpenAI(), "gpt-5-mini", **more)["prompt_cache_key"] != key
    assert made(OpenAI(), "gpt-5-mini", params={"prompt_cache_key": "mine"})["prompt_cache_key"] == "mine"


OPENAI = [
    ("gpt-4o", {}, set()),
    ("gpt-5-mini", {}, set()),
    ("gpt-5.4", {"cache": "24h"}, {"prompt_cache_retention"}),
    ("gpt-4o", {"cache": "24h"}, set()),
    ("gpt-5.6-luna", {}, {"prompt_cache_options"}),
    ("gpt-5.6-luna", {"cache": "24h"}, {"prompt_cache_options"}),
    ("gpt-6-luna", {}, {"prompt_cache_options"}),
]


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(("model", "more", "sent"), OPENAI)
def test_openais_models_get_what_they_take(model, more, sent, api):
    """A breakpoint and no implicit one from GPT-5.6 on; a day where it is wished for and the model can."""
    body = made(OpenAI(), model, api=api, **more)
    assert {name for name in body if name.startswith("prompt_cache")} == {"prompt_cache_key", *sent}
    turn = body["messages" if api == "chat" else "input"][0]
    if "prompt_cache_options" in sent:
        assert body["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}
        assert [part["text"] for part in turn["content"]] == ["Say ", "hello"]
        assert marks(body, "prompt_cache_breakpoint") == [
            (("messages" if api == "chat" else "input", 0, "content", 0), EXPLICIT)
        ]
    else:
        assert turn["content"] == "Say hello"


def test_a_server_that_may_not_know_the_words_is_told_nothing():
    """A gateway, a dated version of Azure's, a deployment whose model is not known; Google caches by itself."""
    for provider, model in (
        (OpenAI("https://gateway.example.com/v1"), "gpt-5.6-luna"),
        (Azure("https://x.openai.azure.com", {"api_version": "2024-10-21"}), "mine"),
        (Gemini(), "gemini-2.5-flash"),
        (Vertex("http://127.0.0.1:1", {"project": "p", "location": "l"}), "gemini-2.5-flash"),
    ):
        body = json.dumps(made(provider, model))
        assert "cache" not in body
        assert "Say hello" in body
    azure = made(Azure("https://x.openai.azure.com"), "mine")
    assert [name for name in azure if "cache" in name] == ["prompt_cache_key"]
    named = Azure("https://x.openai.azure.com", {"deployments": {"mine": "gpt-5.6-luna"}})
    assert made(named, "mine")["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}


def test_bedrock_is_marked_in_calls_alone():
    """Its guide: prompt caching is not supported for batch inference. Claude's own words, and Converse's for Nova."""
    provider = Bedrock(options={"region": "us-east-1", "role_arn": "arn:aws:iam::123456789012:role/r"})
    claude, nova = "anthropic.claude-sonnet-4-5-20250929-v1:0", "us.amazon.nova-lite-v1:0"
    for model in (claude, nova):
        assert "cache" not in json.dumps(made(provider, model)).lower()
        assert provider.least_cached(model, False) is None
    assert marks(made(provider, claude, called=True), "cache_control") == [(("messages", 0, "content", 0), MINUTES)]
    content = made(provider, nova, called=True)["messages"][0]["content"]
    assert content == [{"text": "Say "}, {"cachePoint": {"type": "default"}}, {"text": "hello"}]
    assert (provider.least_cached(claude, True), provider.least_cached(nova, True)) == (1024, 1000)


LEAST = [
    (Anthropic(), "claude-opus-5", 512),
    (Anthropic(), "claude-sonnet-4-5-20250929", 1024),
    (Anthropic(), "claude-opus-4-8", 1024),
    (Anthropic(), "claude-3-5-haiku-20241022", 2048),
    (Anthropic(), "claude-haiku-4-5", 4096),
    (OpenAI(), "gpt-5-mini", 1024),
    (OpenAI(), "gpt-4-turbo", None),
    (OpenAI(), "text-embedding-3-small", None),
    (Gemini(), "gemini-2.5-pro", 2048),
    (Gemini(), "models/gemini-3.8-flash", 4096),
    (Gemini(), "gemini-1.5-flash", None),
]


@pytest.mark.parametrize(("provider", "model", "tokens"), LEAST)
def test_the_shortest_prompt_that_is_cached(provider, model, tokens):
    """By the vendor's table."""
    assert provider.least_cached(model, False) == tokens


def test_what_stands_behind_the_first_column_is_counted():
    """And it is told which column that is."""
    turns = [
        {"role": "user", "content": "ab{x}cd{y}ef{{z}}"},
        {"role": "user", "content": [{"type": "text", "text": "gh"}]},
    ]
    found = static_of(turns, {}, True, False)
    assert (found.column, found.behind) == ("x", 2 + 2 + 3 + 2)
    assert found.cache[:4] == ("", 0, 0, 2)


text = st.text(st.sampled_from("ab {}\né"), max_size=12)


@given(st.lists(text, min_size=1, max_size=3), text, st.sampled_from([None, "S", "S {b}"]))
def test_a_marked_prompt_says_what_an_unmarked_one_says(pieces, value, system):
    """Whatever stands before the column: the same text in the same order, and both ways of encoding agree."""
    user = "{a}".join(pieces)
    row = {"a": value, "b": "2"}
    for provider, model in ((OpenAI(), "gpt-5.6-luna"), (Anthropic(), "claude-sonnet-4-5")):
        request = {"model": model, "system": system, "user": user, "max_tokens": 5}
        plain, marked = ChatRequest(**request), ChatRequest(**request, cache=True)
        try:
            bare = json.loads(encode_whole(plain, provider, "j")(0, row).request)
        except (InputError, KeyError):
            # Refused, or a column that the row does not have.
            continue
        encoded = encode_whole(marked, provider, "j")(0, row)
        assert said(json.loads(encoded.request)) == said(bare)
        between = encode_between(marked, provider, "j")
        assert between is None or msgspec.structs.replace(between(0, row), tokens=encoded.tokens) == encoded


def said(line):
    """All text of a line's prompt; blanks at the ends of pieces, which Anthropic does not take alone, aside."""
    body = line.get("body") or line["params"]
    parts = []
    for content in [body.get("system"), *(turn["content"] for turn in body["messages"])]:
        parts += [content] if isinstance(content, str) else [part["text"] for part in content or ()]
    return "".join("".join(parts).split())
