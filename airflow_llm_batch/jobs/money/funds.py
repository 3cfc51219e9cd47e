"""A job and the budgets that span jobs: what it reserves of them, and what it has cost in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.money.budget import check_budget, estimated_cost
from airflow_llm_batch.jobs.money.budgets import CONNECTION, Budget, accounts_of, budgets_of, configured
from airflow_llm_batch.jobs.money.ledger import Balance, Ledger

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job


def declared(hook: LLMBatchHook) -> tuple[list[Budget], list[Budget]]:
    """The budgets of a connection, and those of everybody.

    :raises ConfigurationError: for one that is none.
    """
    return budgets_of(hook.options.budget, f"The budget of connection {hook.conn_id!r}"), configured()


def reserve(
    hook: LLMBatchHook, store: JobStore, job: Job, labels: Mapping[str, Sequence[str]], lane: str
) -> list[Balance]:
    """Reserve what a job may cost at most.

    :param labels: what budgets may be by: the job's ``dag``, ``tag``s and metadata.
    :raises BudgetExceeded: names the budget; also where the cost cannot be estimated.
    """
    own, everybodys = declared(hook)
    accounts = accounts_of(own, everybodys, {**labels, CONNECTION: [hook.conn_id]}, datetime.now(UTC))
    if not accounts:
        return []
    cost = estimated_cost(job, lane)
    if cost is None:
        check_budget(job, min(account.limit for account in accounts), 0.0, lane)
    return Ledger(default_storage()).reserve(store, accounts, cost or 0.0)


def settle(hook: LLMBatchHook, store: JobStore, dollars: float | None) -> None:
    """Book what a job has cost in the place of what it has reserved, where it has.

    :param dollars: None where it is not known: all that was reserved counts then.
    """
    if any(declared(hook)):
        Ledger(default_storage()).settle(store, dollars)


def reserve_more(hook: LLMBatchHook, store: JobStore, dollars: float) -> None:
    """Reserve more for a job that goes on at a higher price.

    :raises BudgetExceeded: as ``reserve``.
    """
    if dollars and any(declared(hook)):
        Ledger(default_storage()).more(store, dollars)
