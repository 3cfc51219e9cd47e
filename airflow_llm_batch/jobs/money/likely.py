"""What a job is likely to cost, beside what it may at most: corrected by rows of it that were answered already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.jobs.money.budget import priced
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import PICO
from airflow_llm_batch.models import Job
from airflow_llm_batch.results import Result


class Seen(NamedTuple):
    """A row that was answered.

    :param tokens: of its prompt, as they were estimated before (``tokens.sent_tokens`` of its line).
    """

    result: Result
    tokens: int


def corrected(
    model: str, estimate: Estimate, seen: Sequence[Seen], prices: Prices, caches_by_itself: bool = False
) -> Estimate:
    """The estimate as it looks once some rows were answered: prompts as long as theirs were, beside what was expected,
    and answers as long as theirs on average.

    ``output_tokens`` stays the sum of the caps, and ``cost_usd`` the most it may cost, of prompts as they were found to
    be where they are longer than was expected. ``likely_usd`` is what it costs if all rows are as those that were seen.

    :param estimate: of the whole job, as planned.
    :param seen: rows whose usage nobody has told are passed over; the estimate is returned as it is for none.
    :param caches_by_itself: as ``budget.priced``.
    """
    usages = [
        (result.input_tokens, max(tokens, 1), result.output_tokens or 0)
        for result, tokens in seen
        if result.input_tokens
    ]
    if not usages:
        return estimate
    ratio = sum(read for read, _, _ in usages) / sum(expected for _, expected, _ in usages)
    answer = sum(wrote for _, _, wrote in usages) / len(usages)
    found = estimate.model_copy(
        update={
            "input_tokens": round(estimate.input_tokens * ratio),
            "largest": max(round(estimate.largest * ratio), max(read for read, _, _ in usages)),
            "likely_output_tokens": round(answer * estimate.requests),
            "tried": len(usages),
            "ratio": ratio,
            "static": round(estimate.static * ratio),
        }
    )
    most = priced(model, found, prices, caches_by_itself)
    kept = {name: larger(getattr(estimate, name), getattr(most, name)) for name in ("cost_usd", "sync_cost_usd")}
    return likely(model, found.model_copy(update=kept), prices)


def larger(one: float | None, other: float | None) -> float | None:
    """The larger of two amounts, None where either is not known."""
    return None if one is None or other is None else max(one, other)


def likely(model: str, estimate: Estimate, prices: Prices) -> Estimate:
    """The estimate with what it is likely to cost: answers as long as those that were seen, else as their caps."""
    output = estimate.output_tokens if estimate.likely_output_tokens is None else estimate.likely_output_tokens
    # What nobody can count before it is counted once some rows were read.
    if output is None or not estimate.requests or (estimate.unknown and not estimate.tried):
        return estimate
    read = max(-(-estimate.input_tokens // estimate.requests), 1)
    written = max(-(-output // estimate.requests), 1)
    # A request at a time: its length decides on the rate where long prompts have another.
    bare, whole = Result(input_tokens=read, output_tokens=0), Result(input_tokens=read, output_tokens=written)
    first, after = cached(estimate, read)
    begun = min(max(estimate.shards, 1), estimate.requests)
    costs: dict[str, float] = {}
    for name, called in (("likely_usd", False), ("sync_likely_usd", True)):
        found = [prices.expected(used, model, called) for used in (bare, whole, first, after)]
        known = [cost.paid for cost in found if cost is not None]
        if len(known) == len(found):
            asked = (begun * known[2] + (estimate.requests - begun) * known[3]) / estimate.requests
            answers = (known[1] - known[0]) * output / written
            costs[name] = (asked * estimate.input_tokens / read + answers) / PICO
    return estimate.model_copy(update=costs)


def cached(estimate: Estimate, read: int) -> tuple[Result, Result]:
    """The prompt of the first request with a static part, which writes it, and of all others, which read it.

    :param read: tokens of a prompt.
    """
    kept = min(estimate.static, read)
    first, after = Result(input_tokens=read, output_tokens=0), Result(input_tokens=read, output_tokens=0)
    first.cache_write_tokens, after.cached_tokens = kept, kept
    first.cache_write_1h_tokens = kept if estimate.cache == "1h" else 0
    return first, after


def likely_cost(job: Job, *, online: bool = False) -> float | None:
    """Dollars that a job is likely to cost, None where that is not known.

    :param online: called row by row, and not in batches.
    """
    costs = [e.sync_likely_usd if online else e.likely_usd for e in job.estimate.values()]
    return None if None in costs else sum(filter(None, costs))
