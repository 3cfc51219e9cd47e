"""Checks beyond the schema, in whole jobs: every lane holds its answers to the same, and others buy nothing again."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter

import pytest
from pydantic import BaseModel, model_validator
from support import ROOT, TESTS, read_jsonl
from support.jobs import make_batch
from support.opinions import opinions
from support.tasks import drive, explicit, landed, next_task, operator

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, FirstRowsFailed, InputError, ResultsUnusable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor


class Sum(BaseModel):
    total: int
    unit: str = "pieces"

    @model_validator(mode="after")
    def small(self):
        if self.total > 6:
            raise ValueError("totals end at 6")
        return self


def is_even(output, row):
    return None if output["total"] % 2 == 0 else f"{output['total']} is odd, of row {row['key']}"


def stumbles(output, row):
    return 1 / (output["total"] - 4) < 100


def never(output, row):
    return False


def said(model, prompt):
    """The row's own number; the second model is one off."""
    return {"total": int(prompt) + (model == "gpt-5")}


ROWS = [{"id": f"k{n}", "number": str(n), "amount": n} for n in range(9)]
ASKED = {
    "rows": ROWS,
    "key": "id",
    "passthrough": ["amount"],
    "request": ChatRequest("gpt-5-mini", user="{number}", output=Sum, max_tokens=50),
    "checks": [is_even, "output.total == row.amount", stumbles],
}
BAD = {
    1: "check_failed", 3: "check_failed", 5: "check_failed", 4: "check_crashed", 7: "validation_failed",
    8: "validation_failed",
}  # fmt: skip


def judged(rows):
    return {row["row"]: row["error_code"] for row in rows if row["status"] == "invalid"}


def bought(emulator, bodies):
    return len(bodies), len(emulator.vendor.batches)


@pytest.mark.parametrize("lane", ["online", "batch", "steps", "parquet"])
def test_every_lane_holds_its_answers_to_the_same(connect, context, tmp_path, lane):
    """The class's validators, the functions and the expression; what the class fills in lands, the text as it was."""
    with opinions(said) as (emulator, _):
        conn_id = connect(emulator.url)
        given = {**ASKED, "destination": f"file://{tmp_path}/out", "fail_on": "none", "conn_id": conn_id}
        if lane == "online":
            summary = CompletionOperator(task_id="submit", **given).execute(context)
        elif lane == "steps":
            submit = {name: given[name] for name in ASKED if name != "rows"}
            summary = explicit(context, conn_id, tmp_path, ROWS, **submit)
        else:
            form = "parquet" if lane == "parquet" else "jsonl"
            summary = drive(LLMBatchOperator(task_id="submit", poll_interval=0.05, format=form, **given), context)
    if lane == "parquet":
        import pyarrow.dataset as ds

        rows = ds.dataset(summary["files"][0].removeprefix("file://")).to_table().to_pylist()
    else:
        rows = landed(summary)
    assert judged(rows) == BAD
    assert Counter(row["status"] for row in rows) == {"succeeded": 3, "invalid": 6}
    for row in rows:
        assert json.loads(row["text"]) == {"total": row["row"]}
        assert row["output"] == ({"total": row["row"], "unit": "pieces"} if row["status"] == "succeeded" else None)
    reasons = {row["row"]: row["error_message"] for row in rows}
    assert reasons[3] == "is_even: 3 is odd, of row k3"
    assert reasons[4] == "stumbles crashed: ZeroDivisionError: division by zero"
    assert reasons[7] == "The answer is no valid Sum: totals end at 6"
    manifest = JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest()
    assert manifest.rules.output_class == f"{__name__}:Sum"
    assert manifest.rules.checks == (f"{__name__}:is_even", "output.total == row.amount", f"{__name__}:stumbles")
    assert not manifest.schema_alone


def test_a_race_is_won_by_an_answer_that_passes(connect, context, tmp_path):
    """The first good answer is one that its row's checks let pass, whichever model gives it."""
    with opinions(said) as (emulator, _):
        task = CompletionOperator(
            task_id="submit", models=["gpt-5", "gpt-5-mini"], strategy="fastest", conn_id=connect(emulator.url),
            destination=f"file://{tmp_path}/out", fail_on="none", **{**ASKED, "checks": ["output.total == row.amount"]},
        )  # fmt: skip
        rows = landed(task.execute(context))
    assert {row["model"] for row in rows if row["status"] == "succeeded"} == {"gpt-5-mini"}
    assert judged(rows) == {7: "validation_failed", 8: "validation_failed"}


def test_rows_of_a_batch_that_was_made_elsewhere_are_checked(connect, context, tmp_path):
    """By the fetching task's checks, over the text: there is no schema, and that is told before anything is landed."""
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        batch_id = make_batch(hook, "openai", tmp_path)
        wait = BatchSensor(task_id="w", batch_id=batch_id, conn_id=hook.conn_id, deferrable=False, poke_interval=0.02)
        handle = wait.execute(context)

        def fetch(*checks):
            given = {"job": handle, "destination": f"file://{tmp_path}/out", "fail_on": "none", "checks": checks}
            return FetchResultsOperator(task_id="fetch", **given).execute(context)

        summary = fetch("row.text == 'hi' and row.key == 'a'")
        with pytest.raises(InputError, match=r"without a schema there is no output.*Nothing was landed"):
            fetch("output.total > 3")
        with pytest.raises(ConfigurationError, match="are given to the FetchResultsOperator"):
            SubmitBatchOperator(task_id="s", batch_id=batch_id, checks=["row.text"]).execute(context)
    assert {row["key"]: row["status"] for row in landed(summary)} == {"a": "succeeded", "b": "invalid"}


def test_a_repair_asks_what_did_not_pass_and_holds_it_to_the_same(connect, context, tmp_path):
    """Rows that are invalid by a check are asked again by choice; another task's round has the checks of the first."""
    with opinions(said) as (emulator, bodies):
        conn_id = connect(emulator.url)
        submit = {**{name: ASKED[name] for name in ASKED if name != "rows"}, "checks": [is_even]}
        first = explicit(context, conn_id, tmp_path, ROWS, **submit)
        assert first["counts"]["invalid"] == 5
        again = explicit(next_task(context, "again"), conn_id, tmp_path, FailedRows(first, also=["invalid"]))
        assert len(bodies) == 9 + 5
        assert again["counts"] == first["counts"]
        # Others for the rows that are asked again: these three pass now, and what was good stays.
        looser = explicit(
            next_task(context, "looser"), conn_id, tmp_path, FailedRows(again, also=["invalid"]), checks=[]
        )
    assert (looser["counts"]["succeeded"], looser["counts"]["invalid"]) == (7, 2)
    assert judged(landed(looser)) == {7: "validation_failed", 8: "validation_failed"}


def test_a_repair_has_the_checks_that_the_rows_were_landed_under(connect, context, tmp_path):
    """Those of the fetch that has found them bad: asked again, they do not become good for want of them."""
    with opinions(said) as (emulator, bodies):
        conn_id = connect(emulator.url)
        submit = {name: ASKED[name] for name in ASKED if name not in ("rows", "checks")}
        first = explicit(context, conn_id, tmp_path, ROWS, fetch={"checks": [is_even]}, **submit)
        again = explicit(next_task(context, "again"), conn_id, tmp_path, FailedRows(first, also=["invalid"]))
        assert again["counts"] == first["counts"]
        assert (again["counts"]["invalid"], len(bodies)) == (5, 9 + 5)


def test_other_checks_buy_nothing_and_are_applied_to_what_was_answered(connect, context, tmp_path):
    """One task, cleared with other checks: no call and no batch more, another verdict; without any, none."""
    with opinions(said) as (emulator, bodies):
        conn_id = connect(emulator.url)

        def run(*checks):
            given = {**ASKED, "passthrough": ["amount"], "checks": list(checks), "fail_on": "none"}
            task = operator(conn_id, tmp_path, **given)
            return landed(drive(task, context))

        classes = {7: "validation_failed", 8: "validation_failed"}
        assert judged(run("output.total < 6")) == {6: "check_failed", **classes}
        assert judged(run("output.total < 6", is_even)) == dict.fromkeys((1, 3, 5, 6), "check_failed") | classes
        assert judged(run()) == classes
        assert bought(emulator, bodies) == (9, 1)
        assert judged(run()) == classes


def test_a_fetch_has_the_checks_of_the_submission_or_its_own(connect, context, tmp_path):
    """A cleared submission's new checks reach the next fetch, and a fetch may have others; neither sends anything."""
    with opinions(said) as (emulator, bodies):
        conn_id = connect(emulator.url)

        def steps(given, **fetch):
            submit = {**{name: ASKED[name] for name in ASKED if name != "rows"}, "checks": given}
            return judged(landed(explicit(context, conn_id, tmp_path, ROWS, fetch=fetch, **submit)))

        classes = {7: "validation_failed", 8: "validation_failed"}
        assert steps(None) == classes
        assert steps(["output.total < 2"]) == dict.fromkeys(range(2, 7), "check_failed") | classes
        assert steps(["output.total < 2"], checks=["output.total < 6"]) == {6: "check_failed", **classes}
        assert steps(["output.total < 2"], checks=[]) == classes
        assert bought(emulator, bodies) == (9, 1)


def test_rounds_that_were_asked_are_kept_when_checks_change(connect, context, tmp_path):
    """A row that was asked again and need not have been keeps its good answer; each row is counted once."""
    with opinions(said) as (emulator, bodies):
        conn_id = connect(emulator.url)

        def run(*checks):
            given = {**ASKED, "checks": list(checks), "also": ["invalid"], "max_rounds": 2, "fail_on": "none"}
            summary = drive(operator(conn_id, tmp_path, **given), context)
            rows = landed(summary)
            assert [row["row"] for row in rows] == list(range(9))
            assert +Counter(summary["counts"]) == Counter(row["status"] for row in rows)
            return judged(rows)

        classes = {7: "validation_failed", 8: "validation_failed"}
        odd = dict.fromkeys((1, 3, 5), "check_failed")
        assert run(is_even) == odd | classes
        assert len(bodies) == 9 + 5
        assert run() == classes
        assert run("output.total != 2") == {2: "check_failed", **classes}
        assert len(bodies) == 9 + 5


def test_what_was_deleted_at_the_vendor_cannot_be_held_to_others(connect, context, tmp_path):
    """It says so, and what was landed stays."""
    with opinions(said) as (emulator, _):
        conn_id = connect(emulator.url, delete_files="all")
        given = {**ASKED, "fail_on": "none"}
        before = landed(drive(operator(conn_id, tmp_path, **given), context))
        assert landed(drive(operator(conn_id, tmp_path, **given), context)) == before
        with pytest.raises(ResultsUnusable, match="held to other checks"):
            drive(operator(conn_id, tmp_path, **{**given, "checks": [never]}), context)
    assert sorted((r for f in (tmp_path / "out").iterdir() for r in read_jsonl(f)), key=lambda r: r["row"]) == before


def test_the_first_rows_tell_of_checks_that_all_rows_fail(connect, context, tmp_path):
    """Three calls, and no batch: a check that is wrong is found before the money is spent."""
    with opinions(said) as (emulator, bodies):
        given = {**ASKED, "checks": [never], "check_first": 3}
        with pytest.raises(FirstRowsFailed, match=r"invalid \(check_failed\): never does not hold"):
            drive(operator(connect(emulator.url), tmp_path, **given), context)
        assert bought(emulator, bodies) == (3, 0)


REFUSED = [
    (["output.totl > 3"], "reads output.totl"),
    (["row.number > 3"], "reads row.number.*Pass the column through"),
    (["no_such_module:check"], "cannot be imported here"),
]


@pytest.mark.parametrize("kind", [SubmitBatchOperator, LLMBatchOperator, CompletionOperator])
@pytest.mark.parametrize(("checks", "message"), REFUSED)
def test_checks_that_cannot_hold_are_refused_before_anything_is_sent(connect, context, tmp_path, kind, checks, message):
    """By every operator that asks; and a lambda as soon as the DAG file is read."""
    with Emulator(duration=0) as emulator:
        more = {} if kind is SubmitBatchOperator else {"destination": f"file://{tmp_path}/out"}
        given = {**ASKED, **more, "task_id": "submit", "conn_id": connect(emulator.url)}
        with pytest.raises((InputError, ConfigurationError), match=message):
            kind(**{**given, "checks": checks}).execute(context)
        with pytest.raises(ConfigurationError, match="cannot be imported by name"):
            kind(**{**given, "checks": [lambda output, row: True]})
        assert not [call for call in emulator.vendor.calls if call.startswith("POST")]


LAND = """
import json, sys
from airflow_llm_batch.operators import FetchResultsOperator
job, destination = sys.argv[1:]
summary = FetchResultsOperator(task_id="fetch", job=job, destination=destination, fail_on="none").execute({})
print("LANDED", json.dumps(summary))
"""


@pytest.mark.parametrize("has_class", [True, False])
def test_another_process_imports_the_class_or_says_that_it_cannot(connect, context, tmp_path, has_class):
    """A fetch in a process that never saw the DAG file: by the path in job.json; without it the schema alone counts."""
    module = tmp_path / "lib" / "our_models.py"
    module.parent.mkdir()
    module.write_text(
        "from pydantic import BaseModel, field_validator\n\n\nclass Total(BaseModel):\n    total: int\n\n"
        "    @field_validator('total')\n    @classmethod\n    def small(cls, value):\n"
        "        if value > 6:\n            raise ValueError('too much')\n        return value\n"
    )
    with pytest.MonkeyPatch.context() as patch, opinions(said) as (emulator, _):
        conn_id = connect(emulator.url)
        patch.syspath_prepend(str(module.parent))
        import our_models

        request = ChatRequest("gpt-5-mini", user="{number}", output=our_models.Total, max_tokens=50)
        task = SubmitBatchOperator(task_id="submit", rows=ROWS, request=request, conn_id=conn_id)
        handle = task.execute(context)
        del sys.modules["our_models"]
        BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)
        paths = [str(module.parent)] if has_class else []
        done = subprocess.run(
            [sys.executable, "-c", LAND, handle["job"], f"file://{tmp_path}/out"], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS), *paths])}, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout.partition("LANDED ")[2])
    expected = {7: "validation_failed", 8: "validation_failed"} if has_class else {}
    assert judged(landed(summary)) == expected
    manifest = JobStore(handle["job"]).manifest()
    assert manifest.rules.output_class == "our_models:Total"
    assert manifest.schema_alone is not has_class


def test_a_check_that_a_fetch_does_not_find_lands_nothing(connect, context, tmp_path):
    """And buys nothing: where it is found, the same fetch lands."""
    module = tmp_path / "our_checks.py"
    module.write_text("def good(output, row):\n    return True\n")
    with pytest.MonkeyPatch.context() as patch, opinions(said) as (emulator, _):
        patch.syspath_prepend(str(tmp_path))
        import our_checks

        given = {**ASKED, "checks": [our_checks.good]}
        handle = SubmitBatchOperator(task_id="submit", conn_id=connect(emulator.url), **given).execute(context)
        BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)
        fetch = FetchResultsOperator(task_id="fetch", job=handle, destination=f"file://{tmp_path}/out", fail_on="none")
        with patch.context() as gone:
            gone.delitem(sys.modules, "our_checks")
            gone.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
            with pytest.raises(ConfigurationError, match="our_checks:good cannot be imported here"):
                fetch.execute(context)
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
        assert fetch.execute(context)["counts"]["succeeded"] == 7


def test_a_class_inside_a_function_is_told_when_the_rows_are_sent(connect, context, tmp_path, caplog):
    """Its schema is asked for and checked, as ever; nobody can find its validators later."""

    class Here(BaseModel):
        total: int

    caplog.set_level(logging.INFO)
    with opinions(said) as (emulator, _):
        request = ChatRequest("gpt-5-mini", user="{number}", output=Here, max_tokens=50)
        summary = drive(
            operator(connect(emulator.url), tmp_path, **{**ASKED, "request": request, "checks": None}), context
        )
    assert summary["counts"]["succeeded"] == 9
    assert sum("schema of" in record.getMessage() for record in caplog.records) == 1
