"""How an answer ended: well, cut short, refused, or in a way that nobody knows. Only a known good ending succeeds."""

from __future__ import annotations

from typing import Any, NamedTuple

from airflow_llm_batch.providers.troubles import trouble_of
from airflow_llm_batch.results import Result

#: why an answer that a higher token cap would not have helped is ``truncated``
PAUSED, UNKNOWN, NONE = "pause_turn", "unknown_ending", "no_ending"


class Endings(NamedTuple):
    """One dialect's words, lower case.

    :param good: the answer is whole.
    :param calling: the answer is whole and wants tools called.
    :param cut: it stopped for want of room.
    :param refused: the model or a filter would not answer.
    """

    good: frozenset[str]
    calling: frozenset[str]
    cut: frozenset[str]
    refused: frozenset[str]


def judge(
    result: Result, endings: Endings, refusal: str | None = None, category: str | None = None, error: Any = None
) -> None:
    """Set the status of a result whose answer and ending are filled in, and the reason where it is no success.

    :param refusal: the model's words when it refused; ``category`` is what a filter calls the reason.
    :param error: what stands as an error in the answer itself.
    """
    word = (result.finish_reason or "").lower()
    if error or word == "error":
        trouble = trouble_of(error or {"code": "ended_in_error", "message": "The answer ended in an error."})
        result.status, result.error_code, result.error_message = "errored", *trouble
    elif refusal or word in endings.refused:
        result.status, result.error_code = "refused", category
        result.error_message = refusal or (f"A content filter stopped it: {category}." if category else None)
    elif word in endings.cut:
        result.status = "truncated"
    elif word in endings.calling and not result.tool_calls:
        invalid(result, "no_tool_call", f"The answer ended as {word!r} and calls no tool.")
    elif word in endings.good or word in endings.calling:
        if result.text or result.tool_calls or result.output is not None:
            result.status = "succeeded"
        else:
            invalid(result, "empty_answer", "The answer is empty: neither text nor a tool call.")
    else:
        result.status = "truncated"
        result.error_code = PAUSED if word == PAUSED else UNKNOWN if word else NONE
        how = f"ended as {result.finish_reason!r}, which is not known as" if word else "tells no ending, so not of"
        result.error_message = f"The answer {how} a good ending; what came of it is kept."


def invalid(result: Result, code: str, message: str) -> None:
    result.status, result.error_code, result.error_message = "invalid", code, message


def unreadable(result: Result, why: str) -> None:
    """An answer in a shape that nobody knows; what it was billed is not known either."""
    invalid(result, "unreadable_answer", f"The vendor's answer cannot be read: {why}.")
