"""Result lines as they come from a vendor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.models import Batch

#: what a line that is not a result raises in ``parse_line`` and in a provider's ``decode``
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
#: how many lines are looked at to tell whose batch it is
LOOK_AT = 100


def parse_line(line: bytes) -> dict[str, Any]:
    """A result line as a dict. What strict JSON refuses, NaN and lone surrogates, models do write: it is made legal.

    :raises ValueError: for a line that is not a JSON object.
    """
    try:
        parsed = msgspec.json.decode(line)
    except ValueError:
        parsed = legal(json.loads(line))
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    return parsed


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


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines split at ``\\n`` and nothing else: results contain raw U+2028 and U+0085."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield from lines
    yield rest


def batch_lines(hook: LLMBatchHook, batch: Batch) -> Iterator[bytes]:
    """Every non-empty result line of a batch, errors included."""
    for request in hook.provider.downloads(batch):
        with hook.stream(request) as chunks:
            yield from (line for line in split_lines(chunks) if line.strip())


def shows_ids(hook: LLMBatchHook, batch: Batch, prefix: str) -> bool | None:
    """Whether a batch's results carry ids with our prefix; None when it has no results that could tell."""
    told = None
    for line in islice(batch_lines(hook, batch), LOOK_AT):
        try:
            told = str(parse_line(line)["custom_id"]).startswith(prefix)
        except UNREADABLE:
            continue
        if told:
            return True
    return told
