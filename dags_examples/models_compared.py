"""Two models sort the same tickets; where they disagree a third one judges.

``ask`` sends every ticket to both models, in a batch each. Answers are validated as ``Sorted``, its validators
included, and by a check over the row; what does not pass is ``invalid`` and asked once more. Then the models are
compared: agreement and kappa, accuracy against the desk that people have chosen, shares by status, dollars and seconds,
in the log, on the page of the jobs and in the task's return value. ``judge`` calls another model about the tickets on
which the two differ, and is skipped when there are none.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from airflow.sdk import DAG, Param
from pydantic import BaseModel, field_validator

from airflow_llm_batch.data import ChatRequest, Compare
from airflow_llm_batch.operators import CompletionOperator, LLMBatchOperator

Desk = Literal["billing", "delivery", "returns"]


class Sorted(BaseModel):
    desk: Desk
    why: str

    @field_validator("why")
    @classmethod
    def short(cls, why: str) -> str:
        if len(why) > 300:
            raise ValueError(f"the reason has {len(why)} characters, and 300 are enough")
        return why.strip()


class Verdict(BaseModel):
    desk: Desk


def names_no_customer(output: dict, row: dict) -> str | None:
    """A check sees the answer and the row's pass-through columns; it returns what is wrong, or nothing."""
    return f"the reason names {row['customer']}" if row["customer"] in output["why"] else None


TICKETS = [
    {"ticket": number, "customer": customer, "text": text, "chosen": desk}
    for number, (customer, text, desk) in enumerate(
        [
            ("Okafor", "I was charged twice for one lamp.", "billing"),
            ("Lindqvist", "The parcel is a week late.", "delivery"),
            ("Moreau", "The chair does not fit, how do I send it back?", "returns"),
            ("Tanaka", "The refund for what I sent back is missing.", "billing"),
            ("Haddad", "It came broken, and the courier left it in the rain.", "delivery"),
        ],
        start=1,
    )
]

with DAG(
    dag_id="models_compared",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "other_conn_id": Param("llm_batch_default", type="string", description="Of the other model."),
        "other_model": Param("gpt-5-nano", type="string"),
        "judge": Param("gpt-5", type="string", description="Asked where the two differ, on the first connection."),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the answers are landed."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    ask = LLMBatchOperator(
        task_id="ask",
        rows=TICKETS,
        key="ticket",
        passthrough={"ticket_text": "text", "customer": "customer", "chosen": "chosen"},
        conn_id="{{ params.conn_id }}",
        models=["{{ params.model }}", ("{{ params.other_model }}", "{{ params.other_conn_id }}")],
        request=ChatRequest(
            system="Sort support tickets to the desk that can settle them.",
            user="{text}",
            output=Sorted,
            max_tokens=300,
        ),
        checks=[names_no_customer, "output.why|length > 0"],
        also=["invalid"],
        max_rounds=2,
        # The desk is compared; no two models give a reason in the same words.
        compare=Compare(truth={"desk": "chosen"}, fields=["desk"], disagreements=True),
        destination="{{ params.data }}/sorted/{{ run_id }}",
        poll_interval=2,
    )
    judge = CompletionOperator(
        task_id="judge",
        rows="{{ ti.xcom_pull(task_ids='ask')['comparison']['disagreements'] }}",
        on_empty="skip",
        key="key",
        passthrough=["answers"],
        conn_id="{{ params.conn_id }}",
        request=ChatRequest(
            model="{{ params.judge }}",
            system="Two models have sorted a support ticket differently. Decide which desk can settle it.",
            user="Ticket: {ticket_text}\n\nAnswers: {answers}",
            output=Verdict,
            max_tokens=100,
        ),
        destination="{{ params.data }}/judged/{{ run_id }}",
    )
    ask >> judge
