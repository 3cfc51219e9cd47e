"""Where answers come from: landing knows no difference but what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.money.pricing import Cost
    from airflow_llm_batch.results import Result

#: what an answer of a model costs, None where that is not known
Price = Callable[["Result", str], "Cost | None"]


class AnswerSource(NamedTuple):
    """One source of a shard's answers.

    :param name: ``batch`` or ``calls``; tells a source's own duplicates from another source's answers to the same row.
    :param lines: as a batch would have answered.
    :param rates: as ``Batch`` has them.
    """

    name: str
    lines: Iterator[bytes]
    price: Price
    rates: tuple[float, float] | None = None


def charge(result: Result, rates: tuple[float, float]) -> None:
    """An answer that does not tell what it has cost gets its part of what all of its batch have."""
    if result.cost_usd is None and result.input_tokens is not None:
        result.cost_usd = result.input_tokens * rates[0] + (result.output_tokens or 0) * rates[1]
