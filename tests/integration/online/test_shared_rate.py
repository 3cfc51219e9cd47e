"""One connection's rate, shared by the calls of several tasks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.jobs.online import lease
from airflow_llm_batch.operators import CompletionOperator


def test_tasks_that_call_at_once_share_the_connections_rate(connect, tmp_path, monkeypatch):
    """Both are answered in full; each has seen the other, and nobody holds anything afterwards."""
    storage, most = tmp_path / "storage", []
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", f"file://{storage}")
    monkeypatch.setattr(lease, "BEAT", 0.1)
    real = lease.Lease.beat

    def beat(self):
        real(self)
        most.append(self.holders)

    monkeypatch.setattr(lease.Lease, "beat", beat)
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, requests_per_minute=2400)

        def call(name):
            task = CompletionOperator(
                task_id=name, conn_id=conn_id, rows=[{"text": f"{name} {n}"} for n in range(60)],
                request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=20), destination=f"file://{tmp_path}/out",
            )  # fmt: skip
            ti = SimpleNamespace(dag_id="dag", run_id="run", task_id=name, map_index=-1)
            return task.execute({"ti": ti})["counts"]["succeeded"]

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(call, ["one", "two"])) == [60, 60]
        assert emulator.vendor.calls["POST /v1/chat/completions"] == 120
    assert max(most) == 2
    assert list((storage / "_leases" / conn_id).iterdir()) == []
