"""A vendor's batch objects, read field by field: listings hold other people's too, and any field may be anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.models import Batch
from airflow_llm_batch.providers.coerce import objects, text_of, word

#: seconds since 1970 above which a time is taken for milliseconds
MILLISECONDS = 10**11


def moment(value: Any) -> datetime | None:
    """A time as vendors spell it: seconds or milliseconds since 1970, or ISO 8601; None for anything else."""
    try:
        if isinstance(value, str) and value.strip().replace(".", "", 1).isdigit():
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if value > MILLISECONDS else value, UTC)
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
    return read if read is None or read.tzinfo else read.replace(tzinfo=UTC)


def identifier(value: Any) -> str | None:
    """An id, or an address; None for anything that is none: some servers write an empty object for no file."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None


def next_page(body: Mapping[str, Any], items: list[Batch]) -> str | None:
    """Where a listing goes on, None at its end.

    :raises VendorUnavailable: for one that has more and does not say where: what it leaves out may be ours, and is no
        proof that there is nothing.
    """
    if not body.get("has_more"):
        return None
    # LiteLLM routes by ids it makes up, and pages by the vendor's own.
    last = identifier(body.get("last_id")) or (items[-1].id if items else None)
    if last is None:
        raise VendorUnavailable(
            "The vendor's listing of batches has a page without any, says that there are more (has_more), and not "
            "where they are (last_id). Whether a batch is among them cannot be told; nothing was sent again."
        )
    return last


def batch_id(raw: dict[str, Any]) -> str:
    """:raises VendorUnavailable: for a batch without an id."""
    found = identifier(raw.get("id"))
    if found is None:
        raise VendorUnavailable("The vendor told of a batch without an id.")
    return found


def errors_of(raw: Any) -> tuple[tuple[str, str], ...]:
    """Why a batch as a whole failed."""
    listed = (raw.get("data") or raw) if isinstance(raw, dict) else raw
    each = listed if isinstance(listed, list) else [listed]
    said = objects([{"message": one} if isinstance(one, str) else one for one in each])
    errors = [(word(one.get("code")) or "", text_of(one.get("message")) or "") for one in said]
    return tuple(error for error in errors if any(error))


def readable(listed: Any, parse: Callable[[dict[str, Any]], Batch]) -> list[Batch]:
    """The batches of a listing; one that cannot be read is nobody's that we look for."""
    found = []
    for raw in objects(listed):
        try:
            found.append(parse(raw))
        except Exception:  # noqa: S112  (somebody else's oddity must not hide ours)
            continue
    return found
