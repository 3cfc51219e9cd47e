"""Bedrock's OpenAI-compatible batches, below ``/bedrock``: OpenAI's, with input and results in S3.

Source: Bedrock's user guide (submit a batch of prompts with the OpenAI Batch API).
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from airflow_llm_batch.emulator import answers, bedrock, openai
from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor
from airflow_llm_batch.emulator.bedrock_jobs import PATTERNS, S3_URI, Objects
from airflow_llm_batch.emulator.openai_lines import ANSWERS, validate

NAME, PREFIX = "bedrock-openai", "/bedrock/openai/v1"
ENDPOINT = "/v1/chat/completions"


def owns(path: str) -> bool:
    """Whether a path is one of this API's."""
    return path.startswith(PREFIX)


class Refusal(openai.Refusal):
    """An error answer in OpenAI's shape."""


@dataclass
class S3Batch(EmulatedBatch):
    """
    :param written: its results lie in S3.
    """

    written: bool = False


def vendor_of(request: Request) -> Vendor:
    """Checks for an API key or a signature; every route asks for it."""
    try:
        return bedrock.vendor_of(request)
    except bedrock.Refusal as refusal:
        raise Refusal(401, str(refusal.body["message"]), "invalid_api_key") from None


Held = Annotated[Vendor, Depends(vendor_of)]
router = APIRouter(prefix=PREFIX)


@router.post("/batches")
async def create(request: Request, vendor: Held) -> dict[str, Any]:
    body = await openai.json_body(request)
    uri, model = body.get("input_file_id"), request.headers.get("x-amzn-bedrock-modelid")
    if not PATTERNS["roleArn"].fullmatch(request.headers.get("x-amzn-bedrock-rolearn", "")) or not model:
        raise Refusal(400, "The headers X-Amzn-Bedrock-RoleArn and X-Amzn-Bedrock-ModelId are required.")
    if not isinstance(uri, str) or not S3_URI.fullmatch(uri):
        raise Refusal(400, "input_file_id must be the S3 URI of a JSONL file.", param="input_file_id")
    if "/" + str(body.get("endpoint", "")).lstrip("/") != ENDPOINT:
        raise Refusal(400, f"endpoint must be {ENDPOINT}.", param="endpoint")
    batch = S3Batch(
        id=f"batch_{uuid.uuid4().hex[:12]}",
        dialect=NAME,
        split=True,
        lines=vendor.directory / f"{uuid.uuid4().hex}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
        endpoint=ENDPOINT,
        model=model,
        input_file_id=uri,
        metadata=body.get("metadata"),
    )
    await run_in_threadpool(read_input, vendor, batch, uri)
    vendor.add_batch(batch)
    return shown(vendor, batch)


def read_input(vendor: Vendor, batch: S3Batch, uri: str) -> None:
    def problem(message: str) -> None:
        batch.problems.append({"code": "invalid_input", "message": message, "line": None, "param": None})

    source = batch.lines.with_suffix(".jsonl")
    try:
        found = list(Objects(vendor.settings.s3_endpoint).below(uri))
    except Exception as error:
        found = []
        problem(f"The service could not access the S3 bucket: {error}")
    source.write_bytes(b"".join(content for _, content in found))
    validate(vendor, batch, source)
    if batch.total < vendor.settings.bedrock_minimum:
        problem(f"The batch has {batch.total} records; the minimum is {vendor.settings.bedrock_minimum}.")


def shown(vendor: Vendor, batch: S3Batch) -> dict[str, Any]:
    """A batch as this API tells of it, its results written once it has ended."""
    body = openai.batch_object(vendor, batch)
    folder, _, name = str(batch.input_file_id).rpartition("/")
    at = {"output_file_id": ".out", "error_file_id": ".err"}
    stored = {"output_file_id": batch.output, "error_file_id": batch.errors}
    with batch.lock:
        if not batch.written and any(stored.values()):
            objects = Objects(vendor.settings.s3_endpoint)
            for member, file in stored.items():
                if file is not None:
                    objects.put(f"{folder}/{batch.id}/{name}{at[member]}", file.path.read_bytes())
            batch.written = True
    return {**body, **{member: body[member] and f"{name}{kind}" for member, kind in at.items()}}


@router.get("/batches")
def list_batches(
    vendor: Held, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    try:
        page, more = vendor.newest(NAME, after, limit)
    except ValueError:
        raise Refusal(400, f"No batch found with id '{after}'.", param="after") from None
    data = [shown(vendor, batch) for batch in page if isinstance(batch, S3Batch)]
    return {"object": "list", "data": data, "has_more": more, **openai.ends(data)}


@router.get("/batches/{batch_id}")
def get_batch(batch_id: str, vendor: Held) -> dict[str, Any]:
    return shown(vendor, batch_of(vendor, batch_id))


@router.post("/batches/{batch_id}/cancel")
def cancel(batch_id: str, vendor: Held) -> dict[str, Any]:
    batch = batch_of(vendor, batch_id)
    if batch.view(time.time()).ended_at is not None:
        raise Refusal(409, "Cannot cancel a batch that has ended.")
    batch.cancelled_at = batch.cancelled_at or time.time()
    return shown(vendor, batch)


@router.post("/chat/completions")
async def synchronous(request: Request, vendor: Held) -> JSONResponse:
    said = ANSWERS[ENDPOINT](await openai.json_body(request), int(time.time()))
    if isinstance(said, answers.Bad):
        raise Refusal(said.status, said.message, param=said.param)
    return JSONResponse(said)


def batch_of(vendor: Vendor, batch_id: str) -> S3Batch:
    batch = vendor.batches.get(batch_id)
    if not isinstance(batch, S3Batch):
        raise Refusal(404, f"No batch found with id '{re.sub('[{}]', '', batch_id)}'.")
    return batch
