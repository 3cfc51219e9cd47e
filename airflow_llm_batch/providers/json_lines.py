"""Result lines as models and gateways write them: almost JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec

#: what a line that is not a result raises in ``parse_line`` and in a provider's ``decode``
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


def parse_line(line: bytes) -> dict[str, Any]:
    """A result line as a dict. What strict JSON refuses, NaN and lone surrogates, models do write: it is made legal.

    :raises ValueError: for a line that is not a JSON object.
    """
    try:
        parsed = msgspec.json.decode(line)
    except ValueError:
        parsed = legal(json.loads(bare(line)))
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    return parsed


def bare(body: bytes) -> bytes:
    """A body without what servers send before its JSON: a byte order mark, blank lines, and comments of an event stream
    that keep a connection open (OpenRouter's ": OPENROUTER PROCESSING", DeepSeek's ": keep-alive")."""
    body = body.removeprefix(b"\xef\xbb\xbf").lstrip()
    while body.startswith(b":"):
        body = body.partition(b"\n")[2].lstrip()
    return body


def legal(value: Any) -> Any:
    """``value`` without lone surrogates (U+FFFD instead) and without NaN and infinities (null instead)."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {legal(key): legal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [legal(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
