"""Keys of partitions: whichever of two with one in common reads last refuses it, and sends nothing."""

from __future__ import annotations

import json
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from support import read_jsonl
from support.stores import Bucket
from support.tasks import drive, operator

from airflow_llm_batch.data import partitions
from airflow_llm_batch.data.partitions import Partition
from airflow_llm_batch.data.sql import Sql
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.planning import shared_keys
from airflow_llm_batch.jobs.planning.keys import UniqueKeys
from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys
from airflow_llm_batch.jobs.reuse.buckets import HashBuckets
from airflow_llm_batch.storage import find_files, storage_path

CLASH = r"Duplicate key: row 0 of partition 0/2 and row 0 of partition 1/2 .* the same id.*sent of partition 1/2; 0/2"


@pytest.fixture
def storage(tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/storage"
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", uri)
    return uri


def write_rows(tmp_path, *names):
    """Two files, a partition each; the first row of each has a name that is given."""
    folder = tmp_path / "rows"
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(names):
        ids = [name, *(f"{place}-{n}" for n in range(9))]
        lines = (json.dumps({"id": id_, "text": f"text {id_:5}"}) + "\n" for id_ in ids)
        (folder / f"{place}.jsonl").write_text("".join(lines))
    return f"file://{folder}"


def run_part(context, conn_id, tmp_path, partition, **arguments):
    ti = {"ti": SimpleNamespace(**{**vars(context["ti"]), "map_index": int(partition.partition("/")[0])})}
    return drive(operator(conn_id, tmp_path, partition=partition, **{"key": "id", **arguments}), ti)


def test_a_key_of_two_partitions_is_refused_before_the_second_is_sent(connect, context, storage, tmp_path):
    """The first one goes on, at its retries too; cut anew from rows that were mended, nothing is sent twice."""
    rows = write_rows(tmp_path, "same", "same")
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        first = run_part(context, conn_id, tmp_path, "0/2", rows=rows)
        for _ in range(2):
            with pytest.raises(InputError, match=CLASH):
                run_part(context, conn_id, tmp_path, "1/2", rows=rows)
            assert run_part(context, conn_id, tmp_path, "0/2", rows=rows)["files"] == first["files"]
        assert len(emulator.vendor.batches) == 1
        # Nothing of a plan is left where nothing was planned.
        assert [path for path in find_files(storage_path(storage)) if "/submit/1/" in path] == []
        write_rows(tmp_path, "same", "okay")
        [cut] = (tmp_path / "storage").rglob("cut.json")
        cut.unlink()
        landed = [run_part(context, conn_id, tmp_path, partition, rows=rows) for partition in reversed(partitions(2))]
        assert len(emulator.vendor.batches) == 2
        assert landed[1]["files"] == first["files"]
        keys = [row["key"] for summary in landed for file in summary["files"] for row in read_jsonl(file)]
        assert len(set(keys)) == len(keys) == 20


def test_input_lines_bring_keys_and_row_numbers_are_none(connect, context, storage, tmp_path):
    """A custom_id is compared as a key is; rows without one have numbers that no other partition has."""
    rows = write_rows(tmp_path, "same", "same")
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    line = {"custom_id": "same", "method": "POST", "url": "/v1/chat/completions", "body": body}
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for partition in partitions(2):
            run_part(context, conn_id, tmp_path, partition, rows=rows, key=None)
        assert not list((tmp_path / "storage").rglob("*.keys"))
        context["ti"].task_id = "lines"
        given = {"rows": [line, line], "request": None, "key": None, "passthrough": None}
        given["destination"] = f"file://{tmp_path}/other"
        run_part(context, conn_id, tmp_path, "0/2", **given)
        with pytest.raises(InputError, match="have the same custom_id"):
            run_part(context, conn_id, tmp_path, "1/2", **given)
        assert len(emulator.vendor.batches) == 3


def test_ranges_of_the_key_itself_need_no_look(connect, context, storage, tmp_path, monkeypatch):
    """A query that is cut by its key keeps nothing for the others; cut by another column it does, and is refused."""
    with sqlite3.connect(tmp_path / "shop.db") as db:
        db.execute("create table t (id integer, n integer, text text)")
        db.executemany("insert into t values (?, ?, 'x')", [(n % 9, n) for n in range(10)])
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "shop.db")}))
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        given = {"rows": Sql("shop", "select id, n, text from t", partition_by="n")}
        for partition in partitions(2):
            run_part(context, conn_id, tmp_path, partition, **given, key="n")
        assert not list((tmp_path / "storage").rglob("*.keys"))
        context["ti"].task_id = "other"
        given["destination"] = f"file://{tmp_path}/other"
        run_part(context, conn_id, tmp_path, "1/2", **given)
        with pytest.raises(InputError, match=r"row 4 of partition 1/2 and row 0 of partition 0/2"):
            run_part(context, conn_id, tmp_path, "0/2", **given)
        assert len(emulator.vendor.batches) == 3


def lay_out(bucket, number, count, keys):
    """As planning a partition does: what it raises, or None."""
    partition = Partition(number, count)
    shared = SharedKeys(storage_path(f"{bucket.uri}/keys"), partition)
    with UniqueKeys("id", shared) as unique:
        for place, key in enumerate(keys):
            unique.add(json.dumps(key).encode(), partition.row(place))
        unique.finish()
    try:
        shared.check()
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("most", [shared_keys.MOST, 100, 7])
@pytest.mark.parametrize("seed", range(4))
def test_of_any_two_that_clash_one_is_refused(monkeypatch, most, seed):
    """Twelve partitions at once: nobody without a clash is refused, and those that are left have none; a few keys in
    memory or all of them."""
    monkeypatch.setattr(shared_keys, "MOST", most)
    bucket, draw = Bucket(), random.Random(seed)
    keys = {number: {f"{number}-{n}" for n in range(draw.randint(1, 300))} for number in range(12)}
    clashing = set()
    for clash in range(draw.randint(0, 4)):
        pair = draw.sample(range(12), 2)
        clashing.update(pair)
        for number in pair:
            keys[number].add(f"clash {clash}")
    with ThreadPoolExecutor(12) as pool:
        said = dict(zip(keys, pool.map(lambda one: lay_out(bucket, one[0], 12, one[1]), keys.items()), strict=True))
    refused = {number for number, text in said.items() if text is not None}
    assert refused <= clashing
    left = [key for number in keys if number not in refused for key in keys[number]]
    assert len(left) == len(set(left))
    # Those that are refused have taken their keys back, and nobody is refused for theirs.
    files = {int(name[-10:-5]) for name in find_files(storage_path(bucket.uri)) if name.endswith(".keys")}
    assert files == set(keys) - refused
    for number in files:
        assert lay_out(bucket, number, 12, keys[number]) is None


def test_half_a_hash_is_no_key():
    """Two keys with one half in common are two keys; each row is found by both."""
    bucket = Bucket()
    folder = storage_path(f"{bucket.uri}/keys")

    def lay(number, halves):
        shared = SharedKeys(folder, Partition(number, 2))
        with HashBuckets() as hashes:
            for row, (first, second) in enumerate(halves):
                hashes.add_digest(first * 8 + second * 8, row * 2 + number)
            shared.keep("id", hashes)
        return shared

    lay(0, [(b"a", b"a"), (b"b", b"b")])
    lay(1, [(b"a", b"x"), (b"c", b"b")]).check()
    with pytest.raises(InputError, match="row 1 of partition 0/2 and row 2 of partition 1/2"):
        lay(1, [(b"a", b"x"), (b"c", b"b"), (b"b", b"b")]).check()


def test_what_a_look_asks_of_a_store():
    """A list, and a read of eight bytes a key for each partition that has laid its keys out; two writes for its own."""
    bucket = Bucket()
    for number in range(4):
        assert lay_out(bucket, number, 5, [f"{number}-{n}" for n in range(1000)]) is None
    bucket.asked.clear()
    assert lay_out(bucket, 4, 5, [f"4-{n}" for n in range(1000)]) is None
    kinds = {kind: sum(times for (one, _), times in bucket.asked.items() if one == kind) for kind, _ in bucket.asked}
    assert kinds == {"PUT": 2, "LIST": 1, "GET": 5}
    assert sum(len(data) for key, (data, _) in bucket.files.items() if key.endswith(".keys")) == 5 * (1024 + 8000)
    assert sum(len(data) for key, (data, _) in bucket.files.items() if key.endswith(".rows")) == 5 * 16000
