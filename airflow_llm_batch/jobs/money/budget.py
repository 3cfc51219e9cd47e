"""What a job may cost, beside what it is estimated to cost at most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import BudgetExceeded
from airflow_llm_batch.jobs.directory.tried import Tried
from airflow_llm_batch.jobs.money.pricing import FLEX, Prices
from airflow_llm_batch.jobs.money.rates import PICO
from airflow_llm_batch.models import Job
from airflow_llm_batch.results import Result, usd


def priced(model: str, estimate: Estimate, prices: Prices, caches_by_itself: bool) -> Estimate:
    """The estimate with its prices: what it may cost at most, every request at the rates of the largest one.

    :param caches_by_itself: the vendor may write any prompt to a cache, which some models bill higher.
    """
    if estimate.output_tokens is None or estimate.unknown:
        return estimate
    largest = max(estimate.largest, 1)
    answer = -(-estimate.output_tokens // max(estimate.requests, 1))
    # Nothing but the static part is marked, where that is known.
    kept = min(estimate.static, largest) or largest
    written = kept if estimate.cache or caches_by_itself else 0
    hour = kept if estimate.cache == "1h" else 0
    costs: dict[str, float] = {}
    lanes = [("cost_usd", False, ""), ("sync_cost_usd", True, "")]
    if prices.flex is not None:
        lanes.append(("flex_cost_usd", True, FLEX))
    for name, called, tier in lanes:

        def price(output: int, written: int, hour: int, called: bool = called, tier: str = tier) -> int | None:
            used = Result(input_tokens=largest, output_tokens=output, service_tier=tier or None)
            used.cache_write_tokens, used.cache_write_1h_tokens = written, hour
            cost = prices.expected(used, model, called)
            return cost.paid if cost else None

        known = [cost for cost in (price(0, 0, 0), price(0, written, hour)) if cost is not None]
        answered = price(answer, 0, 0)
        if len(known) == 2 and answered is not None:
            prompts = max(known) * estimate.input_tokens / largest
            costs[name] = (prompts + (answered - known[0]) * estimate.requests) / PICO
    return estimate.model_copy(update=costs)


def together(batched: Mapping[str, Estimate], called: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """A job's estimate by model, of rows that are sent in batches and of those that are called first: these cost what
    a call costs."""
    found = dict(batched)
    for model, more in called.items():
        use = found.get(model)
        if use is None:
            found[model] = more.model_copy(update={"cost_usd": more.sync_cost_usd, "likely_usd": more.sync_likely_usd})
            continue
        found[model] = use.model_copy(
            update={
                "requests": use.requests + more.requests,
                "input_tokens": use.input_tokens + more.input_tokens,
                "output_tokens": added(use.output_tokens, more.output_tokens),
                "largest": max(use.largest, more.largest),
                "cache": use.cache or more.cache,
                "unknown": use.unknown or more.unknown,
                "cost_usd": added(use.cost_usd, more.sync_cost_usd),
                "flex_cost_usd": added(use.flex_cost_usd, more.flex_cost_usd),
                "sync_cost_usd": added(use.sync_cost_usd, more.sync_cost_usd),
                "likely_usd": added(use.likely_usd, more.sync_likely_usd),
                "sync_likely_usd": added(use.sync_likely_usd, more.sync_likely_usd),
            }
        )
    return found


def added(one: Any, other: Any) -> Any:
    """A sum, None where either is not known."""
    return None if one is None or other is None else one + other


def estimated_cost(job: Job, lane: str = "batch") -> float | None:
    """Dollars that a job may cost at most in a lane, None where that is not known."""
    return total(job.estimate, lane)


def total(estimates: Mapping[str, Estimate], lane: str = "batch") -> float | None:
    """Dollars of several models' requests, None where one's are not known."""
    costs = [estimate.cost(lane) for estimate in estimates.values()]
    return None if None in costs else sum(filter(None, costs))


def check_budget(job: Job, max_cost: float, spent: float = 0.0, lane: str = "batch") -> None:
    """Refuse a job that may cost more than ``max_cost`` dollars.

    :param spent: dollars that earlier rounds have cost, or other models may.
    :param lane: how its rows are to travel.
    :raises BudgetExceeded: with the estimate by model; also when it cannot be made.
    """
    unknown = [m for m, e in job.estimate.items() if e.cost(lane) is None]
    if unknown:
        uncapped = [model for model in unknown if job.estimate[model].output_tokens is None]
        uncounted = [model for model in unknown if job.estimate[model].unknown]
        why, remedy = (
            "the price is not known",
            "Declare it (the connection's 'prices', 'batch_factor') or remove max_cost",
        )
        if uncapped:
            why, remedy = "requests without max_tokens have no upper bound", "Set max_tokens"
        elif uncounted:
            why = f"what it reads cannot be estimated ({job.estimate[uncounted[0]].unknown})"
            remedy = "Remove max_cost, or leave that out"
        raise BudgetExceeded(
            f"max_cost={usd(max_cost)} cannot be held for {', '.join(uncapped or uncounted or unknown)}: {why}. "
            f"{remedy}. Nothing was sent. {describe(job, lane)}"
        )
    total = spent + (estimated_cost(job, lane) or 0)
    if total > max_cost:
        earlier = f" with the {usd(spent)} of earlier rounds and other models" if spent else ""
        raise BudgetExceeded(
            f"The job is estimated at {usd(total)}{earlier}, above max_cost={usd(max_cost)}. Raise max_cost, lower "
            f"max_tokens or send fewer rows. Nothing was sent. {describe(job, lane)}"
        )


def check_again(tried: Tried, max_cost: float, spent: float) -> None:
    """Refuse a job that may cost more than ``max_cost`` dollars, now that some of its rows were tried.

    :param spent: dollars that earlier rounds have cost, or other models may.
    :raises BudgetExceeded: nothing but these rows was sent.
    """
    cost = total(tried.estimate)
    if cost is not None and spent + cost > max_cost:
        ratio = max(estimate.ratio for estimate in tried.estimate.values())
        raise BudgetExceeded(
            f"The first {len(tried.rows)} rows had {ratio:.2f} times the prompt tokens that were estimated: the job "
            f"may cost {usd(spent + cost)}, above max_cost={usd(max_cost)}. Raise max_cost, lower max_tokens or send "
            "fewer rows. Nothing but these rows was sent; their answers are kept."
        )


def describe(job: Job, lane: str = "batch") -> str:
    """The estimate in words, at a lane's price: ``gpt-5-mini: 1,200 requests, 31,668 tokens in, at most 240,000 out,
    $0.244000``."""
    estimates = []
    for model, e in job.estimate.items():
        out = "an unknown number" if e.output_tokens is None else f"at most {e.output_tokens:,}"
        known = e.cost(lane)
        cost = "cost unknown" if known is None else usd(known)
        beside = f" beside {e.unknown}" if e.unknown else ""
        found = f" ({e.basis})" if e.basis else ""
        tokens = f"about {e.input_tokens:,} tokens in{beside}{found}, {out} out"
        if e.static and e.likely_usd is not None:
            cost += f", or {usd(e.likely_usd)} if the {e.static:,} tokens that all share are read from the cache"
        long = ""
        if e.is_too_long:
            long = f"; the largest prompt has about {e.largest:,}, above the model's {e.window:,}, and is refused"
        estimates.append(f"{model}: {e.requests:,} requests, {tokens}, {cost}{long}")
    return "Estimate by model: " + "; ".join(estimates) + "."


def hold_to_budget(job: Job, rows: int) -> float:
    """Refuse to call so many rows of a batched job when that may cost more than the job may.

    :return: dollars above what it was estimated at.
    """
    batched, called = estimated_cost(job), estimated_cost(job, "online")
    if batched is None or called is None:
        return 0.0
    share = rows / job.rows_asked
    cost = (1 - share) * batched + share * called
    if job.max_cost is not None and cost > job.max_cost:
        raise BudgetExceeded(
            f"Calling {rows:,} of {job.rows_asked:,} rows online may take the job to {usd(cost)}, above max_cost="
            f"{usd(job.max_cost)}. They were not called, and nothing was billed for them."
        )
    return max(cost - batched, 0.0)
