"""What a request will use, estimated before it is sent: prompt tokens, images, the cap of the answer, the caches.

The same numbers feed ``max_cost``, the vendor's queue and the tokens a minute of calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.jobs.money.counting import Counter
from airflow_llm_batch.jobs.money.media import MARKS, media
from airflow_llm_batch.providers.caching import head_of
from airflow_llm_batch.providers.coerce import members, objects

if TYPE_CHECKING:
    from airflow_llm_batch.models import Shard
    from airflow_llm_batch.providers.base import Provider
    from airflow_llm_batch.request import Request

EMBEDDINGS = "/v1/embeddings"
#: tools that the vendor runs, which read as much as they like
FUNCTIONS = frozenset({None, "function", "custom"})
#: likewise, as Google names them
GOOGLES = frozenset(
    {"googleSearch", "google_search", "googleSearchRetrieval", "urlContext", "url_context", "codeExecution"}
    | {"code_execution", "googleMaps", "google_maps", "retrieval", "fileSearch", "file_search", "computerUse"}
)
#: members by which the Responses API is told of a prompt that is not in the line
STORED = {
    "previous_response_id": "an earlier conversation",
    "conversation": "an earlier conversation",
    "prompt": "a prompt",
    "cachedContent": "a prompt",
}


class Kind(NamedTuple):
    """What is known of a request besides its bytes.

    :param group: requests of one group may share a batch.
    :param inputs: texts to embed, 1 for other requests.
    :param cap: the most tokens the answer may have, None for any number.
    :param cache: how long the prompt may be cached at the customer's wish: ``""``, ``5m`` or ``1h``.
    :param unknown: what keeps its tokens from being estimated, "" for nothing.
    :param static: tokens of the part that is to be cached and the same in every row, 0 for none.
    """

    group: tuple[str, str]
    model: str
    inputs: int
    cap: int | None
    cache: str = ""
    unknown: str = ""
    static: int = 0


def kind_of(request: Request, provider: Provider, static: int = 0) -> Kind:
    """:param request: translated; ``static`` as ``static_tokens``."""
    body = request.body
    unknown = next((part.unknown for part in media(body, provider, request.model) if part.unknown), "")
    return Kind(
        provider.group(request), request.model, count_inputs(request), token_cap(request, provider),
        cache_of(body), unknown or tools_of(body) or stored_of(body), static,
    )  # fmt: skip


def static_tokens(asked: Request, provider: Provider) -> int:
    """Tokens of the part of a neutral conversation that is the same in every row, where that is to be cached."""
    if asked.cache is None:
        return 0
    messages, parts, head = head_of(asked.body, asked.cache)
    begun = [*parts, *([head] if head.strip() else [])]
    body = {**asked.body, "messages": [*messages, *([{"role": "user", "content": begun}] if begun else [])]}
    counter = counter_of(provider, asked.model)
    counted = counter.body(body)
    pictures = sum(part.tokens for part in media(body, provider, asked.model))
    return round(counted.rest + counter.count(*(counted.texts or ()))) + pictures


def count_inputs(request: Request) -> int:
    """Texts to embed; an array of tokens is one."""
    value = request.body.get("input")
    if request.endpoint == EMBEDDINGS and isinstance(value, list) and value and not isinstance(value[0], int):
        return len(value)
    return 1


def token_cap(request: Request, provider: Provider) -> int | None:
    if provider.embeds(request):
        return 0
    body = request.body
    for path in provider.caps:
        cap = member_at(body, path)
        if isinstance(cap, int):
            prompts = body.get("prompt")
            several = len(prompts) if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int) else 1
            answers = body.get("n", member_at(body, ("generationConfig", "candidateCount")))
            return cap * (answers if isinstance(answers, int) else 1) * several
    return None


def member_at(body: Mapping[str, Any], path: Sequence[str]) -> Any:
    """What stands at a path of members, None where one of them is not there."""
    found: Any = body
    for name in path:
        found = members(found).get(name)
    return found


def raised_caps(request: Request, provider: Provider, factor: float) -> Request | None:
    """The request with a higher token cap; None where it has none of its own."""
    body, raised = dict(request.body), False
    for path in provider.caps:
        cap = member_at(body, path)
        if isinstance(cap, int):
            inner = body
            for name in path[:-1]:
                inner[name] = inner = dict(inner[name])
            inner[path[-1]] = math.ceil(cap * factor)
            raised = True
    return request._replace(body=body) if raised else None


def cache_of(body: Mapping[str, Any]) -> str:
    """Whether the request asks for its prompt to be cached, and for how long."""
    found = ""
    queue: list[Any] = [body.get("system"), body.get("messages"), body.get("tools"), {"": body.get("cache_control")}]
    if body.get("cache_control"):
        found = "1h" if members(body["cache_control"]).get("ttl") == "1h" else "5m"
    while queue and found != "1h":
        part = queue.pop()
        if isinstance(part, list):
            queue += part
        elif isinstance(part, dict):
            if wish := members(part.get("cache_control") or part.get("cachePoint")):
                found = "1h" if wish.get("ttl") == "1h" else "5m"
            if isinstance(part.get("content"), list):
                queue.append(part["content"])
    return found


def tools_of(body: Mapping[str, Any]) -> str:
    """A tool that the vendor runs: what it reads is prompt too, and nobody knows how much."""
    for tool in objects(body.get("tools")):
        kind = tool.get("type")
        if kind not in FUNCTIONS and "input_schema" not in tool:
            return f"the tool {kind!r}, which the vendor runs"
        if google := [name for name in tool if name in GOOGLES]:
            return f"the tool {google[0]!r}, which the vendor runs"
    if body.get("web_search_options") is not None:
        return "web search, which the vendor runs"
    return "MCP servers, which the vendor asks" if body.get("mcp_servers") else ""


def stored_of(body: Mapping[str, Any]) -> str:
    """What of the prompt the vendor has stored, and the request only names."""
    for name, what in STORED.items():
        # The prompt of plain completions is text, or tokens.
        if body.get(name) and not (name == "prompt" and not isinstance(body[name], dict)):
            return f"{name!r}: {what} that the vendor keeps"
    return ""


def prompt_tokens(line: bytes, body: Mapping[str, Any], provider: Provider, model: str) -> int:
    """Prompt tokens of a request: what it says, counted or by its length, and pictures by the vendor's rule.

    :param line: the body as it is sent.
    """
    given = body.get("input", body.get("prompt"))
    if isinstance(given, list) and given and not isinstance(given[0], str | dict):
        return sum(len(item) if isinstance(item, list) else 1 for item in given)
    counter = counter_of(provider, model)
    counted = counter.body(body)
    if counted.texts is None:
        return max(math.ceil(counter.count(line.decode("utf-8", "replace"))), 1)
    tokens = counted.rest + counter.count(*counted.texts)
    return max(math.ceil(tokens) + media_tokens(line, body, provider, model), 1)


def media_tokens(line: bytes, body: Mapping[str, Any], provider: Provider, model: str) -> int:
    """Of everything that is no text."""
    if not any(mark in line for mark in MARKS):
        return 0
    return sum(part.tokens for part in media(body, provider, model))


def sent_tokens(line: bytes, provider: Provider, shard: Shard) -> int:
    """The same of a line that was planned."""
    request = provider.request_of(msgspec.json.decode(line), shard)
    return prompt_tokens(line, request.body, provider, request.model)


def counter_of(provider: Provider, model: str) -> Counter:
    """What counts a model's tokens."""
    return counter(provider.counting(model))


counter = cache(Counter)
