"""What an answer cache costs and saves: two nights of the same rows, and many more cached answers than rows.

    python tests/benchmarks/reuse.py --rows 100000 --changed 0.01
    python tests/benchmarks/reuse.py --rows 1000000 --cached 10000000

Every night is a process of its own: submit, wait and fetch on one emulator in another process. With ``--cached``, the
answers to the first night's rows are written into the cache beside others, so many in all, and the first night is left
out. The last table is of one night whose rows are all asked: without a cache, with ``ask_once``, with an empty one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from measure import Measured, emulator, in_own_process, table
from throughput import SYSTEM, Label, make_rows

MODEL = "gpt-5-mini"


def request() -> Any:
    from airflow_llm_batch.data import ChatRequest

    return ChatRequest(MODEL, system=SYSTEM, user="Product {product}: {text}", output=Label, max_tokens=200)


def night(url: str, rows: str, work: str, name: str, **reuse: Any) -> dict[str, Any]:
    """One run of the three tasks."""
    from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
    from airflow_llm_batch.sensors import BatchSensor

    connection = {"conn_type": "llmbatch", "host": url, "password": "any-key", "extra": {"provider": "openai"}}
    os.environ["AIRFLOW_CONN_LLM"] = json.dumps(connection)

    def context(task_id: str) -> dict[str, Any]:
        ti = SimpleNamespace(
            dag_id="bench", run_id=name, task_id=task_id, map_index=-1, xcom_push=lambda **figures: None
        )
        return {"ti": ti, "task_instance": ti}

    with Measured() as submitting:
        job = SubmitBatchOperator(
            task_id="submit", rows=rows, key="review_id", request=request(), storage=f"{work}/jobs", conn_id="llm",
            check_first=0, **reuse,
        ).execute(context("submit"))  # fmt: skip
    waited = BatchSensor(task_id="wait", job=job, deferrable=False, poke_interval=0.5).execute(context("wait"))
    with Measured() as fetching:
        fetch = FetchResultsOperator(task_id="fetch", job=waited, destination=f"{work}/{name}")
        summary = fetch.execute(context("fetch"))
    return {
        "submit": submitting.figures(),
        "fetch": fetching.figures(),
        "rows": summary["rows"],
        "succeeded": summary["counts"]["succeeded"],
        "spared": summary["spared"],
    }


def fill(rows: str, cache: str, beside: int) -> dict[str, Any]:
    """Put the answers to rows into a cache, and so many others."""
    from airflow_llm_batch.data import AnswerCache
    from airflow_llm_batch.data.kinds import Kinds
    from airflow_llm_batch.jobs.planning.encoding import RowSpec
    from airflow_llm_batch.jobs.reuse.answers import AnswerFiles
    from airflow_llm_batch.jobs.reuse.new import NewAnswers
    from airflow_llm_batch.jobs.reuse.parquet import write
    from airflow_llm_batch.jobs.reuse.stored import Stored
    from airflow_llm_batch.providers.registry import provider_class
    from airflow_llm_batch.results import Result
    from airflow_llm_batch.storage import whole_file

    spec = RowSpec(rows, request(), "review_id", {})
    files, new = AnswerFiles(AnswerCache(cache)), NewAnswers()
    said = json.dumps({"sentiment": "positive", "topics": ["battery"], "summary": "x" * 60})
    for line in spec.lines(provider_class("openai")({}), "job", Kinds(())):
        result = Result(status="succeeded", text=said, model=MODEL, provider="openai", custom_id=f"before-{line.row}")
        result.input_tokens, result.output_tokens, result.cost_usd = line.tokens, 40, 0.0001
        new.add(line.digest.hex(), result)
    new.publish(files, "rows")
    answer, now = json.dumps({"status": "succeeded", "text": said}), int(datetime.now(UTC).timestamp() * 1e6)
    for part in range(16):
        # Hashes that nobody asks for, in order.
        step = 16**12 // (beside // 16)
        others = (
            Stored(f"{part:x}{n * step:012x}{n:019x}", "openai", MODEL, now, f"other-{n}", 0.0001, answer, 0)
            for n in range(beside // 16)
        )
        with whole_file(files.root / f"new/other-{part}.parquet") as file:
            write(others, file)
    return {"files": len(files.files()), "bytes": sum(file.size for file in files.files())}


def changed(path: Path, to: Path, share: float) -> int:
    """The same rows with a share of them changed; how many that is."""
    count = 0
    with path.open() as source, to.open("w") as out:
        for number, line in enumerate(source):
            if number % round(1 / share) == 0:
                row = json.loads(line)
                line, count = json.dumps({**row, "text": row["text"] + " changed"}) + "\n", count + 1
            out.write(line)
    return count


def line_of(name: str, night: dict[str, Any], asked: int) -> list[str]:
    rows = night["rows"]
    cells = [name, f"{asked:,}", f"{night['succeeded']:,}"]
    for part in ("submit", "fetch"):
        cells += [f"{night[part]['cpu'] / rows * 1e6:.1f}", f"{night[part]['peak']:.0f}"]
    return cells


def requests(url: str) -> int:
    found = httpx.get(f"{url}/_emulator/stats", timeout=60).json()["batches"]
    return sum(batch["rows"] for batch in found.values())


HEAD = ("night", "requests", "landed", "submit us/row", "peak MB", "fetch us/row", "peak MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--changed", type=float, default=0.01)
    parser.add_argument("--cached", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, emulator() as url:
        first, second = Path(work) / "first.jsonl", Path(work) / "second.jsonl"
        make_rows(first, asked.rows)
        new = changed(first, second, asked.changed)
        cache = f"file://{work}/answers"
        lines: list[list[str]] = []
        sent = 0

        def run(name: str, rows: Path, **reuse: Any) -> None:
            nonlocal sent
            figures = in_own_process(
                __file__, "night", url, f"file://{rows}", f"file://{work}", name, json.dumps(reuse)
            )
            now = requests(url)
            lines.append(line_of(name, figures, now - sent))
            print(lines[-1], figures["spared"], flush=True)
            sent = now

        if asked.cached:
            figures = in_own_process(__file__, "fill", f"file://{first}", cache, str(asked.cached - asked.rows))
            print(
                f"{asked.cached:,} answers in {figures['files']} files, {figures['bytes'] / 2**20:,.0f} MB", flush=True
            )
        else:
            run("first", first, cache=cache)
        run("second", second, cache=cache)
        if not asked.cached:
            run("no cache", second)
            run("ask_once", second, ask_once=True)
            run("empty cache", second, cache=f"file://{work}/empty")
        print(
            f"{asked.rows:,} rows of about 1 KB, {new:,} changed; CPU of this package's tasks, and their peak memory\n"
        )
        print(table(HEAD, lines))


if __name__ == "__main__":
    if sys.argv[1:2] == ["night"]:
        _, _, url, rows, work, name, reuse = sys.argv
        print(json.dumps(night(url, rows, work, name, **json.loads(reuse))))
    elif sys.argv[1:2] == ["fill"]:
        print(json.dumps(fill(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()
