"""A budget that holds: what a job may cost is known, and approved, before anything is sent.

``estimate`` plans the job and tells what it would cost at most, by model, without sending anything; ``approve`` looks
at the figure; ``submit`` is held to ``max_cost`` whatever was approved, and refuses above it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param, task

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

QUESTIONS = [f"Explain the number {n} to a child." for n in range(1, 101)]

with DAG(
    dag_id="cost_guard",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "max_cost": Param(0.05, type="number", description="Dollars."),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the answers are landed."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    asked = {
        "conn_id": "{{ params.conn_id }}",
        "rows": QUESTIONS,
        # Without a token cap nobody knows what an answer may cost.
        "request": ChatRequest(model="{{ params.model }}", max_tokens=200),
    }
    estimate = SubmitBatchOperator(task_id="estimate", dry_run=True, **asked)

    @task(trigger_rule="none_failed", retries=0)
    def approve(params: dict, **context: dict) -> float:
        """Here a human, a policy, or a limit."""
        by_model = context["ti"].xcom_pull(task_ids="estimate", key="estimate")
        cost = sum(model["cost_usd"] for model in by_model.values())
        if cost > params["max_cost"]:
            raise ValueError(f"The job may cost ${cost:.4f}, above ${params['max_cost']:.4f}. Nothing was sent.")
        return cost

    submit = SubmitBatchOperator(task_id="submit", max_cost="{{ params.max_cost }}", **asked)
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)
    fetch = FetchResultsOperator(task_id="fetch", job=wait.output, destination="{{ params.data }}/numbers/{{ run_id }}")
    estimate >> approve() >> submit
