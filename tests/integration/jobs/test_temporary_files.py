"""What tasks write on their own disk while all else lies in an object store: where, and how many bytes at most."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from support import read_jsonl
from support.footprint import Footprint
from support.stores import Bucket

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.jobs.directory.rows import HELD
from airflow_llm_batch.jobs.landing import side
from airflow_llm_batch.jobs.planning import cutter
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.storage import storage_path

REQUEST = ChatRequest("gpt-5-mini", user="Label: {text}", max_tokens=20)
#: bytes of a column that is passed through
WIDE = 3000


@pytest.fixture
def bucket():
    return Bucket()


@pytest.fixture
def footprint(emulator, tmp_path, monkeypatch):
    """A ``TMPDIR`` of the tasks' own, and who looks at it; the emulator has its files elsewhere."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))

    def looking() -> Footprint:
        return Footprint(folder, allowed=(emulator.vendor.directory,))

    looking.folder = folder
    return looking


def rows(count, width=WIDE):
    return [{"id": n, "text": f"text {n}", "page": f"{n} " * (width // 5)} for n in range(count)]


def sizes(bucket, name):
    """Bytes of every shard's file of that kind."""
    return [len(data) for key, (data, _) in bucket.files.items() if key.rpartition("/")[2].startswith(name)]


def landed(bucket):
    return [
        json.loads(line)
        for key, (data, _) in bucket.files.items()
        if "/out/results-" in key
        for line in data.split(b"\n")
        if line
    ]


def test_a_task_needs_the_disk_of_one_shards_keys_and_columns(emulator, connect, context, bucket, footprint):
    """Submitting writes nothing; a fetch holds one shard's rows below TMPDIR, however many shards there are; nobody
    writes anywhere else, and nothing is left."""
    emulator.vendor.settings.faults.row_errors = 0.2
    given = {"conn_id": connect(emulator.url, limits={"requests": 2000}), "storage": f"{bucket.uri}/jobs"}
    with footprint() as submitting:
        submit = SubmitBatchOperator(
            task_id="s", rows=rows(8000), key="id", passthrough=["page"], request=REQUEST, **given
        )
        handle = submit.execute(context)
        waited = BatchSensor(task_id="w", job=handle, deferrable=False).execute(context)
    with footprint() as fetching:
        summary = FetchResultsOperator(task_id="f", job=waited, destination=f"{bucket.uri}/out").execute(context)
    assert summary["rows"] == len(landed(bucket)) == 8000
    kept = sizes(bucket, "rows-")
    # Three rows were tried first: a shard of their own.
    assert len(kept) == 5
    assert (submitting.temporary, submitting.elsewhere) == (0, set())
    assert HELD < fetching.temporary <= max(kept) < sum(kept) / 3
    assert fetching.elsewhere == set()
    assert list(footprint.folder.iterdir()) == []


def test_shards_are_cut_at_the_bytes_of_what_is_kept_of_their_rows(emulator, connect, context, bucket, monkeypatch):
    """Columns that are passed through may be far larger than what is asked; each row lands all the same, one that is
    larger than the limit too."""
    monkeypatch.setattr(cutter, "MOST_ENTRIES", 50_000)
    given = {"conn_id": connect(emulator.url), "storage": f"{bucket.uri}/jobs"}
    wide = [*rows(100), {"id": 100, "text": "text", "page": "x" * 60_000}]
    submit = SubmitBatchOperator(task_id="s", rows=wide, key="id", passthrough=["page"], request=REQUEST, **given)
    handle = submit.execute(context)
    kept = sorted(sizes(bucket, "rows-"))
    assert len(kept) > sum(kept) // 50_000 > 3
    assert kept[-2] <= 50_000 < kept[-1]
    waited = BatchSensor(task_id="w", job=handle, deferrable=False).execute(context)
    FetchResultsOperator(task_id="f", job=waited, destination=f"{bucket.uri}/out").execute(context)
    assert {row["key"]: row["page"] for row in landed(bucket)} == {row["id"]: row["page"] for row in wide}


def test_answers_bought_once_need_the_disk_of_the_whole_job(emulator, connect, context, bucket, footprint):
    """With a cache the lines wait for what is known of them, and the answers for the landing: bounded by the bytes of
    the job's own files, below TMPDIR alone, and gone afterwards."""
    pytest.importorskip("duckdb")
    given = {"conn_id": connect(emulator.url, limits={"requests": 1000}), "storage": f"{bucket.uri}/jobs"}
    with footprint() as submitting:
        submit = SubmitBatchOperator(
            task_id="s", rows=rows(3000, 300), key="id", request=REQUEST, cache=f"{bucket.uri}/cache", **given
        )
        handle = submit.execute(context)
        waited = BatchSensor(task_id="w", job=handle, deferrable=False).execute(context)
    with footprint() as fetching:
        FetchResultsOperator(task_id="f", job=waited, destination=f"{bucket.uri}/out").execute(context)
    lines = sum(sizes(bucket, "requests-")) + sum(sizes(bucket, "rows-"))
    answers = sum(sizes(bucket, "results-"))
    # 64 bytes a row beside its lines: a head, and a hash with its row.
    assert 0 < submitting.temporary <= lines + 3000 * (64 + 24)
    assert 2**20 < fetching.temporary <= max(sizes(bucket, "rows-")) + 1.5 * answers
    assert submitting.elsewhere == fetching.elsewhere == set()
    assert list(footprint.folder.iterdir()) == []


def test_failures_of_earlier_rounds_do_not_wait_for_the_last_of_them(tmp_path):
    """What is added and need not be forgotten goes into the file a megabyte at a time."""
    file = side.SideFile(storage_path(f"file://{tmp_path}/failed.jsonl"))
    most = 0
    for number in range(5000):
        file.add(json.dumps({"row": number, "message": "m" * 1000}).encode())
        file.keep(side.HELD)
        most = max(most, file.attempt.tell())
    file.keep()
    assert most < side.HELD
    assert [line["row"] for line in read_jsonl(Path(file.commit().removeprefix("file://")))] == list(range(5000))
