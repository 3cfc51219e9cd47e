"""Bedrock's job objects, as get and list tell of them, and the body that creates one.

Source: Bedrock's API reference (CreateModelInvocationJob, GetModelInvocationJob, ListModelInvocationJobs).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.models import Batch, Outcome
from airflow_llm_batch.providers.batches import identifier, moment
from airflow_llm_batch.providers.coerce import members, text_of, whole, word

OUTCOMES: dict[str, Outcome] = {
    "Completed": "completed",
    # It ran out of time: what it has not worked on is as in an expired batch, and not billed.
    "PartiallyCompleted": "expired",
    "Failed": "failed",
    "Stopped": "cancelled",
    "Expired": "expired",
}
RUNNING = frozenset({"Submitted", "Validating", "Scheduled", "InProgress", "Stopping"})
TOKEN, NAME = "clientRequestToken", "jobName"
LONGEST_NAME = 63
NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9]+")


def token_of(key: str) -> str:
    """What makes two creates of one shard one job."""
    return hashlib.sha256(key.encode()).hexdigest()


def name_of(key: str) -> str:
    """A job's name, which an account uses once: the key for people, and a part of its hash."""
    readable = NOT_IN_NAMES.sub("-", key).strip("-")[: LONGEST_NAME - 20].strip("-")
    return "-".join(filter(None, ["llm-batch", readable, token_of(key)[:8]]))


def parse_job(raw: dict[str, Any]) -> Batch:
    """:raises VendorUnavailable: for a job without an ARN."""
    arn = identifier(raw.get("jobArn"))
    if arn is None:
        raise VendorUnavailable("Bedrock told of a job without an ARN.")
    status = word(raw.get("status")) or ""
    outcome = OUTCOMES.get(status)
    failed = whole(raw.get("errorRecordCount"))
    if outcome == "completed" and failed:
        outcome = "partial"
    message = text_of(raw.get("message"))
    return Batch(
        id=arn,
        status=status,
        outcome=outcome,
        total=whole(raw.get("totalRecordCount")),
        succeeded=whole(raw.get("successRecordCount")),
        failed=failed,
        created_at=moment(raw.get("submitTime")),
        input_ref=uri_in(raw, "input"),
        files=output_of(raw, arn),
        errors=(("", message),) if message and outcome == "failed" else (),
        metadata={name: text for name in (TOKEN, NAME) if (text := text_of(raw.get(name)))},
        known=status in OUTCOMES or status in RUNNING,
    )


def uri_in(raw: Mapping[str, Any], way: str) -> str | None:
    """:param way: ``input`` or ``output``."""
    config = members(members(raw.get(f"{way}DataConfig")).get(f"s3{way.capitalize()}DataConfig"))
    return identifier(config.get("s3Uri"))


def output_of(raw: Mapping[str, Any], arn: str) -> tuple[str, ...]:
    """The folder of a job's own results, below the one it was told."""
    uri = uri_in(raw, "output")
    return (f"{uri.rstrip('/')}/{arn.rpartition('/')[2]}/",) if uri else ()
