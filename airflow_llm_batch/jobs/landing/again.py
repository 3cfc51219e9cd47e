"""Downloads that break off, and results that an ended batch does not deliver yet: how long to try again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import LLMBatchError, RequestRejected, VendorUnavailable

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.models import Batch

#: downloads of a shard that may break off
TRIES = 4
#: seconds for which counted results are asked for; the connection's ``delivery_seconds`` says otherwise
DELIVERY = 120.0
#: seconds of the first and of the longest pause
FIRST, LONGEST = 1.0, 30.0


class NotDelivered(VendorUnavailable):
    """The vendor counts rows as finished whose answers are not there; nothing is asked again on that evidence."""


class Again:
    """What is left of the patience with one shard.

    :param delivery: seconds for which counted results are asked for, None for the usual ones.
    """

    def __init__(self, delivery: float | None) -> None:
        self.tries, self.pause = TRIES, 0.0
        self.left = DELIVERY if delivery is None else delivery

    def wait(self, error: LLMBatchError, batch: Batch, log: Logger) -> None:
        """Until the next try.

        :raises LLMBatchError: ``error``, when there is to be none.
        """
        is_late = isinstance(error, NotDelivered) or is_missing(error)
        self.tries -= not is_late
        if not self.tries or self.left <= 0 or not (is_late or isinstance(error, VendorUnavailable)):
            raise error
        log.warning("Trying batch %s once more in %.0f s: %s", batch.id, self.pause, error)
        if is_late:
            pause = min(self.pause, self.left)
            time.sleep(pause)
            self.left -= max(pause, min(FIRST, self.left))
            self.pause = min(max(self.pause * 2, FIRST), LONGEST)


def is_missing(error: LLMBatchError) -> bool:
    """Whether results that the vendor has told of are not there, or not heard of yet where they were asked for."""
    return isinstance(error, RequestRejected) and error.is_missing


def not_delivered(batch: Batch, short: int) -> NotDelivered:
    return NotDelivered(
        f"Batch {batch.id} has ended as {batch.status!r}, and its vendor counts {short:,} finished rows more than it "
        "delivers. Nothing of this shard was landed, and no row is asked or paid again. Clear this task to look once "
        'more, or land what is there with "undelivered": "land" in the connection\'s extra.'
    )
