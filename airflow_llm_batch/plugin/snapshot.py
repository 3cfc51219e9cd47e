"""The store's jobs, kept for a moment and read by threads of their own: a slow store delays nobody else, and nobody for
long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_llm_batch.jobs.view.overview import Overview, window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from airflow_llm_batch.jobs.directory.address import JobKey
    from airflow_llm_batch.jobs.view.files import RoundFiles
    from airflow_llm_batch.jobs.view.job import JobView

T = TypeVar("T")
FRESH, PATIENCE = 2.0, 5.0
#: pages of one job that are read at once
READERS = 4
#: seconds for which days are kept that somebody has asked for
KEPT = 600.0


class StoreTrouble(Exception):
    """The store cannot be read, or not in time; its text is for people."""


class Seen(NamedTuple):
    """What was read last.

    :param note: why it is not of this moment, empty when it is.
    """

    jobs: list[JobView]
    note: str = ""


class Snapshot:
    """The newest look at the job store, for all requests of the process.

    :param fresh: seconds for which what was read is good enough.
    :param patience: seconds that a request waits for the store.
    """

    def __init__(self, overview: Overview | None = None, fresh: float = FRESH, patience: float = PATIENCE) -> None:
        self.overview, self.fresh, self.patience = overview or Overview(), fresh, patience
        self.pool = ThreadPoolExecutor(1, "llm-batch-snapshot")
        self.readers = ThreadPoolExecutor(READERS, "llm-batch-page")
        self.lock = threading.Lock()
        self.running: dict[Any, Future[Any]] = {}
        self.known: dict[Any, tuple[float, Any]] = {}
        self.seen: Seen | None = None
        self.read_at = 0.0
        self.is_stale = True
        #: days that are read -> when somebody has asked for them last
        self.days: dict[date, float] = {}

    async def look(self, days: Sequence[date] | None = None) -> Seen:
        """What the store holds now, or held a moment ago.

        :param days: whose jobs are wanted, the last ones by default; others may be among the jobs.
        :raises StoreTrouble: when it was never read and cannot be now.
        """
        wanted = window(self.overview.today) if days is None else days
        now = time.monotonic()
        is_read = self.days.keys() >= set(wanted)
        self.days |= dict.fromkeys(wanted, now)
        if is_read and self.seen is not None and not self.is_stale and now - self.read_at < self.fresh:
            return self.seen
        try:
            seen = await self._wait_for(self._once(None, self.pool, self._read))
            # Somebody else's look, which began before, has not asked for these days.
            return seen if is_read else await self._wait_for(self._once(None, self.pool, self._read))
        except StoreTrouble as trouble:
            if self.seen is None:
                raise
            age = time.monotonic() - self.read_at
            return self.seen._replace(note=f"{trouble} What is shown is {age:.0f} seconds old.")

    async def ask(self, key: Any, read: Callable[[], T]) -> T:
        """Something that takes reading of one job; what was read a moment ago is good enough.

        :raises StoreTrouble: when the store cannot be read, or not in time.
        """
        known = self.known.get(key)
        if known is not None and time.monotonic() - known[0] < self.fresh:
            value: T = known[1]
            return value
        value = await self._wait_for(self._once(key, self.readers, read))
        if len(self.known) > 200:
            self.known.clear()
        self.known[key] = time.monotonic(), value
        return value

    async def rounds(self, key: JobKey) -> list[RoundFiles]:
        """One job's rounds, oldest first; none where there is no such job.

        :raises StoreTrouble: when the store cannot be read, or not in time.
        """
        return await self.ask(("rounds", key), lambda: self.overview.rounds(key))

    def forget(self, key: JobKey) -> None:
        """Something of a job was changed: read again at the next look."""
        self.overview.hurry(key)
        self.is_stale = True
        self.known.clear()

    def _once(self, key: Any, pool: ThreadPoolExecutor, read: Callable[[], T]) -> Future[T]:
        """The same thing is read once for all who wait for it."""
        with self.lock:
            running = self.running.get(key)
            if running is None or running.done():
                if len(self.running) > 200:
                    self.running = {known: future for known, future in self.running.items() if not future.done()}
                running = self.running[key] = pool.submit(read)
            return running

    async def _wait_for(self, future: Future[T]) -> T:
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), self.patience)
        except TimeoutError:
            raise StoreTrouble(
                f"The job store at {self.overview.uri} has not answered for {self.patience:.0f} seconds."
            ) from None
        except Exception as error:
            raise StoreTrouble(
                f"The job store at {self.overview.uri} cannot be read: {type(error).__name__}: {error}"
            ) from None

    def _read(self) -> Seen:
        self.is_stale = False
        now = time.monotonic()
        days = [day for day, asked_at in list(self.days.items()) if now - asked_at < KEPT]
        if len(days) < len(self.days):
            self.days = {day: self.days[day] for day in days}
            self.overview.let_go(days)
        seen = Seen(self.overview.refresh(days))
        self.seen, self.read_at = seen, time.monotonic()
        if self.overview.is_check_due:
            self._once("check", self.readers, self.overview.check)
        return seen
