"""Rows to a plan: the shard files, what they will cost at most, and ``job.json`` last."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import BudgetExceeded, ConfigurationError
from airflow_llm_batch.jobs.directory.store import ONLINE, JobStore
from airflow_llm_batch.jobs.money.pricing import PICO, Prices
from airflow_llm_batch.jobs.planning.shards import Rows, fingerprint_of, remove_files, write_shards
from airflow_llm_batch.jobs.submission.doubt import Doubt
from airflow_llm_batch.models import Estimate, Job, Result, usd
from airflow_llm_batch.step_log import StepLog

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook

log = logging.getLogger(__name__)


def plan(
    store: JobStore,
    hook: LLMBatchHook,
    spec: Rows,
    metadata: Mapping[str, str],
    origin: dict[str, Any],
    on_change: str = "restart",
) -> tuple[JobStore, Job]:
    """Write the shards and the plan, or take up the plan that lies in the directory.

    A directory whose job was made from other input is left as it is, what still runs of it is cancelled, and the
    changed input gets a directory of its own beside it.

    :param metadata: kept by the vendor with each batch.
    :param origin: further fields of the job: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` of the task instance,
        and ``max_enqueued_tokens``, above which no single shard is cut, and ``max_running_shards``.
    :param on_change: ``fail`` refuses changed input instead.
    :return: the job's directory, and the job.
    """
    provider = hook.provider
    provider.check_metadata(metadata)
    spec.check(provider)
    prices = Prices.of(hook)
    while store.next_generation().load_job() is not None:
        store = store.next_generation()
    if job := store.load_job():
        if job.provider != provider.name or job.fingerprint != fingerprint_of(spec, provider, job.id):
            store = make_way(store, hook, on_change)
        elif is_cut_too_large(store, job, origin.get("max_enqueued_tokens")):
            log.info("Job %s was cut too large for the vendor's queue, and nothing of it ran: cutting it anew.", job.id)
            store.remove()
        else:
            log.info("Job %s is planned already (%d rows, %d shards); taking it up.", job.id, job.rows, len(job.shards))
            return store, job
    progress = StepLog(log, "rows encoded")
    limits = provider.limits.model_copy(update={"tokens": origin.get("max_enqueued_tokens")})
    shards, fingerprint, use, kinds, several = write_shards(spec, provider, store, metadata, limits, progress.add)
    job = Job(
        id=store.job_id,
        fingerprint=fingerprint,
        provider=provider.name,
        conn_id=hook.conn_id,
        created_at=datetime.now(UTC),
        console_url=provider.console_url if provider.console("") else "",
        rows=sum(shard.rows for shard in shards),
        shards=tuple(shards),
        estimate={model: priced(model, estimate, prices, provider.caches_by_itself) for model, estimate in use.items()},
        **{"several_vectors": several, **spec.facts(kinds)},
        **origin,
    )
    if not store.save_job(job):
        remove_files(store, shards)
        # Another attempt planned at the same time; what it published is what gets sent.
        return plan(store, hook, spec, metadata, origin, on_change)
    log.info("Job %s: %s rows in %d shard(s) at %s", job.id, f"{job.rows:,}", len(shards), store.uri)
    log.info("%s", describe(job))
    return store, job


def make_way(store: JobStore, hook: LLMBatchHook, on_change: str) -> JobStore:
    """Where changed input is planned, what still runs of the job before it cancelled.

    :raises ConfigurationError: where ``on_change`` says to fail.
    """
    if on_change == "fail":
        raise ConfigurationError(
            f"The job at {store.uri} was made from other input than this try's (rows, request, key, pass-through "
            "columns or provider changed), and on_change='fail'. Its batches are left as they are. Nothing was sent."
        )
    following = store.next_generation()
    log.warning("The input has changed since %s was planned; starting anew at %s.", store.uri, following.uri)
    for running, unwanted in store.rounds():
        cancel_running(running, hook, unwanted)
    return following


def is_cut_too_large(store: JobStore, job: Job, limit: int | None) -> bool:
    """Whether shards are larger than the queue is said to be now, and none of them was ever worked on."""
    if limit is None or all(shard.tokens <= limit or shard.rows == 1 for shard in job.shards):
        return False

    def is_unsent(index: int) -> bool:
        number = store.last_try(index)
        void = store.void(index, number) if number else None
        return not number or (void is not None and void.reason in ("no room", "rejected", "given up"))

    return all(is_unsent(shard.index) for shard in job.shards)


def cancel_running(store: JobStore, hook: LLMBatchHook, job: Job) -> None:
    """Ask for the cancellation of what still runs of a job that is not wanted any more, and is certainly ours."""
    if job.provider != hook.provider.name:
        log.warning("The unwanted job ran at %s; its batches are left as they are.", job.provider)
        return
    for shard in job.shards:
        created = store.created(shard.index)
        if store.ended(shard.index) is not None or (created and created.batch_id.startswith(ONLINE)):
            continue
        if not hook.provider.keeps_metadata and (created is None or created.provisional):
            if store.last_try(shard.index):
                log.warning(
                    "Shard %d of the unwanted job may run at the vendor as %s; it is not cancelled, for it may be "
                    "somebody else's.", shard.index, created.batch_id if created else "a batch we have no answer of",
                )  # fmt: skip
            continue
        # A create may be in doubt: a batch nobody knows of would go on being billed.
        batch = hook.get_batch(created.batch_id) if created else Doubt(store, hook, job, shard).look()
        if batch is not None and batch.outcome is None:
            hook.cancel_batch(batch.id)
            log.info("Cancellation of batch %s was asked for; finished rows stay billed.", batch.id)


def priced(model: str, estimate: Estimate, prices: Prices, caches_by_itself: bool) -> Estimate:
    """The estimate with its prices: what it may cost at most, every request at the rates of the largest one.

    :param caches_by_itself: the vendor may write any prompt to a cache, which some models bill higher.
    """
    if estimate.output_tokens is None or estimate.unknown:
        return estimate
    largest = max(estimate.largest, 1)
    answer = -(-estimate.output_tokens // max(estimate.requests, 1))
    written = largest if estimate.cache or caches_by_itself else 0
    hour = largest if estimate.cache == "1h" else 0
    costs: dict[str, float] = {}
    for name, called in (("cost_usd", False), ("sync_cost_usd", True)):

        def price(output: int, written: int, hour: int, called: bool = called) -> int | None:
            used = Result(input_tokens=largest, output_tokens=output)
            used.cache_write_tokens, used.cache_write_1h_tokens = written, hour
            cost = prices.cost(used, model, called)
            return cost.paid if cost else None

        known = [cost for cost in (price(0, 0, 0), price(0, written, hour)) if cost is not None]
        answered = price(answer, 0, 0)
        if len(known) == 2 and answered is not None:
            prompts = max(known) * estimate.input_tokens / largest
            costs[name] = (prompts + (answered - known[0]) * estimate.requests) / PICO
    return estimate.model_copy(update=costs)


def estimated_cost(job: Job, *, online: bool = False) -> float | None:
    """Dollars that a job may cost at most, None where that is not known.

    :param online: called row by row, and not in batches.
    """
    costs = [e.sync_cost_usd if online else e.cost_usd for e in job.estimate.values()]
    return None if None in costs else sum(filter(None, costs))


def check_budget(job: Job, max_cost: float, spent: float = 0.0, *, online: bool = False) -> None:
    """Refuse a job that may cost more than ``max_cost`` dollars.

    :param spent: dollars that earlier rounds have cost, or other models may.
    :param online: called row by row, and not in batches.
    :raises BudgetExceeded: with the estimate by model; also when it cannot be made.
    """
    unknown = [m for m, e in job.estimate.items() if (e.sync_cost_usd if online else e.cost_usd) is None]
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
            f"{remedy}. Nothing was sent. {describe(job)}"
        )
    total = spent + (estimated_cost(job, online=online) or 0)
    if total > max_cost:
        earlier = f" with the {usd(spent)} of earlier rounds and other models" if spent else ""
        raise BudgetExceeded(
            f"The job is estimated at {usd(total)}{earlier}, above max_cost={usd(max_cost)}. Raise max_cost, lower "
            f"max_tokens or send fewer rows. Nothing was sent. {describe(job)}"
        )


def describe(job: Job) -> str:
    """The estimate in words: ``gpt-5-mini: 1,200 requests, 31,668 tokens in, at most 240,000 out, $0.244000``."""
    told = []
    for model, e in job.estimate.items():
        out = "an unknown number" if e.output_tokens is None else f"at most {e.output_tokens:,}"
        cost = "cost unknown" if e.cost_usd is None else usd(e.cost_usd)
        beside = f" beside {e.unknown}" if e.unknown else ""
        told.append(f"{model}: {e.requests:,} requests, about {e.input_tokens:,} tokens in{beside}, {out} out, {cost}")
    return "Estimate by model: " + "; ".join(told) + "."
