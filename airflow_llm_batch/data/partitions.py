"""One source cut into partitions that many workers read side by side.

Files are laid end to end, and each partition has an equal share of their bytes: a row group of a Parquet file, a line
of a plain JSONL file and any other file as a whole belong to the partition in whose share their first byte lies. So
partitions are disjoint, are the whole together, and each opens no other file than its own. A query is cut into ranges
of a column; what has no such thing (lists, frames, sources of others) is dealt out row by row.

What all partitions have to agree on, the files with their sizes and versions or the least and the largest key, is a
``Cut``: the first of them looks, and the others take its word.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_llm_batch.data.files import Located
    from airflow_llm_batch.data.sources import Source

WRITTEN = re.compile(r"(\d{1,6})/(\d{1,6})")
#: partitions of a source
MOST = 10_000


@dataclass(frozen=True)
class Partition:
    """One of several parts of a source, ``3/64`` where it is written.

    :param number: from 0.
    """

    number: int
    count: int

    @classmethod
    def of(cls, given: Any) -> Partition | None:
        """:param given: ``"3/64"``; None or "" for all rows.

        :raises ConfigurationError: for anything else.
        """
        if given in (None, ""):
            return None
        found = WRITTEN.fullmatch(str(given))
        number, count = map(int, found.groups()) if found else (0, 0)
        if not number < count <= MOST:
            raise ConfigurationError(
                f"partition is {given!r}; give one of partitions(n), '0/64' to '63/64', of {MOST:,} at most. Nothing "
                "was sent."
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def row(self, number: int) -> int:
        """The number among all rows of the partition's own row ``number``: no other partition has it."""
        return number * self.count + self.number

    def share(self, total: int) -> tuple[int, int]:
        """From where to where, the end not included, of so many; the last one has no end."""
        ends = self.number + 1 == self.count
        return total * self.number // self.count, sys.maxsize if ends else total * (self.number + 1) // self.count


def partitions(count: int) -> list[str]:
    """The partitions of a source, to be mapped over: ``["0/64", "1/64", ...]``.

    :raises ConfigurationError: for less than one, and for more than 10,000.
    """
    if not isinstance(count, int) or not 1 <= count <= MOST:
        raise ConfigurationError(f"partitions({count!r}): give a whole number from 1 to {MOST:,}.")
    return [f"{number}/{count}" for number in range(count)]


class CutFile(msgspec.Struct, array_like=True):
    """A file as it was when the source was cut.

    :param size: bytes.
    :param found: it was found below a directory or by a glob, whose names tell columns.
    :param version: as ``file_facts.version_of``; "" where nothing but its size tells whether it has changed.
    """

    uri: str
    size: int
    found: bool
    version: str = ""


class Cut(msgspec.Struct):
    """What all partitions of a source agree on.

    :param sources: URIs of the rows.
    :param files: None where they are none.
    :param low: of a query's column, and ``high``; None where it has no value.
    """

    sources: tuple[str, ...] = ()
    files: list[CutFile] | None = None
    low: int | None = None
    high: int | None = None


def cut_of(rows: Any) -> Cut:
    """Look at a source once, for all of its partitions.

    :param rows: anything ``sources.source_of`` takes.
    :raises InputError: for one that cannot be cut, or not be read.
    """
    from airflow_llm_batch.data.sources import files_of, sources_of
    from airflow_llm_batch.data.sql import Sql

    sources = sources_of(rows)
    if isinstance(rows, Sql):
        return Cut(sources, None, *rows.bounds())
    paths = files_of(rows)
    if paths is None:
        return Cut(sources)
    from airflow_llm_batch.data.file_parts import listed

    return Cut(sources, listed(paths))


def part_of(rows: Any, partition: Partition, cut: Cut) -> Source:
    """The rows of one partition, in the source's order.

    :param cut: of the same rows.
    """
    from airflow_llm_batch.data.sources import Numbered, source_of
    from airflow_llm_batch.data.sql import Sql

    if isinstance(rows, Sql):
        part = rows.between(partition, cut.low, cut.high)
        return Numbered(part.rows, f"{rows.conn_id}:", cut.sources)
    if cut.files is not None:
        from airflow_llm_batch.data.file_parts import FilePart

        return FilePart(cut.files, partition, cut.sources)
    return Dealt(source_of(rows), partition)


class Dealt:
    """Every so many-th row of a source: what has neither files nor keys is read whole by each partition."""

    def __init__(self, source: Source, partition: Partition) -> None:
        self.source, self.partition = source, partition
        self.uris = source.uris

    def rows(self, columns: Collection[str] | None = None) -> Located:
        return islice(self.source.rows(columns), self.partition.number, None, self.partition.count)
