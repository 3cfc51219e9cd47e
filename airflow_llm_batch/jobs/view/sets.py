"""The partitions of one task as one line of a listing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel

from airflow_llm_batch.jobs.view.job import JobView, total
from airflow_llm_batch.jobs.view.state import JobState

if TYPE_CHECKING:
    from collections.abc import Callable


#: as they are told: what is on its way, what somebody has to see to, and what is done
ORDER: tuple[JobState, ...] = (
    "running", "cancelling", "ended", "planned", "over_budget", "failed", "with_failures", "cancelled", "landed",
)  # fmt: skip


class StateSum(BaseModel):
    """The partitions in one state.

    :param cost_usd: of the ``landed`` ones, None where it is not known; ``estimated_cost_usd`` of the others, at most.
    :param refusal: what a budget has said to the first of them, "" where none has.
    """

    state: JobState
    partitions: int
    landed: int
    rows: int
    done: int
    failed: int
    cancelled: int
    cost_usd: float | None
    estimated_cost_usd: float | None
    refusal: str


class SetView(JobView):
    """All partitions of a task: the fields are their sums, ``uri`` the directory of their jobs.

    :param partitions: how many there are; those that have no rows have no job.
    :param planned: how many have one by now, and ``landed`` how many of these are landed.
    :param states: the same by state.
    """

    partitions: int
    planned: int
    landed: int
    states: list[StateSum]


def gathered(jobs: Iterable[JobView], is_wanted: Callable[[JobView], bool]) -> list[JobView]:
    """Jobs in their order, those that are partitions of one task as one line where the first of them stands.

    :param is_wanted: whether a job is to be shown; one partition that is shows them all.
    """
    groups: dict[tuple[object, ...], list[JobView]] = {}
    for job in jobs:
        alone = job.partition is None or job.state == "replaced"
        which = (job.map_index,) if alone else (job.asked_model, count_of(job))
        groups.setdefault((alone, job.dag_id, job.run_id, job.task_id, *which), []).append(job)
    wanted = [group for group in groups.values() if any(map(is_wanted, group))]
    return [group[0] if group[0].partition is None or group[0].state == "replaced" else seen(group) for group in wanted]


def seen(jobs: list[JobView]) -> SetView:
    """Some partitions' jobs as one line."""
    first, count = jobs[0], count_of(jobs[0])
    state, words = state_of(jobs)
    left = count - len(jobs)
    missing = f"; {left:,} of {count:,} have no job" if left else ""
    landed = [job.landed_at for job in jobs if job.landed_at is not None]
    ended = [job.ended_at for job in jobs if job.ended_at is not None]
    summed = ("rows", "done", "failed", "cancelled", "shards", "requests", "tokens")
    of_landed = [job for job in jobs if job.landed_at is not None]
    return SetView(
        dag_id=first.dag_id,
        run_id=first.run_id,
        task_id=first.task_id,
        map_index=f"partitions-{count}",
        index="-1",
        asked_model=first.asked_model,
        generation=1,
        uri=first.uri.rpartition("/")[0],
        provider=first.provider,
        models=sorted({model for job in jobs for model in job.models}),
        created_at=min(job.created_at for job in jobs),
        landed_at=max(landed) if len(landed) == len(jobs) else None,
        ended_at=max(ended) if len(ended) == len(jobs) else None,
        state=state,
        words=words + missing,
        rounds=max(job.rounds for job in jobs),
        estimated_cost_usd=total(job.estimated_cost_usd for job in jobs),
        committed_usd=total(job.committed_usd for job in jobs),
        cost_usd=total(job.cost_usd for job in of_landed) if of_landed else None,
        saving_usd=total(job.saving_usd for job in of_landed) if of_landed else None,
        lane=first.lane,
        partitions=count,
        planned=len(jobs),
        landed=len(landed),
        states=by_state(jobs),
        **{name: sum(getattr(job, name) for job in jobs) for name in summed},
    )


def state_of(jobs: list[JobView]) -> tuple[JobState, str]:
    """What state partitions are in together, and in words: ``3 running, 12 landed``."""
    counts = Counter(job.state for job in jobs)
    words = ", ".join(f"{counts[state]:,} {state.replace('_', ' ')}" for state in ORDER if counts[state])
    if len(counts) == 1:
        return jobs[0].state, words
    order: tuple[JobState, ...] = (
        "cancelling", "running", "ended", "planned", "over_budget", "cancelled", "with_failures",
    )  # fmt: skip
    for state in order:
        if counts[state]:
            # Some wait to be sent, and others are on their way or landed.
            return ("running" if state == "planned" else state), words
    return "with_failures", words


def by_state(jobs: list[JobView]) -> list[StateSum]:
    """Sums of the partitions in each state that one of them is in."""
    sums = []
    for state in ORDER:
        if found := [job for job in jobs if job.state == state]:
            landed = [job for job in found if job.landed_at is not None]
            left = [job for job in found if job.landed_at is None]
            sums.append(
                StateSum(
                    state=state,
                    partitions=len(found),
                    landed=len(landed),
                    cost_usd=total(job.cost_usd for job in landed),
                    estimated_cost_usd=total(job.estimated_cost_usd for job in left),
                    refusal=found[0].refusal,
                    **{
                        name: sum(getattr(job, name) for job in found)
                        for name in ("rows", "done", "failed", "cancelled")
                    },
                )
            )
    return sums


def count_of(job: JobView) -> int:
    return int((job.partition or "0/0").partition("/")[2])
