"""A cheap model answers most rows; a stronger one, and then another vendor's, is asked what is still not good.

Each answer is held to a schema and to a check. A model is shown once what was wrong with its answer; what it does not
mend goes up the ladder, and every rung has what is left of the budget.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Param
from pydantic import BaseModel, Field

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import LLMBatchOperator


class Invoice(BaseModel):
    """What is read from each invoice."""

    net: float = Field(ge=0)
    tax: float = Field(ge=0)
    total: float = Field(ge=0)


def adds_up(output: dict[str, Any], row: dict[str, Any]) -> str | None:
    """Whether an invoice's amounts do."""
    difference = abs(output["net"] + output["tax"] - output["total"])
    return None if difference < 0.01 else f"net and tax are {difference:.2f} off the total"


with DAG(
    dag_id="ladder_of_models",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "other_conn_id": Param("anthropic_default", type="string", description="Another vendor's."),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Has invoices.jsonl: id and text."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    LLMBatchOperator(
        task_id="read",
        conn_id="{{ params.conn_id }}",
        rows="{{ params.data }}/invoices.jsonl",
        key="id",
        request=ChatRequest("gpt-5-mini", user="Read this invoice.\n\n{text}", output=Invoice, max_tokens=200),
        checks=[adds_up],
        also=["invalid"],
        max_rounds=2,
        show_error=True,
        then=["gpt-5", ("claude-haiku-4-5", "{{ params.other_conn_id }}")],
        max_cost=5,
        fail_on="none",
        destination="{{ params.data }}/invoices/{{ run_id }}",
        poll_interval=2,
    )
