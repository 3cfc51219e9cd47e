"""Tasks that cannot work, or not now, each with two retries: how often does Airflow try them?"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import DAG

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, FailedRows, RawRequest, Sql
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

HOME = os.environ.get("AIRFLOW_HOME", "/nonexistent")
GOOD = {"conn_id": "llm_batch_default", "rows": ["a", "b"], "request": ChatRequest("gpt-5-mini", user="{text}")}
LONG = ChatRequest("gpt-5-mini", user="{text}", max_tokens=10**6)
TOOL = {"type": "function", "function": {"name": "look_up"}}
OTHER = {"type": "function", "function": {"name": "look_it_up"}}
REFUSED = ChatRequest("gpt-5-mini", user="{text}", params={"tools": [TOOL], "tool_choice": OTHER})
OUT = {"destination": f"file://{HOME}/wrong"}
ASK = {**GOOD, **OUT}


def rows(**columns):
    return [{"id": n, **{name: value[n] for name, value in columns.items()}} for n in range(2)]


#: name -> operator class and arguments
WRONG = {
    "no_connection": (SubmitBatchOperator, {**GOOD, "conn_id": "not_there"}),
    "no_provider": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_no_provider"}),
    "unknown_provider": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_unknown_provider"}),
    "no_key": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_no_key"}),
    "refused_key": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_refused_key"}),
    "refused_key_online": (CompletionOperator, {**ASK, "conn_id": "wrong_refused_key"}),
    "wrong_path": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_path"}),
    "credentials_in_host": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_credentials_in_host"}),
    "limits_no_number": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_limits"}),
    "prices_no_price": (LLMBatchOperator, {**ASK, "conn_id": "wrong_prices"}),
    "headers_no_object": (SubmitBatchOperator, {**GOOD, "conn_id": "wrong_headers"}),
    "no_column": (SubmitBatchOperator, {**GOOD, "request": ChatRequest("m", user="{txt}")}),
    "no_placeholder": (SubmitBatchOperator, {**GOOD, "request": ChatRequest("m", user="Say hi")}),
    "no_key_column": (SubmitBatchOperator, {**GOOD, "key": "id"}),
    "duplicate_key": (SubmitBatchOperator, {**GOOD, "rows": [{"id": 1, "text": "a"}] * 2, "key": "id"}),
    "null_key": (SubmitBatchOperator, {**GOOD, "rows": rows(text=["a", "b"], k=[None, 1]), "key": "k"}),
    "no_rows": (SubmitBatchOperator, {**GOOD, "rows": []}),
    "no_file": (SubmitBatchOperator, {**GOOD, "rows": f"file://{HOME}/nothing/*.jsonl"}),
    "bad_file": (SubmitBatchOperator, {**GOOD, "rows": f"file://{HOME}/bad.jsonl"}),
    "no_rows_at_all": (SubmitBatchOperator, {**GOOD, "rows": {"a": 1}}),
    "no_request": (SubmitBatchOperator, {"conn_id": "llm_batch_default", "rows": ["a"]}),
    "no_model": (SubmitBatchOperator, {**GOOD, "request": ChatRequest(user="{text}")}),
    "wrong_endpoint": (SubmitBatchOperator, {**GOOD, "request": RawRequest({"x": "{text}"}, "/v1/nothing")}),
    "nothing_to_embed": (SubmitBatchOperator, {**GOOD, "rows": ["", "a"], "request": EmbeddingRequest("e")}),
    "bad_schema": (SubmitBatchOperator, {**GOOD, "request": ChatRequest("m", user="{text}", output={"type": "nope"})}),
    "budget": (SubmitBatchOperator, {**GOOD, "request": LONG, "max_cost": 0.01}),
    "no_upper_bound": (SubmitBatchOperator, {**GOOD, "max_cost": 1.0}),
    "destination": (LLMBatchOperator, {**GOOD, "destination": "file:///proc/nowhere"}),
    "no_bucket_package": (LLMBatchOperator, {**GOOD, "destination": "nosuchstore://bucket/x"}),
    "no_job": (FetchResultsOperator, {"job": f"file://{HOME}/no/job", **OUT}),
    "no_job_to_wait_for": (BatchSensor, {"job": f"file://{HOME}/no/job"}),
    "nothing_failed_yet": (SubmitBatchOperator, {"conn_id": "llm_batch_default", "rows": FailedRows(f"file://{HOME}/no/job")}),
    "no_sql_connection": (SubmitBatchOperator, {**GOOD, "rows": Sql("not_there", "select 1")}),
    "no_sql_hook": (SubmitBatchOperator, {**GOOD, "rows": Sql("llm_batch_default", "select 1")}),
    "too_much_metadata": (SubmitBatchOperator, {**GOOD, "metadata": {f"k{n}": "v" for n in range(13)}}),
    "all_refused": (LLMBatchOperator, {**ASK, "request": REFUSED}),
}  # fmt: skip
#: and what may pass
PASSING = {
    "vendor_down": (SubmitBatchOperator, {**GOOD, "conn_id": "passing_down"}),
    "vendor_busy": (SubmitBatchOperator, {**GOOD, "conn_id": "passing_busy"}),
    "vendor_down_online": (CompletionOperator, {**ASK, "conn_id": "passing_down"}),
}

with DAG("wrong_setups", schedule=None, start_date=datetime(2026, 1, 1)):  # noqa: DTZ001
    for name, (operator, arguments) in {**WRONG, **PASSING}.items():
        operator(task_id=name, retries=2, retry_delay=timedelta(seconds=1), **arguments)
