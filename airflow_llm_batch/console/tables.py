"""Jobs as tables on a terminal, read as the pages in Airflow's UI read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from airflow_llm_batch.console.places import key_of, label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_llm_batch.jobs.view.detail import JobDetail
    from airflow_llm_batch.jobs.view.job import JobView
    from airflow_llm_batch.jobs.view.sums import Sum

COLOURS = {
    "landed": "green", "with_failures": "yellow", "failed": "red", "running": "cyan", "ended": "cyan",
    "cancelling": "yellow", "cancelled": "dim", "planned": "dim", "replaced": "dim",
    "over_budget": "red",
}  # fmt: skip
#: failed rows, and batches, that are shown one by one
MOST = 20


def jobs_table(jobs: Sequence[JobView]) -> Table:
    """A job a line, newest first."""
    table = Table(
        Whole("Job"), "Provider, model", Column("Rows"), Column("Failed"), "State", Column("Age"), Column("Cost")
    )
    for job in jobs:
        state = Text(job.words, style=COLOURS.get(job.state, ""))
        asked = f"{job.provider} {', '.join(job.models)}"
        rows = f"{job.done:,} / {job.rows:,}"
        table.add_row(text(label(key_of(job))), text(asked), rows, f"{job.failed:,}", state, age(job), cost(job))
    return table


def job_table(job: JobDetail) -> Table:
    """A job in full: facts in two columns."""
    table = Table("", Whole(""), show_header=False, box=None)
    facts: dict[str, Any] = {
        "Job": label(key_of(job)),
        "Lies at": job.uri,
        "State": job.words,
        "Provider": f"{job.provider} {', '.join(job.models)}, connection {job.conn_id}, lane {job.lane}",
        "Rows": f"{job.done:,} of {job.rows:,} done, {job.failed:,} failed",
        "Status": ", ".join(f"{rows:,} {status}" for status, rows in (job.counts or {}).items() if rows),
        "Planned": f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC, {age(job)} ago",
        "Landed": f"{job.landed_at:%Y-%m-%d %H:%M:%S} UTC" if job.landed_at else "not yet",
        "Cost": cost(job),
        "Why rows failed": "\n".join(f"{r.rows:,} x {r.code or r.status}: {r.message or ''}" for r in job.reasons),
        "Files": "\n".join(job.files[:MOST]),
    }
    for name, value in facts.items():
        if value:
            table.add_row(Text(name, style="dim"), text(str(value)))
    return table


def batches_table(job: JobDetail) -> Table:
    table = Table("Batch", Whole("Vendor's id"), "State", Column("Rows"), Column("Done"), Column("Failed"))
    for shard in job.timeline[:MOST]:
        name = f"{shard.index + 1}" + (f", round {shard.round}" if shard.round > 1 else "")
        state = shard.outcome or shard.status or shard.state
        done = "" if shard.succeeded is None else f"{shard.succeeded + (shard.failed or 0):,}"
        ident = text(shard.batch_id or "not created yet")
        table.add_row(name, ident, text(state), f"{shard.rows:,}", done, f"{shard.failed or 0:,}")
    return table


def failures_table(job: JobDetail) -> Table:
    table = Table(Column("Row"), "Key", "Status", "Reason")
    for row in job.failures[:MOST]:
        reason = ": ".join(filter(None, [row.error_code, row.error_message]))
        table.add_row(f"{row.row:,}", text(row.key), row.status, text(reason))
    return table


def sums_table(sums: Sequence[Sum], name: str) -> Table:
    """What jobs came to, a name a line, and all of them together."""
    counted = (Column(head) for head in ("Jobs", "Rows", "Tokens"))
    paid = (Column(head, len("$0.000001")) for head in ("Dollars", "At work", "Saved"))
    table = Table(Whole(name), *counted, *paid, Column("Cost unknown"), show_edge=False)
    for line in sums:
        counts = (line.jobs, line.rows, line.tokens)
        money = (
            usd(line.cost_usd),
            f"at most {usd(line.committed_usd)}" if line.committed_usd else "",
            usd(line.saving_usd),
        )
        table.add_row(text(line.name), *(f"{n:,}" for n in counts), *money, f"{line.unknown:,}" if line.unknown else "")
    return table


def Column(head: str, least: int | None = None) -> Any:  # noqa: N802  (rich's own name for it)
    """A column of numbers, which are broken, and never cut, where the terminal is too narrow."""
    from rich.table import Column as Plain

    return Plain(head, justify="right", overflow="fold", min_width=least)


def Whole(head: str) -> Any:  # noqa: N802
    """A column of names that are copied: they are broken, and never cut."""
    from rich.table import Column as Plain

    return Plain(head, overflow="fold")


def text(given: str) -> Text:
    """What others wrote, with no meaning to a terminal: no markup, and no control characters."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in given))


def usd(amount: float) -> str:
    if amount >= 1 or not amount:
        return f"${amount:,.2f}"
    # A first trial of a few rows costs something too.
    return f"${amount:,.4f}" if amount >= 0.01 else f"${amount:,.6f}"


def cost(job: JobView) -> str:
    """What was paid, or what it may cost at most."""
    if job.landed_at is not None:
        return "unknown" if job.cost_usd is None else usd(job.cost_usd)
    return "unknown" if job.estimated_cost_usd is None else f"at most {usd(job.estimated_cost_usd)}"


def age(job: JobView) -> str:
    seconds = (datetime.now(UTC) - job.created_at).total_seconds()
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
