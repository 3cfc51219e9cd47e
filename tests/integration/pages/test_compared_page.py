"""The page of a job of several models has their comparison, and a table of it."""

from __future__ import annotations

import pytest
from support.opinions import opinions
from support.tasks import drive, operator

from airflow_llm_batch.data import ChatRequest, Compare
from airflow_llm_batch.jobs.directory.store import JobStore

pytestmark = pytest.mark.usefixtures("airflow_db")
MODELS = ["gpt-5-mini", "gpt-5", "gpt-5-nano"]


def said(model, prompt):
    return "even" if int(prompt) % 2 == 0 or model == "gpt-5" else "odd"


def test_each_models_page_has_all_models_figures(site, connect, context, storage, tmp_path):
    """Agreement of all, and of each two; accuracy; shares. What was not compared has none."""
    rows = [{"id": n, "text": str(n), "gold": "odd" if n % 2 else "even"} for n in range(10)]
    given = {"rows": rows, "passthrough": ["gold"], "request": ChatRequest("", user="{text}"), "storage": storage}
    with opinions(said) as (emulator, _):
        conn_id = connect(emulator.url)
        compared = operator(conn_id, tmp_path, models=MODELS, compare=Compare(truth="gold"), **given)
        summary = drive(compared, context)
        given["request"] = ChatRequest("gpt-5", user="{text}")
        context["ti"].run_id = "alone"
        alone = drive(operator(conn_id, tmp_path / "alone", **given), context)
    pages = [page_of(site, uri) for uri in summary["manifests"]]
    assert pages[0]["comparison"] == pages[1]["comparison"] == pages[2]["comparison"]
    compared = pages[0]["comparison"]
    assert [(model["name"], model["accuracy"][0]["share"]) for model in compared["models"]] == [
        ("gpt-5-mini", 1.0), ("gpt-5", 0.5), ("gpt-5-nano", 1.0),
    ]  # fmt: skip
    assert [(field["field"], field["rows"], field["share"]) for field in compared["fields"]] == [("", 10, 0.5)]
    shares = {tuple(pair["models"]): pair["fields"][0]["share"] for pair in compared["pairs"]}
    assert shares == {tuple(MODELS[:2]): 0.5, (MODELS[0], MODELS[2]): 1.0, tuple(MODELS[1:]): 0.5}
    assert (compared["answered"], compared["disagreed"], compared["disagreements"]) == (10, 5, None)
    assert page_of(site, alone["manifest"])["comparison"] is None


def page_of(site, manifest):
    key = JobStore(manifest.removesuffix("/manifest.json")).address.key
    return site.get(f"job/{key.dag_id}/{key.run_id}/{key.task_id}/{key.place}")


def test_a_page_names_what_answers_have_to_pass(site, connect, storage, context, tmp_path):
    """The checks as they were planned, or as the rows were landed under."""
    with opinions(lambda model, prompt: "x") as (emulator, _):
        given = {"rows": [{"id": 1, "text": "a"}], "passthrough": None, "storage": storage}
        task = operator(connect(emulator.url), tmp_path, checks=["row.text|length < 9"], **given)
        assert page_of(site, drive(task, context)["manifest"])["rules"] == {
            "output_class": None, "checks": ["row.text|length < 9"],
        }  # fmt: skip
