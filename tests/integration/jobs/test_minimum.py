"""Vendors that take no small batches: shards are cut so that none is too small; a smaller job is refused, or called."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import read_jsonl
from support.jobs import chat, plan, spec, texts
from support.tasks import drive, landed, operator, run

from airflow_llm_batch.data import FailedRows
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 8))
def test_shards_are_cut_so_that_none_is_too_small(connect, tmp_path_factory, rows, most, least):
    """Whatever the number of rows: every row in one shard, in order, no shard too large, and none too small where the
    numbers allow it."""
    limits = {"requests": most, "minimum": least}
    hook = LLMBatchHook(connect("http://127.0.0.1:9", limits=limits))
    store = JobStore(f"file://{tmp_path_factory.mktemp('cut')}/job")
    store, job = plan(store, hook, spec(texts(rows), chat("openai")))
    seen = []
    for shard in job.shards:
        lines = read_jsonl(str(store.requests(shard.index, shard.token)))
        entries = read_jsonl(str(store.rows(shard.index, shard.token)))
        assert len(lines) == len(entries) == shard.rows <= most
        assert sum(len(json.dumps(line)) > 0 for line in lines) == shard.rows
        assert shard.bytes == store.requests(shard.index, shard.token).stat().st_size
        seen += [entry["row"] for entry in entries]
    assert seen == list(range(rows))
    if least and rows >= least and rows % most and most >= 2 * least:
        assert min(shard.rows for shard in job.shards) >= least


def test_a_job_that_is_too_small_is_refused_before_anything_is_sent(emulator, connect, context, tmp_path):
    """The message has the number of rows, the vendor's least and both remedies."""
    conn_id = connect(emulator.url, limits={"minimum": 100})
    with pytest.raises(InputError, match=r"7 rows.*fewer than 100.*small_batches.*Nothing was sent"):
        operator(conn_id, tmp_path, rows=texts(7), passthrough=None).execute(context)
    assert emulator.vendor.stats()["calls"] == {}


def test_a_large_batch_is_not_called_for_the_sake_of_a_small_one(emulator, connect, context, tmp_path):
    """Two models' rows in one input, seven of the second: refused, with the choice to call so few as well."""
    conn_id = connect(emulator.url, limits={"minimum": 100}, small_batches="online")
    lines = [
        {
            "custom_id": f"{model}-{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
        }
        for model, count in (("gpt-5-mini", 150), ("gpt-4o-mini", 7))
        for n in range(count)
    ]
    with pytest.raises(InputError, match=r"7 rows.*task of their own.*Nothing was sent"):
        run(context, conn_id, tmp_path, rows=lines)
    assert emulator.vendor.stats()["calls"] == {}


def test_by_choice_so_few_rows_are_called(emulator, connect, context, tmp_path, provider):
    """The three explicit tasks and the one that does all: landed once, and no batch is made."""
    conn_id = connect(emulator.url, provider, limits={"minimum": 100}, small_batches="online")
    summary, rows = run(context, conn_id, tmp_path, rows=texts(7), request=chat(provider))
    assert [row["status"] for row in rows] == ["succeeded"] * 7
    assert (summary["counts"]["succeeded"], emulator.vendor.stats()["batches"]) == (7, {})
    context["ti"].task_id = "whole"
    summary = drive(operator(conn_id, tmp_path / "b", provider, rows=texts(5), passthrough=None), context)
    assert [row["status"] for row in landed(summary)] == ["succeeded"] * 5
    assert emulator.vendor.stats()["batches"] == {}


@pytest.mark.parametrize("choice", ["refuse", "online"])
def test_failed_rows_that_are_too_few_for_a_batch(emulator, connect, context, tmp_path, provider, choice):
    """A repair is called online by choice, and otherwise left with a word in the log; what was landed stays."""
    emulator.vendor.settings.faults.row_errors, emulator.vendor.settings.faults.heal = 0.05, 1
    conn_id = connect(emulator.url, provider, limits={"minimum": 100}, small_batches=choice)
    arguments = {"fail_on": "none", "max_rounds": 3}
    rows = landed(drive(operator(conn_id, tmp_path, provider, **arguments), context))
    assert len(rows) == 200
    failed = [row for row in rows if row["status"] != "succeeded"]
    assert bool(failed) == (choice == "refuse")
    assert len(emulator.vendor.stats()["batches"]) == 1


def test_failed_rows_in_a_task_of_their_own(emulator, connect, context, tmp_path, provider):
    """``FailedRows`` below the least is called by choice, and lands beside the rest."""
    emulator.vendor.settings.faults.row_errors, emulator.vendor.settings.faults.heal = 0.05, 1
    conn_id = connect(emulator.url, provider, limits={"minimum": 100}, small_batches="online")
    first, _ = run(context, conn_id, tmp_path, rows=texts(200), request=chat(provider), fetch={"fail_on": "none"})
    context["ti"].task_id = "again"
    second, rows = run(context, conn_id, tmp_path, rows=FailedRows(first))
    assert second["counts"]["succeeded"] == len(rows) == 200
    assert len(emulator.vendor.stats()["batches"]) == 1
