"""Azure OpenAI: the v1 surface and the one with ``api-version``, where OpenAI's own ways are not Azure's.

Source: Microsoft's how-to and REST reference of Azure OpenAI batches (statuses, error codes, samples), its content
filter's reference, and openai-python's ``AzureOpenAI``.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.emulator import entra, openai
from airflow_llm_batch.emulator.azure_lines import FILTERED, answered_line, check_lines, endpoint_of, filtered, spell
from airflow_llm_batch.emulator.batches import EmulatedBatch, QueueFull, StoredFile, Vendor

NAME = "azure"
#: seconds after which a file may be made to expire
EXPIRY = range(14 * 86400, 30 * 86400 + 1)
#: the version whose batches were told in capitals
CAPITALS = "2024-07-01-preview"
FULL = (
    "The number of enqueued tokens has surpassed the configured limit of {limit} for the deployment '{name}'. Please "
    "either increase the limit or try again once the current jobs have finished."
)
TIMES = (
    "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at",
)  # fmt: skip


def owns(path: str) -> bool:
    """Whether a path is Azure's, or Entra's, which has the tokens."""
    return path.startswith("/openai/") or entra.owns(path)


class Refusal(Exception):
    """An error answer in Azure's shape."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        self.body = {"error": {"code": code or str(status), "message": message}}


def vendor_of(request: Request) -> Vendor:
    """Checks the key, or the token; every route asks for it."""
    vendor: Vendor = request.app.state.vendor
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = request.headers.get("api-key") or (token if scheme.lower() == "bearer" else "")
    good = entra.is_good(vendor, key) if key.startswith(entra.TOKEN) else vendor.settings.api_key in (None, key)
    if not key or not good:
        raise Refusal(
            401,
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for "
            "an active subscription and use a correct regional API endpoint for your resource.",
        )
    return vendor


def versioned(request: Request) -> None:
    if not request.query_params.get("api-version"):
        raise Refusal(404, "Resource not found")


Held = Annotated[Vendor, Depends(vendor_of)]
surface = APIRouter()
router = APIRouter()


def deployment_of(vendor: Vendor, name: Any) -> str:
    """The model behind a deployment.

    :raises Refusal: for a deployment that is not there.
    """
    known = vendor.settings.deployments
    if known is not None and name not in known:
        raise Refusal(404, "The API deployment for this resource does not exist.", "DeploymentNotFound")
    return str(name if known is None else known[name])


@surface.post("/files")
async def upload(request: Request, vendor: Held) -> dict[str, Any]:
    form = await request.form()
    seconds = form.get("expires_after[seconds]") or form.get("expires_after.seconds")
    if seconds is not None and int(str(seconds)) not in EXPIRY:
        raise Refusal(400, f"expires_after must be between {EXPIRY[0]} and {EXPIRY[-1]} seconds.", "invalidPayload")
    stored = vendor.files[(await openai.upload(request, vendor))["id"]]
    if seconds is not None:
        stored.expires_at = stored.created_at + int(str(seconds))
    return file_object(vendor, stored)


@surface.get("/files")
def list_files(
    vendor: Held,
    purpose: str | None = None,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
) -> dict[str, Any]:
    page = openai.list_files(vendor, purpose, after, order, limit)
    return {**page, "data": [file_object(vendor, vendor.files[file["id"]]) for file in page["data"]]}


@surface.get("/files/{file_id}")
def get_file(file_id: str, vendor: Held) -> dict[str, Any]:
    return file_object(vendor, openai.file_of(vendor, file_id))


def file_object(vendor: Vendor, stored: StoredFile) -> dict[str, Any]:
    return {**openai.file_object(stored), "status": "processed" if is_processed(vendor, stored) else "pending"}


def is_processed(vendor: Vendor, stored: StoredFile) -> bool:
    return time.time() >= stored.created_at + vendor.settings.file_seconds


@surface.get("/files/{file_id}/content")
def file_content(file_id: str, vendor: Held) -> Response:
    return openai.file_content(file_id, vendor)


@surface.delete("/files/{file_id}")
def delete_file(file_id: str, vendor: Held) -> dict[str, Any]:
    return openai.delete_file(file_id, vendor)


@surface.post("/batches")
async def create(request: Request, vendor: Held) -> dict[str, Any]:
    body = await openai.json_body(request)
    if isinstance(body.get("endpoint"), str):
        body["endpoint"] = endpoint_of(body["endpoint"])
    openai.check_create(body)
    stored = openai.input_of(vendor, body)
    if not is_processed(vendor, stored):
        raise Refusal(
            400, f"The file '{stored.id}' is in 'Pending' state. Only 'Processed' files are accepted.", "invalidPayload"
        )
    batch = openai.new_batch(vendor, NAME, body, stored)
    await run_in_threadpool(check_lines, vendor, batch, stored)
    try:
        openai.begin(vendor, batch)
    except QueueFull as full:
        raise QueueFull(full.args[0], full_message(vendor, batch), full.args[2]) from None
    for problem in batch.problems:
        if problem["code"] == "token_limit_exceeded":
            problem["message"] = full_message(vendor, batch)
    return batch_object(vendor, batch, request)


def full_message(vendor: Vendor, batch: EmulatedBatch) -> str:
    """How Azure says it: in thousands, where they are round."""
    limit = vendor.settings.faults.enqueued_tokens or 0
    return FULL.format(limit=limit if limit % 1000 else f"{limit // 1000}K", name=batch.model)


@surface.get("/batches")
def list_batches(
    request: Request, vendor: Held, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    return openai.page_of(vendor, NAME, after, limit, lambda held, batch: batch_object(held, batch, request))


@surface.get("/batches/{batch_id}")
def get_batch(batch_id: str, request: Request, vendor: Held) -> dict[str, Any]:
    return batch_object(vendor, openai.batch_of(vendor, batch_id, NAME), request)


@surface.post("/batches/{batch_id}/cancel")
def cancel(batch_id: str, request: Request, vendor: Held) -> dict[str, Any]:
    return batch_object(vendor, openai.cancelled(openai.batch_of(vendor, batch_id, NAME)), request)


def batch_object(vendor: Vendor, batch: EmulatedBatch, request: Request) -> dict[str, Any]:
    """A batch as Azure tells of it: no model and no usage, texts for files that are not there, and an error file of no
    bytes beside a success."""

    def answer(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
        return answered_line(vendor, line, unfinished)

    body = openai.batch_object(vendor, batch, answer)
    body = {name: value for name, value in body.items() if name not in ("model", "usage")}
    if body["status"] in ("completed", "failed"):
        keep_empty_files(vendor, batch)
        shown = body["status"] == "failed" or batch.looks > vendor.settings.faults.undelivered
        files = {"output_file_id": batch.output, "error_file_id": batch.errors}
        body |= {name: file.id for name, file in files.items() if file and shown}
    if body["status"] == "failed":
        counts = {"total": batch.total, "completed": None, "failed": None}
        body |= {"completed_at": body["failed_at"], "failed_at": None, "request_counts": counts}
    if vendor.settings.faults.capitals or request.query_params.get("api-version") == CAPITALS:
        return in_capitals(body)
    return body | {name: body[name] or "" for name in ("output_file_id", "error_file_id")}


def keep_empty_files(vendor: Vendor, batch: EmulatedBatch) -> None:
    with batch.lock:
        if batch.errors is None:
            batch.errors = vendor._write(batch, [], "error")
        if batch.output is None and batch.problems:
            batch.output = vendor._write(batch, [], "output")


def in_capitals(body: dict[str, Any]) -> dict[str, Any]:
    """A batch as the first versions told of it."""
    times = {name: iso(body[name]) for name in TIMES}
    waiting = body["status"] == "validating"
    counts = dict.fromkeys(("total", "completed", "failed")) if waiting else body["request_counts"]
    return {**body, **times, "status": body["status"].title(), "endpoint": None, "request_counts": counts}


def iso(seconds: int | None) -> str | None:
    """A time with seven digits of a second, as .NET writes it."""
    return None if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.2491382+00:00"


async def called(vendor: Vendor, request: Request, path: str, deployment: str | None = None) -> Response:
    """A synchronous call.

    :param path: one of OpenAI's.
    :param deployment: what the address names, None where the body does.
    """
    body = await openai.json_body(request)
    name = body.get("model") if deployment is None else deployment
    body["model"] = deployment_of(vendor, name)
    if FILTERED in json.dumps(body):
        return JSONResponse(filtered(), 400)
    answer = await openai.answered(vendor, path, body, NAME)
    if isinstance(answer, JSONResponse):
        said = json.loads(bytes(answer.body))
        spell(said, name)
        return JSONResponse(said, answer.status_code)
    return answer


@surface.post("/responses")
async def responses(request: Request, vendor: Held) -> Response:
    return await called(vendor, request, "/v1/responses")


@router.post("/openai/v1/chat/completions")
async def chat(request: Request, vendor: Held) -> Response:
    return await called(vendor, request, "/v1/chat/completions")


@router.post("/openai/v1/embeddings")
async def embeddings(request: Request, vendor: Held) -> Response:
    return await called(vendor, request, "/v1/embeddings")


@router.post("/openai/deployments/{deployment}/chat/completions", dependencies=[Depends(versioned)])
async def deployed_chat(deployment: str, request: Request, vendor: Held) -> Response:
    return await called(vendor, request, "/v1/chat/completions", deployment)


@router.post("/openai/deployments/{deployment}/embeddings", dependencies=[Depends(versioned)])
async def deployed_embeddings(deployment: str, request: Request, vendor: Held) -> Response:
    return await called(vendor, request, "/v1/embeddings", deployment)


router.include_router(surface, prefix="/openai/v1")
router.include_router(surface, prefix="/openai", dependencies=[Depends(versioned)])
router.include_router(entra.router)
