"""What the operators in a DAG file cost to import, beside ``airflow.sdk`` alone.

    python tests/benchmarks/importing.py

Every import has a process of its own, turn and turn about; the best of many counts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from measure import quiet, table

SDK = "from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, BaseHook, ObjectStoragePath, Param, task"
OURS = """
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor
"""
MEASURED = "import time; before = time.process_time()\n{}\nprint(time.process_time() - before)"


def seconds(code: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(code)], stdout=subprocess.PIPE, env=quiet(), text=True, check=True
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    given = parser.parse_args()
    pairs = [(seconds(SDK), seconds(f"{SDK}\n{OURS}")) for _ in range(given.repeat)]
    sdk, both = (min(times) for times in zip(*pairs, strict=True))
    rows = [
        ["airflow.sdk", f"{sdk:.3f}", ""],
        ["with the operators", f"{both:.3f}", f"{100 * (both / sdk - 1):+.1f} %"],
    ]
    print(table(["", "CPU s", "more"], rows))


if __name__ == "__main__":
    main()
