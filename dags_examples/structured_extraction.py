"""Facts out of free text, as typed Parquet columns.

The Pydantic model is the request's ``output``: its schema goes with every request, every answer is checked against it,
and the results have a nested column of its type. An answer that does not fit is landed as ``invalid``, with the reason.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, Param
from pydantic import BaseModel, Field

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor


class Item(BaseModel):
    description: str
    quantity: int = Field(ge=0)


class Order(BaseModel):
    customer: str
    items: list[Item]
    urgent: bool
    deliver_to: str | None


# Yours come from a URI, a query or an upstream task.
MAILS = [
    {"mail_id": 1, "text": "Please send 3 desk lamps to our Lyon office, as soon as you can. Marta, Atelier Sud"},
    {"mail_id": 2, "text": "Hello, Beck & Sons again: forty boxes of envelopes and two staplers, no hurry."},
    {"mail_id": 3, "text": "We would like one standing desk (oak). Ship it to Dock 4, Rotterdam. Regards, Noor"},
    {"mail_id": 4, "text": "URGENT: twelve headsets for the support team in Porto! - Ines"},
]

with DAG(
    dag_id="structured_extraction",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the orders are landed."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        rows=MAILS,
        key="mail_id",
        request=ChatRequest(
            model="{{ params.model }}", system="Extract the order.", user="{text}", output=Order, max_tokens=500
        ),
    )
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)
    FetchResultsOperator(
        task_id="fetch", job=wait.output, destination="{{ params.data }}/orders/{{ run_id }}", format="parquet"
    )
