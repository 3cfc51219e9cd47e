"""Operators driven as Airflow drives them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.sdk import timezone

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor
from support import MODELS, read_jsonl
from support.airflow_versions import known_bag


def drive(operator, context):
    """Run a task to its end as Airflow does: each deferral's trigger fires and the task is resumed."""
    try:
        return operator.execute(context)
    except TaskDeferred as deferred:
        for _ in range(20):
            event = asyncio.run(anext(deferred.trigger.run())).payload
            try:
                return operator.execute_complete(context, event)
            except TaskDeferred as again:
                deferred = again
        raise


def operator(conn_id, tmp_path, provider="openai", **arguments):
    given = {
        "rows": [{"id": f"k{n}", "text": f"text {n}"} for n in range(200)],
        "key": "id",
        "passthrough": {"input": "text"},
        "request": ChatRequest(MODELS[provider], user="{text}", max_tokens=50),
        "destination": f"file://{tmp_path}/out",
        "poll_interval": 0.05,
    }
    return LLMBatchOperator(task_id="submit", conn_id=conn_id, **{**given, **arguments})


def landed(summary):
    return sorted((row for file in summary["files"] for row in read_jsonl(file)), key=lambda row: row["row"])


def explicit(context, conn_id, tmp_path, rows, *, fetch=None, **submit):
    """The three tasks of a round; every round's have names of their own."""
    number = context["ti"].task_id
    handle = SubmitBatchOperator(task_id=number, conn_id=conn_id, rows=rows, **submit).execute(context)
    waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)
    arguments = {"destination": f"file://{tmp_path}/out", "fail_on": "none", **(fetch or {})}
    return FetchResultsOperator(task_id="fetch", job=waited, **arguments).execute(context)


def next_task(context, name):
    return {"ti": SimpleNamespace(**{**vars(context["ti"]), "task_id": name})}


def run(context, conn_id, tmp_path, *, fetch=None, **submit):
    """Submit, wait in poke mode, fetch; returns the summary and the landed rows."""
    handle = SubmitBatchOperator(task_id="submit", conn_id=conn_id, **submit).execute(context)
    waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)
    operator = FetchResultsOperator(task_id="fetch", job=waited, destination=f"file://{tmp_path}/out", **(fetch or {}))
    summary = operator.execute(context)
    return summary, [row for file in summary["files"] for row in read_jsonl(file)]


def run_dag(folder, text, state="success"):
    """One run, by ``dag.test()``, of the DAG that a file in this folder has.

    :param text: of the file, PLACE in it the folder.
    """
    (folder / "dag.py").write_text(text.replace("PLACE", str(folder)))
    [dag] = known_bag(folder).dags.values()
    run = dag.test(logical_date=timezone.utcnow())
    assert str(run.state) == state
    return run
