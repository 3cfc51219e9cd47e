"""A job and the budgets that span jobs: what it reserves of them, and what it has cost in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.money.accounts import CONNECTION, Budget, accounts_of, budgets_of, configured, of_set
from airflow_llm_batch.jobs.money.budget import check_budget, estimated_cost
from airflow_llm_batch.jobs.money.entries import Balance
from airflow_llm_batch.jobs.money.ledger import Ledger

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
    hook: LLMBatchHook,
    store: JobStore,
    job: Job,
    labels: Mapping[str, Sequence[str]],
    lane: str,
    max_cost: float | None = None,
) -> list[Balance]:
    """Reserve what a job may cost at most.

    :param labels: what budgets may be by: the job's ``dag``, ``tag``s and metadata.
    :param max_cost: dollars that it may cost together with the other partitions, if it is one.
    :raises BudgetExceeded: names the budget; also where the cost cannot be estimated.
    """
    own, everybodys = declared(hook)
    # A retry over midnight is charged to the day on which the job was planned.
    accounts = accounts_of(own, everybodys, {**labels, CONNECTION: [hook.conn_id]}, job.created_at)
    if job.partition is not None and max_cost is not None:
        accounts.append(of_set(store.address.folder, max_cost))
    if not accounts:
        return []
    cost = estimated_cost(job, lane)
    if cost is None:
        check_budget(job, min(account.limit for account in accounts), 0.0, lane)
    return Ledger(default_storage()).reserve(store, accounts, cost or 0.0)


def has_some(hook: LLMBatchHook) -> bool:
    """Whether any budget is declared; one that is none is told when it is reserved of."""
    try:
        return any(declared(hook))
    except ConfigurationError:
        return True


def settle(hook: LLMBatchHook, store: JobStore, job: Job, dollars: float | None, *, landed: bool = False) -> None:
    """Book what a job has cost in the place of what it has reserved, where it has.

    :param dollars: None where it is not known: all that was reserved counts then.
    :param landed: as ``Ledger.settle``.
    """
    if job.budgeted or has_some(hook):
        Ledger(default_storage()).settle(store, dollars, landed=landed)


def release(store: JobStore, *, sent: bool) -> None:
    """Settle a job that is replaced, or whose directory is to go.

    :param sent: something of it was: then all that it has reserved counts as spent.
    """
    Ledger(default_storage()).settle(store, None if sent else 0.0)


def reserve_more(hook: LLMBatchHook, store: JobStore, dollars: float, why: str) -> None:
    """Reserve more for a job that may cost more than it was to.

    :param why: as ``Ledger.more``.
    :raises BudgetExceeded: as ``reserve``.
    """
    if dollars > 0 and (store.job().budgeted or has_some(hook)):
        Ledger(default_storage()).more(store, dollars, why)
