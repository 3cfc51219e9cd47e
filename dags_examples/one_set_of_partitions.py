"""More rows than one worker is to have: one source, cut into partitions, landed as one set of results.

write_calls -> ask (mapped over partitions) -> report. Each mapped task reads its own part of the source, is a job of
its own and is retried alone. max_cost holds for all of them together, and manifest.json tells of all once the last is
landed. A pool of its own bounds how many upload at once, whichever workers they run on: one slot is one such task.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from airflow.sdk import DAG, ObjectStoragePath, Param, task

from airflow_llm_batch.data import ChatRequest, partitions
from airflow_llm_batch.operators import LLMBatchOperator

with DAG(
    dag_id="one_set_of_partitions",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "calls": Param(500, type="integer", minimum=1, description="Rows; yours are there already."),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where calls and answers lie."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:

    @task
    def write_calls(params: dict, run_id: str) -> str:
        """The source, here two files that are written on the spot."""
        folder = ObjectStoragePath(params["data"]) / "calls" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        subjects = ["The invoice", "My parcel", "The app", "A refund", "The password mail"]
        for half in range(2):
            numbers = range(half, params["calls"], 2)
            rows = ({"call": f"c-{n}", "text": f"{subjects[n % 5]} of order {n} is not there."} for n in numbers)
            (folder / f"part-{half}.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        return str(folder)

    ask = LLMBatchOperator.partial(
        task_id="ask",
        rows=write_calls(),
        key="call",
        request=ChatRequest(model="{{ params.model }}", system="Answer the customer.", max_tokens=50),
        max_cost=5,
        destination="{{ params.data }}/answers/{{ run_id }}",
        conn_id="{{ params.conn_id }}",
        poll_interval=2,
        pool="default_pool",
    ).expand(partition=partitions(4))

    @task
    def report(landed: list[dict]) -> dict:
        """All partitions together, as their one manifest has them."""
        whole = json.loads(ObjectStoragePath(landed[0]["set_manifest"]).read_bytes())
        return {name: whole[name] for name in ("partitions", "rows", "counts", "cost_usd", "files")}

    report(ask.output)
