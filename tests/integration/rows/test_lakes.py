"""Results merged into Delta tables: one commit a landing, each row once."""

from __future__ import annotations

import datetime as dt
import threading
from decimal import Decimal

import msgspec
import pytest
from support.odd import FINE
from support.tasks import drive, next_task, operator

from airflow_llm_batch.data import ChatRequest, DeltaTable
from airflow_llm_batch.data.destinations import destination_of
from airflow_llm_batch.data.kinds import Kinds, kind_of
from airflow_llm_batch.data.raw import without_answer
from airflow_llm_batch.data.sinks import Layout
from airflow_llm_batch.data.values import plain, to_json
from airflow_llm_batch.exceptions import ConfigurationError, InputError, LLMBatchError, Unwritable
from airflow_llm_batch.jobs.options import Target
from airflow_llm_batch.results import Result

deltalake = pytest.importorskip("deltalake")
# The library is large, and installed for these tests alone.
pytestmark = pytest.mark.slow

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"}, "x": {"type": "number"}, "ok": {"type": "boolean"}, "parts": {
            "type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
                                       "additionalProperties": False}},
    },
    "required": ["n", "x", "ok", "parts"],
    "additionalProperties": False,
}  # fmt: skip


class Lake:
    """A table, and what it holds."""

    def __init__(self, tmp_path):
        self.uri = f"{tmp_path}/lake"
        self.table = DeltaTable(self.uri, key="id")

    def rows(self):
        found = deltalake.DeltaTable(self.uri).to_pyarrow_table().to_pylist()
        return sorted(found, key=lambda row: row["id"])

    def types(self):
        import pyarrow as pa

        return {field.name: str(field.type) for field in pa.schema(deltalake.DeltaTable(self.uri).schema().to_arrow())}

    @property
    def version(self):
        return deltalake.DeltaTable(self.uri).version()


@pytest.fixture
def lake(tmp_path):
    return Lake(tmp_path)


def texts(count, start=0):
    return [{"id": f"k{n:03}", "text": f"text {n}", "n": n} for n in range(start, start + count)]


def asked(conn_id, tmp_path, lake, rows, **more):
    given = {"rows": rows, "passthrough": ["n"], "destination": lake.table, "check_first": 0}
    return operator(conn_id, tmp_path, **{**given, **more})


def test_landings_replace_each_other_in_one_commit_each(lake, emulator, connect, context, tmp_path, monkeypatch):
    """Typed columns; fewer and other rows; a kill before the manifest; columns of the user's left alone."""
    from airflow_llm_batch.jobs.directory.store import JobStore

    conn_id = connect(emulator.url)
    request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=200, output=SCHEMA)
    save = JobStore.save_manifest
    monkeypatch.setattr(JobStore, "save_manifest", lambda self, manifest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drive(asked(conn_id, tmp_path, lake, texts(20), request=request), context)
    first = lake.rows()
    assert [row["id"] for row in first] == [f"k{n:03}" for n in range(20)]
    monkeypatch.setattr(JobStore, "save_manifest", save)
    drive(asked(conn_id, tmp_path, lake, texts(20), request=request), context)
    assert lake.rows() == first
    # It was made, and merged twice.
    assert lake.version == 2
    assert len(emulator.vendor.batches) == 1
    types = lake.types()
    assert (types["n"], types["output_n"], types["x"], types["ok"]) == ("int64", "int64", "double", "bool")
    assert types["parts"] == "list<element: struct<a: string>>"
    drive(asked(conn_id, tmp_path, lake, texts(5, start=18), request=request), next_task(context, "other"))
    drive(asked(conn_id, tmp_path, lake, texts(10), request=request), context)
    assert [(row["id"], row["llm_batch_job"].split("/")[2]) for row in lake.rows()] == [
        *((f"k{n:03}", "submit") for n in range(10)),
        *((f"k{n:03}", "other") for n in range(18, 23)),
    ]


def test_what_does_not_fit_is_refused_by_name_before_anything_is_sent(lake, emulator, connect, context, tmp_path):
    """A table with other columns or types, and a row whose value its column does not hold."""
    import pyarrow as pa

    conn_id = connect(emulator.url)
    fields = [("id", pa.string()), ("n", pa.int32()), ("status", pa.string()), ("llm_batch_job", pa.string())]
    deltalake.DeltaTable.create(lake.uri, pa.schema(fields))
    lake.table = DeltaTable(lake.uri, key="id", columns=["n", "status", "text"])
    with pytest.raises(ConfigurationError, match=r"has no column text \(string\).*Nothing was sent"):
        drive(asked(conn_id, tmp_path, lake, texts(3)), context)
    lake.table = DeltaTable(lake.uri, key="id", columns={"n": "n", "status": "row"})
    with pytest.raises(ConfigurationError, match=r"has status as string, where int64 is needed"):
        drive(asked(conn_id, tmp_path, lake, texts(3)), context)
    lake.table = DeltaTable(lake.uri, key="id", columns=["n", "status"])
    with pytest.raises(InputError, match=r"Row 2 .* column n: 4294967296 is no int32"):
        drive(asked(conn_id, tmp_path, lake, [*texts(2), {"id": "k", "text": "a", "n": 2**32}]), context)
    assert not emulator.vendor.batches
    drive(asked(conn_id, tmp_path, lake, texts(3)), context)
    assert [(row["id"], row["n"], row["status"]) for row in lake.rows()] == [
        (f"k{n:03}", n, "succeeded") for n in range(3)
    ]


def test_two_jobs_at_once_lose_nothing(lake, emulator, connect, context, tmp_path):
    """Merges that find others' commits are made anew."""
    conn_id = connect(emulator.url)
    errors = []

    def land(number):
        try:
            rows = [{**row, "text": f"{number} {row['n']}"} for row in texts(60, start=20 * number)]
            drive(asked(conn_id, tmp_path, lake, rows), next_task(context, f"task{number}"))
        except LLMBatchError as error:
            errors.append(error)

    threads = [threading.Thread(target=land, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    rows = lake.rows()
    assert [row["id"] for row in rows] == [f"k{n:03}" for n in range(120)]
    assert all(row["llm_batch_job"].split("/")[2] == f"task{row['text'].split()[0]}" for row in rows)


OWN = {
    "day": dt.date(2026, 1, 2), "at": dt.datetime.fromisoformat("2026-01-02T03:04:05.000678"), "hour": dt.time(3, 4, 5),
    "zoned": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "fine": FINE, "price": Decimal("12345678901234567890.50"),
    "raw_": b"\x00\xff", "tags": ["a", "b"], "flag": True, "mixed": {"a": 1}, "text_": "NUL \0 and \U0001f600",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_values_are_what_they_were(lake, tmp_path, kind):
    """Dates, moments, decimals, bytes, lists, vectors, nulls; an integer of 70 bits is one invalid row."""
    kinds = Kinds(OWN)
    for name, value in OWN.items():
        kinds.columns[name].add(kind_of(plain(value)))
    layout = Layout(SCHEMA, "integer", kinds.seen()[1], answers=("text", "embedding"))
    lake.table.files = f"file://{tmp_path}/files"
    destination = destination_of(Target(lake.table, kind), "")
    writer = destination.begin(layout, "results")
    own = to_json({name: plain(value) for name, value in OWN.items()})
    for number, n in enumerate([1, 2**70, None]):
        output = None if n is None else {"n": n, "x": 0.5, "ok": True, "parts": [{"a": "b"}]}
        given = {"status": "succeeded", "output": output, "text": "hi", "embedding": [0.5, 0.25] if n == 1 else None}
        result = Result(custom_id="c", key=msgspec.Raw(b"%d" % number), row=number, **given)
        columns = msgspec.Raw(own if n == 1 else b"{}")
        try:
            writer.write(result, columns)
        except Unwritable as error:
            writer.write(without_answer(result, str(error), b"the whole line"), columns)
    assert destination.finish(layout, writer.commit(), "o'job").startswith("3 rows merged")
    rows = lake.rows()
    wanted = OWN | {"hour": "03:04:05", "fine": str(FINE), "mixed": '{"a":1}'}
    assert {name: rows[0][name] for name in OWN} == wanted
    assert (rows[0]["n"], rows[0]["parts"], rows[0]["embedding"]) == (1, [{"a": "b"}], [0.5, 0.25])
    assert [row["status"] for row in rows] == ["succeeded", "invalid", "succeeded"]
    assert rows[2]["day"] is None
    assert destination.is_finished("o'job")
    assert not destination.is_finished("another")
    assert destination.withdraw("o'job") == 3
    assert lake.rows() == []
