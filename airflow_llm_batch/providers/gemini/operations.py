"""Gemini's batches as long-running operations, in the shapes that its documentation, its SDK and its users show.

Source: ai.google.dev (batch mode: GenerateContentBatch, BatchStats, BatchState; Operation), google-genai's batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.models import Batch, Outcome
from airflow_llm_batch.providers.batches import identifier, moment
from airflow_llm_batch.providers.coerce import members, objects, text_of, whole, word
from airflow_llm_batch.providers.gemini.words import get
from airflow_llm_batch.providers.troubles import GRPC, is_full

PREFIXES = ("BATCH_STATE_", "JOB_STATE_")
OUTCOMES: dict[str, Outcome] = {
    "SUCCEEDED": "completed",
    "PARTIALLY_SUCCEEDED": "partial",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}
RUNNING = frozenset({"UNSPECIFIED", "PENDING", "QUEUED", "RUNNING", "CANCELLING", "PAUSED", "UPDATING"})
#: google.rpc.Code of an operation that was cancelled, and of one that found no room
CANCELLED, EXHAUSTED = 1, 8
BATCHES = "batches/"


def short(name: str) -> str:
    """A batch's id, from its name or from the id itself."""
    return name.removeprefix(BATCHES)


def parse_batch(raw: Mapping[str, Any]) -> Batch:
    """:raises VendorUnavailable: for an operation without a name."""
    operation = members(raw.get("metadata")) or raw
    name = identifier(raw.get("name")) or identifier(operation.get("name"))
    if name is None:
        raise VendorUnavailable("The vendor told of a batch without a name.")
    status = word(operation.get("state")) or ""
    state, error = stateless(status), members(raw.get("error") or operation.get("error"))
    outcome = OUTCOMES.get(state)
    if outcome is None and raw.get("done") is True and state in ("", *RUNNING):
        # An operation that is done has ended, whatever its metadata was last told.
        outcome = "completed" if not error else "cancelled" if whole(error.get("code")) == CANCELLED else "failed"
    counted = counts_of(operation)
    if outcome == "completed" and counted.get("failed"):
        outcome = "partial"
    errors = ((code_of(error), text_of(error.get("message")) or ""),) if error else ()
    files = where(name, members(raw.get("response")), members(operation.get("output")))
    if outcome == "expired" and not files:
        # As documented: what was worked on is lost, whatever the counters say.
        counted |= {"succeeded": 0, "failed": 0}
    display = text_of(get(operation, "displayName"))
    return Batch(
        id=short(name),
        status=status,
        outcome=outcome,
        **counted,
        created_at=moment(get(operation, "createTime")),
        input_ref=identifier(get(get(operation, "inputConfig"), "fileName")),
        files=files,
        errors=errors,
        metadata={"displayName": display} if display else {},
        full=outcome == "failed" and not files and is_without_room(error),
        known=outcome is not None or state in RUNNING,
    )


def stateless(status: str) -> str:
    """A state without the prefix, of which there are two."""
    for prefix in PREFIXES:
        status = status.upper().removeprefix(prefix)
    return status


def counts_of(operation: Mapping[str, Any]) -> dict[str, Any]:
    """Counters, which come as texts; a zero is left out where others are there."""
    stats = get(operation, "batchStats")
    if not members(stats):
        return {"total": None, "succeeded": None, "failed": None}
    good, bad = whole(get(stats, "successfulRequestCount")), whole(get(stats, "failedRequestCount"))
    return {"total": whole(get(stats, "requestCount")), "succeeded": good or 0, "failed": bad or 0}


def code_of(error: Mapping[str, Any]) -> str:
    code = word(error.get("code")) or word(error.get("status")) or ""
    return GRPC.get(code, code)


def is_without_room(error: Mapping[str, Any]) -> bool:
    return whole(error.get("code")) == EXHAUSTED or is_full(code_of(error), text_of(error.get("message")))


def where(name: str, *outputs: Mapping[str, Any]) -> tuple[str, ...]:
    """Where results lie: a file, or the operation itself where they were asked for inline."""
    for output in outputs:
        file = identifier(get(output, "responsesFile")) or identifier(get(output, "fileName"))
        if file:
            return (file,)
    return (name,) if any(inlined(output) for output in outputs) else ()


def inlined(output: Any) -> list[dict[str, Any]]:
    """The responses within an output, which are nested twice."""
    for kind in ("inlinedResponses", "inlinedEmbedContentResponses"):
        held = get(output, kind)
        if found := objects(get(held, "inlinedResponses") if isinstance(held, dict) else held):
            return found
    return []


def inline_lines(raw: Mapping[str, Any]) -> list[bytes]:
    """An operation's inline responses as lines; one without a key is named by its place, which is its request's."""
    outputs = (members(raw.get("response")), members(get(members(raw.get("metadata")), "output")))
    items = next(filter(None, map(inlined, outputs)), [])
    return [msgspec.json.encode(keyed(item, place)) for place, item in enumerate(items)]


def keyed(item: dict[str, Any], place: int) -> dict[str, Any]:
    if item.get("key") is not None or members(item.get("metadata")).get("key") is not None:
        return item
    return {**item, "key": str(place)}
