"""A vendor's batch objects, read field by field: listings hold other people's too, and any field may be anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.models import Batch
from airflow_llm_batch.providers.coerce import objects, text_of, word

if TYPE_CHECKING:
    from airflow_llm_batch.models import Page, Shard
    from airflow_llm_batch.providers.base import Flow, Provider

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


def search(
    provider: Provider,
    pages: Callable[[str | None], Flow[Page]],
    is_ours: Callable[[Batch], object],
    is_past: Callable[[Sequence[Batch]], bool] = lambda items: False,
) -> Flow[list[Batch]]:
    """Batches of a listing that may be a shard's, newest first.

    :param pages: the page after another.
    :param is_past: whether nothing behind the items of a page can be the shard's.
    :raises VendorUnavailable: for a listing that goes nowhere, and for one that goes on and on.
    """
    found: dict[str, Batch] = {}
    after: str | None = None
    shown: list[str] = []
    for _ in range(provider.find_pages):
        page = yield from pages(after)
        found |= {batch.id: batch for batch in page.items if is_ours(batch)}
        if page.after is None or is_past(page.items):
            return list(found.values())
        seen, shown = shown, [batch.id for batch in page.items]
        if page.after == after or (shown and shown == seen):
            return list(found.values()) or provider.goes_nowhere()
        after = page.after
    raise provider.too_many(provider.find_pages)


def older(earliest: datetime, ordered: bool = False) -> Callable[[Sequence[Batch]], bool]:
    """Whether a page goes back in time beyond a moment.

    :param ordered: a listing is documented to have its newest first: a page of one moment is no doubt about it.
    """

    def is_past(items: Sequence[Batch]) -> bool:
        times = [batch.created_at for batch in items if batch.created_at is not None]
        falling = times == sorted(times, reverse=True)
        return falling and bool(times) and times[-1] < earliest and (ordered or times[0] > times[-1])

    return is_past


def by_time_and_size(provider: Provider, shard: Shard, since: datetime) -> Flow[list[Batch]]:
    """Batches since a moment that have as many requests as a shard, where nothing marks one; newest first."""
    earliest = since - timedelta(minutes=5)

    def is_early(batch: Batch) -> bool:
        return batch.created_at is not None and batch.created_at < earliest

    def is_ours(batch: Batch) -> bool:
        return batch.total == shard.rows and not is_early(batch)

    return (yield from search(provider, provider.list, is_ours, lambda items: any(map(is_early, items))))


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
