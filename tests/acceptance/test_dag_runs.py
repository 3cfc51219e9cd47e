"""The example DAGs through Airflow itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import MODELS, ROOT, SECRET, read_jsonl
from support.airflow_versions import known_bag
from support.dialects import DIALECTS

from airflow_llm_batch import demo_vendors
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.emulator.charges import ANSWERED, ASKED
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.providers.registry import provider_class

pytestmark = pytest.mark.usefixtures("airflow_db")
#: of the presets, which are one protocol, one
DEMOS = demo_vendors.VENDORS.keys() - {"openai", "anthropic"} - (demo_vendors.PRESETS.keys() - {"groq"})
#: the share of a call's price that a batch costs at those that tell what they have charged (openrouter.ai/docs, batch
#: API; docs.x.ai, batch API)
TELLING = {"openrouter": 0.5, "xai": 0.8}


def example(name):
    return known_bag(ROOT / "dags_examples").dags[name]


def test_nightly_review_labels_lands_every_review(provider, connect, tmp_path):
    """dag.test(): the sensor defers, its trigger runs, the labels land; one record per review, by its own key."""
    from airflow.sdk import timezone

    with Emulator(duration=1.0, faults={"row_errors": 0.01}) as emulator:
        conn_id = connect(emulator.url, provider, limits={"requests": 400})
        conf = {"conn_id": conn_id, "model": MODELS[provider], "reviews": 1000, "data": f"file://{tmp_path}"}
        run = example("nightly_review_labels").test(logical_date=timezone.utcnow(), run_conf=conf)
        assert str(run.state) == "success"
        assert len(emulator.vendor.batches) == 3
        calls = dict(emulator.vendor.calls)
    assert calls[DIALECTS[provider].creates] == 3
    [reviews] = tmp_path.rglob("reviews.jsonl")
    sent = {row["review_id"]: row["review"] for row in read_jsonl(reviews)}
    landed = [row for path in tmp_path.rglob("results-*.jsonl") for row in read_jsonl(path)]
    assert len(landed) == len(sent) == 1000
    assert {row["key"]: row["review"] for row in landed} == sent
    for row in landed:
        if row["status"] == "succeeded":
            assert row["output"]["sentiment"] in ("positive", "neutral", "negative")
            assert json.loads(row["text"]) == row["output"]
        else:
            assert (row["status"], bool(row["error_code"])) == ("errored", True)
    assert 900 < sum(row["status"] == "succeeded" for row in landed) < 1000


def test_mapped_partitions_land_side_by_side(connect, tmp_path):
    """Three partitions mapped over the three operators: a job and a file each, all rows under one destination."""
    from airflow.sdk import timezone

    with Emulator(duration=0.3) as emulator:
        conf = {"conn_id": connect(emulator.url), "partitions": 3, "data": f"file://{tmp_path}"}
        run = example("mapped_partitions").test(logical_date=timezone.utcnow(), run_conf=conf)
        assert str(run.state) == "success"
        assert [batch.total for batch in emulator.vendor.batches.values()] == [25] * 3
    landed = [row for path in tmp_path.rglob("results-*.jsonl") for row in read_jsonl(path)]
    assert len({row["key"] for row in landed}) == len(landed) == 75


def test_nothing_secret_lies_in_airflows_database_and_logs(connect, tmp_path, capfd):
    """Rendered fields, XComs, trigger rows, logs, job files, results: the planted key is in none of them."""
    from airflow.sdk import timezone
    from airflow.utils.session import create_session
    from sqlalchemy import text

    with Emulator(duration=0.3) as emulator:
        conf = {"conn_id": connect(emulator.url), "reviews": 5, "data": f"file://{tmp_path}"}
        run = example("nightly_review_labels").test(logical_date=timezone.utcnow(), run_conf=conf)
        assert str(run.state) == "success"
    printed = capfd.readouterr()
    assert "5 rows landed" in printed.out + printed.err
    assert SECRET not in printed.out + printed.err
    for root in (tmp_path, Path(os.environ["AIRFLOW_HOME"])):
        for path in root.rglob("*"):
            if path.is_file() and path.suffix not in (".db", ".cfg"):
                assert SECRET.encode() not in path.read_bytes(), path
    with create_session() as session:
        for table in ("rendered_task_instance_fields", "xcom", "trigger", "serialized_dag", "dag_run"):
            for row in session.execute(text(f"select * from {table}")):
                assert SECRET not in repr(row)


def test_the_example_dags_parse_cheaply():
    """Operators in a DAG file load neither HTTP client nor prices nor the engine."""
    code = """
import sys, airflow.sdk
before = set(sys.modules)
import airflow_llm_batch.data, airflow_llm_batch.operators, airflow_llm_batch.sensors
new = set(sys.modules) - before
engine = {"airflow_llm_batch.jobs.directory.store", "airflow_llm_batch.transport", "airflow_llm_batch.providers.base"}
bad = (engine | {"genai_prices", "pyarrow", "fastapi", "sqlite3"}) & new
print(sorted(bad))
sys.exit(bool(bad))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_example_runs_in_a_whole_airflow(tmp_path):
    """airflow standalone: api-server, scheduler, dag-processor and the real triggerer; green, every row landed."""
    home = tmp_path / "demo"
    command = [
        sys.executable,
        "-m",
        "airflow_llm_batch.demo",
        "--ui",
        "--exit",
        "--home",
        str(home),
        "--duration",
        "12",
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + tail(home / "standalone.log")
    assert "The run ended: success." in done.stdout
    assert "password:" in done.stdout
    landed = [row for path in home.rglob("results-*.jsonl") for row in read_jsonl(path)]
    assert sorted(row["row"] for row in landed) == list(range(1200))
    logs = "".join(path.read_text(errors="replace") for path in home.rglob("task_id=wait/*.log*"))
    assert "of 1,200 rows done" in logs
    assert "trigger" in "".join(path.name for path in home.rglob("task_id=wait/*"))


@pytest.mark.slow
@pytest.mark.parametrize("vendor", sorted(DEMOS))
def test_the_demo_speaks_every_vendors_api(tmp_path, vendor):
    """The example DAG through Airflow's task runner, deferral included: each row landed, at what that vendor tells it
    has charged, at the price of its batches where it does not, and at none that is not known."""
    home = tmp_path / "demo"
    command = [sys.executable, "-m", "airflow_llm_batch.demo", "--provider", vendor, "--home", str(home)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    done = subprocess.run(
        [*command, "--rows", "700", "--duration", "2"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    landed = [row for path in home.rglob("results-*.jsonl") for row in read_jsonl(path)]
    assert sorted(row["row"] for row in landed) == list(range(700))
    good = [row for row in landed if row["status"] == "succeeded"]
    assert len(good) > 650
    factor = provider_class(vendor).batch_price_factor
    known = vendor in TELLING or factor is not None
    assert all(row["provider"] == vendor and (row["cost_usd"] is not None) == known for row in good)
    [manifest] = [json.loads(path.read_text()) for path in home.rglob("manifest.json")]
    cost = pytest.approx(sum(row["cost_usd"] for row in good), rel=0.01) if known else None
    assert manifest["cost_usd"] == cost
    if vendor in TELLING:
        paid = sum(row["input_tokens"] * ASKED + row["output_tokens"] * ANSWERED for row in good) / 1e6
        assert cost == paid * TELLING[vendor]
    elif known:
        assert cost == manifest["sync_cost_usd"] * float(factor)


@pytest.mark.parametrize("vendor", sorted(demo_vendors.PRESETS))
def test_the_demo_knows_where_every_preset_is(monkeypatch, emulator, vendor):
    """Its connection is one to that vendor at the emulator, and its batches are listed there."""
    for name, value in demo_vendors.connections(vendor, emulator.url, None).items():
        monkeypatch.setenv(name, value)
    hook = LLMBatchHook()
    assert hook.test_connection()[0], hook.test_connection()
    assert (hook.provider.name, hook.provider.no_batches) == (vendor, None)
    assert emulator.vendor.calls[f"GET {demo_vendors.VENDORS[vendor].path}/batches"] == 1
    hook.close()


def tail(path: Path) -> str:
    return path.read_text(errors="replace")[-3000:] if path.exists() else ""
