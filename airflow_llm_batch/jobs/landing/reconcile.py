"""One shard's rows against the lines that came back: every row gets exactly one result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING

from airflow_llm_batch.data.failed import UNDELIVERED
from airflow_llm_batch.exceptions import RequestRejected
from airflow_llm_batch.models import Batch, is_call
from airflow_llm_batch.providers.json_lines import UNREADABLE
from airflow_llm_batch.results import Result, RowStatus

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.rows import Entries, Entry
    from airflow_llm_batch.jobs.landing.answers import AnswerSource
    from airflow_llm_batch.providers.base import Provider

#: what becomes of a row that no result line speaks of, by how its batch ended
STATUS_BY_OUTCOME: dict[str | None, RowStatus] = {"expired": "expired", "cancelled": "cancelled", "failed": "errored"}
#: what a line says of a row that the vendor does not count as finished
UNFINISHED = ("errored", "expired", "cancelled")


class Reconciler:
    """Pairs result lines with a shard's entries.

    :param aside: takes lines that cannot be read.
    :param ids: ``custom_id`` -> row number, for a batch whose ids are not ours.
    """

    def __init__(
        self,
        job_id: str,
        entries: Entries,
        provider: Provider,
        aside: Callable[[bytes], None],
        ids: dict[str, int] | None = None,
    ) -> None:
        self.prefix = f"{job_id}-"
        self.entries = entries
        self.ids = ids
        #: of each row, which source has answered it, from 1; 0 for none
        self.done = bytearray(len(entries))
        self.marks: list[str] = []
        self.next = 0
        self.provider = provider
        self.aside = aside
        self.dropped: Counter[str] = Counter()
        #: of a batch's lines, readable or not: those that may be of rows it has finished, and those that say it has not
        self.delivered = self.unfinished = 0
        #: and those that are nobody's
        self.unread = 0

    @property
    def answered(self) -> int:
        return len(self.done) - self.done.count(0)

    def lacks(self, only: Container[int] | None = None) -> bool:
        """Whether a row has no answer yet.

        :param only: rows that this job has to account for, None for all of its own.
        """
        rows = zip(self.done, self.entries.rows, strict=True)
        return any(not done and (only is None or row in only) for done, row in rows)

    def arriving(self, source: AnswerSource, only: Container[int] | None) -> Iterator[bytes]:
        """A source's lines.

        :raises RequestRejected: for a file that is not there, unless every row is answered: some vendors name a file of
            errors and never write it.
        """
        try:
            yield from source.lines
        except RequestRejected as error:
            if not error.is_missing or self.lacks(only):
                raise

    def take(self, source: AnswerSource, only: Container[int] | None = None) -> Iterator[tuple[Entry, Result]]:
        """Each row's entry with its result, and in ``raw`` the line, for the lines that answer one.

        A row that an earlier source has answered is no duplicate in a later one: it was called online since the batch
        has no answer of it, and the batch's line says just that.

        :param only: rows to take, None for all.
        :raises RequestRejected: as ``arriving``.
        """
        read, done = self.provider.read, self.done
        self.marks.append(source.name)
        mark, of_batch = len(self.marks), source.name == "batch"
        for line in self.arriving(source, only):
            try:
                result = read(line)
            except UNREADABLE:
                self.delivered += of_batch
                self.unread += of_batch
                self.dropped["garbage"] += 1
                self.aside(line)
                continue
            place = self.place_of(result.custom_id)
            if place is not None and done[place] == mark:
                # A row that is told of twice is one row that was finished.
                self.dropped["duplicate"] += 1
                continue
            if result.status in UNFINISHED:
                self.unfinished += of_batch
            else:
                self.delivered += of_batch
            if place is None:
                self.unread += of_batch
                self.dropped["foreign"] += 1
            elif done[place]:
                continue
            elif only is None or self.entries.rows[place] in only:
                done[place] = mark
                result.raw = line
                yield self.entries[place], result

    def short_of(self, batch: Batch) -> int:
        """Rows that the vendor counts as finished and whose answers are not among the lines that were read.

        Lines that cannot be read count as delivered: no further look makes them better.
        """
        if is_call(batch.id):
            return 0
        # What has failed has lines of its own; more of them than are counted are finished rows that answer an error.
        finished = self.delivered + max(self.unfinished - (batch.failed or 0), 0)
        if batch.succeeded is not None:
            return max(batch.succeeded - finished, 0)
        return len(self.done) if batch.outcome == "completed" and not (self.delivered or self.unfinished) else 0

    def rest(self, batch: Batch, only: Container[int] | None = None) -> Iterator[tuple[Entry, Result]]:
        """A result for every row that no line answered.

        :param only: rows that this job has to account for, None for all of its own.
        """
        status = STATUS_BY_OUTCOME.get(batch.outcome, "missing")
        code, message = next(iter(batch.errors), ("", None))
        code = code or f"batch_{batch.status}"
        if status == "missing":
            code, message = "missing", f"Batch {batch.id} ended as {batch.status!r} without a result for this row."
        if self.short_of(batch):
            status, code = "missing", UNDELIVERED
            message = f"The vendor counts rows of batch {batch.id} as finished whose answers it does not deliver."
        elif self.unread and (batch.succeeded or 0) > self.delivered - self.unread:
            # One of them may be this row's answer: paid for, and nothing to pay for again on that evidence.
            status, code = "invalid", "unreadable_answer"
            message = (
                f"{self.unread:,} lines of batch {batch.id} cannot be read or are of no row of ours; they were kept."
            )
        place = self.done.find(0)
        while place >= 0:
            self.done[place] = 1
            entry = self.entries[place]
            if only is not None and entry.row not in only:
                place = self.done.find(0, place)
                continue
            custom_id = entry.custom_id or f"{self.prefix}{entry.row}"
            yield entry, Result(custom_id=custom_id, status=status, error_code=code, error_message=message)
            place = self.done.find(0, place)

    def place_of(self, custom_id: str) -> int | None:
        if self.ids is not None:
            row = self.ids.get(custom_id)
            return None if row is None else self.entries.find(row)
        # Most vendors answer in order.
        place = self.next
        if place < len(self.entries.rows) and custom_id == f"{self.prefix}{self.entries.rows[place]}":
            self.next += 1
            return place
        number = custom_id.removeprefix(self.prefix)
        if len(number) > 15 or not (number.isascii() and number.isdigit()):
            return None
        row = int(number)
        # Spelled as we spelled it: "007" is somebody else's, and so is the number without the prefix.
        return self.entries.find(row) if custom_id == f"{self.prefix}{row}" else None
