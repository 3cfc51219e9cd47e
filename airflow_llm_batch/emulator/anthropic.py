"""Anthropic's message batches and messages."""

from __future__ import annotations

import re
import time
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.emulator import answers, streams, upstream
from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor

NAME = "anthropic"
CUSTOM_ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
MOST_REQUESTS, MOST_BYTES = 100_000, 256_000_000
MODELS = ("claude-sonnet-4-5", "claude-haiku-4-5")
KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error",
}  # fmt: skip


def owns(path: str) -> bool:
    """Whether a path is one of Anthropic's."""
    return path.startswith("/v1/messages")


class Refusal(Exception):
    """An error answer in Anthropic's shape."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        error = {"type": KINDS.get(status, "api_error"), "message": message}
        self.body = {"type": "error", "error": error, "request_id": f"req_{uuid.uuid4().hex[:24]}"}


def vendor_of(request: Request) -> Vendor:
    """Checks key and version; every route asks for it."""
    vendor: Vendor = request.app.state.vendor
    key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    if not key.strip() and not getattr(request.state, "anonymous", False):
        raise Refusal(401, "x-api-key header is required")
    if vendor.settings.api_key not in (None, key.strip()):
        raise Refusal(401, "invalid x-api-key")
    if not request.headers.get("anthropic-version"):
        raise Refusal(400, "anthropic-version: header is required")
    return vendor


Held = Annotated[Vendor, Depends(vendor_of)]
router = APIRouter(prefix="/v1/messages")


@router.post("")
async def messages(request: Request, vendor: Held) -> Response:
    body = await json_body(request)
    if vendor.settings.upstream:
        if body.get("stream"):
            raise Refusal(400, "The emulator does not stream what it forwards.")
        ok, answer = await upstream.message(vendor.settings, body)
        return JSONResponse(answer, 200 if ok else 400)
    said = answers.message(body)
    if isinstance(said, answers.Bad):
        raise Refusal(said.status, said.message)
    said = vendor.caches.anthropic(body, said)
    if body.get("stream"):
        return StreamingResponse(streams.message(said), media_type="text/event-stream")
    return JSONResponse(said)


@router.post("/count_tokens")
async def count_tokens(request: Request, vendor: Held) -> dict[str, int]:
    said = answers.message({"max_tokens": 2**20, **await json_body(request)})
    if isinstance(said, answers.Bad):
        raise Refusal(said.status, said.message)
    return {"input_tokens": said["usage"]["input_tokens"]}


@router.post("/batches")
async def create(request: Request, vendor: Held) -> dict[str, Any]:
    size = int(request.headers.get("content-length") or 0)
    if size > MOST_BYTES:
        raise Refusal(413, f"Request exceeds the maximum size: {size:,} bytes of {MOST_BYTES:,}.")
    body = await json_body(request)
    requests = body.get("requests")
    if not isinstance(requests, list) or not requests:
        raise Refusal(400, "requests: List should have at least 1 item after validation, not 0")
    if len(requests) > MOST_REQUESTS:
        raise Refusal(400, f"requests: List should have at most {MOST_REQUESTS} items after validation")
    batch = EmulatedBatch(
        id=f"msgbatch_{uuid.uuid4().hex[:24]}",
        dialect=NAME,
        lines=vendor.directory / f"{uuid.uuid4().hex}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
    )
    await run_in_threadpool(keep, vendor, batch, requests)
    vendor.add_batch(batch)
    if vendor.settings.upstream:
        upstream.start(vendor, batch, partial(upstream.anthropic_line, vendor.settings))
    return batch_object(request, vendor, batch)


@router.get("/batches")
def list_batches(
    request: Request,
    vendor: Held,
    after_id: str | None = None,
    before_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> dict[str, Any]:
    try:
        page, more = vendor.newest(NAME, after_id, limit)
    except ValueError:
        raise Refusal(400, f"after_id: no batch {after_id}") from None
    if before_id is not None:
        newer = []
        for batch in vendor.newest(NAME, None, 10**9)[0]:
            if batch.id == before_id:
                break
            newer.append(batch)
        page, more = newer[-limit:], len(newer) > limit
    data = [batch_object(request, vendor, batch) for batch in page]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": more, "first_id": first, "last_id": last}


@router.get("/batches/{batch_id}")
def get_batch(batch_id: str, request: Request, vendor: Held) -> dict[str, Any]:
    return batch_object(request, vendor, batch_of(vendor, batch_id))


@router.post("/batches/{batch_id}/cancel")
def cancel(batch_id: str, request: Request, vendor: Held) -> dict[str, Any]:
    batch = batch_of(vendor, batch_id)
    if batch.view(time.time()).ended_at is not None:
        raise Refusal(400, f"Batch {batch_id} cannot be canceled because it has already ended.")
    if batch.cancelled_at is None:
        batch.cancelled_at = time.time()
    return batch_object(request, vendor, batch)


@router.get("/batches/{batch_id}/results")
def results(batch_id: str, vendor: Held) -> Response:
    batch = batch_of(vendor, batch_id)
    vendor.settle(batch, partial(from_cache, vendor))
    if batch.output is None:
        raise Refusal(400, f"Batch {batch_id} is still in progress; its results are not available.")
    return FileResponse(batch.output.path, media_type="application/x-jsonl")


@router.delete("/batches/{batch_id}")
def delete(batch_id: str, vendor: Held) -> dict[str, Any]:
    if batch_of(vendor, batch_id).view(time.time()).ended_at is None:
        raise Refusal(400, f"Batch {batch_id} cannot be deleted before it has ended.")
    del vendor.batches[batch_id]
    return {"id": batch_id, "type": "message_batch_deleted"}


def models(request: Request, after_id: str | None, limit: int) -> dict[str, Any]:
    """The path is OpenAI's too: its route hands callers that name a version on to this."""
    vendor_of(request)
    left = MODELS[MODELS.index(after_id) + 1 :] if after_id in MODELS else MODELS
    data = [model(name) for name in left[:limit]]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": len(left) > limit, "first_id": first, "last_id": last}


def get_model(request: Request, name: str) -> dict[str, Any]:
    vendor_of(request)
    if name not in MODELS:
        raise Refusal(404, f"model: {name}")
    return model(name)


def model(name: str) -> dict[str, Any]:
    created = "2025-10-01T00:00:00Z"
    return {"id": name, "type": "model", "display_name": name, "created_at": created, "lifecycle": "active"}


def keep(vendor: Vendor, batch: EmulatedBatch, requests: list[Any]) -> None:
    """Check what Anthropic checks at once, ids and shapes, and store the lines; params are judged row by row later."""
    seen: set[str] = set()
    with batch.lines.open("wb") as file:
        for index, line in enumerate(requests):
            if not isinstance(line, dict) or not isinstance(line.get("params"), dict):
                raise Refusal(400, f"requests.{index}.params: Field required")
            custom_id = line.get("custom_id")
            if not isinstance(custom_id, str) or not CUSTOM_ID.fullmatch(custom_id):
                raise Refusal(400, f"requests.{index}.custom_id: String should match pattern '{CUSTOM_ID.pattern}'")
            if custom_id in seen:
                raise Refusal(400, f"requests.{index}.custom_id: duplicate custom_id '{custom_id}'")
            seen.add(custom_id)
            text = msgspec.json.encode(line["params"])
            batch.model = batch.model or line["params"].get("model")
            batch.fates.append(vendor.fate(text.decode()))
            batch.prompt_tokens += answers.tokens(text.decode())
            file.write(msgspec.json.encode(line) + b"\n")


def answer_line(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    if unfinished in ("expired", "cancelled"):
        return False, {"custom_id": line["custom_id"], "result": {"type": unfinished.replace("ll", "l")}}
    if unfinished:
        said: Any = answers.Bad(500, "api_error", "Internal server error")
    elif line["params"].get("stream"):
        said = answers.Bad(400, "invalid_request_error", "stream: streaming is not supported in batches")
    else:
        said = answers.message(line["params"], "batch")
    return not isinstance(said, answers.Bad), result_line(line["custom_id"], said)


def from_cache(vendor: Vendor, line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    """A result line whose usage knows what was cached."""
    succeeded, result = answer_line(line, unfinished)
    if succeeded:
        result["result"]["message"] = vendor.caches.anthropic(line["params"], result["result"]["message"])
    return succeeded, result


def result_line(custom_id: str, said: Any) -> dict[str, Any]:
    if isinstance(said, answers.Bad):
        error = {"type": said.kind, "message": said.message}
        body = {"type": "error", "error": error, "request_id": f"req_{answers.digest(custom_id)[:24]}"}
        return {"custom_id": custom_id, "result": {"type": "errored", "error": body}}
    return {"custom_id": custom_id, "result": {"type": "succeeded", "message": said}}


def batch_object(request: Request, vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
    vendor.settle(batch, partial(from_cache, vendor))
    view = batch.view(time.time())
    ended = view.ended_at is not None
    left = batch.total - view.done
    # Anthropic counts nothing before the whole batch has ended.
    counts = {
        "processing": 0 if ended else batch.total,
        "succeeded": view.done - view.failed - batch.lost if ended else 0,
        "errored": view.failed + batch.lost if ended else 0,
        "canceled": left if ended and view.phase == "cancelled" else 0,
        "expired": left if ended and view.phase == "expired" else 0,
    }
    if ended and view.phase == "failed":
        counts["errored"] = batch.total
    status = "ended" if ended else "canceling" if view.phase == "cancelling" else "in_progress"
    if status == "in_progress" and vendor.settings.faults.unknown_status:
        status = vendor.settings.faults.unknown_status
    shown = batch.output is None or batch.shows_files(vendor.settings.faults.undelivered)
    base = str(request.base_url).rstrip("/") + getattr(request.state, "base", "")
    url = f"{base}/v1/messages/batches/{batch.id}/results"
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": counts,
        "ended_at": stamp(view.ended_at),
        "created_at": stamp(batch.created_at),
        "expires_at": stamp(batch.created_at + 86400),
        "archived_at": None,
        "cancel_initiated_at": stamp(batch.cancelled_at),
        "results_url": url if ended and batch.output is not None and shown else None,
    }


def batch_of(vendor: Vendor, batch_id: str) -> EmulatedBatch:
    batch = vendor.batches.get(batch_id)
    if batch is None or batch.dialect != NAME:
        raise Refusal(404, f"Could not find message batch {batch_id}.")
    return batch


def stamp(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.body())
    except ValueError as error:
        raise Refusal(400, f"The request body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise Refusal(400, "The request body must be a JSON object.")
    return body
