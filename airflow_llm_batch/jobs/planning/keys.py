"""Duplicate keys, found in constant memory."""

from __future__ import annotations

import os
import struct
import tempfile
from array import array
from types import TracebackType

from airflow_llm_batch.exceptions import InputError

#: keys held before they are put into the temporary file
HELD = 50_000
BUCKETS = 256
PACK = struct.Struct("=3q").pack


class UniqueKeys:
    """Refuses keys of which there is more than one. Memory holds a few ten thousand of them, a file the rest.

    A key is kept as two independent 64-bit hashes and its row, in one of many buckets; ``finish`` looks through one
    bucket after the other. Use as a context manager and call ``finish`` after the last key.

    :param column: the key column's name, for the message.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self.salt = os.urandom(8)
        self.count = 0
        self.buckets = [bytearray() for _ in range(BUCKETS)]
        #: one per time that memory was full: where each bucket begins in the file, and where the last one ends
        self.spills: list[array[int]] = []

    def __enter__(self) -> UniqueKeys:
        self.file = tempfile.TemporaryFile(prefix="llm-batch-keys-")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def add(self, encoded: bytes, row: int) -> None:
        """Add a key, as JSON."""
        first = hash(encoded)
        self.buckets[first % BUCKETS] += PACK(first, hash(encoded + self.salt), row)
        self.count += 1
        if self.count % HELD == 0:
            self.spill()

    def spill(self) -> None:
        starts = array("Q")
        for bucket in self.buckets:
            starts.append(self.file.tell())
            self.file.write(bucket)
            bucket.clear()
        starts.append(self.file.tell())
        self.spills.append(starts)

    def finish(self) -> None:
        """Look for duplicates.

        :raises InputError: names both rows.
        """
        for number, bucket in enumerate(self.buckets):
            for starts in self.spills:
                self.file.seek(starts[number])
                bucket += self.file.read(starts[number + 1] - starts[number])
            held = array("q", bytes(bucket))
            keys = set(zip(held[::3], held[1::3], strict=True))
            if len(keys) * 3 != len(held):
                self.refuse(held)
            bucket.clear()

    def refuse(self, held: array[int]) -> None:
        rows: dict[tuple[int, int], int] = {}
        for first, second, row in sorted(zip(held[::3], held[1::3], held[2::3], strict=True), key=lambda k: k[2]):
            before = rows.setdefault((first, second), row)
            if before != row:
                raise InputError(
                    f"Duplicate key: rows {before:,} and {row:,} (counted from 0) have the same {self.column}. Every "
                    "row's key must be its own, or results cannot be told apart; name another key column, or none to "
                    "use row numbers. Nothing was sent."
                )
