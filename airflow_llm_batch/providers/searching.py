"""A create in doubt is looked for in a vendor's listing, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.models import Batch

if TYPE_CHECKING:
    from airflow_llm_batch.models import Page, Shard
    from airflow_llm_batch.providers.base import Flow, Provider


def search(
    provider: Provider,
    pages: Callable[[str | None], Flow[Page]],
    is_ours: Callable[[Batch], object],
    is_past: Callable[[Sequence[Batch]], bool] = lambda items: False,
) -> Flow[list[Batch]]:
    """Batches of a listing that may be a shard's, newest first.

    :param pages: the page after another.
    :param is_past: whether nothing behind the items of a page can be the shard's.
    :raises VendorUnavailable: for a listing that goes on and on, and for one that answers one page for ever, as those
        of gateways do that do not hand on where to go on, and has none of ours in it.
    """
    found: dict[str, Batch] = {}
    after: str | None = None
    shown: list[str] = []
    for _ in range(provider.find_pages):
        page = yield from pages(after)
        found |= {batch.id: batch for batch in page.items if is_ours(batch)}
        seen, shown = shown, [batch.id for batch in page.items]
        repeats = page.after == after or bool(shown and shown == seen)
        if page.after is None or is_past(page.items) or (repeats and found):
            return list(found.values())
        if repeats:
            raise VendorUnavailable(
                f"{provider.name} at {provider.base_url} lists more batches, and answers the same page again when it "
                "is asked for them; whether the create in doubt made one cannot be told. Nothing was sent again. Look "
                "at the proxy or gateway before it, or name the batch with recovery=Recovery(batch_ids=...)."
            )
        after = page.after
    raise VendorUnavailable(
        f"{provider.name} lists more than {provider.find_pages:,} pages of batches that are newer than the create in "
        "doubt; whether it made one cannot be told. Nothing was sent again; retry when fewer are created."
    )


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
