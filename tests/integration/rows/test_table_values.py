"""What a column holds: whatever vendors answer and rows carry is in the table once, as the files have it."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import uuid
from decimal import Decimal

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import read_jsonl
from support.odd import FINE, cells, encoded, fields

from airflow_llm_batch.data import Table
from airflow_llm_batch.data.destinations import destination_of
from airflow_llm_batch.data.kinds import Kinds, kind_of
from airflow_llm_batch.data.raw import without_answer
from airflow_llm_batch.data.sinks import Layout
from airflow_llm_batch.data.tables.sql import SqlTable
from airflow_llm_batch.data.values import plain, to_json
from airflow_llm_batch.exceptions import InputError, Unwritable
from airflow_llm_batch.jobs.options import Target
from airflow_llm_batch.providers.json_lines import legal
from airflow_llm_batch.results import Result

SCHEMA = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "s": {"type": "string"},
        "deep": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}},
                                            "required": ["a"], "additionalProperties": False}},
        "any": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    },
    "required": ["n", "x", "s", "deep", "any"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def conn_id(request, tmp_path, monkeypatch):
    connection = json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "values.db")})
    if request.param == "postgres":
        connection = request.getfixturevalue("postgres")
    monkeypatch.setenv("AIRFLOW_CONN_DWH", connection)
    run("drop table if exists values_")
    return request.param


def run(statement):
    with SqlTable(Table("dwh", "values_", key="id"), "").engine() as engine, engine.begin() as connection:
        found = connection.execute(sa.text(statement))
        return [dict(row._mapping) for row in found] if found.returns_rows else []


def landed(tmp_path, records, layout, *, kind="jsonl", job="job", **more):
    """Land records as a landing does, and load them; the table's rows, and the files."""
    table = Table("dwh", "values_", **{"key": "id", "files": f"file://{tmp_path}/files", **more})
    destination = destination_of(Target(table, kind), "file:///nowhere")
    writer = destination.begin(layout, "results")
    for result, columns in records:
        try:
            writer.write(result, columns)
        except Unwritable as error:
            writer.write(without_answer(result, str(error), b"the whole line"), columns)
    files = writer.commit()
    destination.finish(layout, files, job)
    return run("select * from values_ order by id"), files


def record(number, columns=None, **more):
    given = {"key": msgspec.Raw(b"%d" % number), "row": number, "status": "succeeded", **more}
    return Result(custom_id=f"j-{number}", **given), msgspec.Raw(to_json(columns or {}))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(fields, cells), min_size=1, max_size=20),
    st.sampled_from([None, SCHEMA]),
    st.booleans(),
    st.sampled_from(["jsonl", "parquet"]),
)
def test_every_odd_record_is_in_the_table_once(conn_id, tmp_path, odd, schema, several, kind):
    """Texts with NUL and half a surrogate pair, integers of any size, NaN, whatever nests: no row is lost, none stops
    the others, and the table says of each what its file says."""
    run("drop table if exists values_")
    kinds, records = Kinds(["v"]), []
    for number, (given_fields, cell) in enumerate(odd):
        cell = encoded(cell)
        if kind == "jsonl":
            # As landing has it: halves of surrogate pairs are made legal before a line is written.
            given_fields = {name: legal(v) if name != "embedding" else v for name, v in given_fields.items()}
        kinds.columns["v"].add(kind_of(cell))
        records.append(record(number, {"v": cell}, **given_fields))
    layout = Layout(schema, "integer", kinds.seen()[1], several)
    rows, files = landed(tmp_path, records, layout, kind=kind)
    assert [row["id"] for row in rows] == list(range(len(odd)))
    if kind == "jsonl":
        for row, line in zip(rows, (line for file in files for line in read_jsonl(file)), strict=True):
            assert (row["status"], row["error_code"]) == (line["status"], shown(line["error_code"], conn_id))
            assert row["text"] == shown(line["text"], conn_id)
            if schema is not None and line["output"] is not None:
                assert (row["n"], row["x"]) == (line["output"].get("n"), line["output"].get("x"))


def shown(text, conn_id):
    """A text as the database holds it."""
    return text.replace("\0", "\ufffd") if text is not None and conn_id == "postgres" else text


def test_answers_are_typed_after_their_schema(conn_id, tmp_path):
    """Members as columns, nested ones as JSON, NUL in each of them; an integer of 70 bits is one invalid row."""
    outputs = [
        {"n": 2**63 - 1, "x": 0.1, "s": "a\0b\t\\N\r\n'\"é\U0001f600", "deep": [{"a": "c\0d"}], "any": 7},
        {"n": -(2**63), "x": 1e308, "s": "", "deep": [], "any": "seven"},
        {"n": 2**63, "x": 1, "s": "", "deep": [], "any": ""},
        None,
    ]
    records = [record(n, output=output, text=json.dumps(output)) for n, output in enumerate(outputs)]
    rows, _ = landed(tmp_path, records, Layout(SCHEMA, "integer", answers=("text",)))
    assert [row["status"] for row in rows] == ["succeeded", "succeeded", "invalid", "succeeded"]
    assert "64 bits" in rows[2]["error_message"]
    first = rows[0]
    assert (first["n"], first["x"], first["any"]) == (2**63 - 1, 0.1, "7")
    assert first["s"] == shown(outputs[0]["s"], conn_id)
    deep = first["deep"] if conn_id == "postgres" else json.loads(first["deep"])
    assert deep == [{"a": shown("c\0d", conn_id)}]
    assert (rows[1]["n"], rows[1]["x"], rows[1]["any"]) == (-(2**63), 1e308, "seven")
    assert {rows[3][name] for name in ("n", "x", "s", "deep", "any")} == {None}


OWN = {
    "day": dt.date(2026, 1, 2), "at": dt.datetime.fromisoformat("2026-01-02T03:04:05.000678"), "hour": dt.time(3, 4, 5),
    "zoned": dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "fine": FINE, "price": Decimal("12345678901234567890.50"),
    "raw_": b"\x00\xff", "tags": ["a", "b"], "flag": True, "x": 0.5, "mixed": {"a": 1},
}  # fmt: skip


def own_layout(values, key="integer"):
    kinds = Kinds(values)
    for name, value in values.items():
        kinds.columns[name].add(kind_of(plain(value)))
    return Layout(None, key, kinds.seen()[1], answers=("text",))


def test_pass_through_columns_are_what_they_were(conn_id, tmp_path):
    """Dates, moments to the nanosecond, decimals of twenty digits, bytes, lists; a null in each."""
    records = [record(0, {name: plain(value) for name, value in OWN.items()}), record(1, dict.fromkeys(OWN))]
    [row, nulls], _ = landed(tmp_path, records, own_layout(OWN))
    assert {nulls[name] for name in OWN} == {None}
    wanted = {**OWN, "fine": str(FINE), "mixed": '{"a":1}'}
    if conn_id == "sqlite":
        as_text = {"day": "2026-01-02", "at": "2026-01-02 03:04:05.000678", "hour": "03:04:05.000000", "flag": 1}
        wanted |= as_text | {"zoned": "2026-01-02T03:04:05+00:00", "price": str(OWN["price"]), "tags": '["a","b"]'}
    assert {name: row[name] for name in OWN} == wanted


@pytest.mark.parametrize(
    ("kind", "fits", "not_so"),
    [
        ("smallint", 2**15 - 1, 2**15),
        ("integer", 2**31 - 1, 2**31),
        ("numeric(5,2)", Decimal("123.45"), Decimal("1234.5")),
        ("numeric(5,2)", 100, Decimal("0.125")),
        ("double precision", 2**53, 2**53 + 1),
        ("boolean", True, 1),
        ("varchar(3)", "abc", "abcd"),
        ("uuid", str(uuid.UUID(int=7)), "seven"),
        ("jsonb", {"a": [1, None]}, None),
        ("timestamptz", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00"),
        ("timestamp", "2026-01-01T00:00:00", "today"),
        ("date", dt.date(2026, 1, 1), dt.datetime.fromisoformat("2026-01-01T00:00:00")),
        ("mood", "glad", "sad"),
        ("text", 5, b"\xff"),
        ("bytea", b"\x00\xff", "text"),
    ],
)
def test_a_column_of_the_users_takes_what_it_holds(postgres, monkeypatch, tmp_path, kind, fits, not_so):
    """PostgreSQL's own types: a value that fits is there as it was, one that does not is told of its row beforehand."""
    monkeypatch.setenv("AIRFLOW_CONN_DWH", postgres)
    run("drop table if exists values_")
    if kind == "mood":
        run("drop type if exists mood")
        run("create type mood as enum ('glad', 'calm')")
    run(f"create table values_ (id bigint primary key, v {kind}, status text, llm_batch_job text)")
    layout = own_layout({"v": fits})
    table = {"columns": ["status", "v"]}
    rows, _ = landed(tmp_path, [record(0, {"v": plain(fits)}), record(1, {"v": None})], layout, **table)
    wanted = uuid.UUID(fits) if kind == "uuid" else "5" if kind == "text" else fits
    if kind.startswith("timestamp"):
        wanted = dt.datetime.fromisoformat(fits)
    assert [row["v"] for row in rows] == [wanted, None]
    if not_so is None:
        return
    both = own_layout({"v": not_so})
    given = Table("dwh", "values_", key="id", files=f"file://{tmp_path}", **table)
    planned = destination_of(Target(given), "file:///nowhere").prepare(both, make=True)
    with pytest.raises(InputError, match=r"Row 3 .* does not fit table://dwh/values_: column v: .*Nothing was sent"):
        planned.key(3, b"3", to_json({"v": plain(not_so)}))
    # Of a job that was planned before the table was changed so, the row alone is invalid.
    rows, _ = landed(tmp_path, [record(0, {"v": plain(not_so)}), record(1, {"v": None})], both, **table)
    assert [(row["v"], row["status"]) for row in rows] == [(None, "invalid"), (None, "succeeded")]


def test_files_that_were_landed_without_regard_to_the_table_are_loaded_whole(conn_id, tmp_path):
    """What they hold and its columns do not is null there, in a row that says so."""
    layout = Layout(SCHEMA, "integer", answers=("text",))
    output = {"n": 2**70, "x": 0.5, "s": "a", "deep": [], "any": 7}
    plainly = destination_of(Target(f"file://{tmp_path}/plain"), "")
    writer = plainly.begin(layout, "results")
    for number in range(3):
        writer.write(*record(number, output={**output, "n": output["n"] if number == 1 else number}, text="hi"))
    files = writer.commit()
    table = destination_of(Target(Table("dwh", "values_", key="id", files=f"file://{tmp_path}/plain")), "")
    assert table.finish(layout, files, "job").startswith("3 rows merged")
    rows = run("select * from values_ order by id")
    assert [(row["n"], row["status"], row["text"]) for row in rows] == [
        (0, "succeeded", "hi"), (None, "invalid", "hi"), (2, "succeeded", "hi"),
    ]  # fmt: skip


def test_vectors_are_texts_that_other_types_can_be_made_of(conn_id, tmp_path):
    """One vector a row, or several; the digits that 32 bits have."""
    records = [record(0, embedding=[0.1, -1.5, 3e-8]), record(1, embedding=None)]
    rows, _ = landed(tmp_path, records, Layout(None, "integer", answers=("embedding",)), kind="parquet")
    assert json.loads(rows[0]["embedding"]) == pytest.approx([0.1, -1.5, 3e-8], rel=1e-7)
    assert rows[1]["embedding"] is None
    if conn_id == "postgres":
        [row] = run("select (embedding::json->>1)::real as one from values_ where id = 0")
        assert row["one"] == -1.5


def test_rows_of_one_job_with_one_key_are_told_and_none_is_loaded(conn_id, tmp_path):
    """A key that only answers tell: the model's name, say."""
    from airflow_llm_batch.exceptions import ResultsUnusable

    layout = Layout(None, "integer", {"lang": "string"}, answers=("text",))
    records = [record(n, {"lang": lang}, model=model) for n, (lang, model) in enumerate([("a", "m"), ("a", None)])]
    rows, _ = landed(tmp_path, records, layout, key=["lang", "model"], columns={"id": "key"})
    assert [(row["lang"], row["model"]) for row in rows] == [("a", "m"), ("a", "")]
    records = [record(n, {"lang": "b"}, model="m") for n in range(3)]
    with pytest.raises(ResultsUnusable, match="3 rows of the job have the same key, lang='b', model='m'"):
        landed(tmp_path, records, layout, key=["lang", "model"], columns={"id": "key"})
    assert [row["lang"] for row in run("select * from values_ order by id")] == ["a", "a"]


def many(count):
    return [record(n, {"v": n}, text="x" * 200, output=None) for n in range(count)]


def test_the_work_of_a_landing_grows_with_its_rows_and_no_faster(tmp_path, monkeypatch):
    """Ten times the rows, landed over themselves, are about ten times the steps of SQLite's machine."""
    monkeypatch.setenv("AIRFLOW_CONN_DWH", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "values.db")}))
    open_engine, steps = SqlTable.open_engine, [0]

    def opened(table):
        engine = open_engine(table)

        def count():
            steps[-1] += 1

        sa.event.listen(engine, "connect", lambda connection, _: connection.set_progress_handler(count, 1000))
        return engine

    monkeypatch.setattr(SqlTable, "open_engine", opened)
    layout = Layout(None, "integer", {"v": "integer"}, answers=("text",))
    for count in (500, 5000):
        for _ in range(2):
            steps.append(0)
            landed(tmp_path, many(count), layout)
    assert steps[-1] < 15 * steps[2]


def test_memory_does_not_grow_with_rows(tmp_path):
    """50,000 records of JSON lines, 40 MB, go through a few megabytes."""
    code = f"""
import json, os, pathlib
os.environ["AIRFLOW_CONN_DWH"] = json.dumps({{"conn_type": "sqlite", "host": "{tmp_path}/values.db"}})
import msgspec
from airflow_llm_batch.data import Table
from airflow_llm_batch.data.destinations import destination_of
from airflow_llm_batch.data.sinks import Layout
from airflow_llm_batch.jobs.options import Target
from airflow_llm_batch.results import Result
layout = Layout(None, "integer", {{"v": "integer"}}, answers=("text",))
def files(count):
    writer = destination_of(Target(f"file://{tmp_path}/{{count}}"), "").begin(layout, "results")
    for n in range(count):
        key, columns = msgspec.Raw(b"%d" % n), msgspec.Raw(b'{{"v":%d}}' % n)
        writer.write(Result(key=key, row=n, status="succeeded", text="x" * 200), columns)
    return writer.commit()
def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
table = destination_of(Target(Table("dwh", "values_", key="id", files="file://{tmp_path}/files")), "")
few, many = files(6000), files(50_000)
table.finish(layout, few, "warm")
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
print(table.finish(layout, many, "job").split()[0], status("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    count, grown = done.stdout.split()[-2:]
    assert count == "50,000"
    assert float(grown) < 20
