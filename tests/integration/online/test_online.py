"""The online lane: the same rows, requests and results, called one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from hypothesis import given
from hypothesis import strategies as st
from support import MODELS, TESTS, read_jsonl
from support.servers import GOOD, server, serving
from support.tasks import drive

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import (
    BudgetExceeded,
    ConfigurationError,
    Interrupted,
    RefusedForGood,
    RequestRejected,
    VendorUnavailable,
)
from airflow_llm_batch.jobs.directory.attempts import Attempts
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.online.pace import Bucket, Pace
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor


def texts(count):
    return [{"id": f"k{n}", "text": f"text {n}"} for n in range(count)]


def operator(conn_id, tmp_path, provider="openai", **arguments):
    given = {
        "rows": texts(100),
        "key": "id",
        "passthrough": {"input": "text"},
        "request": ChatRequest(MODELS[provider], user="{text}", max_tokens=50),
        "destination": f"file://{tmp_path}/out",
    }
    return CompletionOperator(task_id="submit", conn_id=conn_id, **{**given, **arguments})


def landed(summary):
    return sorted((row for file in summary["files"] for row in read_jsonl(file)), key=lambda row: row["row"])


class Server:
    """A model server that does what the prompt says: ``sleep 0.2``, ``meet``, ``fail 500``, ``cut``; else it echoes."""

    def __init__(self):
        site = self
        self.asked = []
        self.answered = Counter()
        self.refuse = 0
        self.at_once = self.most = 0
        self.ten = threading.Barrier(10)
        self.lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = body["messages"][-1]["content"]
                with site.lock:
                    site.asked.append((body["model"], prompt, self.headers.get("authorization")))
                    site.at_once += 1
                    site.most = max(site.most, site.at_once)
                    refused, site.refuse = site.refuse > 0, site.refuse - 1
                try:
                    self.answer(body["model"], prompt, refused)
                except OSError:
                    pass
                finally:
                    with site.lock:
                        site.at_once -= 1

            def answer(self, model, prompt, refused):
                word, _, value = prompt.partition(" ")
                if refused:
                    return self.say(429, {"error": {"message": "slow down"}}, **{"retry-after": "0.05"})
                if word == "sleep" or model.startswith("slow"):
                    time.sleep(float(value) if word == "sleep" else 60)
                if word == "meet":
                    site.ten.wait(60)
                if word == "fail" or model.startswith("broken"):
                    return self.say(int(value) if word == "fail" else 400, {"error": {"code": "nope", "message": "no"}})
                if word == "cut":
                    return self.connection.shutdown(socket.SHUT_RDWR)
                choice = {"message": {"role": "assistant", "content": f"{model}: {prompt}"}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 1000, "completion_tokens": 100}
                with site.lock:
                    site.answered[model] += 1
                return self.say(200, {"model": model, "choices": [choice], "usage": usage}, indent=2)

            def say(self, status, body, indent=None, **headers):
                data = json.dumps(body, indent=indent).encode()
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.running = serving(self.server)
        self.running.__enter__()
        return self

    def __exit__(self, *error):
        self.running.__exit__(*error)


def test_rows_are_called_and_landed_like_a_batch(emulator, provider, connect, context, tmp_path):
    """The same records as the batch lane's, at the synchronous price; nothing was sent as a batch."""
    conn_id = connect(emulator.url, provider)
    summary = drive(operator(conn_id, tmp_path, provider), context)
    assert not emulator.vendor.batches
    rows = landed(summary)
    assert [(row["key"], row["input"], row["text"], row["status"]) for row in rows] == [
        (f"k{n}", f"text {n}", f"text {n}", "succeeded") for n in range(100)
    ]
    context["ti"].run_id += "-batch"
    batch = drive(operator(conn_id, tmp_path / "batch", provider, lane="batch", poll_interval=0.05), context)
    both = {name for name in rows[0] if name not in ("custom_id", "cost_usd", "service_tier")}
    assert [{name: row[name] for name in both} for row in rows] == [
        {name: row[name] for name in both} for row in landed(batch)
    ]
    assert summary["cost_usd"] == pytest.approx(2 * batch["cost_usd"]) == summary["sync_cost_usd"]
    manifest = JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest()
    assert (manifest.batch_cost_usd, manifest.saving_usd) == (pytest.approx(batch["cost_usd"]), 0)
    assert summary["estimated_cost_usd"] > summary["cost_usd"]
    # Cleared: nothing is called again.
    calls = sum(emulator.vendor.calls.values())
    context["ti"].run_id = context["ti"].run_id.removesuffix("-batch")
    assert drive(operator(conn_id, tmp_path, provider), context) == summary
    assert sum(emulator.vendor.calls.values()) == calls


def test_embeddings_and_structured_output_too(emulator, connect, context, tmp_path):
    """Other endpoints and schemas, in Parquet."""
    import pyarrow.parquet as pq

    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    request = ChatRequest("gpt-5-mini", user="{text}", output=schema, max_tokens=50)
    conn_id = connect(emulator.url)
    assert all(
        isinstance(row["output"]["a"], int)
        for row in landed(drive(operator(conn_id, tmp_path, request=request), context))
    )
    context["ti"].run_id += "-b"
    request = EmbeddingRequest("text-embedding-3-small", "{text}", dimensions=8)
    summary = drive(operator(conn_id, tmp_path / "b", request=request, format="parquet"), context)
    table = pq.read_table(summary["files"][0].removeprefix("file://"))
    assert (table.num_rows, str(table.schema.field("embedding").type)) == (100, "list<element: float>")


def test_no_more_calls_at_once_than_allowed_and_credentials_with_each(connect, context, tmp_path):
    """Ten at once of a hundred, none of which is answered before its nine fellows are there; every one has the key."""
    with Server() as server:
        rows = [{"id": n, "text": "meet"} for n in range(100)]
        summary = drive(operator(connect(server.url), tmp_path, rows=rows, concurrency=10), context)
        assert summary["counts"]["succeeded"] == len(server.asked) == 100
        assert server.most == 10
        assert len({key for _, _, key in server.asked}) == 1
        assert server.asked[0][2].startswith("Bearer sk-planted")


def test_a_storm_of_429_slows_down_and_loses_nothing(connect, context, tmp_path):
    """Sixty refusals: every row is answered in the end, none is landed as failed, and no call is counted as a try."""
    with Server() as server:
        server.refuse = 60
        summary = drive(operator(connect(server.url), tmp_path, concurrency=20), context)
        assert summary["counts"]["succeeded"] == 100
        assert len(server.asked) == 160


def test_trouble_that_passes_is_called_again_and_what_does_not_pass_is_landed(connect, context, tmp_path):
    """5xx and cut connections are repeated and then told; 4xx are told at once."""
    with Server() as server:
        kinds = ["fail 500", "fail 400", "cut", "fine"]
        rows = [{"id": n, "text": kind} for n, kind in enumerate(kinds)]
        task = operator(connect(server.url), tmp_path, rows=rows, call_timeout=4.0, fail_on="all")
        rows = landed(drive(task, context))
        asked = Counter(prompt for _, prompt, _ in server.asked)
    assert [row["status"] for row in rows] == ["errored", "errored", "errored", "succeeded"]
    assert (asked["fail 400"], asked["fine"]) == (1, 1)
    assert asked["fail 500"] >= 3
    assert asked["cut"] >= 3
    assert rows[0]["error_code"] == "http_500"
    assert rows[2]["error_code"] == "connection_error"


def test_a_call_that_hangs_is_given_up(connect, context, tmp_path):
    """The hard deadline of one call: its row is landed as failed, the others are not kept waiting."""
    with Server() as server:
        rows = [{"id": 1, "text": "sleep 30"}, {"id": 2, "text": "hi"}]
        task = operator(connect(server.url), tmp_path, rows=rows, call_timeout=0.5, fail_on="all")
        rows = landed(drive(task, context))
    assert [row["status"] for row in rows] == ["errored", "succeeded"]
    assert "No answer within" in rows[0]["error_message"]


def test_the_jobs_deadline_ends_the_calls(connect, context, tmp_path):
    """What was answered is landed, the rest as expired; with more time the cleared task calls only the rest."""
    with Server() as server:
        rows = [{"id": n, "text": "hi" if n < 10 else "sleep 20"} for n in range(14)]
        summary = drive(operator(connect(server.url), tmp_path, rows=rows, deadline=1.5, fail_on="none"), context)
        assert (summary["counts"]["succeeded"], summary["counts"]["expired"]) == (10, 4)
        assert {row["error_code"] for row in landed(summary) if row["status"] == "expired"} == {"deadline"}


def test_a_refused_key_stops_everything(connect, context, tmp_path):
    """401 at the first call: red with the reason, without the key, and no failures landed."""
    with Emulator(api_key="right") as emulator, pytest.raises(RequestRejected, match="HTTP 401") as refused:
        drive(operator(connect(emulator.url), tmp_path), context)
    assert "sk-planted" not in str(refused.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_server_that_cannot_be_reached_fails_the_task_and_no_row(connect, context, tmp_path):
    """Nothing was ever answered: Airflow's retry is the remedy, and nothing is landed as failed."""
    from airflow_llm_batch.exceptions import VendorUnavailable
    from airflow_llm_batch.jobs.online import endpoint as calls

    task = operator(connect("http://127.0.0.1:9"), tmp_path)
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(calls, "FIRST_PAUSE", 0.01)
        with pytest.raises(VendorUnavailable, match="cannot be reached"):
            drive(task, context)
    assert not list((tmp_path / "out").iterdir())


def test_the_fastest_good_answer_wins_and_the_others_are_given_up(connect, context, tmp_path):
    """Of a slow, a broken and a good model: one record a row, the good one's, before the slow one has answered any."""
    with Server() as server:
        connect(server.url, conn_id="llm_other")
        models = ["slow-model", "broken-model", ("good-model", "llm_other")]
        task = operator(connect(server.url), tmp_path, models=models, strategy="fastest", concurrency=50)
        summary = drive(task, context)
        # The slow model has not answered a single row yet.
        assert "slow-model" not in server.answered
        assert server.answered["good-model"] == 100
    rows = landed(summary)
    assert [row["row"] for row in rows] == list(range(100))
    assert {row["model"] for row in rows} == {"good-model"}
    assert {row["text"] for row in rows} == {f"good-model: text {n}" for n in range(100)}
    assert summary["counts"]["succeeded"] == summary["rows"] == 100
    # Nothing is called again when the task is cleared.
    with Server() as server:
        connect(server.url, conn_id="llm_other")
        again = drive(operator(connect(server.url), tmp_path, models=models, strategy="fastest"), context)
        assert (again["rows"], server.asked) == (100, [])


def test_when_no_model_is_good_the_first_ones_failure_is_landed(connect, context, tmp_path):
    """One record a row still, with the reason."""
    with Server() as server:
        task = operator(
            connect(server.url),
            tmp_path,
            rows=texts(5),
            models=["broken-a", "broken-b"],
            strategy="fastest",
            fail_on="none",
        )
        rows = landed(drive(task, context))
    assert [(row["row"], row["status"], row["model"]) for row in rows] == [(n, "errored", "broken-a") for n in range(5)]


@pytest.mark.parametrize("lane", ["online", "batch"])
def test_all_models_answer_every_row_on_their_own_vendors(emulator, connect, context, tmp_path, lane):
    """One record per row and model, failures included, in either lane."""
    connect(emulator.url, "anthropic", conn_id="llm_other")
    models = ["gpt-5-mini", {"model": "claude-haiku-4-5", "conn_id": "llm_other"}]
    task = operator(connect(emulator.url), tmp_path, models=models, lane=lane, poll_interval=0.05)
    summary = drive(task, context)
    rows = landed(summary)
    assert Counter(row["model"] for row in rows) == {"gpt-5-mini": 100, "claude-haiku-4-5": 100}
    assert {row["provider"] for row in rows} == {"openai", "anthropic"}
    assert summary["rows"] == summary["counts"]["succeeded"] == 200
    assert [one["rows"] for one in summary["by_model"]] == [100, 100]
    assert len(emulator.vendor.batches) == (2 if lane == "batch" else 0)
    assert summary["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows))


def test_all_models_in_batches_survive_deferral(connect, context, tmp_path):
    """Two jobs of one task wait one after the other, and both are landed."""
    with Emulator(duration=0.4, faults={"row_errors": 0.2, "heal": 1}) as emulator:
        connect(emulator.url, "anthropic", conn_id="llm_other")
        task = LLMBatchOperator(
            task_id="submit", conn_id=connect(emulator.url), rows=texts(20), key="id",
            request=ChatRequest("x", user="{text}", max_tokens=9), destination=f"file://{tmp_path}/out",
            models=["gpt-5-mini", ("claude-haiku-4-5", "llm_other")], poll_interval=0.05,
        )  # fmt: skip
        with pytest.raises(TaskDeferred):
            task.execute(context)
        summary = drive(task, context)
    assert (summary["rows"], summary["counts"]["succeeded"]) == (40, 40)


@pytest.mark.parametrize(
    ("count", "arguments", "extra", "lane", "why"),
    [
        (5, {}, {}, "flex", "5 rows under the 200-row threshold"),
        (5, {"batch_from": 5}, {}, "batch", "5 rows, 5 or more"),
        (250, {}, {}, "batch", "250 rows"),
        (250, {"deadline": 3600}, {}, "online", "a deadline of 1.0 h"),
        (250, {}, {"batch": False}, "flex", "has no batches"),
    ],
)
def test_the_lane_is_chosen_and_told(emulator, connect, context, tmp_path, capfd, count, arguments, extra, lane, why):
    """By rows, deadline and vendor; the log says why, and a retry stays in it."""
    conn_id = connect(emulator.url, **extra)
    arguments = {"rows": texts(count), "lane": "auto", "poll_interval": 0.05, **arguments}
    summary = drive(operator(conn_id, tmp_path, **arguments), context)
    assert summary["counts"]["succeeded"] == count
    assert bool(emulator.vendor.batches) == (lane == "batch")
    printed = capfd.readouterr()
    assert f"Lane: {lane}, for " in printed.out + printed.err
    assert why in printed.out + printed.err
    drive(operator(conn_id, tmp_path, **{**arguments, "batch_from": 10_000 if lane == "batch" else 1}), context)
    assert "the job was begun in it" in (again := capfd.readouterr()).out + again.err


def test_the_budget_knows_the_synchronous_price(emulator, connect, context, tmp_path):
    """What a batch could afford, calls cannot; with several models they are held to it together."""
    conn_id = connect(emulator.url)
    cost = 100 * 50 * 2e-6
    for arguments in (
        {"max_cost": cost},
        {"max_cost": 3 * cost, "models": ["gpt-5-mini", "gpt-5-mini-2025-08-07", "gpt-5"]},
    ):
        with pytest.raises(BudgetExceeded):
            drive(operator(conn_id, tmp_path, **arguments), context)
        context["ti"].run_id += "x"
    assert not emulator.vendor.calls
    assert drive(operator(conn_id, tmp_path, max_cost=2 * cost), context)["cost_usd"] < cost


@pytest.mark.parametrize(("one_task", "model"), [(True, "gpt-5-mini"), (False, "gpt-4o-mini")])
def test_the_deadline_is_kept_by_finishing_online(connect, context, tmp_path, one_task, model):
    """A half-done batch is cancelled at the deadline and harvested, and only the rest is called: each row paid once, at
    half the price where flex has the model."""
    with Emulator(duration=60, cancel_seconds=0) as emulator:
        conn_id = connect(emulator.url, limits={"requests": 50})
        request = ChatRequest(model, user="{text}", max_tokens=50)
        asked = {"rows": texts(100), "key": "id", "request": request, "conn_id": conn_id}
        real = emulator.vendor.add_batch

        def half_done(batch):
            # Half of it has been worked on when the deadline comes, and a cancellation takes no time.
            made = real(batch)
            made.created_at -= 30
            return made

        emulator.vendor.add_batch = half_done
        target = {"destination": f"file://{tmp_path}/out"}
        late = {"deadline": 0.5, "on_deadline": "finish_online"}
        if one_task:
            task = LLMBatchOperator(task_id="submit", poll_interval=0.05, **asked, **target, **late)
            summary = drive(task, context)
        else:
            job = SubmitBatchOperator(task_id="submit", **asked).execute(context)
            sensor = BatchSensor(task_id="wait", job=job, deferrable=False, poke_interval=0.05, **late)
            summary = FetchResultsOperator(task_id="fetch", job=sensor.execute(context), **target).execute(context)
        called = emulator.vendor.calls["POST /v1/chat/completions"]
    rows = landed(summary)
    assert [row["key"] for row in rows] == [f"k{n}" for n in range(100)]
    assert summary["counts"]["succeeded"] == 100
    assert 10 < called < 90
    # Of the synchronous price, $0.15 and $0.60 a million tokens or $0.25 and $2.
    read, written = (0.15e-6, 0.6e-6) if model == "gpt-4o-mini" else (0.25e-6, 2e-6)
    paid = Counter(
        round(row["cost_usd"] / (row["input_tokens"] * read + row["output_tokens"] * written), 3) for row in rows
    )
    if model == "gpt-4o-mini":
        assert paid == {1.0: called, 0.5: 100 - called}
    else:
        assert (paid, Counter(row["service_tier"] for row in rows)["flex"]) == ({0.5: 100}, called)
    assert summary["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows))
    assert summary["saving_usd"] > 0


def test_finishing_online_is_held_to_the_budget(connect, context, tmp_path):
    """A budget that batches fit and calls do not: the deadline cancels, and nothing is called above max_cost."""
    with Emulator(duration=20, cancel_seconds=0) as emulator:
        task = LLMBatchOperator(
            task_id="submit", conn_id=connect(emulator.url), rows=texts(100), key="id", poll_interval=0.05,
            request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=50), destination=f"file://{tmp_path}/out",
            deadline=0.3, on_deadline="finish_online", max_cost=100 * 50 * 1e-6 * 1.2, fail_on="none",
        )  # fmt: skip
        summary = drive(task, context)
        assert emulator.vendor.calls["POST /v1/chat/completions"] == 0
    assert summary["counts"]["cancelled"] == 100


def test_a_killed_task_keeps_what_was_answered_and_lands_nothing(connect, context, tmp_path):
    """on_kill stops the calls; the next try goes on."""
    with Server() as server:
        conn_id = connect(server.url)
        rows = [{"id": n, "text": "hi" if n < 20 else "sleep 60"} for n in range(24)]
        task = operator(conn_id, tmp_path, rows=rows, passthrough=None, concurrency=4)
        threading.Timer(1.0, task.on_kill).start()
        with pytest.raises(Interrupted, match="was killed"):
            drive(task, context)
        assert not list((tmp_path / "out").iterdir())
        assert server.answered["gpt-5-mini"] == 20


KILLED = """
import json, os, sys
sys.path.insert(0, sys.argv[4])
from types import SimpleNamespace
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import CompletionOperator
os.environ["AIRFLOW_CONN_K"] = sys.argv[1]
rows = [{"id": n, "text": f"sleep 0.0{n % 7}"} for n in range(300)]
task = CompletionOperator(task_id="t", conn_id="k", rows=rows, key="id", request=ChatRequest("m", user="{text}"),
                          destination=sys.argv[3], storage=sys.argv[2], concurrency=8)
context = {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)}
print(json.dumps(task.execute(context)["counts"]))
"""


@pytest.mark.slow
def test_a_killed_task_goes_on_without_calling_again_what_was_answered(tmp_path):
    """SIGKILL three times in the middle: no row whose answer came is called twice, but for those in flight."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path / "home")}
    with Server() as server:
        connection = json.dumps(
            {"conn_type": "llmbatch", "host": server.url, "password": "k-123", "extra": {"provider": "openai"}}
        )
        command = [
            sys.executable,
            "-c",
            KILLED,
            connection,
            f"file://{tmp_path}/jobs",
            f"file://{tmp_path}/out",
            str(TESTS),
        ]
        for kill_at in (60, 120, 200, None):
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            while kill_at is not None and len(server.asked) < kill_at:
                assert process.poll() is None, process.stderr.read()[-2000:]
                time.sleep(0.005)
            if kill_at is not None:
                process.send_signal(signal.SIGKILL)
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-2000:]
        counts = Counter(server.asked)
    assert json.loads(out.splitlines()[-1])["succeeded"] == 300
    rows = [row for path in (tmp_path / "out").glob("results-*") for row in read_jsonl(path)]
    assert sorted(row["key"] for row in rows) == list(range(300))
    # Each kill may lose the eight calls that were under way.
    assert 300 <= sum(counts.values()) <= 300 + 3 * 8


def test_object_stores_keep_answers_every_few_seconds(emulator, connect, context, tmp_path, monkeypatch):
    """Where nothing can be appended, whole files are written as time passes, and read back alike."""
    from airflow_llm_batch.jobs.directory import journal

    monkeypatch.setattr(journal, "is_local", lambda path: False)
    monkeypatch.setattr(journal, "EVERY", 0.0)
    conn_id = connect(emulator.url)
    summary = drive(operator(conn_id, tmp_path, concurrency=2, rows=texts(400)), context)
    assert summary["counts"]["succeeded"] == 400
    job = JobStore(summary["manifest"].removesuffix("/manifest.json"))
    assert list(job.shard(0).iterdir())
    calls = emulator.vendor.calls["POST /v1/chat/completions"]
    drive(operator(conn_id, tmp_path, concurrency=2, rows=texts(400)), context)
    assert emulator.vendor.calls["POST /v1/chat/completions"] == calls == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "slowest"}, {"lane": "express"}, {"concurrency": 0}, {"requests_per_minute": -1},
        {"call_timeout": "soon"}, {"strategy": "fastest", "lane": "batch"},
    ],
)  # fmt: skip
def test_wrong_choices_are_told_when_the_dag_is_parsed(tmp_path, wrong):
    """By name and value."""
    with pytest.raises(ConfigurationError, match="Nothing was sent"):
        operator("c", tmp_path, **wrong)


@pytest.mark.parametrize("models", ["gpt-5", ["a", "a"], [3], [("a", "b", "c")], {"model": "a"}])
def test_wrong_models_are_refused(emulator, connect, context, tmp_path, models):
    """Before anything is sent."""
    with pytest.raises(ConfigurationError, match="models"):
        drive(operator(connect(emulator.url), tmp_path, models=models), context)
    assert not emulator.vendor.calls


@given(st.floats(1, 1000), st.lists(st.floats(0.1, 50), min_size=1, max_size=30))
def test_a_bucket_never_gives_more_than_its_rate(rate, amounts):
    """Over any time: what has flowed in, the half second it holds, and the last one taken on credit."""
    now = [0.0]
    bucket = Bucket(rate, lambda: now[0])
    taken = 0.0
    for amount in amounts:
        now[0] += bucket.wait(amount) + 1e-9
        bucket.take(amount)
        taken += amount
        assert taken <= now[0] * rate + bucket.most + max(amounts) + 1e-6


def test_the_pace_halves_when_refused_and_recovers():
    """Once for all refusals of one moment; a pause as the vendor says, or growing; back with good answers."""
    now = [0.0]
    pace = Pace(16, clock=lambda: now[0])
    for _ in range(10):
        pace.was_refused(2.0)
    assert (pace.allowed, 2.0 <= pace.not_before <= 2.4) == (8, True)
    now[0] = 10.0
    pace.was_refused(None)
    assert (pace.allowed, 12.0 <= pace.not_before <= 12.4) == (4, True)
    for _ in range(200):
        pace.went_well()
    assert pace.allowed == 16


def test_who_has_given_up_waiting_is_forgotten():
    """Killed while others leave: each slot is given to one that still waits, and giving up is no error of its own."""

    async def run():
        pace = Pace(1)
        await pace.enter(0)
        waiting = [asyncio.create_task(pace.enter(0)) for _ in range(3)]
        await asyncio.sleep(0)
        # Cancelled, and its place in the queue passed over before it knows.
        waiting[0].cancel()
        pace.leave()
        outcomes = await asyncio.gather(waiting[0], waiting[1], return_exceptions=True)
        waiting[2].cancel()
        await asyncio.gather(waiting[2], return_exceptions=True)
        return [type(one) for one in outcomes], pace.active, len(pace.waiting)

    assert asyncio.run(run()) == ([asyncio.CancelledError, type(None)], 1, 0)


def test_requests_per_minute_are_kept():
    """120 a minute: after the second's worth that may come at once, one each half a second."""
    now = [0.0]

    async def sleep(seconds):
        now[0] += seconds

    async def enter(times):
        pace = Pace(100, requests_per_minute=120, clock=lambda: now[0], sleep=sleep)
        for _ in range(times):
            await pace.enter(10)
        return now[0]

    assert asyncio.run(enter(41)) == pytest.approx(20, abs=0.6)


def all_landed(tmp_path):
    return [row for path in (tmp_path / "out").glob("results-*") for row in read_jsonl(path)]


def test_a_task_whose_models_change_leaves_no_rows_of_others_behind(emulator, connect, context, tmp_path):
    """One, then two, the fastest of them, and the other one alone: what lies there is what was asked last."""
    conn_id = connect(emulator.url)
    steps = [
        ({}, 1),
        ({"models": ["gpt-5-mini", "gpt-5"]}, 2),
        ({"models": ["gpt-5", "gpt-5-mini"]}, 2),
        ({"models": ["gpt-5-mini", "gpt-5"], "strategy": "fastest"}, 1),
        ({"models": ["gpt-5"]}, 1),
    ]
    calls = []
    for arguments, each in steps:
        summary = drive(operator(conn_id, tmp_path, rows=texts(10), **arguments), context)
        assert Counter(row["key"] for row in all_landed(tmp_path)) == {f"k{n}": each for n in range(10)}
        assert summary["rows"] == 10 * each
        calls.append(emulator.vendor.calls["POST /v1/chat/completions"])
    # The same models in another order, or in a race, are not called again.
    assert calls == [10, 30, 30, 30, 30]


def test_waiting_for_ones_turn_is_not_the_calls_time(connect, context, tmp_path):
    """A slow rate and a short timeout: every row is answered, none is given up for having waited."""
    with Server() as server:
        # The last of them waits 2.2 seconds for its turn.
        task = operator(connect(server.url), tmp_path, rows=texts(12), requests_per_minute=300, call_timeout=2.0)
        assert drive(task, context)["counts"]["succeeded"] == 12
    context["ti"].run_id += "-b"
    with Server() as server:
        server.refuse = 3
        task = operator(connect(server.url), tmp_path / "b", rows=texts(40), concurrency=8, call_timeout=2.0)
        assert drive(task, context)["counts"]["succeeded"] == 40
        assert len(server.asked) == 43


def test_answers_survive_a_store_that_fails_and_is_slow(emulator, connect, context, tmp_path, monkeypatch):
    """An object store whose every other PUT fails and takes its time: no answer is lost, none is asked again."""
    from airflow_llm_batch.jobs.directory import journal

    real, times = journal.write_whole, []

    def write(path, data):
        times.append(path)
        time.sleep(0.05)
        if len(times) % 2:
            raise OSError("slow down")
        real(path, data)

    monkeypatch.setattr(journal, "is_local", lambda path: False)
    monkeypatch.setattr(journal, "EVERY", 0.0)
    monkeypatch.setattr(journal, "write_whole", write)
    task = operator(connect(emulator.url, limits={"requests": 70}), tmp_path, rows=texts(200), concurrency=3)
    assert drive(task, context)["counts"]["succeeded"] == 200
    assert emulator.vendor.calls["POST /v1/chat/completions"] == 200
    assert len(times) > 4


def test_a_job_directory_that_cannot_be_written_does_not_stop_the_clock(connect, context, tmp_path, monkeypatch):
    """progress.json fails: the deadline holds all the same."""
    from airflow_llm_batch.jobs.online import online

    monkeypatch.setattr(online, "EVERY", 0.0)
    monkeypatch.setattr(online, "tell", lambda *args: (_ for _ in ()).throw(OSError("denied")))
    monkeypatch.setattr(online, "close", lambda *args: None)
    with Server() as server:
        rows = [{"id": 1, "text": "sleep 60"}]
        task = operator(connect(server.url), tmp_path, rows=rows, passthrough=None, deadline=1.0)
        with pytest.raises(Exception, match=r"online-|No batch|404|501|Unsupported"):
            drive(task, context)


def test_an_outage_fails_the_task_and_is_made_up_for_by_the_next_try(connect, context, tmp_path):
    """Rows that got no answer are called again; those that did are not."""
    with Server() as server:
        rows = [{"id": n, "text": "hi" if n < 10 else "cut"} for n in range(12)]
        task = operator(connect(server.url), tmp_path, rows=rows, passthrough=None, call_timeout=1.0, concurrency=4)
        first = drive(task, context)
        assert first["counts"]["errored"] == 2
        server.asked.clear()
        # Asked of nothing but these, the server answers nothing: that may be told as well.
        with contextlib.suppress(VendorUnavailable):
            drive(operator(connect(server.url), tmp_path, rows=rows, passthrough=None, call_timeout=1.0), context)
        assert {prompt for _, prompt, _ in server.asked} == {"cut"}


@pytest.mark.parametrize("body", [b"<html>maintenance</html>", b"", b"[]", b'{"error": {"message": "no"}}'])
def test_a_page_that_is_no_answer_is_no_answer(provider, body):
    """A gateway's 200 with something else in it is no success at either vendor."""
    from airflow_llm_batch.jobs.online.endpoint import one_line
    from airflow_llm_batch.providers.registry import provider_class

    made = provider_class(provider)("http://h")
    result = made.read(made.answered("id-1", 200, one_line(body, 200)))
    assert result.status == ("errored" if b"error" in body else "invalid")


def test_an_empty_account_stops_everything(connect, context, tmp_path):
    """insufficient_quota is a 429 that waiting does not mend."""

    class Empty(Server):
        pass

    with Empty() as server:
        server.server.RequestHandlerClass.answer = lambda self, model, prompt, refused: self.say(
            429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
        )
        with pytest.raises(RequestRejected, match="quota"):
            drive(operator(connect(server.url), tmp_path), context)


def test_a_try_that_was_killed_before_its_first_call_goes_on_online(emulator, connect, context, tmp_path, monkeypatch):
    """Between the claim and the first call: the next try calls, and makes no batch."""
    real = Attempts.save_created
    monkeypatch.setattr(Attempts, "save_created", lambda *given: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        drive(operator(connect(emulator.url), tmp_path), context)
    monkeypatch.setattr(Attempts, "save_created", real)
    assert drive(operator(connect(emulator.url), tmp_path), context)["counts"]["succeeded"] == 100
    assert not emulator.vendor.batches


def test_finishing_online_does_nothing_once_a_job_is_landed(connect, context, tmp_path):
    """Landed in time with rows that expired; cleared after the deadline: nothing is called that would not be landed."""
    with Emulator(duration=0, faults={"expire": 0.5}) as emulator:
        arguments = {
            "rows": texts(20), "key": "id", "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=9),
            "destination": f"file://{tmp_path}/out", "on_deadline": "finish_online", "max_rounds": 1, "fail_on": "none",
        }  # fmt: skip
        conn_id = connect(emulator.url)
        first = drive(LLMBatchOperator(task_id="submit", conn_id=conn_id, deadline=60, **arguments), context)
        again = drive(LLMBatchOperator(task_id="submit", conn_id=conn_id, deadline=0, **arguments), context)
        assert again == first
        assert emulator.vendor.calls["POST /v1/chat/completions"] == 0


def test_failed_rows_are_not_asked_of_other_models(emulator, connect, context, tmp_path):
    """A repair sends what was sent; models with it are refused, and nothing is sent."""
    conn_id = connect(emulator.url)
    summary = drive(operator(conn_id, tmp_path, rows=texts(3)), context)
    context["ti"].run_id += "-b"
    task = operator(conn_id, tmp_path, rows=FailedRows(summary), models=["a", "b"], key=None, passthrough=None)
    with pytest.raises(ConfigurationError, match="leave out models"):
        drive(task, context)


def test_a_decorated_function_feeds_several_models(emulator, connect, context, tmp_path):
    """@task.llm_rows with models: the function is called for the rows, and both models are asked."""
    from airflow_llm_batch.decorators import LLMRowsDecoratedOperator

    task = LLMRowsDecoratedOperator(
        task_id="submit", python_callable=lambda: ["a", "b"], conn_id=connect(emulator.url), poll_interval=0.05,
        request=ChatRequest("x", max_tokens=9), models=["gpt-5-mini", "gpt-5"], destination=f"file://{tmp_path}/out",
    )  # fmt: skip
    assert drive(task, context)["rows"] == 4


def test_a_request_that_never_fits_does_not_wait_forever(connect, context, tmp_path):
    """429 for ever: at once where it says that the request is too large, after call_timeout where others pass."""

    def answer(times, body):
        text = body["messages"][0]["content"]
        if "huge" in text:
            said = "Request too large for gpt-5-mini: Limit 30000, Requested 40000. Tokens must be reduced."
            return 429, {"error": {"code": "rate_limit_exceeded", "message": said}}
        if "unlucky" in text:
            return 429, {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}
        return 200, GOOD

    with server(answer) as (url, _, _):
        rows = [{"id": name, "text": name} for name in ("huge", "a", "unlucky", *"bcdefgh")]
        task = operator(connect(url), tmp_path, rows=rows, call_timeout=1.0, fail_on="none", concurrency=2)
        summary = drive(task, context)
    assert (summary["counts"]["succeeded"], summary["counts"]["errored"]) == (8, 2)


def test_one_forbidden_row_does_not_stop_the_others(connect, context, tmp_path):
    """A 403 on the first row may be about what it says; three in a row, and none good, are about the key."""

    def answer(times, body):
        return (403, {"error": {"message": "flagged"}}) if "bad" in body["messages"][0]["content"] else (200, GOOD)

    with server(answer) as (url, _, _):
        rows = [{"id": name, "text": name} for name in ("bad", "a", "b", "c", "d")]
        task = operator(connect(url), tmp_path, rows=rows, concurrency=1, fail_on="none")
        assert drive(task, context)["counts"]["succeeded"] == 4
        context["ti"].run_id += "-b"
        rows = [{"id": n, "text": "bad"} for n in range(9)]
        with pytest.raises(RefusedForGood):
            drive(operator(connect(url), tmp_path / "b", rows=rows, concurrency=1, fail_on="none"), context)
