"""One shard's rows against the lines that came back: every row gets exactly one result."""

from __future__ import annotations

import io
import tempfile
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from typing import IO, TYPE_CHECKING

import msgspec

from airflow_llm_batch.exceptions import ResultsUnusable
from airflow_llm_batch.models import Batch, Result, RowStatus, Shard
from airflow_llm_batch.providers.json_lines import UNREADABLE
from airflow_llm_batch.storage import open_blocks

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.providers.base import Provider

#: what becomes of a row that no result line speaks of, by how its batch ended
UNANSWERED: dict[str | None, RowStatus] = {"expired": "expired", "cancelled": "cancelled", "failed": "errored"}
#: bytes of a shard's entries that are held in memory; more of them lie in a temporary file
HELD = 4 * 2**20
#: where a row's result comes from
FROM_BATCH, FROM_CALL = 1, 2


class Entry(msgspec.Struct):
    """One line of ``rows.jsonl``.

    :param key: the user's name of the row, as JSON.
    :param columns: the pass-through columns, a JSON object.
    :param custom_id: only where it is not made of the job's id and the row number.
    """

    row: int
    key: msgspec.Raw = msgspec.Raw(b"null")
    columns: msgspec.Raw = msgspec.Raw(b"{}")
    custom_id: str | None = None


class Entries:
    """The lines of ``rows.jsonl``, found by row number: two arrays and a file, no object per row.

    :param lines: in the order of their rows.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.decode = msgspec.json.Decoder(Entry).decode
        number = msgspec.json.Decoder(RowNumber).decode
        self.rows, self.starts = array("Q"), array("Q", [0])
        self.file: IO[bytes] = io.BytesIO()
        end, last, in_order = 0, -1, True
        for line in lines:
            row = number(line).row
            in_order, last = in_order and row > last, row
            self.rows.append(row)
            end += self.file.write(line)
            self.starts.append(end)
            if end > HELD and isinstance(self.file, io.BytesIO):
                held, self.file = self.file, tempfile.TemporaryFile(prefix="llm-batch-rows-")  # noqa: SIM115
                self.file.write(held.getbuffer())
        #: where rows are that are not in order: a repair takes them from several rounds
        self.places = None if in_order else {row: place for place, row in enumerate(self.rows)}

    @classmethod
    def load(cls, store: JobStore, shard: Shard) -> Entries:
        """:raises ResultsUnusable: when the file does not hold what was planned."""
        path = store.rows(shard.index, shard.token)
        with open_blocks(path) as file:
            entries = cls(file)
        if len(entries) != shard.rows:
            raise ResultsUnusable(
                f"{path} has {len(entries)} rows where the plan has {shard.rows}. Nothing was landed of this shard; "
                "its results remain at the vendor."
            )
        return entries

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Entry:
        start = self.starts[place]
        self.file.seek(start)
        return self.decode(self.file.read(self.starts[place + 1] - start))

    def find(self, row: int) -> int | None:
        """The place of a row, None when it is not the shard's."""
        if self.places is not None:
            return self.places.get(row)
        # Rows mostly follow each other without gaps; a shard of one model among several has some.
        place = row - self.rows[0]
        if not (0 <= place < len(self.rows) and self.rows[place] == row):
            place = bisect_left(self.rows, row)
        return place if place < len(self.rows) and self.rows[place] == row else None

    def close(self) -> None:
        self.file.close()


class RowNumber(msgspec.Struct):
    row: int


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
        self.done = bytearray(len(entries))
        self.next = 0
        self.provider = provider
        self.aside = aside
        self.dropped: Counter[str] = Counter()

    @property
    def answered(self) -> int:
        return len(self.done) - self.done.count(0)

    def take(
        self, lines: Iterable[bytes], mark: int = FROM_BATCH, only: Container[int] | None = None
    ) -> Iterator[tuple[Entry, Result]]:
        """Each row's entry with its result, and in ``raw`` the line, for the lines that answer one.

        :param only: rows to take, None for all.

        :param mark: where the lines come from. What was called online was called since the batch has no answer of it:
            the batch's line for such a row is no duplicate.
        """
        read, done = self.provider.read, self.done
        for line in lines:
            try:
                result = read(line)
            except UNREADABLE:
                self.dropped["garbage"] += 1
                self.aside(line)
                continue
            place = self.place_of(result.custom_id)
            if place is None:
                self.dropped["foreign"] += 1
            elif done[place]:
                self.dropped["duplicate"] += done[place] == mark
            elif only is None or self.entries.rows[place] in only:
                done[place] = mark
                result.raw = line
                yield self.entries[place], result

    def rest(self, batch: Batch, only: Container[int] | None = None) -> Iterator[tuple[Entry, Result]]:
        """A result for every row that no line answered.

        :param only: rows that this job has to account for, None for all of its own.
        """
        status = UNANSWERED.get(batch.outcome, "missing")
        code, message = next(iter(batch.errors), (f"batch_{batch.status}", None))
        if status == "missing":
            code, message = "missing", f"Batch {batch.id} ended as {batch.status!r} without a result for this row."
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
