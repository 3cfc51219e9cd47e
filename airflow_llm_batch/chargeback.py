"""A month of budgets as CSV, for charging back: ``python -m airflow_llm_batch.chargeback 2026-11``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.money.entries import Entry
from airflow_llm_batch.jobs.money.ledger import Ledger

COLUMNS = (
    "period", "scope", "by", "value", "budget_usd", "dag_id", "run_id", "task_id", "conn_id", "job", "reserved_usd",
    "spent_usd", "at",
)  # fmt: skip


def lines(storage: str, month: str) -> Iterator[dict[str, object]]:
    """One line for each job and account of a calendar month: what it has spent, or still holds reserved.

    :param month: ``2026-11``; the accounts of days are those of the month's days.
    """
    ledger = Ledger(storage)
    days = [f"{month}-{day:02d}" for day in range(1, 32)]
    for period in (month, *days):
        for folder in ledger.folders(period):
            held: dict[str, list[Entry]] = {}
            for entry in ledger.entries(folder):
                held.setdefault(entry.job, []).append(entry)
            for job, entries in held.items():
                last = entries[-1]
                yield {
                    "period": last.period,
                    "scope": last.scope,
                    "by": last.by,
                    "value": last.value,
                    "budget_usd": last.limit,
                    "dag_id": last.dag_id,
                    "run_id": last.run_id,
                    "task_id": last.task_id,
                    "conn_id": last.conn_id,
                    "job": job,
                    "reserved_usd": round(max(sum(entry.reserved for entry in entries), 0.0), 9),
                    "spent_usd": round(sum(entry.spent for entry in entries), 9),
                    "at": last.at.isoformat(timespec="seconds"),
                }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m airflow_llm_batch.chargeback", description=__doc__)
    parser.add_argument("month", nargs="?", default=datetime.now(UTC).strftime("%Y-%m"), help="as 2026-11; this one")
    parser.add_argument("--storage", help="object storage URI, [llm_batch] storage by default")
    given = parser.parse_args()
    writer = csv.DictWriter(sys.stdout, COLUMNS)
    writer.writeheader()
    writer.writerows(lines(given.storage or default_storage(), given.month))


if __name__ == "__main__":
    main()
