"""What one job asks of its object store: requests by kind and by task, in a real S3 server.

    python tests/benchmarks/operations.py --shards 5 --shards 50

Submit, a deferred wait with its trigger, and fetch, each made anew as in a process of its own. What a request takes
where the store is half a second away is told beside it; those of a task follow each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from measure import Operations, emulator, in_own_process, object_store, table

MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5"}
#: seconds of a request to a store that is far away
FAR = 0.5
ROWS_A_SHARD = 20


def run_job(provider: str, url: str, bucket: str, shards: int) -> dict[str, Counter[str]]:
    """A whole job; its requests by step."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    from airflow_llm_batch.data import ChatRequest
    from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
    from airflow_llm_batch.sensors import BatchSensor

    extra = {"provider": provider, "limits": {"requests": ROWS_A_SHARD}}
    os.environ["AIRFLOW_CONN_LLM"] = json.dumps(
        {"conn_type": "llmbatch", "host": url, "password": "any-key", "extra": extra}
    )
    asked: dict[str, Counter[str]] = {}

    def step(name: str, do: Callable[[], Any]) -> Any:
        with Operations() as counted:
            try:
                return do()
            finally:
                asked[name] = counted

    def context(name: str) -> Any:
        return {"ti": SimpleNamespace(dag_id="bench", run_id=f"{provider}-{shards}", task_id=name, map_index=-1)}

    rows = [{"id": f"k{n}", "text": f"text {n}"} for n in range(ROWS_A_SHARD * shards)]
    request = ChatRequest(MODELS[provider], user="{text}", max_tokens=20)
    submit = SubmitBatchOperator(
        task_id="submit", rows=rows, key="id", request=request, storage=f"{bucket}/jobs", conn_id="llm"
    )
    job = step("submit", lambda: submit.execute(context("submit")))
    assert job["shards"] == shards

    def wait() -> BatchSensor:
        return BatchSensor(task_id="wait", job=job, poke_interval=0.1)

    try:
        job = step("first look", lambda: wait().execute(context("wait")))
    except TaskDeferred as deferred:
        trigger = deferred.trigger
        event = step("trigger", lambda: asyncio.run(anext(trigger.run())).payload)
        job = step("last look", lambda: wait().execute_complete(context("wait"), event))
    fetch = FetchResultsOperator(task_id="fetch", job=job, destination=f"{bucket}/out")
    summary = step("fetch", lambda: fetch.execute(context("fetch")))
    assert summary["counts"]["succeeded"] == len(rows)
    return asked


def report(asked: dict[str, dict[str, int]]) -> str:
    kinds = sorted({kind for counted in asked.values() for kind in counted})
    rows = [*asked.items(), ("job", dict(sum(map(Counter, asked.values()), Counter())))]
    cells = [
        [name, *(str(counted.get(kind, 0)) for kind in kinds), str(sum(counted.values())),
         f"{FAR * sum(counted.values()):.0f}"]
        for name, counted in rows
    ]  # fmt: skip
    return table(["", *kinds, "all", f"s at {FAR} s each"], cells)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        provider, url, bucket, shards = sys.argv[2:]
        print(json.dumps(run_job(provider, url, bucket, int(shards))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, action="append")
    parser.add_argument("--provider", choices=MODELS, action="append")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-batch-bench-") as directory, object_store() as bucket:
        os.environ["AIRFLOW_HOME"] = directory
        for provider in given.provider or MODELS:
            for shards in given.shards or [5]:
                with emulator(3) as url:
                    asked = in_own_process(__file__, "--child", provider, url, bucket, str(shards))
                print(f"\n{provider}: a job of {shards} shards\n{report(asked)}", flush=True)


if __name__ == "__main__":
    main()
