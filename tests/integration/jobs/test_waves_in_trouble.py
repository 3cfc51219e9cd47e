"""Mishaps that were found by looking for them: two waits on one job, half-known batches, a loop that dies."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time

import httpx
import pytest
from support import read_jsonl
from support.jobs import chat, creates, land, plan, spec, submit, texts
from support.waits import QUICKLY, event_of

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import LLMBatchError, SubmissionUnconfirmed, VendorUnavailable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.submission import submit as submission
from airflow_llm_batch.jobs.submission.named import adopt
from airflow_llm_batch.jobs.waiting.wait import JobWait
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.triggers import BatchTrigger

log = logging.getLogger(__name__)
EXTRA = {"limits": {"requests": 3}, "room_seconds": 0.01}


def a_job(emulator, connect, store, shards=1, provider="openai", **extra):
    """Planned, nothing sent."""
    hook = LLMBatchHook(connect(emulator.url, provider, **{**EXTRA, **extra}))
    more = {name: extra[name] for name in ("max_running_shards",) if name in extra}
    _, job = plan(store, hook, spec(texts(3 * shards), chat(provider)), **more)
    return hook, job


def took(emulator):
    return [batch for batch in emulator.vendor.batches.values() if not batch.problems]


def wait_until_failed(emulator):
    while any(b.problems and b.view(time.time()).ended_at is None for b in emulator.vendor.batches.values()):
        time.sleep(0.01)


def test_a_batch_that_found_no_room_is_not_taken_for_its_successor(connect, store):
    """Try 1 failed for want of room, try 2's create is cut: only try 2's batch can be the one."""
    with Emulator(duration=0.1) as emulator:
        hook, job = a_job(emulator, connect, store)
        emulator.faults(enqueued_tokens=0)
        submission.submit(store, hook, job)
        wait_until_failed(emulator)
        JobWait(hook, store, log).look()
        assert store.states(job) == {0: "planned"}
        emulator.faults(http=[{"on": "POST /v1/batches", "cut": "after"}])
        time.sleep(0.02)
        [found] = submission.submit(store, hook, job)
        assert [batch.id for batch in took(emulator)] == [found]


def test_two_waits_put_a_shard_back_once(connect, store):
    """The second one reads the failed batch later, when the shard is already in the queue again."""
    with Emulator(duration=0.1) as emulator:
        hook, job = a_job(emulator, connect, store)
        emulator.faults(enqueued_tokens=0)
        submission.submit(store, hook, job)
        first, second = JobWait(hook, store, log), JobWait(hook, store, log)
        wait_until_failed(emulator)
        emulator.faults()
        assert first.look().action in ("create", "wait")
        time.sleep(0.02)
        [batch] = submission.submit(store, hook, job)
        assert second.look().action == "wait"
        assert store.states(job) == {0: "running"}
        assert second.wait.pending == {0: batch}
        submission.submit(store, hook, job)
        assert len(took(emulator)) == 1


def test_a_wait_gives_up_only_what_nobody_has_created(connect, store):
    """Its deadline comes when another wait has just created the shard it believes to be planned."""
    with Emulator(duration=30) as emulator:
        hook, job = a_job(emulator, connect, store, 2, max_running_shards=1)
        [running] = submission.submit(store, hook, job)
        stale = JobWait(hook, store, log, deadline=0, on_deadline="cancel")
        emulator.vendor.batches[running].duration = 0
        JobWait(hook, store, log).look()
        submission.submit(store, hook, job)
        assert stale.look().action == "cancel"
        assert store.attempts(1).ended() is None
        assert [batch.cancelled_at is not None for batch in took(emulator)] == [False, True]


def test_a_shard_put_back_while_a_wait_opens_is_waited_for(connect, store):
    """A wait has the directory as it was listed; what another one has put back since shows with the next look."""
    with Emulator(duration=0.1) as emulator:
        hook, job = a_job(emulator, connect, store)
        emulator.faults(enqueued_tokens=0)
        [full] = submission.submit(store, hook, job)
        wait_until_failed(emulator)
        listing = JobStore.listing

        def then_put_back(self):
            found = listing(self)
            opening.undo()
            JobWait(hook, JobStore(store.uri), log).look()
            return found

        with pytest.MonkeyPatch.context() as opening:
            opening.setattr(JobStore, "listing", then_put_back)
            wait = JobWait(hook, store, log)
        assert (wait.wait.planned, wait.wait.pending) == (set(), {0: full})
        wait.look()
        assert (wait.wait.planned, wait.wait.pending) == ({0}, {})
        assert store.states(job) == {0: "planned"}


@pytest.mark.parametrize("status", [408, 409, 425])
def test_a_timeout_a_gateway_reports_is_no_refusal(connect, provider, store, monkeypatch, status):
    """The batch was made, the answer is a 4xx that may mean anything: it is looked for, not sent again."""
    with Emulator(duration=0) as emulator:
        hook, job = a_job(emulator, connect, store, provider=provider)
        send, spoilt = httpx.Client.send, []

        def spoil(self, request, **options):
            response = send(self, request, **options)
            if f"{request.method} {request.url.path}" == creates(provider) and not spoilt:
                spoilt.append(request)
                return httpx.Response(status, json={"error": {"message": "upstream"}}, request=request)
            return response

        monkeypatch.setattr(httpx.Client, "send", spoil)
        submission.submit(store, hook, job)
        submission.submit(store, hook, job)
        assert len(spoilt) == len(emulator.vendor.batches) == 1


def test_a_search_that_does_not_reach_far_enough_is_no_proof(connect, store, monkeypatch):
    """More newer batches than are looked through: nothing is sent again."""
    monkeypatch.setattr(OpenAI, "find_pages", 2)
    with Emulator(duration=0) as emulator:
        hook, job = a_job(emulator, connect, store)
        emulator.faults(http=[{"on": "POST /v1/batches", "cut": "after"}])
        monkeypatch.setattr(hook.provider, "find", lambda *_: (_ for _ in ()).throw(VendorUnavailable("down")))
        with pytest.raises(VendorUnavailable):
            submission.submit(store, hook, job)
        monkeypatch.undo()
        monkeypatch.setattr(OpenAI, "find_pages", 2)
        connect(emulator.url, **EXTRA)
        [(name, batch)] = emulator.vendor.batches.items()
        for number in range(250):
            stranger = copy.copy(batch)
            stranger.id, stranger.metadata, stranger.input_file_id = f"batch_other{number}", {}, "file-other"
            emulator.vendor.batches[stranger.id] = stranger
        hook = LLMBatchHook("llm_test")
        with pytest.raises(VendorUnavailable, match=r"more than 2 pages of batches.*Nothing was sent again"):
            submission.submit(store, hook, job)
        monkeypatch.setattr(OpenAI, "find_pages", 10)
        assert submission.submit(store, hook, job) == [name]


def test_a_stranger_that_was_let_go_is_not_landed_by_the_next_try(emulator, connect, store, tmp_path):
    """Fetch failed because only somebody else's batch fits; cleared, it fails again and lands nothing."""
    from airflow_llm_batch.jobs.landing.land import ended_batches

    hook = LLMBatchHook(connect(emulator.url, "anthropic"))
    _, (other,) = submit(JobStore(f"{store.uri}-other"), hook, spec(texts(5), chat("anthropic")))
    _, job = plan(store, hook, spec(texts(5), chat("anthropic")))
    adopt(store, hook, job, {0: other})
    with pytest.raises(SubmissionUnconfirmed):
        land(store, hook, job, tmp_path / "out")
    with pytest.raises(LLMBatchError, match="never submitted"):
        ended_batches(store.listing(), hook, job)


def test_cancelling_many_batches_is_not_disturbed_by_the_loop(connect, store):
    """Eight slow cancels at a deadline while batches end: every one is asked for."""
    with Emulator(duration=60) as emulator:
        hook, job = a_job(emulator, connect, store, 8)
        submission.submit(store, hook, job)
        emulator.faults(http=[{"on": "POST /v1/batches/*", "delay": 0.1, "times": 8}])
        for batch in emulator.vendor.batches.values():
            batch.duration = 2
        trigger = BatchTrigger(store.uri, "llm_test", deadline=0, on_deadline="cancel", **QUICKLY)
        assert asyncio.run(event_of(trigger))["status"] == "ended"
        assert all(batch.cancelled_at for batch in emulator.vendor.batches.values())


def test_a_cancel_that_fails_is_asked_for_again(connect, store):
    """503 for the first: the next look tries once more."""
    with Emulator(duration=60) as emulator:
        hook, job = a_job(emulator, connect, store, retries=0)
        submission.submit(store, hook, job)
        emulator.faults(http=[{"on": "POST /v1/batches/*", "status": 503}])
        wait = JobWait(hook, store, log, deadline=0, on_deadline="cancel")
        [batch] = emulator.vendor.batches.values()
        wait.look()
        assert batch.cancelled_at is None
        wait.look()
        assert batch.cancelled_at is not None


def test_a_task_killed_in_a_wave_creates_nothing_more_and_cancels_what_it_made(connect, store, context):
    """on_kill while four shards are on their way, of which one create is slow."""
    with Emulator(duration=60) as emulator:
        hook, job = a_job(emulator, connect, store, 8, max_running_shards=1)
        submission.submit(store, hook, job)
        store.path("job.json").write_bytes(
            job.model_copy(update={"max_running_shards": None}).model_dump_json().encode()
        )
        emulator.faults(http=[{"on": "POST /v1/batches", "delay": 0.5, "times": 99}])
        sensor = BatchSensor(task_id="w", job=store.uri, deferrable=False)
        poking = threading.Thread(target=sensor.poke, args=(context,))
        poking.start()
        while len(emulator.vendor.batches) < 3:
            time.sleep(0.01)
        sensor.on_kill()
        poking.join()
        assert len(emulator.vendor.batches) < 8
        assert all(batch.cancelled_at for batch in emulator.vendor.batches.values())


def test_trouble_that_passes_does_not_end_a_wait_for_room(connect, store, context, monkeypatch):
    """503 on a later wave's upload: told, and tried again later; the store hiccups: tried again at once."""
    with Emulator(duration=0) as emulator:
        hook, job = a_job(emulator, connect, store, 3, max_running_shards=1, retries=0)
        submission.submit(store, hook, job)
        emulator.faults(http=[{"on": "POST /v1/files", "status": 503}])
        sensor = BatchSensor(task_id="w", job=store.uri, deferrable=False)
        assert sensor.poke(context).is_done is False
        assert sensor._waiting.looks.not_before > time.time()
        assert sensor.poke(context).is_done is False
        assert len(emulator.vendor.batches) == 1
        sensor = BatchSensor(task_id="w", job=store.uri, deferrable=False)
        for _ in range(5):
            if sensor.poke(context).is_done:
                break
        assert len(emulator.vendor.batches) == 3


def test_a_store_that_hiccups_is_asked_again(connect, store, monkeypatch):
    """The trigger opens its job while the object store throttles."""
    from airflow_llm_batch import triggers

    with Emulator(duration=0) as emulator:
        hook, job = a_job(emulator, connect, store)
        submission.submit(store, hook, job)
        states, failed = JobStore.states, []

        def throttled(self, job):
            if not failed:
                failed.append(job)
                raise OSError("503 SlowDown")
            return states(self, job)

        monkeypatch.setattr(JobStore, "states", throttled)
        assert triggers.OPEN_TRIES > 1
        assert asyncio.run(event_of(BatchTrigger(store.uri, "llm_test", **QUICKLY)))["status"] == "ended"


def test_a_settled_shard_counts_as_running(connect, store):
    """Killed after its create was answered and before that was recorded: the budget knows of it."""
    with Emulator(duration=30) as emulator:
        hook, job = a_job(emulator, connect, store, 3, max_running_shards=1)
        submission.submit(store, hook, job)
        store.attempts(0).path(1, "created").unlink()
        submission.submit(store, hook, job)
        assert store.states(job) == {0: "running", 1: "planned", 2: "planned"}
        assert len(emulator.vendor.batches) == 1


def test_there_are_never_two_in_doubt_where_batches_carry_no_mark(connect, store, tmp_path):
    """Anthropic, two equal shards, both creates cut: each is found before the next is sent."""
    with Emulator(duration=0.5) as emulator:
        hook, job = a_job(emulator, connect, store, 2, provider="anthropic")
        emulator.faults(http=[{"on": "POST /v1/messages/batches", "cut": "after", "times": 2}])
        ids = submission.submit(store, hook, job)
        assert ids == list(emulator.vendor.batches)
        manifest, rows = land(store, hook, job, tmp_path)
        assert manifest.counts["succeeded"] == 6
        assert len({row["key"] for row in rows}) == 6
        assert sum(len(read_jsonl(file)) for file in manifest.files) == 6
