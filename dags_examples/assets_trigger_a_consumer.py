"""Landed results as an asset: the consumer runs when they are there, and is told what they are.

The event's extra is the manifest's summary: files, counts, tokens, dollars. The housekeeping of job directories is a
DAG of its own.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Asset, Param, task

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import CleanupJobsOperator, FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

SUMMARIES = Asset("llm_batch_example_summaries")
PARAMS = {
    "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
    "model": Param("gpt-5-mini", type="string"),
    "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the summaries are landed."),
}
MINUTES = [
    {"meeting": "Monday", "text": "We agreed to move the release to the 14th; Ana writes the notes."},
    {"meeting": "Tuesday", "text": "The budget is open. Two quotes came in, a third is expected by Friday."},
]

with DAG(
    dag_id="assets_producer",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    params=PARAMS,
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as producer:
    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        rows=MINUTES,
        key="meeting",
        request=ChatRequest(model="{{ params.model }}", system="Summarize in one sentence.", max_tokens=80),
    )
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)
    FetchResultsOperator(
        task_id="fetch",
        job=wait.output,
        destination="{{ params.data }}/summaries/{{ run_id }}",
        outlets=[SUMMARIES],
    )

with DAG(
    dag_id="assets_consumer",
    schedule=[SUMMARIES],
    start_date=datetime(2026, 1, 1),
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as consumer:

    @task(inlets=[SUMMARIES])
    def use(inlet_events: dict) -> dict:
        """What the event tells is enough to go on with: where the files are, and whether they are any good."""
        landed = inlet_events[SUMMARIES][-1].extra
        return {name: landed[name] for name in ("message", "files", "rows", "cost_usd")}

    use()

with DAG(
    dag_id="llm_batch_housekeeping",
    schedule="@weekly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    doc_md="Removes job directories of results that were landed more than a month ago.",
    tags=["llm-batch", "example"],
) as housekeeping:
    CleanupJobsOperator(task_id="clean_up", older_than=timedelta(days=30))
