"""Embeddings of a catalogue, as Parquet with a list of float32 in each row: what vector stores load as it is."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import DAG, Param

from airflow_llm_batch.data import EmbeddingRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

# Yours come from a URI ("s3://catalogue/*.parquet"), of which only the named columns are read.
PRODUCTS = [
    {"sku": "LAMP-3", "title": "Desk lamp", "description": "Bends wherever you need light.", "price": 39.5},
    {"sku": "DESK-1", "title": "Standing desk", "description": "Oak, 160 x 80 cm, quiet motor.", "price": 649.0},
    {"sku": "CHR-9", "title": "Office chair", "description": "Breathes, tilts, lasts.", "price": 289.0},
    {"sku": "MUG-2", "title": "Mug", "description": "Keeps 0.4 l warm through a meeting.", "price": 14.0},
]

with DAG(
    dag_id="embeddings_to_parquet",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2},
    params={
        "conn_id": Param("llm_batch_default", type="string", description="Connection of type llmbatch."),
        "model": Param("text-embedding-3-small", type="string"),
        "dimensions": Param(256, type="integer", minimum=1),
        "data": Param("file:///tmp/llm_batch_example", type="string", description="Where the vectors are landed."),
    },
    doc_md=__doc__,
    tags=["llm-batch", "example"],
) as dag:
    submit = SubmitBatchOperator(
        task_id="submit",
        conn_id="{{ params.conn_id }}",
        rows=PRODUCTS,
        key="sku",
        passthrough=["title", "price"],
        request=EmbeddingRequest(
            model="{{ params.model }}", input="{title}: {description}", dimensions="{{ params.dimensions }}"
        ),
    )
    wait = BatchSensor(task_id="wait", job=submit.output, poke_interval=2)
    FetchResultsOperator(
        task_id="fetch",
        job=wait.output,
        destination="{{ params.data }}/vectors/{{ run_id }}",
        format="parquet",
        max_file_size=512 * 2**20,
    )
