"""The shared poll loop: what it asks, whom it wakes, and what it survives."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from support.dialects import DIALECTS
from support.waits import QUICKLY, event_of, events_of, jobs_of, reads

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import RefusedForGood, VendorUnavailable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.waiting import decisions
from airflow_llm_batch.jobs.waiting import poll_loop as watch_module
from airflow_llm_batch.jobs.waiting.decisions import Next, Wait
from airflow_llm_batch.jobs.waiting.mail import named
from airflow_llm_batch.jobs.waiting.wait import JobWait
from airflow_llm_batch.models import Batch
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.triggers import BatchTrigger
from airflow_llm_batch.webhooks import Event

log = logging.getLogger(__name__)


def test_many_waits_cost_a_listing_each_interval(connect, provider, tmp_path):
    """So many jobs: two pages of a hundred, or one of a thousand, instead of as many reads; everybody is woken."""
    many = 120
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url, provider))
        stores = jobs_of(hook, provider, tmp_path, many)
        emulator.vendor.calls.clear()
        events = asyncio.run(events_of(stores))
        assert [event["status"] for event in events] == ["ended"] * many
        assert watch_module.WATCHES == {}
        pages = -(-many // DIALECTS[provider].page)
        # Waits that were opened later than the first look have one of their own.
        assert reads(emulator)["listings"] <= 4 * pages
        assert reads(emulator)["singles"] <= 4 * watch_module.FEW
    assert all(store.attempts(0).ended().outcome == "completed" for store in stores)


def test_what_a_listing_does_not_reach_is_read_by_itself(connect, tmp_path):
    """Four old batches below five hundred of somebody else's: a few pages are tried, then each is read."""
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        stores = jobs_of(hook, "openai", tmp_path, 4)
        [stranger] = jobs_of(hook, "openai", tmp_path / "other", 1)
        batch = emulator.vendor.batches[stranger.attempts(0).created().batch_id]
        for number in range(500):
            emulator.vendor.batches[f"batch_other{number}"] = batch
        emulator.vendor.calls.clear()
        events = asyncio.run(events_of(stores))
        assert [event["status"] for event in events] == ["ended"] * 4
        assert reads(emulator)["singles"] >= 4
        assert reads(emulator)["listings"] <= 2 * (watch_module.FRUITLESS + 1)


def test_a_gateway_without_listings_is_read_one_by_one(connect, tmp_path):
    """404 for the listing: asked once, never again."""
    with Emulator(duration=0.5) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        stores = jobs_of(hook, "openai", tmp_path, 6)
        emulator.faults(http=[{"on": "GET /v1/batches", "status": 404, "times": 100}])
        emulator.vendor.calls.clear()
        events = asyncio.run(events_of(stores))
        assert [event["status"] for event in events] == ["ended"] * 6
        assert reads(emulator)["listings"] == 1


def test_a_vendor_that_is_down_is_not_asked_for_every_job(connect, tmp_path):
    """503 for a while: one listing per look, no reads beside it; when it is up again, all end."""
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url, retries=0))
        stores = jobs_of(hook, "openai", tmp_path, 20)
        emulator.faults(http=[{"on": "GET /v1/batches*", "status": 503, "times": 3}])
        emulator.vendor.calls.clear()
        events = asyncio.run(events_of(stores))
        assert [event["status"] for event in events] == ["ended"] * 20
        assert reads(emulator)["singles"] <= 2 * watch_module.FEW


def test_a_replaced_key_is_looked_up_and_a_wrong_one_ends_the_waits(connect, tmp_path):
    """The key is rotated while jobs wait: the connection is read again; if that does not help, every wait says so."""

    async def rotate(emulator, new_key, stores):
        waiting = asyncio.create_task(events_of(stores))
        while emulator.vendor.calls["GET /v1/batches"] < 2:
            await asyncio.sleep(0.01)
        emulator.vendor.settings.api_key = "sk-new-key"
        connect(emulator.url, key=new_key, retries=0)
        return await waiting

    for new_key, status in (("sk-new-key", "ended"), ("sk-other-key", "error")):
        with Emulator(duration=3) as emulator:
            hook = LLMBatchHook(connect(emulator.url, retries=0))
            stores = jobs_of(hook, "openai", tmp_path / status, 3)
            events = asyncio.run(rotate(emulator, new_key, stores))
            assert [event["status"] for event in events] == [status] * 3, events
            assert status == "ended" or "401" in events[0]["message"]


def test_a_missing_connection_ends_the_wait_and_not_the_next_one(connect, emulator, tmp_path):
    """Whoever comes later starts anew."""
    hook = LLMBatchHook(connect(emulator.url))
    stores = jobs_of(hook, "openai", tmp_path, 1)
    with pytest.raises(Exception, match="not_there"):
        asyncio.run(events_of(stores, "not_there"))
    assert watch_module.WATCHES == {}
    [event] = asyncio.run(events_of(stores))
    assert event["status"] == "ended"


def test_one_lost_batch_ends_its_own_wait_only(connect, tmp_path, monkeypatch):
    """The vendor goes on knowing nothing of one of three: that wait fails, the others go on."""
    monkeypatch.setattr(decisions, "FORGOTTEN", 0.2)
    with Emulator(duration=0.5) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        stores = jobs_of(hook, "openai", tmp_path, 3)
        del emulator.vendor.batches[stores[1].attempts(0).created().batch_id]
        events = asyncio.run(events_of(stores))
        assert [event["status"] for event in events] == ["ended", "error", "ended"]
        assert "404" in events[1]["message"]


def test_a_batch_that_the_vendor_has_not_heard_of_yet_is_waited_for(connect, provider, tmp_path):
    """404 right after the create, and once more later: seen at vendors whose servers tell each other late."""
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url, provider))
        stores = jobs_of(hook, provider, tmp_path, 1)
        emulator.faults(http=[{"on": "GET *", "status": 404, "times": 2}])
        [event] = asyncio.run(events_of(stores))
        assert event["status"] == "ended", event
        assert emulator.vendor.settings.faults.http[0].times == 0


def test_a_batch_that_stays_away_is_given_up():
    """After ten minutes each, whatever else is read meanwhile; one that we have not made at once."""
    gone = RefusedForGood("no batch", status=404)
    wait = Wait({0: "a", 1: "b"})
    for now in (0.0, 300.0, decisions.FORGOTTEN - 1):
        wait.failed(0, gone, now, is_ours=True)
        wait.saw(1, Batch(id="b", status="running"))
    with pytest.raises(RefusedForGood):
        wait.failed(0, gone, decisions.FORGOTTEN, is_ours=True)
    wait.saw(0, Batch(id="a", status="running"))
    wait.failed(0, gone, decisions.FORGOTTEN, is_ours=True)
    with pytest.raises(RefusedForGood):
        Wait({0: "a"}).failed(0, gone, 0.0)
    with pytest.raises(RefusedForGood):
        Wait({0: "a"}).failed(0, RefusedForGood("not yours", status=403), 0.0, is_ours=True)


def test_the_pace_is_the_most_eager_waits(monkeypatch):
    """Seconds at first, minutes later; a newcomer does not make everybody else be asked more often than it is."""
    from airflow_llm_batch.jobs.waiting.poll_loop import Turn, Watch

    watch = object.__new__(Watch)
    watch.turns = set()
    assert watch.pace(0.0) == 3600
    old, new = Turn(None, 10, 300), Turn(None, 5, 300)
    old.began -= 4000
    watch.turns = {old}
    assert watch.pace(old.began + 4000) == 200
    watch.turns = {old, new}
    assert watch.pace(new.began) == 5


@pytest.mark.parametrize(("ahead", "looks"), [(100, 0), (86_400, 1)], ids=["as planned", "put back"])
def test_a_clock_that_is_put_back_stops_no_look(monkeypatch, ahead, looks):
    """A look that is due further away than any pause is due now."""

    class Enough(Exception):
        pass

    async def look():
        watch = watch_module.Watch("c", connect=None)
        watch.task.cancel()
        job = SimpleNamespace(wait=SimpleNamespace(pending={0: "b1"}, decide=lambda now: Next("wait")), note=None)
        turn = watch_module.Turn(job, 10, 300)
        turn.due = time.time() + ahead
        watch.turns.add(turn)
        asked = []

        async def read(wanted):
            asked.append(wanted)
            return {}

        async def hand_out(due, readings):
            raise Enough

        monkeypatch.setattr(watch, "read", read)
        monkeypatch.setattr(watch, "hand_out", hand_out)
        with pytest.raises(Enough):
            await watch._look_on()
        return asked

    assert len(asyncio.run(look())[0]) == looks


@pytest.mark.parametrize("batch", ["b1", "batches/b1"])
def test_an_event_finds_whom_it_is_for(batch):
    """By the id, or by the name that ends in it."""

    async def woken():
        watch = watch_module.Watch("c", connect=None)
        watch.task.cancel()
        for batch_id in ("b1", "b2", "batches/b1/x"):
            turn = watch_module.Turn(SimpleNamespace(wait=SimpleNamespace(pending={0: batch_id})), 10, 300)
            watch.turns.add(turn)
        watch.wake(named([Event(id="e", kind="batch.completed", batch=batch, at=datetime.now(UTC))]))
        return [turn.job.wait.pending[0] for turn in watch.turns if turn.due == 0]

    assert asyncio.run(woken()) == ["b1"]


def test_the_log_line_of_a_wait_is_written_in_its_own_context(connect, emulator, tmp_path):
    """Airflow routes a trigger's lines by a context variable: the shared loop must not swallow it."""
    from contextvars import ContextVar

    hook = LLMBatchHook(connect(emulator.url))
    stores = jobs_of(hook, "openai", tmp_path, 3)
    trigger_id: ContextVar[int] = ContextVar("trigger_id", default=-1)
    logged = []

    class Note(logging.Handler):
        def emit(self, record):
            logged.append((trigger_id.get(), record.getMessage()))

    async def run(number, store):
        trigger_id.set(number)
        trigger = BatchTrigger(store.uri, "llm_test", **QUICKLY)
        trigger._log = logging.getLogger(f"trigger.{number}")
        trigger._log.setLevel(logging.INFO)
        trigger._log.addHandler(Note())
        return await event_of(trigger)

    async def run_all():
        await asyncio.gather(*(run(number, store) for number, store in enumerate(stores)))

    asyncio.run(run_all())
    for number, store in enumerate(stores):
        batch_id = store.attempts(0).created().batch_id
        assert (number, f"Batch {batch_id} ended: completed") in logged


def test_somebody_elses_odd_batch_does_not_end_our_waits(connect, tmp_path, monkeypatch):
    """A listing with an entry nobody can read: ours are read one by one."""
    from airflow_llm_batch.emulator import openai

    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        stores = jobs_of(hook, "openai", tmp_path, 5)
        whole = openai.batch_object
        listed = []

        def odd(vendor, batch):
            listed.append(batch.id)
            return {"object": "batch"} if len(listed) == 1 else whole(vendor, batch)

        monkeypatch.setattr(openai, "batch_object", odd)
        events = asyncio.run(events_of(stores))
        assert [event["status"] for event in events] == ["ended"] * 5


def test_a_wait_that_comes_while_the_loop_dies_ends_as_well(connect, tmp_path, monkeypatch):
    """It was opening its job at that moment."""
    with Emulator(duration=30) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        [first] = jobs_of(hook, "openai", tmp_path, 1)

        async def run():
            async with watch_module.watching("llm_test", LLMBatchHook) as watch:
                watch.task.cancel()
                watch.end(VendorUnavailable("it is over"))
                with pytest.raises(VendorUnavailable, match="over"):
                    await asyncio.wait_for(watch.state(JobWait(hook, first, log), 0.1, 0.1), 5)
            assert watch_module.WATCHES == {}

        asyncio.run(run())


def test_one_waits_odd_interval_is_its_own(connect, tmp_path):
    """A timedelta is fine, nothing at all is refused; and what gets past that ends one wait, not all."""
    assert BatchSensor(task_id="w", job="file:///j", max_poll_interval=timedelta(minutes=2)).max_poll_interval == 120
    with pytest.raises(ValueError, match="more than 0"):
        BatchSensor(task_id="w", job="file:///j", max_poll_interval=0)
    with Emulator(duration=0.5) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        odd, *others = jobs_of(hook, "openai", tmp_path, 4)

        async def run():
            trigger = BatchTrigger(odd.uri, "llm_test", poll_interval=0.1, max_poll_interval=timedelta(1))
            return await asyncio.gather(event_of(trigger), events_of(others), return_exceptions=True)

        failed, events = asyncio.run(run())
        assert isinstance(failed, TypeError)
        assert [event["status"] for event in events] == ["ended"] * 3


def test_a_connection_that_cannot_be_looked_up_for_a_moment_ends_nothing(connect, tmp_path, monkeypatch):
    """The key is refused once, and Airflow does not answer when it is looked up again: both pass."""
    session, asked = LLMBatchHook.session, []

    def sometimes(self):
        asked.append(self)
        if len(asked) == 2:
            # However many calls were refused until then: the key is good again from here on.
            emulator.faults()
            raise ConnectionError("the API server restarts")
        return session(self)

    with Emulator(duration=1.5) as emulator:
        hook = LLMBatchHook(connect(emulator.url, retries=0))
        stores = jobs_of(hook, "openai", tmp_path, 4)
        emulator.faults(http=[{"on": "GET /v1/batches*", "status": 401, "skip": 2, "times": 1000}])
        monkeypatch.setattr(LLMBatchHook, "session", sometimes)

        async def run():
            # The watch that is there is shared by all who wait.
            watch = watch_module.Watch("llm_test", LLMBatchHook, again=0.05)
            watch_module.WATCHES[watch.key] = watch
            return await events_of(stores)

        events = asyncio.run(run())
        assert [event["status"] for event in events] == ["ended"] * 4
        assert len(asked) == 3


def test_a_broken_listing_does_not_hide_batches_that_can_be_read(connect, tmp_path):
    """501 for listings for ever: asked once, then everything is read one by one."""
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url, retries=0))
        stores = jobs_of(hook, "openai", tmp_path, 5)
        emulator.faults(http=[{"on": "GET /v1/batches", "status": 501, "times": 10**6}])
        emulator.vendor.calls.clear()
        events = asyncio.run(events_of(stores))
        assert [event["status"] for event in events] == ["ended"] * 5
        assert reads(emulator)["listings"] == 1
