"""A wait that is killed on its worker, through Airflow: by a user, by the worker's end, by its execution timeout."""

from __future__ import annotations

import os
import signal

import pytest
from support.tasks import run_dag

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.sensors import BatchSensor

KILLED = """
from datetime import timedelta

from airflow.sdk import DAG
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

with DAG("killed_wait"):
    submit = SubmitBatchOperator(
        task_id="submit", conn_id="llm_test", rows=["a"], request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=9)
    )
    BatchSensor.partial(
        task_id="wait", deferrable=False, poke_interval=0.1, execution_timeout=timedelta(seconds=SECONDS)
    ).expand(job=[submit.output])
"""


@pytest.fixture
def waited(connect, tmp_path, airflow_db):
    """Run the DAG, a batch of an hour in it; returns whether the batch was cancelled."""

    def run(seconds):
        with Emulator(duration=3600) as emulator:
            connect(emulator.url)
            run_dag(tmp_path, KILLED.replace("SECONDS", str(seconds)), "failed")
            [batch] = emulator.vendor.batches.values()
            return batch.cancelled_at is not None

    return run


def set_state(ti, state):
    """As the page of the run does it."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        found = session.execute(
            update(TaskInstance)
            .where(TaskInstance.run_id == ti.run_id, TaskInstance.task_id == ti.task_id)
            .values(state=state)
        )
        assert found.rowcount == 1


@pytest.mark.parametrize(("state", "cancelled"), [("running", False), ("failed", True), ("restarting", True)])
def test_only_a_user_cancels_what_a_worker_waits_for(waited, monkeypatch, state, cancelled):
    """SIGTERM comes from a node that is drained too: the night's batch goes on, and the next try waits for it."""
    poke = BatchSensor.poke

    def poke_and_be_killed(self, context):
        poke(self, context)
        set_state(context["ti"], state)
        os.kill(os.getpid(), signal.SIGTERM)
        set_state(context["ti"], "running")
        raise RuntimeError("the worker is gone")

    monkeypatch.setattr(BatchSensor, "poke", poke_and_be_killed)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert waited(300) == cancelled
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_execution_timeout_leaves_what_runs(waited):
    """No user has failed the task, and its next try waits on."""
    assert waited(1.5) is False
