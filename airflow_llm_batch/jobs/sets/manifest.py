"""What all partitions of a task have landed together: a manifest of their manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from airflow_llm_batch.models import Fact

if TYPE_CHECKING:
    from airflow_llm_batch.results import Manifest


class LandedPart(Fact):
    """What one partition has landed.

    :param partition: ``3/64``.
    :param manifests: URIs of the manifests, one for each model; none where it has no rows.
    :param destinations: where ``files`` lie.
    :param counts: rows per status.
    :param cost_usd: None where it is not known; likewise ``sync_cost_usd`` outside of batches, and ``saving_usd``.
    :param landed_at: None where it has no rows.
    """

    partition: str
    manifests: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    rows: int = 0
    counts: dict[str, int] = Field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    sync_cost_usd: float | None = 0.0
    saving_usd: float | None = 0.0
    batches: int = 0
    models: tuple[str, ...] = ()
    landed_at: datetime | None = None

    @classmethod
    def of(cls, partition: str, manifests: Mapping[str, Manifest]) -> LandedPart:
        """:param manifests: by URI."""
        landed = list(manifests.values())
        return cls(
            partition=partition,
            manifests=tuple(manifests),
            destinations=tuple(dict.fromkeys(one.destination for one in landed)),
            files=tuple(file for one in landed for file in one.files),
            batches=sum(len(one.batches) for one in landed),
            models=tuple(sorted({model for one in landed for model in one.models})),
            landed_at=max((one.landed_at for one in landed), default=None),
            **sums(landed),
        )


class SetManifest(Fact):
    """What all partitions of a task have landed: ``manifest.json`` at the set's level, and beside the results.

    :param partitions: how many there are.
    :param parts: a line for each, in their order.
    :param landed_at: when the last of them was.

    The other fields are those of ``LandedPart``, all partitions together.
    """

    partitions: int
    rows: int
    counts: dict[str, int]
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    sync_cost_usd: float | None
    saving_usd: float | None
    batches: int
    models: tuple[str, ...]
    destinations: tuple[str, ...]
    files: tuple[str, ...]
    landed_at: datetime | None
    parts: tuple[LandedPart, ...]

    @classmethod
    def of(cls, parts: Sequence[LandedPart]) -> SetManifest:
        """:param parts: of all partitions, in their order."""
        return cls(
            partitions=len(parts),
            batches=sum(part.batches for part in parts),
            models=tuple(sorted({model for part in parts for model in part.models})),
            destinations=tuple(dict.fromkeys(place for part in parts for place in part.destinations)),
            files=tuple(file for part in parts for file in part.files),
            landed_at=max((part.landed_at for part in parts if part.landed_at), default=None),
            parts=tuple(parts),
            **sums(parts),
        )


def sums(landed: Sequence[Any]) -> dict[str, Any]:
    """Rows, statuses, tokens and dollars of several manifests or partitions together."""
    counts: Counter[str] = Counter()
    for one in landed:
        counts.update(one.counts)
    dollars = ("cost_usd", "sync_cost_usd", "saving_usd")
    return {
        "rows": sum(one.rows for one in landed),
        "counts": dict(counts),
        "input_tokens": sum(one.input_tokens for one in landed),
        "output_tokens": sum(one.output_tokens for one in landed),
        **{name: known_sum(getattr(one, name) for one in landed) for name in dollars},
    }


def known_sum(amounts: Iterable[float | None]) -> float | None:
    """The sum, None where one of them is not known."""
    listed = list(amounts)
    return None if None in listed else sum(filter(None, listed))
