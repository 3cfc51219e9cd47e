"""A set of partitions in every state that people meet."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_llm_batch.data import ChatRequest, partitions
from airflow_llm_batch.exceptions import BudgetExceeded
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.submission.cancel import cancel_running
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

#: of 64 partitions, how many are in which state; the others have no job
STATES = {
    "landed": 40, "with_failures": 5, "failed": 2, "cancelled": 1, "over_budget": 4, "ended": 2, "running": 7,
}  # fmt: skip
EACH = 25


def make_set(emulator, conn_id, storage, folder, dag_id, run_id):
    """64 partitions of one file, each a job with 25 rows, in the states above, mixed.

    :param folder: where the rows lie, and the results.
    """
    rows = Path(folder, "rows.jsonl")
    lines = (json.dumps({"id": f"k{n:05}", "text": f"review {n:05}"}) for n in range(64 * EACH))
    rows.write_text("".join(line + "\n" for line in lines))
    wanted = [state for state, count in STATES.items() for _ in range(count)]
    # Neighbours differ: 27 and 64 have no common factor.
    states = {number * 27 % 64: state for number, state in enumerate(wanted)}
    for number, partition in enumerate(partitions(64)):
        if number in states:
            make_part(emulator, conn_id, storage, rows, dag_id, run_id, partition, states[number])


def make_part(emulator, conn_id, storage, rows, dag_id, run_id, partition, state):
    number = int(partition.partition("/")[0])
    context = cast("Any", {"ti": SimpleNamespace(dag_id=dag_id, run_id=run_id, task_id="ask", map_index=number)})
    emulator.vendor.settings.duration = 3600 if state in ("running", "cancelled") else 0
    emulator.faults(row_errors={"with_failures": 0.2, "failed": 1}.get(state, 0))
    request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=50)
    submit = SubmitBatchOperator(
        task_id="ask", conn_id=conn_id, storage=storage, rows=f"file://{rows}", partition=partition, request=request,
        key="id", max_cost=0.001 if state == "over_budget" else 5,
    )  # fmt: skip
    if state == "over_budget":
        with pytest.raises(BudgetExceeded):
            submit.execute(context)
        return
    handle = submit.execute(context)
    if state == "cancelled":
        store = JobStore(handle["job"])
        hook = LLMBatchHook(conn_id)
        cancel_running(store, hook, store.job())
        hook.close()
        for batch in emulator.vendor.batches.values():
            batch.cancelled_at = batch.cancelled_at and batch.cancelled_at - 600
    if state == "running":
        return
    waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.01).execute(context)
    if state != "ended":
        folder = f"file://{rows.parent}/out"
        FetchResultsOperator(task_id="fetch", job=waited, destination=folder, fail_on="none").execute(context)
