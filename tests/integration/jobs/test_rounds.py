"""Rows that failed are asked again, and nothing else is."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from support import MODELS, read_jsonl
from support.tasks import drive, explicit, landed, next_task, operator

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, InputError, ResultsUnusable
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.rounds.repair import is_worth_asking
from airflow_llm_batch.operators import FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.results import Failure


@pytest.mark.parametrize("duration", [0, 0.2])
def test_only_failed_rows_are_asked_again(provider, connect, context, tmp_path, duration):
    """Two rounds, deferred or not: one record per row, only the failed ones in the second batch, all money counted."""
    with Emulator(duration=duration, faults={"row_errors": 0.2, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, provider, limits={"requests": 100})
        summary = drive(operator(conn_id, tmp_path, provider), context)
        batches = [batch.total for batch in emulator.vendor.batches.values()]
        billed = sum(batch.total - sum(batch.fates) for batch in emulator.vendor.batches.values())
    rows = landed(summary)
    again = [row for row in rows if row["round"] == 2]
    assert batches == [100, 100, len(again)]
    assert 20 < len(again) < 60
    assert billed == 200
    assert summary["counts"] == {**dict.fromkeys(summary["counts"], 0), "succeeded": 200}
    assert [(row["row"], row["key"], row["input"], row["text"]) for row in rows] == [
        (n, f"k{n}", f"text {n}", f"text {n}") for n in range(200)
    ]
    assert summary["rounds"] == 2
    assert summary["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows), abs=1e-12)
    assert len(list((tmp_path / "out").iterdir())) == len(summary["files"]) == 3
    manifest = JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest()
    assert [(done.rows, done.succeeded) for done in manifest.rounds] == [(200, 200 - len(again)), (len(again),) * 2]
    assert sum(line.requests for line in manifest.usage) == 200 + len(again)
    assert len(manifest.batches) == 3


@pytest.mark.parametrize("format", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_rounds_merge_in_every_format(connect, context, tmp_path, format):  # noqa: A002
    """One record per row, read back from the files of both rounds."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        summary = drive(operator(connect(emulator.url), tmp_path, format=format), context)
    if format == "parquet":
        import pyarrow.dataset as ds

        rows = ds.dataset(f"{tmp_path}/out").to_table().to_pylist()
    else:
        import zstandard

        def unpack(data):
            return (
                gzip.decompress(data)
                if format == "jsonl.gz"
                else zstandard.ZstdDecompressor().stream_reader(data).read()
            )

        files = [unpack(path.read_bytes()) for path in (tmp_path / "out").iterdir()]
        rows = [json.loads(line) for file in files for line in file.splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(200))
    assert Counter(row["status"] for row in rows) == {"succeeded": 200}
    assert {row["round"] for row in rows} == {1, 2}
    assert all(row["input"] == row["text"] for row in rows)
    assert summary["rows"] == 200


def test_rows_that_never_heal_are_given_up_after_the_last_round(connect, context, tmp_path):
    """max_rounds=3: three batches, the same rows in the last two, reasons told once per row."""
    with Emulator(duration=0, faults={"row_errors": 0.2}) as emulator:
        task = operator(connect(emulator.url), tmp_path, fail_on=0.5)
        summary = drive(task, context)
        assert len({batch.total for batch in list(emulator.vendor.batches.values())[1:]}) == 1
        assert len(emulator.vendor.batches) == 3
        rows = landed(summary)
        failed = [row for row in rows if row["status"] != "succeeded"]
        assert len(rows) == 200
        assert {(row["round"], row["error_code"]) for row in failed} == {(3, "server_error")}
        assert f"{len(failed)} x server_error" in summary["message"]
        assert "in 3 rounds" in summary["message"]
        # Cleared, and with another share: nothing is sent, the same is told.
        again = operator(connect(emulator.url), tmp_path, fail_on="any")
        with pytest.raises(ResultsUnusable, match="Everything was landed"):
            drive(again, context)
        assert len(emulator.vendor.batches) == 3
        assert landed(summary) == rows


def test_expired_and_missing_rows_are_asked_again(connect, context, tmp_path):
    """A batch that expires half-way, then one that loses lines: the next round has just those rows."""
    with Emulator(duration=0, faults={"expire": 0.5, "heal": 1}) as emulator:
        summary = drive(operator(connect(emulator.url), tmp_path), context)
        assert [batch.total for batch in emulator.vendor.batches.values()] == [200, 100]
        assert summary["counts"]["succeeded"] == 200
    context["ti"].run_id += "-b"
    with Emulator(duration=0, faults={"missing": 7, "heal": 1}) as emulator:
        summary = drive(operator(connect(emulator.url), tmp_path / "b"), context)
        assert [batch.total for batch in emulator.vendor.batches.values()] == [200, 7]
        assert summary["counts"]["succeeded"] == 200


def test_truncated_rows_are_asked_with_a_raised_cap_by_choice(provider, connect, context, tmp_path):
    """Not at all by default; with also=("truncated",) at twice the cap each round, until they fit."""
    text = "a rather long text that does not fit into five tokens at all"
    rows = [{"id": 1, "text": "hi"}, {"id": 2, "text": text}]
    request = ChatRequest(MODELS[provider], user="{text}", max_tokens=5)
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, provider)
        arguments = {"rows": rows, "request": request, "passthrough": None, "fail_on": "none"}
        once = drive(operator(conn_id, tmp_path, provider, **arguments), context)
        assert (once["counts"]["truncated"], len(emulator.vendor.batches)) == (1, 1)
        context["ti"].run_id += "-b"
        summary = drive(operator(conn_id, tmp_path / "b", provider, also=["truncated"], **arguments), context)
        assert [batch.total for batch in emulator.vendor.batches.values()] == [1 + 1, 2, 1, 1]
    assert [(row["round"], row["text"]) for row in landed(summary)] == [(1, "hi"), (3, text)]
    # What the shorter answers cost is part of what was spent, though they are not landed.
    assert summary["output_tokens"] > sum(row["output_tokens"] for row in landed(summary))
    manifest = JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest()
    assert {(line.status, line.requests) for line in manifest.usage} == {("succeeded", 2), ("truncated", 2)}


def test_refused_requests_are_never_asked_again(emulator, connect, context, tmp_path):
    """A request the vendor calls invalid stays invalid."""
    lines = [
        {"custom_id": "good", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-5-mini"}},
        {"custom_id": "bad", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-5-mini"}},
    ]
    lines[0]["body"]["messages"] = [{"role": "user", "content": "hi"}]
    given = {"rows": lines, "request": None, "key": None, "passthrough": None, "fail_on": "none"}
    summary = drive(operator(connect(emulator.url), tmp_path, **given), context)
    assert {row["key"]: row["status"] for row in landed(summary)} == {"good": "succeeded", "bad": "errored"}
    assert len(emulator.vendor.batches) == 1


@pytest.mark.parametrize(
    ("status", "code", "also", "again"),
    [
        ("errored", "rate_limit_exceeded", (), True),
        ("errored", "overloaded_error", (), True),
        ("errored", "http_503", (), True),
        ("errored", "invalid_request_error", (), False),
        ("errored", "insufficient_quota", (), False),
        ("errored", None, ("truncated", "invalid", "refused", "cancelled"), False),
        ("expired", "batch_expired", (), True),
        ("missing", "missing", (), True),
        ("cancelled", "batch_cancelled", (), False),
        ("cancelled", "batch_cancelled", ("cancelled",), True),
        ("truncated", "length", (), False),
        ("truncated", "length", ("truncated",), True),
        ("truncated", "model_context_window_exceeded", ("truncated",), False),
        ("invalid", "not_json", (), False),
        ("invalid", "not_json", ("invalid",), True),
        ("refused", None, (), False),
    ],
)
def test_what_is_worth_asking_again(status, code, also, again):
    """Trouble that passes always, what was paid for by choice, what was refused for good never."""
    assert is_worth_asking(Failure(0, b"0", status, code, None, 0), also) is again


def test_an_explicit_dag_repairs_what_was_fetched(provider, connect, context, tmp_path):
    """FailedRows(fetch.output): one complete set in the place of the first, for a second and a third round."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 2}) as emulator:
        conn_id = connect(emulator.url, provider, limits={"requests": 60})
        rows = [{"id": n, "text": f"text {n}"} for n in range(100)]
        request = ChatRequest(MODELS[provider], user="{text}", max_tokens=20)
        first = explicit(context, conn_id, tmp_path, rows, key="id", request=request)
        failed = first["rows"] - first["counts"]["succeeded"]
        assert 10 < failed < 60
        second = explicit(next_task(context, "submit_2"), conn_id, tmp_path, FailedRows(first))
        assert second["counts"] == first["counts"]
        third = explicit(next_task(context, "submit_3"), conn_id, tmp_path, FailedRows(second["manifest"]))
        assert third["counts"]["succeeded"] == 100
        totals = [b.total for b in emulator.vendor.batches.values()]
        assert (sorted(totals[:2]), totals[2:]) == ([40, 60], [failed, failed])
        # Nothing is left to repair: the same set goes on, and nothing is sent.
        fourth = explicit(next_task(context, "submit_4"), conn_id, tmp_path, FailedRows(third))
        assert len(emulator.vendor.batches) == 4
    assert (fourth["files"], fourth["counts"], fourth["rows"]) == (third["files"], third["counts"], 100)
    assert [(row["key"], row["text"]) for row in landed(fourth)] == [(n, f"text {n}") for n in range(100)]
    assert {row["round"] for row in landed(fourth)} == {1, 3}
    assert len(list((tmp_path / "out").iterdir())) == len(fourth["files"])


def test_a_repair_is_fetched_again_after_either_fetch_was_cleared(connect, context, tmp_path):
    """The files of the first round have gone by then: what was carried takes their place."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        first = explicit(
            context, conn_id, tmp_path, [f"text {n}" for n in range(50)], request=ChatRequest("gpt-5-mini")
        )
        repair = next_task(context, "submit_2")
        summary = explicit(repair, conn_id, tmp_path, FailedRows(first))
        rows = landed(summary)
        assert explicit(repair, conn_id, tmp_path, FailedRows(first)) == summary
        assert landed(summary) == rows
        # The first fetch is cleared, with all that follows: its rows lie there already, together with the repair's.
        assert explicit(context, conn_id, tmp_path, [f"text {n}" for n in range(50)], request=ChatRequest("gpt-5-mini"))
        assert explicit(repair, conn_id, tmp_path, FailedRows(first)) == summary
        assert landed(summary) == rows
        assert len(list((tmp_path / "out").iterdir())) == len(summary["files"]) == 2
        # Elsewhere: the whole set once more, beside the first.
        other = explicit(repair, conn_id, tmp_path, FailedRows(first), fetch={"destination": f"file://{tmp_path}/b"})
        assert landed(other) == rows
        assert len(emulator.vendor.batches) == 2


def test_landed_files_that_changed_or_are_gone_are_told(connect, context, tmp_path):
    """Rows taken out by hand, files moved away, another format: an error with the remedy, nothing landed."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        first = explicit(
            context, conn_id, tmp_path, [f"text {n}" for n in range(50)], request=ChatRequest("gpt-5-mini")
        )
        path = tmp_path / "out" / first["files"][0].rpartition("/")[2]
        whole = path.read_bytes()
        repair = next_task(context, "submit_2")
        with pytest.raises(ConfigurationError, match="same format"):
            explicit(repair, conn_id, tmp_path, FailedRows(first), fetch={"format": "parquet"})
        path.write_bytes(whole.split(b"\n", 1)[1])
        with pytest.raises(ResultsUnusable, match="changed since"):
            explicit(repair, conn_id, tmp_path, FailedRows(first))
        path.unlink()
        with pytest.raises(ResultsUnusable, match="is gone"):
            explicit(repair, conn_id, tmp_path, FailedRows(first))
        path.write_bytes(whole)
        assert explicit(repair, conn_id, tmp_path, FailedRows(first))["counts"]["succeeded"] == 50
        assert not [name for name in (tmp_path / "out").iterdir() if name.suffix == ".part"]


def test_a_round_over_the_budget_is_not_begun(emulator, connect, context, tmp_path, caplog):
    """max_cost holds for all rounds together; what was landed stays, and the log says why."""
    arguments = {
        "rows": ["x" * 190] * 50, "key": None, "passthrough": None, "also": ["truncated"],
        "request": ChatRequest("gpt-5-mini", max_tokens=5), "fail_on": "none",
    }  # fmt: skip
    # 0.00082 $ at most for the first round, of which 0.00055 are spent; twice the tokens would take another 0.001.
    summary = drive(operator(connect(emulator.url), tmp_path, max_cost=0.0009, **arguments), context)
    assert summary["counts"]["truncated"] == 50
    assert summary["cost_usd"] < 0.0009
    assert len(emulator.vendor.batches) == 1
    # With more money the cleared task goes on where it was.
    summary = drive(operator(connect(emulator.url), tmp_path, max_cost=1, **arguments), context)
    assert [batch.total for batch in emulator.vendor.batches.values()] == [50, 50, 50]
    assert summary["rounds"] == 3


def test_a_task_cleared_while_it_waits_cancels_and_asks_again(connect, context, tmp_path):
    """What the clearing cancelled is asked in a further round; what was finished before is paid once."""
    with Emulator(duration=60) as emulator:
        task = operator(connect(emulator.url), tmp_path, max_rounds=1)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        asyncio.run(deferred.value.trigger.on_kill())
        [batch] = emulator.vendor.batches.values()
        assert batch.cancelled_at is not None
        batch.cancelled_at -= 100
        emulator.vendor.settings.duration = 0
        summary = drive(operator(connect(emulator.url), tmp_path, max_rounds=1), context)
        assert summary["counts"]["succeeded"] == 200
        assert len(emulator.vendor.batches) == 2


def test_a_deadline_holds_for_all_rounds(connect, context, tmp_path):
    """No further round begins after it."""
    with Emulator(duration=0, faults={"row_errors": 0.2, "heal": 1}) as emulator:
        summary = drive(operator(connect(emulator.url), tmp_path, deadline=0), context)
        assert len(emulator.vendor.batches) == 1
        assert summary["counts"]["errored"] > 0


def test_deleted_result_files_are_landed_again(connect, context, tmp_path):
    """Clearing lands what is not there any more, rounds and all, and sends nothing."""
    with Emulator(duration=0, faults={"row_errors": 0.2, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        summary = drive(operator(conn_id, tmp_path), context)
        rows = landed(summary)
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        assert drive(operator(conn_id, tmp_path), context) == summary
        assert landed(summary) == rows
        assert len(list((tmp_path / "out").iterdir())) == len(summary["files"])
        assert len(emulator.vendor.batches) == 2


def test_changed_input_takes_the_rounds_of_the_old_one_away(connect, context, tmp_path):
    """Another prompt: landed anew, rounds too, and nothing of the old ones is left in the directory."""
    with Emulator(duration=0, faults={"row_errors": 0.2, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        drive(operator(conn_id, tmp_path), context)
        request = ChatRequest("gpt-5-mini", user="Changed: {text}", max_tokens=50)
        summary = drive(operator(conn_id, tmp_path, request=request), context)
        assert {row["text"] for row in landed(summary)} == {f"Changed: text {n}" for n in range(200)}
        assert len(list((tmp_path / "out").iterdir())) == len(summary["files"]) == 2


def test_what_cannot_be_repaired_is_refused(emulator, connect, context, tmp_path):
    """Not landed, made elsewhere, another vendor, wrong choices: told before anything is sent."""
    conn_id = connect(emulator.url)
    handle = SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["a"], request=ChatRequest("m")).execute(context)
    after = next_task(context, "submit_2")
    with pytest.raises(ConfigurationError, match="not landed yet"):
        SubmitBatchOperator(task_id="r", conn_id=conn_id, rows=FailedRows(handle["job"])).execute(after)
    with pytest.raises(ConfigurationError, match="pass a FetchResultsOperator's output"):
        SubmitBatchOperator(task_id="r", conn_id=conn_id, rows=FailedRows(None)).execute(after)
    summary = explicit(context, conn_id, tmp_path, ["a"], request=ChatRequest("m"))
    other = connect(emulator.url, "anthropic", conn_id="llm_other")
    with pytest.raises(ConfigurationError, match="same provider"):
        SubmitBatchOperator(task_id="r", conn_id=other, rows=FailedRows(summary)).execute(after)
    with pytest.raises(ConfigurationError, match="errored"):
        FailedRows(summary, also=["errored"])
    with pytest.raises(ConfigurationError, match="truncated"):
        FailedRows(summary, also="truncated")
    with pytest.raises(ConfigurationError, match="token_factor"):
        FailedRows(summary, token_factor=0.5)
    with pytest.raises((ConfigurationError, InputError), match="max_rounds"):
        LLMBatchOperator(task_id="x", rows=["a"], destination="file:///x", max_rounds=0)
    with pytest.raises(TypeError, match="batch_id"):
        LLMBatchOperator(task_id="x", batch_id="b", destination="file:///x")
    assert len(emulator.vendor.batches) == 1


def test_a_repair_is_downstream_of_what_it_repairs():
    """FailedRows(fetch.output) makes the dependency, as an upstream output does anywhere else."""
    with DAG("d", schedule=None):
        fetch = FetchResultsOperator(task_id="fetch", job="file:///j", destination="file:///o")
        repair = SubmitBatchOperator(task_id="repair", rows=FailedRows(fetch.output))
    assert repair.upstream_task_ids == {"fetch"}


def test_row_sets_hold_what_was_added():
    """Bits for numbers, in any order."""
    rows = RowSet()
    for row in (9, 0, 9, 1_000_003):
        rows.add(row)
    assert [row for row in range(20) if row in rows] == [0, 9]
    assert (1_000_003 in rows, 1_000_004 in rows, 10**9 in rows, len(rows)) == (True, False, False, 3)


@pytest.mark.parametrize("file", ["jsonl", "parquet"])
def test_a_repair_in_vain_keeps_what_was_answered_before(connect, context, tmp_path, file):
    """A truncated row that is asked again and gets an error keeps its text: it was paid for."""
    text = "a rather long text that does not fit into five tokens at all"
    with Emulator(duration=0) as emulator:
        asked = {"rows": [{"id": 1, "text": text}, {"id": 2, "text": "hi"}], "passthrough": None, "fail_on": "none",
                 "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=5), "format": file}  # fmt: skip
        task = operator(connect(emulator.url), tmp_path, also=["truncated"], max_rounds=1, **asked)
        first = drive(task, context)
        known = rows_of(first)
        emulator.vendor.settings.faults.row_errors = 1.0
        emulator.vendor.settings.faults.heal = None
        again = drive(operator(connect(emulator.url), tmp_path, also=["truncated"], max_rounds=3, **asked), context)
        assert len(emulator.vendor.batches) > 1
    assert rows_of(again) == known
    assert again["counts"] == first["counts"]
    assert again["counts"]["truncated"] == 1
    assert len(again["files"]) >= 1


def rows_of(summary):
    """Every landed record's key, status and text."""
    import pyarrow.parquet

    found = []
    for file in summary["files"]:
        path = file.removeprefix("file://")
        rows = pyarrow.parquet.read_table(path).to_pylist() if path.endswith("parquet") else read_jsonl(path)
        found += [(row["key"], row["status"], row["text"]) for row in rows]
    return sorted(found)
