"""What the demo shows: how far a job is, read from its directory, and the table it ends with."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

RUN_SECONDS = 900


def follow(jobs: Path, started: float, ended: Any, phase: Callable[[], str]) -> None:
    """Show how far the job is until ``ended()`` is not None.

    :param phase: what goes on before there is a job.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<44}"), BarColumn(), TextColumn("{task.fields[rows]}"))
    with Progress(*columns, TimeElapsedColumn()) as progress:
        bar = progress.add_task("starting", total=None, rows="")
        last = ""
        for _ in range(RUN_SECONDS * 2):
            last = tell(progress, bar, jobs, started, last, phase)
            if ended() is not None:
                tell(progress, bar, jobs, started, last, phase)
                return
            time.sleep(0.5)
    raise SystemExit(f"The run was not over within {RUN_SECONDS} seconds.")


def tell(progress: Progress, bar: Any, jobs: Path, started: float, last: str, phase: Callable[[], str]) -> str:
    """Read the job directory, move the bar; a new step is also printed as a line, for logs and pipes."""
    job = newest(jobs, "job.json", started)
    if job is None:
        line = phase()
        progress.update(bar, description=line)
        if line != last and not progress.console.is_terminal:
            say(f"{line} ...")
        return line
    seen = newest(jobs, "progress.json", started) or {"shards": {}}
    shards = seen["shards"].values()
    done = sum((s["succeeded"] or 0) + (s["failed"] or 0) for s in shards)
    states = sorted({s["status"] for s in shards}) or ["submitting"]
    text = f"{len(job['shards'])} batches {', '.join(states)}"
    if newest(jobs, "manifest.json", started):
        text, done = "landed", job["rows"]
    rows = f"{done:,}/{job['rows']:,} rows"
    progress.update(bar, description=text, completed=done, total=job["rows"], rows=rows)
    line = f"{text}: {done:,} of {job['rows']:,} rows"
    if line != last and not progress.console.is_terminal:
        say(line)
    return line


def newest(jobs: Path, name: str, since: float) -> dict[str, Any] | None:
    """The newest file of that name in the job directories below ``jobs``, written after ``since``."""
    found = [(path.stat().st_mtime, path) for path in jobs.rglob(name)]
    found = [item for item in found if item[0] >= since]
    if not found:
        return None
    content: dict[str, Any] = json.loads(max(found)[1].read_bytes())
    return content


def show(manifest: dict[str, Any]) -> None:
    """The table a run ends with."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sample = Table(title="Some results", title_justify="left")
    for column in ("key", "status", "review", "output"):
        sample.add_column(column, overflow="fold")
    for row in some_rows(manifest["files"]):
        said = row["error_message"] if row["output"] is None else json.dumps(row["output"])
        sample.add_row(row["key"], row["status"], str(row.get("review")), said)
    console.print(sample)
    totals = Table(title="Landed", title_justify="left", show_header=False)
    totals.add_column()
    totals.add_column(overflow="fold")
    counts = ", ".join(f"{n:,} {status}" for status, n in manifest["counts"].items() if n)
    totals.add_row("rows", f"{manifest['rows']:,}: {counts}")
    totals.add_row("model", f"{', '.join(manifest['models'])} at {manifest['provider']}")
    totals.add_row("tokens", f"{manifest['input_tokens']:,} in, {manifest['output_tokens']:,} out")
    cost, sync = manifest["cost_usd"], manifest["sync_cost_usd"]
    dollars = "unknown" if cost is None else f"${cost:.4f} in batches"
    if sync is not None:
        dollars += f"; ${sync:.4f} at the synchronous price"
    totals.add_row("dollars", dollars)
    totals.add_row("batches", "\n".join(manifest["batches"]))
    for reason in manifest["reasons"]:
        totals.add_row("not succeeded", f"{reason['rows']:,} x {reason['code']}: {reason['message']}")
    directory = manifest["destination"].removeprefix("file://")
    totals.add_row("files", "\n".join([directory + "/", *(name.rpartition("/")[2] for name in manifest["files"])]))
    console.print(totals)


def some_rows(files: list[str], count: int = 5) -> list[dict[str, Any]]:
    """A few rows from all over the files, one that did not succeed among them if there is any."""
    landed = b"".join(Path(name.removeprefix("file://")).read_bytes() for name in files)
    rows = [json.loads(line) for line in landed.split(b"\n") if line]
    failed = [row for row in rows if row["status"] != "succeeded"][:1]
    return rows[:: max(1, len(rows) // (count - len(failed)))][: count - len(failed)] + failed


def say(text: str, to: IO[str] = sys.stdout) -> None:
    print(text, file=to, flush=True)
