"""``python -m airflow_llm_batch``: jobs from a terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from airflow_llm_batch.console.bar import warnings_on
from airflow_llm_batch.console.places import PROGRAM, find
from airflow_llm_batch.exceptions import InputError, LLMBatchError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_llm_batch.console.places import Found
    from airflow_llm_batch.jobs.view.detail import JobDetail
    from airflow_llm_batch.jobs.view.job import JobView
    from airflow_llm_batch.jobs.view.overview import Overview

#: what a shell is told of Ctrl-C
INTERRUPTED = 130
#: characters that no line of a table has
UNBROKEN = 10_000
BY: dict[str, Callable[[JobView], str]] = {
    "day": lambda job: job.created_at.date().isoformat(),
    "dag": lambda job: job.dag_id,
    "provider": lambda job: job.provider,
    "model": lambda job: ", ".join(job.models) or job.provider,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """:return: 0, or 1 when it was refused or failed, which standard error tells in a sentence."""
    given = parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        with warnings_on(console):
            return int(given.command(given) or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except LLMBatchError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=PROGRAM, description="LLM batch jobs: run one, look at all, cancel, add up.")
    commands = made.add_subparsers(required=True, metavar="run|list|show|cancel|cost")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--storage", help="URI or path where jobs lie; [llm_batch] storage by default")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="for programs, on standard output")
    add_run(commands.add_parser("run", parents=[where, as_json], help="ask about every row of a file; again: go on"))
    for name, command, summary in (
        ("list", list_jobs, "the jobs, newest first"),
        ("show", show, "one job: batches, counts, failed rows"),
        ("cancel", cancel, "cancel what runs of a job"),
        ("cost", cost, "what jobs came to"),
    ):
        made_ = commands.add_parser(name, parents=[where, as_json], help=summary)
        made_.set_defaults(command=command)
        if name in ("show", "cancel"):
            made_.add_argument("job", help="its name, dag/run/task, or the URI of its directory")
        if name == "cancel":
            made_.add_argument("--conn-id", help="the job's own by default")
        if name == "list":
            made_.add_argument("--state", help="only those: running, landed, failed ...")
            made_.add_argument("--last", type=int, default=30, metavar="N", help="how many; 0 for all")
        if name == "cost":
            made_.add_argument("--by", choices=list(BY), default="day")
            made_.add_argument("--since", metavar="YYYY-MM-DD", help="first day, UTC")
    return made


def add_run(made: argparse.ArgumentParser) -> None:
    made.set_defaults(command=run_rows)
    made.add_argument("rows", help="file, directory or glob: JSONL, JSON, CSV, TSV or Parquet, of any storage")
    made.add_argument("--model", help="left out where the rows are batch input lines")
    made.add_argument("--prompt", metavar="TEXT", help="{column} is filled from the row; {text} by default")
    made.add_argument("--system", metavar="TEXT")
    made.add_argument("--schema", metavar="FILE", type=Path, help="JSON schema that every answer must fit")
    made.add_argument("--max-tokens", type=int, metavar="N", help="of one answer")
    made.add_argument("--name", help="of the job; made of what is asked by default")
    made.add_argument("--conn-id", help="an Airflow connection of type llmbatch")
    made.add_argument("--provider", help="with its key in the environment, as OPENAI_API_KEY")
    made.add_argument("--lane", choices=["batch", "online", "flex"], default="batch")
    made.add_argument("--key", help="column that names a row in the results")
    made.add_argument("--passthrough", metavar="[NAME=]COLUMN,...", help="columns to carry into the results")
    made.add_argument("--to", dest="destination", metavar="PLACE", help="directory of the results; beside the job else")
    made.add_argument("--format", default="jsonl", help="jsonl, jsonl.gz, jsonl.zst or parquet")
    made.add_argument("--max-cost", type=float, metavar="DOLLARS", help="refuse what is estimated to cost more")
    made.add_argument("--max-rounds", type=int, default=3, metavar="N", help="how often a row is asked at most")
    made.add_argument("--sample", type=int, metavar="N", help="ask only so many rows, spread over all")
    made.add_argument("--check-first", default="auto", metavar="N", help="rows to try before all others")
    made.add_argument(
        "--fail-on", default="0.5", help="share of failed rows that makes the exit code 1; any, all, none"
    )
    made.add_argument("--poll-interval", type=float, default=15.0, metavar="SECONDS")
    made.add_argument("--dry-run", action="store_true", help="estimate, and send nothing")


def run_rows(given: argparse.Namespace) -> None:
    from airflow_llm_batch.console.run import run
    from airflow_llm_batch.data.requests import ChatRequest

    asked = ("prompt", "system", "schema", "max_tokens")
    if given.model is None and any(getattr(given, name) is not None for name in asked):
        raise InputError("--prompt, --system, --schema and --max-tokens need --model. Nothing was sent.")
    request = None
    if given.model is not None:
        request = ChatRequest(
            given.model, system=given.system, user=given.prompt, output=schema_in(given.schema),
            max_tokens=given.max_tokens,
        )  # fmt: skip
    same = (
        "name", "conn_id", "provider", "lane", "key", "storage", "destination", "format", "max_cost", "max_rounds",
        "sample", "check_first", "fail_on", "poll_interval", "dry_run",
    )  # fmt: skip
    answers = run(
        given.rows, request, passthrough=columns_in(given.passthrough),
        **{name: getattr(given, name) for name in same},
    )  # fmt: skip
    if given.json:
        Console().print_json(json.dumps({"name": answers.name, "job": answers.job, **answers.summary}))
        return
    if given.dry_run:
        Console().print(answers.summary["message"], markup=False, highlight=False, soft_wrap=True)
    for file in answers.files:
        sys.stdout.write(f"{file}\n")


def columns_in(given: str | None) -> dict[str, str]:
    """``text`` or ``asked=text``, several with commas between: name in the results -> column of the row."""
    pairs = (column.partition("=") for column in filter(None, (given or "").split(",")))
    return {name.strip(): (column or name).strip() for name, _, column in pairs}


def schema_in(file: Path | None) -> Any:
    """:raises InputError: for a file that is no JSON."""
    try:
        return None if file is None else json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"--schema {file}: {error}. Nothing was sent.") from None


def tables() -> Console:
    """Standard output: a terminal has a width; what a program or a file gets is not broken for one."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = UNBROKEN
    return console


def list_jobs(given: argparse.Namespace) -> None:
    from airflow_llm_batch.console.tables import jobs_table

    overview = overview_of(given)
    jobs = [job for job in overview.refresh() if given.state in (None, job.state)]
    if not given.last or len(jobs) < given.last:
        jobs = [job for job in overview.refresh_all() if given.state in (None, job.state)]
    shown = jobs[: given.last or None]
    if given.json:
        dump(shown)
        return
    tables().print(jobs_table(shown))
    if len(shown) < len(jobs):
        Console().print(f"The newest {len(shown):,} of {len(jobs):,}: --last 0 shows all.", style="dim")


def show(given: argparse.Namespace) -> None:
    from airflow_llm_batch.console.tables import batches_table, failures_table, job_table

    job = detail_of(find(overview_of(given), given.job))
    if given.json:
        sys.stdout.write(job.model_dump_json(indent=1) + "\n")
        return
    console = tables()
    console.print(job_table(job))
    console.print(batches_table(job))
    if job.failures:
        console.print(failures_table(job))


def cancel(given: argparse.Namespace) -> int:
    from airflow_llm_batch.console.connecting import hook_for
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.waiting.withdrawal import withdraw

    store = JobStore(find(overview_of(given), given.job).rounds[-1].uri)
    hook = hook_for(store.job(), given.conn_id)
    try:
        done = withdraw(store, hook)
    finally:
        hook.close()
    if given.json:
        sys.stdout.write(json.dumps({**done._asdict(), "message": done.message}) + "\n")
    else:
        on = f"Connection {hook.conn_id!r}, job {store.uri}: {done.message}"
        Console().print(on, markup=False, highlight=False, soft_wrap=True)
    return 0 if done.is_done else 1


def cost(given: argparse.Namespace) -> None:
    from airflow_llm_batch.console.tables import sums_table
    from airflow_llm_batch.jobs.view.sums import summed

    jobs = [job for job in jobs_since(overview_of(given), given.since) if (given.since or "") <= BY["day"](job)]
    sums = [*summed((BY[given.by](job), job) for job in jobs), *summed(("all", job) for job in jobs)]
    if given.json:
        dump(sums)
    else:
        tables().print(sums_table(sums, given.by.capitalize()))


def jobs_since(overview: Overview, day: str | None) -> list[JobView]:
    """The storage's jobs, newest first; where a day is named, few of before.

    :raises InputError: for what is no day.
    """
    from airflow_llm_batch.jobs.view.overview import window

    if day is None:
        return overview.refresh_all()
    try:
        first = date.fromisoformat(day)
    except ValueError:
        raise InputError(f"--since is {day!r}; give a day, as 2026-11-29.") from None
    return overview.refresh(window(overview.today, min(first, overview.today)))


def overview_of(given: argparse.Namespace) -> Overview:
    from airflow_llm_batch.console.run import absolute
    from airflow_llm_batch.jobs.view.overview import Overview

    return Overview(absolute(given.storage))


def detail_of(found: Found) -> JobDetail:
    from airflow_llm_batch.jobs.view.detail import detail

    return detail(found.key, found.rounds)


def dump(models: Sequence[BaseModel]) -> None:
    sys.stdout.write(json.dumps([model.model_dump(mode="json") for model in models], indent=1) + "\n")
