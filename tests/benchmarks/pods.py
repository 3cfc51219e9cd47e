"""What a pod needs for a large job: memory and the bytes below TMPDIR, by task, with all else in a real S3 server.

    python tests/benchmarks/pods.py --rows 50000 --column 1000 --cache

Each task is a process of its own, as ``support.footprint`` sees it. In a pod Airflow's supervisor is beside it: see
tests/acceptance/test_executors.py, which runs small jobs by the command of KubernetesExecutor's pods.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import MB, emulator, object_store, quiet, table
from support.footprint import Footprint

STEPS = ("nothing", "rows", "submit", "wait", "fetch")


def step(name: str, uri: str, given: argparse.Namespace) -> None:
    """One task; its XCom lies in the working directory. ``nothing`` is what all of them load."""
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.data import ChatRequest
    from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
    from airflow_llm_batch.sensors import BatchSensor

    ti = SimpleNamespace(dag_id="bench", run_id="pods", task_id=name, map_index=-1)
    rows, xcom = f"{uri}/rows.jsonl", Path(f"../../xcom-{name}.json")
    if name == "rows":
        with ObjectStoragePath(rows).open("wb") as file:
            for n in range(given.rows):
                row = {"id": n, "text": f"{n} " + "some text " * 40, "page": "p" * given.column}
                file.write(json.dumps(row).encode() + b"\n")
    if name == "submit":
        request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=200)
        made = SubmitBatchOperator(
            task_id=name, rows=rows, key="id", request=request, passthrough=["page"], storage=f"{uri}/jobs",
            conn_id="llm", cache=f"{uri}/cache" if given.cache else None,
        )  # fmt: skip
        xcom.write_text(json.dumps(made.execute({"ti": ti})))
    if name == "wait":
        job = json.loads(Path("../../xcom-submit.json").read_text())
        waited = BatchSensor(task_id=name, job=job, deferrable=False, poke_interval=1).execute({"ti": ti})
        xcom.write_text(json.dumps(waited))
    if name == "fetch":
        job = json.loads(Path("../../xcom-wait.json").read_text())
        FetchResultsOperator(task_id=name, job=job, destination=f"{uri}/out").execute({"ti": ti})


def main(given: argparse.Namespace) -> None:
    lines = []
    with emulator() as url, object_store() as uri, tempfile.TemporaryDirectory() as root:
        connection = {"conn_type": "llmbatch", "host": f"{url}/v1", "password": "k", "extra": {"provider": "openai"}}
        for name in STEPS:
            home, tmp, cwd = (Path(root, name, part) for part in ("airflow", "tmp", "cwd"))
            for folder in (home, tmp, cwd):
                folder.mkdir(parents=True)
            environment = quiet() | {
                "AIRFLOW_HOME": str(home),
                "TMPDIR": str(tmp),
                "PYTHONPATH": os.pathsep.join(sys.path),
            }
            environment["AIRFLOW_CONN_LLM"] = json.dumps(connection)
            command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--step", name, "--uri", uri]
            process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=subprocess.DEVNULL)
            with Footprint(tmp, process.pid, allowed=(home, Path(root))) as footprint:
                assert process.wait() == 0, name
            left = sum(1 for path in (*tmp.rglob("*"), *cwd.rglob("*")) if path.is_file())
            cells = (footprint.memory / MB, footprint.temporary / MB, len(footprint.elsewhere), left)
            lines.append([name, f"{cells[0]:.0f}", f"{cells[1]:.1f}", *map(str, cells[2:])])
    print(f"{given.rows:,} rows, {given.column:,} bytes passed through of each" + (", a cache" if given.cache else ""))
    print(table(["task", "MB", "MB below TMPDIR", "files elsewhere", "files left"], lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--column", type=int, default=1000, help="bytes of each row that are passed through")
    parser.add_argument("--cache", action="store_true", help="keep the answers for later jobs")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        step(chosen.step, chosen.uri, chosen)
    else:
        main(chosen)
