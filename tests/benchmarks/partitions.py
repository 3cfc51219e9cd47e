"""One source in partitions, landed by several worker processes: what a million rows take.

    python tests/benchmarks/partitions.py --rows 10000000 --partitions 64
    python tests/benchmarks/partitions.py --rows 4000 --partitions 8 --shard 250 --wave 2 --store s3

Parquet files of prompts of about 400 bytes; each worker takes some partitions at a time (a wave), submits them, waits
as the triggerer does, and lands them before it takes the next. What was sent is removed once a wave is landed, so that
the disk holds one wave and the results. Printed: CPU seconds of the workers per million rows (the emulator, which plays
the vendor, is a process of its own), the most memory any of them held, calls of the vendor, and with ``--store s3``
requests of the store.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from measure import Measured, Operations, emulator, object_store, quiet, status, table

WORDS = ("battery", "screen", "delivery", "support", "price", "quality", "sound", "fit", "colour", "smell", "manual")
GROUP, FILES = 5_000, 8
#: of a file or a batch, in the path of a call
ID = re.compile(r"/(file-|batch_)[0-9a-f]+")
MODEL = "gpt-5-mini"


def make_rows(folder: str, count: int) -> None:
    """Parquet files of reviews."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_llm_batch.storage import storage_path, whole_file

    draw = random.Random(7)
    texts = [" ".join(draw.choices(WORDS, k=55)) for _ in range(997)]
    for number in range(FILES):
        mine = range(number, count, FILES)
        schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
        path = storage_path(f"{folder}/part-{number}.parquet")
        with whole_file(path) as file, Sink(file) as sink, pq.ParquetWriter(sink, schema) as writer:
            for start in range(0, len(mine), GROUP):
                ids = list(mine[start : start + GROUP])
                writer.write_table(pa.table([ids, [texts[n % len(texts)] for n in ids]], schema))


class Sink:
    """As much of a file as Arrow writes to."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.file, self.written = file, 0

    def write(self, data: Any) -> int:
        self.file.write(bytes(data))
        self.written += len(data)
        return len(data)

    def tell(self) -> int:
        return self.written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *raised: object) -> None:
        pass


def context(index: int) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="bench", run_id="run", task_id="ask", map_index=index, xcom_push=lambda **pushed: None)
    return {"ti": ti, "task_instance": ti}


def work(given: argparse.Namespace, worker: int) -> dict[str, Any]:
    """One worker's partitions, a wave at a time."""
    from airflow.providers.common.compat.sdk import TaskDeferred

    # What is loaded once is no row's cost.
    import airflow_llm_batch.data.parquet_rows
    import airflow_llm_batch.jobs.run
    import airflow_llm_batch.triggers  # noqa: F401
    from airflow_llm_batch.data import ChatRequest, partitions
    from airflow_llm_batch.operators import LLMBatchOperator

    def task(partition: str) -> LLMBatchOperator:
        return LLMBatchOperator(
            task_id="ask", rows=f"{given.work}/rows", partition=partition, key="id", conn_id="llm", max_cost=1e6,
            request=ChatRequest(MODEL, system="Label the review.", user="{text}", max_tokens=200), poll_interval=0.2,
            destination=f"{given.work}/results", storage=f"{given.work}/jobs", check_first=0,
        )  # fmt: skip

    mine = list(enumerate(partitions(given.partitions)))[worker :: given.workers]
    counted = Operations() if given.work.startswith("s3") else nullcontext(Counter())
    landed = Counter()
    with counted as asked, Measured() as measured:
        for start in range(0, len(mine), given.wave):
            wave = mine[start : start + given.wave]
            waiting = {}
            for index, partition in wave:
                try:
                    landed.update(task(partition).execute(context(index))["counts"])
                except TaskDeferred as deferred:
                    waiting[index, partition] = deferred
            while waiting:
                for (index, partition), deferred in list(waiting.items()):
                    event = asyncio.run(anext(deferred.trigger.run())).payload
                    try:
                        summary = task(partition).execute_complete(context(index), event)
                    except TaskDeferred as again:
                        waiting[index, partition] = again
                        continue
                    del waiting[index, partition]
                    landed.update(summary["counts"])
            if not given.work.startswith("s3"):
                for index, _ in wave:
                    shutil.rmtree(f"{given.work}/jobs/bench/run/ask/{index}/shards".removeprefix("file://"))
            sys.stderr.write(
                f"worker {worker}: {start + len(wave)} of {len(mine)} partitions, {landed.total():,} rows\n"
            )
    return measured.figures(worker=worker, rows=landed["succeeded"], operations=asked)


def run(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="llm-batch-bench-") as folder, ExitStack() as stack:
        os.environ["AIRFLOW_HOME"] = folder
        url = stack.enter_context(emulator())
        given.work = stack.enter_context(object_store()) if given.store == "s3" else f"file://{folder}"
        os.environ["AIRFLOW__LLM_BATCH__STORAGE"] = f"{given.work}/jobs"
        extra = {"provider": "openai", "limits": {"requests": given.shard}}
        connection = {"conn_type": "llmbatch", "host": url, "password": "any-key", "extra": extra}
        os.environ["AIRFLOW_CONN_LLM"] = json.dumps(connection)
        make = [sys.executable, __file__, "--make", f"{given.work}/rows", str(given.rows)]
        subprocess.run(make, check=True, env=quiet())
        options = [f"--{name}={getattr(given, name)}" for name in ("rows", "partitions", "workers", "wave", "work")]
        children = [
            subprocess.Popen(
                [sys.executable, __file__, *options, "--worker", str(n)], stdout=subprocess.PIPE, env=quiet(), text=True
            )
            for n in range(given.workers)
        ]
        figures = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
        calls: Counter[str] = Counter()
        for call, times in httpx.get(f"{url}/_emulator/stats").json()["calls"].items():
            calls[ID.sub("/{id}", call)] += times
        whole = whole_set(f"{given.work}/jobs/bench/run/ask/manifest.json") if given.store != "s3" else None
    report(given, figures, calls, whole)


def whole_set(uri: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(Path(uri.removeprefix("file://")).read_bytes())
    return figures


def report(given: argparse.Namespace, figures: list[dict[str, Any]], calls: Counter[str], whole: Any) -> None:
    rows, millions = sum(one["rows"] for one in figures), given.rows / 1e6
    assert rows == given.rows, (rows, given.rows)
    assert whole is None or (whole["rows"], len(whole["parts"])) == (given.rows, given.partitions)
    cells = [
        [f"worker {one['worker']}", f"{one['rows']:,}", f"{one['cpu']:.1f}", f"{one['start']:.0f}",
         f"{one['peak'] - one['start']:.0f}", f"{one['wall']:.0f}", f"{sum(one['operations'].values()):,}"]
        for one in figures
    ]  # fmt: skip
    print(table(["", "rows", "CPU s", "start MB", "above start MB", "wall s", "store operations"], cells))
    print(f"CPU seconds per million rows: {sum(one['cpu'] for one in figures) / millions:.1f}")
    print(f"vendor calls: {calls.total():,}, {calls.total() / millions:,.0f} per million rows; {dict(calls)}")
    if given.store == "s3":
        asked = sum((Counter(one["operations"]) for one in figures), Counter())
        batches = calls["POST /v1/batches"]
        print(f"store operations: {asked.total():,}, {asked.total() / batches:.1f} per batch; {dict(asked)}")
    print(f"this process: {status('VmHWM'):.0f} MB")


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make_rows(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--wave", type=int, default=4, help="partitions that a worker has at once")
    parser.add_argument("--shard", type=int, default=50_000, help="requests in a batch, at most")
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is None:
        run(given)
    else:
        print(json.dumps(work(given, given.worker)))


if __name__ == "__main__":
    main()
