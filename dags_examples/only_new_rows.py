"""A table that holds the answers is also what tells which rows have none yet.

``reviews`` grows by the day. The query leaves out what ``review_labels`` answers already (an anti-join), and the
answers are merged into that table by the review's id: the first run asks every row, later ones ask what came since, and
what failed. A night without any is skipped.

A retried task asks what its first try has asked, so the query has to find the same rows again: what came after the run
was due is left to the next one, and what this very run has answered (``llm_batch_job``) still counts as not answered.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, Param
from pydantic import BaseModel, Field

from airflow_llm_batch.data import ChatRequest, Sql, Table
from airflow_llm_batch.operators import LLMBatchOperator


class Label(BaseModel):
    """What is asked of each review."""

    topic: str = Field(description="One or two words.")
    stars: int = Field(ge=1, le=5)


LABELS = """
CREATE TABLE IF NOT EXISTS review_labels (
    id BIGINT NOT NULL PRIMARY KEY, topic TEXT, stars BIGINT, status TEXT, error_message TEXT, model TEXT,
    cost_usd DOUBLE PRECISION, llm_batch_job TEXT
)
"""

UNANSWERED = """
SELECT r.id, r.text FROM reviews AS r
LEFT JOIN review_labels AS l
    ON l.id = r.id AND l.status = 'succeeded' AND l.llm_batch_job <> '{{ dag.dag_id }}/{{ run_id }}/label/-1'
WHERE l.id IS NULL AND r.written_at < '{{ dag_run.run_after.strftime("%Y-%m-%d %H:%M:%S") }}'
ORDER BY r.id
"""

with DAG(
    dag_id="only_new_rows",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    # Two runs at once would ask the same rows.
    max_active_runs=1,
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "database": Param("warehouse", type="string", description="Connection of the database."),
        "model": Param("gpt-5-mini", type="string"),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    make = SQLExecuteQueryOperator(task_id="make_table", conn_id="{{ params.database }}", sql=LABELS)

    label = LLMBatchOperator(
        task_id="label",
        conn_id="{{ params.conn_id }}",
        rows=Sql("{{ params.database }}", UNANSWERED),
        key="id",
        request=ChatRequest(
            model="{{ params.model }}", system="Label the review.", user="{text}", output=Label, max_tokens=200
        ),
        destination=Table(
            "{{ params.database }}",
            "review_labels",
            key="id",
            columns=["output.topic", "output.stars", "status", "error_message", "model", "cost_usd"],
        ),
        on_empty="skip",
        poll_interval=2,
    )

    make >> label
