"""OpenRouter's batches and synchronous endpoints, below ``/openrouter``.

Source: openrouter.ai/docs/batch-quickstart (order of members, statuses, results of completed batches alone), the types
of ``openrouter`` 1.3, and OpenRouter's notes (github.com/OpenRouterTeam/docs, batch research): a bad request fails
the whole batch, and nothing cancels one.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.emulator import answers, openai
from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor
from airflow_llm_batch.emulator.bearer import held_by
from airflow_llm_batch.emulator.charges import charge
from airflow_llm_batch.emulator.json_lines import encode, read_lines
from airflow_llm_batch.emulator.openai_lines import UNFINISHED, answer_line, response_line, validate

NAME, PREFIX = "openrouter", "/openrouter"
BASE = f"{PREFIX}/api"
MESSAGES = "/v1/messages"
ENDPOINTS = ("/v1/chat/completions", "/v1/responses", MESSAGES, "/v1/embeddings")
#: what a batch costs of the price of calls: "typically" half of it
SHARE = 0.5
MOST_REQUESTS, MOST_BYTES = 5_000, 200_000_000
#: members of a create
MEMBERS = frozenset({"endpoint", "model", "requests", "callback_url", "completion_window", "provider"})
#: members of a message's usage
USAGE = (
    "cache_creation", "cache_creation_input_tokens", "cache_read_input_tokens", "inference_geo",
    "output_tokens_details", "server_tool_use", "service_tier",
)  # fmt: skip


def owns(path: str) -> bool:
    """Whether a path is one of OpenRouter's."""
    return path.startswith(f"{PREFIX}/")


class Refusal(Exception):
    """An error answer in OpenRouter's shape."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        self.body: dict[str, Any] = {"error": {"code": status, "message": message}}


def words(refusal: openai.Refusal) -> Refusal:
    """OpenAI's refusal as OpenRouter's."""
    return Refusal(refusal.status, refusal.body["error"]["message"])


Held = Annotated[Vendor, Depends(held_by(lambda: Refusal(401, "User not found.")))]
router = APIRouter(prefix=f"{BASE}/v1")


@router.post("/embeddings")
@router.post("/responses")
@router.post("/messages")
@router.post("/chat/completions")
async def called(request: Request, vendor: Held) -> Response:
    body, endpoint = await openai.json_body(request), request.url.path.removeprefix(BASE)
    if endpoint != MESSAGES:
        return await openai.answered(vendor, endpoint, body, show=charged)
    said = answers.message(body)
    if isinstance(said, answers.Bad):
        raise Refusal(said.status, said.message)
    return JSONResponse(shown(said))


def shown(said: dict[str, Any]) -> dict[str, Any]:
    """An answer with the members that OpenRouter's types require."""
    if said.get("type") == "message":
        usage = {**dict.fromkeys(USAGE), **said["usage"]}
        blocks = [{"citations": None, **one} if one["type"] == "text" else one for one in said["content"]]
        said = {**dict.fromkeys(("container", "stop_details", "stop_sequence")), **said}
        return {**said, "content": blocks, "usage": usage}
    if "choices" not in said:
        return said
    return {**said, "choices": [{**one, "native_finish_reason": one["finish_reason"]} for one in said["choices"]]}


def charged(said: dict[str, Any], share: float = 1) -> dict[str, Any]:
    """An answer with what it has cost, as the types of calls, responses and embeddings have it.

    :param share: as ``charge`` has it.
    """
    paid = cost_of(said["usage"], said["model"], share, said.get("object") == "response")
    usage = {**said["usage"], **paid}
    return {**shown(said), "usage": usage}


def cost_of(usage: dict[str, Any], model: str, share: float, responds: bool = False) -> dict[str, Any]:
    cost = charge(usage, 0 if model.endswith(":free") else share)
    names = ("input", "output") if responds else ("prompt", "completions")
    parts = dict(zip([f"upstream_inference_{name}_cost" for name in names], cost, strict=True))
    details = {"upstream_inference_cost": cost.total, **parts}
    return {"cost": cost.total, "is_byok": False, "cost_details": details}


@router.post("/batches", status_code=202)
async def create(request: Request, vendor: Held) -> dict[str, Any]:
    content = await request.body()
    body = await openai.json_body(request)
    check_create(body, len(content))
    source = vendor.directory / f"{uuid.uuid4().hex}.inline"
    await run_in_threadpool(source.write_bytes, b"".join(encode(line) + b"\n" for line in body["requests"]))
    batch = EmulatedBatch(
        id=f"batch_{uuid.uuid4().hex}",
        dialect=NAME,
        lines=vendor.directory / f"{uuid.uuid4().hex}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
        endpoint=body["endpoint"],
        model=body["model"],
        webhooks=tuple(filter(None, [body.get("callback_url")])),
    )
    await run_in_threadpool(judge, vendor, batch, source)
    openai.begin(vendor, batch)
    return batch_object(vendor, batch)


def check_create(body: dict[str, Any], size: int) -> None:
    """:raises Refusal: for what is refused at the door."""
    names = list(body)
    if "requests" not in body or set(names[: names.index("requests")]) < {"endpoint", "model"}:
        raise Refusal(400, "'endpoint' and 'model' must be serialized before 'requests'.")
    if "callback_url" in names[names.index("requests") :]:
        raise Refusal(400, "'callback_url' must appear before 'requests'.")
    if unknown := set(names) - MEMBERS:
        raise Refusal(400, f"Unrecognized key: {', '.join(sorted(unknown))}")
    if body["endpoint"] not in ENDPOINTS:
        raise Refusal(400, f"Invalid endpoint {body['endpoint']!r}.")
    if body.get("completion_window", "24h") != "24h":
        raise Refusal(400, "The only supported completion window is 24h.")
    requests = body["requests"]
    if not requests or len(requests) > MOST_REQUESTS or size > MOST_BYTES:
        raise Refusal(413, f"A batch has from 1 to {MOST_REQUESTS:,} requests, and {MOST_BYTES:,} bytes at most.")
    for request in requests:
        if not isinstance(request.get("custom_id"), str) or not isinstance(request.get("body"), dict):
            raise Refusal(400, "Each request has a custom_id and a body.")
        if request["body"].get("model", body["model"]) != body["model"]:
            raise Refusal(400, f"Request {request['custom_id']}: its model must match the batch's.")
    if len({request["custom_id"] for request in requests}) < len(requests):
        raise Refusal(422, "custom_id must be unique within the batch.")


def judge(vendor: Vendor, batch: EmulatedBatch, source: Path) -> None:
    """Take in the requests, noting what is wrong with the first bad one: no other is answered then."""
    validate(vendor, batch, source, MOST_REQUESTS, bare=True)
    for line in read_lines(batch.lines):
        urls = [part["image_url"]["url"] for part in image_parts(line["body"])]
        wrong = "media must be given by URL" if any(url.startswith("data:") for url in urls) else None
        good, made = answer(line, None)
        if wrong is None and not good:
            wrong = made["response"]["body"]["error"]["message"]
        if wrong:
            message = f"{line['custom_id']}: {wrong}"
            batch.problems.append({"code": "validation-failed", "message": message, "line": None, "param": None})
            return


def image_parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    contents = [message.get("content") for message in body.get("messages") or () if isinstance(message, dict)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return [part for part in parts if isinstance(part.get("image_url"), dict)]


@router.get("/batches")
def listing(
    vendor: Held,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    status: Annotated[list[str] | None, Query()] = None,
) -> dict[str, Any]:
    body = openai.page_of(vendor, NAME, after, limit, batch_object)
    shown = [{**one, "results": None} for one in body["data"] if not status or one["status"] in status]
    return {**body, "data": shown}


@router.get("/batches/{batch_id}")
def get_batch(batch_id: str, vendor: Held) -> dict[str, Any]:
    return batch_object(vendor, openai.batch_of(vendor, batch_id, NAME))


@router.delete("/batches/{batch_id}")
def delete(batch_id: str, vendor: Held) -> dict[str, Any]:
    batch = openai.batch_of(vendor, batch_id, NAME)
    if batch.view(time.time()).ended_at is None:
        raise Refusal(409, "Only a batch that has ended can be deleted.")
    del vendor.batches[batch_id]
    return {"id": batch_id, "object": "batch", "deletion": {"openrouter": "deleted"}}


def batch_object(vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
    body = openai.batch_object(vendor, batch, answer)
    status, counts = body["status"], body["request_counts"]
    over = batch.view(time.time()).ended_at
    counts = {**counts, "total": batch.total, "failed": batch.total if status == "failed" else counts["failed"]}
    usage = None
    if status == "completed":
        read, written = batch.used
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        usage |= cost_of(usage, batch.model or "", SHARE)
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "completion_window": "24h",
        "status": status,
        "created_at": int(batch.created_at),
        "finalized_at": int(over) if over else None,
        "expires_at": int(batch.created_at) + 86400,
        "provider": None if status == "validating" else "OpenAI",
        "request_counts": counts,
        "usage": usage,
        "results": [*read_lines(batch.output.path)] if status == "completed" and batch.output else None,
        "error": {"message": batch.problems[0]["message"]} if status == "failed" else None,
    }


def answer(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    if line["url"] == MESSAGES and unfinished is None:
        said = answers.message(line["body"])
        if isinstance(said, answers.Bad):
            return False, response_line(line["custom_id"], said.status, {"error": {"message": said.message}})
        return True, response_line(line["custom_id"], 200, shown(said))
    good, made = answer_line(line, unfinished)
    if good:
        # What a chat completion has cost its type has no member for: that is told of the whole batch.
        body = made["response"]["body"]
        body = shown(body) if "choices" in body else charged(body, SHARE)
        return True, {**made, "response": {**made["response"], "body": body}}
    if unfinished and unfinished not in UNFINISHED:
        # What fails has an error, and no response.
        error = {"message": made["response"]["body"]["error"]["message"], "type": "server_error", "param": None}
        return False, {**made, "response": None, "error": {**error, "error_type": "server"}}
    return good, made
