"""Several models asked the same, compared: whole jobs in both lanes, and the rows they disagree about."""

from __future__ import annotations

import json
import logging
from typing import Literal

import pytest
from pydantic import BaseModel
from support import read_jsonl
from support.opinions import opinions
from support.tasks import drive, next_task

from airflow_llm_batch.data import ChatRequest, Compare, EmbeddingRequest
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.compared import Comparison
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.operators import CompletionOperator, LLMBatchOperator

LABELS = ("good", "fair", "bad")


class Opinion(BaseModel):
    label: Literal["good", "fair", "bad"]
    reason: str


def label(number):
    return LABELS[number % 3]


def said(model, prompt):
    """Labels that models give by a rule of their own; a reason that each words otherwise."""
    number = int(prompt)
    if model == "claude-haiku-4-5" and number % 10 == 0:
        return "I would rather not say."
    off = {"gpt-5-mini": 0, "gpt-5": number % 4 == 0, "claude-haiku-4-5": number % 5 == 0}[model]
    return {"label": label(number + off), "reason": f"{model} thinks so"}


ROWS = [{"id": f"k{n}", "number": n, "gold": label(n).upper(), "note": f"n{n}"} for n in range(40)]
MODELS = ["gpt-5-mini", "gpt-5", ("claude-haiku-4-5", "llm_other")]
ASKED = {
    "rows": ROWS,
    "key": "id",
    "passthrough": ["gold", "note"],
    "request": ChatRequest("", user="{number}", output=Opinion, max_tokens=50),
    "models": MODELS,
    "fail_on": "none",
    "poll_interval": 0.02,
    "compare": Compare(truth={"label": "gold"}, fields=["label"], disagreements=True),
}
REFUSED = {n for n in range(40) if n % 10 == 0}
WRONG = {"gpt-5": {n for n in range(40) if n % 4 == 0}, "claude-haiku-4-5": {n for n in range(40) if n % 5 == 0}}
#: of the rows that two have answered at least; both of them may be one off
DISPUTED = {n for n in range(40) if n % 4 == 0 or (n % 5 == 0 and n not in REFUSED)}


def task(emulator, connect, tmp_path, lane="batch", **more):
    connect(emulator.url, "anthropic", conn_id="llm_other")
    given = {**ASKED, "conn_id": connect(emulator.url), "destination": f"file://{tmp_path}/out", **more}
    if lane == "online":
        return CompletionOperator(task_id="submit", **given)
    return LLMBatchOperator(task_id="submit", **given)


@pytest.mark.parametrize("lane", ["batch", "online"])
@pytest.mark.parametrize("form", ["jsonl.gz", "parquet"])
def test_models_are_compared_after_they_have_answered(connect, context, tmp_path, lane, form, capsys):
    """Agreement of all and of each two, accuracy, shares, dollars and seconds; the same whatever the rows lie in."""
    with opinions(said, faults={"shuffle": True}) as (emulator, _):
        summary = drive(task(emulator, connect, tmp_path, lane, format=form, max_file_size=2000), context)
    returned = summary["comparison"]
    stores = [JobStore(uri.removesuffix("/manifest.json")) for uri in summary["manifests"]]
    found = [store.read(store.path("comparison.json"), Comparison) for store in stores]
    assert found[0] == found[1] == found[2]
    comparison = found[0]
    assert returned == comparison.model_dump(mode="json", exclude={"pairs"})
    assert comparison.rows == 40
    by_name = {model.name: model for model in comparison.models}
    assert list(by_name) == ["gpt-5-mini", "gpt-5", "claude-haiku-4-5"]
    assert by_name["gpt-5-mini"].shares == {"succeeded": 1.0}
    assert by_name["claude-haiku-4-5"].shares == {"succeeded": 0.9, "invalid": 0.1}
    rights = {name: model.accuracy[0] for name, model in by_name.items()}
    assert (rights["gpt-5-mini"].rows, rights["gpt-5-mini"].share) == (40, 1.0)
    assert (rights["gpt-5"].rows, rights["gpt-5"].right) == (40, 40 - len(WRONG["gpt-5"]))
    answered = 40 - len(REFUSED)
    assert (rights["claude-haiku-4-5"].rows, rights["claude-haiku-4-5"].right) == (answered, answered - 4)
    assert all(model.cost_usd > 0 and 0 <= model.seconds < 60 for model in comparison.models)
    assert sum(model.cost_usd for model in comparison.models) == pytest.approx(summary["cost_usd"])
    [agreement] = comparison.fields
    agreed = {n for n in range(40) if n not in REFUSED and n not in DISPUTED}
    assert (agreement.field, agreement.rows, agreement.share) == ("label", answered, len(agreed) / answered)
    assert 0 < agreement.kappa < 1
    pairs = {pair.models: pair.fields[0] for pair in comparison.pairs}
    assert pairs["gpt-5-mini", "gpt-5"].share == 1 - len(WRONG["gpt-5"]) / 40
    assert len(pairs) == 3
    assert (comparison.answered, comparison.disagreed) == (40, len(DISPUTED))
    log = capsys.readouterr().out
    assert log.count("models compared over 40 rows") == 1
    assert f"They disagree about {len(DISPUTED)} rows" in log
    rows = read_jsonl(comparison.disagreements.removeprefix("file://"))
    check_disagreements(rows)
    assert comparison.disagreements.startswith(f"file://{tmp_path}/out/_disagreements/")


def check_disagreements(rows):
    """In the order of the rows: key, columns, each model's answer, and what they differ in."""
    assert [row["row"] for row in rows] == sorted(DISPUTED)
    for row in rows:
        number = row["row"]
        assert (row["key"], row["gold"], row["note"]) == (f"k{number}", label(number).upper(), f"n{number}")
        expected = {name: said(name, str(number)) for name in ("gpt-5-mini", "gpt-5", "claude-haiku-4-5")}
        assert row["answers"] == {name: answer for name, answer in expected.items() if isinstance(answer, dict)}
        assert row["differ_in"] == ["label"]


def test_a_judge_is_asked_about_what_they_disagree_about(connect, context, tmp_path):
    """The file is the rows of another task; without disagreements that one is skipped; a directory of results is not
    mistaken for it."""
    from airflow.providers.common.compat.sdk import AirflowSkipException

    def answer(model, prompt):
        return said(model, prompt) if prompt.isdigit() else "gpt-5 is right"

    with opinions(answer) as (emulator, bodies):
        summary = drive(task(emulator, connect, tmp_path), context)
        judge = CompletionOperator(
            task_id="judge", rows=summary["comparison"]["disagreements"], key="key", passthrough=["answers"],
            request=ChatRequest("gpt-5.2", user="Who is right about {note}? {answers}", max_tokens=50),
            conn_id="llm_test", destination=f"file://{tmp_path}/judged",
        )  # fmt: skip
        verdicts = judge.execute(next_task(context, "judge"))
        assert verdicts["counts"]["succeeded"] == len(DISPUTED)
        asked = [body["messages"][-1]["content"] for body in bodies if body["model"] == "gpt-5.2"]
        assert all('{"gpt-5-mini":{"label":' in prompt for prompt in asked)
        # The results alone are read from the directory that has both.
        from airflow_llm_batch.data.sources import read_rows

        assert sum(1 for _ in read_rows(f"file://{tmp_path}/out")) == 120
        agreeing = task(emulator, connect, tmp_path, models=MODELS[:2], rows=ROWS[1:4])
        none = drive(agreeing, next_task(context, "agreeing"))
        assert none["comparison"]["disagreed"] == 0
        judge.rows, judge.on_empty = none["comparison"]["disagreements"], "skip"
        with pytest.raises(AirflowSkipException):
            judge.execute(next_task(context, "judge_none"))


def test_texts_are_compared_where_there_is_no_schema(connect, context, tmp_path):
    """Spelling aside; the same model on two connections is told apart."""
    words = {0: ("Paris.", "paris"), 1: ("Rome", "Rome, Italy"), 2: ("yes", "YES!")}
    with (
        opinions(lambda model, prompt: words[int(prompt)][0]) as (one, _),
        opinions(lambda model, prompt: words[int(prompt)][1]) as (two, _),
    ):
        connect(two.url, conn_id="llm_two")
        more = {
            "rows": ROWS[:3],
            "request": ChatRequest("", user="{number}"),
            "passthrough": ["gold"],
        }
        models = ["gpt-5-mini", ("gpt-5-mini", "llm_two")]
        given = {**ASKED, **more, "models": models, "compare": Compare(truth="gold", disagreements=True)}
        given |= {"conn_id": connect(one.url), "destination": f"file://{tmp_path}/out"}
        compared = CompletionOperator(task_id="submit", **given).execute(context)["comparison"]
    assert [model["name"] for model in compared["models"]] == ["gpt-5-mini (llm_test)", "gpt-5-mini (llm_two)"]
    assert [(field["field"], field["rows"], field["share"]) for field in compared["fields"]] == [("", 3, 2 / 3)]
    [row] = read_jsonl(compared["disagreements"].removeprefix("file://"))
    answers = {"gpt-5-mini (llm_test)": "Rome", "gpt-5-mini (llm_two)": "Rome, Italy"}
    assert (row["row"], row["answers"], row["differ_in"]) == (1, answers, [])


def test_vectors_are_not_compared_and_their_models_are(emulator, connect, context, tmp_path):
    """Dollars, seconds and shares; no agreement, and no file of rows that differ."""
    summary = LLMBatchOperator(
        task_id="submit", rows=["a", "b"], request=EmbeddingRequest(dimensions=8), conn_id=connect(emulator.url),
        models=["text-embedding-3-small", "text-embedding-3-large"], destination=f"file://{tmp_path}/out",
    )  # fmt: skip
    compared = drive(summary, context)["comparison"]
    assert (compared["fields"], compared["disagreements"], compared["disagreed"]) == ([], None, 0)
    assert [model["shares"] for model in compared["models"]] == [{"succeeded": 1.0}] * 2


def test_nothing_is_compared_that_was_not_asked_for(connect, context, tmp_path):
    """By choice, of one model, or of a race."""
    with opinions(said) as (emulator, _):
        assert "comparison" not in drive(task(emulator, connect, tmp_path, compare=False), context)
        one = task(emulator, connect, tmp_path, models=(), compare=True, request=ChatRequest("gpt-5", user="{number}"))
        assert "comparison" not in drive(one, next_task(context, "one"))
        race = task(emulator, connect, tmp_path, "online", strategy="fastest", compare=True)
        assert "comparison" not in race.execute(next_task(context, "race"))
        with pytest.raises(ConfigurationError, match="compare is for several models"):
            task(emulator, connect, tmp_path, "online", strategy="fastest")
        with pytest.raises(ConfigurationError, match="compare is for several models"):
            task(emulator, connect, tmp_path, models=())


def test_a_comparison_that_cannot_be_made_is_refused_first(connect, context, tmp_path):
    """A column that is not passed through, a field that is not there: nothing was sent."""
    with opinions(said) as (emulator, bodies):
        for compare, message in (
            (Compare(truth={"label": "golden"}), "golden"),
            (Compare(fields=["labels"]), "labels"),
        ):
            with pytest.raises(ConfigurationError, match=message):
                drive(task(emulator, connect, tmp_path, compare=compare), context)
        assert (bodies, len(emulator.vendor.batches)) == ([], 0)


def test_repaired_rows_are_compared_as_they_were_landed_at_last(connect, context, tmp_path):
    """Rounds of each model, and a task that is run once more: the comparison is of what lies there."""
    asked = set()

    def heals(model, prompt):
        again = (model, prompt) in asked
        asked.add((model, prompt))
        return {"label": label(int(prompt)), "reason": ""} if again or int(prompt) % 2 else "not yet"

    with opinions(heals) as (emulator, bodies):
        given = {"also": ["invalid"], "max_rounds": 2, "rows": ROWS[:10], "models": MODELS[:2]}
        summary = drive(task(emulator, connect, tmp_path, **given), context)
        assert len(bodies) == 30
        again = drive(task(emulator, connect, tmp_path, **given), context)
        assert len(bodies) == 30
    for compared in (summary["comparison"], again["comparison"]):
        assert [model["accuracy"][0]["share"] for model in compared["models"]] == [1.0, 1.0]
        assert (compared["answered"], compared["disagreed"], compared["fields"][0]["rows"]) == (10, 0, 10)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows_that_are_compared(connect, tmp_path):
    """The peak of a comparison of 30,000 rows that all differ is that of 3,000, bits for rows aside."""
    import tracemalloc
    from types import SimpleNamespace

    from airflow_llm_batch.jobs.comparing.compare import Compared, Comparing

    def peak(rows):
        models = []
        for model in "ab":
            folder = tmp_path / f"{rows}-{model}"
            folder.mkdir()
            place = folder / "results-x.jsonl"
            with place.open("w") as file:
                for n in range(rows):
                    record = {"row": n, "key": n, "status": "succeeded", "text": f"{model} {n}", "gold": str(n)}
                    file.write(json.dumps(record) + "\n")
            job = SimpleNamespace(output_schema=None, request={}, columns={"gold": "string"}, created_at=None)
            manifest = SimpleNamespace(
                files=[f"file://{place}"], rows=rows, counts={"succeeded": rows}, cost_usd=1.0, provider="openai",
                destination=f"file://{folder}",
            )  # fmt: skip
            store = SimpleNamespace(job=lambda job=job: job, job_id="x", address=SimpleNamespace(round=1))
            models.append(Compared(model, "c", store, manifest))
        comparing = Comparing(Compare(truth="gold", disagreements=True), models, logging.getLogger())
        comparing.figures = lambda number: None
        tracemalloc.start()
        from airflow_llm_batch.jobs.comparing.agreement import Counted
        from airflow_llm_batch.jobs.directory.rowset import RowSet

        disputed, counted = RowSet(), Counted(2, comparing.fields)
        comparing.count(counted, disputed)
        comparing.land(disputed)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert counted.disagreed == rows
        return most

    few, many = peak(3_000), peak(30_000)
    assert many < few + 2**20, (few, many)
