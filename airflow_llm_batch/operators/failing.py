"""When unsuccessful rows fail the task that has landed them."""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable


def check_failures(summary: dict[str, Any], uri: str, fail_on: Any) -> None:
    """Fail the task when too many rows did not succeed.

    :param summary: of what was landed.

    :raises ResultsUnusable: with counts and reasons; everything was landed.
    """
    share = failing_share(fail_on)
    rows = summary["rows"]
    failed = rows - summary["counts"]["succeeded"]
    if share is not None and failed and failed >= share * rows:
        raise ResultsUnusable(
            f"{failed:,} of {rows:,} rows did not succeed, which fail_on={fail_on!r} does not accept. "
            f"{summary['message']} Everything was landed: {uri}"
        )


def failing_share(fail_on: Any) -> float | None:
    """``fail_on`` as the share of unsuccessful rows that fails the task, None for never.

    :raises ConfigurationError: for anything that is not one.
    """
    named = {"any": 0.0, "all": 1.0, "none": None}
    if fail_on in named:
        return named[fail_on]
    try:
        share = float(fail_on)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigurationError(f"fail_on is {fail_on!r}; give 'any', 'all', 'none' or a share between 0 and 1.")
    return share
