"""Rows from Parquet: files, globs and partitioned datasets, the needed columns only, in constant memory."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.jobs import chat, land, spec, submit

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.data.requests import BatchLines
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.planning.encoding import RowSpec, needed_columns


def write(path, count=5, start=0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = range(start, start + count)
    columns = {"id": [f"k{n}" for n in numbers], "text": [f"text {n}" for n in numbers], "wide": ["x" * 100] * count}
    pq.write_table(pa.table(columns), path, **more)
    return f"file://{path}"


def ids(rows, columns=None):
    return [row["id"] for _, row in read_rows(rows, columns)]


def test_files_globs_and_directories(tmp_path):
    """Like any other format; written by others, in small row groups too."""
    one = write(tmp_path / "a" / "1.parquet", row_group_size=2)
    write(tmp_path / "a" / "2.parquet", start=5)
    pl.DataFrame({"id": ["k10"], "text": ["t"]}).write_parquet(tmp_path / "a" / "3.parquet")
    (tmp_path / "a" / "_SUCCESS").touch()
    assert ids(one) == [f"k{n}" for n in range(5)]
    everything = [f"k{n}" for n in range(11)]
    assert ids(f"file://{tmp_path}/a/*.parquet") == ids(f"file://{tmp_path}/a") == everything
    spark = tmp_path / "spark.parquet"
    write(spark / "part-00000.snappy.parquet", compression="snappy")
    assert ids(f"file://{spark}") == [f"k{n}" for n in range(5)]


def test_a_partitioned_dataset_has_its_paths_as_columns(tmp_path):
    """Hive style, nested, escaped, null; a column in the file wins."""
    write(tmp_path / "ds=2026-01-01" / "lang=a%20b" / "0.parquet", 1)
    write(tmp_path / "ds=2026-01-02" / "lang=__HIVE_DEFAULT_PARTITION__" / "0.parquet", 1, 1)
    found = [row for _, row in read_rows(f"file://{tmp_path}", {"id", "ds", "lang"})]
    assert found == [
        {"ds": "2026-01-01", "lang": "a b", "id": "k0"},
        {"ds": "2026-01-02", "lang": None, "id": "k1"},
    ]


def test_only_the_named_columns_are_read(tmp_path):
    """What the template, the key and the pass-through list name; all for rows that are whole requests."""
    uri = write(tmp_path / "a.parquet")
    chat_request = ChatRequest(model="m", system="{a}", messages=None, user="{b} {a}", params={"user": "{c}"})
    assert needed_columns(RowSpec(uri, chat_request, "k", {"x": "y"})) == {"a", "b", "c", "k", "y"}
    assert needed_columns(RowSpec(uri, EmbeddingRequest("m", "{t}"), None, {})) == {"t"}
    assert needed_columns(RowSpec(uri, RawRequest({"input": ["{t}"]}), None, {})) == {"t"}
    assert needed_columns(RowSpec(uri, BatchLines(), None, {})) is needed_columns(RowSpec(uri, None, None, {})) is None
    assert next(row for _, row in read_rows(uri, {"text"})) == {"text": "text 0"}
    assert len(list(read_rows(uri, set()))) == 5


def test_what_cannot_be_read_is_named(tmp_path):
    """A missing column with those there are; a file that is not Parquet; an empty directory."""
    uri = write(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no column 'txt'.*'id', 'text', 'wide'.*Nothing was sent"):
        ids(uri, {"id", "txt"})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(InputError, match=r"Cannot read .*b\.parquet"):
        ids(f"file://{tmp_path}/b.parquet")
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match="No files match"):
        ids(f"file://{tmp_path}/c")


def test_types_of_every_kind_land(hook, provider, store, tmp_path):
    """Dates, decimals, structs and lists become text in a prompt and come back as what they were."""
    table = pa.table(
        {
            "id": [1, 2],
            "text": ["a", None],
            "at": [dt.datetime(2026, 1, 1, 12), None],  # noqa: DTZ001
            "price": [Decimal("1.50"), None],
            "tags": [["x"], []],
            "who": [{"name": "n"}, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    request = chat(provider, user="{text} {at} {price} {tags} {who}")
    submit(store, hook, spec(f"file://{tmp_path}/a.parquet", request, "id", ["at", "price", "tags", "who"]))
    job = store.job()
    assert job.key_kind == "integer"
    _, rows = land(store, hook, job, tmp_path / "out")
    assert rows[0]["text"] == 'a 2026-01-01 12:00:00 1.50 ["x"] {"name":"n"}'
    assert {name: rows[0][name] for name in ("key", "at", "price", "tags", "who")} == {
        "key": 1, "at": "2026-01-01T12:00:00", "price": "1.50", "tags": ["x"], "who": {"name": "n"},
    }  # fmt: skip
    manifest, _ = land(store, hook, job, tmp_path / "parquet", "parquet")
    landed = pq.read_table(manifest.files[0].removeprefix("file://")).to_pylist()
    assert [(row["key"], row["at"], row["price"], row["tags"], row["who"]) for row in landed] == [
        (1, dt.datetime(2026, 1, 1, 12), Decimal("1.50"), ["x"], '{"name":"n"}'),  # noqa: DTZ001
        (2, None, None, [], None),
    ]


def test_memory_does_not_grow_with_the_row_group(tmp_path):
    """One row group of 150 MB of other columns and 40 MB of ours is walked through in a few megabytes."""
    count, text = 400_000, "word " * 20
    table = pa.table(
        {"text": pa.array([text] * count), "id": range(count), "wide": [f"{n:0400d}" for n in range(count)]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=count, use_dictionary=False, compression="none")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    code = """
import sys
from pathlib import Path
from airflow_llm_batch.data.sources import read_rows
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
rows = read_rows(sys.argv[1], {"id", "text"})
next(rows)
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
count = 1 + sum(1 for _ in rows)
print(count, status("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"file://{tmp_path}/a.parquet"], capture_output=True, text=True, check=True
    )
    read, grown = done.stdout.split()[-2:]
    assert int(read) == count
    assert float(grown) < 30
