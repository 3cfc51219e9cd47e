"""The emulator's caches keep to what Anthropic and OpenAI document; tokens are worked out by hand."""

import pytest

from airflow_llm_batch.emulator.answers import Bad, chat, message
from airflow_llm_batch.emulator.caches import Caches

#: 7,000 characters: 2,000 tokens of Claude's, at 3.5 characters each
LONG = "abcdef " * 1000
MARK, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self):
        return self.now


def asked(system, question="hi", model="claude-sonnet-4-5", **more):
    return {
        "model": model,
        "max_tokens": 9,
        "system": system,
        "messages": [{"role": "user", "content": question}],
        **more,
    }


def text(what, mark=None):
    return {"type": "text", "text": what, **({"cache_control": mark} if mark else {})}


def used(caches, params):
    """Fresh, written for five minutes, written for an hour, read."""
    answer = message(params)
    usage = caches.anthropic(params, answer)["usage"]
    written = usage.get("cache_creation") or {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    assert sum(written.values()) == usage["cache_creation_input_tokens"]
    whole = usage["input_tokens"] + usage["cache_creation_input_tokens"] + usage["cache_read_input_tokens"]
    assert whole == answer["usage"]["input_tokens"]
    return (usage["input_tokens"], *written.values(), usage["cache_read_input_tokens"])


def test_a_prefix_is_written_once_and_read_after():
    """Whatever follows the mark; what follows is billed as ever: two characters, and five tokens around."""
    caches = Caches()
    assert used(caches, asked([text(LONG, MARK)])) == (6, 2000, 0, 0)
    assert used(caches, asked([text(LONG, MARK)], "ho")) == (6, 0, 0, 2000)
    assert used(caches, asked([text(LONG)], "ho"))[3] == 0


def test_another_prefix_is_another():
    """A character, a tool in front of it, another model."""
    caches = Caches()
    used(caches, asked([text(LONG, HOUR)]))
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {}}}
    for other in (
        asked([text("!" + LONG, HOUR)]),
        asked([text(LONG, HOUR)], tools=[tool], tool_choice={"type": "none"}),
        asked([text(LONG, HOUR)], model="claude-sonnet-4-0"),
    ):
        assert used(caches, other)[3] == 0
    assert used(caches, asked([text(LONG, HOUR)]))[3] == 2000


@pytest.mark.parametrize(
    ("model", "characters", "cached"),
    [
        ("claude-sonnet-4-5", 3580, False),
        ("claude-sonnet-4-5", 3584, True),
        ("claude-haiku-4-5", 14_000, False),
        ("claude-haiku-4-5", 14_336, True),
        ("claude-opus-5", 1370, False),
        ("claude-opus-5", 1400, True),
    ],
)
def test_short_prefixes_are_not_cached(model, characters, cached):
    """1,024 tokens, 4,096 or 512, by the model; the newest cut a third finer."""
    caches = Caches()
    params = asked([text("a" * characters, MARK)], model=model)
    assert bool(used(caches, params)[1]) == cached
    assert bool(used(caches, params)[3]) == cached


def test_a_cache_is_kept_from_its_last_use():
    """Five minutes or an hour, each use begins them anew."""
    clock = Clock()
    caches = Caches(clock)
    short, long = asked([text(LONG, MARK)]), asked([text("x" + LONG, HOUR)])
    used(caches, short), used(caches, long)
    clock.now += 299
    assert used(caches, short)[3] == 2000
    clock.now += 299
    assert used(caches, short)[3] == 2000
    clock.now += 301
    assert used(caches, short)[3] == 0
    assert used(caches, long)[3] == 2001
    clock.now += 3601
    assert used(caches, long)[3] == 0


def test_marks_of_both_kinds_write_what_lies_between_them():
    """An hour's first: 2,000 tokens to it, 2,000 more to five minutes."""
    caches = Caches()
    both = asked([text(LONG, HOUR), text(LONG, MARK)])
    assert used(caches, both) == (6, 2000, 2000, 0)
    assert used(caches, both) == (6, 0, 0, 4000)
    refused = message(asked([text(LONG, MARK), text(LONG, HOUR)]))
    assert isinstance(refused, Bad)
    assert "ttl='1h'" in refused.message


def test_at_most_four_blocks_are_marked():
    """As Anthropic's 400 says."""
    refused = message(asked([text("x", MARK)] * 5))
    assert "A maximum of 4 blocks" in refused.message


def test_what_lies_further_back_than_twenty_blocks_is_not_found():
    """A mark looks at twenty places, its own the first."""
    caches = Caches()
    used(caches, asked([text(LONG, MARK)]))
    assert used(caches, asked([text(LONG), *[text("x")] * 18, text("y", MARK)]))[3] == 2000
    assert used(caches, asked([text(LONG), *[text("x")] * 19, text("z", MARK)]))[3] == 0


def completed(caches, system, user="hi", model="gpt-5-mini", **more):
    """Tokens read, and tokens written, of all."""
    parts = system if isinstance(system, list) else [{"type": "text", "text": system}]
    body = {
        "model": model,
        "messages": [{"role": "system", "content": parts}, {"role": "user", "content": user}],
        **more,
    }
    usage = caches.openai(body, chat(body, 0))["usage"]
    details = usage["prompt_tokens_details"]
    return details["cached_tokens"], details.get("cache_write_tokens"), usage["prompt_tokens"]


def test_openai_caches_by_itself_in_steps():
    """From 1,024 tokens on, in steps of 128, as much of the beginning as is the same; the key is part of it."""
    caches = Caches()
    read, _, total = completed(caches, LONG)
    assert (read, total > 1024) == (0, True)
    read = completed(caches, LONG, "something else")[0]
    assert read % 128 == 0
    assert total - 128 <= read <= total
    assert completed(caches, "!" + LONG)[0] == 0
    assert completed(caches, LONG, prompt_cache_key="k")[0] == 0
    assert completed(caches, LONG, prompt_cache_key="k")[0] > 0
    assert completed(caches, "short", "short")[0] == 0


def test_openais_caches_go():
    """After an hour, or a day where that is asked for."""
    clock = Clock()
    caches = Caches(clock)
    for asked_for, life in (({}, 3600), ({"prompt_cache_retention": "24h"}, 86400)):
        completed(caches, LONG, prompt_cache_key=str(life), **asked_for)
        clock.now += life - 1
        assert completed(caches, LONG, prompt_cache_key=str(life), **asked_for)[0] > 0
        clock.now += life + 1
        assert completed(caches, LONG, prompt_cache_key=str(life), **asked_for)[0] == 0


def test_from_gpt_5_6_on_breakpoints_are_cached_alone():
    """By itself it writes whole prompts, which nobody reads where the ends differ; marked, the static part is read."""
    caches = Caches()
    model = "gpt-5.6-luna"
    for question in ("one", "two"):
        read, wrote, total = completed(caches, LONG, question, model)
        assert (read, wrote) == (0, total)
    assert completed(caches, LONG, "two", model)[:2] == (completed(caches, LONG, "two", model)[2], 0)
    marked = [{"type": "text", "text": LONG, "prompt_cache_breakpoint": {"mode": "explicit"}}]
    only = {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}
    read, wrote, total = completed(caches, marked, "three", model, **only)
    assert read == 0
    assert 1024 <= wrote < total
    assert completed(caches, marked, "four", model, **only)[:2] == (wrote, 0)
