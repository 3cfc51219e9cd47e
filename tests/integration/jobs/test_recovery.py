"""Nothing of others is touched, nothing is paid twice, and what went wrong is told."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException
from support import MODELS, SECRET, read_jsonl
from support.dialects import DIALECTS
from support.jobs import chat, creates, land, make_batch, plan, spec, submit, texts
from support.tasks import drive
from support.tasks import operator as batch_operator

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import (
    BudgetExceeded,
    ConfigurationError,
    InputError,
    LLMBatchError,
    RequestRejected,
    VendorUnavailable,
)
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.attempts import Attempts
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.planning.shards import write_shards
from airflow_llm_batch.jobs.submission import submit as submission
from airflow_llm_batch.jobs.waiting.wait import JobWait
from airflow_llm_batch.models import Intent
from airflow_llm_batch.operators import FetchResultsOperator, Recovery, SubmitBatchOperator
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.sensors import BatchSensor

log = logging.getLogger(__name__)


def test_another_jobs_batch_is_never_cancelled(connect, store):
    """At a vendor without metadata: neither when input changes in doubt, nor when what may be theirs is waited for."""
    with Emulator(duration=2.0) as emulator:
        hook = LLMBatchHook(connect(emulator.url, "anthropic"))
        _, (theirs,) = submit(JobStore(f"{store.uri}-theirs"), hook, spec(texts(5), chat("anthropic")))
        _, job = plan(store, hook, spec(texts(5), chat("anthropic")))
        store.attempts(0).begin(Intent(at=job.created_at))
        changed, _ = plan(store, hook, spec(texts(6), chat("anthropic")))
        assert changed.uri.endswith(".2")
        submission.submit(store, hook, job)
        assert store.attempts(0).created().batch_id == theirs
        assert store.attempts(0).created().provisional
        JobWait(hook, store, log).cancel()
        assert emulator.vendor.batches[theirs].cancelled_at is None


def test_an_older_batch_of_the_same_directory_is_not_adopted(emulator, connect, store, tmp_path):
    """The job directory was removed, the rows changed, and the create never arrived: yesterday's answers stay away."""
    import shutil

    hook = LLMBatchHook(connect(emulator.url))
    submit(store, hook, spec(["OLD 0", "OLD 1"], chat("openai")))
    shutil.rmtree(Path(str(store.root).removeprefix("file://")))
    emulator.faults(http=[{"on": creates("openai"), "cut": "before"}])
    job, _ = submit(store, hook, spec(["NEW 0", "NEW 1"], chat("openai")))
    _, rows = land(store, hook, job, tmp_path / "out")
    assert sorted(r["text"] for r in rows) == ["NEW 0", "NEW 1"]


def test_input_that_changes_back_is_submitted_anew(provider, connect, store):
    """A, then B, then A again: the cancelled A is not taken up."""
    with Emulator(duration=2.0) as emulator:
        hook = LLMBatchHook(connect(emulator.url, provider))
        for count in (4, 5, 4):
            found, job = plan(store, hook, spec(texts(count), chat(provider)))
            submission.submit(found, hook, job)
        assert found.uri == f"{store.uri}.3"
        cancelled = [batch.cancelled_at is not None for batch in emulator.vendor.batches.values()]
        assert cancelled == [True, True, False]


def test_a_slow_second_planner_touches_nothing_of_the_published_plan(hook, provider, store, tmp_path):
    """Each attempt at planning writes files of its own."""
    job, _ = submit(store, hook, spec(texts(4), chat(provider), "id"))
    zombie = [{"id": f"z{n}", "text": "z"} for n in range(4)]
    write_shards(spec(zombie, chat(provider), "id"), hook.provider, store, {})
    _, rows = land(store, hook, job, tmp_path / "out")
    assert {(r["key"], r["text"]) for r in rows} == {(f"k{n}", f"text {n}") for n in range(4)}


def test_the_same_rows_have_the_same_fingerprint_in_every_process():
    """Sets have no order; a retry must not see changed input in them."""
    code = """
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.jobs.planning.encoding import RowSpec
from airflow_llm_batch.jobs.planning.shards import fingerprint_of
from airflow_llm_batch.providers.openai.protocol import OpenAI
rows = [{"text": "x", "tags": {"a", "b", "c", "d"}}]
request = ChatRequest("m", user="{text} {tags}", params={"stop": "{tags}"})
print([*rows[0]["tags"]])
print(fingerprint_of(RowSpec(rows, request, None, {"tags": "tags"}), OpenAI("http://h"), "0a0a0a0a"))
"""
    run = {"capture_output": True, "text": True, "check": True}
    printed = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, **run).stdout
        for seed in ("1", "2")
    ]
    (order, fingerprint), (other, same) = (text.splitlines() for text in printed)
    assert order != other
    assert fingerprint == same


class Lazy(Sequence):
    """A mapped task's output as Airflow hands it on."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_uris_of_a_mapped_task_are_files_not_prompts(tmp_path):
    """A sequence that is no list is looked into as well."""
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"name": "{name}"}}\n')
    uris = Lazy(f"file://{tmp_path}/a.jsonl", f"file://{tmp_path}/b.jsonl")
    assert [row for _, row in read_rows(uris)] == [{"name": "a"}, {"name": "b"}]
    assert [row for _, row in read_rows(Lazy("hi", "there"))] == [{"text": "hi"}, {"text": "there"}]


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.json", '[{"a": 1}] [{"a": 2}]', "something follows the array"),
        ("a.json", '[{"a": 1} {"a": 2}]', "item 1: expected a comma"),
        ("a.json", '[{"a": 1},]', "item 1"),
        ("a.json", b'[{"a": "\xff"}]', "UnicodeDecodeError"),
        ("a.csv", "a,a\n1,2\n", "names a more than once"),
    ],
)
def test_no_input_is_lost_without_a_word(tmp_path, name, content, named):
    """Odd files are refused where rows or columns would get lost."""
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=named):
        list(read_rows(f"file://{tmp_path}/{name}"))


def test_rows_without_a_key_are_refused(hook, provider, store):
    """Null and NaN name nothing."""
    for key in (None, float("nan")):
        with pytest.raises(InputError, match=r"row 1: its key 'id' is (None|nan)"):
            submit(store, hook, spec([{"id": 1, "text": "a"}, {"id": key, "text": "b"}], chat(provider), "id"))


def test_odd_answers_make_odd_rows_not_lost_batches(hook, provider, store, emulator, tmp_path, monkeypatch):
    """Another type than was asked for, nesting beyond every parser: each row lands."""
    from airflow_llm_batch.emulator import answers

    said = iter(['"' + "x" * 3 + '"', "[" * 100_000 + "]" * 100_000, "[1]"])
    reply = answers.reply

    def odd(*arguments):
        return reply(*arguments)._replace(text=next(said))

    monkeypatch.setattr(answers, "reply", odd)
    job, _ = submit(store, hook, spec(texts(3), chat(provider, output={"type": "array", "items": {"type": "integer"}})))
    _, rows = land(store, hook, job, tmp_path / "out")
    assert sorted(r["row"] for r in rows) == [0, 1, 2]
    assert sorted(r["status"] for r in rows) == ["invalid", "invalid", "succeeded"]


@pytest.mark.parametrize("times", [1, 99])
def test_a_download_that_ends_early_without_a_word_is_noticed(hook, provider, store, tmp_path, monkeypatch, times):
    """Fewer answers than the vendor counts: downloaded again; while that does not help, nothing is landed or asked."""
    job, _ = submit(store, hook, spec(texts(40), chat(provider)))
    whole, left = hook.bodies, [times]

    def short(source):
        for chunks in whole(source):
            lines = b"".join(chunks).splitlines(keepends=True)
            cut = left[0] > 0
            left[0] -= 1
            yield iter(lines[: len(lines) // 2] if cut else lines)

    monkeypatch.setattr(hook, "bodies", short)
    if times == 1:
        manifest, rows = land(store, hook, job, tmp_path / "out")
        assert sorted(r["row"] for r in rows) == list(range(40))
        assert manifest.counts["succeeded"] == 40
    else:
        with pytest.raises(VendorUnavailable, match=r"20 finished rows more than it delivers"):
            land(store, hook, job, tmp_path / "out")
        assert not list((tmp_path / "out").glob("*.jsonl"))


@pytest.mark.parametrize("looks", [2, 10**6])
def test_ended_is_not_delivered(provider, connect, store, context, tmp_path, looks):
    """Files that come later than the end are waited for; where they never come, no row is asked or paid again."""
    with Emulator(duration=0, faults={"undelivered": looks}) as emulator:
        task = batch_operator(connect(emulator.url, provider), tmp_path, provider, rows=texts(20), max_rounds=3)
        if looks == 2:
            assert drive(task, context)["counts"]["succeeded"] == 20
        else:
            with pytest.raises(VendorUnavailable, match="20 finished rows more"):
                drive(task, context)
        assert emulator.vendor.stats()["billed_rows"] == 20
        assert len(emulator.vendor.batches) == 1


NO_FILE = [
    "Cannot find file file-7, or project proj_1 does not have access to it.",
    "Invalid 'input_file_id': No such File object: file-7",
    "Input file not found",
    "invalid_file_id: Invalid file id: file-7.",
]


BAD_FILE = [
    "Invalid file format for Batch API. Must be .jsonl",
    "Invalid input file: the model `gpt-9` does not exist",
    "The input file contains a deployment which was not found",
    "The inference profile p-1 does not exist",
    "Invalid file ID 'file-7': purpose must be batch",
    "Input file line 7: the tool was not found",
]


@pytest.mark.parametrize("said", NO_FILE)
def test_a_file_that_is_not_found_is_told_from_one_that_is_bad(said):
    """OpenAI, three times, and Voyage; a file that is refused for what it holds is not sent again."""
    assert submission.NO_FILE.search(said)


@pytest.mark.parametrize("said", BAD_FILE)
def test_a_file_that_is_bad_is_not_uploaded_anew(said):
    assert not submission.NO_FILE.search(said)


@pytest.mark.parametrize("refusals", [1, 3, 99])
def test_a_file_that_the_vendor_does_not_find_is_uploaded_once_more(emulator, connect, store, monkeypatch, refusals):
    """Not known yet where batches are made, or gone since a try uploaded it: one batch, or the vendor's refusal."""
    hook = LLMBatchHook(connect(emulator.url))
    run, job = plan(store, hook, spec(texts(5), chat("openai")))
    run.attempts(0).save_uploaded("file-of-an-earlier-try")
    create, named = hook.provider.create, []

    def create_late(shard, ref, content):
        named.append(ref)
        return create(shard, "file-unknown" if len(named) <= refusals else ref, content)

    monkeypatch.setattr(hook.provider, "create", create_late)
    if refusals < 99:
        assert submission.submit(run, hook, job) == list(emulator.vendor.batches)
        assert (len(emulator.vendor.batches), len(named)) == (1, refusals + 1)
        assert len(set(named)) == len(named)
    else:
        with pytest.raises(RequestRejected, match="400"):
            submission.submit(run, hook, job)
        assert (len(emulator.vendor.batches), len(named)) == (0, 1 + submission.MOST_CLAIMS)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("answered", [True, False])
def test_a_file_that_is_not_there_hides_no_answer(connect, store, tmp_path, monkeypatch, first, answered):
    """A server names a file of errors that it never wrote: all rows are in another; where one is not, none lands."""
    with Emulator(duration=0, limits={"requests": 10}) as emulator:
        hook = LLMBatchHook(connect(emulator.url, limits={"requests": 10}))
        job, _ = submit(store, hook, spec(texts(20), chat("openai")))
        results, bodies, gone = hook.provider.results, hook.bodies, hook.provider.download("file-gone")

        def with_gone(batch):
            found = list(results(batch))
            return [gone, *found] if first else [*found, gone]

        def one_short(source):
            for body in bodies(source):
                yield iter(b"".join(body).splitlines(keepends=True)[1:])

        monkeypatch.setattr(hook.provider, "results", with_gone)
        if answered:
            manifest, rows = land(store, hook, job, tmp_path / "out")
            assert sorted(row["row"] for row in rows) == list(range(20))
            assert (manifest.counts["succeeded"], manifest.rows) == (20, 20)
        else:
            monkeypatch.setattr(hook, "bodies", one_short)
            with pytest.raises(RequestRejected, match="404"):
                land(store, hook, job, tmp_path / "out")
            assert not list((tmp_path / "out").glob("*.jsonl"))
        assert emulator.vendor.stats()["billed_rows"] == 20


def test_trouble_with_storage_does_not_end_a_wait(hook, provider, store, monkeypatch):
    """Progress is for people; the end of a batch is asked for again when it is needed."""
    submit(store, hook, spec(texts(3), chat(provider)))

    def broken(*args):
        raise OSError("the store is away")

    monkeypatch.setattr(JobStore, "save_progress", broken)
    monkeypatch.setattr(Attempts, "save_ended", broken)
    assert JobWait(hook, store, log).look().action == "ended"


def test_one_batch_that_cannot_be_cancelled_spares_no_other(provider, connect, store):
    """A 404 for the first; the second is cancelled."""
    with Emulator(duration=5) as emulator:
        hook = LLMBatchHook(connect(emulator.url, provider, limits={"requests": 2}))
        _, (first, second) = submit(store, hook, spec(texts(4), chat(provider)))
        watch = JobWait(hook, store, log)
        del emulator.vendor.batches[first]
        watch.cancel()
        assert emulator.vendor.batches[second].cancelled_at is not None


def test_at_the_deadline_the_wait_can_cancel_and_harvest(provider, connect, context, tmp_path):
    """on_deadline='cancel': what had finished lands as succeeded, the rest as cancelled, the task is green."""
    with Emulator(duration=2.0) as emulator:
        request = ChatRequest(MODELS[provider], max_tokens=20)
        handle = SubmitBatchOperator(
            task_id="s", conn_id=connect(emulator.url, provider), rows=[f"t{n}" for n in range(40)], request=request
        ).execute(context)
        waited = BatchSensor(
            task_id="w",
            job=handle,
            deadline=timedelta(seconds=1),
            on_deadline="cancel",
            deferrable=False,
            poke_interval=0.05,
        ).execute(context)
        fetch = FetchResultsOperator(task_id="f", job=waited, destination=f"file://{tmp_path}/o", fail_on="none")
        summary = fetch.execute(context)
    counts = summary["counts"]
    assert counts["succeeded"] > 0
    assert counts["cancelled"] > 0
    assert counts["succeeded"] + counts["cancelled"] == 40


def test_the_budget_holds_before_the_first_upload(emulator, provider, connect, context):
    """Estimated above max_cost: refused, with the estimate by model; nothing was uploaded."""
    conn_id = connect(emulator.url, provider)
    request = ChatRequest(MODELS[provider], max_tokens=1000)

    def task(**more):
        return SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["hello"] * 100, **{"request": request, **more})

    with pytest.raises(
        BudgetExceeded, match=rf"max_cost=\$0\.0500.*{MODELS[provider]}: 100 requests, .* at most 100,000"
    ):
        task(max_cost=0.05).execute(context)
    no_price = ChatRequest("nobody-knows", max_tokens=5)
    context["ti"].run_id += "-other"
    with pytest.raises(BudgetExceeded, match="the price is not known"):
        task(max_cost="5", request=no_price).execute(context)
    assert sum(emulator.vendor.calls.values()) == 0
    context["ti"].run_id += "-more"
    assert task(max_cost=1.0).execute(context)["rows"] == 100


def test_a_request_without_a_cap_has_no_budget(emulator, connect, context):
    """Nothing bounds its answer."""
    task = SubmitBatchOperator(
        task_id="s", conn_id=connect(emulator.url), rows=["x"], request=ChatRequest("gpt-5-mini"), max_cost=99
    )
    with pytest.raises(BudgetExceeded, match="Set max_tokens"):
        task.execute(context)


def test_the_estimate_is_no_less_than_what_is_paid(hook, provider, store, tmp_path):
    """Prompts of several scripts; the answers stay under their caps."""
    rows = ["hello world " * 20, "日本語のレビュー" * 20, "Ünïcödé tëxt " * 10, '{"json": [1, 2, 3]}' * 10]
    job, _ = submit(store, hook, spec(rows, chat(provider, max_tokens=300)))
    manifest, _ = land(store, hook, job, tmp_path / "out")
    estimate = job.estimate[MODELS[provider]]
    assert estimate.requests == 4
    assert estimate.cost_usd >= manifest.cost_usd > 0


def test_a_dry_run_plans_estimates_and_stops(emulator, connect, context):
    """Skipped with the estimate in words and as XCom; a real run takes the plan up."""
    conn_id, request = connect(emulator.url), ChatRequest("gpt-5-mini", max_tokens=9)
    pushed = {}
    context["ti"].xcom_push = lambda key, value: pushed.update({key: value})
    task = SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["a", "b"], request=request, dry_run=True)
    with pytest.raises(AirflowSkipException, match=r"2 rows in 1 batches.*gpt-5-mini: 2 requests"):
        task.execute(context)
    assert pushed["estimate"]["gpt-5-mini"]["requests"] == 2
    assert sum(emulator.vendor.calls.values()) == 0
    SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["a", "b"], request=request).execute(context)
    assert len(emulator.vendor.batches) == 1


@pytest.mark.parametrize("by", ["submit", "sensor"])
def test_a_batch_made_elsewhere_is_landed_by_its_own_ids(emulator, provider, connect, context, tmp_path, by):
    """SubmitBatchOperator(batch_id=...) or BatchSensor(batch_id=...): every row once, keyed by its custom_id."""
    conn_id = connect(emulator.url, provider)
    batch_id = make_batch(LLMBatchHook(conn_id), provider, tmp_path)
    if by == "submit":
        handle = SubmitBatchOperator(task_id="s", conn_id=conn_id, batch_id=batch_id).execute(context)
        handle = BatchSensor(task_id="w", job=handle, deferrable=False).execute(context)
    else:
        handle = BatchSensor(task_id="w", batch_id=batch_id, conn_id=conn_id, deferrable=False).execute(context)
    for _ in range(2):
        operator = FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out")
        summary = operator.execute(context)
        assert summary["batches"] == [batch_id]
        rows = [row for file in summary["files"] for row in read_jsonl(file)]
        assert {(r["key"], r["custom_id"], r["text"], r["status"]) for r in rows} == {
            ("a", "a", "hi", "succeeded"),
            ("b", "b", "hi", "succeeded"),
        }
    assert len(emulator.vendor.batches) == 1


def test_rows_and_batch_id_are_one_or_the_other(connect, context):
    """Neither and both are refused; so are choices that do not exist."""
    conn_id = connect("http://127.0.0.1:9")
    for arguments in ({}, {"rows": ["x"], "batch_id": "b"}):
        with pytest.raises(ConfigurationError, match="either rows, or the batch_id"):
            SubmitBatchOperator(task_id="s", conn_id=conn_id, **arguments).execute(context)
    task = SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["x"], recovery=Recovery(on_doubt="pay"))
    with pytest.raises(ConfigurationError, match="on_doubt"):
        task.execute(context)


def test_what_a_superseded_job_had_landed_is_taken_away(emulator, provider, connect, context, tmp_path):
    """Cleared with another prompt: the destination holds each row once."""
    conn_id = connect(emulator.url, provider)
    for prompt in ("one {text}", "two {text}"):
        request = ChatRequest(MODELS[provider], user=prompt, max_tokens=20)
        handle = SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["a", "b"], request=request).execute(context)
        waited = BatchSensor(task_id="w", job=handle, deferrable=False).execute(context)
        FetchResultsOperator(task_id="f", job=waited, destination=f"file://{tmp_path}/out").execute(context)
    landed = [row for path in (tmp_path / "out").iterdir() for row in read_jsonl(path)]
    assert sorted(row["text"] for row in landed) == ["two a", "two b"]


def test_a_vendor_that_quotes_the_key_does_not_spread_it(connect, emulator, monkeypatch):
    """Error messages are cleaned of the key, whoever put it there."""
    from airflow_llm_batch.emulator import openai

    def quoting(*args):
        raise openai.Refusal(401, f"Incorrect API key provided: {SECRET}")

    monkeypatch.setattr(emulator.vendor, "newest", quoting)
    with pytest.raises(RequestRejected, match=r"provided: \*\*\*") as caught:
        LLMBatchHook(connect(emulator.url)).list_batches()
    assert SECRET not in repr(caught.value)
    extra = {"provider": "openai"}
    connection = {"conn_type": "llmbatch", "host": f"http://u:{SECRET}@h", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_CREDS", json.dumps(connection))
    hook = LLMBatchHook("creds")
    with pytest.raises(ConfigurationError) as caught:
        hook.list_batches()
    assert SECRET not in str(caught.value)


def test_lines_of_a_users_own_file_are_sent_whole(emulator, connect, tmp_path):
    """create_batch(requests=...): blank lines and a missing last newline make no broken JSON."""
    body = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    lines = [json.dumps({"custom_id": c, "params": body}) for c in "abc"]
    (tmp_path / "in.jsonl").write_text("\n\n".join(lines))
    hook = LLMBatchHook(connect(emulator.url, "anthropic"))
    assert hook.create_batch(requests=str(tmp_path / "in.jsonl")).total == 3


def test_two_attempts_at_once_create_once(provider, connect, store):
    """A zombie and its retry: the second waits for the first one's create and takes its batch up."""
    from concurrent.futures import ThreadPoolExecutor

    with Emulator(duration=0, faults={"http": [{"on": creates(provider), "delay": 0.5, "times": 2}]}) as emulator:
        extra = {"create_seconds": 20, "limits": {"requests": 3}}

        def attempt(number):
            return submit(JobStore(store.uri), LLMBatchHook(connect(emulator.url, provider, **extra)), what)[1]

        what = spec(texts(6), chat(provider))
        with ThreadPoolExecutor(4) as attempts:
            created = list(attempts.map(attempt, range(4)))
        assert len(emulator.vendor.batches) == 2
        assert created == [created[0]] * 4
        assert set(created[0]) == set(emulator.vendor.batches)


def test_a_retry_in_the_same_process_does_not_wait_for_itself(provider, connect, store, emulator):
    """The create was cut and the vendor could not be asked: the next try knows that nothing is under way."""
    hook = LLMBatchHook(connect(emulator.url, provider, create_seconds=600, retries=0))
    lists = DIALECTS[provider].lists
    emulator.faults(http=[{"on": creates(provider), "cut": "after"}, {"on": lists, "status": 503}])
    with pytest.raises(LLMBatchError, match="503"):
        submit(store, hook, spec(texts(2), chat(provider)))
    began = time.time()
    assert submit(store, hook, spec(texts(2), chat(provider)))[1] == list(emulator.vendor.batches)
    assert time.time() - began < 60


def test_a_create_that_comes_too_late_is_cancelled(provider, connect, store, monkeypatch):
    """Given up by another attempt while it was under way: its batch, certainly ours, does not run beside the other."""
    from datetime import UTC, datetime

    from airflow_llm_batch.models import Void

    with Emulator(duration=60) as emulator:
        hook = LLMBatchHook(connect(emulator.url, provider))
        create, slow = type(hook.provider).create, []

        def given_up(self, *arguments):
            if not slow:
                slow.append(store.attempts(0).save_void(1, Void(reason="never created", at=datetime.now(UTC))))
            return create(self, *arguments)

        monkeypatch.setattr(type(hook.provider), "create", given_up)
        _, ids = submit(store, hook, spec(texts(2), chat(provider)))
        late, kept = emulator.vendor.batches.values()
        assert (late.cancelled_at is not None, kept.cancelled_at, [kept.id]) == (True, None, ids)


@pytest.mark.parametrize("cancel", [True, False])
def test_a_killed_submit_leaves_its_batches_unless_told_otherwise(connect, context, cancel):
    """on_kill: a moved worker kills tasks too, so cancelling is a choice."""
    with Emulator(duration=60) as emulator:
        task = SubmitBatchOperator(
            task_id="s",
            conn_id=connect(emulator.url),
            rows=["x"],
            request=ChatRequest("gpt-5-mini"),
            recovery=Recovery(cancel_on_kill=cancel),
        )
        task.execute(context)
        task.on_kill()
        assert [b.cancelled_at is not None for b in emulator.vendor.batches.values()] == [cancel]


FAULT_KINDS = (
    {"cut": "before"},
    {"cut": "after"},
    {"cut": "body", "cut_bytes": 10},
    {"status": 500},
    {"status": 503, "retry_after": "0"},
    {"status": 429, "retry_after": "0"},
    {"status": 403},
)
ROW_KINDS = (
    {},
    {"row_errors": 0.3},
    {"expire": 0.5},
    {"shuffle": True, "duplicates": 3, "garbage": 3, "foreign": 2},
    {"missing": 2},
    {"fail": "invalid_request"},
)


@pytest.mark.parametrize("jobs", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_a_soak_of_faults_pays_every_job_once(emulator, connect, tmp_path, jobs):
    """Many jobs with seeded faults at random calls, retried as Airflow would: one batch a shard, one record a row."""
    draw, struck = random.Random(20261121), 0
    for number in range(jobs):
        provider = draw.choice(("openai", "anthropic"))
        extra = {"settle_seconds": 0.01, "create_seconds": 0.02, "limits": {"requests": 5}}
        hook = LLMBatchHook(connect(emulator.url, provider, **extra))
        hook.transport.pause = lambda state: 0
        emulator.vendor.batches.clear()
        faults = [
            {"on": "*", "skip": draw.randrange(12), **draw.choice(FAULT_KINDS)} for _ in range(draw.randint(0, 3))
        ]
        emulator.faults(http=faults, **draw.choice(ROW_KINDS))
        store, rows = JobStore(f"file://{tmp_path}/{number}"), texts(draw.randint(1, 12))
        landed = None
        for _ in range(10):
            try:
                job, _ = submit(store, hook, spec(rows, chat(provider), "id"))
                landed = land(store, hook, job, tmp_path / f"out-{number}")
                break
            except LLMBatchError:
                continue
        assert landed is not None, f"job {number} never ended"
        manifest, records = landed
        assert sorted(r["key"] for r in records) == sorted(row["id"] for row in rows), f"job {number}"
        assert len(emulator.vendor.batches) == len(job.shards), f"job {number}: {faults}"
        assert sum(manifest.counts.values()) == len(rows)
        struck += sum(fault.times == 0 for fault in emulator.vendor.settings.faults.http)
        hook.close()
    assert struck > jobs * 2 / 3


@pytest.mark.parametrize("hours", [-1, -0.18, 0.19, 1])
def test_a_lost_create_is_found_whatever_the_clocks_say(provider, connect, store, emulator, monkeypatch, hours):
    """The vendor's clock, its dates and its batches' times alike, is off: the batch is found, and paid once."""
    real = time.time
    shifted = SimpleNamespace(
        **{n: getattr(time, n) for n in ("sleep", "monotonic")}, time=lambda: real() + 3600 * hours
    )
    for name, module in list(sys.modules.items()):
        if name.startswith("airflow_llm_batch.emulator.") and getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", shifted)
    hook = LLMBatchHook(connect(emulator.url, provider))
    monkeypatch.setattr(hook.transport, "heard", lambda answer: dated(hook, 3600 * hours))
    emulator.faults(http=[{"on": creates(provider), "cut": "after"}])
    _, ids = submit(store, hook, spec(texts(4), chat(provider)))
    assert list(emulator.vendor.batches) == ids


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_lost_create_is_found_whatever_a_gateways_date_says(provider, connect, store, emulator, monkeypatch, hours):
    """The listing's times are right and the answers' dates are not: found all the same, for not found is paid again."""
    hook = LLMBatchHook(connect(emulator.url, provider))
    hook.transport.clock_ahead = 3600.0 * hours
    monkeypatch.setattr(hook.transport, "heard", lambda answer: None)
    emulator.faults(http=[{"on": creates(provider), "cut": "after"}])
    _, ids = submit(store, hook, spec(texts(4), chat(provider)))
    assert list(emulator.vendor.batches) == ids


def dated(hook, ahead):
    hook.transport.clock_ahead = ahead


def test_a_vendors_date_tells_its_clock(emulator, connect):
    """Every answer has one."""
    hook = LLMBatchHook(connect(emulator.url))
    hook.list_batches()
    assert abs(hook.transport.clock_ahead) < 5


def test_a_lost_create_that_shows_up_later_is_told_and_cancelled(connect, store, context, monkeypatch, caplog):
    """The vendor lists it only after the shard was sent again: the wait finds the orphan, which carries our key."""
    with Emulator(duration=60) as emulator:
        hook = LLMBatchHook(connect(emulator.url, "openai"))
        find = OpenAI.find
        monkeypatch.setattr(OpenAI, "find", lambda self, *arguments: nothing())
        emulator.faults(http=[{"on": "POST /v1/batches", "cut": "after"}])
        _, [kept] = submit(store, hook, spec(texts(4), chat("openai")))
        [orphan] = emulator.vendor.batches.keys() - {kept}
        monkeypatch.setattr(OpenAI, "find", find)
        emulator.vendor.batches[kept].duration = 0
        sensor = BatchSensor(task_id="w", job=store.uri, deferrable=False, poke_interval=0.01)
        sensor.execute(context)
        assert emulator.vendor.batches[orphan].cancelled_at is not None
        assert emulator.vendor.batches[kept].cancelled_at is None
    assert f"Batch {orphan} (validating) is a lost create" in caplog.text


def nothing():
    return []
    yield
