"""Vertex AI's batch prediction jobs, read field by field.

Source: the REST reference of ``BatchPredictionJob``, ``JobState`` and ``CompletionStats``.
"""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.models import Batch, Outcome
from airflow_llm_batch.providers.batches import identifier, moment
from airflow_llm_batch.providers.coerce import members, objects, text_of, whole, word
from airflow_llm_batch.providers.troubles import GRPC, is_full
from airflow_llm_batch.providers.vertex.names import job_number

#: the label that says whose job this is
MARK = "airflow_llm_batch"
OUTCOMES: dict[str, Outcome] = {
    "SUCCEEDED": "completed", "PARTIALLY_SUCCEEDED": "partial", "FAILED": "failed", "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}  # fmt: skip
RUNNING = frozenset({"UNSPECIFIED", "QUEUED", "PENDING", "RUNNING", "CANCELLING", "PAUSED", "UPDATING"})


def parse_job(raw: dict[str, Any]) -> Batch:
    """A job as the service tells of it.

    :raises VendorUnavailable: for one without a name.
    """
    name = identifier(raw.get("name"))
    if name is None:
        raise VendorUnavailable("Vertex AI told of a job without a name.")
    status = word(raw.get("state")) or ""
    state = status.removeprefix("JOB_STATE_")
    outcome = OUTCOMES.get(state)
    counts = counted(raw.get("completionStats"))
    succeeded, failed, incomplete = (counts[n] for n in ("successfulCount", "failedCount", "incompleteCount"))
    if outcome == "completed" and failed:
        outcome = "partial"
    errors = errors_in(raw)
    known_counts = bool(members(raw.get("completionStats"))) and None not in (succeeded, failed, incomplete)
    return Batch(
        id=job_number(name),
        status=status,
        outcome=outcome,
        total=(succeeded or 0) + (failed or 0) + (incomplete or 0) if known_counts else None,
        succeeded=succeeded if known_counts else None,
        failed=failed if known_counts else None,
        created_at=moment(raw.get("createTime")),
        input_ref=input_of(raw),
        files=directories(raw) if outcome else (),
        errors=errors,
        metadata={str(key): text_of(value) or "" for key, value in members(raw.get("labels")).items()},
        full=outcome == "failed" and not wrote(raw, succeeded) and any(is_exhausted(*error) for error in errors),
        known=state in OUTCOMES or state in RUNNING,
    )


def counted(stats: Any) -> dict[str, int | None]:
    """Counts of rows; a zero is left out, and -1 is one that is not known."""
    counts = members(stats)
    found = {name: whole(counts.get(name, 0)) for name in ("successfulCount", "failedCount", "incompleteCount")}
    return {name: None if count is None or count < 0 else count for name, count in found.items()}


def input_of(raw: dict[str, Any]) -> str | None:
    uris = members(members(raw.get("inputConfig")).get("gcsSource")).get("uris")
    return identifier(uris[0]) if isinstance(uris, list) and uris else None


def directories(raw: dict[str, Any]) -> tuple[str, ...]:
    """Where the results lie: the job's own directory, or, where it does not tell, what it was given to write below."""
    own = identifier(members(raw.get("outputInfo")).get("gcsOutputDirectory"))
    given = identifier(members(members(raw.get("outputConfig")).get("gcsDestination")).get("outputUriPrefix"))
    return tuple(uri for uri in (own or given,) if uri and uri.startswith("gs://"))


def wrote(raw: dict[str, Any], succeeded: int | None) -> bool:
    """Whether a job has results: it tells its own directory then. Where it was to write says nothing."""
    return bool(succeeded) or identifier(members(raw.get("outputInfo")).get("gcsOutputDirectory")) is not None


def errors_in(raw: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Why the job as a whole failed, and what went wrong with parts of it."""
    statuses = [*objects(raw.get("error")), *objects(raw.get("partialFailures"))]
    found = []
    for status in statuses:
        code = word(status.get("code")) or ""
        pair = (GRPC.get(code, code), text_of(status.get("message")) or "")
        if any(pair):
            found.append(pair)
    return tuple(found)


def is_exhausted(code: str, message: str) -> bool:
    """Whether a job never ran since a quota of the moment was used up."""
    return code == "resource_exhausted" or is_full(code, message)
