"""What earlier rounds have landed, carried into the one result set of a repair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable
from airflow_llm_batch.jobs.directory.failures import failures
from airflow_llm_batch.jobs.directory.rows import asked_rows
from airflow_llm_batch.jobs.directory.rowset import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_llm_batch.data.destinations import Destination, Unpublished
    from airflow_llm_batch.data.sinks import Layout
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job
    from airflow_llm_batch.results import Failure, Manifest


SUCCEEDED = "succeeded"
#: statuses of rows that have an answer, paid for though it is not what was wanted
ANSWERED = frozenset({"truncated", "invalid", "refused"})
#: and of rows that have none
WITHOUT_ANSWER = frozenset({"errored", "expired", "cancelled", "missing"})


class Earlier:
    """The landed rounds before a job, without the rows that it asks again.

    :param repaired: directory of the job whose failed rows were asked again, landed.
    :param before: manifest of an earlier landing of this job, if there was one.
    """

    def __init__(
        self, store: JobStore, job: Job, repaired: JobStore, before: Manifest | None, destination: Destination
    ) -> None:
        manifest = repaired.manifest()
        if manifest is None:
            raise ConfigurationError(
                f"The job at {repaired.uri}, which this one repairs, was not landed; land it first."
            )
        self.manifest, self.repaired, self.round = manifest, repaired, job.round
        self.destination = destination
        self.asked = asked_rows(store, job)
        #: of the rows that are asked again those whose landed record holds an answer, by its status
        self.answered: dict[str, RowSet] = {}
        failed = RowSet()
        for failure in failures(repaired):
            if failure.row in self.asked:
                failed.add(failure.row)
                if failure.as_landed in ANSWERED:
                    self.answered.setdefault(failure.as_landed, RowSet()).add(failure.row)
        if len(failed) < len(self.asked):
            # What answers have to pass is not what it was when these were asked again.
            good = self.answered[SUCCEEDED] = RowSet()
            for row in self.asked:
                if row not in failed:
                    good.add(row)
        #: and those of them whose record stays, since this round has no answer, by what it has instead
        self.kept: dict[str, RowSet] = {}
        self.places = manifest.files
        if before is not None and before.carried and not destination.holds(self.places):
            # A landing of this job has taken their place.
            self.places = before.carried

    def carry(self, layout: Layout) -> Unpublished:
        """The other rows' records, to lie beside those of this round; nothing is published yet.

        :raises ResultsUnusable: when what was landed is not what it was.
        """
        if not len(self.asked) and self.is_there:
            return Kept(self.places)
        try:
            carried = self.destination.carry(layout, self.places, f"r{self.round}", self.asked)
        except FileNotFoundError as error:
            raise ResultsUnusable(
                f"{error} was landed by an earlier round and is gone. Clear the task that landed it (its job is "
                f"{self.repaired.uri}), then this one: nothing is paid again."
            ) from None
        try:
            self.check(carried.taken, carried.left)
        except BaseException:
            carried.discard()
            raise
        return carried

    def keeps(self, row: int, status: str) -> str | None:
        """The status of an earlier record that stays, since the row was answered then and is not now.

        :param status: what this round has made of the row.
        """
        earlier = next((was for was, rows in self.answered.items() if row in rows), None)
        for rows in self.kept.values():
            # A shard may be read more than once.
            rows.discard(row)
        if earlier is None or status == SUCCEEDED or (status not in WITHOUT_ANSWER and earlier != SUCCEEDED):
            return None
        self.kept.setdefault(status, RowSet()).add(row)
        return earlier

    def carry_kept(self, layout: Layout) -> Unpublished:
        """The records that stay; nothing is published yet."""
        if not any(map(len, self.kept.values())):
            return Kept([])
        return self.destination.carry(layout, self.places, f"k{self.round}", Others(self.kept.values()))

    def count_kept(self, counts: Counter[str]) -> None:
        """Rows whose record stays count as what they are there, and not as what this round has made of them."""
        for status, rows in self.kept.items():
            counts[status] -= len(rows)
        for status, rows in self.answered.items():
            counts[status] += sum(row in kept for kept in self.kept.values() for row in rows)

    @property
    def is_there(self) -> bool:
        """Whether the records lie where, and are what, this landing would write."""
        same = self.manifest.destination == self.destination.uri and self.places == self.manifest.files
        return same and self.destination.holds(self.places)

    def check(self, taken: int, left: int) -> None:
        expected = self.manifest.rows - len(self.asked)
        # What was carried before has lost the rows that are asked again already.
        if taken != expected or (left != len(self.asked) and self.places == self.manifest.files):
            raise ResultsUnusable(
                f"The landed files of {self.repaired.uri} hold {taken:,} rows that were not asked again where its "
                f"manifest has {expected:,}; they were changed since. Clear the task that landed them, then this one: "
                "nothing is paid again."
            )

    def failures(self) -> Iterator[Failure]:
        """Rows that failed and are not asked again."""
        return (failure for failure in failures(self.repaired) if failure.row not in self.asked)

    def counts(self) -> Counter[str]:
        """Rows by status, without those that are asked again."""
        counts = Counter(self.manifest.counts)
        for failure in failures(self.repaired):
            if failure.row in self.asked:
                counts[failure.as_landed] -= 1
        counts[SUCCEEDED] -= len(self.answered.get(SUCCEEDED, ()))
        return counts


class Others(Container[int]):
    """Every row but some."""

    def __init__(self, sets: Iterable[RowSet]) -> None:
        self.sets = list(sets)

    def __contains__(self, row: object) -> bool:
        return not any(row in rows for rows in self.sets)


class Kept:
    """What stays as it lies."""

    def __init__(self, places: list[str]) -> None:
        self.places = list(places)

    def commit(self) -> list[str]:
        return self.places

    def discard(self) -> None:
        """Nothing was written."""
