"""Rows, job directory and results in a real S3 server."""

from __future__ import annotations

import gzip
import json
import threading

import pytest
from support import MODELS
from support.s3 import s3_server

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.storage import check_writable, create_exclusive, read_small, storage_path, whole_file

pytest.importorskip("moto")


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """An empty bucket and the connection in its URI."""
    extra = {"endpoint_url": server, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_S3", json.dumps(connection))
    name = f"b{abs(hash(str(tmp_path)))}"
    storage_path(f"s3://s3@{name}").fs.mkdir(name)
    return f"s3://s3@{name}"


def test_a_whole_job_lives_in_s3(emulator, provider, connect, context, bucket):
    """Source, plan, shards and results: nothing but S3 and the vendor."""
    for part in range(2):
        lines = b"".join(json.dumps({"id": f"{part}-{n}", "text": f"text {n}"}).encode() + b"\n" for n in range(30))
        with whole_file(storage_path(f"{bucket}/in/part-{part}.jsonl.gz")) as file:
            file.write(gzip.compress(lines))
    submit = SubmitBatchOperator(
        task_id="s",
        conn_id=connect(emulator.url, provider, limits={"requests": 25}),
        rows=f"{bucket}/in/*.jsonl.gz",
        key="id",
        request=ChatRequest(MODELS[provider], max_tokens=20),
        storage=f"{bucket}/jobs",
    )
    handle = submit.execute(context)
    assert submit.execute(context) == handle
    waited = BatchSensor(task_id="w", job=handle, deferrable=False).execute(context)
    summary = FetchResultsOperator(task_id="f", job=waited, destination=f"{bucket}/out").execute(context)
    assert summary["counts"]["succeeded"] == 60
    assert len(summary["files"]) == 3
    landed = {row["key"]: row["text"] for _, row in read_rows(f"{bucket}/out/")}
    assert landed == {f"{part}-{n}": f"text {n}" for part in range(2) for n in range(30)}
    assert len(emulator.vendor.batches) == 3


def test_one_of_many_writers_creates(bucket):
    """Exclusive creation is the store's own: sixteen at once, one winner, one content."""
    path, won = f"{bucket}/race/intent.json", []
    threads = [
        threading.Thread(target=lambda n=n: won.append(n) if create_exclusive(storage_path(path), b"%d" % n) else None)
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_small(storage_path(path)) == b"%d" % won[0]


@pytest.mark.parametrize("size", [3, 9_000_000, 20_000_000])
def test_an_exception_publishes_nothing(bucket, size):
    """Small and multipart: a file that was not finished is not there."""
    path = storage_path(f"{bucket}/half")

    def break_off():
        with whole_file(path) as file:
            file.write(b"x" * size)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert read_small(path) is None


def test_another_processes_files_are_seen(bucket, server):
    """Listings and sizes are not remembered from before."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id="t", aws_secret_access_key="t", region_name="us-east-1"
    )
    name = bucket.rpartition("@")[2]
    for count in (1, 2, 3):
        client.put_object(Bucket=name, Key=f"d/{count}.jsonl", Body=b'{"n": 1}\n' * count)
        client.put_object(Bucket=name, Key="d/0.jsonl", Body=b'{"n": 0}\n' * count)
        assert len(list(read_rows(f"{bucket}/d/*.jsonl"))) == sum(range(1, count + 1)) + count


def test_a_bucket_that_does_not_exist_is_told_before_anything_is_sent(bucket):
    """The destination check writes for real."""
    with pytest.raises(ConfigurationError, match=r"Cannot write to s3://.*Nothing was sent"):
        check_writable(storage_path("s3://s3@no-such-bucket-here/out"))
