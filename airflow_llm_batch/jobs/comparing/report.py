"""A comparison as tables in the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_llm_batch.results import usd

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.compared import ComparedModel, Comparison

#: of each model
HEADS = ("succeeded", "invalid", "refused", "other", "cost", "seconds")


def report(comparison: Comparison) -> str:
    """All of it, for people."""
    lines = [f"{len(comparison.models)} models compared over {comparison.rows:,} rows:"]
    lines += table(["model", *HEADS, *accuracies(comparison)], [row(model) for model in comparison.models])
    if comparison.fields:
        agreed = [[f.field or "answer", f"{f.rows:,}", percent(f.share), number(f.kappa)] for f in comparison.fields]
        lines += ["", *table(["field", "rows that all answered", "the same", "kappa"], agreed)]
        share = comparison.disagreed / comparison.answered if comparison.answered else None
        lines += ["", f"They disagree about {comparison.disagreed:,} rows ({percent(share)})."]
    if comparison.disagreements:
        lines[-1] += f" These are in {comparison.disagreements}"
    return "\n".join(lines)


def row(model: ComparedModel) -> list[str]:
    shares = model.shares
    named = [shares.get(status, 0.0) for status in ("succeeded", "invalid", "refused")]
    seconds = "" if model.seconds is None else f"{model.seconds:,.0f}"
    return [
        model.name,
        *map(percent, named),
        percent(max(1 - sum(named), 0.0)),
        "unknown" if model.cost_usd is None else usd(model.cost_usd),
        seconds,
        *(f"{percent(found.share)} of {found.rows:,}" for found in model.accuracy),
    ]


def accuracies(comparison: Comparison) -> list[str]:
    """What each model is measured by, as a column is headed."""
    return [f"right, by {found.column}" for found in comparison.models[0].accuracy]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for line in (heads, *rows):
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        lines.append("  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return lines


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
