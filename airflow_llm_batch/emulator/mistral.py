"""Mistral's files, batch jobs and synchronous endpoints, below ``/mistral``.

Source: ``mistralai`` 3.7 (its types say which members there are), docs.mistral.ai, and what OpenRouter has seen of it
(github.com/OpenRouterTeam/docs, batch research): a file is judged when it is uploaded, a refusal's body is a text. What
becomes of rows that a job had no time for is not documented: here they have no line, for the worse.
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

from airflow_llm_batch.emulator import openai
from airflow_llm_batch.emulator.batches import EmulatedBatch, StoredFile, Vendor
from airflow_llm_batch.emulator.bearer import held_by
from airflow_llm_batch.emulator.json_lines import encode
from airflow_llm_batch.emulator.openai_lines import answer_line, response_line, validate

NAME = "mistral"
PREFIX = "/mistral"
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
#: mistralai, ``APIEndpoint``: those whose answers the emulator knows
ENDPOINTS = (CHAT, EMBEDDINGS, "/v1/moderations")
MOST_BYTES, MOST_INLINE, MOST_REQUESTS, MOST_HOURS = 512 * 2**20, 10_000, 1_000_000, 7 * 24
STATUSES = {"validating": "QUEUED", "running": "RUNNING", "finalizing": "RUNNING", "completed": "SUCCESS"} | {
    "failed": "FAILED", "expired": "TIMEOUT_EXCEEDED", "cancelling": "CANCELLATION_REQUESTED", "cancelled": "CANCELLED",
}  # fmt: skip
#: what each body may hold, as ChatCompletionRequest, EmbeddingRequest and the messages' types have it
MEMBERS = {
    CHAT: "model messages temperature top_p max_tokens stream stop random_seed metadata response_format tools "
    "tool_choice presence_penalty frequency_penalty min_tokens repetition_penalty top_k logprobs top_logprobs "
    "prompt_logprobs top_prompt_logprobs n prediction parallel_tool_calls reasoning_effort prompt_mode guardrails "
    "prompt_cache_key "
    "service_tier safe_prompt",
    EMBEDDINGS: "model input metadata output_dimension output_dtype encoding_format",
}
MESSAGES = {
    "system": "role content", "user": "role content", "assistant": "role content tool_calls prefix",
    "tool": "role content tool_call_id name",
}  # fmt: skip


def owns(path: str) -> bool:
    """Whether a path is one of Mistral's."""
    return path.startswith(f"{PREFIX}/")


class Refusal(Exception):
    """An error answer in Mistral's shape."""

    def __init__(self, status: int, message: Any, code: str | None = None) -> None:
        self.status = status
        self.body = error_body(message, code)


def words(refusal: openai.Refusal) -> Refusal:
    """OpenAI's refusal as Mistral's."""
    return Refusal(refusal.status, refusal.body["error"]["message"], refusal.code)


def error_body(message: Any, code: str | None = None) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": "invalid_request_error", "param": None, "code": code}


Held = Annotated[Vendor, Depends(held_by(lambda: Refusal(401, "Invalid API Key")))]
router = APIRouter(prefix=f"{PREFIX}/v1")


def wrong(endpoint: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Members that there are none of, as the API lists them."""
    places: list[tuple[list[Any], dict[str, Any], str | None]] = [(["body"], body, MEMBERS.get(endpoint))]
    for index, message in enumerate(body.get("messages") or ()):
        role = message.get("role")
        if role not in MESSAGES:
            return [{"type": "union_tag_invalid", "loc": ["body", "messages", index], "msg": f"unknown role {role!r}"}]
        places.append((["body", "messages", index, role], message, MESSAGES[role]))
    return [
        {"type": "extra_forbidden", "loc": [*loc, name], "msg": "Extra inputs are not permitted", "input": value}
        for loc, given, known in places
        if known is not None
        for name, value in given.items()
        if name not in known.split()
    ]


def understood(body: dict[str, Any]) -> dict[str, Any]:
    """A body in OpenAI's words."""
    names = {"random_seed": "seed", "output_dimension": "dimensions"}
    return {names.get(name, name): value for name, value in body.items()}


def shown(said: dict[str, Any]) -> dict[str, Any]:
    """An answer with an id, which Mistral's embeddings have too."""
    return {"id": uuid.uuid4().hex, **said}


@router.get("/models")
def models(vendor: Held) -> dict[str, Any]:
    return {"object": "list", "data": [openai.model("mistral-small-latest"), openai.model("mistral-embed")]}


@router.post("/moderations")
@router.post("/embeddings")
@router.post("/chat/completions")
async def called(request: Request, vendor: Held) -> Response:
    body, endpoint = await openai.json_body(request), request.url.path.removeprefix(PREFIX)
    if problems := wrong(endpoint, body):
        raise Refusal(422, {"detail": problems})
    return await openai.answered(vendor, endpoint, understood(body), show=shown)


@router.post("/files")
async def upload(request: Request, vendor: Held) -> dict[str, Any]:
    form = await request.form()
    file = form.get("file")
    if form.get("purpose") != "batch" or isinstance(file, str) or file is None:
        raise Refusal(422, {"detail": [{"loc": ["body", "purpose"], "msg": "a file for a purpose is required"}]})
    if (file.size or 0) > MOST_BYTES:
        raise Refusal(413, "File too large")
    stored = vendor.new_file(file.filename or "upload", "batch", prefix="")
    if hours := form.get("expiry"):
        stored.expires_at = stored.created_at + 3600 * int(str(hours))
    content = await file.read()
    check_file(content)
    await run_in_threadpool(stored.path.write_bytes, content)
    return file_object(stored)


def check_file(content: bytes) -> None:
    """:raises Refusal: for a file of which one line is wrong."""
    for number, line in enumerate(content.splitlines(), 1):
        try:
            body = msgspec.json.decode(line)["body"] if line.strip() else {}
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(422, {"detail": "Invalid file format.", "errors": [f"line {number}: {error}"]}) from None
        heat, cap = body.get("temperature") or 0, body.get("max_tokens") or 0
        roles = [message.get("role") for message in body.get("messages") or ()]
        if not 0 <= heat <= 1.5 or cap < 0 or any(role not in MESSAGES for role in roles):
            raise Refusal(422, {"detail": "Invalid file format.", "errors": [f"line {number}: an invalid value"]})


def file_object(stored: StoredFile, kind: str = "batch_request") -> dict[str, Any]:
    about = {"filename": stored.filename, "purpose": "batch", "sample_type": kind, "mimetype": "application/jsonl"}
    times = {"created_at": int(stored.created_at), "expires_at": stored.expires_at and int(stored.expires_at)}
    made = "mistral" if stored.purpose == "batch_output" else "upload"
    size = stored.path.stat().st_size
    return {"id": stored.id, "object": "file", "bytes": size, **times, **about, "source": made, "num_lines": None}


def file_of(vendor: Vendor, file_id: str) -> StoredFile:
    if file_id not in vendor.files:
        raise Refusal(404, f"No file matches the given query: {file_id}")
    return vendor.files[file_id]


@router.get("/files/{file_id}")
def get_file(file_id: str, vendor: Held) -> dict[str, Any]:
    return {**file_object(file_of(vendor, file_id)), "deleted": False}


@router.get("/files/{file_id}/content")
def file_content(file_id: str, vendor: Held) -> Response:
    file_of(vendor, file_id)
    return openai.file_content(file_id, vendor)


@router.delete("/files/{file_id}")
def delete_file(file_id: str, vendor: Held) -> dict[str, Any]:
    file_of(vendor, file_id)
    return openai.delete_file(file_id, vendor)


@router.post("/batch/jobs")
async def create(request: Request, vendor: Held) -> dict[str, Any]:
    body = await openai.json_body(request)
    check_create(body)
    source = input_of(vendor, body)
    batch = openai.new_batch(vendor, NAME, body, source)
    batch.id, batch.model, batch.silent = str(uuid.uuid4()), body["model"], True
    batch.window = f"{body.get('timeout_hours', 24)}h"
    await run_in_threadpool(validate, vendor, batch, source.path, MOST_REQUESTS, bare=True)
    openai.begin(vendor, batch)
    return job_object(vendor, batch)


def check_create(body: dict[str, Any]) -> None:
    """:raises Refusal: for what is refused before any file is looked at."""
    if body.get("endpoint") not in ENDPOINTS or not body.get("model"):
        raise Refusal(422, {"detail": [{"loc": ["body", "endpoint"], "msg": "endpoint and model are required"}]})
    if bool(body.get("input_files")) == bool(body.get("requests")):
        raise Refusal(422, "Either input_files or requests must be given.")
    if len(body.get("requests") or ()) > MOST_INLINE:
        raise Refusal(422, f"At most {MOST_INLINE:,} requests can be given inline.")
    if not 1 <= body.get("timeout_hours", 24) <= MOST_HOURS:
        raise Refusal(422, "timeout_hours: from 1 to 168.")
    for name, value in (body.get("metadata") or {}).items():
        if len(name) > 32 or not isinstance(value, str) or len(value) > 512:
            raise Refusal(422, "metadata: names of up to 32 characters, texts of up to 512.")


def input_of(vendor: Vendor, body: dict[str, Any]) -> StoredFile:
    """A job's input as one file.

    :raises Refusal: for a file that is not there.
    """
    if body.get("requests"):
        stored = vendor.new_file("inline.jsonl", "batch", prefix="inline-")
        stored.path.write_bytes(b"".join(encode(line) + b"\n" for line in body["requests"]))
        return stored
    files = [file_of(vendor, file_id) for file_id in body["input_files"]]
    if len(files) > 1:
        raise Refusal(422, "The emulator takes one file a job.")
    return files[0]


@router.get("/batch/jobs")
def jobs(
    vendor: Held,
    page: Annotated[int, Query(ge=0)] = 0,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
    status: Annotated[list[str] | None, Query()] = None,
    created_after: datetime | None = None,
    order_by: str = "-created",
) -> dict[str, Any]:
    batches, _ = vendor.newest(NAME, None, len(vendor.batches))
    shown = [job_object(vendor, batch) for batch in (batches if order_by == "-created" else batches[::-1])]
    since = created_after.astimezone(UTC).timestamp() if created_after else 0
    shown = [job for job in shown if job["created_at"] >= since and (not status or job["status"] in status)]
    return {"object": "list", "data": shown[page * page_size : (page + 1) * page_size], "total": len(shown)}


def job_of(vendor: Vendor, job_id: str) -> EmulatedBatch:
    batch = vendor.batches.get(job_id)
    if batch is None or batch.dialect != NAME:
        raise Refusal(404, f"Batch job {job_id} not found.")
    return batch


@router.get("/batch/jobs/{job_id}")
def get_job(job_id: str, vendor: Held) -> dict[str, Any]:
    return job_object(vendor, job_of(vendor, job_id))


@router.post("/batch/jobs/{job_id}/cancel")
def cancel(job_id: str, vendor: Held) -> dict[str, Any]:
    return job_object(vendor, openai.cancelled(job_of(vendor, job_id)))


@router.delete("/batch/jobs/{job_id}")
def delete_job(job_id: str, vendor: Held) -> dict[str, Any]:
    del vendor.batches[job_of(vendor, job_id).id]
    return {"id": job_id, "object": "batch", "deleted": True}


def job_object(vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
    body = openai.batch_object(vendor, batch, answer)
    counts, ended = body["request_counts"], body["completed_at"] or body["failed_at"] or body["cancelled_at"]
    view = batch.view(time.time())
    phase = view.phase
    unknown = vendor.settings.faults.unknown_status if phase == "running" else None
    # Rows that the job had no time for are not counted.
    failed = view.failed + batch.rejected
    return {
        "id": batch.id,
        "object": "batch",
        "input_files": [] if (batch.input_file_id or "").startswith("inline-") else [batch.input_file_id],
        "metadata": batch.metadata,
        "endpoint": batch.endpoint,
        "model": batch.model,
        "agent_id": None,
        "output_file": body["output_file_id"],
        "error_file": body["error_file_id"],
        "errors": [{"message": p["message"], "count": 1} for p in batch.problems] if phase == "failed" else [],
        "outputs": None,
        "status": unknown or STATUSES[phase],
        "created_at": int(batch.created_at),
        "started_at": body["in_progress_at"],
        "completed_at": ended or body["expired_at"],
        "total_requests": batch.total,
        "completed_requests": view.done - batch.lost,
        "succeeded_requests": counts["completed"] - batch.rejected,
        "failed_requests": failed,
    }


def answer(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    problems = wrong(line["url"], line["body"])
    if problems and unfinished is None:
        return False, response_line(line["custom_id"], 422, encode(error_body({"detail": problems})).decode())
    good, made = answer_line({**line, "body": understood(line["body"])}, unfinished)
    body = made["response"]["body"]
    made["response"]["body"] = shown(body) if good else encode(error_body(body["error"]["message"])).decode()
    return good, made
