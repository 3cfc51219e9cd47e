"""A nightly job over a table asks mostly what it asked the night before: with a cache it pays for what has changed.

Rows that ask the same are asked once; what an earlier night was answered is landed again at no cost (``answered_by``
says whose answer it is). ``tidy`` makes the files that the nights have added into few, and forgets what is older than
ninety days.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param

from airflow_llm_batch.data import AnswerCache, ChatRequest
from airflow_llm_batch.operators import CompactAnswersOperator, LLMBatchOperator

CACHE = AnswerCache("{{ params.data }}/answers", max_age=timedelta(days=90), max_bytes=50 * 2**30)

with DAG(
    dag_id="answers_bought_once",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Has tickets.jsonl: id and text."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    label = LLMBatchOperator(
        task_id="label",
        conn_id="{{ params.conn_id }}",
        rows="{{ params.data }}/tickets.jsonl",
        key="id",
        request=ChatRequest("{{ params.model }}", system="Name the topic of the ticket.", user="{text}", max_tokens=50),
        ask_once=True,
        cache=CACHE,
        destination="{{ params.data }}/labels/{{ run_id }}",
    )
    tidy = CompactAnswersOperator(task_id="tidy", cache=CACHE)
    label >> tidy
