"""Two DAGs and nothing waiting in between: the end of a job is an asset event that starts the DAG which fetches it.

The producer submits and is done. When the batches have ended, by the vendor's event or by the watcher's next look, the
asset is complete and the consumer runs; one run may take several jobs.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, Param, task

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator, completed_jobs
from airflow_llm_batch.triggers import completion_asset

CONN_ID = "llm_batch_default"
ASKED = completion_asset("llm_batch_example_asked", conn_id=CONN_ID)
LETTERS = [{"id": n, "text": f"Letter {n}: please send the invoice of order {1000 + n} once more."} for n in range(30)]

with DAG(
    dag_id="nothing_waits_submit",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    params={
        "letters": Param(30, type="integer", minimum=1, maximum=30),
        "model": Param("gpt-5-mini", type="string"),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as producer:

    @task
    def letters(params: dict) -> list[dict]:
        return LETTERS[: params["letters"]]

    SubmitBatchOperator(
        task_id="submit",
        conn_id=CONN_ID,
        rows=letters(),
        key="id",
        request=ChatRequest(model="{{ params.model }}", system="Answer with the order number.", max_tokens=20),
        completion=ASKED,
    )

with DAG(
    dag_id="nothing_waits_fetch",
    schedule=[ASKED],
    start_date=datetime(2026, 1, 1),
    params={"data": Param("file:///tmp/llm_batch_example", type="string", description="Where the answers are landed.")},
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as consumer:

    @task
    def ended(triggering_asset_events: dict) -> list[dict]:
        return completed_jobs(triggering_asset_events)

    FetchResultsOperator.partial(task_id="fetch", destination="{{ params.data }}/letters").expand(job=ended())
