"""What all rows would cost, and how long they may take, by a landed sample of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_llm_batch.results import Whole

if TYPE_CHECKING:
    from airflow_llm_batch.models import Job, Limits


def whole_of(job: Job, limits: Limits, rows: int, cost: float | None, seconds: float | None) -> Whole | None:
    """All rows, by the sample that was landed; None for a job that is no sample.

    :param limits: of one batch.
    :param rows: of the sample.
    :param cost: of the sample in dollars, all of its rounds together.
    :param seconds: from the sample's planning until its last batch had ended.
    """
    if job.sampled_from is None or not rows:
        return None
    # A further round asks fewer rows than the sample has.
    scale = job.sampled_from / job.rows
    size = sum(shard.bytes for shard in job.shards) * scale
    tokens = sum(shard.tokens for shard in job.shards) * scale
    counts = [job.sampled_from / limits.requests, size / limits.bytes]
    most = job.max_enqueued_tokens or limits.tokens
    if most:
        counts.append(tokens / most)
    batches = max(1, *(int(-(-count // 1)) for count in counts))
    waves = 1
    if job.max_running_shards:
        waves = -(-batches // job.max_running_shards)
    if job.max_enqueued_tokens:
        waves = max(waves, int(-(-tokens // job.max_enqueued_tokens)))
    return Whole(
        rows=job.sampled_from,
        cost_usd=None if cost is None else cost * job.sampled_from / rows,
        batches=batches,
        waves=waves,
        sample_seconds=seconds,
    )
