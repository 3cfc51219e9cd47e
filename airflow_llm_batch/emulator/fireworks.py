"""Fireworks' datasets, batch inference jobs and chat completions, below ``/fireworks``.

Source: docs.fireworks.ai, ``fireworks-ai`` 1.2 (paths, members, states), and what OpenRouter has seen of it
(github.com/OpenRouterTeam/docs, batch research): an example count that is required and not checked, a bad row that
fails the job, flat answers, addresses signed for minutes, a deletion that cancels. Lines of rows that failed are not
documented: here they name the row and have an error, in ``error-data``. What a job had no time for has no line.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from airflow_llm_batch.emulator import openai
from airflow_llm_batch.emulator.batches import EmulatedBatch, StoredFile, Vendor
from airflow_llm_batch.emulator.bearer import held_by
from airflow_llm_batch.emulator.json_lines import read_lines
from airflow_llm_batch.emulator.openai_lines import answer_line, validate

NAME, PREFIX = "fireworks", "/fireworks"
CHAT = "/v1/chat/completions"
#: bytes of an upload in one piece, and of a dataset
MOST_AT_ONCE, MOST_BYTES, MOST_REQUESTS = 150_000_000, 500_000_000, 10**9
SIZED = "x-goog-content-length-range"
ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
ROLES = ("system", "user", "assistant", "tool")
CODES = {400: 3, 403: 7, 404: 5, 409: 6}
STATES = {
    "validating": "VALIDATING", "running": "RUNNING", "finalizing": "WRITING_RESULTS", "completed": "COMPLETED",
    "failed": "FAILED", "expired": "EXPIRED", "cancelling": "DELETING_CLEANING_UP",
}  # fmt: skip


def owns(path: str) -> bool:
    """Whether a path is one of Fireworks'."""
    return path.startswith(f"{PREFIX}/")


class Refusal(Exception):
    """An error answer in the shape of Fireworks' control plane."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        self.body: dict[str, Any] = {"code": CODES.get(status, 13), "message": message, "details": []}


def words(refusal: openai.Refusal) -> Refusal:
    """OpenAI's refusal as Fireworks'."""
    return Refusal(refusal.status, refusal.body["error"]["message"])


Held = Annotated[Vendor, Depends(held_by(lambda: Refusal(403, "The API key you provided is invalid.")))]
router = APIRouter(prefix=PREFIX)
account = APIRouter(prefix="/v1/accounts/{account}")


@router.post("/inference/v1/chat/completions")
async def called(request: Request, vendor: Held) -> Response:
    return await openai.answered(vendor, CHAT, await openai.json_body(request))


@router.get("/store/{file_id}")
def store(file_id: str, request: Request) -> Response:
    """Where results lie: the address is signed, and no key belongs there."""
    vendor: Vendor = request.app.state.vendor
    if request.headers.get("authorization"):
        return Response("<Error><Code>InvalidArgument</Code></Error>", 400)
    if file_id not in vendor.files or not request.query_params.get("X-Goog-Signature"):
        return Response("<Error><Code>SignatureDoesNotMatch</Code></Error>", 403)
    return FileResponse(vendor.files[file_id].path, media_type="application/octet-stream")


@account.post("/datasets")
async def create_dataset(account: str, request: Request, vendor: Held) -> dict[str, Any]:
    body = await openai.json_body(request)
    name, about = str(body.get("datasetId")), body.get("dataset") or {}
    if not ID.fullmatch(name):
        raise Refusal(400, f"invalid dataset id {name!r}")
    if "userUploaded" in about and not about.get("exampleCount"):
        raise Refusal(400, "example_count is required for uploaded datasets")
    if name in vendor.files:
        raise Refusal(409, "resource already exists")
    stored = vendor.new_file(name, "dataset", prefix="")
    del vendor.files[stored.id]
    stored.id, stored.mime = name, str(about.get("exampleCount") or 0)
    vendor.files[name] = stored
    return dataset_object(account, stored)


def dataset_of(vendor: Vendor, name: str) -> StoredFile:
    if name not in vendor.files:
        raise Refusal(404, "resource not found")
    return vendor.files[name]


def dataset_object(account: str, stored: StoredFile) -> dict[str, Any]:
    return {
        "name": f"accounts/{account}/datasets/{stored.id}",
        "createTime": stamp(stored.created_at),
        "exampleCount": stored.mime,
        "format": "CHAT",
        "state": "READY" if stored.path.exists() else "UPLOADING",
        "status": {"code": "OK", "message": ""},
        "userUploaded": {},
    }


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


@account.post("/datasets/{name}:upload")
async def upload(account: str, name: str, request: Request, vendor: Held) -> dict[str, Any]:
    stored = dataset_of(vendor, name)
    file = (await request.form()).get("file")
    if not isinstance(file, UploadFile) or (file.size or 0) > MOST_AT_ONCE:
        raise Refusal(400, "a file of up to 150 MB is required")
    content = await file.read()
    await run_in_threadpool(stored.path.write_bytes, content)
    about = {"bytes": len(content), "created_at": int(time.time()), "filename": file.filename}
    return {"id": f"accounts/{account}/datasets/{name}", "object": "file", "purpose": "dataset", **about}


@account.post("/datasets/{name}:getUploadEndpoint")
async def upload_endpoint(name: str, request: Request, vendor: Held) -> dict[str, Any]:
    dataset_of(vendor, name)
    sizes = (await openai.json_body(request)).get("filenameToSize") or {}
    if not sizes or any(not str(size).isdigit() or int(size) >= MOST_BYTES for size in sizes.values()):
        raise Refusal(400, "filename_to_size is required, of files under 500 MB")
    # By another name of this machine, as the vendor's store is another host: no key may follow there.
    base = f"http://localhost:{request.url.port}{PREFIX}/store/{name}"
    signed = f"X-Goog-SignedHeaders=content-type%3Bhost%3B{SIZED}&X-Goog-Signature=1"
    return {"filenameToSignedUrls": {file: f"{base}?size={size}&{signed}" for file, size in sizes.items()}}


@router.put("/store/{name}")
async def put(name: str, request: Request) -> Response:
    """A dataset's file, with every header that its address was signed for."""
    vendor: Vendor = request.app.state.vendor
    if request.headers.get("authorization"):
        return Response("<Error><Code>InvalidArgument</Code></Error>", 400)
    size = request.query_params.get("size", "")
    right = {"content-type": "application/octet-stream", SIZED: f"{size},{size}", "content-length": size}
    is_signed = bool(request.query_params.get("X-Goog-Signature"))
    if name not in vendor.files or not is_signed or any(request.headers.get(n) != v for n, v in right.items()):
        return Response("<Error><Code>SignatureDoesNotMatch</Code></Error>", 403)
    with unchecked(vendor.files[name]).open("wb") as file:
        async for chunk in request.stream():
            await run_in_threadpool(file.write, chunk)
    return Response(status_code=200)


@account.post("/datasets/{name}:validateUpload")
def validate_upload(name: str, vendor: Held) -> dict[str, Any]:
    stored = dataset_of(vendor, name)
    if not stored.path.exists():
        if not unchecked(stored).exists():
            raise Refusal(400, "the dataset has no file")
        unchecked(stored).rename(stored.path)
    return {}


def unchecked(stored: StoredFile) -> Path:
    """Where a file lies that was put, and not looked at yet."""
    return stored.path.with_name(f"{stored.path.name}.put")


@account.get("/datasets/{name}:getDownloadEndpoint")
async def download(name: str, request: Request, vendor: Held) -> dict[str, Any]:
    if await request.body():
        raise Refusal(400, "Your client has issued a malformed or illegal request.")
    stored = [one for one in (vendor.files.get(f"{name}.{kind}") for kind in ("results", "errors")) if one]
    if not stored:
        stored = [dataset_of(vendor, name)]
    # By another name of this machine, as the vendor's store is another host: no key may follow there.
    base = f"http://localhost:{request.url.port}{PREFIX}/store"
    urls = {f"dataset/{name}/{one.filename}": f"{base}/{one.id}?X-Goog-Signature=1" for one in stored}
    return {"filenameToSignedUrls": urls}


@account.get("/datasets/{name}")
def get_dataset(account: str, name: str, vendor: Held) -> dict[str, Any]:
    return dataset_object(account, dataset_of(vendor, name))


@account.delete("/datasets/{name}")
def delete_dataset(name: str, vendor: Held) -> dict[str, Any]:
    parts = [one for one in (name, f"{name}.results", f"{name}.errors") if one in vendor.files]
    if not parts:
        raise Refusal(404, "resource not found")
    for part in parts:
        del vendor.files[part]
    return {}


@account.post("/batchInferenceJobs")
async def create(
    account: str, request: Request, vendor: Held, chosen: Annotated[str, Query(alias="batchInferenceJobId")]
) -> dict[str, Any]:
    body = await openai.json_body(request)
    if not body.get("model") or not body.get("inputDatasetId"):
        raise Refusal(400, "model and input_dataset_id are required")
    if not ID.fullmatch(chosen):
        raise Refusal(400, f"invalid job id {chosen!r}")
    if chosen in vendor.batches:
        raise Refusal(409, "resource already exists")
    source = dataset_of(vendor, str(body["inputDatasetId"]).rpartition("/")[2])
    if not source.path.exists():
        raise Refusal(400, "the input dataset is not ready")
    batch = openai.new_batch(vendor, NAME, {"endpoint": CHAT}, source)
    batch.id, batch.model, batch.silent = chosen, body["model"], True
    await run_in_threadpool(validate, vendor, batch, source.path, MOST_REQUESTS, bare=True)
    await run_in_threadpool(judge, batch)
    openai.begin(vendor, batch)
    return job_object(account, vendor, batch)


def judge(batch: EmulatedBatch) -> None:
    """Note what is wrong with the first bad row: no other is answered then."""
    for number, line in enumerate(read_lines(batch.lines), 1):
        roles = [message.get("role") for message in line["body"].get("messages") or ()]
        bad = next((role for role in roles if role not in ROLES), None)
        if bad or not roles:
            message = f"Dataset has a syntax error: input.jsonl:{number}: invalid role {bad} in message 1"
            batch.problems.append({"code": "INVALID_ARGUMENT", "message": message, "line": number, "param": None})
            return


@account.get("/batchInferenceJobs")
def jobs(
    account: str,
    vendor: Held,
    size: Annotated[int, Query(alias="pageSize", ge=1, le=200)] = 50,
    token: Annotated[str | None, Query(alias="pageToken")] = None,
) -> dict[str, Any]:
    page, more = vendor.newest(NAME, token or None, size)
    shown = [job_object(account, vendor, batch) for batch in page if not is_gone(batch)]
    return {"batchInferenceJobs": shown, "nextPageToken": page[-1].id if more else "", "totalSize": len(shown)}


def is_gone(batch: EmulatedBatch) -> bool:
    return batch.view(time.time()).phase == "cancelled"


def job_of(vendor: Vendor, name: str) -> EmulatedBatch:
    batch = vendor.batches.get(name)
    if batch is None or batch.dialect != NAME or is_gone(batch):
        raise Refusal(404, "resource not found")
    return batch


@account.get("/batchInferenceJobs/{name}")
def get_job(account: str, name: str, vendor: Held) -> dict[str, Any]:
    return job_object(account, vendor, job_of(vendor, name))


@account.delete("/batchInferenceJobs/{name}")
def delete_job(name: str, vendor: Held) -> dict[str, Any]:
    batch = job_of(vendor, name)
    batch.cancelled_at = batch.cancelled_at or time.time()
    return {}


def job_object(account: str, vendor: Vendor, batch: EmulatedBatch) -> dict[str, Any]:
    vendor.settle(batch, answer)
    view = batch.view(time.time())
    output = f"bij-{batch.id[-8:]}"
    for kind, name, stored in (("results", "BIJOutputSet.jsonl", batch.output), ("errors", "error-data", batch.errors)):
        if stored is not None and f"{output}.{kind}" not in vendor.files:
            vendor.files[f"{output}.{kind}"] = StoredFile(f"{output}.{kind}", stored.path, name, "dataset", time.time())
    state = f"JOB_STATE_{STATES[view.phase]}"
    if view.phase == "running" and vendor.settings.faults.unknown_status:
        state = vendor.settings.faults.unknown_status
    wrong = batch.problems[0] if view.phase == "failed" else {"code": "OK", "message": ""}
    failed = view.failed + batch.rejected
    return {
        "name": f"accounts/{account}/batchInferenceJobs/{batch.id}",
        "createTime": stamp(batch.created_at),
        "expireTime": stamp(batch.created_at + 86400),
        "model": batch.model,
        "inputDatasetId": f"accounts/{account}/datasets/{batch.input_file_id}",
        "outputDatasetId": f"accounts/{account}/datasets/{output}",
        "state": state,
        "status": {"code": wrong["code"], "message": wrong["message"]},
        "jobProgress": {
            "percent": 100 * view.done // batch.total if batch.total else 0,
            "totalInputRequests": batch.total,
            "totalProcessedRequests": view.done,
            "successfullyProcessedRequests": view.done - failed - batch.lost,
            "failedRequests": failed,
        },
    }


def answer(line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    """A line with the answer as it is, or with an error."""
    good, made = answer_line(line, unfinished)
    body = made["response"]["body"]
    if good:
        return True, {"custom_id": line["custom_id"], "response": body}
    return False, {"custom_id": line["custom_id"], "error": {"code": "INTERNAL", "message": body["error"]["message"]}}


router.include_router(account)
