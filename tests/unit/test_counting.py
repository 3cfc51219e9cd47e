"""Prompt tokens: by OpenAI's own tokenizer where it is on this machine, by length where there is none.

Numbers are those that the vendors print: OpenAI's cookbook shows what its API has billed for these very messages
("How to count tokens with tiktoken"), Anthropic's guide to token counting what its endpoint answers.
"""

import socket

import pytest
from support import ROOT

from airflow_llm_batch import tokenizers
from airflow_llm_batch.data.requests import ChatRequest
from airflow_llm_batch.emulator import counting as emulated
from airflow_llm_batch.jobs.money.counting import Counter, length_of
from airflow_llm_batch.jobs.planning import lengths
from airflow_llm_batch.jobs.planning.encoding import RowSpec, encode_rows
from airflow_llm_batch.jobs.planning.lines import encode_between, encode_whole
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.counting import counting_of
from airflow_llm_batch.providers.openai.protocol import OpenAI

with_vocabulary = pytest.mark.skipif(
    tokenizers.tokenizer("o200k_base") is None or tokenizers.tokenizer("cl100k_base") is None,
    reason="no tokenizer with a vocabulary on this machine",
)

JARGON = [
    (
        "system",
        "",
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    ),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    (
        "system",
        "example_user",
        "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    ),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do better."),
    ("user", "", "This late pivot means we don't have time to boil the ocean for the client deliverable."),
]
WEATHER = [
    ("system", "", "You are a helpful assistant that can answer to questions about the weather."),
    ("user", "", "What's the weather like in San Francisco?"),
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {
                        "type": "string",
                        "description": "The unit of temperature to return",
                        "enum": ["celsius", "fahrenheit"],
                    },
                },
                "required": ["location"],
            },
        },
    }
]
BILLED = [
    ("gpt-4", JARGON, None, 129),
    ("gpt-4o", JARGON, None, 124),
    ("gpt-4o-mini", JARGON, None, 124),
    ("gpt-4", WEATHER, TOOLS, 105),
    ("gpt-4o", WEATHER, TOOLS, 101),
]


def body_of(messages, tools=None):
    turns = [{"role": role, "content": text, **({"name": name} if name else {})} for role, name, text in messages]
    return {"messages": turns, **({"tools": tools} if tools else {})}


def prompt(model, body):
    counter = Counter(counting_of(model))
    counted = counter.body(body)
    return counted.rest + counter.count(*counted.texts)


@with_vocabulary
@pytest.mark.parametrize(("model", "messages", "tools", "tokens"), BILLED)
def test_openais_prompts_are_counted_to_the_token(model, messages, tools, tokens):
    """By the estimate, and by the emulator, which has its own reading of the rules."""
    assert prompt(model, body_of(messages, tools)) == tokens
    assert emulated.chat_tokens(messages, tools, None, model) == tokens


@pytest.mark.parametrize(("model", "messages", "tools", "tokens"), BILLED)
def test_lengths_come_near_where_there_is_no_tokenizer(monkeypatch, model, messages, tools, tokens):
    """Within a sixth, for prompts as short as these."""
    monkeypatch.setattr("airflow_llm_batch.jobs.money.counting.tokenizer", lambda vocabulary: None)
    counter = Counter(counting_of(model))
    assert counter.basis == "from length"
    assert prompt(model, body_of(messages, tools)) == pytest.approx(tokens, rel=1 / 6)


def test_claudes_examples_are_near():
    """Anthropic prints 14 and 403 for these."""
    said = {"system": "You are a scientist", "messages": [{"role": "user", "content": "Hello, Claude"}]}
    assert prompt("claude-sonnet-4-5", said) == pytest.approx(14, abs=2)
    schema = {**TOOLS[0]["function"]["parameters"], "properties": {"location": WEATHER_PLACE}}
    tool = {"name": "get_weather", "description": "Get the current weather in a given location", "input_schema": schema}
    asked = {"tools": [tool], "messages": [{"role": "user", "content": "What's the weather like in San Francisco?"}]}
    assert prompt("claude-sonnet-4-5", asked) == pytest.approx(403, rel=0.05)


WEATHER_PLACE = TOOLS[0]["function"]["parameters"]["properties"]["location"]


def test_the_newer_claude_models_cut_finer():
    """About 30 percent more tokens for the same text, as Anthropic says of its newer tokenizer."""
    text = "The quick brown fox jumps over the lazy dog " * 50
    older, newer = (Counter(counting_of(model)).count(text) for model in ("claude-sonnet-4-5", "claude-opus-4-8"))
    assert newer == pytest.approx(1.3 * older, rel=0.01)


KINDS = {
    "prose": (ROOT / "LICENSE").read_text(),
    "Markdown": (ROOT / "README.md").read_text(),
    "Python": (ROOT / "airflow_llm_batch" / "storage.py").read_text(),
    "JavaScript": (ROOT / "airflow_llm_batch" / "plugin" / "static" / "jobs.js").read_text(),
    "Chinese": "今天天气很好、我们去公园散步吧。机器学习是人工智能的一个分支、它让计算机从数据中学习。" * 20,
    "Japanese": "今日は天気がいいので、公園を散歩しましょう。機械学習は人工知能の一分野です。" * 20,
    "Russian": "Быстрая коричневая лиса перепрыгивает через ленивую собаку, пока светит солнце. " * 20,
}


@with_vocabulary
@pytest.mark.parametrize("kind", KINDS)
def test_a_length_is_read_by_the_kind_of_text(kind):
    """Within an eighth of OpenAI's own count, where four characters to a token are off by up to three times."""
    counter = Counter(counting_of("gpt-5-mini"))
    assert counter.tokens(length_of(KINDS[kind])) == pytest.approx(counter.exact.count(KINDS[kind]), rel=1 / 8)


@with_vocabulary
def test_rows_that_are_not_counted_are_estimated_by_those_that_are():
    """Two thousand rows of several kinds: the sum is right within two percent, the first ones' to the token."""
    texts = [
        KINDS[kind][n * 7 : n * 7 + 150 + n % 90]
        for n in range(500)
        for kind in ("prose", "Python", "Japanese", "prose")
    ]
    request = ChatRequest(model="gpt-5-mini", system="Summarize in one sentence.", user="Text: {text}\nEnd.")
    seen = [
        line.tokens for line in encode_rows(RowSpec([{"text": t} for t in texts], request, None, {}), OpenAI(), "j")
    ]
    whole = encode_whole(request, OpenAI(), "j")
    exact = [whole(number, {"text": text}).tokens for number, text in enumerate(texts)]
    assert sum(seen) == pytest.approx(sum(exact), rel=0.02)
    first = lengths.FIRST // 240
    assert all(abs(a - b) <= 1 for a, b in zip(seen[:first], exact[:first], strict=True))


def test_nothing_is_downloaded(monkeypatch, tmp_path):
    """No folder has the vocabulary, and none that holds another file under its name is believed."""

    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / tokenizers.FILES["o200k_base"].name).write_bytes(b"IQ== 0\n")
    assert tokenizers.of_tiktoken("o200k_base", iter([tmp_path, tmp_path / "none"])) is None
    assert tokenizers.tokenizer("no_such_vocabulary") is None


@with_vocabulary
def test_any_text_can_be_counted():
    """Half pairs, words that mean something to models, and a long text without a blank."""
    exact = tokenizers.tokenizer("o200k_base")
    assert exact.count("") == 0
    assert exact.count("\ud800") >= 1
    assert exact.count("<|endoftext|>") > 1
    assert exact.count("a" * (3 * tokenizers.AT_ONCE)) > 1000


@with_vocabulary
def test_bpe_openai_counts_the_same():
    """Where it is installed: its vocabulary is its own."""
    other = tokenizers.of_bpe_openai("o200k_base")
    if other is None:
        pytest.skip("bpe-openai is not installed")
    for text in KINDS.values():
        assert other.count(text) == tokenizers.tokenizer("o200k_base").count(text)


def test_media_and_names_are_no_text():
    """What a picture holds, ids, types and roles cost nothing by their length."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}, part]},
        {"role": "assistant", "tool_calls": [call]},
    ]
    assert Counter(counting_of("m")).body({"messages": turns}).texts == ["hi", "f", "{}"]
    encoder = encode_between(ChatRequest(model="claude-haiku-4-5", max_tokens=5), Anthropic(), "j")
    assert encoder(0, {"text": "abcdefg"}).tokens == 5 + 2
