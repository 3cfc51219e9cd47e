"""Rows to a plan: the shard files, what they will cost at most, and ``job.json`` last."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.index import announce
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money.budget import describe, estimated_cost, priced, together
from airflow_llm_batch.jobs.money.funds import release
from airflow_llm_batch.jobs.money.likely import likely
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.tokens import counter_of
from airflow_llm_batch.jobs.options import NO_REUSE, NOT_TRIED, First
from airflow_llm_batch.jobs.planning.caching import caching
from airflow_llm_batch.jobs.planning.cutter import remove_files
from airflow_llm_batch.jobs.planning.shards import Rows, Written, fingerprint_of, write_shards
from airflow_llm_batch.jobs.planning.sparing import COPY, KNOWN, NONE
from airflow_llm_batch.models import Job, Shard
from airflow_llm_batch.results import usd
from airflow_llm_batch.step_log import StepLog

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.options import Reuse, Waves
    from airflow_llm_batch.providers.base import Provider

log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """What lies where a job is to be planned.

    :param store: where its plan goes, or lies.
    :param job: the plan that is there already.
    :param replaced: rounds of a job of other input, whose place it takes: what still runs of them is not wanted.
    """

    store: JobStore
    job: Job | None
    replaced: list[tuple[JobStore, Job]]


def take_up(store: JobStore, hook: LLMBatchHook, rows: Rows, waves: Waves, on_change: str = "restart") -> Taken:
    """Look for a plan of the same rows. One of other rows is left as it is, and the rows get a directory beside it.

    :param on_change: ``fail`` refuses changed rows instead.
    :raises ConfigurationError: see ``on_change``.
    """
    provider = hook.provider
    store = history.newest(store)
    job = store.load_job()
    if job is None:
        return Taken(store, None, [])
    if job.provider != provider.name or job.fingerprint != fingerprint_of(rows, provider, job.id):
        if on_change == "fail":
            raise ConfigurationError(
                f"The job at {store.uri} was made from other input than this try's (rows, request, key, pass-through "
                "columns or provider changed), and on_change='fail'. Its batches are left as they are. Nothing was "
                "sent."
            )
        following = JobStore(store.address.next_generation.uri)
        log.warning("The input has changed since %s was planned; starting anew at %s.", store.uri, following.uri)
        return Taken(following, None, history.rounds(store))
    if is_cut_too_large(store, job, waves.max_enqueued_tokens):
        if store.manifest() is not None:
            # Rows that were landed as never sent: a job beside it takes their place.
            return Taken(JobStore(store.address.next_generation.uri), None, history.rounds(store))
        log.info("Job %s was cut too large for the vendor's queue, and nothing of it ran: cutting it anew.", job.id)
        if job.budgeted:
            release(store, sent=False)
        store.remove()
        return Taken(store, None, [])
    log.info("Job %s is planned already (%d rows, %d shards); taking it up.", job.id, job.rows, len(job.shards))
    return Taken(store, job, [])


def write_plan(
    store: JobStore,
    hook: LLMBatchHook,
    rows: Rows,
    waves: Waves,
    *,
    metadata: Mapping[str, str],
    facts: Mapping[str, Any],
    first: First = NOT_TRIED,
    reuse: Reuse = NO_REUSE,
) -> Job | None:
    """Write the shards, and then the plan.

    :param metadata: kept by the vendor with each batch.
    :param facts: further fields of the job: of its task instance, and ``max_cost``.
    :param first: the rows that are to be tried before the others are sent.
    :param reuse: whether some need not be asked.
    :return: None when another attempt has published its plan first; that one is what gets sent.
    """
    provider = hook.provider
    progress = StepLog(log, "rows encoded")
    limits = provider.limits.model_copy(update={"tokens": waves.max_enqueued_tokens})
    written = write_shards(rows, provider, store, metadata, limits, progress.add, first, reuse)
    shards, spared = written.shards, written.spared
    job = Job(
        id=store.job_id,
        fingerprint=written.fingerprint,
        provider=provider.name,
        conn_id=hook.conn_id,
        created_at=datetime.now(UTC),
        console_url=provider.console_url if provider.console("") else "",
        rows=sum(shard.rows for shard in (*shards, *spared)),
        shards=tuple(shards),
        spared=tuple(spared),
        cache=reuse.cache.uri if reuse.cache is not None else None,
        cache_bytes=reuse.cache.max_bytes if reuse.cache is not None else None,
        estimate=estimate_of(written, rows, Prices.of(hook), provider),
        **{"several_vectors": written.several_vectors, **rows.facts(written.kinds)},
        **asdict(waves),
        **facts,
    )
    if job.dag_id is not None:
        # Before the plan: killed in between, it names a job that is not there yet, and none is there unnamed.
        announce(store.address)
    if not store.save_job(job):
        remove_files(store, [*shards, *spared])
        return None
    tell_of(store, job, written.alike)
    return job


def tell_of(store: JobStore, job: Job, alike: int) -> None:
    """The plan, in the task's log.

    :param alike: rows that ask the same as another one, though each is asked.
    """
    log.info("Job %s: %s rows in %d shard(s) at %s", job.id, f"{job.rows:,}", len(job.shards), store.uri)
    if job.spared:
        log.info("%s of them are asked; %s.", f"{job.rows_asked:,}", ", ".join(why_not_asked(job.spared)))
    if alike:
        worth = (estimated_cost(job) or 0.0) * alike / job.rows
        log.info(
            "%s rows ask exactly what another row asks: ask_once=True would ask each question once%s.",
            f"{alike:,}", f" and save about {usd(worth)}" if worth else "",
        )  # fmt: skip
    too_long = any(use.is_too_long for use in job.estimate.values())
    log.log(logging.WARNING if too_long else logging.INFO, "%s", describe(job))


def why_not_asked(spared: Sequence[Shard]) -> list[str]:
    """How many rows nobody is asked, by why."""
    rows: Counter[str] = Counter()
    for shard in spared:
        rows[shard.lane] += shard.rows
    words = {COPY: "ask what another row asks", KNOWN: "were answered to earlier jobs", NONE: "are in no cache"}
    return [f"{rows[lane]:,} {why}" for lane, why in words.items() if rows[lane]]


def estimate_of(written: Written, rows: Rows, prices: Prices, provider: Provider) -> dict[str, Estimate]:
    """What the rows use by model, with its prices; those that are tried first cost what calls cost."""
    looked = caching(rows.request, provider, together(written.use, written.tried))

    def with_prices(use: dict[str, Estimate]) -> dict[str, Estimate]:
        found = {}
        for model, estimate in use.items():
            # Texts that one request has embedded are held to the window one by one.
            window = 0 if written.several_vectors else prices.window(model)
            kept = estimate.model_copy(update={"static": looked[model].static, "window": window})
            found[model] = estimated(model, kept, written.shards, prices, provider)
        return found

    return together(with_prices(written.use), with_prices(written.tried))


def estimated(model: str, use: Estimate, shards: Sequence[Shard], prices: Prices, provider: Provider) -> Estimate:
    """What a model's requests use, with its prices."""
    kept = min(use.static, use.input_tokens // max(use.requests, 1))
    facts = {
        "basis": counter_of(provider, model).basis,
        "static": kept,
        "shards": sum(shard.model in ("", model) for shard in shards),
    }
    found = use.model_copy(update=facts)
    return likely(model, priced(model, found, prices, provider.caches_by_itself), prices)


def is_cut_too_large(store: JobStore, job: Job, limit: int | None) -> bool:
    """Whether shards are larger than the queue is said to be now, and none of them was ever worked on."""
    if limit is None or all(shard.tokens <= limit or shard.rows == 1 for shard in job.shards):
        return False

    listing = store.listing()

    def is_unsent(index: int) -> bool:
        attempts = listing.attempts(index)
        number = attempts.last()
        void = attempts.void(number) if number else None
        return not number or (void is not None and void.reason in ("no room", "rejected", "given up"))

    return all(is_unsent(shard.index) for shard in job.shards)
