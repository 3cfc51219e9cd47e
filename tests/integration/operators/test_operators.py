"""Hook, operators, sensor and trigger by themselves, over a real emulator."""

from __future__ import annotations

import asyncio
import copy
import csv
import json
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from support import MODELS, SECRET, read_jsonl
from support.jobs import make_batch
from support.tasks import run

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import (
    ConfigurationError,
    InputError,
    ResultsUnusable,
    WaitEnded,
)
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.triggers import BatchTrigger


def test_a_thousand_real_reviews_are_labelled_each_with_its_own_text(
    emulator, provider, connect, context, tmp_path, shared
):
    """Real texts, both vendors: every one landed once, beside its own text."""
    path = shared / "restaurant_reviews.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        wanted = [row["Review"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    summary, rows = run(
        context,
        connect(emulator.url, provider, limits={"requests": 300}),
        tmp_path,
        rows=f"file://{path}",
        passthrough=["Review", "Liked"],
        request=ChatRequest(model=MODELS[provider], system="Label it.", user="{Review}", max_tokens=500),
    )
    assert summary["rows"] == len(rows) == len(wanted) >= 1000
    assert summary["counts"]["succeeded"] == len(wanted)
    for row in rows:
        assert row["text"] == row["Review"] == wanted[row["row"]]
    assert sorted(row["key"] for row in rows) == list(range(len(wanted)))


def test_an_existing_openai_batch_file_runs_as_it_is(emulator, connect, context, tmp_path, shared):
    """65 real requests; the user's custom_ids come back as keys."""
    path = shared / "samples" / "openai_gpt4o_batch_input.jsonl"
    _, rows = run(context, connect(emulator.url), tmp_path, rows=str(path))
    sent = {line["custom_id"]: line["body"] for line in read_jsonl(path)}
    assert {row["key"] for row in rows} == set(sent)
    assert all(row["text"].startswith(sent[row["key"]]["messages"][-1]["content"][:40]) for row in rows)


@pytest.mark.parametrize(
    "name",
    [
        "langbatch_chat_completion_batch",
        "langbatch_chat_completion_batch_bedrock",
        "langbatch_embedding_batch",
        "groq_batch_input",
    ],
)
def test_other_peoples_batch_files_run_too(emulator, connect, context, tmp_path, shared, name):
    """Chat with tools and JSON mode, embeddings, several models: one result per line."""
    path = shared / "samples" / f"{name}.jsonl"
    _, rows = run(context, connect(emulator.url), tmp_path, rows=str(path), fetch={"fail_on": "none"})
    keys = [line["custom_id"] for line in read_jsonl(path)]
    assert sorted(row["key"] for row in rows) == sorted(keys)
    assert all(row["status"] in ("succeeded", "truncated") for row in rows)


def test_xcom_job_files_and_trigger_hold_no_secret(emulator, provider, connect, context, tmp_path):
    """The key is in none of what Airflow or the job directory keep."""
    conn_id = connect(emulator.url, provider)
    summary, _ = run(context, conn_id, tmp_path, rows=["hi"], request=ChatRequest(MODELS[provider], max_tokens=9))
    store = JobStore(summary["manifest"].removesuffix("/manifest.json"))
    kept = [path.read_bytes() for path in store.root.rglob("*") if path.is_file()]
    assert len(kept) >= 7
    trigger = BatchTrigger(store.uri, conn_id).serialize()
    for content in (*kept, json.dumps(summary).encode(), repr(trigger).encode(), repr(LLMBatchHook(conn_id)).encode()):
        assert SECRET.encode() not in content


def test_metadata_reaches_the_vendor(emulator, connect, context, tmp_path):
    """The user's and Airflow's own."""
    request = ChatRequest(MODELS["openai"])
    run(context, connect(emulator.url), tmp_path, rows=["hi"], request=request, metadata={"team": "search"})
    [batch] = emulator.vendor.batches.values()
    assert batch.metadata["team"] == "search"
    assert batch.metadata["airflow_dag_id"] == "dag"
    assert batch.metadata["airflow_run_id"] == context["ti"].run_id


@pytest.mark.parametrize(
    ("fail_on", "fails"), [("any", True), ("all", False), ("none", False), (0.05, True), ("0.9", False)]
)
def test_fail_on_fails_after_landing(emulator, connect, context, tmp_path, fail_on, fails):
    """The rows are in place either way."""
    emulator.faults(row_errors=0.3)
    conn_id, request = connect(emulator.url), ChatRequest(MODELS["openai"])
    rows = [f"text {n}" for n in range(50)]
    if fails:
        with pytest.raises(ResultsUnusable, match=r"of 50 rows did not succeed.* errored.*Everything was landed"):
            run(context, conn_id, tmp_path, rows=rows, request=request, fetch={"fail_on": fail_on})
    else:
        run(context, conn_id, tmp_path, rows=rows, request=request, fetch={"fail_on": fail_on})
    [landed] = (tmp_path / "out").glob("*.jsonl")
    assert len(read_jsonl(landed)) == 50


def test_a_batch_that_failed_validation_fails_the_fetch_with_its_reason(emulator, connect, context, tmp_path):
    """fail_on defaults to all: nothing came back, so the task is red, and every row says why."""
    emulator.faults(fail="model_not_found")
    with pytest.raises(ResultsUnusable, match="1 of 1 rows"):
        run(context, connect(emulator.url), tmp_path, rows=["hi"], request=ChatRequest("no-such-model"))
    [landed] = (tmp_path / "out").glob("*.jsonl")
    assert read_jsonl(landed)[0]["error_code"] == "model_not_found"


def test_a_destination_that_cannot_be_written_stops_the_submission(emulator, connect, context, tmp_path):
    """Found from the downstream fetch, before a call is made."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with DAG("d"):
        submit = SubmitBatchOperator(
            task_id="submit", conn_id=connect(emulator.url), rows=["hi"], request=ChatRequest("gpt-5-mini")
        )
        wait = BatchSensor(task_id="wait", job=submit.output)
        FetchResultsOperator(task_id="fetch", job=wait.output, destination=f"file://{blocked}/{{{{ 'out' }}}}")
    with pytest.raises(ConfigurationError, match=r"Cannot write to .*file/out.*Nothing was sent"):
        submit.execute(context)
    assert sum(emulator.vendor.calls.values()) == 0


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"provider": "opneai"}, "Unknown provider 'opneai'"),
        ({"provider": ""}, "names no provider"),
        ({"limits": {"rows": 1}}, "limits"),
    ],
)
def test_unusable_connections_are_refused(emulator, monkeypatch, context, extra, named):
    """Told before the rows are read."""
    connection = {
        "conn_type": "llmbatch",
        "host": emulator.url,
        "password": "k",
        "extra": {"provider": "openai", **extra},
    }
    monkeypatch.setenv("AIRFLOW_CONN_BAD", json.dumps(connection))
    with pytest.raises(ConfigurationError, match=named):
        SubmitBatchOperator(task_id="s", conn_id="bad", rows="file:///none.jsonl").execute(context)


def test_a_vendors_own_address_needs_a_key(connect, context):
    """Without one nothing is sent."""
    with pytest.raises(ConfigurationError, match=r"no key for https://api\.openai\.com/v1"):
        SubmitBatchOperator(task_id="s", conn_id=connect("", key=None), rows=["x"]).execute(context)


def test_a_request_of_another_kind_is_refused(connect, context):
    """A dict where a ChatRequest belongs."""
    with pytest.raises(InputError, match="request is a dict"):
        SubmitBatchOperator(task_id="s", conn_id=connect("http://x"), rows=["x"], request={"model": "m"}).execute(
            context
        )


def test_the_sensor_defers_and_its_trigger_fires(provider, connect, context):
    """Deferrable by default; the trigger's arguments rebuild it; resuming hands the handle on."""
    with Emulator(duration=0.6) as emulator:
        conn_id = connect(emulator.url, provider)
        handle = SubmitBatchOperator(
            task_id="submit", conn_id=conn_id, rows=["a", "b"], request=ChatRequest(MODELS[provider], max_tokens=9)
        ).execute(context)
        sensor = BatchSensor(task_id="wait", job=handle, poke_interval=0.1)
        with pytest.raises(TaskDeferred) as deferred:
            sensor.execute(context)
        path, kwargs = deferred.value.trigger.serialize()
        assert path == "airflow_llm_batch.triggers.BatchTrigger"
        event = asyncio.run(anext(BatchTrigger(**json.loads(json.dumps(kwargs))).run()))
        assert event.payload == {"status": "ended", "message": "", "job": handle["job"]}
        assert deferred.value.method_name == "execute_complete"
        assert BatchSensor(task_id="wait", job=handle).execute_complete(context, event.payload) == handle
        assert BatchSensor(task_id="wait", job=handle).execute(context) == handle


def test_the_trigger_ends_at_the_deadline_and_leaves_the_batch(connect, context):
    """An event, not a lost batch; the sensor fails with its words."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url)
        handle = SubmitBatchOperator(
            task_id="submit", conn_id=conn_id, rows=["a"], request=ChatRequest("gpt-5-mini")
        ).execute(context)
        trigger = BatchTrigger(handle["job"], conn_id, poll_interval=0.05, deadline=0.3)
        event = asyncio.run(anext(trigger.run())).payload
        assert event["status"] == "error"
        assert handle["batches"][0] in event["message"]
        assert emulator.vendor.batches[handle["batches"][0]].cancelled_at is None
        with pytest.raises(WaitEnded, match="left in place"):
            BatchSensor(task_id="wait", job=handle, deadline=timedelta(hours=1)).execute_complete(context, event)
        asyncio.run(trigger.on_kill())
        assert emulator.vendor.batches[handle["batches"][0]].cancelled_at is not None


def test_a_strangers_batch_can_be_waited_for_and_downloaded(emulator, provider, connect, context, tmp_path):
    """BatchSensor(batch_id=...), then the hook's download."""
    conn_id = connect(emulator.url, provider)
    hook = LLMBatchHook(conn_id)
    batch_id = make_batch(hook, provider, tmp_path)
    sensor = BatchSensor(task_id="wait", batch_id=batch_id, conn_id=conn_id)
    assert sensor.execute(context)["batches"] == [batch_id]
    with pytest.raises(ConfigurationError, match="conn_id"):
        BatchSensor(task_id="wait", batch_id=batch_id).execute(context)
    with pytest.raises(ConfigurationError, match="pass the output"):
        BatchSensor(task_id="wait", job="").execute(context)


def test_the_hook_works_by_itself(emulator, provider, connect, tmp_path):
    """upload_file, create_batch, get_batch, list_batches, cancel_batch, download, test_connection."""
    hook = LLMBatchHook(connect(emulator.url, provider))
    assert hook.test_connection()[0] is True
    first = make_batch(hook, provider, tmp_path)
    second = make_batch(hook, provider, tmp_path)
    assert hook.get_batch(first).outcome == "completed"
    page = hook.list_batches(limit=1)
    assert [b.id for b in page.items] == [second]
    assert [b.id for b in hook.list_batches(after=page.after).items] == [first]
    assert hook.cancel_batch(first).outcome == "completed"
    size = hook.download(first, tmp_path / "raw.jsonl")
    assert size == (tmp_path / "raw.jsonl").stat().st_size
    assert {hook.provider.id_of(line) for line in read_jsonl(tmp_path / "raw.jsonl")} == {"a", "b"}
    with pytest.raises(ConfigurationError, match="either"):
        hook.create_batch()
    if provider == "anthropic":
        with pytest.raises(ConfigurationError, match="no input files"):
            hook.upload_file(tmp_path / "in.jsonl")
    hook.close()


def test_test_connection_tells_what_is_wrong(connect):
    """A wrong key, a dead address: False and the reason, without the key."""
    with Emulator(api_key="right") as emulator:
        done, message = LLMBatchHook(connect(emulator.url)).test_connection()
        assert (done, "401" in message, SECRET in message) == (False, True, False)
    done, message = LLMBatchHook(connect("http://127.0.0.1:9", retries=0.1)).test_connection()
    assert (done, "ConnectError" in message) == (False, True)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "http://127.0.0.1:9/v1"}, "http://127.0.0.1:9/v1"),
        ({"host": "127.0.0.1", "port": 9}, "http://127.0.0.1:9/v1"),
        ({"host": "gateway.test", "schema": "https", "port": 444}, "https://gateway.test:444/v1"),
        ({"host": "gateway.test"}, "https://gateway.test/v1"),
        ({}, "https://api.openai.com/v1"),
    ],
)
def test_addresses_are_taken_as_connections_spell_them(monkeypatch, fields, url):
    """A URL in host, or host with port and schema beside it."""
    connection = {"conn_type": "llmbatch", "password": "k", "extra": {"provider": "openai"}, **fields}
    monkeypatch.setenv("AIRFLOW_CONN_ADDRESS", json.dumps(connection))
    assert LLMBatchHook("address").provider.base_url == url


def test_an_unready_job_is_not_fetched(provider, connect, context, tmp_path):
    """Still running: told so, with the remedy; a missing job: where it was looked for."""
    with Emulator(duration=60) as emulator:
        handle = SubmitBatchOperator(
            task_id="s", conn_id=connect(emulator.url, provider), rows=["a"], request=ChatRequest("m", max_tokens=5)
        ).execute(context)
        with pytest.raises(ConfigurationError, match="BatchSensor"):
            FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/o").execute(context)
    with pytest.raises(ConfigurationError, match=r"No job at file://.*/nowhere"):
        FetchResultsOperator(task_id="f", job=f"file://{tmp_path}/nowhere", destination="file:///x").execute(context)


def test_polling_grows_rarer():
    """Seconds at first, a twentieth of the wait later, never above the most."""
    from airflow_llm_batch.jobs.waiting.decisions import interval

    assert [interval(t, 10, 300) for t in (0, 100, 1000, 10_000)] == [10, 10, 50, 300]


def test_airflow_can_copy_the_operators():
    """It does so for parts of a DAG."""
    for operator in (BatchSensor(task_id="w", job="file:///j"), SubmitBatchOperator(task_id="s", rows=["x"])):
        assert copy.deepcopy(operator).task_id == operator.task_id
