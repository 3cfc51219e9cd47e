"""Looks are five minutes apart: what happens sooner was the vendor's event."""

from datetime import UTC, datetime

from airflow.sdk import DAG, Asset

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

DONE = Asset("pushed_done")
ASKED = {
    "conn_id": "pushed",
    "rows": [{"text": f"text {n}"} for n in range(20)],
    "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=20),
}

with DAG(dag_id="pushed_submit", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
    SubmitBatchOperator(task_id="submit", completion=DONE, **ASKED)

with DAG(dag_id="pushed_fetch", schedule=[DONE], start_date=datetime(2026, 1, 1, tzinfo=UTC)):
    FetchResultsOperator(
        task_id="fetch",
        job="{{ (triggering_asset_events.values() | first | first).extra.job }}",
        destination="{{ var.value.pushed_data }}/unwaited",
    )

with DAG(dag_id="pushed_wait", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
    submit = SubmitBatchOperator(task_id="submit", **ASKED)
    wait = BatchSensor(task_id="wait", job=submit.output, poll_interval=300, max_poll_interval=300)
    FetchResultsOperator(task_id="fetch", job=wait.output, destination="{{ var.value.pushed_data }}/waited")
