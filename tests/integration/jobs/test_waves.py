"""Shards that wait for room in the vendor's queue: decided, refused in every way, put back, created once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from hypothesis import given
from hypothesis import strategies as st
from support import read_jsonl
from support.jobs import chat, plan, texts

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.submission.room import Refusal, Room
from airflow_llm_batch.jobs.waiting.wait import JobWait
from airflow_llm_batch.models import Shard
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

SHARDS, ROWS = 10, 4


def shards(*sizes, start=0):
    return [Shard(index=start + n, endpoint="", tokens=size) for n, size in enumerate(sizes)]


sizes = st.lists(st.integers(1, 50), max_size=8)


@given(sizes, sizes, st.none() | st.integers(1, 100), st.none() | st.integers(1, 6))
def test_a_wave_stays_inside_the_budget(planned, running, tokens, count):
    """In order, within tokens and shards; a shard larger than the budget goes when nothing else is there."""
    running = shards(*running)
    wave = Room(tokens, count).wave(shards(*planned), running, 0.0)
    assert wave == shards(*planned)[: len(wave)]
    both = running + wave
    if wave:
        assert tokens is None or sum(s.tokens for s in both) <= tokens or len(both) == 1
        assert count is None or len(both) <= count
    elif planned:
        assert running


def test_after_a_refusal_as_many_run_as_then_and_one_more_is_tried_in_time():
    """What went in before goes in again at once; more is tried after a pause that doubles."""
    room = Room(refusal=Refusal(at=1000.0, running=3), pause=60)
    planned = shards(*[5] * 7, start=3)
    assert room.wave(planned, shards(5, 5, 5), 1059) == []
    assert room.wave(planned, shards(5, 5, 5), 1060) == planned[:1]
    assert room.wave(planned, shards(5, 5), 1001) == planned[:1]
    assert room.wave(planned, shards(5), 1001) == planned[:2]
    again = Room(refusal=Refusal(at=1000.0, running=0, times=3), pause=60)
    assert again.wave(planned, [], 1239) == []
    assert again.wave(planned, [], 1240) == planned[:1]
    assert Room(refusal=Refusal(1000.0, 0, times=99)).wave(planned, [], 1900) == planned[:1]


class Run:
    """The three tasks of a job, driven as Airflow drives them: deferrals, triggers and resumption."""

    def __init__(self, emulator, connect, context, tmp_path, **submit):
        self.context, self.emulator = context, emulator
        extra = {"limits": {"requests": ROWS}, "room_seconds": 0.05}
        conn_id = connect(emulator.url, **extra)
        self.submit = SubmitBatchOperator(
            task_id="submit", rows=texts(SHARDS * ROWS), key="id", request=chat("openai"), conn_id=conn_id, **submit
        )
        self.destination = f"file://{tmp_path}/out"
        self.deferrals = 0
        self.most = 0

    def wait(self, job, **options):
        sensor = BatchSensor(task_id="wait", job=job, poke_interval=0.02, max_poll_interval=0.05, **options)
        method, event = "execute", ()
        for _ in range(200):
            try:
                return getattr(sensor, method)(self.context, *event)
            except TaskDeferred as deferred:
                self.deferrals += 1
                method, event = deferred.method_name, (asyncio.run(self.fire(deferred.trigger)),)
        raise AssertionError("200 deferrals")

    async def fire(self, trigger):
        async def measure():
            while True:
                self.most = max(self.most, self.enqueued())
                await asyncio.sleep(0.005)

        measuring = asyncio.create_task(measure())
        try:
            async for event in trigger.run():
                return event.payload
        finally:
            measuring.cancel()

    def enqueued(self):
        """Batches the vendor took and has not finished; those that fail for want of room were never in its queue."""
        now = time.time()
        batches = list(self.emulator.vendor.batches.values())
        return sum(not batch.problems and batch.view(now).ended_at is None for batch in batches)

    def land(self, job):
        fetch = FetchResultsOperator(task_id="fetch", job=job, destination=self.destination, fail_on="none")
        summary = fetch.execute(self.context)
        return summary, [row for file in summary["files"] for row in read_jsonl(file)]


def tokens_of_shards(emulator, connect, tmp_path, count):
    """What the emulator counts for so many of the test's shards."""
    hook = LLMBatchHook(connect(emulator.url, conn_id="probe"))
    from airflow_llm_batch.jobs.planning.encoding import RowSpec
    from airflow_llm_batch.jobs.submission import submit as submission

    what = RowSpec(texts(ROWS), chat("openai"), "id", {})
    store, job = plan(JobStore(f"file://{tmp_path}/probe"), hook, what)
    submission.submit(store, hook, job)
    [batch] = emulator.vendor.batches.values()
    emulator.vendor.batches.clear()
    return count * (batch.prompt_tokens + ROWS)  # numbers of two digits make a line a little longer


REFUSALS = {
    "fails after its create": {},
    "400 at the door": {"status": 400},
    "429 at the door": {"status": 429},
}


@pytest.mark.parametrize("how", REFUSALS)
def test_ten_shards_through_a_queue_of_three(how, connect, context, tmp_path):
    """Every row landed once, never more than three enqueued, every input file uploaded once."""
    with Emulator(duration=0.3) as emulator:
        limit = tokens_of_shards(emulator, connect, tmp_path, 3)
        emulator.vendor.calls.clear()
        emulator.faults(enqueued_tokens=limit, refuse_enqueued=REFUSALS[how].get("status"))
        run = Run(emulator, connect, context, tmp_path)
        job = run.submit.execute(context)
        assert len(job["batches"]) == (SHARDS if not REFUSALS[how] else 3)
        job = run.wait(job)
        assert run.deferrals >= 1
        assert 2 <= run.most <= 3
        summary, rows = run.land(job)
        took = [name for name, batch in emulator.vendor.batches.items() if not batch.problems]
        assert len(took) == SHARDS
        assert set(job["batches"]) == set(summary["batches"]) == set(took)
        assert Counter(row["key"] for row in rows) == Counter(row["id"] for row in texts(SHARDS * ROWS))
        assert summary["counts"]["succeeded"] == SHARDS * ROWS == emulator.vendor.stats()["billed_rows"]
        assert emulator.vendor.calls["POST /v1/files"] == SHARDS


@pytest.mark.parametrize("budget", ["max_running_shards", "max_enqueued_tokens"])
def test_a_budget_of_our_own_is_never_refused(budget, connect, context, tmp_path):
    """Nothing is sent that would be too much, also from the connection's extra."""
    with Emulator(duration=0.2) as emulator:
        run = Run(emulator, connect, context, tmp_path, **({budget: 3} if budget.endswith("shards") else {}))
        if budget.endswith("tokens"):
            extra = {"limits": {"requests": ROWS}, "max_enqueued_tokens": 3 * 40}
            connect(emulator.url, **extra)
        job = run.submit.execute(context)
        assert len(job["batches"]) == 3
        summary, _ = run.land(run.wait(job))
        assert run.most <= 3
        assert len(emulator.vendor.batches) == SHARDS
        assert summary["counts"]["succeeded"] == SHARDS * ROWS


def test_shards_are_cut_to_the_budget(connect, context, tmp_path):
    """A shard larger than what may be enqueued at once could never be sent."""
    with Emulator(duration=0.1) as emulator:
        run = Run(emulator, connect, context, tmp_path, max_enqueued_tokens=30)
        job = run.submit.execute(context)
        assert job["shards"] > SHARDS
        assert len(job["batches"]) == 1
        for wrong in (0, "many", -5):
            run.submit.max_enqueued_tokens = wrong
            if wrong:
                with pytest.raises(ConfigurationError, match="whole number"):
                    run.submit.execute(context)


def test_a_queue_that_others_fill_is_asked_again(connect, context, tmp_path):
    """Refused with nothing of ours running: tried again after a while, one shard at a time, until there is room."""
    with Emulator(duration=0.1) as emulator:
        emulator.faults(enqueued_tokens=0, refuse_enqueued=429)
        run = Run(emulator, connect, context, tmp_path, max_running_shards=4)
        job = run.submit.execute(context)
        assert job["batches"] == []
        sensor = BatchSensor(task_id="wait", job=job, deferrable=False)
        for _ in range(3):
            time.sleep(0.06)
            assert sensor.poke(context).is_done is False
        assert not emulator.vendor.batches
        emulator.faults()
        summary, _ = run.land(run.wait(job))
        assert summary["counts"]["succeeded"] == SHARDS * ROWS


def test_a_deadline_ends_the_wait_for_room_too(connect, context, tmp_path):
    """Cancelled at the deadline: what ran is landed, what was never sent is landed as cancelled, and says so."""
    with Emulator(duration=30) as emulator:
        run = Run(emulator, connect, context, tmp_path, max_running_shards=2)
        job = run.submit.execute(context)
        emulator.vendor.settings.duration = 0.1
        for batch in emulator.vendor.batches.values():
            batch.duration = 0.5
        job = run.wait(job, deadline=0.1, on_deadline="cancel")
        summary, rows = run.land(job)
        assert len(emulator.vendor.batches) == 2
        assert summary["rows"] == SHARDS * ROWS
        unsent = [row for row in rows if row["error_code"] == "never_sent"]
        assert len(unsent) == (SHARDS - 2) * ROWS
        assert {row["status"] for row in unsent} == {"cancelled"}
        assert {row["cost_usd"] for row in unsent} == {0}


def test_leaving_at_the_deadline_names_what_was_not_sent(connect, context, tmp_path):
    """The message tells batches from shards."""
    from airflow_llm_batch.exceptions import WaitEnded

    with Emulator(duration=30) as emulator:
        run = Run(emulator, connect, context, tmp_path, max_running_shards=1)
        job = run.submit.execute(context)
        store = JobStore(job["job"])
        with pytest.raises(WaitEnded, match=rf"{job['batches'][0]}, shard 1 \(not sent yet\)"):
            JobWait(LLMBatchHook("llm_test"), store, logging.getLogger(), deadline=0).look()


def test_a_shard_that_is_refused_for_good_leaves_the_others_alone(connect, context, tmp_path):
    """One create of ten is refused: nine batches exist, the message names the refusal, a retry sends only the tenth."""
    from airflow_llm_batch.exceptions import RequestRejected

    with Emulator(duration=0) as emulator:
        emulator.faults(http=[{"on": "POST /v1/batches", "status": 403, "skip": 4}])
        run = Run(emulator, connect, context, tmp_path)
        with pytest.raises(RequestRejected, match="403"):
            run.submit.execute(context)
        assert len(emulator.vendor.batches) == SHARDS - 1
        assert emulator.vendor.calls["POST /v1/files"] == SHARDS
        job = run.submit.execute(context)
        assert len(job["batches"]) == SHARDS == len(emulator.vendor.batches)
        assert emulator.vendor.calls["POST /v1/files"] == SHARDS
