"""One job's calls, or those of several models' jobs of the same rows."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import Interrupted
from airflow_llm_batch.jobs.online.online import Online
from airflow_llm_batch.jobs.online.race import Race

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.online.endpoint import Calls
    from airflow_llm_batch.jobs.run import JobRun

RowsOf = Container[int] | None


def call(runs: Sequence[JobRun], calls: Calls, deadline: float | None, *, fastest: bool = False) -> list[RowsOf]:
    """Call what was not answered yet of one job, or of several models' jobs of the same rows.

    :param deadline: epoch seconds after which no call is begun and none is waited for.
    :param fastest: each row needs the answer of one model only.
    :return: for each job the rows that it has to account for, None for all.
    :raises Interrupted: when it was stopped; what was answered is kept.
    """

    lanes = [Online(run.store, run.hook, run.job, calls, deadline, stop=run.stop) for run in runs]
    accountable: list[RowsOf] = [None] * len(runs)
    if fastest and len(runs) > 1:
        race = Race(lanes)
        race.run()
        accountable = [race.accountable(number) for number in range(len(runs))]
    else:
        # What a repair has landed together with its own rows is not called once more.
        for lane in lanes:
            if lane.store.notes.taken_over() is None:
                lane.run()
    if any(run.stop.is_set() for run in runs):
        raise Interrupted("The task was killed while it called. What was answered is kept; the next try goes on.")
    return accountable
