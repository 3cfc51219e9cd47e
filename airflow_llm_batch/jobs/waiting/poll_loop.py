"""One poll loop per connection for every waiting job in the process.

A thousand waits cost one client and, where the vendor lists batches, a call for every hundred of them. A wait knows
nothing of the others: it asks for its ``state`` and is woken when there is something to decide.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import LLMBatchError, RequestRejected
from airflow_llm_batch.jobs.waiting.decisions import interval
from airflow_llm_batch.jobs.waiting.mail import Mail, takes_events
from airflow_llm_batch.jobs.waiting.wait import unreadable
from airflow_llm_batch.providers.troubles import is_refused_key

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.waiting.decisions import Next
    from airflow_llm_batch.jobs.waiting.wait import JobWait
    from airflow_llm_batch.models import Batch

    Readings = dict[str, Batch | LLMBatchError]

#: so few ids are read one by one rather than looked for in a listing
FEW = 2
#: pages without news that a listing may cost in one look before what is left is read one by one
FRUITLESS = 2
#: single reads at once
READS_AT_ONCE = 8
#: waits handled between two turns of the event loop, which belongs to every trigger of the process
SLICE = 25
#: seconds to let further waits arrive before a look: a triggerer starts with many at a time
GATHERING = 0.5
#: seconds between two looks at the very least
SHORTEST = 0.01
#: seconds to wait after something unforeseen, and how often in a row that may be
AGAIN, MOST_FAILURES = 10.0, 30
FORBIDDEN = 403
#: seconds until a listing is asked for again that failed where single reads did not
LISTS_AGAIN = 900.0

#: for so many seconds after an event has woken somebody, looks without one are so much rarer
TRUSTED, RARER = 6 * 3600.0, 3
#: for so many seconds after its own event a wait looks so often: what was told may not show yet
AHEAD, SOON = 120.0, 5.0

log = logging.getLogger(__name__)
WATCHES: dict[tuple[asyncio.AbstractEventLoop, str], Watch] = {}


@asynccontextmanager
async def watching(conn_id: str, connect: Callable[[str], LLMBatchHook]) -> AsyncIterator[Watch]:
    """The watch of a connection, shared by everybody on this event loop; it ends with the last of them.

    :param connect: makes a hook of a connection's id; asked again when the key was replaced.
    """
    watch = WATCHES.get((asyncio.get_running_loop(), conn_id))
    if watch is None:
        watch = Watch(conn_id, connect)
        WATCHES[watch.key] = watch
    watch.users += 1
    try:
        await watch.opened()
        yield watch
    finally:
        watch.users -= 1
        if not watch.users:
            watch.retire()
            watch.task.cancel()


class Turn:
    """One wait's place in the loop.

    :ivar due: epoch seconds of its next look.
    :ivar told_at: epoch seconds at which an event of one of its batches was seen.
    :ivar busy: it is writing down what was read; nothing more is told to it meanwhile.
    """

    __slots__ = ("began", "busy", "due", "error", "job", "least", "most", "told_at", "wake")

    def __init__(self, job: JobWait, least: float, most: float) -> None:
        self.job, self.least, self.most = job, max(float(least), SHORTEST), float(most)
        self.busy = False
        self.began = self.due = time.time()
        self.told_at = 0.0
        self.wake = asyncio.Event()
        self.error: Exception | None = None

    def interval(self, now: float) -> float:
        return interval(now - self.began, self.least, self.most)


class Watch:
    """The loop of one connection.

    :param again: seconds to wait after something unforeseen.
    :ivar hook: inside its session.
    :ivar lists_from: epoch seconds from which listings are asked for; a gateway may have none.
    :ivar error: why it has ended.
    """

    hook: LLMBatchHook
    error: Exception | None = None
    #: epoch seconds at which an event last woke somebody
    told_at = 0.0

    def __init__(self, conn_id: str, connect: Callable[[str], LLMBatchHook], again: float = AGAIN) -> None:
        self.conn_id, self.connect, self.again = conn_id, connect, again
        self.key = asyncio.get_running_loop(), conn_id
        self.users = 0
        self.turns: set[Turn] = set()
        self.arrived = asyncio.Event()
        self.lists_from = 0.0
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self.run(), name=f"llm-batch-watch-{conn_id}")

    async def opened(self) -> None:
        """Until the first session is open.

        :raises Exception: why it cannot be opened.
        """
        await asyncio.shield(self.open)

    async def state(self, job: JobWait, least: float, most: float) -> Next:
        """Wait until a job has ended or asks for shards to be created.

        :param least: seconds between looks at first, and ``most`` at last.
        :raises WaitEnded: when watching is over before the job is.
        :raises RequestRejected: when the vendor refuses to tell, for example because of a wrong key.
        """
        turn = Turn(job, least, most)
        if self.error is not None:
            raise self.error
        self.turns.add(turn)
        self.arrived.set()
        try:
            while True:
                await turn.wake.wait()
                turn.wake.clear()
                if turn.error is not None:
                    raise turn.error
                # In the wait's own context, for the log is its task's; off the loop, for it writes files.
                turn.busy = True
                step = await asyncio.to_thread(job.conclude)
                turn.busy = False
                if step.action in ("ended", "create"):
                    return step
        finally:
            self.turns.discard(turn)

    async def run(self) -> None:
        failures = 0
        while True:
            began = time.time()
            try:
                async with self.connect(self.conn_id).session() as hook:
                    self.hook = hook
                    for turn in self.turns:
                        turn.job.hook = hook
                    if not self.open.done():
                        self.open.set_result(None)
                    await self.look_on()
            except Exception as error:
                # Airflow itself may not answer for a moment when the connection is looked up once more.
                failures = 1 if time.time() - began > MOST_FAILURES * self.again else failures + 1
                if not self.open.done() or isinstance(error, LLMBatchError) or failures > MOST_FAILURES:
                    self.end(error)
                    return
                log.warning("Watching %s broke off, going on: %s: %s", self.conn_id, type(error).__name__, error)
                await asyncio.sleep(self.again)

    def end(self, error: Exception) -> None:
        """What may pass was waited for; this concerns every wait on the connection. Later ones start anew."""
        self.error = error
        self.retire()
        if not self.open.done():
            self.open.set_exception(error)
        for turn in self.turns:
            turn.error = error
            turn.wake.set()

    def retire(self) -> None:
        if WATCHES.get(self.key) is self:
            del WATCHES[self.key]

    async def look_on(self) -> None:
        """Look again and again; returns when the key is refused that was good before, to look it up once more."""
        mail = asyncio.create_task(Mail(self.conn_id).deliver(self.wake)) if takes_events(self.hook) else None
        try:
            await self._look_on()
        finally:
            if mail is not None:
                mail.cancel()

    def wake(self, batches: set[str]) -> None:
        """Something has happened to these batches: whoever waits for one looks now."""
        for turn in self.turns:
            if not batches.isdisjoint(turn.job.wait.pending.values()):
                turn.due, turn.told_at = 0.0, time.time()
                self.told_at = turn.told_at
                self.arrived.set()

    async def _look_on(self) -> None:
        proven = False
        while True:
            await self.gather()
            now = time.time()
            # Whoever is due soon is served now: one look for all instead of one for each.
            soon = now + self.pace(now) / 2
            # A look that is further off than any pause was set by a clock that has been put back since.
            due = [t for t in self.turns if not t.busy and (t.due <= soon or t.due > now + t.most * RARER)]
            readings = await self.read({batch_id for turn in due for batch_id in turn.job.wait.pending.values()})
            if proven and any(map(is_refusal, readings.values())):
                return
            proven = proven or bool(readings)
            await self.hand_out(due, readings)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), self.pace(now) * random.uniform(0.9, 1.1))  # noqa: S311

    def pace(self, now: float) -> float:
        """Seconds between two looks: what the most eager wait wants; for ever while nobody waits."""
        return min((self.interval(turn, now) for turn in self.turns), default=3600.0)

    def interval(self, turn: Turn, now: float) -> float:
        """Seconds between two looks of a wait: rarer while the vendor's events are seen to arrive, and often after one
        that was ahead of what a look can see."""
        if now - turn.told_at < AHEAD:
            return min(turn.interval(now), SOON)
        return turn.interval(now) * (RARER if now - self.told_at < TRUSTED else 1)

    async def gather(self) -> None:
        """Let those arrive that come at the same time as the first."""
        if not self.turns:
            await self.arrived.wait()
        await asyncio.sleep(min([GATHERING, *(turn.least / 2 for turn in self.turns)]))
        self.arrived.clear()

    async def read(self, wanted: set[str]) -> Readings:
        """Every wanted batch, or why it could not be read: from listings as far as they go, else one by one."""
        readings: Readings = {}
        listed = len(wanted) > FEW and self.hook.provider.page_size and time.time() >= self.lists_from
        if listed and (error := await self.read_listings(wanted, readings)):
            # A vendor that is down is not asked the same a thousand times over; but is it down?
            rest = sorted(wanted - readings.keys())
            await self.read_single(rest[:FEW], readings)
            if all(isinstance(readings[batch_id], LLMBatchError) for batch_id in rest[:FEW]):
                return dict.fromkeys(rest, error) | readings
            self.lists_from = time.time() + LISTS_AGAIN
        await self.read_single(wanted - readings.keys(), readings)
        return readings

    async def read_single(self, batch_ids: Iterable[str], readings: Readings) -> None:
        limit = asyncio.Semaphore(READS_AT_ONCE)

        async def read_one(batch_id: str) -> None:
            async with limit:
                try:
                    readings[batch_id] = await self.hook.arun(self.hook.provider.get(batch_id))
                except LLMBatchError as error:
                    readings[batch_id] = error
                except Exception as error:
                    readings[batch_id] = unreadable(error)

        await asyncio.gather(*map(read_one, batch_ids))

    async def read_listings(self, wanted: set[str], readings: Readings) -> LLMBatchError | None:
        """Read pages as long as they are worth it; why no further, when that is the vendor's doing."""
        missing, fruitless, after = set(wanted), 0, None
        while len(missing) > FEW and fruitless <= FRUITLESS:
            try:
                page = await self.hook.arun(self.hook.provider.list(after))
            except LLMBatchError as error:
                return error
            except Exception as error:  # somebody else's batch, of a shape nobody has met, is on the page
                return unreadable(error)
            found = {batch.id: batch for batch in page.items if batch.id in missing}
            readings.update(found)
            missing -= found.keys()
            # A page is worth its call when it saves several.
            fruitless += len(found) <= FEW
            if page.after in (None, after):
                break
            after = page.after
        return None

    async def hand_out(self, due: list[Turn], readings: Readings) -> None:
        """Tell every wait what was read of its batches, and wake those that have something to do."""
        now = time.time()
        for number, turn in enumerate(due, 1):
            job = turn.job
            turn.due = now + self.interval(turn, now)
            try:
                pending = list(job.wait.pending.items())
                news = [job.note(index, readings[id_]) for index, id_ in pending if id_ in readings]
                if any(news) or job.wait.decide(now).action != "wait":
                    turn.wake.set()
            except Exception as error:
                turn.error = error
                turn.wake.set()
            if number % SLICE == 0:
                await asyncio.sleep(0)


def is_refusal(reading: Batch | LLMBatchError) -> bool:
    """Whether the vendor does not accept the key, which may have been replaced meanwhile."""
    if not isinstance(reading, RequestRejected):
        return False
    return reading.status == FORBIDDEN or is_refused_key(reading.status, reading.code)
