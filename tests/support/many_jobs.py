"""A storage of many jobs, made cheaply: their index as days of landings leave it, and directories of those at work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from airflow_llm_batch.jobs.directory.address import JobAddress, JobKey
from airflow_llm_batch.jobs.directory.index import (
    IndexEntry,
    announce,
    end_of,
    index_root,
    moment,
    note_checked,
    write_pack,
)
from airflow_llm_batch.jobs.view.files import RoundFiles
from airflow_llm_batch.jobs.view.job import view
from airflow_llm_batch.models import Job, Progress, Shard, ShardProgress
from airflow_llm_batch.results import LandedRound, Manifest
from airflow_llm_batch.storage import storage_path, write_whole

ROWS = 100


def plan(uri, created_at, shards=1):
    address = JobAddress.parse(uri)
    key = address.key
    return Job(
        id="0" * 8, fingerprint="f", provider="openai", conn_id="llm", created_at=created_at, rows=ROWS * shards,
        shards=tuple(Shard(index=n, endpoint="/v1/chat/completions", rows=ROWS, token="t") for n in range(shards)),
        dag_id=key.dag_id, run_id=key.run_id, task_id=key.task_id,
    )  # fmt: skip


def landing(uri, landed_at):
    return Manifest(
        job=uri, destination="file:///out", files=[], rows=ROWS, counts={"succeeded": ROWS}, dropped={},
        input_tokens=1000, cached_tokens=0, output_tokens=100, cost_usd=0.01, sync_cost_usd=0.02, saving_usd=0.01,
        batches=["batch"], provider="openai", models=["gpt-5-mini"], landed_at=landed_at,
        rounds=[
            LandedRound(
                round=1, job=uri, rows=ROWS, succeeded=ROWS, input_tokens=1000, output_tokens=100, cost_usd=0.01,
                sync_cost_usd=0.02, saving_usd=0.01, estimated_cost_usd=0.02,
            )
        ],
    )  # fmt: skip


def shown_landed(uri, at):
    """A landed job's view, as JSON."""
    address = JobAddress.parse(uri)
    rounds = [RoundFiles(uri, job=plan(uri, at), manifest=landing(uri, at + timedelta(minutes=30)))]
    return view(address.key, rounds).model_dump_json().encode()


def uri_of(storage, number, day):
    return "/".join([storage, *JobKey(f"dag-{number % 20}", f"run-{day.isoformat()}-{number}", "ask", "-1")])


def made(storage, jobs, days=100, at_work=5):
    """Jobs spread evenly over so many days, all landed but the newest; those of earlier days are in packs, the others
    in entries of their own.
    """
    now = datetime.now(UTC)
    root, each = index_root(storage), jobs // days
    for back in range(1, days):
        day = (now - timedelta(days=back)).date()
        noon = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=12)
        like = msgspec.json.decode(shown_landed(uri_of(storage, 0, day), noon))
        write_pack(root, day, (entry_like(like, uri_of(storage, number, day), day) for number in range(each)))
    note_checked(root, moment())
    for number in range(each):
        uri = uri_of(storage, number, now.date())
        announce(JobAddress.parse(uri))
        if number < at_work:
            at_the_vendor(uri, now)
        else:
            announce(JobAddress.parse(uri), shown_landed(uri, now))


def entry_like(like, uri, day):
    key = JobAddress.parse(uri).key
    own = {**like, "uri": uri, "dag_id": key.dag_id, "run_id": key.run_id}
    return IndexEntry("/".join(key), end_of(day) - 1000, msgspec.Raw(msgspec.json.encode(own)))


def at_the_vendor(uri, at, shards=1):
    """The directory of a job that runs."""
    root = storage_path(uri)
    write_whole(root / "job.json", plan(uri, at, shards).dump())
    for number in range(shards):
        for fact in ("intent", "created"):
            write_whole(root / f"shards/{number:05d}/try-1/{fact}.json", b"{}")
    shown = {n: ShardProgress(batch=f"batch-{n}", status="in_progress", total=ROWS, succeeded=3) for n in range(shards)}
    write_whole(root / "progress.json", Progress(at=datetime.now(UTC).timestamp(), shards=shown).dump())
