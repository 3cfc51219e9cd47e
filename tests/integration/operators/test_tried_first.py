"""Rows that are tried before anything is uploaded."""

import json
from collections import Counter
from threading import Event

import pytest
from support import MODELS, read_jsonl
from support.servers import server
from support.tasks import drive, landed, operator

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import (
    BudgetExceeded,
    ConfigurationError,
    FirstRowsFailed,
    Interrupted,
    RefusedForGood,
)
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money.budget import check_again
from airflow_llm_batch.jobs.money.whole import whole_of
from airflow_llm_batch.jobs.online import trial
from airflow_llm_batch.models import Job, Limits, Shard
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

MANY = 1000
CALL = "POST /v1/chat/completions"


def rows(count):
    return [{"id": f"k{n}", "text": f"text {n}"} for n in range(count)]


def submitting(conn_id, count=MANY, provider="openai", **arguments):
    request = ChatRequest(MODELS[provider], user="{text}", max_tokens=50)
    given = {"rows": rows(count), "key": "id", "request": request, **arguments}
    return SubmitBatchOperator(task_id="submit", conn_id=conn_id, **given)


def store_of(handle):
    return JobStore(handle["job"])


def fetch(context, tmp_path, handle):
    waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)
    task = FetchResultsOperator(task_id="fetch", job=waited, destination=f"file://{tmp_path}/out", fail_on="none")
    summary = task.execute(context)
    return summary, [row for file in summary["files"] for row in read_jsonl(file)]


def calls(emulator, provider="openai"):
    """Calls of synchronous endpoints, and batches that were made."""
    made = sum(count for what, count in emulator.vendor.calls.items() if is_call(what))
    return made, len(emulator.vendor.batches)


def is_call(what):
    return what.startswith("POST") and (
        what.endswith(("/chat/completions", ":generateContent")) or what == "POST /v1/messages"
    )


def test_three_rows_are_called_and_not_asked_again(connect, context, provider, tmp_path):
    """Of a thousand rows three are called, the batch has the others, and each lands once."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, provider)
        # Deployments for batches take no calls as a rule: Azure's are tried when somebody says so.
        by_number = {"check_first": 3} if provider == "azure" else {}
        handle = submitting(conn_id, provider=provider, **by_number).execute(context)
        assert calls(emulator) == (3, 1)
        [batch] = emulator.vendor.batches.values()
        assert batch.total == MANY - 3
        assert handle["batches"] == [batch.id]
        assert handle["shards"] == 1
        summary, found = fetch(context, tmp_path, handle)
        assert summary["batches"] == [batch.id]
    assert sorted(row["row"] for row in found) == list(range(MANY))
    assert {row["status"] for row in found} == {"succeeded"}
    costs = [row["cost_usd"] for row in sorted(found, key=lambda row: row["row"])]
    # A call costs twice what a batch's row does.
    assert costs[0] == pytest.approx(2 * costs[5])
    tried = store_of(handle).notes.tried()
    assert [row.row for row in tried.rows] == [0, 1, 2]
    assert all("text 0" in row.sent or row.row for row in tried.rows)
    assert tried.estimate[MODELS[provider]].tried == 3


ANSWER = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}


def test_a_request_that_the_vendor_refuses_costs_three_calls(connect, context):
    """The vendor refuses a schema that we let pass: three calls and nothing else, its reason in one line."""
    message = "Invalid schema for response_format 'answer': In context=(), 'label' is not permitted."
    refused = {"error": {"message": message, "type": "invalid_request_error", "param": "response_format", "code": None}}
    with server(lambda times, body: (400, refused)) as (url, _, bodies), Emulator(duration=0) as emulator:
        task = submitting(connect(url), request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=50, output=ANSWER))
        # Cleared as it is, it is tried anew.
        for tries in (1, 2):
            with pytest.raises(FirstRowsFailed) as raised:
                task.execute(context)
            assert len(bodies) == 3 * tries, "nothing was uploaded: every POST was a call"
        refusal = str(raised.value)
        assert message.rstrip(".") in refusal
        assert "\n" not in refusal
        assert "3 calls" in refusal
        assert "no batch was made" in refusal
        assert not raised.value.retry_helps
        # By choice it is sent as it is.
        connect(emulator.url)
        task.check_first = 0
        task.execute(context)
        assert calls(emulator) == (0, 2)
        assert sum(batch.total for batch in emulator.vendor.batches.values()) == MANY


def test_what_was_mended_is_tried_and_sent(connect, context, tmp_path):
    """The key had no right to the model: refused at the third row; once it has, the same job goes on."""
    with Emulator(duration=0, faults={"http": [{"on": CALL, "status": 404, "times": 3}]}) as emulator:
        conn_id = connect(emulator.url)
        task = submitting(conn_id)
        with pytest.raises(FirstRowsFailed):
            task.execute(context)
        handle = task.execute(context)
        assert calls(emulator) == (6, 1)
        _, found = fetch(context, tmp_path, handle)
    assert {row["status"] for row in found} == {"succeeded"}
    assert len(found) == MANY


@pytest.mark.parametrize(
    ("check_first", "count", "called"),
    [("auto", MANY - 1, 0), ("auto", MANY, 3), (2, 5, 2), ("2", 5, 2), (2, 2, 0), (0, MANY, 0)],
)
def test_how_many_are_tried(connect, context, check_first, count, called):
    """Three of large jobs, as many as are wanted, and never all."""
    with Emulator(duration=60) as emulator:
        submitting(connect(emulator.url), count, check_first=check_first).execute(context)
        assert calls(emulator) == (called, 1)
        assert sum(batch.total for batch in emulator.vendor.batches.values()) == count - called


def test_a_few_large_requests_are_worth_it_too(connect, context):
    """Eight megabytes of prompts in fewer than a thousand rows."""
    large = [{"id": n, "text": "word " * 4000} for n in range(500)]
    with Emulator(duration=60) as emulator:
        request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=9000)
        submitting(connect(emulator.url), rows=large, request=request).execute(context)
        assert calls(emulator)[0] == 3


@pytest.mark.parametrize("check_first", ["few", -1, 1000, 2.5j])
def test_what_is_no_number_is_refused(connect, context, check_first):
    with Emulator(duration=60) as emulator:
        with pytest.raises(ConfigurationError, match="check_first is"):
            submitting(connect(emulator.url), 5, check_first=check_first).execute(context)
        assert calls(emulator) == (0, 0)


def test_a_dry_run_calls_nobody(connect, context):
    from airflow.providers.common.compat.sdk import AirflowSkipException

    context["ti"].xcom_push = lambda **_: None
    with Emulator(duration=60) as emulator:
        with pytest.raises(AirflowSkipException):
            submitting(connect(emulator.url), dry_run=True).execute(context)
        assert calls(emulator) == (0, 0)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503},
        {"status": 429, "retry_after": "0.2"},
        pytest.param({"status": 429}, marks=pytest.mark.slow),
        {"cut": "before"},
    ],
    ids=str,
)
def test_where_nobody_answers_calls_the_batch_has_every_row(connect, context, tmp_path, fault, monkeypatch):
    """Calls fail for a reason that may pass: the rows that were to be tried go into a batch like all others."""
    monkeypatch.setattr(trial, "PATIENCE", 1.0)
    with Emulator(duration=0, faults={"http": [{"on": CALL, "times": 10_000, **fault}]}) as emulator:
        conn_id = connect(emulator.url, retries=1)
        handle = submitting(conn_id, check_first=2, count=10).execute(context)
        assert sum(batch.total for batch in emulator.vendor.batches.values()) == 10
        summary, found = fetch(context, tmp_path, handle)
        # A retry of the submitting task finds it all done.
        assert submitting(conn_id, check_first=2, count=10).execute(context)["job"] == handle["job"]
        assert emulator.vendor.stats()["billed_rows"] == 10
    assert summary["counts"]["succeeded"] == 10
    assert sorted(row["row"] for row in found) == list(range(10))


def test_a_row_that_nobody_answers_is_called_again_before_the_landing(connect, context, tmp_path, monkeypatch):
    """One of three gets no answer when it is tried: it has one when the job is landed."""
    monkeypatch.setattr(trial, "PATIENCE", 1.0)
    faults = {"http": [{"on": CALL, "status": 503, "times": 2, "skip": 2}]}
    with Emulator(duration=0, faults=faults) as emulator:
        conn_id = connect(emulator.url, retries=1)
        monkeypatch.setattr(trial, "AT_ONCE", 1)
        handle = submitting(conn_id, check_first=3, count=10).execute(context)
        assert len(store_of(handle).notes.tried().rows) == 2
        [batch] = emulator.vendor.batches.values()
        assert batch.total == 7
        summary, found = fetch(context, tmp_path, handle)
        assert emulator.vendor.stats()["billed_rows"] + 3 == 10
    assert summary["counts"]["succeeded"] == 10
    assert sorted(row["row"] for row in found) == list(range(10))


def test_a_refused_key_is_told_before_the_upload(connect, context):
    with Emulator(duration=0, api_key="another") as emulator:
        with pytest.raises(RefusedForGood, match="refuses the key"):
            submitting(connect(emulator.url)).execute(context)
        assert not emulator.vendor.calls["POST /v1/files"]


def test_a_share_of_unusable_answers_stops_the_job(connect, context, tmp_path):
    """Answers that are cut at their cap: refused where whoever lands them would refuse them, and else sent."""
    short = ChatRequest("gpt-5-mini", user="{text}", max_tokens=1)
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        wanted = operator(conn_id, tmp_path, rows=rows(MANY), request=short, fail_on=0.5, max_rounds=1)
        with pytest.raises(FirstRowsFailed, match=r"3 of the first 3 rows did not succeed: truncated"):
            drive(wanted, context)
        assert calls(emulator) == (3, 0)
        wanted.fail_on = "none"
        summary = drive(wanted, context)
        assert summary["counts"]["truncated"] == MANY


def test_the_fetching_task_says_what_is_accepted(connect, context, tmp_path):
    """``fail_on`` of the tasks downstream."""
    from airflow.sdk import DAG

    with Emulator(duration=0) as emulator:
        with DAG("dag", schedule=None):
            task = submitting(connect(emulator.url), request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=1))
            FetchResultsOperator(task_id="fetch", job=task.output, destination=f"file://{tmp_path}/x", fail_on="none")
        assert task.accepted_failures(context) is None
        task.execute(context)
        assert calls(emulator) == (3, 1)


def test_a_killed_try_calls_nothing_twice(connect, context, monkeypatch):
    """Killed after the calls and before the upload: the next try finds the answers."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url)
        with monkeypatch.context() as patch:
            patch.setattr(trial, "kept", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                submitting(conn_id).execute(context)
        assert calls(emulator) == (3, 0)
        submitting(conn_id).execute(context)
        assert calls(emulator) == (3, 1)


def test_a_task_that_is_killed_while_it_tries_sends_nothing(connect, context):
    """``on_kill`` comes in between."""
    with Emulator(duration=60) as emulator:
        task = submitting(connect(emulator.url))
        stopped = Event()
        original = task.run_of

        def run_of(*given):
            run = original(*given)
            run.stop = stopped
            return run

        task.run_of = run_of
        stopped.set()
        with pytest.raises(Interrupted):
            task.execute(context)
        assert calls(emulator) == (0, 0)


def test_rounds_and_repairs_try_nothing(connect, context, tmp_path):
    """Rows that are asked again were tried by their first round; those that failed when they were tried are asked again
    like any others."""
    with Emulator(duration=0, faults={"row_errors": 0.5, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        summary = drive(operator(conn_id, tmp_path, rows=rows(MANY), check_first=20, fail_on="none"), context)
        assert summary["counts"]["succeeded"] == MANY
        assert calls(emulator)[0] == 20
    assert sorted(row["row"] for row in landed(summary)) == list(range(MANY))
    again = SubmitBatchOperator(task_id="again", rows=FailedRows(summary), check_first=5)
    assert again.check_first == 5


def test_whoever_calls_every_row_tries_none(connect, context, tmp_path):
    """The online lane has one set of shards."""
    with Emulator(duration=0) as emulator:
        task = CompletionOperator(
            task_id="ask", conn_id=connect(emulator.url), rows=rows(MANY), key="id",
            request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=50), destination=f"file://{tmp_path}/out",
        )  # fmt: skip
        summary = task.execute(context)
        assert calls(emulator) == (MANY, 0)
    assert len(summary["files"]) == 1


def test_the_budget_is_asked_again():
    """By hand: prompts twice as long as expected take a job of $1 above $1.50, and not above $2."""
    from datetime import UTC, datetime

    from airflow_llm_batch.jobs.directory.tried import Tried

    estimate = Estimate(requests=10, input_tokens=200, output_tokens=10, cost_usd=1.9, tried=3, ratio=2.0)
    tried = Tried(at=datetime.now(UTC), rows=[], estimate={"m": estimate})
    check_again(tried, 2.0, 0.0)
    for most, spent in ((1.5, 0.0), (2.0, 0.2)):
        with pytest.raises(BudgetExceeded, match=r"2\.00 times the prompt tokens .* above max_cost"):
            check_again(tried, most, spent)
    unknown = estimate.model_copy(update={"cost_usd": None})
    check_again(tried.model_copy(update={"estimate": {"m": unknown}}), 0.1, 0.0)


def test_a_batch_that_is_too_small_is_never_made_of_them(connect, context, tmp_path, monkeypatch):
    """A vendor that takes no batch of fewer than a hundred: rows that get no answer wait for the landing, and are not
    sent in a batch of three."""
    monkeypatch.setattr(trial, "PATIENCE", 1.0)
    faults = {"http": [{"on": CALL, "status": 503, "times": 6}]}
    with Emulator(duration=0, faults=faults) as emulator:
        conn_id = connect(emulator.url, retries=1, limits={"minimum": 100})
        handle = submitting(conn_id, check_first=3, count=150).execute(context)
        assert [batch.total for batch in emulator.vendor.batches.values()] == [147]
        summary, found = fetch(context, tmp_path, handle)
    assert summary["counts"]["succeeded"] == 150
    assert sorted(row["row"] for row in found) == list(range(150))


@pytest.mark.parametrize("kind", ["list", "files"])
def test_a_sample_is_a_spread_of_the_rows(connect, context, tmp_path, kind):
    """Two hundred of five thousand rows, from all over, under their own numbers and the same each time; what the whole
    would cost and take is told when they are landed."""
    many = rows(5000)
    source = many
    if kind == "files":
        (tmp_path / "in").mkdir()
        for part in range(2):
            lines = [json.dumps(row) for row in many[part * 2500 : (part + 1) * 2500]]
            (tmp_path / "in" / f"{part}.jsonl").write_text("\n".join(lines))
        source = f"file://{tmp_path}/in/"
    with Emulator(duration=0, faults={"row_errors": 0.1, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, limits={"requests": 1000})
        task = operator(conn_id, tmp_path, rows=source, sample=200, max_enqueued_tokens=30_000, passthrough=None)
        summary = drive(task, context)
        assert sum(batch.total for batch in list(emulator.vendor.batches.values())[:1]) == 200
        # The next try of the task takes up the same rows.
        assert drive(task, context)["files"] == summary["files"]
        made = len(emulator.vendor.batches)
    found = landed(summary)
    numbers = [row["row"] for row in found]
    assert len(set(numbers)) == 200
    assert all(row["key"] == f"k{row['row']}" for row in found)
    # Uniform: a fifth of them in each fifth of the source, give or take.
    fifths = Counter(number // 1000 for number in numbers)
    assert all(20 <= fifths[fifth] <= 60 for fifth in range(5)), fifths
    manifest = JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest()
    whole = manifest.whole
    assert whole.rows == 5000
    assert whole.cost_usd == pytest.approx(25 * summary["cost_usd"])
    assert whole.batches >= 5
    assert whole.waves > 1
    assert "All 5,000 rows would cost about $" in summary["message"]
    assert made == 2


def test_a_sample_of_fewer_rows_is_all_of_them(connect, context, tmp_path):
    with Emulator(duration=0) as emulator:
        summary = drive(operator(connect(emulator.url), tmp_path, rows=rows(5), sample=200), context)
        assert summary["rows"] == 5
        with pytest.raises(ConfigurationError, match="sample is"):
            drive(operator(connect(emulator.url), tmp_path, rows=rows(5), sample="many"), context)
        with pytest.raises(ConfigurationError, match="leave out sample"):
            drive(operator(connect(emulator.url), tmp_path, rows=FailedRows(summary), sample=2), context)


def test_what_all_rows_would_take():
    """By hand: 1,000 rows of 100 bytes and 10 tokens in the sample, a million in all, batches of 50,000 requests."""
    from datetime import UTC, datetime

    shard = Shard(endpoint="/v1/chat/completions", rows=1000, bytes=100_000, tokens=10_000)
    job = Job(
        id="0", fingerprint="", provider="openai", conn_id="c", created_at=datetime.now(UTC), rows=1000,
        shards=(shard,), sampled_from=1_000_000,
    )  # fmt: skip
    limits = Limits(requests=50_000, bytes=200_000_000)
    whole = whole_of(job, limits, 1000, 0.02, 720.0)
    assert (whole.rows, whole.cost_usd, whole.batches, whole.waves) == (1_000_000, 20.0, 20, 1)
    assert "20 batches" in whole.message
    assert "12 minutes" in whole.message
    # 100 MB in batches of 4 MB; ten million tokens, two million at a time.
    assert whole_of(job, limits.model_copy(update={"bytes": 4_000_000}), 1000, None, None).batches == 25
    queued = job.model_copy(update={"max_enqueued_tokens": 2_000_000})
    assert whole_of(queued, limits, 1000, None, None).waves == 5
    assert whole_of(job.model_copy(update={"sampled_from": None}), limits, 1000, 1.0, None) is None
