"""Failed rows are asked again, and only they: in one task, and step by step.

``translate`` is one deferrable task that submits, waits, lands and repairs, up to three rounds. ``submit`` to
``fetch_again`` do the same with one repair in tasks of their own. Either way there is one complete set of results: what
a row's last round gave takes the place of what was landed of it before.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param, task

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

REQUEST = ChatRequest(model="{{ params.model }}", system="Translate into French.", user="{text}", max_tokens=60)


def phrases() -> list[dict]:
    """Sample rows; the same at every try, so that a retried task takes up what was sent."""
    things = ["the bridge", "a letter", "our garden", "the last train", "some bread"]
    verbs = ["I am looking for", "Have you seen", "We forgot", "They painted", "Nobody mentioned"]
    return [
        {"phrase": 10 * v + t, "text": f"{verb} {thing}."}
        for v, verb in enumerate(verbs)
        for t, thing in enumerate(things)
    ]


with DAG(
    dag_id="repair_rounds",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where translations are landed."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:

    @task.llm_rows(
        conn_id="{{ params.conn_id }}",
        key="phrase",
        request=REQUEST,
        destination="{{ params.data }}/one_task/{{ run_id }}",
        max_rounds=3,
        also=["truncated"],
        fail_on=0.05,
        poll_interval=2,
    )
    def translate() -> list[dict]:
        return phrases()

    translate()

    steps = {"conn_id": "{{ params.conn_id }}"}
    landed = {"destination": "{{ params.data }}/step_by_step/{{ run_id }}"}

    submit = SubmitBatchOperator(task_id="submit", rows=phrases(), key="phrase", request=REQUEST, **steps)
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)
    fetch = FetchResultsOperator(task_id="fetch", job=wait.output, fail_on="none", **landed)

    submit_again = SubmitBatchOperator(
        task_id="submit_again", rows=FailedRows(fetch.output, also=["truncated"]), **steps
    )
    wait_again = BatchSensor(task_id="wait_again", job=submit_again.output, poke_interval=2)
    FetchResultsOperator(task_id="fetch_again", job=wait_again.output, fail_on=0.05, **landed)
