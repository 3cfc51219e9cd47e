"""Tickets to tool calls: the model decides which of your functions to call, and with what.

Nothing is called by the vendor. The calls are landed, arguments parsed, in the column ``tool_calls``; the last task
acts on them.
"""

from __future__ import annotations

import json
from datetime import datetime

from airflow.sdk import DAG, ObjectStoragePath, Param, task

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

TICKETS = [
    {"ticket": "T-1", "text": "Order 4711 never arrived, I want my money back."},
    {"ticket": "T-2", "text": "Where is parcel 0815? It should have been here on Monday."},
]
REFUND = {
    "type": "function",
    "function": {
        "name": "refund",
        "description": "Pay an order back.",
        "parameters": {
            "type": "object",
            "properties": {"order": {"type": "string"}, "reason": {"enum": ["lost", "broken", "unwanted"]}},
            "required": ["order", "reason"],
            "additionalProperties": False,
        },
    },
}

with DAG(
    dag_id="tools",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the calls are landed."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        rows=TICKETS,
        key="ticket",
        request=ChatRequest(
            model="{{ params.model }}",
            system="You handle tickets. Call a function where one fits, else answer the customer.",
            user="{text}",
            max_tokens=300,
            params={"tools": [REFUND]},
        ),
    )
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)
    fetch = FetchResultsOperator(task_id="fetch", job=wait.output, destination="{{ params.data }}/calls/{{ run_id }}")

    @task
    def act(manifest: dict) -> list[dict]:
        """Read the landed calls, one file after the other."""
        calls = []
        for file in manifest["files"]:
            for row in map(json.loads, ObjectStoragePath(file).read_bytes().splitlines()):
                calls += [{"ticket": row["key"], **call} for call in row["tool_calls"] or ()]
        return calls

    act(fetch.output)
