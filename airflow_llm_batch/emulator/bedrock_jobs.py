"""Jobs of an emulated Bedrock: what is wrong with a create, the objects they read and write, and how they look.

Objects lie in any S3 server: ``Settings.s3_endpoint``, or what boto3 finds in the environment, and credentials from
there. Source: Bedrock's API reference (CreateModelInvocationJob and its kin) and user guide (batch inference).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from airflow_llm_batch.emulator import answers, bedrock_models
from airflow_llm_batch.emulator.batches import EmulatedBatch, Vendor, View

NAME = "bedrock"
REQUIRED = ("jobName", "roleArn", "modelId", "inputDataConfig", "outputDataConfig")
PATTERNS = {
    "jobName": re.compile(r"[a-zA-Z0-9]{1,63}(-*[a-zA-Z0-9+\-.]){0,63}"),
    "roleArn": re.compile(r"arn:aws(-[^:]+)?:iam::([0-9]{12})?:role/.+"),
    "clientRequestToken": re.compile(r"[a-zA-Z0-9]{1,256}(-*[a-zA-Z0-9]){0,256}"),
    "modelInvocationType": re.compile(r"InvokeModel|Converse"),
}
S3_URI = re.compile(r"s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](?:/[-!_*'().a-z0-9A-Z]+(?:/[-!_*'().a-z0-9A-Z]+)*)?/?")
LONGEST_NAME, MOST_RECORDS = 63, 50_000
HOURS = range(24, 169)
STATUSES = {
    "validating": "Validating", "running": "InProgress", "finalizing": "InProgress", "cancelling": "Stopping",
    "completed": "Completed", "failed": "Failed", "cancelled": "Stopped",
}  # fmt: skip


@dataclass
class Job(EmulatedBatch):
    """
    :param asked: the body of its create.
    :param source: where its records were read from.
    """

    asked: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    written: bool = False

    @property
    def token(self) -> str | None:
        return self.asked.get("clientRequestToken")


def new_job(vendor: Vendor, asked: dict[str, Any], region: str) -> Job:
    job_id = uuid.uuid4().hex[:12]
    return Job(
        id=f"arn:aws:bedrock:{region}:123456789012:model-invocation-job/{job_id}",
        dialect=NAME,
        lines=vendor.directory / f"{uuid.uuid4().hex}.lines",
        created_at=time.time(),
        duration=vendor.settings.duration,
        endpoint=asked.get("modelInvocationType") or "InvokeModel",
        model=asked["modelId"],
        names="recordId",
        asked=asked,
    )


def problem_of(asked: dict[str, Any]) -> str | None:
    """What is wrong with a create at the door."""
    for name in REQUIRED:
        if not asked.get(name):
            return (
                f"1 validation error detected: Value at '{name}' failed to satisfy constraint: Member must not be null"
            )
    for name, pattern in PATTERNS.items():
        value = asked.get(name)
        if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
            return unsatisfied(name, value, pattern.pattern)
    if len(asked["jobName"]) > LONGEST_NAME:
        return unsatisfied("jobName", asked["jobName"], "length less than or equal to 63")
    for name, uri in (("inputDataConfig", s3_uri(asked, "input")), ("outputDataConfig", s3_uri(asked, "output"))):
        if not isinstance(uri, str) or not S3_URI.fullmatch(uri):
            return unsatisfied(f"{name}.s3Uri", uri, S3_URI.pattern)
    hours = asked.get("timeoutDurationInHours")
    if hours is not None and hours not in HOURS:
        return unsatisfied("timeoutDurationInHours", hours, "between 24 and 168")
    return None


def unsatisfied(name: str, value: Any, rule: str) -> str:
    return (
        f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: Member must satisfy "
        f"{rule}"
    )


def s3_uri(asked: dict[str, Any], way: str) -> Any:
    config = asked.get(f"{way}DataConfig")
    inner = config.get(f"s3{way.capitalize()}DataConfig") if isinstance(config, dict) else None
    return inner.get("s3Uri") if isinstance(inner, dict) else None


class Objects:
    """An S3 server's objects."""

    def __init__(self, endpoint: str | None) -> None:
        import boto3

        self.client: Any = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")

    def below(self, uri: str) -> Iterator[tuple[str, bytes]]:
        """Name and content of every JSONL object at or below a URI."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        listed = self.client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", ())
        for found in listed:
            name = found["Key"]
            if name.endswith(".jsonl") and (name == key or name.startswith(key.rstrip("/") + "/")):
                yield name, self.client.get_object(Bucket=bucket, Key=name)["Body"].read()

    def put(self, uri: str, content: bytes) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=content)


def read_input(vendor: Vendor, job: Job) -> None:
    """Copy the records, noting what is wrong with them as Bedrock does after a create that succeeded."""
    try:
        files = list(Objects(vendor.settings.s3_endpoint).below(s3_uri(job.asked, "input")))
    except Exception as error:
        fail(job, f"The service could not access the S3 bucket: {error}")
        return
    if not files:
        fail(job, f"No JSONL file was found at {s3_uri(job.asked, 'input')}.")
    records = 0
    with job.lines.open("wb") as kept:
        for name, content in files:
            job.source = name
            lines = [line for line in content.split(b"\n") if line.strip()]
            if len(lines) > MOST_RECORDS:
                fail(job, f"{name} has {len(lines):,} records; the quota is {MOST_RECORDS:,} records per file.")
            for line in lines:
                records += 1
                record = record_of(line, records)
                if record is None:
                    fail(job, f"Record {records} of {name} is not a JSON object with modelInput.")
                    continue
                text = line.split(b'"modelInput"', 1)[-1].decode("utf-8", "replace")
                job.fates.append(vendor.fate(text))
                job.prompt_tokens += answers.tokens(text)
                kept.write(msgspec.json.encode(record) + b"\n")
    least = vendor.settings.bedrock_minimum
    if files and records < least:
        fail(job, f"The job has {records} records; the minimum number of records per batch inference job is {least}.")


def record_of(line: bytes, number: int) -> dict[str, Any] | None:
    try:
        record = msgspec.json.decode(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("modelInput"), dict):
        return None
    return {"recordId": f"REC{number:08d}", **record}


def fail(job: Job, message: str) -> None:
    job.problems.append({"code": "", "message": message, "line": None, "param": None})


def answer_record(job: Job, record: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    """A record's line of the output; empty for one that was never worked on, which has none."""
    if unfinished in ("expired", "cancelled"):
        return False, {}
    known = {"recordId": record["recordId"], "modelInput": record["modelInput"]}
    said: Any
    if unfinished:
        said = answers.Bad(500, "InternalServerException", "The system encountered an unexpected error.")
    elif job.endpoint == "Converse":
        said = bedrock_models.converse(str(job.model), record["modelInput"], tools=False)
    else:
        said = bedrock_models.invoke(str(job.model), record["modelInput"])
    if isinstance(said, answers.Bad):
        return False, {**known, "error": {"errorCode": said.status, "errorMessage": said.message}}
    return True, {**known, "modelOutput": said}


def settle(vendor: Vendor, job: Job) -> None:
    """Write the objects of a job that has ended, once."""
    view = job.view(time.time())
    if view.ended_at is None or job.problems or never_began(job):
        return
    with job.lock:
        if job.written:
            return
        answered = vendor.result_lines(job, view, lambda record, unfinished: answer_record(job, record, unfinished))
        lines = [line for _, line in answered if line != b"{}"]
        failed = sum(b'"error"' in line and b'"modelOutput"' not in line for line in lines)
        job.lost = vendor.disturb(lines, job)
        objects, folder = Objects(vendor.settings.s3_endpoint), output_folder(job)
        name = job.source.rpartition("/")[2]
        objects.put(f"{folder}{name}.out", b"".join(line + b"\n" for line in lines))
        summary = {
            "totalRecordCount": job.total, "processedRecordCount": view.done, "successRecordCount": view.done - failed,
            "errorRecordCount": failed, "inputTokenCount": job.prompt_tokens, "outputTokenCount": len(lines),
        }  # fmt: skip
        objects.put(f"{folder}manifest.json.out", json.dumps(summary).encode())
        job.written = True


def never_began(job: Job) -> bool:
    return job.expire == 0


def output_folder(job: Job) -> str:
    return f"{s3_uri(job.asked, 'output').rstrip('/')}/{job.id.rpartition('/')[2]}/"


def job_object(vendor: Vendor, job: Job) -> dict[str, Any]:
    """A job as get and list tell of it."""
    settle(vendor, job)
    now = time.time()
    view = job.view(now)
    asked = {name: value for name, value in job.asked.items() if name != "tags" and value is not None}
    known = view.phase not in ("validating", "failed") and not job.problems
    counts = {
        "totalRecordCount": job.total,
        "processedRecordCount": view.done - job.lost,
        "successRecordCount": view.done - view.failed - job.lost,
        "errorRecordCount": view.failed,
    }
    return {
        "jobArn": job.id,
        "modelInvocationType": "InvokeModel",
        **asked,
        "status": status_of(vendor, job, view, now),
        **({"message": "; ".join(p["message"] for p in job.problems)} if view.phase == "failed" else {}),
        "submitTime": stamp(job.created_at),
        "lastModifiedTime": stamp(view.ended_at or now),
        **({"endTime": stamp(view.ended_at)} if view.ended_at else {}),
        "jobExpirationTime": stamp(job.created_at + 3600 * job.asked.get("timeoutDurationInHours", 24)),
        **(counts if known else {}),
    }


def status_of(vendor: Vendor, job: Job, view: View, now: float) -> str:
    if view.phase == "running" and vendor.settings.faults.unknown_status:
        return vendor.settings.faults.unknown_status
    if view.phase == "expired":
        return "Expired" if never_began(job) else "PartiallyCompleted"
    if view.phase == "validating" and now < job.created_at + 0.03 * job.duration:
        return "Submitted"
    if never_began(job) and view.phase in ("running", "finalizing"):
        return "Scheduled"
    return STATUSES[view.phase]


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
