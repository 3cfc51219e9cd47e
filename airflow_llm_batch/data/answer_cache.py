"""Where answers are kept for later jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow_llm_batch.exceptions import ConfigurationError


class AnswerCache:
    """Answers of earlier jobs, by what was asked.

    :param uri: a folder in any object storage, for this alone.
    :param max_age: after which an answer does not count any more, a ``timedelta`` or seconds; None for never.
    :param max_bytes: that its files may have together; what was bought first goes first. None for any number.
    """

    template_fields: Sequence[str] = ("uri",)

    def __init__(self, uri: str, *, max_age: timedelta | float | None = None, max_bytes: int | None = None) -> None:
        self.uri = uri
        self.max_age = timedelta(seconds=max_age) if isinstance(max_age, int | float) else max_age
        self.max_bytes = max_bytes
        if self.max_age is not None and self.max_age <= timedelta(0):
            raise ConfigurationError(f"max_age is {max_age!r}; give a time above 0, or None for any age.")
        if max_bytes is not None and max_bytes < 1:
            raise ConfigurationError(f"max_bytes is {max_bytes!r}; give a number of bytes, or None for any number.")

    def __repr__(self) -> str:
        # Airflow keeps it of mapped tasks' arguments: one with an address in it would be another DAG at each parsing.
        return f"AnswerCache({self.uri!r}, max_age={self.max_age!r}, max_bytes={self.max_bytes!r})"

    @classmethod
    def of(cls, given: AnswerCache | str | None) -> AnswerCache | None:
        """:raises ConfigurationError: for anything else."""
        if given is None or isinstance(given, AnswerCache):
            return given
        if isinstance(given, str):
            return cls(given) if given else None
        raise ConfigurationError(f"cache is a {type(given).__name__}; give a URI or an AnswerCache. Nothing was sent.")

    def since(self, now: datetime) -> datetime | None:
        """Before when answers do not count, None for none."""
        return None if self.max_age is None else now - self.max_age

    def serialize(self) -> dict[str, Any]:
        """As Airflow shows it."""
        age = None if self.max_age is None else self.max_age.total_seconds()
        return {"uri": self.uri, "max_age": age, "max_bytes": self.max_bytes}
