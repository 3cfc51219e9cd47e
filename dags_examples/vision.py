"""What is on the picture: images by URL or inline, one request per row, for either vendor.

The message is written in OpenAI's format; for Anthropic it is translated. ``{image}`` is a column: a URL that the
vendor can reach, or a ``data:`` URI.
"""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, Param, task

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

with DAG(
    dag_id="vision",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("gpt-5-mini", type="string"),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the captions are landed."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:

    @task
    def pictures() -> list[dict]:
        """Small ones are sent inline; many or large ones better lie where the vendor can fetch them."""
        red_dot = (
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO"
            "9TXL0Y4OHwAAAABJRU5ErkJggg=="
        )
        return [
            {"photo": "dot.png", "image": red_dot, "place": "a test pattern"},
            {"photo": "pier.jpg", "image": "https://example.com/photos/pier.jpg", "place": "a harbour"},
        ]

    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        rows=pictures(),
        key="photo",
        request=ChatRequest(
            model="{{ params.model }}",
            messages=[
                {"role": "system", "content": "Describe the picture in one sentence for somebody who cannot see it."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "Taken at {place}."},
                        {"type": "image_url", "image_url": {"url": "{image}"}},
                    ],
                },
            ],
            max_tokens=200,
        ),
    )
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)
    FetchResultsOperator(task_id="fetch", job=wait.output, destination="{{ params.data }}/captions/{{ run_id }}")
