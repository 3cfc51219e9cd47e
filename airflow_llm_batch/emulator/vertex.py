"""Vertex AI: batch prediction jobs from Cloud Storage into it, and the calls of Gemini and Claude models.

Source: the REST reference of ``projects.locations.batchPredictionJobs`` (v1 and v1beta1) and the guides of batch
inference with Gemini, Gemini embeddings and Claude. The store is the emulator's own (``emulator/gcs.py``).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from airflow_llm_batch.emulator import gcs, vertex_lines
from airflow_llm_batch.emulator.answers import Bad
from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor
from airflow_llm_batch.emulator.google_api import NUMBERS, Refusal, stamp

NAME = "vertex"
OWNED = re.compile(r"/v1(beta1)?/projects/[^/]+/locations/")
MODEL = re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/(google|anthropic)/)?models/([^/]+)")
#: keys and values of labels (cloud.google.com/resource-manager/docs/labels-overview)
LABEL_KEY, LABEL_VALUE, MOST_LABELS = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}"), 64
#: lines of one file of results
PER_FILE = 1000
STATES = {
    "validating": "PENDING", "running": "RUNNING", "finalizing": "RUNNING", "cancelling": "CANCELLING",
    "completed": "SUCCEEDED", "failed": "FAILED", "expired": "EXPIRED", "cancelled": "CANCELLED",
}  # fmt: skip


def owns(path: str) -> bool:
    """Whether a path is one of Vertex AI's."""
    return OWNED.match(path) is not None


@dataclass
class Job(EmulatedBatch):
    """
    :param name: the resource's name; ``about`` what it was created with.
    :param directory: where its results lie, once they do.
    """

    name: str = ""
    about: dict[str, Any] | None = None
    directory: str | None = None
    #: rows that were worked on and are no good requests
    refused: int = 0

    def answer(self, line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
        succeeded, said = vertex_lines.answer_line(line, unfinished)
        self.refused += not succeeded and unfinished is None
        return succeeded, said


def vendor_of(request: Request) -> Vendor:
    """Checks the token, where one was settled on; any caller may come otherwise, as with an anonymous connection."""
    vendor: Vendor = request.app.state.vendor
    token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    if vendor.settings.api_key not in (None, token):
        raise Refusal(401, "Request had invalid authentication credentials.")
    return vendor


Held = Annotated[Vendor, Depends(vendor_of)]
router = APIRouter(prefix="/{version}/projects/{project}/locations/{location}")


@router.post("/batchPredictionJobs")
async def create(project: str, location: str, request: Request, vendor: Held) -> dict[str, Any]:
    about = await json_body(request)
    publisher, model = check_job(about)
    number = str(time.time_ns())
    job = Job(
        id=number,
        dialect=NAME,
        lines=vendor.directory / f"{number}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
        model=model,
        metadata=dict(about.get("labels") or {}),
        names=vertex_lines.naming(publisher, model),
        name=f"projects/{project}/locations/{location}/batchPredictionJobs/{number}",
        about=about,
    )
    job.input_file_id = about["inputConfig"]["gcsSource"]["uris"][0]
    read_input(vendor, request.app.state.store, job, publisher)
    vendor.add_batch(job)
    return job_object(request, vendor, job)


@router.get("/batchPredictionJobs")
def list_jobs(
    project: str,
    location: str,
    request: Request,
    vendor: Held,
    size: Annotated[int, Query(alias="pageSize")] = 20,
    token: Annotated[str, Query(alias="pageToken")] = "",
    wanted: Annotated[str, Query(alias="filter")] = "",
) -> dict[str, Any]:
    matches({}, wanted)
    where = f"projects/{project}/locations/{location}/"
    ours = [job for job in vendor.newest(NAME, None, 10**9)[0] if isinstance(job, Job) and job.name.startswith(where)]
    ours = [job for job in ours if matches(job_object(request, vendor, job), wanted)]
    if token:
        ours = ours[[job.id for job in ours].index(token) + 1 :]
    page = ours[: min(size, 100) or 20]
    answer: dict[str, Any] = {"batchPredictionJobs": [job_object(request, vendor, job) for job in page]}
    return {**answer, "nextPageToken": page[-1].id} if len(ours) > len(page) else answer


@router.get("/batchPredictionJobs/{number}")
def get_job(number: str, request: Request, vendor: Held) -> dict[str, Any]:
    return job_object(request, vendor, job_of(vendor, number))


@router.post("/batchPredictionJobs/{number}:cancel")
def cancel(number: str, vendor: Held) -> dict[str, Any]:
    job = job_of(vendor, number)
    if job.view(time.time()).ended_at is not None:
        raise Refusal(400, f"Job {job.name} is in a terminal state and cannot be cancelled.")
    job.cancelled_at = job.cancelled_at or time.time()
    return {}


@router.delete("/batchPredictionJobs/{number}")
def delete(number: str, vendor: Held) -> dict[str, Any]:
    job = job_of(vendor, number)
    if job.view(time.time()).ended_at is None:
        raise Refusal(400, f"Job {job.name} is not in a terminal state; cancel it before deleting it.")
    del vendor.batches[number]
    # A long-running operation, which is done at once.
    return {"name": f"{job.name.rpartition('/batchPredictionJobs/')[0]}/operations/{number}", "done": True}


@router.post("/publishers/{publisher}/models/{model}:{verb}")
async def call(publisher: str, model: str, verb: str, request: Request, vendor: Held) -> Response:
    body = await json_body(request)
    said = vertex_lines.answer(publisher, model, verb, body)
    if isinstance(said, Bad):
        if publisher == "anthropic":
            return JSONResponse({"type": "error", "error": {"type": said.kind, "message": said.message}}, said.status)
        raise Refusal(said.status, said.message)
    return JSONResponse(said)


def check_job(about: dict[str, Any]) -> tuple[str, str]:
    """What is checked at once; returns publisher and model."""
    if not about.get("displayName"):
        raise Refusal(400, "The field display_name is required.")
    found = MODEL.fullmatch(str(about.get("model") or ""))
    if found is None:
        raise Refusal(400, f"Invalid resource field value in the request: model {about.get('model')!r}")
    source, target = about.get("inputConfig") or {}, about.get("outputConfig") or {}
    uris = (source.get("gcsSource") or {}).get("uris")
    if source.get("instancesFormat") != "jsonl" or not uris or not all(str(u).startswith("gs://") for u in uris):
        raise Refusal(400, "input_config: a gcs_source with uris gs://... and instances_format jsonl is required.")
    prefix = str((target.get("gcsDestination") or {}).get("outputUriPrefix"))
    if target.get("predictionsFormat") != "jsonl" or not prefix.startswith("gs://"):
        raise Refusal(400, "output_config: a gcs_destination gs://... and predictions_format jsonl is required.")
    if problem := label_problem(about.get("labels") or {}):
        raise Refusal(400, problem)
    return found[1] or "google", found[2]


def label_problem(labels: Any) -> str | None:
    if not isinstance(labels, dict) or len(labels) > MOST_LABELS:
        return f"labels: at most {MOST_LABELS} of them, as an object."
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key) or not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
            return f"labels: {key!r}: {value!r} is not a label; only lower case letters, digits, '-' and '_' are."
    return None


def read_input(vendor: Vendor, store: gcs.Store, job: Job, publisher: str) -> None:
    """Read the job's lines; what is wrong with all of it fails the job, as it does later in truth."""
    try:
        data = store.get(*bucket_and_name(job.input_file_id or "")).path.read_bytes()
    except gcs.Refusal as refusal:
        job.problems.append(
            {"code": NUMBERS[404], "message": f"Failed to read the input: {refusal.body['error']['message']}"}
        )
        return
    with job.lines.open("wb") as file:
        for raw in filter(None, data.split(b"\n")):
            try:
                line = msgspec.json.decode(raw)
            except ValueError:
                line = None
            if problem := vertex_lines.problem(publisher, line):
                job.problems.append({"code": NUMBERS[400], "message": problem})
                return
            line["_as"] = [publisher, job.model]
            job.fates.append(vendor.fate(vertex_lines.asked(line)))
            job.prompt_tokens += len(raw) // 4
            file.write(msgspec.json.encode(line) + b"\n")
    if not job.fates:
        job.problems.append({"code": NUMBERS[400], "message": "The input has no lines."})


def bucket_and_name(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def deliver(job: Job, store: gcs.Store) -> None:
    """Put the results where the job was told, once; rows that were not worked on have none. Of a job that was ended
    before it was through there is what it exported while it ran."""
    if job.output is None or job.directory is not None:
        return
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    prefix = job.about["outputConfig"]["gcsDestination"]["outputUriPrefix"] if job.about else ""
    directory = f"{prefix.rstrip('/')}/prediction-model-{at}"
    lines = [line for line in job.output.path.read_bytes().splitlines(keepends=True) if line.strip() != b"{}"]
    pieces = [lines[start : start + PER_FILE] for start in range(0, len(lines), PER_FILE)]
    for number, piece in enumerate(pieces, 1):
        name = "predictions.jsonl" if len(pieces) == 1 else f"predictions_{number:04}.jsonl"
        name = name if job.view(time.time()).phase == "completed" else f"incremental_{name}"
        bucket, path = bucket_and_name(f"{directory}/{name}")
        store.write(bucket, {"name": path, "contentType": "application/jsonl"}, b"".join(piece))
    job.directory = directory


def job_object(request: Request, vendor: Vendor, job: Job) -> dict[str, Any]:
    vendor.settle(job, job.answer)
    deliver(job, request.app.state.store)
    view, now = job.view(time.time()), time.time()
    ended = view.ended_at is not None
    state = f"JOB_STATE_{STATES[view.phase]}"
    if state == "JOB_STATE_SUCCEEDED" and job.lost:
        state = "JOB_STATE_PARTIALLY_SUCCEEDED"
    if not ended and vendor.settings.faults.unknown_status:
        state = vendor.settings.faults.unknown_status
    shown: dict[str, Any] = {
        **(job.about or {}),
        "name": job.name,
        "state": state,
        "createTime": stamp(job.created_at),
        "updateTime": stamp(now),
    }
    if ended:
        shown["endTime"] = stamp(view.ended_at or now)
        shown["completionStats"] = completion(job)
    if ended and job.directory is not None and job.shows_files(vendor.settings.faults.undelivered):
        shown["outputInfo"] = {"gcsOutputDirectory": job.directory}
    if ended and job.problems:
        shown["error"] = {"code": job.problems[0]["code"], "message": job.problems[0]["message"]}
    return shown


def completion(job: Job) -> dict[str, str]:
    """Counts as int64 in texts, zeros left out; -1 where the input could not be read."""
    if job.problems:
        return {"incompleteCount": "-1"}
    view = job.view(time.time())
    failed = view.failed + job.refused + job.lost
    counts = {"successfulCount": view.done - failed, "failedCount": failed, "incompleteCount": job.total - view.done}
    return {name: str(count) for name, count in counts.items() if count}


def matches(job: dict[str, Any], wanted: str) -> bool:
    """The comparisons of a list filter that are documented with ``=``, joined by AND."""
    good = True
    for term in wanted.split(" AND ") if wanted else ():
        found = re.fullmatch(r'\s*(display_?[nN]ame|state|labels\.[a-z0-9_-]+)\s*=\s*"?([^"]*)"?\s*', term)
        if found is None:
            raise Refusal(400, f"Invalid filter: {term}")
        name = found[1]
        value = (
            (job.get("labels") or {}).get(name[7:])
            if name.startswith("labels.")
            else job.get("state" if name == "state" else "displayName")
        )
        good = good and value == found[2]
    return good


def job_of(vendor: Vendor, number: str) -> Job:
    job = vendor.batches.get(number)
    if not isinstance(job, Job):
        raise Refusal(404, f"The BatchPredictionJob {number} does not exist.")
    return job


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.body())
    except ValueError as error:
        raise Refusal(400, f"Invalid JSON payload received. {error}") from None
    if not isinstance(body, dict):
        raise Refusal(400, "Invalid JSON payload received. Expected an object.")
    return body
