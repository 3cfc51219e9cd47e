"""Where a conversation's templates begin to differ from row to row: what stands before is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from airflow_llm_batch.data.templates import NONE, Meanings, columns_of, placeholders
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.request import Cache

LIVES = ("5m", "1h", "24h")
#: parameters that vendors put in front of all messages
IN_FRONT = ("tools", "functions", "response_format", "system")


class Static(NamedTuple):
    """What of a conversation is the same in every row.

    :param cache: where it ends, None where nothing can be kept.
    :param column: with which the rows begin to differ, "" where they do not.
    :param behind: characters that are the same in every row and stand behind that.
    """

    cache: Cache | None
    column: str = ""
    behind: int = 0


def static_of(
    turns: Sequence[Mapping[str, Any]], params: Mapping[str, Any], life: Any, called: bool, known: Meanings = NONE
) -> Static:
    """:param life: what ``ChatRequest.cache`` is."""
    kept = life if isinstance(life, str) else ""
    if columns := columns_of({name: params.get(name) for name in IN_FRONT}, known):
        return Static(None, min(columns), sum(map(constant, turns)))
    for place, turn in enumerate(turns):
        rest = columns_of({name: value for name, value in turn.items() if name != "content"}, known)
        if rest:
            return Static(Cache(kept, place, called=called), min(rest), sum(map(constant, turns[place:])))
        content = turn.get("content")
        parts = content if isinstance(content, list) else [content]
        for number, part in enumerate(parts):
            text = part.get("text") if isinstance(part, dict) else part
            if columns_of({**part, "text": None} if isinstance(part, dict) else None, known):
                return Static(Cache(kept, place, number, called=called), "", 0)
            if isinstance(text, str) and (found := begun(text, known)):
                column, length, behind = found
                behind += sum(map(constant, parts[number + 1 :])) + sum(map(constant, turns[place + 1 :]))
                return Static(Cache(kept, place, number, length, called), column, behind)
    return Static(Cache(kept, len(turns), called=called))


def begun(text: str, known: Meanings) -> tuple[str, int, int] | None:
    """The first column of a text, how many characters stand before it once it is filled, and how many behind it; None
    where there is none."""
    position = length = 0
    found: tuple[str, int] | None = None
    for placed in placeholders(text, known):
        length += placed.start - position + (len(placed.literal) if placed.column is None else 0)
        position = placed.end
        if placed.column is not None and found is None:
            found, length = (placed.column, length), 0
    return None if found is None else (*found, length + len(text) - position)


def constant(value: Any) -> int:
    """Characters of the text of a message, or of a part, that are no column's."""
    content = value.get("content", value.get("text")) if isinstance(value, Mapping) else value
    if isinstance(content, list):
        return sum(map(constant, content))
    if not isinstance(content, str):
        return 0
    return len(content) - sum(placed.end - placed.start for placed in placeholders(content) if placed.column)


def check_cache(life: Any, turns: Sequence[Mapping[str, Any]], params: Mapping[str, Any]) -> None:
    """:raises InputError: for a life that no vendor has, and for marks beside it."""
    if life not in (None, False, True, "", *LIVES):
        raise InputError(f"cache is {life!r}; give True, {', '.join(map(repr, LIVES))} or False. Nothing was sent.")
    if life and ("cache_control" in params or has_mark([*turns, params.get("tools")])):
        raise InputError(
            f"ChatRequest has cache={life!r} and a mark of its own (cache_control); leave one of them out. "
            "Nothing was sent."
        )


def has_mark(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "cache_control" in value or any(map(has_mark, value.values()))
    return isinstance(value, list | tuple) and any(map(has_mark, value))
