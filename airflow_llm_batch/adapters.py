"""Vendors for ``LLMBatchOperator`` of apache-airflow-providers-common-ai, which finds them by its entry point group.

Each takes what a connection of theirs holds, a key and a URL, and no option of ours. Job, state and results stay
theirs: what our own operators promise (no second batch after a lost answer, constant memory) is not promised there.
Experimental, as their contract is; nothing of ours imports this.

Source: ``airflow.providers.common.ai.batch`` 1.0.0 (``base``, ``dispatch``, ``openai``).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.providers.common.ai.batch.base import (
    BatchAdapter,
    BatchRequest,
    BatchState,
    BatchStatus,
    ExtractedOutput,
    RawResultItem,
    SubmitResult,
)
from airflow.providers.common.ai.exceptions import (
    LLMBatchInputError,
    LLMBatchLimitExceededError,
    LLMBatchModelMismatchError,
)

from airflow_llm_batch.data.values import to_json
from airflow_llm_batch.downloads import batch_lines
from airflow_llm_batch.exceptions import InputError, RequestRejected
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.json_lines import UNREADABLE
from airflow_llm_batch.providers.registry import provider_class
from airflow_llm_batch.request import Request

if TYPE_CHECKING:
    from airflow.providers.common.ai.batch.output_schema import OutputSpec

    from airflow_llm_batch.models import Batch
    from airflow_llm_batch.results import Result

log = logging.getLogger(__name__)
GROUP = "airflow.providers.common.ai.batch_adapters"
#: the vendors that a key and a URL are enough for. Not ``openai`` and ``anthropic``, which are theirs already and win.
VENDORS = (
    "azure", "dashscope", "deepinfra", "doubleword", "gemini", "groq", "kimi", "litellm", "mistral", "novita",
    "openrouter", "parasail", "perplexity", "together", "xai",
)  # fmt: skip
#: types of their connections beside the one for any vendor
CONNECTIONS = {"azure": "pydanticai_azure"}
CHAT = "/v1/chat/completions"
#: by what a vendor tells whose a batch is that nobody has heard of since it was asked for
FINDS = frozenset({"metadata", "name"})
#: by how much a vendor's clock may be behind ours; xAI tells days alone, which may be those of another zone
LATE, LATE_DAYS = timedelta(minutes=5), timedelta(days=1)
#: the window that their operator names when its user names none
USUAL_WINDOW = "24h"
BATCH_STATUSES: dict[str | None, BatchStatus] = {
    None: "in_progress",
    "completed": "completed",
    "partial": "completed",
    "expired": "expired",
    "cancelled": "cancelled",
}
STATUSES = {"succeeded": "success", "truncated": "success", "refused": "success"} | {
    name: name for name in ("errored", "expired", "cancelled")
}


class NotFound(RuntimeError):
    """The vendor knows no such batch, as the SDKs say it that theirs are written for."""

    status_code = 404


class VendorAdapter(BatchAdapter):
    """One vendor's batches as their operator drives them; ``adapter_of`` makes the class of each.

    :param api_key: the connection's password; ``base_url`` its host, None for the vendor's own address.
    :param client: a hook of ours instead of both.
    """

    def __init__(
        self, *, api_key: str | None = None, base_url: str | None = None, client: LLMBatchHook | None = None
    ) -> None:
        super().__init__(client=client or LLMBatchHook.by_key(f"{self.name} (common-ai)", self.name, api_key, base_url))
        self.hook: LLMBatchHook = self._client
        self.provider = self.hook.provider

    def validate_requests(
        self,
        requests: list[BatchRequest],
        *,
        model: str,
        output_spec: OutputSpec,
        idempotency_key: str,
        **kwargs: Any,
    ) -> None:
        self.hook.transport  # noqa: B018  (a missing key is told before anything is written or sent)
        self.check_custom_id_length(idempotency_key, len(requests))
        limits, title = self.provider.limits, self.provider.title
        if len(requests) > limits.requests:
            raise LLMBatchLimitExceededError(
                f"{title} takes {limits.requests:,} requests in a batch, and there are {len(requests):,}. "
                "Split the input across mapped task instances with .expand(). Nothing was sent."
            )
        size, groups = 0, set()
        for index, asked in enumerate(self._asked(requests, model, output_spec, **kwargs)):
            groups.add(self.provider.group(asked))
            size += len(self._line(asked, idempotency_key, index))
            if size > limits.bytes:
                directive = len(to_json(self.build_output_directive(output_spec)))
                raise LLMBatchLimitExceededError(
                    f"{title} takes {limits.bytes:,} bytes in a batch, and request {index + 1:,} of "
                    f"{len(requests):,} is above them ({size:,} bytes so far; the schema adds about {directive:,} to "
                    "each). Split the input with .expand(). Nothing was sent."
                )
        if len(groups) > 1:
            named = ", ".join(" for ".join(filter(None, group)) for group in sorted(groups))
            raise LLMBatchModelMismatchError(
                f"A batch of {title} has one endpoint and one model, and these requests go to {named}. Give "
                "each a task of its own. Nothing was sent."
            )

    def submit(
        self,
        requests: list[BatchRequest],
        *,
        model: str,
        idempotency_key: str,
        input_fingerprint: str,
        output_spec: OutputSpec,
        completion_window: str = USUAL_WINDOW,
        **kwargs: Any,
    ) -> SubmitResult:
        """:raises VendorUnavailable: when the create got no clear answer: a batch may have been made, and be billed."""
        asked = list(self._asked(requests, model, output_spec, **kwargs))
        content = b"".join(self._line(one, idempotency_key, index) for index, one in enumerate(asked))
        endpoint, of_all = self.provider.group(asked[0])
        payload = Payload(lambda: [content], len(content))
        shard = Shard(
            endpoint=endpoint,
            model=of_all,
            rows=len(asked),
            bytes=len(content),
            key=marked(idempotency_key, input_fingerprint),
            # A key of the vendor's against repeated creates must not give the batch of an earlier submission.
            token=secrets.token_hex(8),
        )
        provider = self.provider
        if completion_window != USUAL_WINDOW:
            provider = type(provider)(provider.base_url, {"completion_window": completion_window})
        ref = self.hook.run(provider.upload(f"{idempotency_key}.jsonl", payload))
        batch = self.hook.run(provider.create(shard, ref, payload))
        return SubmitResult(batch_id=batch.id, provider_input_ref=ref)

    def get_batch(self, batch_id: str) -> BatchState:
        try:
            batch = self.hook.get_batch(batch_id)
        except RequestRejected as error:
            if error.status == NotFound.status_code:
                raise NotFound(str(error)) from None
            raise
        said = "; ".join(": ".join(filter(None, error)) for error in batch.errors)
        return BatchState(status=self._status(batch), counts=counts_of(batch), error_message=said or None)

    def _status(self, batch: Batch) -> BatchStatus:
        """In their words. They take ``failed`` for a batch that never ran, was billed nothing and has no results."""
        if batch.outcome != "failed":
            return BATCH_STATUSES[batch.outcome]
        ran = batch.succeeded or batch.failed or next(batch_lines(self.hook, batch), None)
        return "completed" if ran else "failed"

    def cancel_batch(self, batch_id: str) -> None:
        """:raises RequestRejected: where the vendor has no call for it (OpenRouter)."""
        self.hook.cancel_batch(batch_id)

    def iter_results(self, batch_id: str) -> Iterator[RawResultItem]:
        return self._items(self.hook.get_batch(batch_id))

    def _items(self, batch: Batch) -> Iterator[RawResultItem]:
        for line in batch_lines(self.hook, batch):
            try:
                yield item_of(self.provider.read(line))
            except UNREADABLE as error:
                # Theirs counts the row as missing.
                log.warning("A result line of batch %s is left out (%s).", batch.id, type(error).__name__)

    def build_output_directive(self, spec: OutputSpec) -> dict[str, Any]:
        """In the neutral format, which is translated with the rest. As in their own adapters it is not strict: strict
        modes want another schema than the one that answers are held to."""
        if not spec.is_structured:
            return {}
        schema = {"name": spec.schema_name, "schema": spec.json_schema, "strict": False}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def extract_output(self, raw: RawResultItem, spec: OutputSpec) -> ExtractedOutput:
        if not isinstance(raw.raw, str):
            return ExtractedOutput(kind="absent")
        return ExtractedOutput(kind="json_text" if spec.is_structured else "text", text=raw.raw)

    def find_orphaned_batch(self, idempotency_key: str, input_fingerprint: str, not_before: str) -> str | None:
        """By the metadata or the name that ``submit`` gave it. None always where a vendor keeps neither (DashScope,
        Novita, OpenRouter, Parasail, Together): ``on_orphaned_intent`` decides there."""
        if self.provider.found_by not in FINDS:
            return None
        since = datetime.fromisoformat(not_before) if not_before else datetime.min.replace(tzinfo=UTC) + LATE_DAYS
        shard = Shard(endpoint=CHAT, key=marked(idempotency_key, input_fingerprint))
        found = [batch for batch in self.hook.run(self.provider.find(shard, since)) if is_since(batch, since)]
        newest = max(found, key=lambda batch: batch.created_at or since, default=None)
        return newest.id if newest is not None else None

    def _asked(
        self,
        requests: list[BatchRequest],
        model: str,
        spec: OutputSpec,
        *,
        system_prompt: str = "",
        max_tokens: int = 1024,
        request_params: dict[str, Any] | None = None,
        **_: Any,
    ) -> Iterator[Request]:
        """The requests in the vendor's words.

        :raises LLMBatchInputError: names the request that the vendor would refuse.
        """
        directive = self.build_output_directive(spec)
        for index, given in enumerate(requests):
            system = given.get("system_prompt") or system_prompt
            turns = [{"role": "system", "content": system}] if system else []
            named = self.resolve_request_model(given.get("model"), default_bare_model=model, request_index=index)
            # What is managed here goes over what the user has set.
            body = {**(request_params or {}), **(given.get("params") or {}), "model": named, **directive}
            body["messages"] = [*turns, {"role": "user", "content": given["prompt"]}]
            body.pop("max_tokens", None)
            body["max_completion_tokens"] = given.get("max_tokens") or max_tokens
            try:
                yield self.provider.translate(Request(CHAT, body))
            except InputError as error:
                raise LLMBatchInputError(f"Request {index}: {error}") from None

    def _line(self, asked: Request, key: str, index: int) -> bytes:
        return to_json(self.provider.line(asked, f"{key}-{index}")) + b"\n"


def marked(idempotency_key: str, input_fingerprint: str) -> str:
    """What a batch is known again by: whose it is, and what it asks."""
    return f"{idempotency_key}-{input_fingerprint[:16]}"


def is_since(batch: Batch, moment: datetime) -> bool:
    at = batch.created_at
    return at is None or at >= moment - (LATE_DAYS if at.time() == time.min else LATE)


def counts_of(batch: Batch) -> dict[str, int] | None:
    """What the vendor tells of its rows; the rest is what its end says. None where it tells nothing."""
    if batch.total is None or batch.succeeded is None:
        return None
    failed = batch.failed or 0
    rest = max(batch.total - batch.succeeded - failed, 0)
    ends = {name: rest if batch.outcome == name else 0 for name in ("expired", "cancelled")}
    return {"succeeded": batch.succeeded, "errored": failed, **ends}


def item_of(result: Result) -> RawResultItem:
    """A result in their shape: an answer that was cut off or refused is one that their own checks judge.

    :raises ValueError: for an id that no request of theirs has.
    """
    status: Any = STATUSES.get(result.status, "errored")
    good = status == "success"
    kind = "provider_error" if status == "errored" else status
    error = {"type": kind, "message": result.error_message, "provider_code": result.error_code, "stage": "provider"}
    usage = {"input_tokens": result.input_tokens or 0, "output_tokens": result.output_tokens or 0}
    counted = result.input_tokens is not None or result.output_tokens is not None
    return RawResultItem(
        custom_id=result.custom_id,
        index=int(result.custom_id.rpartition("-")[2]),
        provider_status=status,
        model=result.model,
        usage=usage if counted else None,
        finish_reason=result.finish_reason,
        error=None if good else error,
        raw=result.text if good else None,
    )


@cache
def adapter_of(vendor: str) -> type[VendorAdapter]:
    """The adapter of one vendor, made when it is first asked for."""
    provider = provider_class(vendor)
    types = frozenset({"pydanticai", CONNECTIONS.get(vendor, "pydanticai")})
    limits = provider.default_limits
    about = {
        "__doc__": f"Batches of {provider.title}.",
        "name": vendor,
        "conn_types": types,
        "max_requests": limits.requests,
        "max_payload_bytes": limits.bytes,
        "allows_per_request_model": not provider.one_model_per_batch,
    }
    return type(f"{provider.__name__}Adapter", (VendorAdapter,), about)


def __getattr__(name: str) -> type[VendorAdapter]:
    """Entry points name a vendor: ``airflow_llm_batch.adapters:groq``."""
    if name in VENDORS:
        return adapter_of(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
