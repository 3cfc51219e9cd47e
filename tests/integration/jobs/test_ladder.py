"""What a model has not answered well is asked once more: shown what was wrong, or of a stronger model."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from support import MODELS
from support.tasks import drive, explicit, landed, operator

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.store import JobStore

SMALL, LARGE, OTHER = "gpt-5-mini", "gpt-5", "claude-haiku-4-5"
#: the first row that is not done well by the first, second and third model that is asked
FROM = (4, 7, 9)
ASKED = Counter()


@pytest.fixture(autouse=True)
def _nobody_was_asked():
    ASKED.clear()


def is_able(output, row):
    """The later an answer, the more rows are done well."""
    ASKED[row["key"]] += 1
    return None if row["key"] < FROM[min(ASKED[row["key"]], 3) - 1] else "this model is not able"


def is_better(output, row):
    """Good once the model was shown what was wrong: the emulator says what it was told last."""
    return None if "not accepted" in row["text"] else "say it otherwise"


def ten(**arguments):
    rows = [{"id": n, "text": f"text {n}"} for n in range(10)]
    request = ChatRequest(SMALL, user="{text}", max_tokens=50)
    return {"rows": rows, "request": request, "checks": [is_able], "fail_on": "none", "max_rounds": 1, **arguments}


def batches(emulator):
    return [batch.total for batch in emulator.vendor.batches.values()]


def rounds_of(summary):
    return JobStore(summary["manifest"].removesuffix("/manifest.json")).manifest().rounds


@pytest.mark.parametrize("duration", [0, 0.2])
def test_a_ladder_of_three_models(connect, context, tmp_path, duration):
    """Each rung is asked what the ones before it could not do, another vendor too; records say who has answered, and
    every rung has its cost."""
    with Emulator(duration=duration) as emulator:
        conn_id = connect(emulator.url)
        connect(emulator.url, "anthropic", "claude_conn")
        summary = drive(operator(conn_id, tmp_path, **ten(then=[LARGE, (OTHER, "claude_conn")], max_cost=1.0)), context)
        assert batches(emulator) == [10, 6, 3]
    rows = landed(summary)
    assert [row["row"] for row in rows] == list(range(10))
    assert [row["status"] for row in rows] == ["succeeded"] * 9 + ["invalid"]
    said = [(row["provider"], row["round"]) for row in rows]
    assert said == [("openai", 1)] * 4 + [("openai", 2)] * 3 + [("anthropic", 3)] * 3
    assert [row["text"] for row in rows] == [f"text {n}" for n in range(10)]
    rounds = rounds_of(summary)
    assert [(done.rows, done.succeeded) for done in rounds] == [(10, 10 - 6), (6, 3), (3, 2)]
    assert all(done.cost_usd > 0 for done in rounds)
    assert summary["cost_usd"] == pytest.approx(sum(done.cost_usd for done in rounds))
    assert {usage.model for done in rounds for usage in done.usage} >= {SMALL, LARGE, OTHER}


def test_each_rung_has_its_rounds(connect, context, tmp_path):
    """Two rounds of each model before the next is asked."""
    with Emulator(duration=0) as emulator:
        summary = drive(
            operator(connect(emulator.url), tmp_path, **ten(then=[LARGE], max_rounds=2, also=("invalid",))), context
        )
        assert batches(emulator) == [10, 6, 3, 1]
    rows = landed(summary)
    assert [row["round"] for row in rows] == [1] * 4 + [2] * 3 + [3] * 2 + [4]
    assert [done.usage[0].model for done in rounds_of(summary)] == [SMALL, SMALL, LARGE, LARGE]


def test_the_ladder_ends_where_the_budget_does(connect, context, tmp_path):
    """What is left of max_cost is what a further rung may cost: it is not asked, and nothing is sent."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, prices={LARGE: {"input": 1000, "output": 1000}})
        summary = drive(operator(conn_id, tmp_path, **ten(then=[LARGE], max_cost=0.01)), context)
        assert batches(emulator) == [10]
    assert (summary["counts"]["invalid"], summary["rounds"]) == (6, 1)


def test_a_rung_that_cannot_be_asked_is_left_out(connect, context, tmp_path):
    """What one vendor has no words for goes to the next."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        connect(emulator.url, "anthropic", "claude_conn")
        request = ChatRequest(SMALL, user="{text}", max_tokens=50, params={"seed": 7})
        then = [(OTHER, "claude_conn"), LARGE]
        summary = drive(operator(conn_id, tmp_path, **ten(then=then, request=request)), context)
        assert batches(emulator) in ([10, 6], [10, 6, 1])
    assert summary["counts"]["succeeded"] >= 7


def test_the_second_night_climbs_for_nothing(connect, tmp_path):
    """With a cache, what a stronger model was answered is known; what is asked is what no model did well, and the weak
    one once more."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for number in (1, 2):
            ASKED.clear()
            context = {"ti": SimpleNamespace(dag_id="d", run_id=f"{tmp_path.name}{number}", task_id="t", map_index=-1)}
            arguments = ten(then=[LARGE], cache=f"file://{tmp_path}/answers", destination=f"file://{tmp_path}/{number}")
            summary = drive(operator(conn_id, tmp_path, **arguments), context)
        assert batches(emulator) == [10, 6, 6, 3]
    assert summary["spared"] == {"known": 4 + 3}
    assert summary["counts"] == {**dict.fromkeys(summary["counts"], 0), "succeeded": 7, "invalid": 3}


def test_a_model_is_shown_what_was_wrong(provider, connect, context, tmp_path):
    """Its answer and the reason stand in the conversation, as each vendor's API writes it; nothing else has changed."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, provider)
        summary = drive(
            operator(
                conn_id, tmp_path, provider, rows=[{"id": n, "text": f"text {n}"} for n in range(3)], show_error=True,
                also=("invalid",), checks=[is_better], max_rounds=2,
            ),
            context,
        )  # fmt: skip
        assert batches(emulator) == [3, 3]
    rows = landed(summary)
    assert [row["status"] for row in rows] == ["succeeded"] * 3
    assert all("say it otherwise" in row["text"] for row in rows)
    job = JobStore(summary["manifest"].removesuffix("/manifest.json"))
    lines = job.requests(0, job.job().shards[0].token).read_text()
    assert all(f'"text {n}"' in line for n, line in enumerate(lines.splitlines()))
    assert lines.count("text 0") == 2


def test_it_is_shown_every_answer_that_was_wrong(connect, context, tmp_path):
    """A third round has both answers of those before it."""
    with Emulator(duration=0) as emulator:
        summary = drive(
            operator(connect(emulator.url), tmp_path, **ten(also=("invalid",), show_error=True, max_rounds=3)), context
        )
    job = JobStore(summary["manifest"].removesuffix("/manifest.json"))
    first = json.loads(job.requests(0, job.job().shards[0].token).read_text().splitlines()[0])
    assert [turn["role"] for turn in first["body"]["messages"]] == ["user", "assistant"] * 2 + ["user"]


@pytest.mark.parametrize("portable", [False, True])
def test_failed_rows_of_another_model(connect, context, tmp_path, portable):
    """In tasks of one's own: another model of the same vendor, and of another where what is asked was kept for it."""
    given = ten(portable=portable)
    del given["fail_on"], given["max_rounds"]
    rows = given.pop("rows")

    def task(name):
        return {"ti": SimpleNamespace(**{**vars(context["ti"]), "task_id": name})}

    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        other = connect(emulator.url, "anthropic", "claude_conn")
        failed = explicit(task("first"), conn_id, tmp_path, rows, key="id", **given)
        also = ("invalid",)
        larger = explicit(task("larger"), conn_id, tmp_path, FailedRows(failed, also, model=LARGE))
        assert larger["counts"]["succeeded"] == 7
        if portable:
            best = explicit(task("best"), other, tmp_path, FailedRows(larger, also, model=OTHER, show_error=True))
            assert best["counts"]["succeeded"] == 9
            with pytest.raises(ConfigurationError, match="name one"):
                explicit(task("none"), other, tmp_path, FailedRows(larger, also))
        else:
            with pytest.raises(ConfigurationError, match=r"portable=True.*Nothing was sent"):
                explicit(task("best"), other, tmp_path, FailedRows(larger, also, model=OTHER))
        assert batches(emulator) == [10, 6, 3][: 3 if portable else 2]


def test_what_cannot_be_meant_is_refused(connect, tmp_path):
    with pytest.raises(ConfigurationError, match="leave out models"):
        operator("c", tmp_path, then=[LARGE], models=[SMALL, LARGE])
    with pytest.raises(ConfigurationError, match="list of models"):
        operator("c", tmp_path, then=LARGE)
    with pytest.raises(ConfigurationError, match="models holds"):
        operator("c", tmp_path, then=[5])
    assert MODELS
