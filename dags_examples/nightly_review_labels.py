"""Label last night's product reviews at the batch price.

collect_reviews -> submit -> wait -> fetch. Replace ``collect_reviews`` by whatever exports your rows, or drop it and
give ``SubmitBatchOperator`` the files' URI: ``rows="s3://reviews/{{ ds }}/*.jsonl"``.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import islice, product
from typing import Literal

from airflow.sdk import DAG, ObjectStoragePath, Param, task
from pydantic import BaseModel

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor


class Label(BaseModel):
    """What the model is asked for; its JSON schema goes with every request."""

    sentiment: Literal["positive", "neutral", "negative"]
    topic: Literal["quality", "delivery", "price", "service"]
    wants_reply: bool


with DAG(
    dag_id="nightly_review_labels",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "reviews": Param(1200, type="integer", minimum=1, maximum=10_000, description="How many sample reviews."),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where reviews and labels lie."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:

    @task
    def collect_reviews(params: dict, run_id: str) -> str:
        """Write sample reviews as JSON lines; returns the file's URI, which is all that travels through XCom."""
        openings = ["Two weeks in:", "A gift for my sister.", "Second order.", "Well.", "Bought on a whim."]
        things = ["The kettle", "This backpack", "The desk lamp", "My new keyboard", "The blender", "The tent"]
        verdicts = [
            "works better than I hoped.",
            "broke on the third day.",
            "is exactly as described.",
            "arrived a week late.",
            "feels cheap for what it costs.",
            "is worth every cent.",
            "came without its manual, please send one.",
            "is fine, nothing more.",
        ]
        closings = ["Thanks.", "The box was dented.", "Support was quick.", "I paid full price.", "Three stars."]
        texts = (" ".join(words) for words in product(openings, things, verdicts, closings))
        path = ObjectStoragePath(params["data"]) / "reviews" / run_id / "reviews.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = ({"review_id": f"r-{n:05d}", "review": text} for n, text in enumerate(islice(texts, params["reviews"])))
        path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        return str(path)

    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        rows=collect_reviews(),
        key="review_id",
        passthrough=["review"],
        request=ChatRequest(
            model="{{ params.model }}",
            system="You label product reviews.",
            user="Review: {review}",
            output=Label,
            max_tokens=200,
        ),
    )

    # The first look comes after 2 seconds; the pauses grow with the wait, to 5 minutes.
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)

    FetchResultsOperator(
        task_id="fetch",
        job=wait.output,
        # Every run has a directory of its own: two runs of one date are two result sets.
        destination="{{ params.data }}/labels/{{ run_id }}",
    )
