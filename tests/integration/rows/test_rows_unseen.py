"""Rows that would be left out, asked twice, or asked without anything in them, and nobody would see it."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import chat, land, spec, submit

from airflow_llm_batch.data.file_parts import listed
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import InputError, NoRows
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.storage import storage_path


def write(path, text="a"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"text": text}) + "\n")
    return str(path)


def texts(rows):
    return [row["text"] for _, row in read_rows(rows)]


def test_files_below_a_directory_that_has_its_own_are_told_of(tmp_path, caplog):
    """Whether those further down belong to it, libraries do not agree; where it has none, all are read."""
    for name in ("x/1.jsonl", "y/z/2.jsonl", "out.jsonl/part-0.jsonl", "_old/0.jsonl", "notes.txt"):
        write(tmp_path / name, name)
    assert texts(str(tmp_path)) == ["out.jsonl/part-0.jsonl", "x/1.jsonl", "y/z/2.jsonl"]
    assert caplog.text == ""
    write(tmp_path / "3.jsonl", "3")
    assert texts(str(tmp_path)) == texts(f"{tmp_path}/*.jsonl") == ["3"]
    assert "none in the 3 folder(s) below it (out.jsonl, x, y) are read. Say /**/" in caplog.text


@pytest.mark.parametrize("place", ["a.jsonl", "ds=1/a.jsonl"])
def test_what_jobs_write_below_their_rows_is_no_data(connect, tmp_path, place):
    """A retry, and the next night, read what the first try has read: amid its plan, once planned, and landed."""
    write(tmp_path / place)
    store = JobStore(f"file://{tmp_path}/jobs/dag/run/submit/-1")
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        submit(store, hook, spec(str(tmp_path), chat("openai")))
        (tmp_path / "jobs/dag/run/submit/-1/job.json").rename(tmp_path / "job.txt")
        assert texts(str(tmp_path)) == ["a"]
        (tmp_path / "job.txt").rename(tmp_path / "jobs/dag/run/submit/-1/job.json")
        assert texts(str(tmp_path)) == ["a"]
        for kind in ("jsonl", "parquet"):
            land(store, hook, store.job(), tmp_path / "out" / kind, kind)
        assert len(list(tmp_path.rglob("results-*"))) == 2
        assert texts(str(tmp_path)) == ["a"]
        submit(store, hook, spec(str(tmp_path), chat("openai")))
        assert len(emulator.vendor.batches) == 1


@pytest.mark.parametrize("again", ["a.jsonl", "*.jsonl", "", "[a].jsonl"])
def test_a_file_that_is_named_twice_is_refused(tmp_path, again):
    """By its name, by a glob or by its directory: its rows would be billed twice; for partitions too."""
    paths = [write(tmp_path / "a.jsonl"), f"{tmp_path}/{again}"]
    for read in (texts, listed):
        with pytest.raises(InputError, match=r"a\.jsonl twice, .*Nothing was sent"):
            read([storage_path(path) for path in paths])


FIELDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from(' ,"\n'), max_size=3)


@given(st.lists(st.tuples(FIELDS, FIELDS), max_size=5), st.integers(0, 3))
def test_lines_of_separators_are_no_rows(tmp_path_factory, rows, more):
    """Spreadsheets leave them behind; every row that has something in it is read, as it was."""
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("text", "b"), *rows, *[(" ", "")] * more])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(written.getvalue(), "utf-8", newline="")
    found = [(row["text"], row["b"]) for _, row in read_rows(str(path))]
    assert found == [row for row in rows if "".join(row).strip()]


@pytest.mark.parametrize("more", ["", '\n{"scores": {"0": "c", "1": "d"}}\n'])
def test_a_table_by_columns_is_one_object(tmp_path, more):
    """``DataFrame.to_json()`` writes one; a second line makes rows of both."""
    path = tmp_path / "a.json"
    path.write_text('{"scores": {"0": "a", "1": "b"}}' + more)
    if more:
        assert len(list(read_rows(str(path)))) == 2
        return
    with pytest.raises(InputError, match="by columns"):
        list(read_rows(str(path)))


def test_an_empty_field_of_one_column_is_a_row(tmp_path):
    """It was quoted, for an empty line would be none."""
    (tmp_path / "a.csv").write_text('text\na\n""\n\nb\n')
    assert texts(str(tmp_path / "a.csv")) == ["a", "", "b"]


TRAILING = [
    ("id,text,,\n1,a,,\n", [{"id": "1", "text": "a", "": ""}]),
    ("id,text,\n1,a,b\n", [{"id": "1", "text": "a", "": "b"}]),
    (",text\n0,a,\n", [{"": "0", "text": "a"}]),
    ("text\na,, ,\nb\n", [{"text": "a"}, {"text": "b"}]),
    ("id,text,,\n1,a,,x\n", r"line 2 has \d fields"),
    ("id,text\n1,a,x\n", "line 2 has 3 fields"),
    (",text,,\n0,a,,\n", "names '' more than once"),
]


@pytest.mark.parametrize(("content", "rows"), TRAILING)
def test_columns_of_nothing_behind_the_last_are_none(tmp_path, content, rows):
    """Neither in the header nor in a row; what has a value there is refused."""
    (tmp_path / "a.csv").write_text(content)
    if isinstance(rows, str):
        with pytest.raises(InputError, match=rf"{rows}.*Nothing was sent"):
            texts(str(tmp_path / "a.csv"))
    else:
        assert [row for _, row in read_rows(str(tmp_path / "a.csv"))] == rows


def test_nothing_as_the_first_item_is_not_the_end():
    """A task that returned None among others: refused by its place, and not taken for a day without rows."""
    with pytest.raises(InputError, match=r"row 0 is a NoneType") as caught:
        texts([None, {"text": "a"}])
    assert not isinstance(caught.value, NoRows)


TABLE = pd.DataFrame({"text": ["a", "b"], "n": [1, 2]})


@pytest.mark.parametrize("orient", ["columns", "split", "index"])
def test_a_table_by_columns_is_no_row(tmp_path, orient):
    """What ``DataFrame.to_json()`` writes by default would be one row with all of a column in its prompt."""
    TABLE.to_json(tmp_path / "a.json", orient=orient)
    if orient == "columns":
        with pytest.raises(InputError, match=r"orient='records'.*Nothing was sent"):
            texts(str(tmp_path / "a.json"))
    else:
        assert all("text" not in row for _, row in read_rows(str(tmp_path / "a.json")))
    for lines in (True, False):
        TABLE.to_json(tmp_path / "b.json", orient="records", lines=lines)
        assert texts(str(tmp_path / "b.json")) == ["a", "b"]


def test_columns_without_a_name_are_called_by_their_number():
    """As ``read_csv(header=None)`` numbers them; one that would be called as another is refused."""
    frame = pd.DataFrame([["a", "b"], ["c", "d"]])
    assert [row for _, row in read_rows(frame)] == [{"0": "a", "1": "b"}, {"0": "c", "1": "d"}]
    with pytest.raises(InputError, match="more than one column named 1"):
        list(read_rows(frame.set_axis([1, "1"], axis=1)))


UNREADABLE = [
    pa.array([2**62], pa.timestamp("us")),
    pa.array([2**30], pa.date32()),
    pa.array([1], pa.timestamp("us", "No/Zone")),
    pa.array([[2**62]], pa.list_(pa.timestamp("ms"))),
]


@pytest.mark.parametrize("column", UNREADABLE, ids=lambda column: str(column.type))
def test_what_python_has_no_value_for_is_refused_by_its_column(tmp_path, column):
    """From a table and from a file; a column that is not asked for is not read."""
    table = pa.table({"text": ["a"], "at": column})
    pq.write_table(table, tmp_path / "a.parquet")
    for rows in (table, str(tmp_path / "a.parquet")):
        with pytest.raises(InputError, match=r"column 'at' of type .*Nothing was sent"):
            list(read_rows(rows))
    assert [row for _, row in read_rows(str(tmp_path / "a.parquet"), {"text"})] == [{"text": "a"}]
