"""A shard's two files beside each other: what was sent, and whose row it is."""

from __future__ import annotations

import io
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

import msgspec

from airflow_llm_batch.exceptions import ResultsUnusable
from airflow_llm_batch.jobs.directory.journal import UNANSWERED, journal_lines
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.storage import open_fact

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job, Shard

#: bytes of a shard's entries that are held in memory; more of them lie in a temporary file
HELD = 4 * 2**20


class RowNumber(msgspec.Struct):
    row: int


class Entry(msgspec.Struct):
    """One line of ``rows.jsonl``.

    :param key: the user's name of the row, as JSON.
    :param columns: the pass-through columns, a JSON object.
    :param custom_id: only where it is not made of the job's id and the row number.
    :param digest: of what is asked, in hex, where answers are used again.
    :param of: the row that is asked in this one's place, since it asks the same.
    :param answer: the ``Result`` that is there already, as JSON; ``null`` for none.
    """

    row: int
    key: msgspec.Raw = msgspec.Raw(b"null")
    columns: msgspec.Raw = msgspec.Raw(b"{}")
    custom_id: str | None = None
    digest: str = ""
    of: int | None = None
    answer: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def line(self) -> bytes:
        """The row, its key and columns, as a line that tells nothing of how it is answered."""
        return entry_line(self.row, bytes(self.key), bytes(self.columns))


def entry_line(row: int, key: bytes, columns: bytes = b"{}") -> bytes:
    """:param key: as JSON; likewise ``columns``."""
    if columns == b"{}":
        return b'{"row":%d,"key":%b}\n' % (row, key)
    return b'{"row":%d,"key":%b,"columns":%b}\n' % (row, key, columns)


def with_answer(line: bytes, digest: bytes, of: int | None = None, answer: bytes | None = None) -> bytes:
    """An ``entry_line`` that tells how the row is answered, see ``Entry``."""
    named = b"" if of is None else b',"of":%d' % of
    known = b"" if answer is None else b',"answer":%b' % answer
    return b'%b,"digest":"%b"%b%b}\n' % (line[:-2], digest.hex().encode(), named, known)


read_entry = msgspec.json.Decoder(Entry).decode


class Entries:
    """The lines of ``rows.jsonl``, found by row number: two arrays and a file, no object per row.

    :param lines: in the order of their rows.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.decode = read_entry
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
        with open_fact(path) as file:
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


def sent(store: JobStore, index: int, token: str) -> Iterator[tuple[bytes, bytes]]:
    """Every request line of a shard with its line of ``rows.jsonl``."""
    with open_fact(store.requests(index, token)) as requests, open_fact(store.rows(index, token)) as rows:
        yield from zip(requests, rows, strict=True)


def contents(store: JobStore, shard: Shard) -> Iterator[bytes]:
    """What a shard asks in the neutral format, a line each."""
    with open_fact(store.asked(shard.index, shard.token)) as lines:
        yield from lines


def entries(store: JobStore, shard: Shard) -> Iterator[Entry]:
    """Every line of ``rows.jsonl``, one after the other."""
    with open_fact(store.rows(shard.index, shard.token)) as lines:
        yield from map(msgspec.json.Decoder(Entry).decode, lines)


def shard_rows(store: JobStore, shard: Shard) -> RowSet:
    """Every row of a shard."""
    number = msgspec.json.Decoder(RowNumber).decode
    rows = RowSet()
    with open_fact(store.rows(shard.index, shard.token)) as lines:
        for line in lines:
            rows.add(number(line).row)
    return rows


def asked_rows(store: JobStore, job: Job) -> RowSet:
    """Every row of a job."""
    asked = RowSet()
    for shard in (*job.shards, *job.spared):
        asked.update(shard_rows(store, shard))
    return asked


def answered_rows(store: JobStore, job: Job, shard: Shard) -> RowSet:
    """The rows of a shard whose answers are in its journal."""
    done = RowSet()
    prefix = f"{job.id}-"
    decode = msgspec.json.Decoder(IdOf).decode
    for line in journal_lines(store, store.attempts(shard.index)):
        try:
            if UNANSWERED in line:
                continue
            number = decode(line).custom_id.removeprefix(prefix)
        except (ValueError, msgspec.MsgspecError):
            continue  # cut off when the process was killed
        if number.isdigit():
            done.add(int(number))
    return done


class IdOf(msgspec.Struct):
    custom_id: str
