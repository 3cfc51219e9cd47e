"""How an answer ended: well, cut short, refused, or in a way that nobody knows. Only a known good ending succeeds."""

from __future__ import annotations

from typing import Any, NamedTuple

from airflow_llm_batch.providers.troubles import FILTERED, Trouble, plain, plainly, tells, trouble_of
from airflow_llm_batch.results import Result, RowStatus

#: why an answer that a higher token cap would not have helped is ``truncated``
PAUSED, UNKNOWN, NONE = "pause_turn", "unknown_ending", "no_ending"
#: endings by which any vendor tells that a filter stopped an answer: Bedrock, Gemini, Cohere, Zhipu
REFUSED = FILTERED | plainly("refusal ERROR_TOXIC IMAGE_PROHIBITED_CONTENT IMAGE_RECITATION")
#: endings by which a server tells that it gave the answer up (DeepSeek: "interrupted due to insufficient resource of
#: the inference system"; vLLM and SGLang: abort; Zhipu: network_error)
BROKEN = plainly("error abort aborted insufficient_system_resource network_error")


def says(text: str | None) -> bool:
    """Whether a text is more than blanks, which models are known to end up in."""
    return bool(text) and not str(text).isspace()


class Endings(NamedTuple):
    """One dialect's words, lower case.

    :param good: the answer is whole.
    :param calling: the answer is whole and wants tools called.
    :param cut: it stopped for want of room.
    """

    good: frozenset[str]
    calling: frozenset[str]
    cut: frozenset[str]


def judge(
    result: Result,
    endings: Endings,
    refusal: str | None = None,
    category: str | None = None,
    error: Any = None,
    cut_call: str | None = None,
) -> None:
    """Set the status of a result whose answer and ending are filled in, and the reason where it is no success.

    :param refusal: the model's words when it refused; ``category`` is what a filter calls the reason.
    :param error: what stands as an error in the answer itself.
    :param cut_call: the tool whose arguments are no JSON.
    """
    word = (result.finish_reason or "").lower()
    # Gemini's compatible address writes "content_filter: PROHIBITED_CONTENT".
    kind, _, detail = word.partition(":")
    if tells(error) or plain(kind) in BROKEN:
        ended = {"code": "ended_in_error", "message": f"The answer ended as {word!r}, an error of the vendor's."}
        fail(result, trouble_of(error if tells(error) else ended))
    elif refusal or plain(kind) in REFUSED:
        category = category or detail.strip() or None
        result.status, result.error_code = "refused", category
        result.error_message = refusal or (f"A content filter stopped it: {category}." if category else None)
    elif word in endings.cut:
        result.status = "truncated"
    elif word in endings.calling and not result.tool_calls:
        invalid(result, "no_tool_call", f"The answer ended as {word!r} and calls no tool.")
    elif word in endings.good or word in endings.calling:
        if cut_call:
            invalid(result, "invalid_tool_arguments", f"The arguments of the call of {cut_call!r} are no whole JSON.")
        elif says(result.text) or result.tool_calls or result.output is not None or result.choices:
            result.status = "succeeded"
        else:
            invalid(result, "empty_answer", "The answer is empty: neither text nor a tool call.")
    else:
        result.status = "truncated"
        result.error_code = PAUSED if word == PAUSED else UNKNOWN if word else NONE
        how = f"ended as {result.finish_reason!r}, which is not known as" if word else "tells no ending, so not of"
        result.error_message = f"The answer {how} a good ending; what came of it is kept."


#: codes of rows that were not answered since their batch ended, or whose answer was there and could not be read
OUTCOMES: dict[str, RowStatus] = {
    "batch_expired": "expired",
    "batch_cancelled": "cancelled",
    "unreadable_answer": "invalid",
}


def fail(result: Result, trouble: Trouble) -> None:
    """What a row came to that has a trouble instead of an answer."""
    result.error_code, result.error_message = trouble.code, trouble.message
    result.status = "refused" if trouble.refused else OUTCOMES.get(trouble.code, "errored")


def invalid(result: Result, code: str, message: str) -> None:
    result.status, result.error_code, result.error_message = "invalid", code, message


def unreadable(result: Result, why: str) -> None:
    """An answer in a shape that nobody knows; what it was billed is not known either."""
    invalid(result, "unreadable_answer", f"The vendor's answer cannot be read: {why}.")


#: fields of a result that each of several answers has for itself
OF_CHOICE = ("status", "text", "tool_calls", "finish_reason", "error_message", "reasoning", "logprobs")


def as_choice(one: Result) -> dict[str, Any]:
    """One answer as ``choices`` holds it, with its media where it has any."""
    known = {name: value for name in OF_CHOICE if (value := getattr(one, name)) is not None}
    return {**known, **(one.choices[0] if one.choices else {})}
