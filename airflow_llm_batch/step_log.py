"""How far a long step is, told at sensible intervals."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

    from airflow.sdk.types import Logger

#: seconds between two lines in the log
EVERY = 15.0


class StepLog:
    """Tells a count, at most every ``EVERY`` seconds.

    :param what: ``rows encoded``.
    :param total: what the count grows to, None where nobody knows.
    """

    def __init__(self, log: Logger | logging.Logger, what: str, total: int | None = None) -> None:
        self.log, self.what, self.total = log, what, total
        self.count = 0
        self.told_at = time.monotonic()

    def add(self, more: int) -> None:
        self.count += more
        if time.monotonic() - self.told_at >= EVERY:
            self.tell()

    def tell(self) -> None:
        """Tell it now."""
        self.told_at = time.monotonic()
        share = f" of {self.total:,} ({100 * self.count / self.total:.0f} %)" if self.total else ""
        self.log.info("%s%s %s.", f"{self.count:,}", share, self.what)
