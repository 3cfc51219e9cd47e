"""The overview, kept for a moment and read by one thread: a slow store delays nobody for long."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.jobs.overview import Overview

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.overview import JobView, Key, Round

#: seconds for which what was read is good enough
FRESH = 2.0
#: seconds that a request waits for the store
PATIENCE = 5.0


class StoreTrouble(Exception):
    """The store cannot be read, or not in time; its text is for people."""


class Seen(NamedTuple):
    """What was read last.

    :param note: why it is not of this moment, empty when it is.
    """

    jobs: list[JobView]
    rounds: dict[Key, list[Round]]
    note: str = ""


class Snapshot:
    """The newest look at the job store, for all requests of the process."""

    def __init__(self, overview: Overview | None = None) -> None:
        self.overview = overview or Overview()
        self.pool = ThreadPoolExecutor(1, "llm-batch-snapshot")
        self.lock = threading.Lock()
        self.running: Future[Seen] | None = None
        self.seen: Seen | None = None
        self.read_at = 0.0

    def look(self) -> Seen:
        """What the store holds now, or held a moment ago.

        :raises StoreTrouble: when it was never read and cannot be now.
        """
        with self.lock:
            if self.seen is not None and time.monotonic() - self.read_at < FRESH:
                return self.seen
            if self.running is None or self.running.done():
                self.running = self.pool.submit(self._read)
            running = self.running
        try:
            return running.result(PATIENCE)
        except TooLate:
            trouble = f"The job store at {self.overview.uri} has not answered for {PATIENCE:.0f} seconds."
        except Exception as error:
            trouble = f"The job store at {self.overview.uri} cannot be read: {type(error).__name__}: {error}"
        if self.seen is None:
            raise StoreTrouble(trouble)
        age = time.monotonic() - self.read_at
        return self.seen._replace(note=f"{trouble} What is shown is {age:.0f} seconds old.")

    def forget(self) -> None:
        """Something was changed: read again at the next look."""
        self.read_at = 0.0

    def _read(self) -> Seen:
        seen = Seen(self.overview.refresh(), self.overview.jobs)
        self.seen, self.read_at = seen, time.monotonic()
        return seen
