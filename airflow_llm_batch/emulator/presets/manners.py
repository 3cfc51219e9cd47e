"""What vendors of OpenAI's kind have of their own, as their documents and SDKs tell: one row of a table each.

Each API lies below the vendor's name: ``/groq/openai/v1``, ``/together/v1``.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from airflow_llm_batch.emulator.charges import charge

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES = "/v1/responses"
DAY = 24
WINDOW = re.compile(r"(\d+)(h|d)")
TIMES = ("created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at")
Object = dict[str, Any]


def as_is(body: Object) -> Object:
    return body


class Manner(NamedTuple):
    """
    :param base: the path of the API below the vendor's name.
    :param windows: how long a batch may be given: hours, or words.
    :param metadata: a batch keeps it.
    :param pages: a listing takes ``after`` and ``limit``.
    :param expiry: a create takes ``output_expires_after``.
    :param idempotent: a create with the key of an earlier one is answered with its batch.
    :param bare: lines have no method and no address.
    :param batches: there are any.
    :param routed: an upload has to say which of a proxy's models it is for.
    :param ends_once: looks at a batch whose end was seen before are answered with 500.
    :param usage: what a batch tells of its tokens: ``none``, when it has ``ended``, or ``always``.
    :param priced: a header of an answer tells what the call has cost.
    :param wrong: what is wrong with a body, None for nothing; ``understood``, the body in OpenAI's words; ``shown``, an
        answer in the vendor's.
    :param refusal: an error's status and OpenAI's body as the vendor's body.
    :param batch: OpenAI's batch object as the vendor's, its problems beside it; likewise ``batch_id``.
    """

    base: str = "/v1"
    endpoints: tuple[str, ...] = (CHAT,)
    windows: range | tuple[str, ...] = ("24h",)
    metadata: bool = False
    pages: bool = True
    expiry: bool = False
    idempotent: bool = False
    bare: bool = False
    batches: bool = True
    routed: bool = False
    ends_once: bool = False
    usage: Literal["none", "ended", "always"] = "none"
    priced: bool = False
    wrong: Callable[[Object], str | None] = lambda body: None
    understood: Callable[[Object], Object] = as_is
    shown: Callable[[Object], Object] = as_is
    refusal: Callable[[int, Object], Object] = lambda status, body: body
    batch: Callable[[Object, list[dict[str, str]]], Object] = lambda body, problems: body
    batch_id: Callable[[str], str] = lambda made: made

    def has_window(self, asked: Any) -> bool:
        if not isinstance(self.windows, range):
            return asked in self.windows
        number = WINDOW.fullmatch(str(asked))
        return number is not None and int(number[1]) * (DAY if number[2] == "d" else 1) in self.windows


def groq_wrong(body: dict[str, Any]) -> str | None:
    """console.groq.com/docs/openai: "will result in a 400 error if they are supplied"."""
    for name in ("logprobs", "logit_bias", "top_logprobs"):
        if name in body:
            return f"property '{name}' is unsupported"
    if body.get("n") not in (None, 1):
        return "'n' : number must be at most 1"
    named = any("name" in message for message in body.get("messages") or () if isinstance(message, dict))
    return "'messages' : property 'name' is unsupported" if named else None


def kimi_wrong(body: dict[str, Any]) -> str | None:
    """platform.kimi.ai, Batch API guide: kimi-k2.5 and kimi-k2.6 fix these."""
    fixed = {"temperature": (0.6, 1), "top_p": (0.95,), "n": (1,), "presence_penalty": (0,), "frequency_penalty": (0,)}
    if re.match(r"kimi-k2\.[56]", str(body.get("model"))):
        for name, only in fixed.items():
            if body.get(name) not in (None, *only):
                return f"invalid {name}: only {only[-1]} is allowed for this model"
    return None


#: perplexityai 0.46, ``ResponsesRequestInput``
AGENT_MEMBERS = frozenset(
    {"background", "effort", "input", "instructions", "language_preference", "max_output_tokens", "max_steps", "model"}
    | {"models", "preset", "previous_response_id", "profile", "prompt_cache_key", "reasoning", "response_format"}
    | {"service_tier", "skills", "step_budget_reminder", "store", "stream", "temperature", "tool_choice", "tools"}
    | {"top_p"}
)


def perplexity_wrong(body: dict[str, Any]) -> str | None:
    unknown = sorted(body.keys() - AGENT_MEMBERS)
    return f"unknown field: {unknown[0]}" if unknown else None


def perplexity_shown(body: Object) -> Object:
    """perplexityai 0.46, ``ResponsesUsage``; nothing is documented to be cheaper in batches."""
    paid = charge(body["usage"], 1)
    cost = {"currency": "USD", "input_cost": paid.asked, "output_cost": paid.answered, "total_cost": paid.total}
    return {**body, "usage": {**body["usage"], "cost": cost}}


def perplexity_understood(body: Object) -> Object:
    asked = body.get("response_format")
    return {**body, "text": {"format": {"type": "json_schema", **asked["json_schema"]}}} if asked else body


def novita_refusal(status: int, body: Object) -> Object:
    error = body["error"]
    return {"code": status, "reason": error["code"] or error["type"], "message": error["message"], "metadata": {}}


def novita_batch(body: Object, problems: list[dict[str, str]]) -> Object:
    """Counters beside the rest, times in words, and reasons in one text."""
    times = {name: body[name] and iso(body[name]) for name in TIMES}
    errors = "; ".join(problem["message"] for problem in problems)
    return {**body, **times, **body["request_counts"], "errors": errors, "metadata": {}}


def dashscope_refusal(status: int, body: Object) -> Object:
    return {**body, "request_id": uuid.uuid4().hex}


def litellm_id(made: str) -> str:
    """By which a proxy finds the model and the vendor's own batch again."""
    return base64.urlsafe_b64encode(f"litellm_proxy;{made};model,small".encode()).decode()


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


#: a server's own: no batches at all
SYNCHRONOUS = Manner(endpoints=(CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES), batches=False)
MANNERS: dict[str, Manner] = {
    # groq-python 1.7: batches.create, batches.list (no parameters); console.groq.com/docs/batch
    "groq": Manner("/openai/v1", windows=range(DAY, 7 * DAY + 1), metadata=True, pages=False, wrong=groq_wrong),
    # together-python 3.1: batches, files
    "together": Manner(bare=True, pages=False),
    # docs.deepinfra.com/batch/batch-endpoints
    "deepinfra": Manner("/v1/openai", (CHAT, COMPLETIONS, EMBEDDINGS), metadata=True, expiry=True),
    # github.com/doublewordai/control-layer, dwctl/src/api/models/batches.rs
    "doubleword": Manner(endpoints=(CHAT, EMBEDDINGS), windows=("1h", "24h"), metadata=True),
    # alibabacloud.com/help/en/model-studio/batch-interfaces-compatible-with-openai
    "dashscope": Manner(
        "/compatible-mode/v1", (CHAT, EMBEDDINGS), range(DAY, 14 * DAY + 1), refusal=dashscope_refusal
    ),
    # platform.kimi.ai/docs/api/batch-create
    "kimi": Manner(windows=range(DAY // 2, 7 * DAY + 1), metadata=True, wrong=kimi_wrong),
    # docs.parasail.io/parasail-docs/batch
    "parasail": Manner(endpoints=(CHAT, EMBEDDINGS)),
    # docs.perplexity.ai/api-reference/batches-create-post; perplexityai 0.46
    "perplexity": Manner(
        endpoints=(RESPONSES,), metadata=True, idempotent=True, usage="always", wrong=perplexity_wrong,
        understood=perplexity_understood, shown=perplexity_shown,
    ),
    # novita.ai/docs/api-reference/model-apis-llm-create-batch
    "novita": Manner(
        "/openai/v1", (CHAT, COMPLETIONS), ("48h",), bare=True, refusal=novita_refusal, batch=novita_batch
    ),
    # docs.litellm.ai/docs/batches, before OpenAI; the second look fails as its own accounting of an ended batch does
    "litellm": Manner(
        endpoints=(CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES), metadata=True, expiry=True, routed=True, ends_once=True,
        usage="ended", batch_id=litellm_id, priced=True,
    ),
    "vllm": SYNCHRONOUS,
    "ollama": SYNCHRONOUS,
    "llamacpp": SYNCHRONOUS,
    "compatible": SYNCHRONOUS,
}  # fmt: skip
