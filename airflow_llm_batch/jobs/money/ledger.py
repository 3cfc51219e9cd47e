"""What is spent and reserved of budgets that span jobs: an append-only book in the storage.

{storage}/_ledger/{period}/{account}/00000042.json     what was booked, and the sums after it: created by one writer
{job}/ledger/{n}-reserve-{account}.json                what the job is about to book, and after which entry
{job}/ledger/{n}-reserve-{account}.done                it was booked

An entry is numbered, and the next number is created exclusively: whoever finds it taken reads what it says and looks
again at what is left, so that two jobs cannot both take the last dollar. A job that was killed in between finds its own
entry among those that came after, and books nothing twice.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import BudgetExceeded, SourceUnavailable
from airflow_llm_batch.jobs.money.accounts import Account
from airflow_llm_batch.jobs.money.entries import Balance, Booking, Entry, Settlement
from airflow_llm_batch.metrics import gauge_budget
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.results import usd
from airflow_llm_batch.storage import create_exclusive, fresh, read_small, storage_path, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.store import JobStore

FOLDER = "_ledger"
#: a job's files that tell of a reservation
RESERVED = re.compile(r"\d+-(reserve|more-(lane|tried|late))-(\d{4}|sets)-.*\.json$")
#: entries that others may book while one looks for the end
MOST_RACES = 100_000
#: jobs that a refusal names
MOST_NAMED = 5


class Ledger:
    """The books of one storage.

    :param storage: its URI.
    """

    def __init__(self, storage: str) -> None:
        self.root: ObjectStoragePath = storage_path(storage.rstrip("/")) / FOLDER

    def reserve(self, store: JobStore, accounts: Sequence[Account], dollars: float) -> list[Balance]:
        """Reserve what a job may cost at most, in every account that it is charged to, or in none.

        :raises BudgetExceeded: names the budget, what is spent and reserved of it, and by whom.
        """
        number = generation(store)
        if read_small(store.path("ledger", f"{number}-settle.json")) is not None:
            # Killed while it gave back what an earlier try had reserved.
            self.settle(store, 0.0)
            number = generation(store)
        balances = []
        try:
            for account in accounts:
                balance = self._book(store, f"{number}-reserve", account, dollars)
                if (missing := dollars - balance.asked) > 0:
                    # Reserved by an earlier try in a lane that costs less.
                    balance = self._book(store, f"{number}-more-lane", account, missing)
                balances.append(balance)
        except BudgetExceeded:
            self.settle(store, 0.0)
            raise
        return balances

    def settle(self, store: JobStore, dollars: float | None, *, landed: bool = False) -> None:
        """Book what a job has cost in the place of what it had reserved; 0 for one that was not sent.

        :param dollars: None where it is not known: then all that was reserved counts as spent.
        :param landed: it was sent for certain, whatever another try of the task has given back meanwhile.
        """
        number = generation(store)
        decision = store.path("ledger", f"{number}-settle.json")
        taken: dict[str, list[Booking]] = {}
        for booking in booked(store, f"{number}-"):
            taken.setdefault(booking.folder, []).append(booking)
        if not taken:
            before = read_small(store.path("ledger", f"{number - 1}-settle.json"))
            if not landed or before is None or Settlement.model_validate_json(before).landed:
                return
            for booking in booked(store, f"{number - 1}-"):
                taken[booking.folder] = [booking.model_copy(update={"usd": 0.0})]
        if not create_exclusive(decision, Settlement(usd=dollars, landed=landed).dump()):
            dollars = Settlement.model_validate_json(read_small(decision) or b"").usd
        for bookings in taken.values():
            reserved = sum(booking.usd for booking in bookings)
            spent = reserved if dollars is None else dollars
            self._book(store, f"{number}-settle", bookings[0].account, spent, frees=reserved)
        write_whole(store.path("ledger", f"{number}.settled"), b"")

    def more(self, store: JobStore, dollars: float, why: str) -> None:
        """Reserve more for a job that may cost more than it was to, in the accounts that it is charged to.

        :param why: once for each reason: ``lane``, ``tried``, ``late``.
        :raises BudgetExceeded: as ``reserve``.
        """
        number = generation(store)
        for account in {booking.folder: booking.account for booking in booked(store, f"{number}-")}.values():
            self._book(store, f"{number}-more-{why}", account, dollars)

    def _book(
        self, store: JobStore, what: str, account: Account, dollars: float, frees: float | None = None
    ) -> Balance:
        """Append an entry, unless that was done.

        :param frees: for a settlement: what was reserved before.
        :raises BudgetExceeded: for a reservation that does not fit.
        """
        folder = folder_of(account)
        mark = folder.replace("/", "-")
        last = self.last(folder)
        intent = store.path("ledger", f"{what}-{mark}.json")
        booking = Booking(
            folder=folder, token=uuid.uuid4().hex, after=last.number if last else 0, usd=dollars, **account._asdict()
        )
        if not create_exclusive(intent, booking.dump()):
            booking = Booking.model_validate_json(read_small(intent) or b"")
            last = self.entry(folder, booking.after)
        job, is_new = store.job(), True
        for _ in range(MOST_RACES):
            number = last.number + 1 if last else booking.after + 1
            found = self.entry(folder, number)
            if found is not None and found.token == booking.token:
                is_new = False
                break
            if found is not None:
                last = found
                continue
            spent, reserved = (last.sum_spent, last.sum_reserved) if last else (0.0, 0.0)
            if frees is None and spent + reserved + booking.usd > account.limit * (1 + 1e-12):
                raise BudgetExceeded(self.refusal(account, spent, reserved, booking.usd))
            change = (booking.usd, 0.0) if frees is None else (-frees, booking.usd)
            found = Entry(
                number=number,
                token=booking.token,
                kind="reserve" if frees is None else "settle",
                at=datetime.now(UTC),
                job=store.uri,
                dag_id=job.dag_id or "",
                run_id=job.run_id or "",
                task_id=job.task_id or "",
                conn_id=job.conn_id,
                reserved=change[0],
                spent=change[1],
                sum_reserved=max(reserved + change[0], 0.0),
                sum_spent=spent + change[1],
                **account._asdict(),
            )
            if create_exclusive(self.root / folder / f"{number:08d}.json", found.dump()):
                break
        else:
            raise SourceUnavailable(f"The book of {account.name} is written faster than it can be read; retry.")
        write_whole(store.path("ledger", f"{what}-{mark}.done"), b"")
        gauge_budget(found.account, found.sum_spent, found.sum_reserved)
        return Balance(account, found.sum_spent, found.sum_reserved, booking.usd, booking.usd if is_new else 0.0)

    def refusal(self, account: Account, spent: float, reserved: float, wanted: float) -> str:
        holders = ", ".join(f"{entry.dag_id}.{entry.task_id} {usd(entry.reserved)}" for entry in self.holders(account))
        by = f" (by {holders})" if holders else ""
        return (
            f"The job may cost {usd(wanted)}, and the budget of {usd(account.limit)} for {account.name} has "
            f"{usd(max(account.limit - spent - reserved, 0.0))} left: {usd(spent)} are spent and {usd(reserved)} "
            f"reserved{by}. Raise the budget, lower max_tokens, send fewer rows, or wait until what runs is landed. "
            "Nothing was sent."
        )

    def holders(self, account: Account) -> list[Entry]:
        """The largest reservations that are not settled yet."""
        held: dict[str, Entry] = {}
        for entry in self.entries(folder_of(account)):
            if entry.kind == "settle":
                held.pop(entry.job, None)
            elif entry.reserved:
                held[entry.job] = entry
        return sorted(held.values(), key=lambda entry: -entry.reserved)[:MOST_NAMED]

    def entry(self, folder: str, number: int) -> Entry | None:
        if number < 1:
            return None
        data = read_small(self.root / folder / f"{number:08d}.json")
        return Entry.model_validate_json(data) if data else None

    def last(self, folder: str) -> Entry | None:
        """The newest entry of an account, None for one that has none."""
        return self.entry(folder, max(numbers_in(self.root / folder), default=0))

    def entries(self, folder: str) -> Iterator[Entry]:
        for number in sorted(numbers_in(self.root / folder)):
            if (entry := self.entry(folder, number)) is not None:
                yield entry

    def folders(self, period: str) -> list[str]:
        """The accounts that have something booked in a period: ``2026-11``, or a day of it."""
        folder = self.root / period
        try:
            names = patiently(fresh(folder).fs.ls, folder.path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(f"{period}/{str(name).rstrip('/').rpartition('/')[2]}" for name in names)


def folder_of(account: Account) -> str:
    """Readable, and never equal for two accounts; whoever raises a budget goes on in the same book."""
    given = "\0".join(account[:3])
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{account.by}-{account.value}").strip("_")[:60]
    return f"{account.period}/{name}-{hashlib.sha256(given.encode()).hexdigest()[:12]}"


def numbers_in(folder: ObjectStoragePath) -> list[int]:
    try:
        names = patiently(fresh(folder).fs.ls, folder.path, detail=False)
    except FileNotFoundError:
        return []
    stems = (str(name).rpartition("/")[2].partition(".")[0] for name in names)
    return [int(stem) for stem in stems if stem.isdigit()]


def names_of(store: JobStore) -> set[str]:
    folder = store.path("ledger")
    try:
        return {str(name).rpartition("/")[2] for name in patiently(fresh(folder).fs.ls, folder.path, detail=False)}
    except FileNotFoundError:
        return set()


def generation(store: JobStore) -> int:
    """Which of its reservations a job is at: each ends with a settlement."""
    return 1 + sum(name.endswith(".settled") for name in names_of(store))


def booked(store: JobStore, start: str) -> list[Booking]:
    """What a job has reserved."""
    names = names_of(store)
    done = [
        name for name in sorted(names)
        if name.startswith(start) and RESERVED.match(name) and f"{name.removesuffix('.json')}.done" in names
    ]  # fmt: skip
    return [Booking.model_validate_json(data) for name in done if (data := read_small(store.path("ledger", name)))]
