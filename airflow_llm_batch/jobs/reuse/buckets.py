"""Hashes of far more rows than memory holds, looked through a bucket at a time."""

from __future__ import annotations

import heapq
import struct
import tempfile
from array import array
from collections.abc import Container, Iterator
from itertools import pairwise
from types import TracebackType
from typing import IO

#: hashes held before they are put into the temporary file
HELD = 50_000
BUCKETS = 256
PACK = struct.Struct("=3q").pack
HALVES, NUMBER = struct.Struct("=2q"), struct.Struct("=q").pack
#: pairs of rows that are read at once of each bucket
READ = 512


class HashBuckets:
    """128-bit hashes with a row number each, by what the hash begins with; equal ones lie in one bucket, in the order
    of their rows. Memory holds a few ten thousand, a file the rest. Use as a context manager."""

    def __init__(self) -> None:
        self.count = 0
        self.buckets = [bytearray() for _ in range(BUCKETS)]
        #: one per time that memory was full: where each bucket begins in the file, and where the last one ends
        self.spills: list[array[int]] = []

    def __enter__(self) -> HashBuckets:
        self.file = tempfile.TemporaryFile(prefix="llm-batch-hashes-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def add(self, first: int, second: int, row: int) -> None:
        """:param first: half of the hash, signed; ``second`` the other one."""
        self.buckets[first % BUCKETS] += PACK(first, second, row)
        self.count += 1
        if self.count % HELD == 0:
            self._spill()

    def add_digest(self, digest: bytes, row: int) -> None:
        """:param digest: 16 bytes, of which the first says in which bucket it lies."""
        self.buckets[digest[0]] += digest + NUMBER(row)
        self.count += 1
        if self.count % HELD == 0:
            self._spill()

    def _spill(self) -> None:
        starts = array("Q")
        self.file.seek(0, 2)
        for bucket in self.buckets:
            starts.append(self.file.tell())
            self.file.write(bucket)
            bucket.clear()
        starts.append(self.file.tell())
        self.spills.append(starts)

    def counts(self) -> list[int]:
        """How many hashes each bucket has."""
        held = [len(bucket) for bucket in self.buckets]
        for starts in self.spills:
            held = [size + end - start for size, start, end in zip(held, starts, starts[1:], strict=False)]
        return [size // 24 for size in held]

    def __iter__(self) -> Iterator[array[int]]:
        """Each bucket: first, second, row, and so on."""
        for number, bucket in enumerate(self.buckets):
            held = array("q")
            for starts in self.spills:
                self.file.seek(starts[number])
                held.frombytes(self.file.read(starts[number + 1] - starts[number]))
            held.frombytes(bytes(bucket))
            yield held

    def repeated(self) -> int:
        """How many hashes were there before."""
        return sum(len(held) // 3 - len(set(zip(held[::3], held[1::3], strict=True))) for held in self)


def whole_hash(first: int, second: int) -> bytes:
    """The 16 bytes that ``add_digest`` took."""
    return HALVES.pack(first, second)


def copies(hashes: HashBuckets, without: Container[int]) -> Iterator[tuple[int, int]]:
    """Every row whose hash an earlier row has, with the first such row; in the order of the rows.

    :param without: rows that are left out.
    """
    with tempfile.TemporaryFile(prefix="llm-batch-copies-") as file:
        starts = [0]
        for held in hashes:
            first_row: dict[tuple[int, int], int] = {}
            pairs = array("q")
            for first, second, row in zip(held[::3], held[1::3], held[2::3], strict=True):
                if row not in without and (before := first_row.setdefault((first, second), row)) != row:
                    pairs.extend((row, before))
            file.write(pairs.tobytes())
            starts.append(file.tell())
        runs = (_pairs(file, *ends) for ends in pairwise(starts) if ends[0] < ends[1])
        yield from heapq.merge(*runs)


def _pairs(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        file.seek(start)
        pairs = array("q", file.read(min(READ * 16, end - start)))
        start += len(pairs) * 8
        yield from zip(pairs[::2], pairs[1::2], strict=True)
