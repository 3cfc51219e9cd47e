"""Prompt caches as Anthropic's and OpenAI's documentation describes them.

Anthropic ("Prompt caching"): a mark ends a prefix of tools, system and messages, in that order; at most four of them,
those of an hour before those of five minutes. A prefix that is long enough for the model is written; what was written
is read by any later request with the same prefix and a mark at most 19 blocks behind it, and kept for as long again.

OpenAI ("Prompt caching", and the SDK's words on ``prompt_cache_options``): up to GPT-5.5 any prompt of 1,024 tokens or
more is cached by itself and read in steps of 128; ``prompt_cache_key`` is part of where it is looked for. From GPT-5.6
on prefixes are cached at breakpoints alone, where they are marked and, unless the mode is explicit, at the end.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from airflow_llm_batch.emulator.counting import claude_tokens, openai_tokens
from airflow_llm_batch.tokenizers import O200K, tokenizer

MOST_MARKS, LOOK_BACK = 4, 20
LIVES = {"5m": 300.0, "1h": 3600.0}
#: the fewest tokens of a prefix, by the model's name; 1,024 for all others
FEWEST = (
    (re.compile(r"opus-5|fable-5|mythos-5"), 512),
    (re.compile(r"haiku-4-5|opus-4-[567]"), 4096),
    (re.compile(r"sonnet-4-6|3-5-haiku|3-haiku"), 2048),
)
LEAST, STEP = 1024, 128
BY_BREAKPOINTS = re.compile(r"gpt-(5\.([6-9]|\d\d)|[6-9])")
#: seconds: in memory, or where that was asked for, and at a breakpoint
HOUR, DAY, HALF_HOUR = 3600.0, 86400.0, 1800.0


class Block(NamedTuple):
    """A piece of a prompt; ``ttl`` where it is marked."""

    text: str
    ttl: str = ""


class Caches:
    """What the emulator keeps of prompts.

    :param now: epoch seconds.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now
        self.lock = threading.Lock()
        #: hash of a prefix -> when it is gone, and for how long it is kept after each use
        self.kept: dict[bytes, tuple[float, float]] = {}

    def has(self, prefix: bytes) -> bool:
        """Whether a prefix is kept; if so, it is for as long again."""
        until, life = self.kept.get(prefix, (0.0, 0.0))
        if until <= self.now():
            return False
        self.kept[prefix] = self.now() + life, life
        return True

    def keep(self, prefix: bytes, life: float) -> None:
        self.kept[prefix] = self.now() + life, life

    def anthropic(self, params: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        """A message with its usage as the cache makes it."""
        blocks, model = list(blocks_of(params)), str(params.get("model"))
        marks = [place for place, block in enumerate(blocks) if block.ttl]
        if not marks:
            return message
        hashes = list(prefixes(model, [block.text for block in blocks]))

        def length(place: int) -> int:
            return claude_tokens("".join(block.text for block in blocks[: place + 1]), model) if place >= 0 else 0

        least = next((least for pattern, least in FEWEST if pattern.search(model)), LEAST)
        marks = [place for place in marks if length(place) >= least]
        with self.lock:
            looked = (place for mark in reversed(marks) for place in range(mark, max(mark - LOOK_BACK, -1), -1))
            found = next((place for place in looked if self.has(hashes[place])), -1)
            written = {"5m": 0, "1h": 0}
            for before, mark in pairwise([found, *(mark for mark in marks if mark > found)]):
                written[blocks[mark].ttl] += length(mark) - length(before)
                self.keep(hashes[mark], LIVES[blocks[mark].ttl])
        read, wrote = length(found), sum(written.values())
        usage = {
            **message["usage"],
            "input_tokens": max(message["usage"]["input_tokens"] - read - wrote, 0),
            "cache_creation_input_tokens": wrote,
            "cache_read_input_tokens": read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": written["5m"],
                "ephemeral_1h_input_tokens": written["1h"],
            },
        }
        return {**message, "usage": usage}

    def openai(self, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        """A chat completion or a response with its usage as the cache makes it."""
        usage = answer.get("usage") or {}
        details = next((name for name in ("prompt_tokens_details", "input_tokens_details") if name in usage), None)
        total = usage.get("prompt_tokens", usage.get("input_tokens", 0))
        if details is None or total < LEAST:
            return answer
        model, key = str(body.get("model")), str(body.get("prompt_cache_key"))
        with self.lock:
            if BY_BREAKPOINTS.search(model):
                read, wrote = self.breakpoints(body, model, key, total)
                counted = {**usage[details], "cached_tokens": read, "cache_write_tokens": wrote}
            else:
                life = DAY if body.get("prompt_cache_retention") == "24h" else HOUR
                text = "".join(block.text for block in parts_of(body))
                counted = {**usage[details], "cached_tokens": min(self.steps(text, model, key, life), total)}
        return {**answer, "usage": {**usage, details: counted}}

    def steps(self, text: str, model: str, key: str, life: float) -> int:
        """Tokens that are read, in whole steps."""
        known = tokenizer(O200K)
        tokens: Any = known.encode(text) if known is not None else [text[n : n + 4] for n in range(0, len(text), 4)]
        digest, read, before = hashlib.sha256(f"{model}{key}".encode()), 0, 0
        for end in range(STEP, len(tokens) + 1, STEP):
            digest.update(repr(tokens[before:end]).encode())
            before = end
            if end >= LEAST:
                prefix = digest.digest()
                read = end if self.has(prefix) else read
                self.keep(prefix, life)
        return read

    def breakpoints(self, body: dict[str, Any], model: str, key: str, total: int) -> tuple[int, int]:
        """Tokens that are read, and that are written."""
        blocks = list(parts_of(body))
        hashes = list(prefixes(f"{model}{key}", [block.text for block in blocks]))
        marks = [place for place, block in enumerate(blocks) if block.ttl]
        if (body.get("prompt_cache_options") or {}).get("mode") != "explicit":
            marks = [*marks[-MOST_MARKS + 1 :], len(blocks) - 1]
        marks = marks[-MOST_MARKS:]

        def length(place: int) -> int:
            if place == len(blocks) - 1:
                return total
            return openai_tokens("".join(block.text for block in blocks[: place + 1]), model)

        lengths = {place: length(place) for place in marks}
        long = [place for place in marks if lengths[place] >= LEAST]
        found = next((place for place in reversed(long) if self.has(hashes[place])), None)
        for place in long:
            self.keep(hashes[place], HALF_HOUR)
        read = lengths[found] if found is not None else 0
        return read, max(lengths[long[-1]] - read, 0) if long else 0


def problem_of(params: dict[str, Any]) -> str | None:
    """What Anthropic refuses about the marks of a request."""
    ttls = [block.ttl for block in blocks_of(params) if block.ttl]
    if len(ttls) > MOST_MARKS:
        return f"A maximum of {MOST_MARKS} blocks with cache_control may be provided. Found {len(ttls)}."
    if any(before == "5m" and after == "1h" for before, after in pairwise(ttls)):
        return (
            "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that blocks are "
            "processed in the following order: `tools`, `system`, `messages`."
        )
    return None


def blocks_of(params: dict[str, Any]) -> Iterator[Block]:
    """Anthropic's blocks, in the order of the cache."""
    found = [*given(params.get("tools")), *given(params.get("system"))]
    for message in given(params.get("messages")):
        found += given(message.get("content"))
    automatic = ttl_of(params)
    for place, block in enumerate(found):
        bare = {name: value for name, value in block.items() if name != "cache_control"}
        text = bare["text"] if bare.keys() == {"type", "text"} else json.dumps(bare, sort_keys=True)
        yield Block(str(text), ttl_of(block) or (automatic if place == len(found) - 1 else ""))


def given(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [item for item in content or () if isinstance(item, dict)]


def ttl_of(block: dict[str, Any]) -> str:
    mark = block.get("cache_control")
    return str(mark.get("ttl") or "5m") if isinstance(mark, dict) else ""


def parts_of(body: dict[str, Any]) -> Iterator[Block]:
    """OpenAI's: tools and the format of the answer, then messages part by part."""
    for name in ("tools", "response_format", "text", "instructions"):
        if body.get(name):
            yield Block(json.dumps(body[name], sort_keys=True))
    messages = body.get("messages", body.get("input"))
    for message in [{"role": "user", "content": messages}] if isinstance(messages, str) else messages or ():
        role = str(message.get("role") or message.get("type"))
        for part in given(message.get("content")):
            bare = {name: value for name, value in part.items() if name != "prompt_cache_breakpoint"}
            text = bare.get("text") if isinstance(bare.get("text"), str) else json.dumps(bare, sort_keys=True)
            yield Block(f"{role}{text}", "30m" if part.get("prompt_cache_breakpoint") else "")


def prefixes(begin: str, texts: list[str]) -> Iterator[bytes]:
    """The hash of each prefix."""
    digest = hashlib.sha256(begin.encode())
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        yield digest.digest()
