"""Rows that need not be asked: another row asks the same, or an earlier job was answered."""

from __future__ import annotations

import logging
import struct
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

import msgspec

from airflow_llm_batch.data.failed import NOT_IN_CACHE
from airflow_llm_batch.jobs.directory.rows import with_answer
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.planning.lines import Line
from airflow_llm_batch.jobs.reuse.answers import AnswerFiles
from airflow_llm_batch.jobs.reuse.buckets import HashBuckets, copies, whole_hash
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from array import array

    from airflow_llm_batch.jobs.money.tokens import Kind
    from airflow_llm_batch.jobs.options import Reuse

log = logging.getLogger(__name__)
#: lanes of shards that nobody is asked
COPY, KNOWN, NONE = "copy", "known", "none"
#: bytes of the three lines, estimated tokens, number of the kind, row, hash
HEAD = struct.Struct("=5Qq16s")
#: an answer to a row that is not to be asked
NOT_KNOWN = Result(
    status="missing",
    error_code=NOT_IN_CACHE,
    error_message="No earlier job was answered to this, and cache_only=True asks nobody.",
)


class Spool:
    """Lines in a temporary file, to be read once they are all known."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.kinds: dict[Kind, int] = {}

    def add(self, line: Line) -> None:
        kind = self.kinds.setdefault(line.kind, len(self.kinds))
        self.file.write(
            HEAD.pack(len(line.request), len(line.entry), len(line.content), line.tokens, kind, line.row, line.digest)
        )
        for part in (line.request, line.entry, line.content):
            self.file.write(part)

    def __iter__(self) -> Iterator[Line]:
        self.file.seek(0)
        kinds = list(self.kinds)
        while head := self.file.read(HEAD.size):
            *sizes, tokens, kind, row, digest = HEAD.unpack(head)
            request, entry, content = map(self.file.read, sizes)
            yield Line(request, tokens, kinds[kind], row, digest, content, entry)


class Known:
    """Answers that are there, in the order of their rows.

    :param file: takes them, a ``Result`` a line.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.rows = RowSet()
        self.file = file

    def add(self, row: int, answer: bytes) -> None:
        self.rows.add(row)
        self.file.write(answer + b"\n")

    def __iter__(self) -> Iterator[bytes]:
        self.file.seek(0)
        return (line.rstrip(b"\n") for line in self.file)


def spared(lines: Iterator[Line], hashes: HashBuckets, reuse: Reuse) -> Iterator[Line]:
    """The same lines, those that need not be asked in a lane of their own, with their answer or whose it is.

    They are written to a temporary file until the last of them is known.

    :param hashes: of what they ask, once all of them have come.
    """
    with (
        tempfile.TemporaryFile(prefix="llm-batch-lines-") as held,
        tempfile.TemporaryFile(prefix="llm-batch-known-") as found,
    ):
        spool = Spool(held)
        for line in lines:
            spool.add(line)
        known = look_up(hashes, reuse, found)
        answers = iter(known)
        pairs = copies(hashes, known.rows) if reuse.ask_once else iter(())
        copy = next(pairs, None)
        nobody = msgspec.json.encode(NOT_KNOWN)
        for line in spool:
            if line.row in known.rows:
                line.lane, line.entry = KNOWN, with_answer(line.entry, line.digest, answer=next(answers))
            elif reuse.cache_only:
                line.lane, line.entry = NONE, with_answer(line.entry, line.digest, answer=nobody)
            elif copy is not None and copy[0] == line.row:
                line.lane, line.entry = COPY, with_answer(line.entry, line.digest, of=copy[1])
                copy = next(pairs, None)
            else:
                line.entry = with_answer(line.entry, line.digest)
            yield line


def look_up(hashes: HashBuckets, reuse: Reuse, file: IO[bytes]) -> Known:
    """What earlier jobs were answered.

    :param file: where it goes.
    """
    known = Known(file)
    if reuse.cache is not None:
        for row, answer in AnswerFiles(reuse.cache).find(wanted(hashes), datetime.now(UTC)):
            known.add(row, answer)
        log.info("%s of %s rows were answered to earlier jobs.", f"{known.rows.count:,}", f"{hashes.count:,}")
    return known


def wanted(hashes: HashBuckets) -> Iterator[tuple[int, str]]:
    """Every row with its hash in hex."""
    held: array[int]
    for held in hashes:
        for first, second, row in zip(held[::3], held[1::3], held[2::3], strict=True):
            yield row, whole_hash(first, second).hex()
