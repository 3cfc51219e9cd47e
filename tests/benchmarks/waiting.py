"""Many jobs that wait on one connection, in one process, measured: this package and the peer.

    python tests/benchmarks/waiting.py --jobs 1000 --peer-jobs 200

Each run has a process of its own with an event loop like a triggerer's; the emulator runs in another one. Told are the
memory above one waiting job's, HTTP calls per hundred jobs and interval, and the lag of the event loop: by how much
a sleep of 5 ms is late.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import httpx
from measure import Measured, emulator, in_own_process, status, table

MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5"}


def make_jobs(url: str, provider: str, directory: str, count: int) -> list[str]:
    """Submit ``count`` jobs of one row each; returns their directories."""
    from airflow_llm_batch.data import ChatRequest
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.options import Origin
    from airflow_llm_batch.jobs.planning.encoding import RowSpec
    from airflow_llm_batch.jobs.run import JobRun

    connection = {"conn_type": "llmbatch", "host": url, "password": "any-key", "extra": {"provider": provider}}
    os.environ["AIRFLOW_CONN_LLM"] = json.dumps(connection)
    hook = LLMBatchHook("llm")
    request = ChatRequest(model=MODELS[provider], max_tokens=20)
    jobs = []
    for number in range(count):
        store = JobStore(f"file://{directory}/{count}/{number}")
        run = JobRun(hook, store, Origin("dag", "run", "task"), logging.getLogger(__name__))
        run.plan(RowSpec([f"row {number}"], request, None, {}))
        run.submit()
        jobs.append(store.uri)
    return jobs


def calls(url: str, what: str = "batches") -> Counter[str]:
    counts = httpx.get(f"{url}/_emulator/stats").json()["calls"]
    return Counter({call: n for call, n in counts.items() if call.startswith("GET") and what in call})


async def lag(late: list[float]) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        late.append(time.perf_counter() - before - 0.005)


async def wait_for(triggers: list[Any], url: str, interval: float, rounds: int) -> dict[str, Any]:
    """Run the triggers for so many intervals; what they cost after the first."""
    late: list[float] = []

    async def run(trigger: Any) -> None:
        async for _ in trigger.run():
            return

    waits = [asyncio.create_task(run(trigger)) for trigger in triggers]
    await asyncio.sleep(3 * interval)
    before = calls(url)
    with Measured() as measured:
        watching = asyncio.create_task(lag(late))
        await asyncio.sleep(rounds * interval)
        watching.cancel()
    spent = calls(url) - before
    peak, resident = status("VmHWM"), status("VmRSS")
    assert not any(wait.done() for wait in waits), "a wait ended before the measurement did"
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, watching, return_exceptions=True)
    late.sort()
    return measured.figures(
        peak=peak,
        resident=resident,
        calls=spent.total() / rounds,
        lag_p99=1000 * late[int(0.99 * len(late))],
        lag_max=1000 * late[-1],
    )


def ours(provider: str, url: str, directory: str, count: int, interval: float, rounds: int) -> dict[str, Any]:
    from airflow_llm_batch.triggers import BatchTrigger

    jobs = make_jobs(url, provider, directory, count)
    triggers = [BatchTrigger(job, "llm", poll_interval=interval, max_poll_interval=interval) for job in jobs]
    return asyncio.run(wait_for(triggers, url, interval, rounds))


def peer(provider: str, url: str, directory: str, count: int, interval: float, rounds: int) -> dict[str, Any]:
    from airflow.providers.common.ai.triggers.llm_batch import LLMBatchTrigger

    host = f"{url}/v1" if provider == "openai" else url
    os.environ["AIRFLOW_CONN_AI"] = json.dumps({"conn_type": "pydanticai", "host": host, "password": "any-key"})
    batches = []
    from airflow_llm_batch.jobs.directory.store import JobStore

    for job in make_jobs(url, provider, directory, count):
        created = JobStore(job).created(0)
        assert created is not None
        batches.append(created.batch_id)
    triggers = [
        LLMBatchTrigger(
            llm_conn_id="ai",
            adapter=provider,
            batch_id=batch,
            poll_interval=int(interval),
            end_time=time.time() + 86400,
            cancel_on_kill=False,
            cancel_on_timeout=False,
        )
        for batch in batches
    ]
    return asyncio.run(wait_for(triggers, url, interval, rounds))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        who, provider, url, directory, count, interval, rounds = sys.argv[2:]
        run = {"ours": ours, "peer": peer}[who]
        print(json.dumps(run(provider, url, directory, int(count), float(interval), int(rounds))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--peer-jobs", type=int, default=200)
    parser.add_argument("--interval", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--provider", choices=MODELS, action="append")
    given = parser.parse_args()
    for provider in given.provider or MODELS:
        rows = []
        base: dict[str, float] = {}
        for who, count in (("ours", 1), ("ours", given.jobs), ("peer", 1), ("peer", given.peer_jobs)):
            if not count or (who == "peer" and not given.peer_jobs):
                continue
            with tempfile.TemporaryDirectory(prefix="llm-batch-bench-") as directory, emulator(100_000) as url:
                os.environ["AIRFLOW_HOME"] = directory
                given_args = (who, provider, url, directory, count, given.interval, given.rounds)
                figures = in_own_process(__file__, "--child", *map(str, given_args))
            base.setdefault(who, figures["resident"])
            rows.append(
                [
                    f"{who}, {count:,} waiting",
                    f"{figures['resident'] - base[who]:.1f}",
                    f"{figures['calls']:.1f}",
                    f"{100 * figures['calls'] / count:.2f}",
                    f"{figures['cpu'] / given.rounds:.2f}",
                    f"{figures['lag_p99']:.1f}",
                    f"{figures['lag_max']:.1f}",
                ]
            )
        head = ["", "MB over one", "calls/interval", "per 100 jobs", "CPU s/interval", "lag p99 ms", "max ms"]
        print(f"\n{provider}, an interval of {given.interval:g} s\n{table(head, rows)}", flush=True)


if __name__ == "__main__":
    main()
