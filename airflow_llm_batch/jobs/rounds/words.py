"""What was wrong with answers, to be said to the models that gave them."""

from __future__ import annotations

import sqlite3
from types import TracebackType

from airflow_llm_batch.results import Failure

SAID = "This answer was not accepted: {why}\nAnswer again, so that it is."


class Words:
    """Answers that were not accepted with the reasons, in a temporary database. Use as a context manager."""

    def __enter__(self) -> Words:
        self.database = sqlite3.connect("")
        self.database.execute("create table words (row_number integer primary key, answer text, why text)")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.database.close()

    def add(self, failure: Failure) -> None:
        """Take note of an answer that is ``invalid``; nothing of one that is not kept."""
        if failure.status == "invalid" and failure.answer and failure.error_message:
            values = failure.row, failure.answer, SAID.format(why=failure.error_message)
            self.database.execute("insert or replace into words values (?, ?, ?)", values)

    def of(self, row: int) -> tuple[str, str] | None:
        """The answer to a row, and what is said to it."""
        found = self.database.execute("select answer, why from words where row_number = ?", (row,)).fetchone()
        return None if found is None else (found[0], found[1])
