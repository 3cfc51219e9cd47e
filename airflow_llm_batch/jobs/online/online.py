"""The lanes of calls: the same requests against the synchronous endpoint, many at once, answers kept as they come.

What a shard's batch would have answered is written into a journal in the job directory, line by line, and landed from
there like any batch. A row whose answer is in the journal is never called again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from airflow_llm_batch.estimate import CALLED
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.claims import Claim
from airflow_llm_batch.jobs.directory.journal import EVERY, Journal
from airflow_llm_batch.jobs.directory.owner import this_process
from airflow_llm_batch.jobs.directory.rows import RowNumber, answered_rows, sent
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.money.tokens import sent_tokens
from airflow_llm_batch.jobs.online.endpoint import Calls, Vendor
from airflow_llm_batch.models import Batch, Created, Intent, Progress, ShardProgress, call_id
from airflow_llm_batch.step_log import StepLog

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job, Shard
    from airflow_llm_batch.providers.base import Provider

log = logging.getLogger(__name__)
T = TypeVar("T")
#: lines read ahead, off the event loop
AHEAD = 256


class Line(NamedTuple):
    """One request to call.

    :param tokens: of the prompt, estimated.
    :param entry: its line of ``rows.jsonl``.
    """

    shard: Shard
    row: int
    request: bytes
    tokens: int
    entry: bytes


class Online:
    """One job's calls.

    :param deadline: epoch seconds after which no call is begun and none is waited for.
    :param stop: set by another thread, ends it as a deadline does.
    """

    def __init__(
        self,
        store: JobStore,
        hook: LLMBatchHook,
        job: Job,
        calls: Calls,
        deadline: float | None = None,
        stop: Event | None = None,
        claim: Claim | None = None,
    ) -> None:
        self.store, self.hook, self.job, self.calls = store, hook, job, calls
        self.deadline = deadline
        self.stop = stop or Event()
        self.claim = claim or Claim.of(store, "calls", hook.options)
        self.answered: dict[int, int] = {}

    def run(self) -> None:
        """Call every row that was not answered yet, and close the shards: they can be landed then.

        :raises RequestRejected: when the vendor refuses the key.
        """
        with self.claim:
            asyncio.run(self.call_all())
            self.claim.check()

    async def call_all(self) -> None:
        """``run`` on an event loop."""
        await asyncio.to_thread(begin, self.store, self.job, self.calls.lane)
        await self.call()
        if self.stop.is_set() or self.claim.lost:
            return
        await asyncio.to_thread(close, self.store, self.job, self.answered, self.calls.lane)

    async def call(self, rows: RowSet | None = None) -> None:
        """Call what was not answered yet; the answers are in the journal when it returns.

        :param rows: the only ones to call, None for all.
        """
        vendor = Vendor(self.hook, self.calls)
        progress = StepLog(log, "rows answered", self.job.rows_asked if rows is None else len(rows))
        try:
            for shard in self.job.shards:
                if not self.is_over:
                    await self._shard(vendor, shard, rows, progress)
        finally:
            await vendor.close()

    async def _shard(self, vendor: Vendor, shard: Shard, rows: RowSet | None, progress: StepLog) -> None:
        done = await asyncio.to_thread(answered_rows, self.store, self.job, shard)
        self.answered[shard.index] = len(done)
        if rows is None:
            progress.add(len(done))
        wanted = wanted_lines(self.store, shard, done, rows, self.hook.provider)
        first = await asyncio.to_thread(next, wanted, None)
        if first is None:
            return
        journal = Journal(self.store, shard.index)
        ahead = Ahead(first, wanted)

        async def work() -> None:
            while not self.is_over and await self.claim.held() and (line := await ahead.next()) is not None:
                journal.add(await vendor.ask(line.request, line.tokens, shard))
                self.answered[shard.index] += 1
                progress.add(1)

        try:
            await at_once(work, self.calls.concurrency, lambda workers, over: self._watch(workers, over, journal))
        finally:
            await journal.close()

    @property
    def is_over(self) -> bool:
        late = self.deadline is not None and time.time() >= self.deadline
        return self.stop.is_set() or late or self.claim.lost

    async def _watch(self, workers: Sequence[asyncio.Task[None]], over: asyncio.Event, journal: Journal) -> None:
        """Tells how far it is, beside what every watch does."""
        told_at = time.monotonic()

        async def look() -> None:
            nonlocal told_at
            if time.monotonic() - told_at > EVERY:
                told_at = time.monotonic()
                await asyncio.to_thread(tell, self.store, self.job, self.answered, self.calls.lane)

        await watch(workers, over, lambda: self.is_over, lambda: [journal], [self.claim], look)


async def watch(
    workers: Sequence[asyncio.Task[None]],
    over: asyncio.Event,
    is_over: Callable[[], bool],
    journals: Callable[[], Sequence[Journal]],
    claims: Sequence[Claim],
    look: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Writes journals that are not written line by line, and ends the calls at their deadline, or when another try has
    taken over.

    Trouble with the store is told and does not end the watching: what is not written now is written later.
    """
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 0.2)
        try:
            for claim in claims:
                await claim.refresh()
            for journal in journals():
                if journal.is_due:
                    await journal.flush()
            await look()
        except Exception as error:
            log.warning("Could not write to the job directory, trying again: %s: %s", type(error).__name__, error)
        if is_over():
            for worker in workers:
                worker.cancel()
            return


async def at_once(
    work: Callable[[], Coroutine[Any, Any, None]],
    workers: int,
    watch: Callable[[list[asyncio.Task[None]], asyncio.Event], Coroutine[Any, Any, None]],
) -> None:
    """Run so many workers to their end; the first that fails ends the others.

    :param watch: runs beside them until its event is set.
    """
    running = [asyncio.create_task(work()) for _ in range(workers)]
    over = asyncio.Event()
    watching = asyncio.create_task(watch(running, over))
    try:
        done, left = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if failed := [error for task in done if not task.cancelled() and (error := task.exception())]:
            raise failed[0]
    finally:
        over.set()
        await asyncio.gather(watching, return_exceptions=True)


def begin(store: JobStore, job: Job, lane: str = "online") -> None:
    """Give the shards to the lane of calls, or take up what an earlier try has given to it.

    :raises ConfigurationError: when a shard was sent as a batch.
    """
    for shard in job.shards:
        attempts, name = store.attempts(shard.index), call_id(job.id, shard.index)
        made = Created(batch_id=name, at=datetime.now(UTC))
        if attempts.begin(Intent(at=made.at, owner=this_process(), lane=lane)):
            attempts.save_created(made, 1)
            continue
        created, held = attempts.created(), attempts.intent(attempts.last())
        if created is None or created.batch_id != name:
            if created is None and held.lane in CALLED:
                attempts.save_created(made, 1)
                continue
            raise ConfigurationError(
                f"Shard {shard.index} of {store.uri} was sent as a batch already; its rows are not called again. Fetch "
                "the batch, or clear the task with lane='batch'."
            )


def close(store: JobStore, job: Job, answered: dict[int, int], lane: str = "online") -> None:
    """Write down how each shard ended: completed, or expired with rows that were not called."""
    for shard in job.shards:
        whole = answered.get(shard.index, 0) >= shard.rows
        late = (
            "deadline",
            "The deadline passed before this row was answered; a call that was cut short may be billed.",
        )
        store.attempts(shard.index).save_ended(
            Batch(
                id=call_id(job.id, shard.index),
                status="completed" if whole else "expired",
                outcome="completed" if whole else "expired",
                total=shard.rows,
                errors=() if whole else (late,),
            )
        )
    tell(store, job, answered, lane)


def tell(store: JobStore, job: Job, answered: dict[int, int], lane: str = "online") -> None:
    """How far the job is, for the page and the log of whoever looks."""
    shards = {
        shard.index: ShardProgress(
            batch=call_id(job.id, shard.index),
            status="in_progress",
            total=shard.rows,
            succeeded=answered.get(shard.index, 0),
            failed=0,
        )
        for shard in job.shards
    }
    store.save_progress(Progress(at=time.time(), shards=shards, lane=lane))


def wanted_lines(
    store: JobStore, shard: Shard, done: RowSet, rows: RowSet | None, provider: Provider
) -> Iterator[Line]:
    """The requests of a shard that are to be called.

    :param rows: the only ones, None for all.
    """
    number = msgspec.json.Decoder(RowNumber).decode
    for request, entry in sent(store, shard.index, shard.token):
        row = number(entry).row
        if row not in done and (rows is None or row in rows):
            yield Line(shard, row, request, sent_tokens(request, provider, shard), entry)


class Ahead(Generic[T]):
    """Lines for many workers, read off the event loop a few hundred at a time."""

    def __init__(self, first: T, lines: Iterator[T]) -> None:
        self.held = [first]
        self.lines = lines
        self.lock = asyncio.Lock()

    async def next(self) -> T | None:
        while not self.held:
            async with self.lock:
                if not self.held:
                    more = await asyncio.to_thread(lambda: list(islice(self.lines, AHEAD)))
                    if not more:
                        return None
                    self.held = more[::-1]
        return self.held.pop()
