"""Parquet files of odd records: every row is in the file once, and nothing that was paid stops a landing."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal

import msgspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.odd import FINE, cells, encoded, fields

from airflow_llm_batch.data.kinds import Kinds, kind_of, merge, stated
from airflow_llm_batch.data.parquet_sink import ParquetSink
from airflow_llm_batch.data.sinks import Layout
from airflow_llm_batch.data.values import plain, to_json
from airflow_llm_batch.exceptions import Unwritable
from airflow_llm_batch.jobs.landing.records import without_answer
from airflow_llm_batch.results import Result
from airflow_llm_batch.storage import storage_path

UTC = dt.UTC
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "x": {"type": "number"}, "s": {"type": "string"}},
    "required": ["n", "x", "s"],
    "additionalProperties": False,
}  # fmt: skip
NEW, FIRST, LAST = map(dt.datetime.fromisoformat, ("2026-01-01", "0001-01-01", "9999-12-31"))


def written(tmp_path, records, layout):
    """The file of these records, written as a landing does it: what is refused comes once more, as ``invalid``."""
    sink = ParquetSink(storage_path(str(tmp_path / "records.parquet")), layout)
    for result, columns in records:
        try:
            sink.write(result, columns)
        except Unwritable as error:
            sink.write(without_answer(result, str(error), b"the whole line"), columns)
    sink.close()
    sink.commit()
    return pq.read_table(tmp_path / "records.parquet").to_pylist()


def carried(tmp_path, values):
    """A pass-through column as the file holds it."""
    kinds = Kinds(["v"])
    for value in values:
        kinds.columns["v"].add(kind_of(plain(value)))
    layout = Layout(key="integer", columns=kinds.seen()[1])
    records = [
        (
            Result(custom_id="c", key=msgspec.Raw(b"%d" % n), row=n, status="succeeded"),
            msgspec.Raw(to_json({"v": plain(value)})),
        )
        for n, value in enumerate(values)
    ]
    rows = written(tmp_path, records, layout)
    assert {row["status"] for row in rows} == {"succeeded"}
    return [row["v"] for row in rows]


MEETINGS = [
    ([Decimal(10) ** 23, Decimal("0.000000000000000001")], "json", ["1" + "0" * 23, "1E-18"]),
    ([Decimal(10) ** 19, Decimal("0.000000000000000001")], "decimal:18", None),
    ([Decimal("1E+5"), Decimal("1.5"), 7], "decimal:1", [Decimal(100000), Decimal("1.5"), 7]),
    ([10**18, Decimal("0.1234567890123456789")], "decimal:19", None),
    ([10**18, Decimal("0.12345678901234567890")], "json", None),
    ([[Decimal("1E+30")], [Decimal("0.123456789012345")]], "json", ['["1E+30"]', '["0.123456789012345"]']),
    ([[Decimal("1.5")], [Decimal("2.25")]], "list:decimal:2", None),
    ([Decimal("-0"), Decimal("0E-5")], "decimal:5", None),
    ([2**53 + 1, 1.5], "json", ["9007199254740993", "1.5"]),
    ([2**53, 1.5], "number", None),
    ([[2**60], [1.5]], "json", None),
    ([2**60, 1], "integer", None),
    ([LAST, FINE], "json", ["9999-12-31T00:00:00", str(FINE)]),
    ([NEW, FINE], "timestamp_ns", None),
    ([[FIRST], [FINE]], "json", None),
    ([LAST, FIRST], "timestamp", None),
    ([NEW, NEW.replace(tzinfo=UTC)], "json", None),
    ([FIRST.replace(tzinfo=dt.timezone(dt.timedelta(hours=9)))], "json", ["0001-01-01T00:00:00+09:00"]),
    ([dt.time(1, tzinfo=UTC)], "json", ["01:00:00Z"]),
    ([pd.Timedelta(seconds=1), dt.timedelta(seconds=1)], "json", ["PT1S", "PT1S"]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), MEETINGS)
def test_what_meets_in_a_column_is_held_to_the_last_digit(tmp_path, values, kind, expected):
    """Scales, wide integers beside floats, nanoseconds beside far years: a type that holds all, or JSON text."""
    assert stated(merge(kind_of(plain(value)) for value in values)) == kind
    found = carried(tmp_path, values)
    if kind == "timestamp_ns":
        found = [str(pd.Timestamp(value)) for value in found]
        values = [str(pd.Timestamp(value)) for value in values]
    if kind != "json" or expected is not None:
        assert found == (values if expected is None else expected)


def test_a_vector_that_32_bits_do_not_hold_is_refused_alone(tmp_path):
    """Out of range in any way: nothing of its record was added, and the others are in place."""
    vectors = [b"[1e400,0.5]", b"[1e39,0.5]", b"[%s]" % (b"9" * 400), b"[0.5,0.25]", b'[0.5,"x"]', b"[0.5]"]
    vectors += [[0.5, 10**400], [], [None], [[1.0], [2.0]], "no vector"]
    records = []
    for n, vector in enumerate(vectors):
        raw = msgspec.Raw(vector) if isinstance(vector, bytes) else vector
        result = Result(row=n, key=msgspec.Raw(b"%d" % n), status="succeeded", embedding=raw)
        records.append((result, msgspec.Raw(b"{}")))
    rows = written(tmp_path, records, Layout(key="integer"))
    assert [row["row"] for row in rows] == list(range(len(vectors)))
    assert {row["row"]: row["embedding"] for row in rows if row["embedding"]} == {3: [0.5, 0.25], 5: [0.5]}
    assert Counter(row["status"] for row in rows) == {"invalid": len(vectors) - 2, "succeeded": 2}


def test_a_row_that_its_plan_did_not_foresee_is_landed_all_the_same(tmp_path):
    """A column that cannot hold its value: invalid, the value null, the whole line kept, the other rows untouched."""
    layout = Layout(key="date", columns={"d": "decimal:18", "at": "timestamp_ns", "n": "integer"})
    good = b'{"d":"1.5","at":"2026-01-01T00:00:00","n":1}'
    odd = [b'{"d":"1E+30","n":1}', b'{"at":"9999-12-31T00:00:00"}', b'{"n":%d}' % 2**70, b'{"n":"x"}', b'{"d":[]}']
    records = [
        (Result(row=n, key=msgspec.Raw(b'"2026-01-01"'), status="succeeded", text="hi"), msgspec.Raw(columns))
        for n, columns in enumerate([good, *odd, good])
    ]
    rows = written(tmp_path, records, layout)
    assert [row["status"] for row in rows] == ["succeeded", *["invalid"] * len(odd), "succeeded"]
    assert all(row["text"] == "hi" and row["key"] == dt.date(2026, 1, 1) for row in rows)
    assert rows[0]["d"] == rows[-1]["d"] == Decimal("1.5")
    assert {row["raw"] for row in rows} == {None, "the whole line"}


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(fields, cells, cells), min_size=5, max_size=30), st.booleans(), st.booleans())
def test_every_odd_record_is_in_the_file_once(tmp_path, odd, with_schema, several):
    """Whatever vendors answer and rows carry: pyarrow reads the file back, with every row in its place."""
    kinds = Kinds(["v"])
    records = []
    for number, (given_fields, key, cell) in enumerate(odd):
        key, cell = encoded(key), encoded(cell)
        key = number if key is None else key
        kinds.key.add(kind_of(key))
        kinds.columns["v"].add(kind_of(cell))
        result = Result(row=number, key=msgspec.Raw(to_json(key)), status="succeeded", **given_fields)
        records.append((result, msgspec.Raw(to_json({"v": cell}))))
    key_kind, columns = kinds.seen()
    layout = Layout(SCHEMA if with_schema else None, key_kind, columns, several)
    rows = written(tmp_path, records, layout)
    assert [row["row"] for row in rows] == list(range(len(odd)))
    # The rows' own values were planned for: no record is invalid because of them.
    assert not [row for row in rows if "the row's own" in (row["error_message"] or "")]
