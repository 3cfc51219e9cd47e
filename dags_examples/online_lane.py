"""Calls instead of batches: for what is small, urgent, compared between models, or due at a fixed hour.

- ``online_small_work`` lets ``lane="auto"`` choose: these few rows are called one by one, at flex where the
  vendor has it for the model, and thousands would be batched.
- ``online_fastest_model`` asks two models for every row and takes the first good answer.
- ``online_compare_models`` asks several and lands a record per row and model, to look at side by side.
- ``online_deadline_kept`` batches at half the price, and calls what is not finished in time.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

QUESTIONS = [{"id": n, "text": f"Name a city with {n} letters."} for n in range(3, 13)]
ASKED = {
    "conn_id": "{{ params.conn_id }}",
    "rows": QUESTIONS,
    "key": "id",
    "request": ChatRequest(model="{{ params.model }}", user="{text}", max_tokens=50),
}
COMMON = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1),
    "default_args": {"retries": 2, "retry_delay": timedelta(seconds=10)},
    "params": {
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "other_conn_id": Param("llm_batch_default", type="string", description="Of the other model."),
        "other_model": Param("gpt-5", type="string"),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the answers are landed."),
    },
    "doc_md": __doc__,
    "tags": ["llm-batch", "example"],
}
MODELS = ["{{ params.model }}", ("{{ params.other_model }}", "{{ params.other_conn_id }}")]

with DAG(dag_id="online_small_work", **COMMON):
    CompletionOperator(
        task_id="ask",
        lane="auto",
        concurrency=8,
        requests_per_minute=600,
        deadline=timedelta(minutes=30),
        destination="{{ params.data }}/small/{{ run_id }}",
        **ASKED,
    )

with DAG(dag_id="online_fastest_model", **COMMON):
    CompletionOperator(
        task_id="ask",
        models=MODELS,
        strategy="fastest",
        destination="{{ params.data }}/fastest/{{ run_id }}",
        **ASKED,
    )

with DAG(dag_id="online_compare_models", **COMMON):
    CompletionOperator(
        task_id="ask",
        models=MODELS,
        strategy="all",
        destination="{{ params.data }}/compare/{{ run_id }}",
        **ASKED,
    )

with DAG(dag_id="online_deadline_kept", **COMMON):
    submit = SubmitBatchOperator(task_id="submit", **ASKED)
    wait = BatchSensor(
        task_id="wait",
        job=submit.output,
        poke_interval=2,
        # At seven in the morning, say; here soon enough to see it.
        deadline=10,
        on_deadline="finish_online",
    )
    FetchResultsOperator(task_id="fetch", job=wait.output, destination="{{ params.data }}/kept/{{ run_id }}")
