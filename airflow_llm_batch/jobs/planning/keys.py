"""Duplicate keys, found in constant memory."""

from __future__ import annotations

import os
from array import array
from hashlib import blake2b
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.reuse.buckets import HashBuckets
from airflow_llm_batch.jobs.reuse.digests import SIZE

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys


class UniqueKeys:
    """Refuses keys of which there is more than one.

    A key is kept as two independent 64-bit hashes and its row. Use as a context manager and call ``finish`` after the
    last key.

    :param column: the key column's name, for the message.
    :param shared: where the other partitions find them, whose hashes are to be the same in every process.
    """

    def __init__(self, column: str, shared: SharedKeys | None = None) -> None:
        self.column, self.shared = column, shared
        self.salt = os.urandom(8)
        self.hashes = HashBuckets()

    def __enter__(self) -> UniqueKeys:
        self.hashes.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.hashes.__exit__(kind, error, at)

    def add(self, encoded: bytes, row: int) -> None:
        """Add a key, as JSON."""
        if self.shared is None:
            self.hashes.add(hash(encoded), hash(encoded + self.salt), row)
        else:
            self.hashes.add_digest(blake2b(encoded, digest_size=SIZE).digest(), row)

    def finish(self) -> None:
        """Look for duplicates.

        :raises InputError: names both rows.
        """
        for held in self.hashes:
            if len(set(zip(held[::3], held[1::3], strict=True))) * 3 != len(held):
                self._refuse(held)
        if self.shared is not None and self.hashes.count:
            self.shared.keep(self.column, self.hashes)

    def _refuse(self, held: array[int]) -> None:
        rows: dict[tuple[int, int], int] = {}
        for first, second, row in zip(held[::3], held[1::3], held[2::3], strict=True):
            before = rows.setdefault((first, second), row)
            if before != row:
                raise InputError(
                    f"Duplicate key: rows {before:,} and {row:,} (counted from 0) have the same {self.column}. Every "
                    "row's key must be its own, or results cannot be told apart; name another key column, or none to "
                    "use row numbers. Nothing was sent."
                )
