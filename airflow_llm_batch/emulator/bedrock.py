"""Bedrock's model invocation jobs, and InvokeModel and Converse of its runtime."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.emulator import answers, bedrock_models
from airflow_llm_batch.emulator.batches import Vendor
from airflow_llm_batch.emulator.bedrock_jobs import (
    Job,
    job_object,
    new_job,
    problem_of,
    read_input,
    status_of,
)

#: the scope of a signature: key, day, region, service
SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/,\s]+/\d{8}/([a-z0-9-]+)/bedrock/aws4_request,\s*SignedHeaders=")
KINDS = {
    400: "ValidationException", 401: "UnrecognizedClientException", 403: "AccessDeniedException",
    404: "ResourceNotFoundException", 409: "ConflictException", 424: "ModelErrorException", 429: "ThrottlingException",
    500: "InternalServerException", 503: "ServiceUnavailableException",
}  # fmt: skip
PAGE = 100


def owns(path: str) -> bool:
    """Whether a path is one of Bedrock's."""
    return path.startswith(("/model-invocation-job", "/model/"))


class Refusal(Exception):
    """An error answer in AWS's shape: its kind in a header, its message in the body."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        full = code == "token_limit_exceeded" and status != 429
        kind = "ServiceQuotaExceededException" if full else KINDS.get(status, "InternalServerException")
        if code is not None and code.endswith("Exception"):
            kind = code
        self.headers = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"}
        self.body = {"message": message}


def vendor_of(request: Request) -> Vendor:
    """Checks that a call is signed for Bedrock, or carries an API key; every route asks for it."""
    vendor: Vendor = request.app.state.vendor
    given = request.headers.get("authorization", "")
    scheme, _, key = given.partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        if vendor.settings.api_key not in (None, key.strip()):
            raise Refusal(403, "Invalid API Key format: Must start with pre-defined prefix")
    elif not SIGNED.match(given):
        raise Refusal(403, "Missing Authentication Token", "MissingAuthenticationTokenException")
    elif not request.headers.get("x-amz-date"):
        raise Refusal(403, "Authorization header requires existence of a 'X-Amz-Date' header.")
    return vendor


Held = Annotated[Vendor, Depends(vendor_of)]
router = APIRouter()


@router.post("/model-invocation-job")
async def create(request: Request, vendor: Held) -> dict[str, str]:
    asked = await json_body(request)
    if problem := problem_of(asked):
        raise Refusal(400, problem)
    for job in jobs_of(vendor):
        if job.token is not None and job.token == asked.get("clientRequestToken"):
            return {"jobArn": job.id}
        if job.asked["jobName"] == asked["jobName"]:
            raise Refusal(400, "The provided job name is currently in use.", "ConflictException")
    signed = SIGNED.match(request.headers.get("authorization", ""))
    job = new_job(vendor, asked, signed[1] if signed else "us-east-1")
    await run_in_threadpool(read_input, vendor, job)
    vendor.add_batch(job)
    return {"jobArn": job.id}


@router.get("/model-invocation-jobs")
def list_jobs(
    vendor: Held,
    *,
    submit_time_after: Annotated[datetime | None, Query(alias="submitTimeAfter")] = None,
    submit_time_before: Annotated[datetime | None, Query(alias="submitTimeBefore")] = None,
    status_equals: Annotated[str | None, Query(alias="statusEquals")] = None,
    name_contains: Annotated[str | None, Query(alias="nameContains")] = None,
    max_results: Annotated[int, Query(alias="maxResults", ge=1, le=1000)] = PAGE,
    next_token: Annotated[str | None, Query(alias="nextToken")] = None,
    sort_by: Annotated[str, Query(alias="sortBy", pattern="^CreationTime$")] = "CreationTime",
    sort_order: Annotated[str, Query(alias="sortOrder", pattern="^(Ascending|Descending)$")] = "Descending",
) -> dict[str, Any]:
    now = time.time()
    found = [
        job
        for job in jobs_of(vendor)
        if (name_contains is None or name_contains in job.asked["jobName"])
        and (submit_time_after is None or job.created_at > submit_time_after.timestamp())
        and (submit_time_before is None or job.created_at < submit_time_before.timestamp())
        and (status_equals is None or status_of(vendor, job, job.view(now), now) == status_equals)
    ]
    if sort_order == "Descending":
        found.reverse()
    if next_token is not None:
        ids = [job.id for job in found]
        if next_token not in ids:
            raise Refusal(400, "The provided next token is invalid.")
        found = found[ids.index(next_token) + 1 :]
    page = found[:max_results]
    more = {"nextToken": page[-1].id} if len(found) > max_results else {}
    return {"invocationJobSummaries": [job_object(vendor, job) for job in page], **more}


@router.get("/model-invocation-job/{job_id:path}")
def get_job(job_id: str, vendor: Held) -> dict[str, Any]:
    return job_object(vendor, job_of(vendor, job_id))


@router.post("/model-invocation-job/{job_id:path}/stop")
def stop_job(job_id: str, vendor: Held) -> dict[str, Any]:
    job = job_of(vendor, job_id)
    if job.view(time.time()).ended_at is not None:
        raise Refusal(400, "The job has already ended and cannot be stopped.", "ConflictException")
    if job.cancelled_at is None:
        job.cancelled_at = time.time()
    return {}


@router.post("/model/{model:path}/invoke")
async def invoke_model(model: str, request: Request, vendor: Held) -> JSONResponse:
    return answer_of(bedrock_models.invoke(model, await json_body(request)))


@router.post("/model/{model:path}/converse")
async def converse(model: str, request: Request, vendor: Held) -> JSONResponse:
    return answer_of(bedrock_models.converse(model, await json_body(request)))


def answer_of(said: Any) -> JSONResponse:
    if isinstance(said, answers.Bad):
        raise Refusal(said.status, said.message, said.kind if said.kind.endswith("Exception") else None)
    return JSONResponse(said)


def jobs_of(vendor: Vendor) -> list[Job]:
    return [batch for batch in vendor.batches.values() if isinstance(batch, Job)]


def job_of(vendor: Vendor, job_id: str) -> Job:
    """By ARN, or by the twelve letters at its end."""
    for job in jobs_of(vendor):
        if job_id in (job.id, job.id.rpartition("/")[2]):
            return job
    raise Refusal(404, f"The provided job identifier {job_id} is not found.")


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.body())
    except ValueError as error:
        raise Refusal(400, f"Malformed input request: {error}", "ValidationException") from None
    if not isinstance(body, dict):
        raise Refusal(400, "Malformed input request: an object is expected.")
    return body
