"""One row to many models: the first good answer is taken, the other calls are given up at once."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from airflow_llm_batch.data.row_check import row_check
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.journal import Journal
from airflow_llm_batch.jobs.directory.rows import answered_rows, entries, shard_rows
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.directory.rules import rules_of
from airflow_llm_batch.jobs.online.endpoint import Vendor
from airflow_llm_batch.jobs.online.online import Ahead, Line, at_once, begin, close, wanted_lines, watch
from airflow_llm_batch.jobs.planning.sparing import COPY, KNOWN
from airflow_llm_batch.step_log import StepLog

if TYPE_CHECKING:
    from airflow_llm_batch.data.row_check import Check
    from airflow_llm_batch.jobs.online.online import Online

log = logging.getLogger(__name__)


class Race:
    """The same rows as jobs of several models, of which each row needs one answer.

    The answer is kept in the journal of the job whose model gave it. Where no model gives a good one, the first model's
    answer is kept, so that its failure can be looked at.

    :param lanes: a job each, of the same rows in the same order.
    """

    def __init__(self, lanes: Sequence[Online]) -> None:
        self.lanes = list(lanes)
        self.stop = self.lanes[0].stop
        if len({lane.job.rows for lane in self.lanes}) > 1:
            raise ConfigurationError(
                "The models' jobs were planned from different rows; clear the task. Nothing was sent."
            )

    def run(self) -> None:
        """Call until every row has an answer, and close the jobs."""
        with contextlib.ExitStack() as claims:
            for lane in self.lanes:
                claims.enter_context(lane.claim)
            asyncio.run(self._run())
            for lane in self.lanes:
                lane.claim.check()

    async def _run(self) -> None:
        for lane in self.lanes:
            await asyncio.to_thread(begin, lane.store, lane.job)
        done = await asyncio.to_thread(self.answered)
        progress = StepLog(log, "rows answered", self.lanes[0].job.rows)
        progress.add(len(done))
        vendors = [Vendor(lane.hook, lane.calls, check_of(lane)) for lane in self.lanes]
        journals: dict[tuple[int, int], Journal] = {}
        rows = self.rows(done)
        first = await asyncio.to_thread(next, rows, None)
        try:
            if first is not None:
                ahead = Ahead(first, rows)

                async def work() -> None:
                    while not self.is_over and await self.held() and (lines := await ahead.next()) is not None:
                        number, answer = await race(vendors, lines)
                        place = number, lines[number].shard.index
                        if place not in journals:
                            journals[place] = Journal(self.lanes[number].store, place[1])
                        journals[place].add(answer)
                        progress.add(1)

                at_most = min(lane.calls.concurrency for lane in self.lanes)
                await at_once(work, at_most, lambda workers, over: self._watch(workers, over, journals))
        finally:
            for journal in journals.values():
                await journal.close()
            for vendor in vendors:
                await vendor.close()
        if not self.stop.is_set() and not any(lane.claim.lost for lane in self.lanes):
            whole = len(await asyncio.to_thread(self.answered)) >= self.lanes[0].job.rows
            for lane in self.lanes:
                # Each is whole when all rows have an answer, whoever gave it.
                counts = {shard.index: shard.rows if whole else 0 for shard in lane.job.shards}
                await asyncio.to_thread(close, lane.store, lane.job, counts)

    @property
    def is_over(self) -> bool:
        deadline = self.lanes[0].deadline
        late = deadline is not None and time.time() >= deadline
        return self.stop.is_set() or late or any(lane.claim.lost for lane in self.lanes)

    async def held(self) -> bool:
        """Whether all jobs are still this try's to call."""
        return all([await lane.claim.held() for lane in self.lanes])

    async def _watch(
        self,
        workers: list[asyncio.Task[None]],
        over: asyncio.Event,
        journals: dict[tuple[int, int], Journal],
    ) -> None:
        async def look() -> None:
            """A race tells how far it is in the log alone."""

        claims = [lane.claim for lane in self.lanes]
        await watch(workers, over, lambda: self.is_over, lambda: list(journals.values()), claims, look)

    def rows(self, done: RowSet) -> Iterator[tuple[Line, ...]]:
        """Every row that has no answer, as a line for each model."""
        streams = [all_lines(lane) for lane in self.lanes]
        for lane in self.lanes:
            for shard in lane.job.spared:
                # Known ones are done; copies follow the row that is asked, and what is in no cache is not asked.
                done.update(shard_rows(lane.store, shard))
        return (lines for lines in zip(*streams, strict=True) if lines[0].row not in done)

    def answered(self) -> RowSet:
        """The rows that have an answer, whoever gave it."""
        done = RowSet()
        for number in range(len(self.lanes)):
            self.add_answered(number, done)
        return done

    def accountable(self, number: int) -> RowSet:
        """The rows that a job has to land: those it has answered and none before it, and the first job also those that
        none has answered."""
        before, own = RowSet(), RowSet()
        for earlier in range(number):
            self.add_answered(earlier, before)
        if number:
            self.add_answered(number, own)
        else:
            mine, others = RowSet(), RowSet()
            self.add_answered(0, mine)
            for other in range(1, len(self.lanes)):
                self.add_answered(other, others)
            own = rows_where(self.lanes[0].job.rows, lambda row: row in mine or row not in others)
        return rows_where(self.lanes[0].job.rows, lambda row: row in own and row not in before)

    def add_answered(self, number: int, rows: RowSet) -> None:
        lane = self.lanes[number]
        own = RowSet()
        for shard in lane.job.shards:
            own.update(answered_rows(lane.store, lane.job, shard))
        for shard in lane.job.spared:
            if shard.lane == KNOWN:
                own.update(shard_rows(lane.store, shard))
        for shard in lane.job.spared:
            for entry in entries(lane.store, shard) if shard.lane == COPY else ():
                if entry.of in own:
                    own.add(entry.row)
        rows.update(own)


def rows_where(count: int, holds: Callable[[int], bool]) -> RowSet:
    rows = RowSet()
    for row in range(count):
        if holds(row):
            rows.add(row)
    return rows


def all_lines(lane: Online) -> Iterator[Line]:
    """Every row's request of a job, in the order of its rows."""
    job, provider = lane.job, lane.hook.provider
    shards = (*job.shards, *job.spared) if job.spared else job.shards
    lines = (wanted_lines(lane.store, shard, RowSet(), None, provider) for shard in shards)
    return heapq.merge(*lines, key=lambda line: line.row) if job.spared else chain.from_iterable(lines)


def check_of(lane: Online) -> Check | None:
    return row_check(lane.job.output_schema, rules_of(lane.store, lane.job), log)


async def race(vendors: Sequence[Vendor], lines: Sequence[Line]) -> tuple[int, bytes]:
    """The first good answer to a row, and which model's it is; the first model's when none is good."""
    calls = {
        asyncio.ensure_future(vendor.ask(line.request, line.tokens, line.shard)): number
        for number, (vendor, line) in enumerate(zip(vendors, lines, strict=True))
    }
    failed: dict[int, bytes] = {}
    errors: list[BaseException] = []
    try:
        left = set(calls)
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for call in sorted(done, key=calls.__getitem__):
                number = calls[call]
                if (error := call.exception()) is not None:
                    errors.append(error)
                    continue
                if vendors[number].is_good(call.result(), lines[number].entry):
                    return number, call.result()
                failed[number] = call.result()
    finally:
        for call in calls:
            call.cancel()
    if not failed:
        raise errors[0]
    number = min(failed)
    return (0, failed[0]) if 0 in failed else (number, failed[number])
