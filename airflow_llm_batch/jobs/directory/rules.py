"""The rules of a job's answers: as they were planned, or as the task has them that was cleared since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_llm_batch.models import Rules
from airflow_llm_batch.storage import write_whole

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job

NAME = "rules.json"


def rules_of(store: JobStore, job: Job, checks: Sequence[str] | None = None) -> Rules:
    """What the job's answers have to pass now.

    :param checks: others than its own, None for those.
    """
    rules = store.read(store.path(NAME), Rules) or job.rules
    return rules if checks is None else rules.model_copy(update={"checks": tuple(checks)})


def keep_rules(store: JobStore, job: Job, rules: Rules) -> None:
    """Note that a planned job's answers have to pass these; what was landed is landed anew by the next Fetch."""
    if rules != rules_of(store, job):
        write_whole(store.path(NAME), rules.dump())
