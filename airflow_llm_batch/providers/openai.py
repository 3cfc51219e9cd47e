"""OpenAI's Files and Batches API, and any server that speaks it.

Source: wire facts of OpenAI's OpenAPI document and SDK (files, batches); limits of its batch guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx
import msgspec

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.models import Batch, Limits, Outcome, Page, Request, Result, RowStatus, Shard
from airflow_llm_batch.providers.base import (
    Batches,
    Flow,
    Payload,
    Provider,
    Requests,
    encode_multipart,
    repeatable,
    streamed,
    whole,
)

OUTCOMES: dict[str, Outcome] = {
    "completed": "completed",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
ROW_OUTCOMES: dict[str, RowStatus] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
#: the metadata entry that says whose batch this is
KEY = "airflow_llm_batch"
MOST_METADATA = 16


class OpenAI(Provider):
    name = "openai"
    default_base_url = "https://api.openai.com/v1"
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=200_000_000, embedding_inputs=50_000)
    endpoints = frozenset(
        {"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions", "/v1/moderations"}
    )
    batch_price_factor = "0.5"
    #: pages of 100 batches searched for a lost create
    find_pages = 20

    def normalize(self, base_url: str) -> str:
        return base_url if httpx.URL(base_url).path.strip("/") else f"{base_url}/v1"

    def headers(self, key: str) -> dict[str, str]:
        wanted = {"openai-organization": "organization", "openai-project": "project"}
        extra = {header: str(self.options[name]) for header, name in wanted.items() if self.options.get(name)}
        return {"authorization": f"Bearer {key}", **extra}

    def encode(self, request: Request, custom_id: str) -> dict[str, Any]:
        self.check_endpoint(request.endpoint)
        return {"custom_id": custom_id, "method": "POST", "url": request.endpoint, "body": request.body}

    def check_metadata(self, metadata: Mapping[str, str]) -> None:
        if len(metadata) > MOST_METADATA - 1:
            raise InputError(
                f"metadata has {len(metadata)} entries; {self.name} keeps {MOST_METADATA}, and one is ours. "
                "Nothing was sent."
            )
        for name, value in metadata.items():
            if len(name) > 64 or len(value) > 512:
                raise InputError(
                    f"metadata {name[:80]!r} has {len(name)} characters and its value {len(value)}; {self.name} keeps "
                    "64 and 512. Shorten it. Nothing was sent."
                )

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        headers, body = encode_multipart({"purpose": "batch"}, filename, content)
        response = yield repeatable(streamed("POST", self.url("files"), headers, body))
        return str(self.expect(response, "the upload of an input file")["id"])

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        body = {
            "input_file_id": ref,
            "endpoint": shard.endpoint,
            "completion_window": self.options.get("completion_window", "24h"),
            "metadata": {**shard.metadata, **({KEY: shard.key} if shard.key else {})},
        }
        response = yield httpx.Request("POST", self.url("batches"), json=body)
        return parse_batch(self.expect(response, "the creation of a batch"))

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        # Created-at has whole seconds and the vendor's clock is not ours.
        earliest = since - timedelta(minutes=10)
        found: Batches = []
        after = None
        for _ in range(self.find_pages):
            page = yield from self.list(after)
            recent = [b for b in page.items if b.created_at is None or b.created_at >= earliest]
            found += [b for b in recent if b.metadata.get(KEY) == shard.key or (ref and b.input_ref == ref)]
            oldest = page.items[-1].created_at if page.items else None
            if page.after is None or (oldest and oldest < earliest):
                break
            after = page.after
        return found

    def get(self, batch_id: str) -> Flow[Batch]:
        response = yield httpx.Request("GET", self.url("batches", batch_id))
        return parse_batch(self.expect(response, f"a look at batch {batch_id}"))

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        response = yield httpx.Request("GET", self.url("batches", query={"after": after, "limit": limit or 100}))
        body = self.expect(response, "a listing of batches")
        items = [parse_batch(item) for item in body.get("data") or []]
        return Page(items, items[-1].id if items and body.get("has_more") else None)

    def cancel(self, batch_id: str) -> Flow[Batch]:
        response = yield repeatable(httpx.Request("POST", self.url("batches", batch_id, "cancel")))
        if response.status_code in (400, 409):
            # It ended first; what it ended as is what the caller wants to know.
            return (yield from self.get(batch_id))
        return parse_batch(self.expect(response, f"the cancellation of batch {batch_id}"))

    def downloads(self, batch: Batch) -> Requests:
        return [self.download(file_id) for file_id in batch.files]

    def inputs(self, batch: Batch) -> Requests:
        return [self.download(batch.input_ref)] if batch.input_ref else []

    def download(self, file_id: str) -> httpx.Request:
        """The request for one stored file's content."""
        return httpx.Request("GET", self.url("files", file_id, "content"))

    def decode(self, line: dict[str, Any]) -> Result:
        result = Result(custom_id=str(line["custom_id"]), status="errored")
        error, response = line.get("error"), line.get("response")
        if error:
            result.error_code = str(error.get("code") or "")
            result.error_message = error.get("message")
            result.status = ROW_OUTCOMES.get(result.error_code, "errored")
            return result
        if not response and "error" not in line:
            raise KeyError("response")
        body = (response or {}).get("body") or {}
        status = (response or {}).get("status_code") or 0
        if not 200 <= status < 300 or not body or body.get("error"):
            told = body.get("error")
            inner = told if isinstance(told, dict) else {}
            result.error_code = str(inner.get("code") or inner.get("type") or f"http_{status}")
            result.error_message = inner.get("message") or f"The vendor reported HTTP {status} for this row."
            return result
        result.model = body.get("model")
        read_usage(body.get("usage") or {}, result)
        if "choices" in body:
            read_chat(body["choices"][0], result)
        elif body.get("object") == "response":
            read_response(body, result)
        elif isinstance(body.get("data"), list):
            vectors = [item["embedding"] for item in body["data"]]
            result.status, result.embedding = "succeeded", vectors[0] if len(vectors) == 1 else vectors
        else:
            result.status, result.output = "succeeded", body
        return result


def parse_batch(raw: dict[str, Any]) -> Batch:
    """A batch object as OpenAI and its kin spell it: capitals, nulls and missing fields are all met in the wild."""
    status = str(raw.get("status") or "").lower()
    counts = raw.get("request_counts") or {}
    outcome = OUTCOMES.get(status)
    if outcome == "completed" and counts.get("failed"):
        outcome = "partial"
    created = raw.get("created_at")
    return Batch(
        id=str(raw["id"]),
        status=status,
        outcome=outcome,
        total=counts.get("total"),
        succeeded=counts.get("completed"),
        failed=counts.get("failed"),
        created_at=datetime.fromtimestamp(created, UTC) if isinstance(created, int | float) else None,
        input_ref=raw.get("input_file_id") or None,
        files=tuple(raw[name] for name in ("output_file_id", "error_file_id") if raw.get(name)),
        errors=tuple(
            (str(e.get("code") or ""), str(e.get("message") or "")) for e in (raw.get("errors") or {}).get("data") or ()
        ),
        metadata={str(k): str(v) for k, v in (raw.get("metadata") or {}).items()},
        known=status in OUTCOMES or status in RUNNING,
    )


def read_usage(usage: dict[str, Any], result: Result) -> None:
    result.input_tokens = whole(usage.get("prompt_tokens", usage.get("input_tokens")))
    # Embeddings report no output tokens at all: their output is nothing, not unknown.
    spent = whole(usage.get("completion_tokens", usage.get("output_tokens")))
    result.output_tokens = 0 if spent is None and usage else spent
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    result.cached_tokens = whole(details.get("cached_tokens"))
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    result.reasoning_tokens = whole(details.get("reasoning_tokens"))


def read_chat(choice: dict[str, Any], result: Result) -> None:
    message = choice["message"]
    result.finish_reason = choice.get("finish_reason")
    result.text = message.get("content")
    calls = message.get("tool_calls")
    if calls:
        result.tool_calls = [
            {
                "id": call.get("id"),
                "name": call["function"]["name"],
                "arguments": arguments(call["function"].get("arguments")),
            }
            for call in calls
            if call.get("function")
        ]
    if message.get("refusal"):
        result.status, result.error_message = "refused", message["refusal"]
    elif result.finish_reason == "content_filter":
        result.status = "refused"
    elif result.finish_reason == "length":
        result.status = "truncated"
    else:
        result.status = "succeeded"


def read_response(body: dict[str, Any], result: Result) -> None:
    texts, refusals, calls = [], [], []
    for item in body.get("output") or ():
        if item.get("type") == "function_call":
            calls.append(
                {"id": item.get("call_id"), "name": item.get("name"), "arguments": arguments(item.get("arguments"))}
            )
        for part in item.get("content") or () if item.get("type") == "message" else ():
            if part.get("type") == "output_text":
                texts.append(part.get("text") or "")
            elif part.get("type") == "refusal":
                refusals.append(part.get("refusal") or "")
    result.text = "".join(texts) if texts else None
    result.tool_calls = calls or None
    result.finish_reason = body.get("status")
    reason = (body.get("incomplete_details") or {}).get("reason")
    if refusals or reason == "content_filter":
        result.status, result.error_message = "refused", "".join(refusals) or None
    elif reason or body.get("status") == "incomplete":
        result.status, result.finish_reason = "truncated", reason or "incomplete"
    elif body.get("status") in ("failed", "cancelled"):
        error = body.get("error") or {}
        result.error_code, result.error_message = error.get("code"), error.get("message")
    else:
        result.status = "succeeded"


def arguments(raw: Any) -> Any:
    """Tool-call arguments arrive as JSON text a model wrote; what does not parse stays text."""
    if not isinstance(raw, str):
        return raw
    try:
        return msgspec.json.decode(raw)
    except (ValueError, UnicodeEncodeError):
        return raw
