"""What the book of a budget holds, and what a job keeps of its bookings."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from airflow_llm_batch.jobs.money.accounts import Account
from airflow_llm_batch.models import Fact


class Entry(Fact):
    """One line of an account's book.

    :param number: from 1.
    :param token: of the booking: it is known again by it.
    :param reserved: dollars by which the reserved sum changes, and ``spent`` that which is spent.
    :param sum_reserved: after this entry; likewise ``sum_spent``.
    """

    number: int
    token: str
    kind: Literal["reserve", "settle"]
    at: datetime
    scope: str
    by: str
    value: str
    period: str
    limit: float
    job: str
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    conn_id: str = ""
    reserved: float = 0.0
    spent: float = 0.0
    sum_reserved: float = 0.0
    sum_spent: float = 0.0

    @property
    def account(self) -> Account:
        return Account(self.scope, self.by, self.value, self.period, self.limit)


class Booking(Fact):
    """What a job is about to book.

    :param folder: the account's, below the storage.
    :param after: the number of the last entry when this was written.
    """

    folder: str
    token: str
    after: int
    usd: float
    limit: float
    scope: str
    by: str
    value: str
    period: str

    @property
    def account(self) -> Account:
        return Account(self.scope, self.by, self.value, self.period, self.limit)


class Settlement(Fact):
    """What a job has cost, None where that is not known; ``reserve`` and ``settle`` after a kill go on with it."""

    usd: float | None
    landed: bool = False


class Balance(NamedTuple):
    """An account after a booking of ``asked`` dollars, of which ``booked`` are new: none that an earlier try made."""

    account: Account
    spent: float
    reserved: float
    asked: float
    booked: float

    @property
    def left(self) -> float:
        return self.account.limit - self.spent - self.reserved

    def passes(self, share: float) -> bool:
        """Whether the booking has taken the account to this share of its budget or above."""
        used, line = self.spent + self.reserved, share * self.account.limit
        return used >= line > used - self.booked
