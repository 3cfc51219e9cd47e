"""Duplicate keys, found in constant memory."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from airflow_llm_batch.exceptions import InputError

BATCH = 5_000


class UniqueKeys:
    """Refuses a key that was seen before. The keys lie in a temporary file, memory holds a few thousand.

    Use as a context manager and call ``finish`` after the last key.

    :param column: the key column's name, for the message.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self.pending: dict[bytes, int] = {}

    def __enter__(self) -> UniqueKeys:
        self.directory = tempfile.TemporaryDirectory(prefix="llm-batch-keys-")
        self.db = sqlite3.connect(str(Path(self.directory.name) / "keys"), isolation_level=None)
        self.db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;"
            "CREATE TABLE keys (key BLOB PRIMARY KEY, row INTEGER) WITHOUT ROWID; BEGIN"
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.db.close()
        self.directory.cleanup()

    def add(self, key: Any, row: int) -> None:
        """:raises InputError: names the key and both rows."""
        encoded = msgspec.json.encode(key)
        if encoded in self.pending:
            self._refuse(encoded, self.pending[encoded], row)
        self.pending[encoded] = row
        if len(self.pending) >= BATCH:
            self.finish()

    def finish(self) -> None:
        """Check what is pending.

        :raises InputError: as ``add``.
        """
        # Sorted, a batch walks the tree once instead of jumping about in it.
        rows = sorted(self.pending.items())
        self.pending.clear()
        try:
            self.db.executemany("INSERT INTO keys VALUES (?, ?)", rows)
        except sqlite3.IntegrityError:
            for encoded, row in rows:
                [(first,)] = self.db.execute("SELECT row FROM keys WHERE key = ?", (encoded,)).fetchall() or [(row,)]
                if first != row:
                    self._refuse(encoded, first, row)
            raise

    def _refuse(self, encoded: bytes, first: int, second: int) -> None:
        raise InputError(
            f"Duplicate key: rows {first} and {second} both have {self.column} = {encoded.decode()}. Every row's key "
            "must be its own, or results cannot be told apart; name another key column, or none to use row numbers. "
            "Nothing was sent."
        )
