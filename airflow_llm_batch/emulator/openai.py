"""OpenAI's files, batches and synchronous endpoints."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from airflow_llm_batch.emulator import answers, anthropic, flex, streams, upstream
from airflow_llm_batch.emulator.batches import Answer, EmulatedBatch, StoredFile, Vendor
from airflow_llm_batch.emulator.openai_lines import ANSWERS, UNFINISHED, answer_line, validate

NAME = "openai"
ENDPOINTS = (
    "/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/moderations",
    "/v1/images/generations", "/v1/images/edits", "/v1/videos",
)  # fmt: skip
MOST_BYTES = 200_000_000
PHASES = {"running": "in_progress"}


def owns(path: str) -> bool:
    """Whether a path is one of OpenAI's: all that no other vendor claims."""
    return True


class Refusal(Exception):
    """An error answer in OpenAI's shape."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        self.status, self.code = status, code
        self.headers: dict[str, str] = {}
        kind = {401: "invalid_request_error", 404: "invalid_request_error"}.get(status, "invalid_request_error")
        self.body: dict[str, Any] = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def vendor_of(request: Request) -> Vendor:
    """Checks the key; every route asks for it."""
    vendor: Vendor = request.app.state.vendor
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        key = request.headers.get("api-key", "")
    if not key:
        raise Refusal(401, "You didn't provide an API key. Use an Authorization header with Bearer auth.")
    if vendor.settings.api_key not in (None, key.strip()):
        raise Refusal(401, f"Incorrect API key provided: {key[:3]}***.", "invalid_api_key")
    return vendor


Held = Annotated[Vendor, Depends(vendor_of)]
router = APIRouter(prefix="/v1")


@router.post("/files")
async def upload(request: Request, vendor: Held) -> dict[str, Any]:
    form = await request.form()
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise Refusal(400, "Missing required parameter: 'file'.", param="file")
    if purpose not in ("batch", "assistants", "fine-tune", "vision", "user_data", "evals"):
        raise Refusal(400, f"'{purpose}' is not one of the allowed purposes.", param="purpose")
    if purpose == "batch" and (file.size or 0) > MOST_BYTES:
        raise Refusal(400, f"File is too large: {file.size:,} bytes, the limit for batches is {MOST_BYTES:,}.")
    stored = vendor.new_file(file.filename or "upload", str(purpose))
    if seconds := form.get("expires_after[seconds]"):
        stored.expires_at = stored.created_at + int(str(seconds))

    def keep() -> None:
        with stored.path.open("wb") as target:
            shutil.copyfileobj(file.file, target, 2**20)

    await run_in_threadpool(keep)
    return file_object(stored)


@router.get("/files")
def list_files(
    vendor: Held,
    purpose: str | None = None,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> dict[str, Any]:
    files = [f for f in vendor.files.values() if purpose in (None, f.purpose)]
    files = files[::-1] if order == "desc" else files
    if after is not None:
        ids = [file.id for file in files]
        if after not in ids:
            raise Refusal(400, f"No file found with id '{after}'.", param="after")
        files = files[ids.index(after) + 1 :]
    data = [file_object(file) for file in files[:limit]]
    return {"object": "list", "data": data, "has_more": len(files) > limit, **ends(data)}


@router.get("/files/{file_id}")
def get_file(file_id: str, vendor: Held) -> dict[str, Any]:
    return file_object(file_of(vendor, file_id))


@router.get("/files/{file_id}/content")
def file_content(file_id: str, vendor: Held) -> Response:
    return FileResponse(file_of(vendor, file_id).path, media_type="application/octet-stream")


@router.delete("/files/{file_id}")
def delete_file(file_id: str, vendor: Held) -> dict[str, Any]:
    file_of(vendor, file_id)
    del vendor.files[file_id]
    return {"id": file_id, "object": "file", "deleted": True}


@router.post("/batches")
async def create(request: Request, vendor: Held) -> dict[str, Any]:
    body = await json_body(request)
    check_create(body)
    batch = new_batch(vendor, NAME, body, input_of(vendor, body))
    await run_in_threadpool(validate, vendor, batch, vendor.files[body["input_file_id"]].path)
    begin(vendor, batch)
    return batch_object(vendor, batch)


def check_create(body: dict[str, Any]) -> None:
    """:raises Refusal: for what OpenAI refuses before it looks at the file."""
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not body.get(name):
            raise Refusal(400, f"Missing required parameter: '{name}'.", "missing_required_parameter", name)
    if body["endpoint"] not in ENDPOINTS:
        raise Refusal(
            400, f"Invalid value: '{body['endpoint']}'. Supported values are {ENDPOINTS}.", "invalid_value", "endpoint"
        )
    if body["completion_window"] != "24h":
        raise Refusal(
            400,
            f"Invalid value: '{body['completion_window']}'. Value must be '24h'.",
            "invalid_value",
            "completion_window",
        )
    metadata = body.get("metadata")
    if metadata is not None and (
        len(metadata) > 16 or any(len(k) > 64 or not isinstance(v, str) or len(v) > 512 for k, v in metadata.items())
    ):
        raise Refusal(
            400, "Invalid 'metadata': at most 16 pairs of strings of up to 64 and 512 characters.", param="metadata"
        )


def input_of(vendor: Vendor, body: dict[str, Any]) -> StoredFile:
    """:raises Refusal: for a file that is not there, or not for batches."""
    stored = vendor.files.get(body["input_file_id"])
    if stored is None:
        raise Refusal(400, f"Invalid file id: {body['input_file_id']}.", "invalid_file_id", "input_file_id")
    if stored.purpose != "batch":
        raise Refusal(400, f"File {stored.id} has purpose '{stored.purpose}', not 'batch'.", param="input_file_id")
    return stored


def new_batch(vendor: Vendor, dialect: str, body: dict[str, Any], stored: StoredFile) -> EmulatedBatch:
    return EmulatedBatch(
        id=f"batch_{uuid.uuid4().hex}",
        dialect=dialect,
        split=True,
        # a copy: deleting the input file does not undo a batch
        lines=vendor.directory / f"{uuid.uuid4().hex}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
        endpoint=body["endpoint"],
        input_file_id=stored.id,
        metadata=body.get("metadata"),
    )


def begin(vendor: Vendor, batch: EmulatedBatch) -> None:
    """Take a validated batch into the queue.

    :raises QueueFull: where the faults say so.
    """
    vendor.add_batch(batch)
    if vendor.settings.upstream and not batch.problems:
        upstream.start(vendor, batch, partial(upstream.openai_line, vendor.settings))


@router.get("/batches")
def list_batches(
    vendor: Held, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    return page_of(vendor, NAME, after, limit, batch_object)


def page_of(
    vendor: Vendor,
    dialect: str,
    after: str | None,
    limit: int,
    show: Callable[[Vendor, EmulatedBatch], dict[str, Any]],
) -> dict[str, Any]:
    """A page of a dialect's batches, newest first."""
    try:
        page, more = vendor.newest(dialect, after, limit)
    except ValueError:
        raise Refusal(400, f"No batch found with id '{after}'.", param="after") from None
    data = [show(vendor, batch) for batch in page]
    return {"object": "list", "data": data, "has_more": more, **ends(data)}


@router.get("/batches/{batch_id}")
def get_batch(batch_id: str, vendor: Held) -> dict[str, Any]:
    return batch_object(vendor, batch_of(vendor, batch_id))


@router.post("/batches/{batch_id}/cancel")
def cancel(batch_id: str, vendor: Held) -> dict[str, Any]:
    return batch_object(vendor, cancelled(batch_of(vendor, batch_id)))


def cancelled(batch: EmulatedBatch) -> EmulatedBatch:
    """:raises Refusal: for a batch that has ended."""
    view = batch.view(time.time())
    if view.ended_at is not None:
        raise Refusal(409, f"Cannot cancel a batch with status '{view.phase}'.")
    if batch.cancelled_at is None:
        batch.cancelled_at = time.time()
    return batch


MODELS = ("gpt-5-mini", "gpt-4o-mini", "text-embedding-3-small")


@router.get("/models")
def models(
    request: Request, after_id: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> dict[str, Any]:
    """The one path that both vendors have; Anthropic's callers name the version of its API."""
    if request.headers.get("anthropic-version"):
        return anthropic.models(request, after_id, limit)
    vendor_of(request)
    return {"object": "list", "data": [model(name) for name in MODELS]}


@router.get("/models/{name}")
def get_model(name: str, request: Request) -> dict[str, Any]:
    if request.headers.get("anthropic-version"):
        return anthropic.get_model(request, name)
    vendor_of(request)
    if name not in MODELS:
        raise Refusal(404, f"The model '{name}' does not exist", "model_not_found", "model")
    return model(name)


def model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "emulator"}


@router.post("/chat/completions")
@router.post("/responses")
@router.post("/embeddings")
@router.post("/completions")
@router.post("/moderations")
async def synchronous(request: Request, vendor: Held) -> Response:
    return await answered(vendor, request.url.path, await json_body(request))


async def answered(
    vendor: Vendor,
    path: str,
    body: dict[str, Any],
    dialect: str = NAME,
    show: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Response:
    """The answer to one call.

    :param path: one of ``ANSWERS``.
    :param dialect: whose models they are.
    :param show: an answer as the vendor spells it.
    """
    if vendor.settings.upstream:
        if body.get("stream"):
            raise Refusal(400, "The emulator does not stream what it forwards.", "unsupported_value", "stream")
        status, answer = await upstream.forward(vendor.settings, path, body)
        return JSONResponse(answer, status)
    said = ANSWERS[path](body, int(time.time()))
    if isinstance(said, answers.Bad):
        raise Refusal(said.status, said.message, param=said.param)
    said = vendor.caches.openai(body, said)
    if path.endswith(("/chat/completions", "/responses")):
        said["service_tier"] = tier_of(vendor, dialect, body)
    if body.get("stream") and path.endswith("/chat/completions"):
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return StreamingResponse(streams.chat(said, usage), media_type="text/event-stream")
    if body.get("stream") and path.endswith("/responses"):
        return StreamingResponse(streams.response(said), media_type="text/event-stream")
    return JSONResponse(show(said))


def tier_of(vendor: Vendor, dialect: str, body: dict[str, Any]) -> str:
    """The tier at which a call is served.

    :raises Refusal: when there is no room for it, or the model does not take it.
    """
    try:
        return flex.served(vendor, dialect, str(body.get("model")), body.get("service_tier"), "default")
    except flex.NotTaken:
        raise Refusal(400, "Invalid service_tier argument", param="service_tier") from None
    except flex.Full as full:
        refusal = Refusal(full.status or 429, "Resource unavailable.", "resource_unavailable")
        refusal.headers = full.headers
        raise refusal from None


def batch_object(vendor: Vendor, batch: EmulatedBatch, answer: Answer = answer_line) -> dict[str, Any]:
    now = time.time()
    vendor.settle(batch, partial(from_cache, vendor, answer))
    view = batch.view(now)
    status = PHASES.get(view.phase, view.phase)
    if view.phase == "running" and vendor.settings.faults.unknown_status:
        status = vendor.settings.faults.unknown_status
    ended = int(view.ended_at) if view.ended_at else None
    validated = now >= batch.validated_at and not batch.problems
    problems = view.phase == "failed" and batch.problems
    shown = batch.output is None or batch.shows_files(vendor.settings.faults.undelivered)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": batch.problems} if problems else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": status,
        "output_file_id": batch.output.id if batch.output and shown else None,
        "error_file_id": batch.errors.id if batch.errors and shown else None,
        "created_at": int(batch.created_at),
        "in_progress_at": int(batch.validated_at) if validated else None,
        "expires_at": int(batch.created_at) + 86400,
        "finalizing_at": int(batch.finalizing_at) if validated and now >= batch.finalizing_at else None,
        "completed_at": ended if view.phase == "completed" else None,
        "failed_at": ended if view.phase == "failed" else None,
        "expired_at": ended if view.phase == "expired" else None,
        "cancelling_at": int(batch.cancelled_at) if batch.cancelled_at else None,
        "cancelled_at": ended if view.phase == "cancelled" else None,
        "request_counts": {
            "total": batch.total if validated else 0,
            "completed": view.done - view.failed - batch.lost,
            "failed": view.failed + (batch.total - view.done if view.phase in UNFINISHED else 0),
        },
        "usage": usage_of(batch) if view.phase == "completed" else None,
        "metadata": batch.metadata,
    }


def from_cache(
    vendor: Vendor, answer: Answer, line: dict[str, Any], unfinished: str | None
) -> tuple[bool, dict[str, Any]]:
    """A result line whose usage knows what was cached."""
    succeeded, result = answer(line, unfinished)
    if succeeded:
        response = result["response"]
        result = {**result, "response": {**response, "body": vendor.caches.openai(line["body"], response["body"])}}
    return succeeded, result


def usage_of(batch: EmulatedBatch) -> dict[str, Any]:
    read, written = batch.used
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def file_object(stored: StoredFile) -> dict[str, Any]:
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.path.stat().st_size,
        "created_at": int(stored.created_at),
        "expires_at": int(stored.expires_at) if stored.expires_at else None,
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
        "status_details": None,
    }


def file_of(vendor: Vendor, file_id: str) -> StoredFile:
    if file_id not in vendor.files:
        raise Refusal(404, f"No such File object: {file_id}", param="id")
    return vendor.files[file_id]


def batch_of(vendor: Vendor, batch_id: str, dialect: str = NAME) -> EmulatedBatch:
    batch = vendor.batches.get(batch_id)
    if batch is None or batch.dialect != dialect:
        raise Refusal(404, f"No batch found with id '{batch_id}'.")
    return batch


def ends(data: list[dict[str, Any]]) -> dict[str, Any]:
    return {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.body())
    except ValueError as error:
        raise Refusal(
            400, f"We could not parse the JSON body of your request: {re.sub('[{}]', '', str(error))}"
        ) from None
    if not isinstance(body, dict):
        raise Refusal(400, "The request body must be a JSON object.")
    return body
