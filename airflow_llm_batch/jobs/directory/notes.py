"""What happened to a job beside its plan, its tries and its landing: a small file each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.exceptions import BudgetExceeded
from airflow_llm_batch.jobs.directory.tried import Tried
from airflow_llm_batch.models import Cancelling, Fact
from airflow_llm_batch.storage import read_small, write_whole

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.store import JobStore


class Refused(Fact):
    """A budget has refused a job: ``over_budget.json``.

    :param message: which one, by how much, and what to do.
    """

    at: datetime
    message: str


class Notes:
    """The notes of one job; none of them is needed to go on.

    killed.json      the waiting task was failed or cleared: its batches were cancelled
    cancelling.json  the vendor was asked to cancel these batches
    cleaned.json     these of the vendor's files were deleted after the landing
    taken_over.json  a repair has landed this job's rows together with its own
    late.json        somebody was told that the job is late
    tried.json       what trying some rows first has shown
    over_budget.json what a budget has said that refused the job; read no more once the job runs
    """

    def __init__(self, store: JobStore) -> None:
        self.store = store

    def save_killed(self) -> None:
        self._write("killed.json", {"at": datetime.now(UTC)})

    def was_killed(self) -> bool:
        return self._read("killed.json") is not None

    def save_cancelling(self, batches: Sequence[str]) -> None:
        """Add the vendor's ids of batches that it was asked to cancel."""
        before = self.store.read(self.store.path("cancelling.json"), Cancelling)
        known = before.batches if before is not None else []
        note = Cancelling(at=datetime.now(UTC), batches=[*dict.fromkeys([*known, *batches])])
        write_whole(self.store.path("cancelling.json"), note.dump())

    def save_cleaned(self, scope: str) -> None:
        """:param scope: ``inputs`` or ``all``."""
        self._write("cleaned.json", {"at": datetime.now(UTC), "scope": scope})

    def cleaned(self) -> str | None:
        """``inputs`` or ``all``, None while the vendor's files were left alone."""
        note = self._read("cleaned.json")
        return note["scope"] if note else None

    def save_taken_over(self, by: JobStore) -> None:
        self._write("taken_over.json", {"by": by.uri})

    def taken_over(self) -> JobStore | None:
        """The job that has landed this one's rows together with its own, if there is one."""
        note = self._read("taken_over.json")
        return type(self.store)(note["by"]) if note else None

    def save_late(self) -> None:
        self._write("late.json", {"at": datetime.now(UTC)})

    def is_told_late(self) -> bool:
        return self._read("late.json") is not None

    def save_tried(self, tried: Tried) -> None:
        write_whole(self.store.path("tried.json"), tried.dump())

    def tried(self) -> Tried | None:
        """None where no row was tried first."""
        return self.store.read(self.store.path("tried.json"), Tried)

    @contextmanager
    def of_refusal(self) -> Iterator[None]:
        """Take note where a budget refuses the job: people look for it where they see that it was not sent."""
        try:
            yield
        except BudgetExceeded as error:
            with suppress(Exception):
                self._write("over_budget.json", Refused(at=datetime.now(UTC), message=str(error)).model_dump())
            raise

    def _write(self, name: str, note: Mapping[str, Any]) -> None:
        write_whole(self.store.path(name), msgspec.json.encode(note))

    def _read(self, name: str) -> dict[str, Any] | None:
        data = read_small(self.store.path(name))
        return None if data is None else msgspec.json.decode(data)
