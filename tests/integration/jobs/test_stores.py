"""What a job asks of an object store, and what becomes of it when the store fails now and then."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import Counter
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from support import MODELS
from support.stores import TROUBLES, Bucket, Refused, answered

from airflow_llm_batch import outages, storage
from airflow_llm_batch.blocks import FETCH
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.jobs.directory.claims import Claim
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.models import Intent
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.outages import TRIES, is_outage
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.storage import create_exclusive, open_fact, read_small, storage_path, whole_file, write_whole

SHARDS, ROWS = 5, 100
#: requests of a whole job: of five shards, and of each further one
MOST, MORE = 130, 24


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Nobody waits between two tries; what the pauses would have been is kept."""
    pauses = []
    monkeypatch.setattr(outages, "pause", pauses.append)
    return pauses


def as_one_task(make, context):
    """A task's try, deferred and resumed as Airflow does: each time by another process that remembers nothing."""
    try:
        return make().execute(context)
    except TaskDeferred as deferred:
        for _ in range(50):
            event = asyncio.run(anext(deferred.trigger.run())).payload
            try:
                return make().execute_complete(context, event)
            except TaskDeferred as again:
                deferred = again
        raise


def run_job(bucket, conn_id, provider, tries=1, rows=ROWS, apart=0.05):
    """A whole job, each of its tasks tried so often; its summary and the tries that it took."""
    texts = [{"id": f"k{n}", "text": f"text {n}"} for n in range(rows)]
    request = ChatRequest(MODELS[provider], user="{text}", max_tokens=20)
    taken, value = 0, None

    def tasks(value):
        with DAG("dag", schedule=None):
            submit = SubmitBatchOperator(
                task_id="submit", rows=texts, key="id", request=request, storage=f"{bucket.uri}/jobs", conn_id=conn_id
            )
            wait = BatchSensor(task_id="wait", job=value or {"job": "x", "conn_id": "x"}, poke_interval=apart)
            fetch = FetchResultsOperator(task_id="fetch", job=value or "x", destination=f"{bucket.uri}/out")
            submit >> wait >> fetch
        return {"submit": submit, "wait": wait, "fetch": fetch}

    for name in ("submit", "wait", "fetch"):
        context = {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id=name, map_index=-1)}
        for left in range(tries, 0, -1):
            taken += 1
            try:
                value = as_one_task(lambda name=name, value=value: tasks(value)[name], context)
                break
            except Exception:
                if left == 1:
                    raise
    return value, taken


def landed(bucket):
    lines = [line for key, (data, _) in bucket.files.items() if "/out/" in key for line in data.splitlines()]
    return Counter(json.loads(line)["key"] for line in lines)


def once_each(rows=ROWS):
    return Counter(f"k{n}" for n in range(rows))


@pytest.mark.parametrize("shards", [SHARDS, 2 * SHARDS])
def test_a_job_asks_little_of_its_store(connect, provider, shards):
    """Of five shards 526 requests once; every fact is read once by each process that needs it."""
    bucket = Bucket()
    with Emulator(duration=0.5) as emulator:
        conn_id = connect(emulator.url, provider, limits={"requests": ROWS // SHARDS})
        # The triggerer's first look comes when all has ended: how many there are is no matter of the store.
        summary, _ = run_job(bucket, conn_id, provider, rows=ROWS * shards // SHARDS, apart=1.0)
    assert (len(summary["batches"]), landed(bucket)) == (shards, once_each(ROWS * shards // SHARDS))
    assert bucket.asked.total() <= MOST + MORE * (shards - SHARDS), bucket.asked
    # What is small is written in one request, and nothing is asked for its size or whether it is there.
    assert set(bucket.kinds) <= {"GET", "PUT", "LIST", "HEAD", "DELETE"}
    assert bucket.kinds["HEAD"] <= shards
    # Submit, the wait before, in and after the triggerer, and fetch are five processes.
    assert max(times for (kind, _), times in bucket.asked.items() if kind == "GET") <= 5


@pytest.mark.parametrize("seed", range(3))
def test_jobs_finish_although_one_request_in_twenty_fails(connect, provider, seed):
    """Before or after it took effect: no task needs a second try, each row is billed and landed once."""
    bucket = Bucket(seed)
    with Emulator(duration=0.2) as emulator:
        conn_id = connect(emulator.url, provider, limits={"requests": ROWS // SHARDS})
        bucket.failing = 0.05
        _, tries = run_job(bucket, conn_id, provider)
        assert tries == 3
        assert bucket.failed > 2
        assert len(emulator.vendor.batches) == SHARDS
    assert landed(bucket) == once_each()


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_billed_once_although_most_requests_fail(connect, provider, seed):
    """More than a task's own patience mends: it is tried again, and finds what became of its creates."""
    bucket = Bucket(seed)
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, provider, limits={"requests": ROWS // SHARDS}, lapse_seconds=0.3)
        bucket.failing = 0.6
        _, tries = run_job(bucket, conn_id, provider, tries=200)
        assert tries > 3
        assert len(emulator.vendor.batches) == SHARDS
    assert landed(bucket) == once_each()


@pytest.mark.parametrize("kind", ["rounds", "online"])
def test_tasks_that_do_all_of_it_finish_too(connect, provider, kind):
    """Rounds, and calls with their journal, while one request in twenty fails."""
    bucket = Bucket(7)
    texts = [{"id": f"k{n}", "text": f"text {n}"} for n in range(60)]
    asked = {"rows": texts, "key": "id", "request": ChatRequest(MODELS[provider], user="{text}", max_tokens=20)}
    with Emulator(duration=0) as emulator:
        asked |= {"conn_id": connect(emulator.url, provider, limits={"requests": 20}), "storage": f"{bucket.uri}/jobs"}
        operator = LLMBatchOperator if kind == "rounds" else CompletionOperator
        if kind == "rounds":
            emulator.faults(row_errors=0.3, heal=1)
            asked["poll_interval"] = 0.05
        bucket.failing = 0.05
        context = {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id="t", map_index=-1)}
        summary = as_one_task(lambda: operator(task_id="t", destination=f"{bucket.uri}/out", **asked), context)
        assert summary["counts"]["succeeded"] == 60
        called = sum(
            n
            for call, n in emulator.vendor.calls.items()
            if call.endswith(("/completions", "v1/messages", ":generateContent"))
        )
        assert called == (60 if kind == "online" else 0)
    files = [file.partition("@")[2] for file in summary["files"]]
    lines = [line for file in files for line in bucket.files[file][0].splitlines()]
    assert Counter(json.loads(line)["key"] for line in lines) == once_each(60)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_troubles_that_pass_are_tried_again(trouble, at_once):
    """With short pauses, and not for ever."""
    assert is_outage(trouble())
    asked = []

    def operation():
        asked.append(1)
        raise trouble()

    with pytest.raises(Exception) as raised:  # noqa: PT011  (of every driver's kind)
        outages.patiently(operation)
    assert type(raised.value).__name__ == type(trouble()).__name__
    assert len(asked) == TRIES
    assert len(at_once) == TRIES - 1
    assert sum(at_once) < 60


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(), FileExistsError(), PermissionError(), OSError(errno.ENOSPC, "full"),
        answered(403, errno.EIO), answered(400, errno.EIO), ValueError(), KeyError("x"),
        type("HttpError", (Exception,), {"code": 404})(),
    ],
    ids=repr,
)  # fmt: skip
def test_troubles_that_stay_are_told_at_once(error, at_once):
    """What is not there, not allowed, full, or refused."""
    with pytest.raises(type(error)):
        outages.patiently(raising(error))
    assert at_once == []


def raising(error):
    def operation():
        raise error

    return operation


class LosesAnswers(Bucket):
    """Every create takes effect and its answer is lost, ``times`` times."""

    times = 1

    def write(self, kind, key, data, exclusive=False):
        super().write(kind, key, data, exclusive)
        if exclusive and self.times:
            self.times -= 1
            raise ConnectionResetError


def test_a_create_whose_answer_was_lost_was_won_all_the_same():
    """The second try finds the file that the first has made."""
    bucket = LosesAnswers()
    path = storage_path(f"{bucket.uri}/intent.json")
    assert create_exclusive(path, b"ours")
    assert not create_exclusive(path, b"theirs")
    assert read_small(path) == b"ours"


def test_a_create_that_the_driver_repeats_was_won_all_the_same(monkeypatch):
    """A driver that tries again by itself tells of the first success as of somebody else's file."""
    bucket = Bucket()
    path = storage_path(f"{bucket.uri}/intent.json")
    write_whole(path, b"ours")
    assert create_exclusive(path, b"ours")
    assert not create_exclusive(path, b"theirs")


def test_two_claims_of_the_same_intent_are_two():
    """Each has a token of its own: only one of them finds itself at the store."""
    bucket = LosesAnswers()
    store = JobStore(f"{bucket.uri}/job")
    intent = Intent(at="2026-01-01T00:00:00Z")
    assert store.attempts(0).begin(intent)
    bucket.times = 1
    assert not store.attempts(0).begin(intent)


def test_a_server_that_names_no_condition_has_the_file(monkeypatch):
    """412 is an answer to our only condition."""
    bucket = Bucket()

    def refuse(*args, **kwargs):
        error = OSError(errno.EINVAL, "precondition")
        error.__cause__ = Refused(412)
        raise error

    bucket.files["bucket/x"] = (b"theirs", None)
    monkeypatch.setattr(bucket, "write", refuse)
    assert not create_exclusive(storage_path(f"{bucket.uri}/x"), b"ours")


def test_a_claim_that_nobody_ever_held_takes_one_request():
    """And one that was given back is looked at first."""
    bucket = Bucket()
    store = JobStore(f"{bucket.uri}/job")
    with Claim(store, "landing"):
        assert [kind for kind, key in bucket.asked if key.endswith(".json")] == ["PUT"]
    with Claim(store, "landing") as again:
        assert again.number == 2


@pytest.mark.parametrize("size", [0, 1, FETCH - 1, FETCH, FETCH + 1, 2 * FETCH])
def test_a_file_is_read_to_its_end_whatever_its_size(size):
    """Its end shows where it ends; one that is full to the last block costs one request more."""
    bucket = Bucket()
    path = storage_path(f"{bucket.uri}/file")
    with whole_file(path) as file:
        file.write(b"x" * size)
    bucket.asked.clear()
    with open_fact(path) as lines:
        assert len(lines.read()) == size
    assert bucket.kinds == {"GET": size // FETCH + 1}


@pytest.mark.parametrize("size", [0, 1, storage.HELD + 1, storage.PART - 1, storage.PART, 3 * storage.PART + 1])
def test_a_file_is_published_when_it_is_committed(size):
    """Held here or at the store: nothing is seen of it before, and nothing after it was discarded."""
    bucket = Bucket()
    path = storage_path(f"{bucket.uri}/file")
    for commits in (False, True):
        file = storage.WholeFile(path)
        for start in range(0, size, 2**20):
            file.write(b"x" * min(2**20, size - start))
        file.finish()
        assert (file.is_held, list(bucket.files)) == (size <= storage.HELD, [])
        if commits:
            file.commit()
        else:
            file.discard()
    assert len(bucket.files["bucket/file"][0]) == size


def test_what_another_process_has_done_is_seen(connect):
    """Facts that were not there are asked for again; a plan that was made anew has none of the old one's."""
    bucket = Bucket()
    ours, theirs = JobStore(f"{bucket.uri}/job"), JobStore(f"{bucket.uri}/job")
    assert ours.attempts(0).last() == 0
    assert theirs.attempts(0).begin(Intent(at="2026-01-01T00:00:00Z"))
    assert ours.attempts(0).last() == 1
    old = ours.attempts(0).intent(1)
    theirs.remove()
    assert theirs.attempts(0).begin(Intent(at="2026-02-02T00:00:00Z"))
    assert ours.load_job() is None
    assert ours.attempts(0).intent(1).at > old.at
