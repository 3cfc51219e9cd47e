"""One job per partition of the day's tickets, side by side on as many workers as there are.

find_partitions -> submit (mapped) -> wait (mapped) -> fetch (mapped) -> report. Each partition is a job of its own:
submitted, waited for, landed and retried alone. All waits of a connection share one poll loop.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from airflow.sdk import DAG, ObjectStoragePath, Param, task

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

with DAG(
    dag_id="mapped_partitions",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "partitions": Param(4, type="integer", minimum=1, maximum=1000),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where tickets and answers lie."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:

    @task
    def find_partitions(params: dict, run_id: str) -> list[str]:
        """The day's files, here written on the spot: yours are there already, and only their URIs travel."""
        subjects = ["The invoice", "My parcel", "The app", "A refund", "The password mail"]
        troubles = ["never came.", "came twice.", "is wrong.", "shows an error.", "takes for ever."]
        uris = []
        for number in range(params["partitions"]):
            path = ObjectStoragePath(params["data"]) / "tickets" / run_id / f"part-{number:03}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts = [f"{subject} {trouble}" for subject in subjects for trouble in troubles]
            rows = ({"ticket": f"{number}-{n}", "text": text} for n, text in enumerate(texts))
            path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
            uris.append(str(path))
        return uris

    submit = SubmitBatchOperator.partial(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        key="ticket",
        request=ChatRequest(model="{{ params.model }}", system="Answer the customer.", max_tokens=200),
    ).expand(rows=find_partitions())

    wait = BatchSensor.partial(task_id="wait", poke_interval=2).expand(job=submit.output)

    fetch = FetchResultsOperator.partial(task_id="fetch", destination="{{ params.data }}/answers/{{ run_id }}").expand(
        job=wait.output
    )

    @task
    def report(manifests: list[dict]) -> dict:
        """All partitions together; a mapped task's outputs are read one by one."""
        return {"rows": sum(m["rows"] for m in manifests), "files": [file for m in manifests for file in m["files"]]}

    report(fetch.output)
