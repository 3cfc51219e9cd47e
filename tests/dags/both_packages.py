"""The documented decorators of two packages that are installed together: common-ai's and ours."""

from __future__ import annotations

import os
from datetime import datetime

from airflow.sdk import DAG, task

from airflow_llm_batch.data import ChatRequest

DATA = os.environ.get("BOTH_PACKAGES_DATA", "file:///tmp/both_packages")

with DAG("both_packages", schedule=None, start_date=datetime(2026, 1, 1)):  # noqa: DTZ001

    @task.llm_batch(
        result_path=f"{DATA}/theirs",
        llm_conn_id="pydanticai_default",
        model_id="openai:gpt-5-mini",
        system_prompt="Be kind.",
        poll_interval=30,
    )
    def theirs():
        return ["a", "b"]

    @task.llm_rows(
        conn_id="llm_test",
        request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=9),
        destination=f"{DATA}/ours",
        poll_interval=1,
    )
    def ours():
        return ["a", "b", "c"]

    theirs()
    ours()
