"""One source in partitions on two Celery workers of a whole Airflow: what a million rows take where they are deployed.

    python tests/benchmarks/workers.py --rows 10000000 --partitions 64
    python tests/benchmarks/workers.py --rows 40000 --partitions 8 --shard 2500 --wave 2

The Airflow is that of ``tests/acceptance/test_executors.py``: scheduler, API server, DAG processor, triggerer and two
Celery workers, each on a host name of its own, Redis and PostgreSQL; the rows, the job directories and the results lie
in a directory that all of them mount. A mapped ``LLMBatchOperator`` takes the partitions, some at a time (a wave); what
was sent is removed once it is landed. Printed: CPU seconds of each component per million rows, Airflow's own share
included, the most memory that a task's process held, the vendor's calls and the batches.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import psutil
from measure import MB, emulator, quiet, table
from partitions import ID
from support.clusters import Cluster, Host, missing, redis_server
from support.databases import binaries, postgres_server

from airflow_llm_batch import demo

#: seconds between two looks
LOOK = 2.0
DAG = """
from airflow.sdk import DAG

from airflow_llm_batch.data import ChatRequest, partitions
from airflow_llm_batch.operators import LLMBatchOperator

with DAG("{dag_id}", schedule=None):
    LLMBatchOperator.partial(
        task_id="ask", rows="{work}/rows", key="id", max_cost=1e6, poll_interval=5, check_first=0,
        request=ChatRequest("gpt-5-mini", system="Label the review.", user="{{text}}", max_tokens=200),
        destination="{work}/results", max_active_tis_per_dagrun={wave},
    ).expand(partition=partitions({partitions}))
"""


class Use:
    """What a component has used, of its process and all that it has started."""

    def __init__(self, host: Host) -> None:
        self.host = host
        #: of each process that was seen, what it and what it has waited for have used; a process counts until it ends
        self.seen: dict[int, float] = {}
        self.peak = 0

    def look(self) -> None:
        assert self.host.process is not None
        with suppress(psutil.Error):
            component = psutil.Process(self.host.process.pid)
            living = [component, *component.children(recursive=True)]
            # What has ended is its parent's, which has waited for it.
            self.seen = {}
            for process in living:
                with suppress(psutil.Error):
                    self.seen[process.pid] = sum(process.cpu_times()[:4])
                    self.peak = max(self.peak, process.memory_info().rss)

    @property
    def cpu(self) -> float:
        return sum(self.seen.values())


def run(given: argparse.Namespace) -> None:
    if why := missing():
        raise SystemExit(why)
    with tempfile.TemporaryDirectory(prefix="llm-batch-bench-") as folder, ExitStack() as stack:
        root, work = Path(folder), f"file://{folder}/shared"
        url = stack.enter_context(emulator())
        make = [sys.executable, str(Path(__file__).with_name("partitions.py")), "--make", f"{work}/rows"]
        subprocess.run([*make, str(given.rows)], check=True, env=quiet())
        broker = stack.enter_context(redis_server(shutil.which("redis-server") or "", root))
        server = json.loads(stack.enter_context(postgres_server(binaries() or "")))
        database = f"{server['login']}:none@{server['host']}:{server['port']}/{server['schema']}"
        extra = {"provider": "openai", "limits": {"requests": given.shard}}
        connection = {"conn_type": "llmbatch", "host": f"{url}/v1", "password": "k", "extra": extra}
        environment = {
            "AIRFLOW_CONN_LLM_BATCH_DEFAULT": json.dumps(connection),
            "AIRFLOW__LLM_BATCH__STORAGE": f"{work}/jobs",
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
        }
        dag = DAG.format(dag_id=demo.DAG_ID, work=work, wave=given.wave, partitions=given.partitions)
        cluster = Cluster(root, dag, database, broker, environment)
        stack.callback(cluster.close)
        cluster.begin()
        cluster.start("scheduler", "scheduler", "--skip-serve-logs")
        for name in ("worker-a", "worker-b"):
            celery = ("celery", "worker", "--concurrency", "1", "--celery-hostname", f"celery@{name}")
            cluster.start(name, *celery, "--skip-serve-logs")
        uses = {name: Use(host) for name, host in cluster.hosts.items()}
        began = time.monotonic()
        state = watch(cluster, given, Path(folder) / "shared", list(uses.values()))
        wall = time.monotonic() - began
        if state != "success":
            raise SystemExit(f"The run ended as {state}.\n{cluster.logs()}")
        calls: Counter[str] = Counter()
        for call, times in httpx.get(f"{url}/_emulator/stats").json()["calls"].items():
            calls[ID.sub("/{id}", call)] += times
        [whole] = [json.loads(path.read_bytes()) for path in (root / "shared" / "jobs").glob("*/*/ask/manifest.json")]
        report(given, uses, calls, whole, wall)


def watch(cluster: Cluster, given: argparse.Namespace, shared: Path, uses: list[Use]) -> str:
    """The run from its trigger to its end; returns its state."""
    run_id = cluster.api.trigger({})
    landed = 0
    for _ in range(int(given.hours * 3600 / LOOK)):
        state: str = cluster.api.state(run_id)
        for use in uses:
            use.look()
        # A partition that is landed needs what was sent no more: the disk holds one wave of it.
        done = [path.parent for path in (shared / "jobs").glob("*/*/ask/*/manifest.json")]
        for job in done:
            shutil.rmtree(job / "shards", ignore_errors=True)
        if len(done) > landed:
            landed = len(done)
            sys.stderr.write(f"{landed} of {given.partitions} partitions\n")
        if state in ("success", "failed"):
            return state
        time.sleep(LOOK)
    return "unfinished"


def report(
    given: argparse.Namespace, uses: dict[str, Use], calls: Counter[str], whole: dict[str, Any], wall: float
) -> None:
    millions = given.rows / 1e6
    assert (whole["rows"], len(whole["parts"])) == (given.rows, given.partitions), whole
    assert +Counter(whole["counts"]) == {"succeeded": given.rows}, whole["counts"]
    cells = [
        [name, f"{use.cpu:.1f}", f"{use.cpu / millions:.1f}", f"{use.peak / MB:.0f}"] for name, use in uses.items()
    ]
    print(f"{given.rows:,} rows, {given.partitions} partitions, {wall:.0f} s")
    print(table(["", "CPU s", "CPU s a million", "largest process MB"], cells))
    print(f"vendor calls: {calls.total():,}, {calls.total() / millions:,.0f} per million rows; {dict(calls)}")
    print(f"batches: {calls['POST /v1/batches']:,}; cost {whole.get('cost_usd')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=20)
    parser.add_argument("--wave", type=int, default=6, help="partitions that are on their way at once")
    parser.add_argument("--shard", type=int, default=50_000, help="requests in a batch, at most")
    parser.add_argument("--hours", type=float, default=2, help="after which the run is given up")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
