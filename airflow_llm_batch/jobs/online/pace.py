"""How fast calls may be made: so many at once and a minute, fewer when the vendor says so."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.online.lease import Allowance

#: seconds of pause after a 429 without Retry-After, doubled with each one in a row
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: seconds within which several refusals are one
SAME_MOMENT = 0.5


class Pace:
    """One model's limits, shared by all its workers.

    Calls at once are halved when the vendor refuses one for its rate, and grow by one with each full round of good
    answers, up to what was asked for.

    :param concurrency: calls at once.
    :param requests_per_minute: None for any number; likewise ``tokens_per_minute``, prompt and cap together.
    :param shared: what is shared with other workers, None where nothing is.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        shared: Allowance | None = None,
    ) -> None:
        self.shared = shared
        self.most = self.allowed = float(concurrency)
        self.requests = Bucket(requests_per_minute / 60, clock) if requests_per_minute else None
        self.tokens = Bucket(tokens_per_minute / 60, clock) if tokens_per_minute else None
        self.clock, self.sleep = clock, sleep
        self.active = 0
        self.not_before = 0.0
        self.refusals = 0
        self.refused_at = float("-inf")
        self.waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self, tokens: int) -> None:
        """Wait for one's turn, first come first served; ``leave`` afterwards."""
        await self._slot()
        try:
            while (wait := self._wait(tokens)) > 0:
                await self.sleep(wait)
        except BaseException:
            self.leave()
            raise
        if self.requests:
            self.requests.take(1)
        if self.tokens:
            self.tokens.take(tokens)
        if self.shared:
            self.shared.take(tokens)

    def _wait(self, tokens: int) -> float:
        """Seconds until a call may be made."""
        if self.not_before and (pause := self.not_before - self.clock()) > 0:
            return pause
        limits = ((self.requests, 1), (self.tokens, tokens), (self.shared, tokens))
        waits = [limit.wait(amount) for limit, amount in limits if limit]
        return max(waits, default=0.0)

    async def _slot(self) -> None:
        if self.active < int(self.allowed) and not self.waiting:
            self.active += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()
            elif turn in self.waiting:
                # One that was given up is no longer there when others have gone in the meantime.
                self.waiting.remove(turn)
            raise

    def leave(self) -> None:
        self.active -= 1
        self._grant()

    def _grant(self) -> None:
        """Let those go whose turn it is."""
        while self.waiting and self.active < int(self.allowed):
            turn = self.waiting.popleft()
            if not turn.done():
                self.active += 1
                turn.set_result(None)

    async def close(self) -> None:
        if self.shared is not None:
            await asyncio.to_thread(self.shared.close)

    def went_well(self) -> None:
        self.refusals = 0
        if self.allowed < self.most:
            self.allowed = min(self.most, self.allowed + 1 / self.allowed)
            self._grant()

    def start_over(self) -> None:
        """Calls go elsewhere now, and what was refused there says nothing of it."""
        self.allowed, self.refusals, self.not_before = self.most, 0, 0.0
        self._grant()

    def was_refused(self, retry_after: float | None) -> None:
        """The vendor took a call for too much: slow down, all of us."""
        now = self.clock()
        if now - self.refused_at > SAME_MOMENT:
            self.allowed = max(1.0, self.allowed / 2)
            self.refusals += 1
            self.refused_at = now
        pause = min(FIRST_PAUSE * 2 ** (self.refusals - 1), LONGEST_PAUSE) if retry_after is None else retry_after
        self.not_before = max(self.not_before, now + pause * random.uniform(1.0, 1.2))  # noqa: S311


class Bucket:
    """A rate: what is taken is owed until it has flowed back. Half a second's worth may be taken at once."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate, self.clock = rate, clock
        self.most = max(rate / 2, 1.0)
        self.level = self.most
        self.at = clock()

    def wait(self, amount: float) -> float:
        """Seconds until so much may be taken; more than fits may be once it is full."""
        now = self.clock()
        self.level = min(self.most, self.level + (now - self.at) * self.rate)
        self.at = now
        missing = min(amount, self.most) - self.level
        return missing / self.rate if missing > 0 else 0.0

    def change(self, rate: float) -> None:
        """Go on at another rate."""
        self.wait(0)
        self.rate, self.most = rate, max(rate / 2, 1.0)
        self.level = min(self.level, self.most)

    def take(self, amount: float) -> None:
        self.level -= amount
