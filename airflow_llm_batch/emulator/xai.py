"""xAI's files, batches and synchronous endpoints, below ``/xai``.

Source: docs.x.ai (batches, files), the messages of ``xai-sdk`` 1.21, and what OpenRouter has seen of them
(github.com/OpenRouterTeam/docs, batch research): dates alone, a bad file cancels its batch for good, every answer is a
chat completion, errors are texts, results are sorted by id, and the counters of a cancelled batch go back to what was
done. A batch that expires has no lines for the rest: that is not documented, and taken for the worse.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from airflow_llm_batch.emulator import openai
from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor
from airflow_llm_batch.emulator.bearer import held_by
from airflow_llm_batch.emulator.charges import charge
from airflow_llm_batch.emulator.openai_lines import answer_line, validate

NAME, PREFIX = "xai", "/xai"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
MOST_BYTES, MOST_REQUESTS = 200_000_000, 50_000
EXPIRY = range(3_600, 2_592_000 + 1)
DAYS_KEPT = 30
#: of a dollar; and what a batch costs of the price of calls
TICKS, SHARE = 10**10, 0.8


def owns(path: str) -> bool:
    """Whether a path is one of xAI's."""
    return path.startswith(f"{PREFIX}/")


class Refusal(Exception):
    """An error answer in xAI's shape."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        self.body: dict[str, Any] = {"code": "Client specified an invalid argument", "error": message}


def words(refusal: openai.Refusal) -> Refusal:
    """OpenAI's refusal as xAI's."""
    return Refusal(refusal.status, refusal.body["error"]["message"])


Held = Annotated[Vendor, Depends(held_by(lambda: Refusal(400, "Incorrect API key provided.")))]
router = APIRouter(prefix=f"{PREFIX}/v1")


@router.get("/models")
def models(vendor: Held) -> dict[str, Any]:
    return {"object": "list", "data": [openai.model("grok-4.3")]}


@router.post("/responses")
@router.post("/chat/completions")
async def called(request: Request, vendor: Held) -> Response:
    body = await openai.json_body(request)
    return await openai.answered(vendor, request.url.path.removeprefix(PREFIX), body, show=shown)


def shown(said: dict[str, Any], share: float = 1) -> dict[str, Any]:
    """An answer with what it has cost (docs.x.ai, cost tracking).

    :param share: as ``charge`` has it.
    """
    ticks = round(charge(said["usage"], share).total * TICKS)
    return {**said, "usage": {**said["usage"], "cost_in_usd_ticks": ticks}}


@router.post("/files")
async def upload(request: Request, vendor: Held) -> dict[str, Any]:
    form = await request.form()
    file, names = form.get("file"), [name for name, _ in form.multi_items()]
    if not isinstance(file, UploadFile):
        raise Refusal(400, "A file is required.")
    if (file.size or 0) > MOST_BYTES:
        raise Refusal(413, f"The file has more than {MOST_BYTES:,} bytes.")
    stored = vendor.new_file(file.filename or "upload", "batch", prefix="file_")
    if seconds := form.get("expires_after"):
        if names.index("expires_after") > names.index("file") or int(str(seconds)) not in EXPIRY:
            raise Refusal(400, f"expires_after goes before the file, and is from {EXPIRY[0]} to {EXPIRY[-1]}.")
        stored.expires_at = stored.created_at + int(str(seconds))
    content = await file.read()
    await run_in_threadpool(stored.path.write_bytes, content)
    return openai.file_object(stored)


@router.get("/files/{file_id}")
def get_file(file_id: str, vendor: Held) -> dict[str, Any]:
    return openai.file_object(openai.file_of(vendor, file_id))


@router.get("/files/{file_id}/content")
def file_content(file_id: str, vendor: Held) -> Response:
    return openai.file_content(file_id, vendor)


@router.delete("/files/{file_id}")
def delete_file(file_id: str, vendor: Held) -> dict[str, Any]:
    return openai.delete_file(file_id, vendor)


@router.post("/batches")
async def create(request: Request, vendor: Held) -> dict[str, Any]:
    body = await openai.json_body(request)
    if unknown := body.keys() - {"name", "input_file_id"}:
        raise Refusal(400, f"unknown field {min(unknown)}")
    if not isinstance(body.get("name"), str) or not body.get("input_file_id"):
        raise Refusal(400, "The emulator's batches have a name and an input_file_id.")
    source = openai.input_of(vendor, body)
    batch = EmulatedBatch(
        id=f"batch_{uuid.uuid4()}",
        dialect=NAME,
        lines=vendor.directory / f"{uuid.uuid4().hex}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
        endpoint=CHAT,
        input_file_id=source.id,
        metadata={"name": body["name"]},
        names="batch_request_id",
    )
    # Endpoints may be mixed in a file: what stands in a line is what it is judged by.
    await run_in_threadpool(validate, vendor, batch, source.path, MOST_REQUESTS, url_of=endpoint_of)
    openai.begin(vendor, batch)
    batch.silent = batch.expire is not None
    return batch_object(vendor, batch)


def endpoint_of(url: str) -> str:
    return CHAT if url in (CHAT, RESPONSES) else url


def batch_of(vendor: Vendor, batch_id: str) -> EmulatedBatch:
    return openai.batch_of(vendor, batch_id, NAME)


@router.get("/batches")
def listing(
    vendor: Held, limit: Annotated[int, Query(ge=1, le=1000)] = 100, pagination_token: str | None = None
) -> dict[str, Any]:
    page, more = vendor.newest(NAME, pagination_token, limit)
    token = page[-1].id if more else None
    return {"batches": [batch_object(vendor, batch) for batch in page], "pagination_token": token}


@router.get("/batches/{batch_id}")
def get_batch(batch_id: str, vendor: Held) -> dict[str, Any]:
    return batch_object(vendor, batch_of(vendor, batch_id))


@router.post("/batches/{batch_id}:cancel")
def cancel(batch_id: str, vendor: Held) -> dict[str, Any]:
    return batch_object(vendor, openai.cancelled(batch_of(vendor, batch_id)))


@router.post("/batches/{batch_id}/requests")
def add(batch_id: str, vendor: Held) -> None:
    batch_of(vendor, batch_id)
    raise Refusal(412, "Cannot add inline requests to a file-based batch")


@router.get("/batches/{batch_id}/results")
def results(
    batch_id: str,
    vendor: Held,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    pagination_token: str | None = None,
) -> dict[str, Any]:
    batch = batch_of(vendor, batch_id)
    vendor.settle(batch, answer)
    lines = batch.output.path.read_bytes().split(b"\n") if batch.output else []
    # What is no JSON has no place in a page.
    answered = sorted((row for line in lines if (row := parsed(line))), key=lambda row: row["batch_request_id"])
    first = int(pagination_token or 0)
    token = str(first + limit) if first + limit < len(answered) else None
    return {"results": answered[first : first + limit], "pagination_token": token}


def parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = msgspec.json.decode(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def batch_object(vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
    vendor.settle(batch, answer)
    view = batch.view(time.time())
    total, done, failed = batch.total, view.done, view.failed + batch.rejected
    if view.phase in ("validating", "failed"):
        counted = (0, 0, 0, 0, 0)
    elif view.phase == "cancelling":
        # What is on its way is counted as cancelled, until it has landed.
        counted = (total, 0, 0, 0, total)
    elif view.phase in ("cancelled", "expired"):
        counted = (total, 0, done - failed - batch.lost, failed, total - done)
    else:
        pending = 0 if view.ended_at else max(total - done, 1)
        counted = (total, pending, done - failed - batch.lost, failed, 0)
    names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
    wrong = f"JSONL file validation failed: {batch.problems[0]['message']}" if view.phase == "failed" else None
    over = batch.cancelled_at or (view.ended_at if wrong else None)
    return {
        "batch_id": batch.id,
        "name": (batch.metadata or {})["name"],
        "create_time": day(batch.created_at),
        "expire_time": day(batch.created_at + DAYS_KEPT * 86400),
        "create_api_key_id": "key",
        "cancel_time": day(over) if over else None,
        "cancel_by_xai_message": wrong,
        "state": dict(zip(names, counted, strict=True)),
        "input_file_id": batch.input_file_id,
    }


def day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def answer(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    """A result: every answer is a chat completion, whatever was asked, every error a text."""
    named = {"batch_request_id": line["custom_id"]}
    if unfinished == "cancelled":
        return False, {**named, "batch_result": {"error": "Batch cancelled"}}
    body = line["body"]
    if "input" in body:
        given = body["input"]
        body = {**body, "messages": given if isinstance(given, list) else [{"role": "user", "content": given}]}
    good, made = answer_line({**line, "body": body}, unfinished)
    response = made["response"] or {"body": {"error": made["error"]}}
    if not good:
        return False, {**named, "batch_result": {"error": response["body"]["error"]["message"]}}
    return True, {**named, "batch_result": {"response": {"chat_get_completion": shown(response["body"], SHARE)}}}
