"""Values by row and model, brought together on disk: models' answers lie in other orders than rows do."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from types import TracebackType

#: kilobytes of the table that are held in memory
HELD = 8192


class ByRow:
    """A table in a temporary file. Use as a context manager."""

    def __enter__(self) -> ByRow:
        self.folder = tempfile.TemporaryDirectory(prefix="llm-batch-compare-")
        self.database = sqlite3.connect(os.path.join(self.folder.name, "rows.db"), isolation_level=None)
        # Nobody misses it after a crash.
        for setting in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{HELD}", "temp_store=FILE"):
            self.database.execute(f"PRAGMA {setting}")
        self.database.execute(
            "CREATE TABLE given (row INTEGER, model INTEGER, value BLOB, PRIMARY KEY (row, model)) WITHOUT ROWID"
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.database.close()
        self.folder.cleanup()

    def add(self, values: Iterable[tuple[int, int, bytes]]) -> None:
        """Put in values of (row, model), one each."""
        self.database.execute("BEGIN")
        self.database.executemany("INSERT OR REPLACE INTO given VALUES (?, ?, ?)", values)
        self.database.execute("COMMIT")

    def rows(self) -> Iterator[tuple[int, dict[int, bytes]]]:
        """Every row in its order, with the values by model."""
        found = self.database.execute("SELECT row, model, value FROM given ORDER BY row, model")
        for row, values in groupby(found, key=itemgetter(0)):
            yield row, {model: value for _, model, value in values}
