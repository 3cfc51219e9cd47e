"""What a landing has landed, all rounds together."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.landing.figures import cache_figures, input_figures, landed_round, spared_figures
from airflow_llm_batch.jobs.money.budget import estimated_cost
from airflow_llm_batch.jobs.money.whole import whole_of
from airflow_llm_batch.results import ROW_STATUSES, Manifest

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.landing.records import Landing


def manifest_of(
    landing: Landing, counts: Counter[str], carried: list[str], aside: str | None, ids: list[str]
) -> Manifest:
    """:param counts: rows by status.
    :param carried: files with rows of earlier rounds.
    :param aside: the file of garbage lines, None where there were none.
    :param ids: the batches of this round.
    """
    job, own, tally = landing.job, landing.own, landing.tally
    earlier = landing.earlier.manifest if landing.earlier is not None else None
    total = tally.total
    this = landed_round(job.round, landing.store.uri, own, estimated_cost(job, landing.lane))
    rounds = [*(earlier.rounds if earlier else ()), this]
    estimates = [done.estimated_cost_usd for done in rounds]
    rows, limits = counts.total(), landing.hook.provider.limits
    return Manifest(
        job=landing.store.uri,
        destination=landing.destination.uri,
        files=[*carried, *landing.files],
        carried=carried,
        rows=rows,
        counts={status: counts[status] for status in ROW_STATUSES},
        dropped=dict(landing.dropped),
        aside=aside,
        reasons=tally.top_reasons(),
        input_tokens=total.input_tokens,
        cached_tokens=total.cached_tokens,
        output_tokens=total.output_tokens,
        cost_usd=total.cost_usd,
        sync_cost_usd=total.sync_cost_usd,
        saving_usd=total.saving_usd,
        batch_cost_usd=total.batch_cost_usd,
        estimated_cost_usd=None if None in estimates else sum(filter(None, estimates)),
        usage=tally.usage(),
        rounds=rounds,
        batches=[*(earlier.batches if earlier else ()), *ids],
        provider=job.provider,
        models=tally.models,
        landed_at=datetime.now(UTC),
        cached_share=total.cached_tokens / total.input_tokens if total.input_tokens else None,
        **cache_figures(total),
        **input_figures(job, own),
        lane=landing.lane,
        whole=whole_of(job, limits, rows, total.cost_usd, landing.seconds_at_vendor),
        **spared_figures(rounds),
        rules=landing.rules,
        schema_alone=getattr(landing.check, "is_short", False),
    )
