"""Budgets that hold for all jobs of a connection, a DAG, a tag or a team: what is declared, and a job's accounts.

``{"month": 1000, "day": 60, "by": "team"}``: so many dollars per month and day (UTC) for each team, as the jobs'
metadata name it. On a connection it counts that connection's jobs; in ``[llm_batch] budget``, all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.options import problems_of

#: what a budget may be by, beside any key of the metadata
ALL, CONNECTION, DAG, TAG = "all", "connection", "dag", "tag"
#: the scope of what all partitions of a task may cost together, and the period that its book lies under
SET = "set"
PERIODS = {"month": "%Y-%m", "day": "%Y-%m-%d"}


class Budget(BaseModel):
    """One budget as it is declared.

    :param month: dollars in a calendar month, UTC, None for any; likewise ``day``.
    :param by: each connection, DAG or tag, or each value of a metadata key, has it for itself; ``all``: together.
    :param of: the one it is for, None for each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    month: float | None = Field(None, ge=0, allow_inf_nan=False)
    day: float | None = Field(None, ge=0, allow_inf_nan=False)
    by: str = ""
    of: str | None = None


class Account(NamedTuple):
    """What one budget leaves one of those that it is by, in one period.

    :param scope: ``all``, or the connection that declares it.
    :param limit: dollars.
    """

    scope: str
    by: str
    value: str
    period: str
    limit: float

    @property
    def name(self) -> str:
        """For people: ``team 'search' on connection 'openai', 2026-11``."""
        if self.scope == SET:
            return f"all partitions of {self.value} together (max_cost)"
        who = "everything" if self.by == ALL else f"{self.by} {self.value!r}"
        where = "" if self.scope == ALL or self.by == CONNECTION else f" on {self.scope}"
        return f"{who}{where}, {self.period}"


def budgets_of(given: Any, where: str) -> list[Budget]:
    """:param given: one budget, several, or none.

    :raises ConfigurationError: names what is wrong, and where.
    """
    if given in (None, "", [], {}):
        return []
    try:
        listed = [Budget.model_validate(one) for one in (given if isinstance(given, list) else [given])]
    except ValidationError as error:
        raise ConfigurationError(
            f"{where} is not usable: {problems_of(error)}. Give dollars by 'month' or 'day', and 'by': 'connection', "
            "'dag', 'tag' or a key of the metadata. Nothing was sent."
        ) from None
    if any(budget.month is None and budget.day is None for budget in listed):
        raise ConfigurationError(f"{where} has neither 'month' nor 'day'; give dollars for one. Nothing was sent.")
    return listed


def configured() -> list[Budget]:
    """``[llm_batch] budget``, a JSON object or a list of them.

    :raises ConfigurationError: for anything else.
    """
    from airflow.providers.common.compat.sdk import conf

    text = conf.get("llm_batch", "budget", fallback="") or ""
    try:
        given = json.loads(text) if text.strip() else None
    except ValueError as error:
        raise ConfigurationError(f"[llm_batch] budget is no JSON: {error}. Nothing was sent.") from None
    return budgets_of(given, "[llm_batch] budget")


def accounts_of(
    own: Sequence[Budget], everybodys: Sequence[Budget], labels: Mapping[str, Sequence[str]], at: datetime
) -> list[Account]:
    """The accounts that a job is charged to.

    :param own: the connection's budgets, and ``everybodys`` the configuration's.
    :param labels: what the job has: its ``connection``, ``dag``, ``tag``s and metadata.
    """
    conn_id = labels[CONNECTION][0]
    scoped = [(f"connection {conn_id!r}", CONNECTION, own), (ALL, ALL, everybodys)]
    found: dict[tuple[str, str, str, str], Account] = {}
    for scope, default, budgets in scoped:
        for budget in budgets:
            for account in charged(scope, budget, default, labels, at):
                key = account[:4]
                # Of two budgets for the same, the smaller one holds.
                if key not in found or account.limit < found[key].limit:
                    found[key] = account
    return list(found.values())


def of_set(folder: str, max_cost: float) -> Account:
    """What all partitions of a task may cost together.

    :param folder: URI that the directories of their jobs lie in.
    """
    return Account(SET, "partitions", folder, f"{SET}s", max_cost)


def charged(
    scope: str, budget: Budget, default: str, labels: Mapping[str, Sequence[str]], at: datetime
) -> Iterator[Account]:
    by = budget.by or default
    values = [""] if by == ALL else labels.get(by, ())
    for value in values:
        if budget.of is not None and value != budget.of:
            continue
        for name, form in PERIODS.items():
            limit = getattr(budget, name)
            if limit is not None:
                yield Account(scope, by, value, at.astimezone(UTC).strftime(form), limit)
