"""Gemini's Developer API: batches, and the calls that they are made of; ``gemini_files`` has its files.

Source: ai.google.dev (Batch API, batch mode reference), and google-genai, which drives it.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.emulator import answers, flex, gemini_answers, gemini_files
from airflow_llm_batch.emulator.batches import EmulatedBatch, QueueFull, Vendor, View
from airflow_llm_batch.emulator.gemini_files import router as files_router
from airflow_llm_batch.emulator.google_api import (
    CODES,
    NUMBERS,
    ONLY,
    Held,
    Refusal,
    Route,
    json_body,
    members,
    paged,
    stamp,
)
from airflow_llm_batch.emulator.json_lines import read_lines
from airflow_llm_batch.providers.gemini.words import camel_members

__all__ = ["NAME", "Refusal", "owns", "router"]

NAME = "gemini"
MODELS = ("gemini-3.8-flash", "gemini-2.5-flash", "gemini-embedding-001")
MOST_INLINE = 20 * 2**20
PHASES = {
    "validating": "PENDING", "running": "RUNNING", "finalizing": "RUNNING", "cancelling": "RUNNING",
    "completed": "SUCCEEDED", "failed": "FAILED", "cancelled": "CANCELLED", "expired": "EXPIRED",
}  # fmt: skip
#: what is told of a full queue, word for word as users quote it
FULL = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)
TYPES = "type.googleapis.com/google.ai.generativelanguage.v1main."
VERBS = {"batchGenerateContent": "generateContent", "asyncBatchEmbedContent": "embedContent"}
router = APIRouter(route_class=Route)
router.include_router(files_router)


def owns(path: str) -> bool:
    """Whether a path is one that only Gemini has; the rest is told from others' by its key."""
    return ONLY.match(path) is not None


@router.post("/{version}/models/{name}:{verb}")
async def call(version: str, name: str, verb: str, request: Request, vendor: Held) -> Response:
    body = await json_body(request)
    if verb in VERBS:
        return JSONResponse(await create(name, verb, body, request, vendor))
    if verb == "generateContent":
        return tiered(vendor, name, body, gemini_answers.generate(name, body))
    if verb == "embedContent":
        return answered(gemini_answers.embed(name, body))
    if verb == "batchEmbedContents":
        said = [gemini_answers.embed(name, one) for one in body.get("requests") or ()]
        bad = next((one for one in said if isinstance(one, answers.Bad)), None)
        return answered(bad or {"embeddings": [one["embedding"] for one in said if isinstance(one, dict)]})
    if verb == "countTokens":
        text = "\n".join(map(gemini_answers.text_of, body.get("contents") or ()))
        return JSONResponse({"totalTokens": answers.tokens(text)})
    raise Refusal(404, f"The emulator does not know models.{verb}.")


def answered(said: dict[str, Any] | answers.Bad) -> Response:
    if isinstance(said, answers.Bad):
        raise Refusal(said.status, said.message)
    return JSONResponse(said)


def tiered(vendor: Vendor, name: str, body: dict[str, Any], said: dict[str, Any] | answers.Bad) -> Response:
    """An answer that says at which tier it was served: in its usage, and in a header."""
    response = answered(said)
    try:
        tier = flex.served(vendor, NAME, name, str(body.get("serviceTier") or "").lower(), "standard")
    except flex.NotTaken:
        # The guide lists the models, and does not say in which words others are refused.
        raise Refusal(400, f"Service tier flex is not supported for models/{name}.") from None
    except flex.Full as full:
        refusal = Refusal(full.status or 503, "The model is overloaded. Please try again later.")
        refusal.headers = full.headers
        raise refusal from None
    if isinstance(said, dict):
        said["usageMetadata"] = {**said.get("usageMetadata", {}), "serviceTier": tier}
        response = JSONResponse(said, headers={"x-gemini-service-tier": tier})
    return response


@router.get("/{version}/models")
def models(version: str, vendor: Held) -> dict[str, Any]:
    return {"models": [model(name) for name in MODELS]}


@router.get("/{version}/models/{name}")
def get_model(version: str, name: str, vendor: Held) -> dict[str, Any]:
    if name not in MODELS:
        raise Refusal(404, f"models/{name} is not found for API version {version}.")
    return model(name)


def model(name: str) -> dict[str, Any]:
    methods = ["embedContent"] if "embedding" in name else ["generateContent", "batchGenerateContent"]
    return {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods}


async def create(name: str, verb: str, body: dict[str, Any], request: Request, vendor: Vendor) -> dict[str, Any]:
    wanted = members(body, "batch")
    source = members(wanted, "inputConfig")
    file, inline = str(source.get("fileName") or ""), members(source, "requests").get("requests")
    if bool(file) == bool(inline):
        raise Refusal(400, "* batch.input_config: one of file_name and requests is required.")
    if inline and int(request.headers.get("content-length") or 0) > MOST_INLINE:
        raise Refusal(400, f"Request payload size exceeds the limit: {MOST_INLINE} bytes.")
    stored = gemini_files.file_of(vendor, file.removeprefix("files/")) if file else None
    if stored is not None and stored.looks > 0:
        raise Refusal(400, f"The File {stored.id} is not in an ACTIVE state and usage is not allowed.")
    batch = EmulatedBatch(
        id=uuid.uuid4().hex[:24],
        dialect=NAME,
        lines=vendor.directory / f"{uuid.uuid4().hex}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
        endpoint=VERBS[verb],
        model=name,
        input_file_id=stored.id if stored else None,
        metadata={"displayName": str(wanted["displayName"])} if wanted.get("displayName") else None,
        names="key",
        webhooks=tuple(map(str, members(wanted, "webhookConfig").get("uris") or ())),
    )
    await run_in_threadpool(keep, vendor, batch, stored.path if stored else None, inline or [])
    try:
        vendor.add_batch(batch)
    except QueueFull as error:
        raise Refusal(error.args[0], FULL) from None
    return operation(vendor, batch)


def keep(vendor: Vendor, batch: EmulatedBatch, source: Path | None, inline: list[Any]) -> None:
    """Store the lines; one that cannot be read fails the batch, as the vendor finds when it begins to work."""
    given = source.read_bytes().splitlines() if source else [msgspec.json.encode(item) for item in inline]
    with batch.lines.open("wb") as target:
        for number, raw in enumerate(given, 1):
            if not raw.strip():
                continue
            try:
                line = camel_members(msgspec.json.decode(raw))
                params = line["request"]
                key = line.get("key") if source else members(line, "metadata").get("key")
                text = msgspec.json.encode(params).decode()
                camel_members(params)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problem = f"Failed to parse line {number}: {error!r}"
                batch.problems.append({"code": 3, "message": problem, "line": number, "param": None})
                return
            batch.fates.append(vendor.fate(text))
            batch.prompt_tokens += answers.tokens(text)
            kept = {"key": key, "request": params, "model": batch.model, "endpoint": batch.endpoint}
            target.write(msgspec.json.encode(kept) + b"\n")
    if not batch.fates:
        batch.problems.append({"code": 3, "message": "The input file is empty.", "line": None, "param": None})


@router.get("/{version}/batches")
def list_batches(version: str, request: Request, vendor: Held) -> dict[str, Any]:
    ours = [batch.id for batch in reversed(vendor.batches.values()) if batch.dialect == NAME]
    names, after = paged(request, ours, 20)
    listed = {"operations": [operation(vendor, vendor.batches[name]) for name in names], "nextPageToken": after}
    return {name: value for name, value in listed.items() if value}


@router.get("/{version}/batches/{name}")
def get_batch(version: str, name: str, vendor: Held) -> dict[str, Any]:
    return operation(vendor, batch_of(vendor, name))


@router.post("/{version}/batches/{name}:cancel")
def cancel(version: str, name: str, vendor: Held) -> dict[str, Any]:
    batch = batch_of(vendor, name)
    if batch.view(time.time()).ended_at is not None:
        raise Refusal(400, f"Batch batches/{name} has ended and cannot be cancelled.", "FAILED_PRECONDITION")
    batch.cancelled_at = batch.cancelled_at or time.time()
    return {}


@router.delete("/{version}/batches/{name}")
def delete(version: str, name: str, vendor: Held) -> dict[str, Any]:
    batch_of(vendor, name)
    del vendor.batches[name]
    return {}


def batch_of(vendor: Vendor, name: str) -> EmulatedBatch:
    batch = vendor.batches.get(name)
    if batch is None or batch.dialect != NAME:
        raise Refusal(404, f"Requested entity was not found: batches/{name}.")
    return batch


def operation(vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
    """The batch as a long-running operation."""
    view = batch.view(time.time())
    if view.phase != "expired":
        vendor.settle(batch, answer_line)
    state = f"BATCH_STATE_{PHASES[view.phase]}"
    if view.phase == "running" and vendor.settings.faults.unknown_status:
        state = vendor.settings.faults.unknown_status
    ended = view.ended_at is not None
    kind = "EmbedContentBatch" if batch.endpoint == "embedContent" else "GenerateContentBatch"
    output = output_of(vendor, batch) if ended else None
    metadata = {
        "@type": TYPES + kind,
        "model": f"models/{batch.model}",
        "displayName": (batch.metadata or {}).get("displayName"),
        "inputConfig": {"fileName": f"files/{batch.input_file_id}"} if batch.input_file_id else None,
        "output": output,
        "createTime": stamp(batch.created_at),
        "endTime": stamp(view.ended_at) if view.ended_at else None,
        "updateTime": stamp(view.ended_at or time.time()),
        "batchStats": stats(batch, view),
        "state": state,
        "name": f"batches/{batch.id}",
    }
    made: dict[str, Any] = {
        "name": f"batches/{batch.id}",
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }
    if ended:
        made["done"] = True
    if (error := error_of(batch, view)) is not None:
        made["error"] = error
    elif output is not None:
        made["response"] = {"@type": f"{TYPES}{kind}Output", **output}
    return made


def stats(batch: EmulatedBatch, view: View) -> dict[str, str]:
    """Counters as strings; a zero is left out."""
    lost = batch.lost
    counted = {
        "requestCount": batch.total,
        "successfulRequestCount": view.done - view.failed - lost,
        "failedRequestCount": view.failed,
        "pendingRequestCount": 0 if view.ended_at else batch.total - view.done,
    }
    return {name: str(count) for name, count in counted.items() if count > 0}


def error_of(batch: EmulatedBatch, view: View) -> dict[str, Any] | None:
    if view.phase == "cancelled":
        return {"code": 1, "message": "The operation was cancelled."}
    if view.phase == "expired":
        return {"code": 4, "message": "The batch has expired."}
    if view.phase == "failed":
        problem = batch.problems[0]
        known = {"token_limit_exceeded": 8}.get(problem["code"], 3)
        return {"code": problem["code"] if isinstance(problem["code"], int) else known, "message": problem["message"]}
    return None


def output_of(vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any] | None:
    """Where results lie, or the results of requests that came inline; nothing of a batch that has expired."""
    if batch.output is None or not batch.shows_files(vendor.settings.faults.undelivered):
        return None
    if batch.input_file_id:
        return {"responsesFile": f"files/{batch.output.id}"}
    items = []
    for line in read_lines(batch.output.path):
        key = line.pop("key", None)
        items.append({**line, "metadata": {"key": key}} if key is not None else line)
    return {"inlinedResponses": {"inlinedResponses": items}}


def answer_line(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    """A result line: ``{"key", "response"}`` or ``{"key", "error"}``."""
    if unfinished == "cancelled":
        return False, {"key": line["key"], "error": {"code": 1, "message": "The request was cancelled."}}
    if unfinished:
        said: Any = answers.Bad(500, "INTERNAL", "Internal error encountered.")
    elif line["endpoint"] == "embedContent":
        said = gemini_answers.embed(line["model"], line["request"])
    else:
        said = gemini_answers.generate(line["model"], line["request"])
    if isinstance(said, answers.Bad):
        error = {"code": NUMBERS[said.status], "message": said.message, "status": CODES[said.status]}
        return False, {"key": line["key"], "error": error}
    return True, {"key": line["key"], "response": said}
