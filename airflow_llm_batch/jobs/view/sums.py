"""What many jobs came to, by day, by DAG, or by any other name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.view.job import JobView


class Sum(BaseModel):
    """What the jobs of one day or one DAG came to. Dollars of jobs whose cost is not known are not in it; ``unknown``
    counts those jobs. ``committed_usd`` is what jobs that are on their way may be billed at most.
    """

    name: str
    jobs: int = 0
    rows: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    committed_usd: float = 0.0
    saving_usd: float = 0.0
    unknown: int = 0


def summed(jobs: Iterable[tuple[str, JobView]]) -> list[Sum]:
    """Jobs by name, in the order of the names."""
    groups: dict[str, list[JobView]] = {}
    for name, job in jobs:
        groups.setdefault(name, []).append(job)
    return [
        Sum(
            name=name,
            jobs=len(group),
            rows=sum(job.requests for job in group),
            tokens=sum(job.tokens for job in group),
            committed_usd=sum(job.committed_usd or 0 for job in group),
            cost_usd=sum(job.cost_usd or 0 for job in group),
            saving_usd=sum(job.saving_usd or 0 for job in group),
            unknown=sum(None in (job.committed_usd, job.cost_usd if job.landed_at else 0) for job in group),
        )
        for name, group in sorted(groups.items())
    ]
