"""What may pass, what an empty account is, and what is final: one table for rows, calls, batches and repair.

Vendors and gateways spell one trouble in many ways: in the HTTP status, in a code that is a word, a number or a number
in words, inside an answer that says 200, or in a sentence alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from airflow_llm_batch.providers.coerce import word

#: client errors after which the same request may be taken; every 5xx is another
PASSING_STATUS = frozenset({408, 409, 425, 429})
#: client errors that gateways answer although the vendor may have done the work
UNCLEAR = frozenset({408, 409, 425})
#: what vendors and gateways call troubles of their own, or of the moment
PASSING = frozenset(
    {"rate_limit_exceeded", "rate_limit_error", "rate_limited", "rate_limit", "ratelimiterror", "too_many_requests"}
    | {"throttling_error", "throttlingexception", "throttled", "resource_exhausted", "slow_down"}
    | {"server_error", "internal_error", "internal_server_error", "api_error", "internalservererror", "internal"}
    | {"overloaded_error", "overloaded", "engine_overloaded", "engine_overloaded_error", "model_overloaded"}
    | {"timeout", "timeout_error", "request_timeout", "gateway_timeout", "deadline_exceeded", "timed_out"}
    | {"service_unavailable", "service_unavailable_error", "serviceunavailableexception", "unavailable", "bad_gateway"}
    | {"connection_error", "model_not_ready", "modelnotreadyexception", "ended_in_error"}
)
#: how vendors and gateways say that a customer's queue is full
FULL = frozenset({"token_limit_exceeded", "batch_enqueued_token_limit", "request_limit_exceeded"})
FULL_MESSAGE = re.compile(r"enqueued (token|request)s? limit", re.IGNORECASE)
#: the word for an account without money, which no waiting mends, and how others put it
QUOTA = "insufficient_quota"
EMPTY = frozenset(
    {QUOTA, "billing_hard_limit_reached", "billing_limit_reached", "billing_not_active", "billing_error"}
    | {"insufficient_balance", "insufficient_credits", "insufficient_funds", "credit_balance_too_low"}
    | {"payment_required", "http_402", "budget_exceeded", "out_of_credits", "quota_exhausted"}
)
EMPTY_MESSAGE = re.compile(
    r"credit balance|insufficient (account )?(credit|balance|fund|quota)|billing[ _](hard[ _])?limit|out of credits?"
    r"|exceeded your current quota(?!.*retry)|payment required|budget has been exceeded",
    re.IGNORECASE | re.DOTALL,
)
PASSING_MESSAGE = re.compile(
    r"rate.?limit|too many requests|overloaded|timed? ?out|temporarily unavailable|server error|at capacity"
    r"|(try|retry)(ing)? again|bad gateway|service unavailable",
    re.IGNORECASE,
)
#: codes that say nothing of the moment, whatever their message holds
FINAL = re.compile(
    r"invalid|not_found|authentication|permission|unsupported|content_(filter|policy)|too_long|too_large"
)
NUMBER = re.compile(r"(?:http[ _]?)?([45]\d\d)", re.IGNORECASE)
#: the code of an error that has none
UNKNOWN = "unknown_error"
#: characters of an error message that are kept
LONGEST = 1000
PAYMENT_REQUIRED = 402


class Trouble(NamedTuple):
    """Why something was not done.

    :param code: the vendor's word, or ``http_429`` and its kin where that alone tells that it may pass.
    """

    code: str
    message: str | None


def may_pass(status: int) -> bool:
    """Whether the same request may succeed after an answer of this HTTP status."""
    return status in PASSING_STATUS or status >= 500


def is_passing_code(code: str) -> bool:
    """Whether what failed with this code may succeed when it is asked again."""
    number = NUMBER.fullmatch(code)
    return may_pass(int(number[1])) if number else code.lower() in PASSING


def is_empty_account(code: str, message: str | None = None) -> bool:
    """Whether this says that the account has no money, a limit that no waiting lifts."""
    return code.lower() in EMPTY or bool(message and EMPTY_MESSAGE.search(message))


def is_full(code: str, message: str | None) -> bool:
    """Whether this says that the vendor's queue has no room now, and the same request may be taken later."""
    return code in FULL or bool(message and FULL_MESSAGE.search(message))


def trouble_of(error: Any, status: int = 0) -> Trouble:
    """What an error body, an error object or a bare text says, with a code that ``is_passing_code`` can read.

    :param status: the HTTP status it came with, 0 where there was none or it says nothing (200).
    """
    words, message = words_of(error)
    code = next((w for w in words if not NUMBER.fullmatch(w)), next(iter(words), ""))
    empty = next((w for w in words if w.lower() in EMPTY), None)
    if empty is None and (status == PAYMENT_REQUIRED or is_empty_account("", message)):
        empty = QUOTA
    spelled = empty or (code if is_passing_code(code) else passing_word(words, message, status, code))
    if spelled is None:
        spelled = code or (f"http_{status}" if status else UNKNOWN)
    if number := NUMBER.fullmatch(spelled):
        spelled = f"http_{number[1]}"
    return Trouble(spelled, said(code, message, spelled))


def passing_word(words: list[str], message: str | None, status: int, code: str) -> str | None:
    """What tells that a trouble may pass, where its first code does not."""
    if may_pass(status):
        return f"http_{status}"
    if (other := next(filter(is_passing_code, words), None)) is not None:
        return other
    if not 400 <= status < 500 and not FINAL.search(code.lower()) and message and PASSING_MESSAGE.search(message):
        return "rate_limit_exceeded" if "rate" in message.lower() else "server_error"
    return None


def said(code: str, message: str | None, instead: str) -> str | None:
    """The message, led by the vendor's own word where another has taken its place."""
    if not code or code == instead or NUMBER.fullmatch(code):
        return message
    return f"{code}: {message}" if message else code


def words_of(error: Any) -> tuple[list[str], str | None]:
    """The codes of an error, the most telling first, and its message, wherever they stand.

    Met in the wild: ``{"error": {...}}`` once and twice, a text, a list of texts or of objects, ``detail`` (FastAPI's
    text or list), ``errors``, and ``message`` with ``code`` at the top.
    """
    words: list[str] = []
    messages: list[str] = []
    collect(error, words, messages, 0)
    message = "; ".join(dict.fromkeys(messages))
    if not message and error not in (None, "", {}, []) and not words:
        message = msgspec.json.encode(error).decode() if not isinstance(error, str) else error
    return list(dict.fromkeys(words)), message[:LONGEST] or None


def collect(error: Any, words: list[str], messages: list[str], depth: int) -> None:
    if depth > 5 or error is None or isinstance(error, bool):
        return
    if isinstance(error, str):
        if error.strip():
            messages.append(error.strip())
    elif isinstance(error, list):
        for item in error[:5]:
            collect(item, words, messages, depth + 1)
    elif isinstance(error, Mapping):
        for name in ("code", "type", "status", "reason"):
            value = error.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", "error"):
                words.append(word(value) or "")
        for name in ("message", "msg", "error", "detail", "details", "errors", "error_message"):
            collect(error.get(name), words, messages, depth + 1)
