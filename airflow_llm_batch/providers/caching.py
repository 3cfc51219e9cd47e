"""Where the static part of a conversation ends, and what vendors want said of it.

Source: Anthropic's, OpenAI's, Google's and Amazon's guides to prompt caching, with the fewest tokens each caches by
model as of autumn 2026, and the words of OpenAI's SDK on ``prompt_cache_options``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.request import Cache, Request

#: the fewest tokens of a beginning that Claude caches, by the model's name
CLAUDE = (
    (re.compile(r"(opus|fable|mythos)-5(?!\d)"), 512),
    (re.compile(r"haiku-4-5|opus-4-[567](?!\d)"), 4096),
    (re.compile(r"sonnet-4-6|3-5-haiku|3-haiku"), 2048),
    (re.compile(r"claude"), 1024),
)
NOVA = (re.compile("nova"), 1000)
GEMINI = ((re.compile(r"gemini-2\.5"), 2048), (re.compile(r"gemini-([3-9]|\d\d)"), 4096))
#: OpenAI's, and the models that cache: gpt-4o and newer
OPENAI = 1024
OPENAIS = re.compile(r"gpt-(4o|4\.[15]|[5-9])|chatgpt-4o|o[134](?![a-z0-9])|codex")
#: models that cache at breakpoints alone, and bill what they write
BY_BREAKPOINTS = re.compile(r"gpt-(5\.([6-9]|\d\d)|[6-9]|\d\d)(?!\d)")
#: older ones that can be asked to keep a prompt for a day
FOR_A_DAY = re.compile(r"gpt-(4\.1|5)(?!\d)")


def least(model: str, table: tuple[tuple[re.Pattern[str], int], ...]) -> int | None:
    """The fewest tokens that are cached, None for a model that does not."""
    return next((tokens for pattern, tokens in table if pattern.search(model)), None)


def claudes_mark(cache: Cache) -> dict[str, Any]:
    """Anthropic's mark: an hour in batches, which take longer than five minutes, unless something else is wished.

    :raises InputError: for a life that it does not have.
    """
    life = cache.life or ("5m" if cache.called else "1h")
    if life == "24h":
        raise InputError("cache is '24h', and Claude's caches are kept for 5m or 1h; give one of them or True")
    return {"type": "ephemeral", **({"ttl": life} if life == "1h" else {})}


def for_openai(request: Request, cache: Cache, model: str) -> Request:
    """A conversation with what OpenAI's models take: a key for what is the same in all rows, and from GPT-5.6 on a
    breakpoint where that ends. Without one those would write each row's whole prompt, and bill it.

    :param model: behind the name that the request has, "" where that is not known.
    """
    body = {"prompt_cache_key": key_of(request.body, cache), **request.body}
    if BY_BREAKPOINTS.match(model):
        body = {"prompt_cache_options": {"mode": "explicit", "ttl": "30m"}, **body}
        body = marked(body, cache, "prompt_cache_breakpoint", {"mode": "explicit"}, texts_alone=True)
    elif cache.life == "24h" and FOR_A_DAY.match(model):
        body = {"prompt_cache_retention": "24h", **body}
    return request._replace(body=body)


def head_of(body: Mapping[str, Any], cache: Cache) -> tuple[list[Any], list[Any], str]:
    """The static messages, the static parts of the next one, and the static beginning of its next part."""
    messages = body.get("messages") or []
    parts: list[Any] = []
    head = ""
    if cache.message < len(messages):
        content = messages[cache.message].get("content")
        given = [content] if isinstance(content, str) else content if isinstance(content, list) else []
        parts = given[: cache.part]
        if cache.length and cache.part < len(given):
            part = given[cache.part]
            head = str(part if isinstance(part, str) else part.get("text"))[: cache.length]
    return list(messages[: cache.message]), parts, head


def key_of(body: Mapping[str, Any], cache: Cache) -> str:
    """The same for the same static part: what requests are sent to the same cache by."""
    static = [body.get("tools"), body.get("response_format"), *head_of(body, cache)]
    return f"llm-batch-{hashlib.sha256(json.dumps(static, sort_keys=True, default=str).encode()).hexdigest()[:32]}"


def marked(
    body: Mapping[str, Any], cache: Cache, name: str, mark: Mapping[str, Any], texts_alone: bool = False
) -> dict[str, Any]:
    """A neutral body with a mark where its static part ends: on a text that is split there, else on the part, the
    message or the tool before; as it is where nothing is static.

    :param texts_alone: parts of messages alone can be marked.
    """
    made = dict(body)
    messages = list(body.get("messages") or ())
    _, parts, head = head_of(body, cache)
    if head.strip() or parts:
        message = messages[cache.message]
        content = message.get("content")
        given = [as_part(part) for part in ([content] if isinstance(content, str) else content)]
        if head.strip():
            part = given[cache.part]
            rest = [{**part, "text": part["text"][cache.length :]}] if part["text"][cache.length :] else []
            given[cache.part : cache.part + 1] = [{**part, "text": head, name: mark}, *rest]
        else:
            given[cache.part - 1] = {**given[cache.part - 1], name: mark}
        messages[cache.message] = {**message, "content": given}
    elif cache.message:
        last = messages[cache.message - 1]
        content = last.get("content")
        if texts_alone and not content:
            return made
        given = [as_part(part) for part in ([content] if isinstance(content, str) else content or [])]
        whole = last.get("role") in ("tool", "assistant") and not texts_alone
        changed = {name: mark} if whole else {"content": [*given[:-1], {**given[-1], name: mark}]}
        messages[cache.message - 1] = {**last, **changed}
    elif body.get("tools") and not texts_alone:
        made["tools"] = [*body["tools"][:-1], {**body["tools"][-1], name: mark}]
    made["messages"] = messages
    return made


def as_part(part: Any) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else part
