"""What a landing tells of a round, of caches, and of the estimate: what they were worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.results import LandedRound, Manifest, Result, usd

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.jobs.landing.answers import Price
    from airflow_llm_batch.jobs.money.pricing import Cost
    from airflow_llm_batch.jobs.money.tally import Sums, Tally
    from airflow_llm_batch.models import Job

#: tokens written to caches that are worth a warning when nobody has read them
MUCH = 10_000


def costs(result: Result, model: str, price: Price | None) -> tuple[Cost | None, Cost | None]:
    """What a row cost, and what the same tokens cost where nothing is cached.

    :param price: None where nobody was asked.
    """
    cost = None if price is None else price(result, model)
    if price is None or cost is None or cost.sync is None or not (result.cached_tokens or result.cache_write_tokens):
        return cost, cost
    listed = msgspec.structs.replace(result, cost_usd=None)
    bare = msgspec.structs.replace(listed, cached_tokens=0, cache_write_tokens=0, cache_write_1h_tokens=None)
    if result.cost_usd is None:
        return cost, price(bare, model)
    # By the list, whatever was charged: what the vendor would have charged without its cache nobody has seen.
    known, uncached = price(listed, model), price(bare, model)
    return cost, uncached and known and cost._replace(paid=cost.paid + uncached.paid - known.paid)


def without_cost(result: Result) -> None:
    """An answer that was paid for elsewhere."""
    result.cost_usd = 0.0
    result.input_tokens = result.cached_tokens = result.cache_write_tokens = result.cache_write_1h_tokens = None
    result.output_tokens = result.reasoning_tokens = None
    if result.answered_by is not None:
        result.input_tokens = result.output_tokens = 0


def cache_figures(sums: Sums) -> dict[str, Any]:
    return {"cache_write_tokens": sums.cache_write_tokens, "cache_saving_usd": sums.cache_saving_usd}


def landed_round(number: int, uri: str, own: Tally, estimated: float | None) -> LandedRound:
    """One round.

    :param estimated: dollars, at most.
    """
    total = own.total
    return LandedRound(
        round=number,
        job=uri,
        rows=own.requests,
        succeeded=own.answered()["succeeded"],
        input_tokens=total.input_tokens,
        output_tokens=total.output_tokens,
        cost_usd=total.cost_usd,
        sync_cost_usd=total.sync_cost_usd,
        saving_usd=total.saving_usd,
        estimated_cost_usd=estimated,
        usage=own.usage(),
        cached_tokens=total.cached_tokens,
        **cache_figures(total),
        **own.spared_figures(),
    )


def spared_figures(rounds: Sequence[LandedRound]) -> dict[str, Any]:
    """What nobody was asked, of all rounds."""
    spared: Counter[str] = Counter()
    for done in rounds:
        spared.update(done.spared)
    worth = [done.spared_usd for done in rounds]
    return {"spared": dict(spared), "spared_usd": None if None in worth else sum(filter(None, worth))}


def input_figures(job: Job, own: Tally) -> dict[str, Any]:
    """The estimate of the prompts beside what was billed, of rows whose usage was told; nothing where either lacks."""
    used, estimates = own.total, job.estimate.values()
    if not (used.counted and job.rows_asked and used.input_tokens and estimates) or any(e.unknown for e in estimates):
        return {}
    expected = sum(e.input_tokens for e in estimates) * used.counted / job.rows_asked
    return {
        "estimated_input_tokens": round(expected),
        "input_error_percent": round((expected / used.input_tokens - 1) * 100, 2),
        "estimate_basis": ", ".join(sorted({e.basis for e in estimates if e.basis})),
    }


def report_figures(manifest: Manifest, log: Logger) -> None:
    """Both, in the task's log."""
    if manifest.input_error_percent is not None and manifest.estimated_input_tokens is not None:
        log.info(
            "Input: %s tokens were estimated (%s), %+.1f %% of what was billed.",
            f"{manifest.estimated_input_tokens:,}",
            manifest.estimate_basis or "basis unknown",
            manifest.input_error_percent,
        )
    read, wrote, saved = manifest.cached_tokens, manifest.cache_write_tokens, manifest.cache_saving_usd
    if read or wrote:
        log.info("Caches: %s tokens read, %s written; %s saved.", f"{read:,}", f"{wrote:,}", usd(saved))
    lost = saved is not None and saved < 0
    if wrote >= MUCH and (not read or lost):
        log.warning(
            "%s tokens were written to the vendor's cache and %s read: writing is billed higher than plain input%s. "
            "Look whether all rows begin with the same text, whether it is long enough, and whether rows come before "
            "it is gone (cache='1h'); or leave cache out.",
            f"{wrote:,}", f"{read:,}" if read else "none", f", {usd(-saved)} for nothing" if lost and saved else "",
        )  # fmt: skip
