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


def plain(code: str) -> str:
    """A code without its spelling: ``ThrottlingException``, ``throttling_error`` and ``Throttling`` are one word."""
    squashed = re.sub(r"[^a-z0-9]", "", code.lower())
    return re.sub(r"(exception|error)$", "", squashed) or squashed


def plainly(words: str) -> frozenset[str]:
    return frozenset(map(plain, words.split()))


#: client errors after which the same request may be taken; every 5xx is another. 424 is Bedrock's and TGI's for a model
#: that broke down, 498 Groq's for a tier without room, 499 google.rpc's for a call that was given up.
PASSING_STATUS = frozenset({408, 409, 424, 425, 429, 498, 499})
#: client errors that gateways answer although the vendor may have done the work
UNCLEAR = frozenset({408, 409, 425, 499})
#: google.rpc.Code, by which Gemini and Vertex tell troubles (github.com/googleapis/googleapis, google/rpc/code.proto)
GRPC = {
    "1": "cancelled", "2": "unknown", "3": "invalid_argument", "4": "deadline_exceeded", "5": "not_found",
    "6": "already_exists", "7": "permission_denied", "8": "resource_exhausted", "9": "failed_precondition",
    "10": "aborted", "11": "out_of_range", "12": "unimplemented", "13": "internal", "14": "unavailable",
    "15": "data_loss", "16": "unauthenticated",
}  # fmt: skip
#: our word for a row that its vendor gives back with neither an answer nor an error (OpenAI: status_code 0)
UNANSWERED = "no_answer"
#: what vendors and gateways call troubles of their own, or of the moment
PASSING = plainly(
    f"{UNANSWERED} rate_limit_exceeded rate_limit_error rate_limited too_many_requests throttling_error throttled"
    " resource_exhausted slow_down server_error internal_error internal_server_error internal api_error"
    " engine_overloaded_error overloaded_error model_overloaded timeout_error request_timeout gateway_timeout"
    " deadline_exceeded timed_out model_timeout service_unavailable unavailable bad_gateway connection_error"
    " model_not_ready ModelErrorException ended_in_error capacity_exceeded service_tier_capacity_exceeded aborted"
    " Throttling.RateQuota Throttling.AllocationQuota"
)
#: how vendors and gateways say that a customer's queue is full
FULL = frozenset(
    {"token_limit_exceeded", "batch_enqueued_token_limit", "request_limit_exceeded", "ServiceQuotaExceededException"}
)
FULL_MESSAGE = re.compile(r"enqueued (token|request)s? (limit|has surpassed)|token_limit_exceeded", re.IGNORECASE)
#: the word for an account without money, which no waiting mends, and how others put it (Arrearage: DashScope;
#: exceeded_current_quota_error: Moonshot; AccountOverdueError: Volcengine; insufficient_user_quota: one-api)
QUOTA = "insufficient_quota"
EMPTY = plainly(
    f"{QUOTA} billing_hard_limit_reached billing_limit_reached billing_not_active billing_error insufficient_balance"
    " insufficient_credits insufficient_funds insufficient_user_quota credit_balance_too_low payment_required http_402"
    " budget_exceeded out_of_credits quota_exhausted exceeded_current_quota_error arrearage account_overdue"
)
EMPTY_MESSAGE = re.compile(
    r"credit balance (is )?(too low|insufficient|exhausted)|insufficient (account )?(credit|balance|fund|quota)"
    r"|billing[ _](hard[ _])?limit|out of credits?|used all available credits|requires more credits"
    r"|(reach|exceed)\w* (its |your |the )?(monthly )?spending limit|payment required|budget has been exceeded"
    r"|(exceeded your current quota|check your plan and billing)(?!.*retry)",
    re.IGNORECASE | re.DOTALL,
)
#: statuses by which vendors speak of money, whatever the code beside them
BILLING_STATUS = frozenset({402, 403, 412, 429})
#: codes that name no trouble: what is the matter stands in the message
VAGUE = plainly(
    "invalid_request_error bad_request_error bad_request invalid_argument precondition_failed failed_precondition"
    " permission_error permission_denied forbidden access_denied error unknown_error"
)
#: what a filter or a policy would not have, as code
FILTERED = plainly(
    "content_filter content_filtered content_policy_violation responsible_ai_policy_violation data_inspection_failed"
    " prohibited_content content_blocked moderation_blocked moderation_error input_moderation output_moderation"
    " guardrail_intervened safety sensitive image_safety spii recitation blocklist"
)
#: and in a sentence: Azure, OpenAI (twice), DashScope, Anthropic, OpenRouter
FILTER_MESSAGE = re.compile(
    r"content management policy|violating our usage policy|rejected .{0,20}by our safety system"
    r"|rejected as a result of our safety system|may contain inappropriate content|blocked by content filter"
    r"|requires moderation .{0,40}flagged",
    re.IGNORECASE | re.DOTALL,
)
PASSING_MESSAGE = re.compile(
    r"rate.?limit|too many requests|resource[ _]?(has been )?exhausted|overloaded|timed? ?out"
    r"|temporarily unavailable|(at|over) capacity|capacity exceeded|server (had an )?error"
    r"|internal (server )?error|is (currently )?loading|(try|retry)(ing)? (again|your request(?! with))|bad gateway"
    r"|service unavailable|connect(ion)? (error|reset|refused|closed)|disconnect/reset",
    re.IGNORECASE,
)
#: how OpenAI and Azure say that flex has no room now, in code or message
NO_ROOM = re.compile(r"resource.?unavailable", re.IGNORECASE)
#: how they refuse the tier itself: of a model, or of a project ("Invalid service_tier argument: The requested service
#: tier is not allowed for this project", "Flex is not available for this model")
REFUSES_FLEX = re.compile(r"service.?tier|\bflex\b", re.IGNORECASE)
#: codes that say nothing of the moment, whatever their message holds
FINAL = re.compile(
    r"invalid|not_?found|authentication|permission|access_?denied|validation|unsupported|content_(filter|policy)"
    r"|context_length|too_long|too_large"
)
#: words that a message quotes, mostly the row's own: they say nothing of the trouble
QUOTED = re.compile(r"""(?<!\w)(["'`])(?:.*\1(?!\w)|.*$)|[“«„].*[”»“]""", re.DOTALL)
NUMBER = re.compile(r"(?:http[ _]?)?([45]\d\d)", re.IGNORECASE)
#: the code of an error that has none
UNKNOWN = "unknown_error"
#: characters of an error message that are kept
LONGEST = 1000
PAYMENT_REQUIRED, UNAUTHORIZED = 402, 401
#: what a key is told by that is wrong or has expired
REFUSED_KEY = plainly("api_key_invalid api_key_expired")
#: how deep an error's words are looked for
DEEPEST = 5


class Trouble(NamedTuple):
    """Why something was not done.

    :param code: the vendor's word, or ``http_429`` and its kin where that alone tells that it may pass.
    :param refused: a filter or a policy would not have it.
    """

    code: str
    message: str | None
    refused: bool = False


def may_pass(status: int) -> bool:
    """Whether the same request may succeed after an answer of this HTTP status."""
    return status in PASSING_STATUS or status >= 500


def is_passing_code(code: str) -> bool:
    """Whether what failed with this code may succeed when it is asked again."""
    number = NUMBER.fullmatch(code)
    return may_pass(int(number[1])) if number else plain(code) in PASSING


def is_empty_account(code: str, message: str | None = None, status: int = 0) -> bool:
    """Whether this says that the account has no money, a limit that no waiting lifts.

    :param status: the HTTP status, where it is known.
    """
    if plain(code) in EMPTY:
        return True
    # A code that names another trouble is believed: its message may quote the row, which may speak of money.
    money = status in BILLING_STATUS or is_vague(code) or is_passing_code(code)
    return bool(message and money and EMPTY_MESSAGE.search(unquoted(message)))


def is_refused_key(status: int | None, code: str | None) -> bool:
    """Whether a vendor does not accept the key: Gemini says so with HTTP 400."""
    return status == UNAUTHORIZED or plain(code or "") in REFUSED_KEY


def is_vague(code: str) -> bool:
    """Whether a code leaves it to the message to say what is the matter: none, a number, a sentence, a class."""
    return not code or NUMBER.fullmatch(code) is not None or code.isdigit() or " " in code or plain(code) in VAGUE


def is_filtered(words: list[str], message: str | None, status: int) -> bool:
    """Whether a filter or a policy would not have the request or the answer."""
    if any(plain(w) in FILTERED for w in words):
        return True
    return bool(message and not may_pass(status) and FILTER_MESSAGE.search(unquoted(message)))


def unquoted(message: str) -> str:
    return QUOTED.sub(" ", message)


def is_full(code: str, message: str | None) -> bool:
    """Whether this says that the vendor's queue has no room now, and the same request may be taken later."""
    return code in FULL or bool(message and FULL_MESSAGE.search(message))


def trouble_of(error: Any, status: int = 0) -> Trouble:
    """What an error body, an error object or a bare text says, with a code that ``is_passing_code`` can read.

    :param status: the HTTP status it came with, 0 where there was none or it says nothing (200).
    """
    words, message = words_of(error)
    code = next((w for w in words if not NUMBER.fullmatch(w)), next(iter(words), ""))
    empty = next((w for w in words if plain(w) in EMPTY), None)
    if empty is None and (status == PAYMENT_REQUIRED or is_empty_account(code, message, status)):
        empty = QUOTA
    refused = empty is None and is_filtered(words, message, status)
    passing = None if refused else code if is_passing_code(code) else passing_word(words, message, status, code)
    spelled = empty or passing or code or (f"http_{status}" if status else UNKNOWN)
    if number := NUMBER.fullmatch(spelled):
        spelled = f"http_{number[1]}"
    return Trouble(spelled, said(code, message, spelled), refused)


def passing_word(words: list[str], message: str | None, status: int, code: str) -> str | None:
    """What tells that a trouble may pass, where its first code does not."""
    if may_pass(status):
        return f"http_{status}"
    if (other := next(filter(is_passing_code, words), None)) is not None:
        return other
    if not 400 <= status < 500 and not FINAL.search(code.lower()) and PASSING_MESSAGE.search(unquoted(message or "")):
        return "rate_limit_exceeded" if "rate" in (message or "").lower() else "server_error"
    return None


def said(code: str, message: str | None, instead: str) -> str | None:
    """The message, led by the vendor's own word where another has taken its place."""
    if not code or code == instead or NUMBER.fullmatch(code):
        return message
    return f"{code}: {message}" if message else code


def tells(error: Any, depth: int = 0) -> bool:
    """Whether an error says anything: typed serializers write one whose members are all null beside a good answer."""
    if depth > DEEPEST or not isinstance(error, Mapping | list):
        return bool(error)
    return any(tells(inner, depth + 1) for inner in (error.values() if isinstance(error, Mapping) else error))


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
    if depth > DEEPEST or error is None or isinstance(error, bool):
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
                spelled = word(value) or ""
                words.append(GRPC.get(spelled, spelled))
        if isinstance(delay := error.get("retryDelay"), str):
            # Google's RetryInfo: the same sentence without it tells of an account that has no quota at all.
            messages.append(f"Retry in {delay}.")
        for name in ("message", "msg", "error", "detail", "details", "errors", "error_message"):
            collect(error.get(name), words, messages, depth + 1)
