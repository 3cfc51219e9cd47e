"""The end of a job that nobody waits for: told once by whoever sees it first, and by the next where that one dies."""

import asyncio
import base64
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk import Asset
from fastapi.testclient import TestClient
from support.airflow_versions import encode_trigger
from support.jobs import chat, texts

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.emulator.events import event_of, signed
from airflow_llm_batch.exceptions import Busy, ConfigurationError
from airflow_llm_batch.jobs.directory.awaited import Awaited, AwaitedJobs, forget_awaited
from airflow_llm_batch.jobs.waiting import mail
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator, completed_jobs
from airflow_llm_batch.plugin import hooks
from airflow_llm_batch.storage import below
from airflow_llm_batch.triggers import BatchCompletionTrigger, completion_asset

SECRET = "whsec_" + base64.b64encode(b"a shared secret of tests").decode()


@pytest.fixture
def storage(tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/storage"
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", uri)
    return uri


@pytest.fixture
def context(context):
    """With a task's outlet events."""
    from airflow.sdk.execution_time.context import OutletEventAccessors

    return {**context, "outlet_events": OutletEventAccessors()}


@pytest.fixture
def assets(airflow_db):
    """Make assets known to Airflow; what became of them."""
    from airflow.models.asset import AssetActive, AssetEvent, AssetModel
    from airflow.utils.session import create_session

    made = []

    def know(name, uri=None):
        with create_session() as session:
            model = AssetModel(name=name, uri=uri or name, group="asset")
            session.add(model)
            session.flush()
            session.add(AssetActive(name=model.name, uri=model.uri))
            made.append(model.id)

    def events():
        with create_session() as session:
            found = session.query(AssetEvent).where(AssetEvent.asset_id.in_(made)).order_by(AssetEvent.id)
            return [(event.asset.name, event.extra) for event in found]

    return SimpleNamespace(know=know, events=events)


def sender(conn_id, *, phase="completed"):
    """What pushes the end of a batch to the route, as a vendor does."""
    door = TestClient(hooks.make_hooks())

    def push(batch_id, name=None):
        event = event_of(SimpleNamespace(dialect="openai", id=batch_id), phase, time.time())
        body = json.dumps(event).encode()
        return door.post(
            f"/hooks/{conn_id}", content=body, headers=signed(SECRET, body, name or event["id"], time.time())
        )

    return push


def submit(context, conn_id, *, rows=3, **arguments):
    operator = SubmitBatchOperator(
        task_id="submit", conn_id=conn_id, rows=texts(rows), request=chat("openai"), **arguments
    )
    return operator, operator.execute(context)


def test_the_last_event_of_a_job_completes_the_asset(connect, context, storage, assets):
    """Three shards: two events tell nobody, the third is one event of the named asset and of the job's own, whose extra
    is the handle; repeats make no further one, and nothing stays behind."""
    name = f"answers of {context['ti'].run_id}"
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, webhook_secret=SECRET, limits={"requests": 1})
        context["ti"].dag_id = f"dag-{context['ti'].run_id}"
        assets.know(name, "s3://bucket/answers")
        assets.know(f"llm-batch://{conn_id}/{context['ti'].dag_id}/submit")
        _, handle = submit(context, conn_id, completion=Asset(name, "s3://bucket/answers"))
        push = sender(conn_id)
        for batch_id in handle["batches"][:2]:
            assert push(batch_id).status_code == 200
            assert assets.events() == []
        assert push(handle["batches"][2], "wh_last").status_code == 200
        assert push(handle["batches"][2], "wh_last").status_code == 200
    assert sorted(assets.events()) == sorted(
        [(name, handle), (f"llm-batch://{conn_id}/{context['ti'].dag_id}/submit", handle)]
    )
    assert [path for folder in ("_awaited", "_batches") for path in below(f"{storage}/{folder}", "*.json")] == []


def test_an_event_that_cannot_be_told_is_sent_again(connect, context, storage, assets, monkeypatch):
    """Airflow's database is down: 503, and the vendor's next try tells."""
    name = f"answers of {context['ti'].run_id}"
    assets.know(name)
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, webhook_secret=SECRET)
        _, handle = submit(context, conn_id, completion=name)
        push = sender(conn_id)
        with monkeypatch.context() as patch:
            patch.setattr(hooks, "make_asset_events", lambda *_: 1 / 0)
            assert push(handle["batches"][0], "wh_1").status_code == 503
        assert assets.events() == []
        assert push(handle["batches"][0], "wh_1").status_code == 200
    assert assets.events() == [(name, handle)]


def test_events_of_strangers_and_beginnings_tell_nobody(connect, context, storage, assets):
    """A batch that is no job's, and an event that is no end."""
    name = f"answers of {context['ti'].run_id}"
    assets.know(name)
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, webhook_secret=SECRET)
        _, handle = submit(context, conn_id, completion=name)
        assert sender(conn_id)("batch_of_somebody").status_code == 200
        body = json.dumps({"id": "e", "type": "batch.in_progress", "data": {"id": handle["batches"][0]}}).encode()
        door = TestClient(hooks.make_hooks())
        headers = signed(SECRET, body, "wh_begin", time.time())
        assert door.post(f"/hooks/{conn_id}", content=body, headers=headers).status_code == 200
    assert assets.events() == []


def test_a_job_that_has_ended_already_is_told_by_its_task(connect, context, storage):
    """An event that came before the job was on the list, and a task that is cleared after its job was landed."""
    asset = Asset("told by the task")
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, webhook_secret=SECRET)
        operator, handle = submit(context, conn_id, completion=asset)
        assert operator.outlets == []
        AwaitedJobs(storage, conn_id).forget(awaited(handle))
        AwaitedJobs(storage, conn_id).end(handle["batches"][0])
        again, same = submit(context, conn_id, completion=asset)
    assert same == handle
    assert again.outlets == [asset]
    assert context["outlet_events"][asset].extra == handle
    assert AwaitedJobs(storage, conn_id).marks() == set()


def awaited(handle, completion="told"):
    return Awaited(handle=handle, completion=completion, uri=completion, place="dag/submit")


def test_what_has_no_room_keeps_the_task(connect, context, storage, tmp_path):
    """Two batches at once: the task stays, deferred, until the last of five shards is created, and one event tells."""
    with Emulator(duration=0.3) as emulator:
        conn_id = connect(emulator.url, limits={"requests": 1}, max_running_shards=2)
        operator = SubmitBatchOperator(
            task_id="submit", conn_id=conn_id, rows=texts(5), request=chat("openai"), completion="in waves"
        )
        with pytest.raises(TaskDeferred) as raised:
            operator.execute(context)
        handle, deferrals = None, 1
        while handle is None:
            trigger = raised.value.trigger
            trigger.poll_interval = 0.05
            event = asyncio.run(anext(trigger.run())).payload
            try:
                handle = operator.execute_complete(context, event)
            except TaskDeferred as again:
                raised.value.trigger, deferrals = again.trigger, deferrals + 1
        assert len(handle["batches"]) == len(set(handle["batches"])) == 5
        assert deferrals >= 2
        assert emulator.vendor.calls["POST /v1/batches"] == 5
        [seen] = watch(conn_id, "in waves")
        assert seen == handle
        fetch = FetchResultsOperator(task_id="fetch", job={"payload": seen}, destination=f"file://{tmp_path}/out")
        assert fetch.execute(context)["counts"]["succeeded"] == 5


def watch(conn_id, completion, count=1, seconds=60, **arguments):
    """The first events of a trigger."""
    trigger = BatchCompletionTrigger(conn_id, completion, **{"poll_interval": 0.05, **arguments})

    async def fired():
        events = trigger.run()
        found = [(await asyncio.wait_for(anext(events), seconds)).payload for _ in range(count)]
        await events.aclose()
        return found

    return asyncio.run(fired())


def test_the_watcher_tells_each_job_of_its_asset_once(connect, context, storage, provider):
    """Two jobs of one asset and one of another; each vendor."""
    with Emulator(duration=0.5) as emulator:
        conn_id = connect(emulator.url, provider)
        handles = []
        for number, name in enumerate(("mine", "mine", "other")):
            context["ti"].map_index = number
            operator = SubmitBatchOperator(
                task_id="submit", conn_id=conn_id, rows=texts(2), request=chat(provider), completion=name
            )
            handles.append(operator.execute(context))
        found = watch(conn_id, "mine", 2)
        assert sorted(handle["job"] for handle in found) == sorted(handle["job"] for handle in handles[:2])
        assert watch(conn_id, "other") == handles[2:]


def test_a_watcher_that_dies_leaves_the_job_to_the_next(connect, context, storage):
    """The event was handed to Airflow and the process died before it was off the list: it is told again, not lost."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        _, handle = submit(context, conn_id, completion="mine")
        assert watch(conn_id, "mine") == [handle]
        jobs = AwaitedJobs(storage, conn_id)
        [mark] = jobs.marks()
        with pytest.raises(Busy):
            jobs.begin_telling(jobs.read(mark))
        # The claim of a process that died is a minute old.
        (claim,) = below(f"{storage}/_awaited", "*.telling")
        import os

        long_ago = time.time() - 61
        os.utime(claim.path, (long_ago, long_ago))
        assert watch(conn_id, "mine") == [handle]


def test_one_of_many_tells(storage):
    """Sixteen at the same moment."""
    jobs = AwaitedJobs(storage, "llm_test")
    mine = awaited({"job": f"{storage}/a", "conn_id": "llm_test", "batches": ["b1"], "shards": 1})
    jobs.expect(mine)
    outcomes = []

    def tell():
        try:
            outcomes.append(jobs.begin_telling(mine))
        except Busy:
            outcomes.append("busy")

    threads = [threading.Thread(target=tell) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["True", *["busy"] * 15]
    jobs.forget(mine)
    assert jobs.begin_telling(mine) is False


def test_the_vendors_event_wakes_the_watcher(connect, context, storage, monkeypatch):
    """With looks five minutes apart the asset is complete with the event."""
    monkeypatch.setattr(mail, "EVERY", 0.2)
    with Emulator(duration=2, webhook_secret=SECRET) as emulator:
        conn_id = connect(emulator.url, webhook_secret=SECRET)
        _, handle = submit(context, conn_id, completion="pushed")
        from airflow_llm_batch.webhooks import Event, Mailbox

        def push():
            time.sleep(3)
            Mailbox(storage, conn_id).keep(
                Event(id="e", kind="batch.completed", batch=handle["batches"][0], at=datetime.now(UTC))
            )

        thread = threading.Thread(target=push)
        thread.start()
        assert watch(conn_id, "pushed", poll_interval=300.0) == [handle]
        thread.join()
        assert emulator.vendor.calls[f"GET /v1/batches/{handle['batches'][0]}"] <= 3


def test_an_assets_watcher_survives_airflows_serialization():
    """As a DAG file has it, and as the scheduler reads it."""
    asset = completion_asset("answers", conn_id="llm_test", poll_interval=5)
    [watcher] = asset.watchers
    encoded = encode_trigger(watcher.trigger)
    assert encoded["classpath"] == "airflow_llm_batch.triggers.BatchCompletionTrigger"
    assert {"conn_id": "llm_test", "completion": "answers", "poll_interval": 5}.items() <= encoded["kwargs"].items()


def test_several_jobs_in_one_run_are_all_fetched():
    """Events of the route and of the watcher, one job told twice; other events are none of ours."""

    def event(second, extra):
        return SimpleNamespace(timestamp=datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC), extra=extra)

    first, second = ({"job": f"s3://b/{n}", "conn_id": "c", "batches": [f"b{n}"]} for n in (1, 2))
    found = completed_jobs(
        {
            "a": [event(3, first), event(1, {"from_trigger": True, "payload": second})],
            "b": [event(2, first), event(5, {}), event(6, {"rows": 5})],
        }
    )
    assert [handle["job"] for handle in found] == ["s3://b/2", "s3://b/1"]


@pytest.mark.parametrize("given", ["{'job': 's3://b/1', 'conn_id': 'c'}", {"payload": {"job": None, "conn_id": "c"}}])
def test_a_templates_text_is_a_handle_too(given):
    """``job="{{ ... .extra }}"``."""
    from airflow_llm_batch.operators.handle import JobHandle

    assert JobHandle.of(given).conn_id == "c"


def test_what_is_no_asset_is_refused():
    """When the DAG is read."""
    with pytest.raises(ConfigurationError, match="give an Asset"):
        SubmitBatchOperator(task_id="submit", rows=[], completion=5)


def test_what_nobody_was_told_of_goes_with_age(storage):
    """Not before two weeks: a vendor may still be at work."""
    jobs = AwaitedJobs(storage, "llm_test")
    jobs.expect(awaited({"job": f"{storage}/a", "conn_id": "llm_test", "batches": ["b1"], "shards": 1}))
    now = datetime.now(UTC)
    assert forget_awaited(storage, now) == 0
    for path in (*below(f"{storage}/_awaited", "*"), *below(f"{storage}/_batches", "*")):
        import os

        old = (now - timedelta(days=15)).timestamp()
        os.utime(path.path, (old, old))
    assert forget_awaited(storage, now) == 2


def test_nobody_to_tell_is_said(connect, context, storage, capfd):
    """Neither a secret nor a watcher: a warning that says what to do."""
    with Emulator(duration=60) as emulator:
        submit(context, connect(emulator.url), completion="nobody")
    assert "completion_asset" in "".join(capfd.readouterr())
    with Emulator(duration=60) as emulator:
        context["ti"].map_index = 5
        submit(context, connect(emulator.url), completion=completion_asset("somebody", conn_id="llm_test"))
    assert "completion_asset" not in "".join(capfd.readouterr())
