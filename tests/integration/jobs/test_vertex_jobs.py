"""Whole jobs of Vertex AI's: the emulator's service, its Cloud Storage, and Airflow's google connection."""

from __future__ import annotations

import json
import uuid

import pytest
from support import read_jsonl
from support.google import google_connection
from support.jobs import land, plan, spec, submit, texts
from support.tasks import drive, explicit, landed, next_task, run
from support.tasks import operator as batch_operator

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.submission import submit as submission
from airflow_llm_batch.operators import CompletionOperator
from airflow_llm_batch.storage import below

pytest.importorskip("gcsfs")
pytest.importorskip("airflow.providers.google")

GEMINI, CLAUDE = "gemini-2.5-flash", "claude-haiku-4-5@20251001"
CREATE = "POST /v1/projects/p1/locations/us-central1/batchPredictionJobs"


@pytest.fixture
def google(monkeypatch):
    """An anonymous google connection to an emulator's store; returns its id. Airflow keeps a file system for each."""

    def define(emulator):
        conn_id = f"gcp_{uuid.uuid4().hex[:8]}"
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", google_connection(emulator.url))
        return conn_id

    return define


@pytest.fixture
def vertex(connect, google):
    """A connection without a key: the google connection proves who asks."""

    def define(emulator, **extra):
        conn_id = google(emulator)
        known = {"project": "p1", "location": "us-central1", "gcp_conn_id": conn_id, "storage": "gs://b/stage", **extra}
        return connect(emulator.url, "vertex", key=None, **known), conn_id

    return define


def chat(model=GEMINI, **more):
    return ChatRequest(model=model, user="{text}", max_tokens=100, **more)


def stored(emulator):
    return sorted(name for _, name in emulator.app.state.store.objects)


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_a_local_job_directory_is_staged(emulator, vertex, context, tmp_path, model):
    """Submit, wait, fetch: the shard is copied to the connection's storage, and goes again once all is landed."""
    conn_id, _ = vertex(emulator, limits={"requests": 2})
    summary, rows = run(context, conn_id, tmp_path, rows=texts(3), key="id", request=chat(model))
    assert {row["key"]: row["text"] for row in rows} == {f"k{n}": f"text {n}" for n in range(3)}
    assert summary["counts"]["succeeded"] == 3
    assert (len(emulator.vendor.batches), emulator.vendor.stats()["billed_rows"]) == (2, 3)
    assert summary["cost_usd"] > 0
    assert all(job.input_file_id.startswith("gs://b/stage/") for job in emulator.vendor.batches.values())


@pytest.mark.parametrize(("scope", "left"), [("none", 2), ("inputs", 1), ("all", 0)])
def test_what_was_staged_goes_once_it_is_landed(emulator, vertex, context, tmp_path, scope, left):
    """The copy of the shard by default; the results and the service's job too where that is asked for."""
    conn_id, _ = vertex(emulator, delete_files=scope)
    summary, _ = run(context, conn_id, tmp_path, rows=texts(3), key="id", request=chat())
    assert summary["counts"]["succeeded"] == 3
    assert len(stored(emulator)) == left
    assert len(emulator.vendor.batches) == (scope != "all")


def test_a_job_directory_in_cloud_storage_is_read_where_it_lies(emulator, vertex, context, tmp_path):
    """Nothing is copied: the job reads the shard itself, and its results lie beside it."""
    conn_id, gcp = vertex(emulator, storage=None)
    storage = f"gs://{gcp}@jobs/dir"
    summary, rows = run(context, conn_id, tmp_path, rows=texts(3), key="id", request=chat(), storage=storage)
    assert summary["counts"]["succeeded"] == 3
    (job,) = emulator.vendor.batches.values()
    assert job.input_file_id.startswith("gs://jobs/dir/")
    assert "@" not in json.dumps(job.about)
    assert job.directory.startswith(job.input_file_id.rpartition("/")[0])
    assert len(below(storage, "requests*.jsonl")) == len(below(storage, "predictions*.jsonl")) == 1
    assert {row["key"]: row["text"] for row in rows} == {f"k{n}": f"text {n}" for n in range(3)}


def test_a_job_directory_below_the_connections_storage_keeps_its_requests(emulator, vertex, context, tmp_path):
    """One prefix for both: what a repair reads is no copy to be deleted."""
    conn_id, gcp = vertex(emulator, storage="gs://jobs/dir", delete_files="all")
    storage = f"gs://{gcp}@jobs/dir"
    summary, _ = run(context, conn_id, tmp_path, rows=texts(3), key="id", request=chat(), storage=storage)
    assert summary["counts"]["succeeded"] == 3
    assert len(below(storage, "requests*.jsonl")) == 1


def test_without_a_place_nothing_is_sent(emulator, vertex, context, tmp_path):
    """A local job directory and no storage: the error says what to set."""
    conn_id, _ = vertex(emulator, storage=None)
    with pytest.raises(ConfigurationError, match=r"storage.*Nothing was sent"):
        run(context, conn_id, tmp_path, rows=texts(3), key="id", request=chat())
    assert emulator.vendor.batches == {}


def test_results_in_many_files_are_landed_whole(emulator, vertex, context, tmp_path):
    """predictions_0001.jsonl and its kin, in any order."""
    conn_id, _ = vertex(emulator)
    emulator.faults(shuffle=True)
    summary, rows = run(context, conn_id, tmp_path, rows=texts(2500), key="id", request=chat())
    assert summary["counts"]["succeeded"] == 2500
    assert {row["key"]: row["text"] for row in rows} == {f"k{n}": f"text {n}" for n in range(2500)}
    assert sum("predictions_" in name for name in stored(emulator)) == 3


def test_failed_rows_are_asked_again(emulator, vertex, context, tmp_path):
    """What the service failed in the first round succeeds in the second; each row is paid for once."""
    conn_id, _ = vertex(emulator)
    emulator.faults(row_errors=0.4, heal=1)
    operator = batch_operator(conn_id, tmp_path, rows=texts(20), request=chat(), max_rounds=2)
    summary = drive(operator, context)
    assert (summary["rounds"], summary["counts"]["succeeded"]) == (2, 20)
    assert {row["key"]: row["text"] for row in landed(summary)} == {f"k{n}": f"text {n}" for n in range(20)}
    assert emulator.vendor.stats()["billed_rows"] == 20


def test_failed_rows_of_a_landed_job_in_a_task_of_their_own(emulator, vertex, context, tmp_path):
    """FailedRows reads the lines that were sent, and asks them again under the same ids."""
    conn_id, _ = vertex(emulator)
    emulator.faults(row_errors=0.5, heal=1)
    first = explicit(context, conn_id, tmp_path, texts(12), key="id", request=chat())
    assert 0 < first["counts"]["errored"] < 12
    second = explicit(next_task(context, "submit_2"), conn_id, tmp_path, FailedRows(first))
    assert second["counts"]["succeeded"] == len(landed(second)) == 12


def test_a_create_that_was_cut_after_it_arrived_is_found_by_its_label(emulator, vertex, store, tmp_path):
    """Asked, and not sent again: one job, billed once."""
    hook = LLMBatchHook(vertex(emulator)[0])
    emulator.faults(http=[{"on": CREATE, "cut": "after"}])
    job, _ = submit(store, hook, spec(texts(3), chat()))
    assert len(emulator.vendor.batches) == 1
    assert store.attempts(0).created().adopted
    assert not store.attempts(0).created().provisional
    _, rows = land(store, hook, job, tmp_path / "out")
    assert [row["status"] for row in rows] == ["succeeded"] * 3
    assert emulator.vendor.stats()["billed_rows"] == 3


def test_a_create_that_never_arrived_is_sent_again(emulator, vertex, store, tmp_path):
    """The listing has others' jobs, under the same display name too, and none with our label."""
    conn_id, _ = vertex(emulator)
    hook = LLMBatchHook(conn_id)
    submit(JobStore(f"{store.uri}-other"), hook, spec(texts(3), chat()))
    emulator.faults(http=[{"on": CREATE, "cut": "before"}])
    job, _ = submit(store, hook, spec(texts(3), chat()))
    assert len(emulator.vendor.batches) == 2
    _, rows = land(store, hook, job, tmp_path / "out")
    assert [row["status"] for row in rows] == ["succeeded"] * 3


@pytest.mark.parametrize(
    ("faults", "counts"),
    [
        ({"missing": 2}, {"succeeded": 8, "missing": 2}),
        ({"expire": 0.5}, {"succeeded": 5, "expired": 5}),
        ({"duplicates": 3, "shuffle": True}, {"succeeded": 10}),
        ({"garbage": 4, "foreign": 2}, {"succeeded": 10}),
        ({"undelivered": 2}, {"succeeded": 10}),
        ({"fail": "x"}, {"errored": 10}),
        ({"unknown_status": "JOB_STATE_DREAMING"}, {"succeeded": 10}),
    ],
)
def test_every_row_has_one_record(emulator, vertex, store, tmp_path, faults, counts):
    """Partly succeeded, expired, failed, in disorder: what was finished is landed, and the rest is told apart."""
    hook = LLMBatchHook(vertex(emulator)[0])
    faults = {"fail": 3} if "fail" in faults else faults
    emulator.faults(**{name: str(value) if name == "fail" else value for name, value in faults.items()})
    job, _ = submit(store, hook, spec(texts(10), chat()))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert {status: count for status, count in manifest.counts.items() if count} == counts
    assert len(rows) == 10


def test_a_cancelled_job_lands_what_it_has_finished(vertex, store, tmp_path):
    """The results of a cancelled job are paid for."""
    with Emulator(duration=2) as emulator:
        hook = LLMBatchHook(vertex(emulator)[0])
        job, (batch_id,) = submit(store, hook, spec(texts(10), chat()))
        emulator.vendor.batches[batch_id].created_at -= 1
        assert hook.cancel_batch(batch_id).outcome is None
        manifest, rows = land(store, hook, job, tmp_path / "out")
        assert manifest.counts["succeeded"]
        assert manifest.counts["cancelled"]
        assert manifest.counts["succeeded"] == emulator.vendor.stats()["billed_rows"]
        assert len(rows) == 10


def test_results_that_may_not_be_read_are_not_taken_for_missing(emulator, vertex, store, tmp_path):
    """403 at the bucket: the error says where and what to look at, and once it is mended all rows are there."""
    hook = LLMBatchHook(vertex(emulator)[0])
    job, _ = submit(store, hook, spec(texts(3), chat()))
    emulator.faults(http=[{"on": "GET /storage/*", "status": 403, "times": 1000}])
    with pytest.raises(PermissionError, match=r"b/stage/.*'Storage and its rights'"):
        land(store, hook, job, tmp_path / "out")
    emulator.faults()
    _, rows = land(store, hook, job, tmp_path / "out")
    assert [row["status"] for row in rows] == ["succeeded"] * 3
    assert emulator.vendor.stats()["billed_rows"] == 3


def test_vectors(emulator, vertex, context, tmp_path):
    """Embeddings by their keys, as long as asked for."""
    conn_id, _ = vertex(emulator)
    request = EmbeddingRequest(model="gemini-embedding-001", input="{text}", dimensions=8)
    summary, rows = run(context, conn_id, tmp_path, rows=texts(3), key="id", request=request)
    assert summary["counts"]["succeeded"] == 3
    assert [len(row["embedding"]) for row in rows] == [8] * 3
    assert len({tuple(row["embedding"]) for row in rows}) == 3


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_rows_are_called_online(emulator, vertex, context, tmp_path, model):
    """The synchronous lane: generateContent and rawPredict."""
    conn_id, _ = vertex(emulator)
    operator = CompletionOperator(
        task_id="call",
        conn_id=conn_id,
        lane="online",
        rows=texts(3),
        key="id",
        request=chat(model),
        destination=f"file://{tmp_path}/out",
    )
    summary = operator.execute(context)
    assert [row["text"] for row in landed(summary)] == [f"text {n}" for n in range(3)]
    assert emulator.vendor.batches == {}


def test_a_batch_is_made_by_hand_and_downloaded(emulator, vertex, tmp_path):
    """The hook alone: lists, gets, and writes the result lines of a job."""
    conn_id, _ = vertex(emulator)
    hook = LLMBatchHook(conn_id)
    store = JobStore(f"file://{tmp_path}/job")
    _, (batch_id,) = submit(store, hook, spec(texts(2), chat()))
    assert [batch.id for batch in hook.list_batches().items] == [batch_id]
    assert hook.get_batch(batch_id).outcome == "completed"
    assert hook.download(batch_id, tmp_path / "raw.jsonl") > 0
    assert len(read_jsonl(tmp_path / "raw.jsonl")) == 2
    good, words = hook.test_connection()
    assert good, words


def test_changed_input_in_doubt_is_not_taken_up(emulator, vertex, store):
    """Another content is another label: the job of the old one is not adopted."""
    hook = LLMBatchHook(vertex(emulator)[0])
    submit(store, hook, spec(texts(3), chat()))
    changed, job = plan(store, hook, spec(texts(4), chat()))
    submission.submit(changed, hook, job)
    assert sorted(job.total for job in emulator.vendor.batches.values()) == [3, 4]
