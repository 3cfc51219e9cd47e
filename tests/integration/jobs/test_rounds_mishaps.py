"""What went wrong with rounds once, each with the order of events that led to it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from support import read_jsonl
from support.tasks import drive, explicit, landed, next_task, operator, run_dag

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable, SubmissionUnconfirmed
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.operators import (
    CleanupJobsOperator,
    FetchResultsOperator,
    LLMBatchOperator,
    Recovery,
    SubmitBatchOperator,
)

REQUEST = ChatRequest("gpt-5-mini", user="{text}", max_tokens=20)


def texts(count):
    return [{"id": n, "text": f"text {n}"} for n in range(count)]


def records(directory):
    return [row for path in directory.rglob("results-*.jsonl") for row in read_jsonl(path)]


@pytest.mark.parametrize("errors", [0.0, 0.4])
def test_a_repair_is_of_one_job_and_no_other(connect, context, tmp_path, errors):
    """Cleared with more rows: the repair of the old job, though it would ask the same, is not taken up."""
    with Emulator(duration=0, faults={"row_errors": errors}) as emulator:
        conn_id = connect(emulator.url)
        repair = next_task(context, "submit_2")
        for count in (20, 24):
            first = explicit(context, conn_id, tmp_path, texts(count), key="id", request=REQUEST)
            second = explicit(repair, conn_id, tmp_path, FailedRows(first))
            assert second["rows"] == count
            assert sorted(row["key"] for row in records(tmp_path)) == list(range(count))


def test_cleanup_leaves_a_job_alone_whose_round_is_running(connect, context, tmp_path):
    """Old by its landing, and at work all the same: nothing is removed, and nothing billed again."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        storage = f"file://{tmp_path}/jobs"
        real = emulator.vendor.add_batch

        def slow(batch):
            batch.duration = 0 if not emulator.vendor.batches else 60
            return real(batch)

        emulator.vendor.add_batch = slow
        task = operator(conn_id, tmp_path, storage=storage)
        with pytest.raises(TaskDeferred):
            task.execute(context)
        cleanup = CleanupJobsOperator(task_id="c", older_than=0, storage=storage)
        cleaned = cleanup.execute({})
        assert (cleaned["removed"], len(cleaned["unlanded"])) == ([], 1)
        for batch in emulator.vendor.batches.values():
            batch.created_at -= 100
        assert drive(operator(conn_id, tmp_path, storage=storage), context)["counts"]["succeeded"] == 200
        assert len(emulator.vendor.batches) == 2
        assert len(cleanup.execute({})["removed"]) == 1


def test_cleanup_keeps_what_a_kept_repair_was_made_from_and_whole_tasks_only(connect, context, tmp_path):
    """The repair is not landed yet: its first job stays. Generations of one task go together."""
    storage = f"file://{tmp_path}/jobs"
    with Emulator(duration=0, faults={"row_errors": 0.4, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        first = explicit(context, conn_id, tmp_path, texts(20), key="id", request=REQUEST, storage=storage)
        repair = next_task(context, "submit_2")
        submit = SubmitBatchOperator(task_id="submit_2", conn_id=conn_id, rows=FailedRows(first), storage=storage)
        handle = submit.execute(repair)

        def clean(**arguments):
            return CleanupJobsOperator(task_id="c", older_than=0, storage=storage, **arguments).execute({})

        assert clean()["removed"] == []
        fetch = FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out")
        assert fetch.execute({})["counts"]["succeeded"] == 20
        # Another prompt, twice: three jobs of one task.
        context["ti"].run_id += "-b"
        for prompt in ("a {text}", "b {text}", "c {text}"):
            request = ChatRequest("gpt-5-mini", user=prompt, max_tokens=20)
            last = explicit(context, conn_id, tmp_path / "b", texts(5), key="id", request=request, storage=storage)
        assert JobStore(last["manifest"].removesuffix("/manifest.json")).uri.endswith("/-1.3")
        assert len(clean(dry_run=True)["removed"]) == 5
        batches = len(emulator.vendor.batches)
        assert len(clean()["removed"]) == 5
        assert len(emulator.vendor.batches) == batches


def test_a_round_over_the_budget_stays_unsent_however_often_the_task_runs(emulator, connect, context, tmp_path):
    """It was planned, and a plan alone is no permission; nor is it one after the last round or the deadline."""
    arguments = {
        "rows": ["x" * 190] * 50, "key": None, "passthrough": None, "also": ["truncated"],
        "request": ChatRequest("gpt-5-mini", max_tokens=5), "fail_on": "none",
    }  # fmt: skip
    conn_id = connect(emulator.url)
    for _ in range(3):
        drive(operator(conn_id, tmp_path, max_cost=0.0009, **arguments), context)
    drive(operator(conn_id, tmp_path, max_cost=9, max_rounds=1, **arguments), context)
    drive(operator(conn_id, tmp_path, max_cost=9, deadline=0, **arguments), context)
    assert len(emulator.vendor.batches) == 1
    # What is asked may change as long as nothing was sent.
    drive(operator(conn_id, tmp_path, max_cost=9, **{**arguments, "also": []}), context)
    assert len(emulator.vendor.batches) == 1
    assert drive(operator(conn_id, tmp_path, max_cost=9, max_rounds=2, **arguments), context)["rounds"] == 2


def test_changed_input_cancels_the_round_that_runs(connect, context, tmp_path):
    """The unwanted round 2 is not left running at the vendor."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        real = emulator.vendor.add_batch

        def slow(batch):
            batch.duration = 60 if len(emulator.vendor.batches) == 1 else 0
            return real(batch)

        emulator.vendor.add_batch = slow
        with pytest.raises(TaskDeferred):
            operator(conn_id, tmp_path).execute(context)
        request = ChatRequest("gpt-5-mini", user="Changed: {text}", max_tokens=50)
        drive(operator(conn_id, tmp_path, request=request), context)
        assert list(emulator.vendor.batches.values())[1].cancelled_at is not None


def test_rows_do_not_stay_behind_where_they_were_landed_before(connect, context, tmp_path):
    """Here, there, and here again in other sizes; and a repair in a place that was not the last one."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        first = explicit(context, conn_id, tmp_path, texts(30), key="id", request=REQUEST)
        job = first["manifest"].removesuffix("/manifest.json")
        elsewhere = FetchResultsOperator(task_id="x", job=job, destination=f"file://{tmp_path}/archive")
        archive = elsewhere.execute({})
        explicit(next_task(context, "submit_2"), conn_id, tmp_path, FailedRows(first))
        assert sorted(row["key"] for row in records(tmp_path / "out")) == list(range(30))
        assert len(records(tmp_path / "archive")) == archive["rows"] == 30
        context["ti"].run_id += "-b"
        for folder, size in (("a", 500), ("b", None), ("a", None)):
            task = operator(conn_id, tmp_path, destination=f"file://{tmp_path}/{folder}", max_file_size=size)
            drive(task, context)
        assert sorted(row["row"] for row in records(tmp_path / "a")) == list(range(200))


def test_a_refused_landing_of_a_repair_publishes_nothing(connect, context, tmp_path):
    """Another format than the first fetch's: the directory is as it was, and nothing of it stays after the mending."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        first = explicit(context, conn_id, tmp_path, texts(30), key="id", request=REQUEST)
        before = sorted(path.name for path in (tmp_path / "out").iterdir())
        repair = next_task(context, "submit_2")
        with pytest.raises(ConfigurationError, match="same format"):
            explicit(repair, conn_id, tmp_path, FailedRows(first), fetch={"format": "parquet"})
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
        explicit(repair, conn_id, tmp_path, FailedRows(first))
        assert sorted(row["key"] for row in records(tmp_path / "out")) == list(range(30))


def test_mapped_repairs_are_downstream_of_what_they_repair():
    """In partial and in expand alike."""
    with DAG("d", schedule=None):
        fetch = FetchResultsOperator(task_id="fetch", job="file:///j", destination="file:///o")
        partial = SubmitBatchOperator.partial(task_id="partial", rows=FailedRows(fetch.output)).expand(max_cost=[1, 2])
        expand = SubmitBatchOperator.partial(task_id="expand").expand(rows=[FailedRows(fetch.output)])
        one = LLMBatchOperator(task_id="one", rows=FailedRows(fetch.output), destination="file:///o")
    for found in (partial, expand, one):
        assert found.upstream_task_ids == {"fetch"}


MAPPED = """
from datetime import datetime
from airflow.sdk import DAG
from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator

with DAG("mapped_repair", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
    rows = [{"id": n, "text": f"text {n}"} for n in range(20)]
    request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=20)
    submit = SubmitBatchOperator(task_id="submit", conn_id="llm_test", rows=rows, key="id", request=request)
    out = {"destination": "file://PLACE/out", "fail_on": "none"}
    fetch = FetchResultsOperator(task_id="fetch", job=submit.output, **out)
    again = SubmitBatchOperator.partial(task_id="again", conn_id="llm_test").expand(rows=[FailedRows(fetch.output)])
    FetchResultsOperator.partial(task_id="last", **out).expand(job=again.output)
"""


def test_mapped_repairs_get_the_upstream_value(connect, tmp_path, airflow_db):
    """dag.test() of a mapped repair: what the fetch returned is what is repaired."""
    with Emulator(duration=0, faults={"row_errors": 0.4, "heal": 1}) as emulator:
        connect(emulator.url)
        run_dag(tmp_path, MAPPED)
        assert len(emulator.vendor.batches) == 2
    assert sorted(row["key"] for row in records(tmp_path)) == list(range(20))
    assert Counter(row["status"] for row in records(tmp_path)) == {"succeeded": 20}


def test_a_repairs_batch_can_be_named_when_it_is_in_doubt(connect, context, tmp_path):
    """Two batches could be the one; batch_ids says which, for a repair and for a further round."""
    with Emulator(duration=0, faults={"row_errors": 0.4, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, "anthropic")
        request = ChatRequest("claude-haiku-4-5", user="{text}", max_tokens=20)
        first = explicit(context, conn_id, tmp_path, texts(20), key="id", request=request)
        failed = first["rows"] - first["counts"]["succeeded"]
        repair = next_task(context, "submit_2")
        emulator.vendor.settings.duration = 60
        strangers = other_batches(conn_id, tmp_path, failed)
        emulator.faults(http=[{"on": "POST /v1/messages/batches", "cut": "after"}])
        submit = {"task_id": "submit_2", "conn_id": conn_id, "rows": FailedRows(first)}
        with pytest.raises(SubmissionUnconfirmed, match=r"batch_ids=\{0: '...'\}"):
            SubmitBatchOperator(**submit).execute(repair)
        [ours] = emulator.vendor.batches.keys() - set(strangers) - set(first["batches"])
        recovery = Recovery(batch_ids={0: ours})
        assert SubmitBatchOperator(**submit, recovery=recovery).execute(repair)["batches"] == [ours]
    assert Recovery(batch_ids={"0": "a", "2/0": "b", "2/1": "c"}).batches_of(2) == {0: "b", 1: "c"}
    assert Recovery(batch_ids={0: "a", "2/0": "b"}).batches_of(1) == {0: "a"}


def other_batches(conn_id, tmp_path, rows):
    """Somebody else's batch of the same size."""
    import json

    path = tmp_path / "other.jsonl"
    body = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    path.write_text("".join(json.dumps({"custom_id": f"x{n}", "params": body}) + "\n" for n in range(rows)))
    hook = LLMBatchHook(conn_id)
    created = hook.create_batch(requests=path, endpoint="/v1/messages").id
    hook.close()
    return [created]


def test_refused_deletions_are_not_taken_for_done(emulator, connect, context, tmp_path):
    """DELETE answers 403: told, tried again at the next landing, and what is there can be landed elsewhere."""
    conn_id = connect(emulator.url, delete_files="all")
    emulator.faults(http=[{"on": "DELETE*", "times": 99, "status": 403}])
    first = explicit(context, conn_id, tmp_path, texts(5), key="id", request=REQUEST)
    job = first["manifest"].removesuffix("/manifest.json")
    assert JobStore(job).notes.cleaned() is None
    other = FetchResultsOperator(task_id="x", job=job, destination=f"file://{tmp_path}/b").execute({})
    assert other["rows"] == 5
    emulator.faults()
    FetchResultsOperator(task_id="x", job=job, destination=f"file://{tmp_path}/b").execute({})
    assert (JobStore(job).notes.cleaned(), len(emulator.vendor.files)) == ("all", 0)


@pytest.mark.parametrize("scope", ["inputs", "all"])
def test_any_fetch_of_a_chain_can_be_cleared(connect, context, tmp_path, scope):
    """Whatever the later ones have taken over, and whatever the vendor still has."""
    with Emulator(duration=0, faults={"row_errors": 0.5, "heal": 2}) as emulator:
        conn_id = connect(emulator.url, delete_files=scope)

        def run_from(number):
            summaries = dict(known)
            for n in range(number, 4):
                rows = texts(30) if n == 1 else FailedRows(summaries[n - 1])
                extra = {"key": "id", "request": REQUEST} if n == 1 else {}
                at = next_task(context, f"submit_{n}")
                summaries[n] = explicit(at, conn_id, tmp_path, rows, **extra)
            return summaries

        known = {}
        known = run_from(1)
        rows = landed(known[3])
        assert known[3]["counts"]["succeeded"] == 30
        for number in (3, 2, 1):
            assert run_from(number)[3] == known[3]
            assert landed(known[3]) == rows
            assert len(records(tmp_path / "out")) == 30
        assert len(emulator.vendor.batches) == 3


def test_unknown_costs_count_as_estimated(connect, context, tmp_path):
    """A row whose cost nobody knows does not make room in the budget."""
    with Emulator(duration=0, faults={"missing": 1}) as emulator:
        arguments = {
            "rows": ["x" * 190] * 50, "key": None, "passthrough": None, "also": ["truncated"],
            "request": ChatRequest("gpt-5-mini", max_tokens=5), "fail_on": "none",
        }  # fmt: skip
        summary = drive(operator(connect(emulator.url), tmp_path, max_cost=0.001, **arguments), context)
        assert summary["cost_usd"] is None
        assert len(emulator.vendor.batches) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"format": "csv"}, {"fail_on": "sometimes"}, {"max_rounds": "three"}, {"max_rounds": "0"}, {"deadline": "None"}],
)
def test_arguments_are_checked_once_rendered_and_before_anything_is_paid(emulator, connect, context, tmp_path, wrong):
    """As templates they pass; what they render to does not."""
    [(name, value)] = wrong.items()
    task = operator(connect(emulator.url), tmp_path, **{name: "{{ params.x }}"})
    setattr(task, name, value)
    with pytest.raises(ConfigurationError):
        task.execute(context)
    with pytest.raises(ConfigurationError):
        operator("x", tmp_path, **wrong)
    assert not emulator.vendor.batches


def test_an_empty_repair_does_not_pass_on_files_that_are_gone(emulator, connect, context, tmp_path):
    """Nothing to ask, and nothing there: red, with the remedy."""
    conn_id = connect(emulator.url)
    first = explicit(context, conn_id, tmp_path, texts(5), key="id", request=REQUEST)
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    with pytest.raises(ResultsUnusable, match="is gone"):
        explicit(next_task(context, "submit_2"), conn_id, tmp_path, FailedRows(first))


def test_only_what_was_cancelled_by_a_kill_gets_a_round_of_its_own(connect, context, tmp_path):
    """A kill that found nothing running grants nothing; one that cancelled does, from the worker too."""
    with Emulator(duration=0.5, faults={"row_errors": 0.3}) as emulator:
        conn_id = connect(emulator.url)
        with pytest.raises(TaskDeferred) as deferred:
            operator(conn_id, tmp_path, max_rounds=2).execute(context)
        [batch] = emulator.vendor.batches.values()
        batch.created_at -= 100
        asyncio.run(deferred.value.trigger.on_kill())
        emulator.vendor.settings.duration = 0
        drive(operator(conn_id, tmp_path, max_rounds=2), context)
        assert len(emulator.vendor.batches) == 2
    context["ti"].run_id += "-b"
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url)
        task = operator(conn_id, tmp_path / "b", max_rounds=1, recovery=Recovery(cancel_on_kill=True))
        with pytest.raises(TaskDeferred):
            task.execute(context)
        task.on_kill()
        [batch] = emulator.vendor.batches.values()
        batch.cancelled_at -= 1000
        emulator.vendor.settings.duration = 0
        assert drive(operator(conn_id, tmp_path / "b", max_rounds=1), context)["counts"]["succeeded"] == 200


def test_reasons_and_dropped_lines_of_all_rounds_are_told(connect, context, tmp_path):
    """One name for one reason; what was dropped in the first round is not forgotten."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "garbage": 3}) as emulator:
        conn_id = connect(emulator.url)
        request = ChatRequest("gpt-5-mini", user="{text} and a good deal more of it than fits", max_tokens=3)
        summary = drive(operator(conn_id, tmp_path, request=request, max_rounds=2, fail_on="none"), context)
        manifest = JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest()
    assert {reason.code for reason in manifest.reasons} == {"length", "server_error"}
    assert sum(reason.rows for reason in manifest.reasons) == 200
    assert manifest.dropped["garbage"] >= 6
    assert manifest.aside is not None
    assert SimpleNamespace(**summary).rounds == 2


def test_a_job_that_was_removed_while_it_ran_is_not_bought_again_unasked(connect, context, tmp_path):
    """Its task fails at once and says how to get at what was paid for; cleared, it takes no other end for its own."""
    with Emulator(duration=1) as emulator:
        task = operator(
            connect(emulator.url), tmp_path, rows=[f"row {n}" for n in range(5)], key=None, passthrough=None
        )
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        directory = Path(task._runs[0].store.uri.removeprefix("file://"))
        event = asyncio.run(removed_meanwhile(deferred.value.trigger, emulator, directory))
        # What the wait has learned of the batch that is gone is there, and nobody's.
        assert len(list(directory.rglob("ended.json"))) == 1
        with pytest.raises(ConfigurationError, match=r"No job at .* Nothing was sent.*batch_id=.* pays anew"):
            task.execute_complete(context, event)
        assert len(emulator.vendor.batches) == 1
        rows = landed(drive(task, context))
        phases = [batch.view(time.time()).phase for batch in emulator.vendor.batches.values()]
    assert phases == ["completed"] * 2
    assert [row["status"] for row in rows] == ["succeeded"] * 5


async def removed_meanwhile(trigger, emulator, directory):
    """The event of a trigger whose job directory goes once it has looked."""
    before = emulator.vendor.calls.total()
    event = asyncio.ensure_future(anext(trigger.run()))
    while emulator.vendor.calls.total() == before:
        await asyncio.sleep(0.01)
    # The wait may be writing there at this moment.
    for _ in range(100):
        with suppress(OSError):
            shutil.rmtree(directory)
            break
    return (await event).payload
