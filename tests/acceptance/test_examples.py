"""Every feature's example DAG through dag.test(), its output looked at."""

from __future__ import annotations

import json

import pytest
from support import MODELS, ROOT, read_jsonl
from support.airflow_versions import known_bag
from support.opinions import opinions

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.jobs.directory.store import JobStore

pytestmark = pytest.mark.usefixtures("airflow_db")


@pytest.fixture(scope="module")
def bag():
    return known_bag(ROOT / "dags_examples")


def run(bag, name, tmp_path, conn_id, *, state="success", **conf):
    """One run; returns it and the tasks' return values, of a mapped task its last one's."""
    from airflow.sdk import timezone

    dag = bag.dags[name]
    run = dag.test(logical_date=timezone.utcnow(), run_conf={"conn_id": conn_id, "data": f"file://{tmp_path}", **conf})
    assert str(run.state) == state
    tasks = sorted(run.get_task_instances(), key=lambda ti: ti.map_index)
    returned = {ti.task_id: ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index) for ti in tasks}
    for summary in returned.values():
        check_estimate(name, summary)
    return run, returned


def check_estimate(name, summary):
    """What was estimated lies within five percent of what was billed; the emulator sees no more of a picture than that
    there is one, and a server that answers for it counts no tokens."""
    error = summary.get("input_error_percent") if isinstance(summary, dict) else None
    if error is not None and name not in ("vision", "models_compared", "ladder_of_models"):
        assert abs(error) <= 5, (name, summary["message"])
        SEEN.add(name)


#: examples whose estimates were looked at
SEEN = set()


def landed(tmp_path):
    return [row for path in sorted(tmp_path.rglob("results-*.jsonl")) for row in read_jsonl(path)]


def test_structured_extraction_lands_typed_columns(bag, provider, connect, tmp_path):
    """Nested structs of the model's types, one per mail, by its key; every answer fits the schema."""
    import pyarrow.dataset as ds

    with Emulator(duration=0.2) as emulator:
        run(bag, "structured_extraction", tmp_path, connect(emulator.url, provider), model=MODELS[provider])
    table = ds.dataset([str(path) for path in tmp_path.rglob("*.parquet")]).to_table()
    output = table.schema.field("output").type
    assert str(output.field("items").type.value_type.field("quantity").type) == "int64"
    assert str(output.field("urgent").type) == "bool"
    rows = table.to_pylist()
    assert sorted(row["key"] for row in rows) == [1, 2, 3, 4]
    for row in rows:
        assert row["status"] == "succeeded"
        assert json.loads(row["text"]) == row["output"]
        assert all(item["quantity"] >= 0 for item in row["output"]["items"])


def test_embeddings_land_as_lists_of_float32(bag, connect, tmp_path):
    """256 float32 a row, beside what was passed through."""
    import pyarrow.parquet as pq

    with Emulator(duration=0.2) as emulator:
        run(bag, "embeddings_to_parquet", tmp_path, connect(emulator.url))
    [path] = tmp_path.rglob("*.parquet")
    table = pq.read_table(path)
    assert str(table.schema.field("embedding").type) == "list<element: float>"
    assert {row["key"]: row["price"] for row in table.to_pylist()} == {
        "LAMP-3": 39.5, "DESK-1": 649.0, "CHR-9": 289.0, "MUG-2": 14.0,
    }  # fmt: skip
    assert all(any(row["embedding"]) for row in table.to_pylist())


def test_vision_sends_each_rows_picture(bag, provider, connect, tmp_path):
    """The image is part of the request that reaches the vendor, in the vendor's own spelling."""
    with Emulator(duration=0.2) as emulator:
        conn_id = connect(emulator.url, provider)
        _, returned = run(bag, "vision", tmp_path, conn_id, model=MODELS[provider])
        [batch] = emulator.vendor.batches.values()
        sent = [json.loads(line) for line in batch.lines.read_bytes().splitlines()]
    assert returned["fetch"]["counts"]["succeeded"] == 2
    rows = {row["key"]: row["text"] for row in landed(tmp_path)}
    assert "harbour" in rows["pier.jpg"]
    if provider in ("openai", "azure"):
        images = [line["body"]["messages"][-1]["content"][1]["image_url"]["url"][:22] for line in sent]
        assert images == ["data:image/png;base64,", "https://example.com/ph"]
    elif provider == "gemini":
        images = [list(line["request"]["contents"][-1]["parts"][1]) for line in sent]
        assert images == [["inlineData"], ["fileData"]]
    else:
        images = [line["params"]["messages"][-1]["content"][1]["source"]["type"] for line in sent]
        assert images == ["base64", "url"]


def test_tools_land_parsed_calls_that_the_last_task_reads(bag, provider, connect, tmp_path):
    """Each call with its ticket, arguments that fit the function's schema."""
    with Emulator(duration=0.2) as emulator:
        _, returned = run(bag, "tools", tmp_path, connect(emulator.url, provider), model=MODELS[provider])
    assert [(call["ticket"], call["name"]) for call in returned["act"]] == [("T-1", "refund"), ("T-2", "refund")]
    for call in returned["act"]:
        assert call["arguments"]["reason"] in ("lost", "broken", "unwanted")
        assert isinstance(call["arguments"]["order"], str)


def test_repair_rounds_ask_failed_rows_again(bag, provider, connect, tmp_path):
    """Both ways: complete after the repair, 25 rows paid once each, only the failed ones in the second batches."""
    with Emulator(duration=0.3, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, provider)
        _, returned = run(bag, "repair_rounds", tmp_path, conn_id, model=MODELS[provider])
        totals = [batch.total for batch in emulator.vendor.batches.values()]
        billed = sum(batch.total - sum(batch.fates) for batch in emulator.vendor.batches.values())
    for task_id, folder in (("translate", "one_task"), ("fetch_again", "step_by_step")):
        assert returned[task_id]["counts"]["succeeded"] == 25
        rows = landed(tmp_path / folder)
        assert sorted(row["key"] for row in rows) == sorted(10 * v + t for v in range(5) for t in range(5))
        assert {row["round"] for row in rows} <= {1, 2}
    # Rows heal over both jobs together: whichever asks a row first fails, and has to ask it again.
    assert len(totals) in (3, 4)
    assert sorted(totals)[-2:] == [25, 25]
    assert billed == 50


def test_the_cost_guard_estimates_approves_and_holds(bag, connect, tmp_path):
    """Approved: landed within the estimate. Not approved: red, and nothing was sent."""
    with Emulator(duration=0.2) as emulator:
        conn_id = connect(emulator.url)
        _, returned = run(bag, "cost_guard", tmp_path, conn_id)
        assert 0 < returned["fetch"]["cost_usd"] < returned["approve"] < 0.05
        assert returned["approve"] == pytest.approx(returned["fetch"]["estimated_cost_usd"])
        assert len(emulator.vendor.batches) == 1
        run(bag, "cost_guard", tmp_path, conn_id, state="failed", max_cost=0.0001)
        assert len(emulator.vendor.batches) == 1


def test_partitions_land_as_one_set(bag, connect, tmp_path):
    """Four mapped tasks of one source: every row once, one manifest of all, and the budget as one."""
    with Emulator(duration=0.2) as emulator:
        dag_run, returned = run(bag, "one_set_of_partitions", tmp_path, connect(emulator.url))
        assert len(emulator.vendor.batches) == 4
    report = returned["report"]
    assert (report["partitions"], report["rows"], report["counts"]["succeeded"]) == (4, 500, 500)
    rows = [row for file in report["files"] for row in read_jsonl(file)]
    assert sorted(row["key"] for row in rows) == sorted(f"c-{n}" for n in range(500))
    assert len({row["row"] for row in rows}) == 500
    [beside] = tmp_path.rglob("_manifest-*.json")
    assert json.loads(beside.read_bytes())["rows"] == 500
    parts = [ti for ti in dag_run.get_task_instances() if ti.task_id == "ask"]
    assert {(ti.map_index, ti.xcom_pull(task_ids="ask", map_indexes=ti.map_index)["partition"]) for ti in parts} == {
        (index, f"{index}/4") for index in range(4)
    }


def test_assets_trigger_a_consumer_with_the_manifests_summary(bag, connect, tmp_path):
    """The event's extra says what was landed, and the consumer reads it."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with Emulator(duration=0.2) as emulator:
        _, returned = run(bag, "assets_producer", tmp_path, connect(emulator.url))
    summary = returned["fetch"]
    with create_session() as session:
        query = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        query = query.where(AssetModel.name == "llm_batch_example_summaries").order_by(AssetEvent.id.desc())
        event = session.scalars(query).first()
        assert event.extra["rows"] == 2
        assert event.extra == {**event.extra, **summary}
    _, returned = run(bag, "assets_consumer", tmp_path, "x")
    assert returned["use"]["files"] == summary["files"]
    assert returned["use"]["message"].startswith("2 rows landed: 2 succeeded; $0.0000")


def test_housekeeping_removes_nothing_that_is_young(bag, connect, tmp_path):
    """The weekly DAG runs as it is."""
    with Emulator(duration=0.2) as emulator:
        made, _ = run(bag, "assets_producer", tmp_path, connect(emulator.url))
        store = JobStore(JobAddress.of_task(None, "assets_producer", made.run_id, "submit", -1).uri)
        _, cleaned = run(bag, "llm_batch_housekeeping", tmp_path, "x")
    assert store.manifest() is not None
    assert cleaned["clean_up"]["removed"] == []
    assert cleaned["clean_up"]["kept"] >= 1


def test_openlineage_facets_name_sources_and_row_counts(bag, connect, tmp_path):
    """What Airflow's OpenLineage provider extracts from the fetching task: inputs, outputs, rows."""
    from airflow.providers.openlineage.extractors.base import DefaultExtractor

    from airflow_llm_batch.operators import FetchResultsOperator

    with Emulator(duration=0.2) as emulator:
        conn_id = connect(emulator.url)
        _, facet = run(bag, "nightly_review_labels", tmp_path, conn_id, reviews=30)
        operator = FetchResultsOperator(task_id="fetch", job=facet["wait"], destination=f"file://{tmp_path}/again")
        assert DefaultExtractor(operator).extract_on_complete(None) is None
        summary = operator.execute({})
    lineage = DefaultExtractor(operator).extract_on_complete(None)
    [source], [target] = lineage.inputs, lineage.outputs
    assert (source.namespace, source.name.rpartition("/")[2]) == ("file", "reviews.jsonl")
    assert (target.namespace, target.name) == ("file", f"{tmp_path}/again")
    assert target.outputFacets["outputStatistics"].rowCount == 30
    from openlineage.client.serde import Serde

    facet = json.loads(Serde.to_json(lineage.run_facets["llm_batch"]))
    assert facet["provider"] == "openai"
    assert {name: facet[name] for name in ("rows", "input_tokens", "cost_usd")} == {
        name: summary[name] for name in ("rows", "input_tokens", "cost_usd")
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_only_rows_that_the_table_does_not_answer_are_asked(bag, connect, tmp_path, monkeypatch, request, kind):
    """The first run asks all, a second what came since and what failed, a third nothing."""
    from airflow.providers.common.sql.hooks.sql import DbApiHook

    own = json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/warehouse.db"})
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", own if kind == "sqlite" else request.getfixturevalue("postgres"))
    hook = DbApiHook.get_hook("warehouse")

    def reviews(first, last):
        values = ", ".join(f"({n}, 'Review {n}', '2026-01-01 00:00:00')" for n in range(first, last))
        hook.run(f"insert into reviews values {values}")

    hook.run("create table reviews (id bigint primary key, text text, written_at timestamp)", autocommit=True)
    reviews(0, 20)
    hook.run("insert into reviews values (99, 'Not yet', '2999-01-01 00:00:00')")
    with Emulator(duration=0.2, faults={"row_errors": 0.3, "heal": 3}) as emulator:
        conn_id = connect(emulator.url)
        asked = []
        for start in (None, 20, None, None):
            if start:
                reviews(start, start + 10)
            before = sum(batch.total for batch in emulator.vendor.batches.values())
            run(bag, "only_new_rows", tmp_path, conn_id)
            asked.append(sum(batch.total for batch in emulator.vendor.batches.values()) - before)
    rows = hook.get_records("select id, topic, stars, status from review_labels order by id")
    assert [row[0] for row in rows] == list(range(30))
    assert {row[3] for row in rows} == {"succeeded"}
    assert all(row[1] and 1 <= row[2] <= 5 for row in rows)
    assert asked[0] >= 20
    assert 10 <= asked[1] < 30
    assert asked[-1] == 0


@pytest.mark.parametrize("name", ["small_work", "fastest_model", "compare_models"])
def test_the_online_lane_answers_without_a_batch(bag, provider, connect, tmp_path, name):
    """Called, raced, compared: one record per row, or per row and model, each with its own question's answer."""
    other = "openai" if provider == "anthropic" else "anthropic"
    with Emulator(duration=60) as emulator:
        conf = {
            "model": MODELS[provider],
            "other_model": MODELS[other],
            "other_conn_id": connect(emulator.url, other, conn_id="llm_other"),
        }
        _, returned = run(bag, f"online_{name}", tmp_path, connect(emulator.url, provider), **conf)
        assert not emulator.vendor.batches
    rows = landed(tmp_path)
    assert returned["ask"]["counts"]["succeeded"] == len(rows) == (20 if name == "compare_models" else 10)
    assert {row["key"] for row in rows} == set(range(3, 13))
    assert all(row["text"] == f"Name a city with {row['key']} letters." for row in rows)
    assert len({row["model"] for row in rows}) == (
        2 if name == "compare_models" else len({row["model"] for row in rows})
    )


def test_models_are_compared_and_a_judge_decides_where_they_differ(bag, connect, tmp_path):
    """The class and the check of the DAG file hold in every task; two tickets are judged, and none when all agree."""

    def said(model, prompt):
        if model == "gpt-5":
            return {"desk": "returns"}
        if model == "gpt-5-mini" and "week late" in prompt:
            return {"desk": "delivery", "why": "Lindqvist waits"}
        return {"desk": "billing" if "refund" in prompt or model == "gpt-5-nano" else "delivery", "why": " so it is "}

    with opinions(said) as (emulator, bodies):
        conf = {"other_conn_id": connect(emulator.url, conn_id="llm_other")}
        _, returned = run(bag, "models_compared", tmp_path, connect(emulator.url), **conf)
        assert [model["counts"]["invalid"] for model in returned["ask"]["comparison"]["models"]] == [1, 0]
        # Ten, the one that names a customer once more, and the judge's.
        assert len(bodies) == 11 + returned["judge"]["rows"] == 14
        comparison = returned["ask"]["comparison"]
        assert [(field["field"], field["rows"], field["share"]) for field in comparison["fields"]] == [
            ("desk", 4, 0.25)
        ]
        assert [model["accuracy"][0]["right"] for model in comparison["models"]] == [2, 2]
        rows = landed(tmp_path / "sorted")
        assert {row["output"]["why"] for row in rows if row["status"] == "succeeded"} == {"so it is"}
        [bad] = [row for row in rows if row["status"] == "invalid"]
        assert bad["error_message"] == "names_no_customer: the reason names Lindqvist"
        assert {row["output"]["desk"] for row in landed(tmp_path / "judged")} == {"returns"}
        _, returned = run(bag, "models_compared", tmp_path, "llm_test", **{**conf, "other_model": "gpt-5-mini"})
        assert returned["judge"] is None
        assert returned["ask"]["comparison"]["disagreed"] == 0


@pytest.mark.slow
def test_the_deadline_is_kept_in_a_dag(bag, connect, tmp_path):
    """A batch that would take a minute: cancelled after ten seconds, the rest called, the set complete."""
    with Emulator(duration=40) as emulator:
        _, returned = run(bag, "online_deadline_kept", tmp_path, connect(emulator.url))
        [batch] = emulator.vendor.batches.values()
        called = emulator.vendor.calls["POST /v1/chat/completions"]
        assert batch.cancelled_at is not None
    rows = landed(tmp_path)
    assert sorted(row["key"] for row in rows) == list(range(3, 13))
    assert returned["fetch"]["counts"]["succeeded"] == 10
    assert 0 < called <= 10


def test_the_second_night_pays_for_what_has_changed(bag, connect, tmp_path):
    """Two runs of the example: the second asks one ticket, and the tidied cache has every answer."""
    tickets = [{"id": n, "text": f"ticket {n % 8}"} for n in range(10)]
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for changed in ([], [{"id": 10, "text": "new"}]):
            (tmp_path / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tickets + changed))
            _, returned = run(bag, "answers_bought_once", tmp_path, conn_id)
        assert [batch.total for batch in emulator.vendor.batches.values()] == [8, 1]
    assert returned["label"]["spared"] == {"known": 10}
    assert returned["tidy"]["answers"] == 9
    assert len(landed(tmp_path)) == 21


def test_a_ladder_stops_where_the_answers_are_good(bag, connect, tmp_path):
    """A cheap model reads some invoices right, and is shown what was wrong with the others in vain: the next one is
    asked for those; the third is not needed."""

    def said(model, prompt):
        good = model.startswith("gpt-5-2") or model == "gpt-5" or prompt.endswith(("0", "3"))
        return {"net": 1.0, "tax": 0.2, "total": 1.2 if good else 9}

    invoices = [{"id": n, "text": f"invoice {n}"} for n in range(5)]
    (tmp_path / "invoices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in invoices))
    with opinions(said) as (emulator, bodies):
        conf = {"other_conn_id": connect(emulator.url, "anthropic", conn_id="llm_other")}
        _, returned = run(bag, "ladder_of_models", tmp_path, connect(emulator.url), **conf)
    assert [body["model"] for body in bodies] == ["gpt-5-mini"] * 8 + ["gpt-5"] * 3
    shown = bodies[-1]["messages"]
    assert [turn["role"] for turn in shown] == ["user", "assistant"] * 2 + ["user"]
    assert "7.80 off the total" in shown[-1]["content"]
    assert returned["read"]["counts"]["succeeded"] == 5
    assert sorted((row["row"], row["round"]) for row in landed(tmp_path)) == [(0, 1), (1, 3), (2, 3), (3, 1), (4, 3)]
