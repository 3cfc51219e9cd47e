"""Mapped tasks of which one has nothing to ask."""

from __future__ import annotations

import pytest
from support import read_jsonl
from support.tasks import run_dag

from airflow_llm_batch.emulator import Emulator

HEAD = """
from airflow.sdk import DAG, task_group
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

ROWS = [["a"], [], ["b", "c"]]
ASKED = {"conn_id": "llm_test", "on_empty": "skip", "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=9)}
OUT = {"destination": "file://PLACE/out"}

with DAG("one_is_empty"):
"""
WAYS = {
    "operators": """
    submit = SubmitBatchOperator.partial(task_id="submit", **ASKED).expand(rows=ROWS)
    wait = BatchSensor.partial(task_id="wait", poke_interval=0.05).expand(job=submit.output)
    FetchResultsOperator.partial(task_id="fetch", **OUT).expand(job=wait.output)
""",
    "group": """
    @task_group
    def each(rows):
        submit = SubmitBatchOperator(task_id="submit", rows=rows, **ASKED)
        wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=0.05)
        FetchResultsOperator(task_id="fetch", job=wait.output, **OUT)

    each.expand(rows=ROWS)
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_one_that_is_empty_leaves_no_other_unfetched(connect, tmp_path, airflow_db, way):
    """Airflow skips every wait after a skipped instance of a mapped task: the run was green, two batches were paid for
    and none was landed. In a mapped group each instance has its own."""
    with Emulator(duration=0) as emulator:
        connect(emulator.url)
        run_dag(tmp_path, HEAD + WAYS[way])
        assert sorted(batch.total for batch in emulator.vendor.batches.values()) == [1, 2]
    rows = [row for path in (tmp_path / "out").glob("*.jsonl") for row in read_jsonl(path)]
    assert [row["status"] for row in rows] == ["succeeded"] * 3
