"""What the pages ask of a store for a look at many jobs, and for the page of a job of many batches.

    python tests/benchmarks/looking.py --jobs 1000 --jobs 10000 --jobs 100000 --shards 1000

The jobs are spread over a hundred days, all landed but the five newest. Each line is one store: local files (opened,
and directories listed), an S3 server (HTTP requests), or the same counted in memory. A look is what a page asks for
every two seconds; the first is that of a process that has just begun, and reads thirty days. ``--shards`` adds a page
of one job.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import object_store, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.counted import bucket_requests, http_requests, local_operations
from support.many_jobs import at_the_vendor, made, uri_of
from support.stores import Bucket

Counting = Callable[[], AbstractContextManager[Any]]
STORES = ("local", "memory", "s3")


@contextmanager
def store(kind: str) -> Iterator[tuple[str, Counting]]:
    """An empty storage's URI, and how what is asked of it is counted."""
    if kind == "memory":
        bucket = Bucket()
        yield f"{bucket.uri}/jobs", lambda: bucket_requests(bucket)
    elif kind == "local":
        with tempfile.TemporaryDirectory(prefix="llm-batch-looking-") as folder:
            yield f"file://{folder}", lambda: local_operations(folder)
    else:
        with object_store() as bucket_uri:
            yield f"{bucket_uri}/jobs", http_requests


def looked(storage: str, counting: Counting, jobs: int) -> list[str]:
    """The cells of one line."""
    from airflow_llm_batch.jobs.view.overview import Overview

    made(storage, jobs)
    clock = [0.0]
    overview = Overview(storage, lambda: time.time() + clock[0])
    cells = []
    for ahead in (0, 2, 301):
        clock[0] += ahead
        began = time.process_time()
        with counting() as asked:
            shown = overview.refresh()
        cells += [f"{asked.total()}", f"{time.process_time() - began:.2f}"]
    return [*cells, f"{len(shown):,}"]


def opened(storage: str, counting: Counting, shards: int) -> list[str]:
    from airflow_llm_batch.jobs.directory.address import JobAddress
    from airflow_llm_batch.jobs.view.detail import detail
    from airflow_llm_batch.jobs.view.overview import Overview

    uri = uri_of(storage, 0, datetime.now(UTC).date())
    at_the_vendor(uri, datetime.now(UTC), shards)
    overview, key = Overview(storage), JobAddress.parse(uri).key
    cells = []
    for _ in range(2):
        began = time.process_time()
        with counting() as asked:
            assert len(detail(key, overview.rounds(key)).timeline) == shards
        took = time.process_time() - began
        listed = sum(times for kind, times in asked.items() if kind.startswith("os."))
        cells += [f"{asked.total() - listed} + {listed}" if listed else f"{asked.total()}", f"{took:.2f}"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, action="append")
    parser.add_argument("--shards", type=int, action="append")
    parser.add_argument("--store", choices=STORES, action="append")
    given = parser.parse_args()
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
    stores = given.store or STORES
    heads = ["jobs", "first look", "CPU s", "a look", "CPU s", "every 5 min", "CPU s", "jobs shown"]
    for kind in stores:
        lines = []
        for jobs in given.jobs or ([] if given.shards else [1000]):
            with store(kind) as (storage, counting):
                lines.append([f"{jobs:,}", *looked(storage, counting, jobs)])
        if lines:
            print(f"\n{kind}\n{table(heads, lines)}", flush=True)
        for shards in given.shards or []:
            with store(kind) as (storage, counting):
                cells = opened(storage, counting, shards)
            print(table([f"{kind}, batches", "a job's page", "CPU s", "again", "CPU s"], [[f"{shards:,}", *cells]]))


if __name__ == "__main__":
    main()
