"""Rows, job directory and results in real object stores."""

from __future__ import annotations

import gzip
import json
import threading

import pytest
from support import MODELS

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.data.partitions import Partition
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.exceptions import ConfigurationError, InputError
from airflow_llm_batch.jobs.directory import exclusive
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.planning.keys import UniqueKeys
from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.storage import (
    PART,
    WholeFile,
    check_writable,
    create_exclusive,
    find_files,
    open_blocks,
    read_small,
    storage_path,
    whole_file,
    write_whole,
)

WRITERS, RACES = 16, 8


def put_rows(uri, parts=2, each=30, size=0):
    """Files of rows, packed; what is to be landed of them, by key."""
    landed = {}
    for part in range(parts):
        texts = {f"{part}-{n}": f"text {n}{' word' * (size // 5)}" for n in range(each)}
        lines = (json.dumps({"id": key, "text": text}).encode() + b"\n" for key, text in texts.items())
        with whole_file(storage_path(f"{uri}/part-{part}.jsonl.gz")) as file:
            file.write(gzip.compress(b"".join(lines)))
        landed |= texts
    return landed


def run_batch(context, rows, storage, destination, conn_id, provider="openai", cap=20):
    """A job in three tasks, the first one twice; returns its handle and the summary."""
    submit = SubmitBatchOperator(
        task_id="s",
        conn_id=conn_id,
        rows=rows,
        key="id",
        request=ChatRequest(MODELS[provider], max_tokens=cap),
        storage=storage,
    )
    handle = submit.execute(context)
    assert submit.execute(context) == handle
    waited = BatchSensor(task_id="w", job=handle, deferrable=False).execute(context)
    return handle, FetchResultsOperator(task_id="f", job=waited, destination=destination).execute(context)


def landed_in(uri):
    """Key -> text; each key once."""
    rows = [row for _, row in read_rows(f"{uri}/")]
    landed = {row["key"]: row["text"] for row in rows}
    assert len(landed) == len(rows)
    return landed


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_whole_job_lives_in_a_store(emulator, provider, connect, context, bucket):
    """Source, plan, shards and results: nothing but the store and the vendor."""
    expected = put_rows(f"{bucket}/in")
    conn_id = connect(emulator.url, provider, limits={"requests": 25})
    _, summary = run_batch(context, f"{bucket}/in/*.jsonl.gz", f"{bucket}/jobs", f"{bucket}/out", conn_id, provider)
    assert summary["counts"]["succeeded"] == 60
    assert len(summary["files"]) == 3
    assert landed_in(f"{bucket}/out") == expected
    assert len(emulator.vendor.batches) == 3


def test_a_job_of_large_files_lives_in_a_store(emulator, connect, context, bucket, kind, running_store):
    """Requests and results of more than one part are uploaded in parts, and read in ranges."""
    expected = put_rows(f"{bucket}/in", parts=1, each=50, size=PART // 45)
    places = (f"{bucket}/in/*.jsonl.gz", f"{bucket}/jobs", f"{bucket}/out")
    handle, summary = run_batch(context, *places, connect(emulator.url), cap=100_000)
    [requests] = [path for path in find_files(storage_path(handle["job"])) if "/requests-" in path]
    [results] = summary["files"]
    for path in (storage_path(bucket).fs.info(requests), storage_path(bucket).fs.info(storage_path(results).path)):
        assert path["size"] > PART
    assert landed_in(f"{bucket}/out") == expected
    assert running_store(kind).unfinished(bucket.rpartition("@")[2]) == []


def test_rows_called_online_live_in_a_store(emulator, connect, context, bucket):
    """The journal of calls, too; a second run of the task calls nobody."""
    expected = put_rows(f"{bucket}/in")
    operator = CompletionOperator(
        task_id="c",
        conn_id=connect(emulator.url),
        rows=f"{bucket}/in/*.jsonl.gz",
        key="id",
        request=ChatRequest(MODELS["openai"], max_tokens=20),
        storage=f"{bucket}/jobs",
        destination=f"{bucket}/out",
    )
    summary = operator.execute(context)
    assert summary["counts"]["succeeded"] == 60
    assert operator.execute(context)["counts"] == summary["counts"]
    assert landed_in(f"{bucket}/out") == expected
    assert emulator.vendor.calls["POST /v1/chat/completions"] == 60


@pytest.mark.slow
@pytest.mark.parametrize("places", [("s3", "gcs", "azure"), ("azure", "s3", "gcs"), ("gcs", "azure", "s3")])
def test_rows_job_and_results_live_in_a_store_each(emulator, connect, context, new_bucket, places):
    """One job, three vendors' storage, three connections."""
    rows, jobs, results = map(new_bucket, places)
    expected = put_rows(f"{rows}/in")
    conn_id = connect(emulator.url, limits={"requests": 25})
    handle, summary = run_batch(context, f"{rows}/in/", f"{jobs}/jobs", f"{results}/out", conn_id)
    assert landed_in(f"{results}/out") == expected
    assert len(emulator.vendor.batches) == 3
    assert handle["job"].startswith(f"{jobs}/jobs")
    assert all(file.startswith(f"{results}/out") for file in summary["files"])
    for bucket, folder in ((rows, "in"), (jobs, "jobs"), (results, "out")):
        root = storage_path(bucket)
        start = root.path.rstrip("/") + "/"
        assert {path.removeprefix(start).partition("/")[0] for path in find_files(root)} == {folder}


def test_keys_of_partitions_are_compared_in_a_store(bucket):
    """Laid out, listed and read: the second of two that have a key in common is refused, and takes its own back."""
    folder = storage_path(f"{bucket}/keys")
    for number, clash in ((0, b'"a"'), (1, b'"b"'), (2, b'"a"')):
        partition = Partition(number, 3)
        shared = SharedKeys(folder, partition)
        with UniqueKeys("id", shared) as keys:
            for row, key in enumerate([*(b'"%d-%d"' % (number, row) for row in range(500)), clash]):
                keys.add(key, partition.row(row))
            keys.finish()
        if number < 2:
            shared.check()
    with pytest.raises(InputError, match="row 500 of partition 0/3 and row 500 of partition 2/3"):
        shared.check()
    left = {path.rpartition("/")[2] for path in find_files(folder)}
    assert {name for name in left if name.endswith(".keys")} == {"00000.keys", "00001.keys"}


def test_one_of_many_writers_creates(bucket):
    """Exclusive creation is the store's own: sixteen at once, one winner, one content."""
    for race in range(RACES):
        uri, won, start = f"{bucket}/race-{race}/intent.json", [], threading.Barrier(WRITERS)

        def write(number, uri=uri, won=won, start=start):
            path = storage_path(uri)
            start.wait()
            if create_exclusive(path, b"%d" % number):
                won.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert read_small(storage_path(uri)) == b"%d" % won[0]


def test_an_honest_store_is_not_suspected(bucket):
    """All three refuse a second create, and say it in a way that is understood."""
    exclusive.tried.clear()
    exclusive.check_exclusive(f"{bucket}/jobs")
    assert f"{bucket}/jobs" in exclusive.tried


@pytest.mark.slow
def test_a_look_alike_that_ignores_preconditions_is_refused_at_the_first_job(
    emulator, connect, context, new_bucket, monkeypatch, caplog
):
    """Nothing is sent, and the message says what to do; by choice it is used, with a warning."""
    bucket = new_bucket("forgetful")
    put_rows(f"{bucket}/in")
    given = (context, f"{bucket}/in/", f"{bucket}/jobs", f"{bucket}/out", connect(emulator.url))
    with pytest.raises(ConfigurationError, match=r"ignores preconditions.*_creation = waived.*Nothing was sent"):
        run_batch(*given)
    assert not emulator.vendor.calls
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__EXCLUSIVE_CREATION", "waived")
    assert run_batch(*given)[1]["counts"]["succeeded"] == 60
    assert "ignores preconditions" in caplog.text


@pytest.mark.parametrize("size", [0, 3, 9_000_000, 20_000_000])
def test_an_exception_publishes_nothing(bucket, kind, size, running_store):
    """Small and multipart: a file that was not finished is not there, and neither are its parts."""
    path = storage_path(f"{bucket}/half")

    def break_off():
        with whole_file(path) as file:
            file.write(b"x" * size)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert read_small(path) is None
    assert find_files(storage_path(bucket)) == []
    assert running_store(kind).unfinished(bucket.rpartition("@")[2]) == []


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
def test_what_is_written_is_read(bucket, size):
    """Also where a file ends with a part; written anew it holds nothing of before."""
    path, data = storage_path(f"{bucket}/file"), bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    write_whole(path, b"what was there before")
    with whole_file(path) as file:
        for place in range(0, size, 300_000):
            file.write(data[place : place + 300_000])
    assert read_small(path) == data
    with open_blocks(path) as file:
        assert file.read() == data


def test_another_processes_files_are_seen(new_bucket, running_store):
    """Listings and sizes are not remembered from before."""
    from support.s3 import s3_client

    bucket = new_bucket("s3")
    client, name = s3_client(running_store("s3").url), bucket.rpartition("@")[2]
    for count in (1, 2, 3):
        client.put_object(Bucket=name, Key=f"d/{count}.jsonl", Body=b'{"n": 1}\n' * count)
        client.put_object(Bucket=name, Key="d/0.jsonl", Body=b'{"n": 0}\n' * count)
        assert len(list(read_rows(f"{bucket}/d/*.jsonl"))) == sum(range(1, count + 1)) + count


def test_a_bucket_that_does_not_exist_is_told_before_anything_is_sent(bucket):
    """The destination check writes for real."""
    store = bucket.rpartition("@")[0]
    with pytest.raises(ConfigurationError, match=r"(?s)Cannot write to .*Nothing was sent"):
        check_writable(storage_path(f"{store}@no-such-bucket-here/out"))


def begin(uri, size=2 * PART):
    """A file as a killed process leaves it: begun, large, and never finished."""
    file = WholeFile(storage_path(uri))
    file.write(b"x" * size)
    file.finish()


@pytest.mark.parametrize("name", ["out", "jobs"])
def test_a_landing_takes_away_what_was_left_unfinished(emulator, connect, context, bucket, kind, running_store, name):
    """Where it lands, what is named as its own; in its job directory, all. What is somebody else's stays."""
    put_rows(f"{bucket}/in", parts=1)
    where, conn_id = bucket.rpartition("@")[2], connect(emulator.url)
    given = (f"{bucket}/in/", f"{bucket}/jobs", f"{bucket}/out", conn_id)
    handle, summary = run_batch(context, *given)
    [landed] = summary["files"]
    others = f"{bucket}/out/others.jsonl"
    mine = landed if name == "out" else f"{handle['job']}/shards/00000/rows-0.jsonl"
    before = find_files(storage_path(bucket))
    for uri in (mine, others):
        begin(uri)

    def left():
        keys = [key for key, _ in running_store(kind).unfinished(where)]
        return {*keys, *find_files(storage_path(bucket))} - {*before}

    begun = left()
    run_batch(context, *given)
    assert not any(mine.rpartition("/")[2] in one for one in left())
    assert {one for one in left() if "others" in one} == {one for one in begun if "others" in one}
    if kind != "gcs":
        assert len(begun) == 2


def test_a_removed_directory_leaves_no_upload_behind(emulator, connect, context, new_bucket, running_store):
    """Parts in S3 are in no listing of files, and are billed until they are aborted."""
    bucket = new_bucket("s3")
    job = JobStore(f"{bucket}/jobs/dag/run/task/-1")
    begin(f"{job.uri}/shards/00000/rows-0.jsonl")
    begin(f"{bucket}/jobs/dag/run/task/-12/shards/00000/rows-0.jsonl")
    assert len(running_store("s3").unfinished(bucket.rpartition("@")[2])) == 2
    job.remove()
    [(key, _)] = running_store("s3").unfinished(bucket.rpartition("@")[2])
    assert "/-12/" in key
    JobStore(f"{bucket}/jobs/dag/run/task/-12").remove()
    assert running_store("s3").unfinished(bucket.rpartition("@")[2]) == []
