"""This checkout beside another, lane by lane: CPU, peak memory and calls, from one run.

    git worktree add ../before <commit>
    python tests/benchmarks/compare.py ../before

Each checkout runs its own ``online.py`` and ``throughput.py``, in processes of their own, turn and turn about, against
one server of this checkout's. CPU is user and system time, of the work alone and of the whole process with its imports;
the median of the runs counts, and the lowest is told beside it: where the two lie far apart, the machine was busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
from measure import emulator, quiet, table
from online import model_server
from throughput import MODELS, make_rows

HERE = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    """One process. Seconds of CPU, of its work and of all of it; megabytes; requests that the server has seen."""

    work: float
    whole: float
    peak: float
    calls: int


def measured(checkout: Path, script: str, arguments: Sequence[str], home: str) -> tuple[float, float, float]:
    """CPU of the work and of the whole process, and its peak memory."""
    environment = {**quiet(), "PYTHONPATH": str(checkout), "AIRFLOW_HOME": home}
    # What is imported is compiled once, by the run that does not count.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, str(checkout / "tests" / "benchmarks" / script), *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as trouble:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=trouble)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        trouble.seek(0)
        if status:
            raise SystemExit(f"{checkout}: {trouble.read()[-3000:]}")
        figures = json.loads(out.read().splitlines()[-1])
    return figures.get("whole", figures["cpu"]), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def called(url: str) -> int:
    """Requests that an emulator has seen."""
    return sum(httpx.get(f"{url}/_emulator/stats").json()["calls"].values())


@contextmanager
def online_lane(calls: int) -> Iterator[Callable[[Path, str], Run]]:
    with model_server(0.05) as url:

        def run(checkout: Path, home: str) -> Run:
            before = int(httpx.get(url).text)
            arguments = ["--as", "ours", "--url", url, "--calls", str(calls), "--at-once", "100"]
            used = measured(checkout, "online.py", arguments, home)
            return Run(*used, int(httpx.get(url).text) - before)

        yield run


@contextmanager
def batch_lane(provider: str, rows: int) -> Iterator[Callable[[Path, str], Run]]:
    with tempfile.TemporaryDirectory(prefix="llm-batch-bench-") as directory, emulator() as url:
        source = Path(directory) / "rows.jsonl"
        make_rows(source, rows)

        def run(checkout: Path, home: str) -> Run:
            before = called(url)
            places = [f"file://{source}", f"file://{home}/work", f"file://{home}/none"]
            used = measured(checkout, "throughput.py", ["--child", "local", provider, url, *places], home)
            return Run(*used, called(url) - before - 1)

        yield run


def compare(run: Callable[[Path, str], Run], checkouts: Sequence[Path], repeat: int) -> list[list[Run]]:
    """Each checkout's runs; the first of each warms up."""
    runs: list[list[Run]] = [[] for _ in checkouts]
    for turn in range(repeat + 1):
        for checkout, own in zip(checkouts, runs, strict=True):
            with tempfile.TemporaryDirectory(prefix="llm-batch-bench-") as home:
                taken = run(checkout, home)
            if turn:
                own.append(taken)
    return runs


def report(runs: Sequence[Sequence[Run]], names: Sequence[str]) -> str:
    figures = [
        [
            median(run.work for run in own),
            min(run.work for run in own),
            median(run.whole for run in own),
            min(run.whole for run in own),
            max(run.peak for run in own),
            median(run.calls for run in own),
        ]
        for own in runs
    ]
    old, new = figures
    rows = [
        [name, *(f"{value:.2f}" for value in own[:4]), f"{own[4]:.0f}", f"{own[5]:,.0f}"]
        for name, own in zip(names, figures, strict=True)
    ]
    ratios = [f"{after / before:.2f}" for before, after in zip(old, new, strict=True)]
    head = ["", "CPU s of the work", "lowest", "of the process", "lowest", "peak MB", "calls"]
    return table(head, [*rows, ["new / old", *ratios]])


def commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or checkout.name


def main() -> None:
    lanes = ["online", *MODELS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the other checkout")
    parser.add_argument("--lane", choices=lanes, action="append")
    parser.add_argument("--runs", type=int, default=5, help="of each checkout")
    parser.add_argument("--calls", type=int, default=2000, help="of the online lane")
    parser.add_argument("--rows", type=int, default=20_000, help="of a batch lane")
    given = parser.parse_args()
    checkouts = [given.old.resolve(), HERE]
    names = [f"{kind} ({commit(checkout)})" for kind, checkout in zip(("old", "new"), checkouts, strict=True)]
    for lane in given.lane or lanes:
        opened = online_lane(given.calls) if lane == "online" else batch_lane(lane, given.rows)
        with opened as run:
            runs = compare(run, checkouts, given.runs)
        amount = f"{given.calls:,} calls" if lane == "online" else f"batches of {given.rows:,} rows"
        print(f"\n{lane}: {amount}, {given.runs} runs each\n{report(runs, names)}", flush=True)


if __name__ == "__main__":
    main()
