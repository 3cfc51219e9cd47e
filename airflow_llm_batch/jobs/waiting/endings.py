"""The ends of awaited jobs, as they are seen by a connection's poll loop: for who is told, and does not wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import Busy, ConfigurationError, LLMBatchError
from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.directory.awaited import Awaited, AwaitedJobs
from airflow_llm_batch.jobs.waiting.poll_loop import Watch, watching
from airflow_llm_batch.jobs.waiting.wait import wait_of

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook

#: seconds between two listings of the awaited jobs, at most
EVERY = 10.0
#: seconds until what failed is tried again
AGAIN = 60.0
#: seconds that Airflow has to write an event down, before the job is taken off the list
WRITTEN = 20.0


class Endings:
    """The awaited jobs of one connection that name one asset.

    :param completion: the asset's name.
    :param least: seconds between looks at a job at first, and ``most`` at last.
    :param storage: object storage URI, ``[llm_batch] storage`` by default.
    :ivar waits: what is watched, by the job's mark.
    :ivar notified: jobs whose end was told, and the epoch seconds at which.
    :ivar others: marks of jobs that are none of its own.
    :ivar resting: marks of jobs that cannot be watched now, and the epoch seconds from which they are again.
    """

    def __init__(
        self, conn_id: str, completion: str, least: float, most: float, storage: str | None, written: float = WRITTEN
    ) -> None:
        self.conn_id, self.completion, self.storage = conn_id, completion, storage
        self.least, self.most, self.written = least, most, written
        self.every = min(EVERY, least)
        self.waits: dict[str, asyncio.Task[Awaited | None]] = {}
        self.notified: dict[str, tuple[Awaited, float]] = {}
        self.others: set[str] = set()
        self.resting: dict[str, float] = {}

    async def handles(self, connect: Callable[[str], LLMBatchHook], log: Logger) -> AsyncIterator[dict[str, Any]]:
        """The handle of each job that ends, for ever.

        :param connect: makes a hook of a connection's id.
        """
        self.log = log
        while True:
            try:
                async with watching(self.conn_id, connect) as watch:
                    jobs = await asyncio.to_thread(self._jobs)
                    while watch.error is None:
                        for awaited in await self._look(jobs, watch):
                            yield awaited.handle
                        await self._pause()
                    raise watch.error
            except Exception as error:
                # A key that is replaced, a store that is down: what is awaited is awaited still.
                log.warning("Jobs on %s cannot be watched now, trying again: %s", self.conn_id, error)
                self.close()
                await asyncio.sleep(AGAIN if isinstance(error, LLMBatchError) else EVERY)

    def _jobs(self) -> AwaitedJobs:
        return AwaitedJobs(self.storage or default_storage(), self.conn_id)

    async def _look(self, jobs: AwaitedJobs, watch: Watch) -> list[Awaited]:
        """Watch what is new on the list; the jobs that have ended, each to be told by us and nobody else."""
        now = time.time()
        for mark, (awaited, at) in list(self.notified.items()):
            if now - at >= self.written:
                await asyncio.to_thread(jobs.forget, awaited)
                del self.notified[mark]
        self.resting = {mark: until for mark, until in self.resting.items() if until > now}
        listed = await asyncio.to_thread(jobs.marks)
        self.others &= listed
        for mark in listed - self.others - self.waits.keys() - self.notified.keys() - self.resting.keys():
            self.waits[mark] = asyncio.create_task(self._end_of(jobs, mark, watch))
        ended = []
        for mark, task in [(mark, task) for mark, task in self.waits.items() if task.done()]:
            del self.waits[mark]
            try:
                done = task.result()
                if done is None:
                    self.others.add(mark)
                elif await asyncio.to_thread(jobs.begin_telling, done):
                    self.notified[mark] = done, now
                    ended.append(done)
            except Exception as error:
                self.resting[mark] = now + AGAIN
                if not isinstance(error, Busy):
                    self.log.warning("A job cannot be watched now, trying again: %s", error)
        return ended

    async def _end_of(self, jobs: AwaitedJobs, mark: str, watch: Watch) -> Awaited | None:
        """A job when it has ended; None for one that is another asset's, or gone."""
        awaited = await asyncio.to_thread(jobs.read, mark)
        if awaited is None or awaited.completion != self.completion:
            return None
        batch_id = None if awaited.job else awaited.batches[0]
        try:
            wait = await asyncio.to_thread(wait_of, watch.hook, awaited.job, batch_id, self.log)
        except ConfigurationError as error:
            self.log.warning("%s It is not watched any more.", error)
            await asyncio.to_thread(jobs.forget, awaited)
            return None
        while (await watch.state(wait, self.least, self.most)).action != "ended" and wait.wait.pending:
            # A batch that found no room is created again by whoever is told; not while others of the job run.
            await asyncio.sleep(self.least)
        return awaited

    async def _pause(self) -> None:
        """Until something has ended, or the list is to be read again."""
        if self.waits:
            await asyncio.wait(self.waits.values(), timeout=self.every, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(self.every)

    def close(self) -> None:
        """Let go of what is watched."""
        for task in self.waits.values():
            task.cancel()
        self.waits.clear()
