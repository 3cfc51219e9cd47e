"""Rows as people have them: out of pandas, Parquet and SQL, in any script, in files of any name."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import json
import math
from decimal import Decimal

import jinja2
import msgspec
import numpy as np
import pandas as pd
import pendulum
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import chat, land, spec, submit

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.data.arrow_types import arrow_type, kind_type, nanoseconds, stored
from airflow_llm_batch.data.kinds import kind_of, merge, stated
from airflow_llm_batch.data.paths import is_data
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.data.templates import columns_of, compile_template
from airflow_llm_batch.data.values import Nanoseconds, as_text, plain, to_json
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.planning.encoding import RowSpec, encode_rows
from airflow_llm_batch.operators import SubmitBatchOperator
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.bedrock.blocks import image
from airflow_llm_batch.providers.gemini.parts import media
from airflow_llm_batch.providers.images import image_type
from airflow_llm_batch.providers.openai.protocol import OpenAI

UTC = dt.UTC
MOMENT = dt.datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


class Grade(enum.StrEnum):
    GOOD = "good"


VALUES = [
    (float("nan"), None, ""),
    (Decimal("NaN"), None, ""),
    (pd.NaT, None, ""),
    (pd.NA, None, ""),
    (np.float64("nan"), None, ""),
    (np.float64(1.5), 1.5, "1.5"),
    (np.int64(7), 7, "7"),
    (np.bool_(True), True, "true"),
    (np.str_("x"), "x", "x"),
    (np.array([1, 2]), [1, 2], "[1,2]"),
    (Grade.GOOD, "good", "good"),
    ({"b", "a"}, ["a", "b"], '["a","b"]'),
    ((1, float("nan")), [1, None], "[1,null]"),
    ({"k": np.int64(1)}, {"k": 1}, '{"k":1}'),
    (pd.Timestamp("2026-01-01 12:30", tz="UTC"), MOMENT, "2026-01-01 12:30:00+00:00"),
    (pendulum.datetime(2026, 1, 1, 12, 30), MOMENT, "2026-01-01 12:30:00+00:00"),
    (pd.Timestamp("2026-01-01 00:00:00.123456789"), "2026-01-01T00:00:00.123456789", "2026-01-01 00:00:00.123456789"),
    (np.datetime64("2026-01-01T00:00:00.123456789"), "2026-01-01T00:00:00.123456789", "2026-01-01 00:00:00.123456789"),
    (np.datetime64("NaT"), None, ""),
    (pendulum.date(2026, 1, 1), dt.date(2026, 1, 1), "2026-01-01"),
    (Decimal("1.50"), Decimal("1.50"), "1.50"),
]


@pytest.mark.parametrize(("value", "expected", "text"), VALUES, ids=lambda v: type(v).__name__)
def test_values_of_other_libraries_are_plain(value, expected, text):
    """NaN, NaT and NA are null and empty in a prompt; scalars are Python's, moments keep their nanoseconds."""
    assert plain(value) == expected
    assert type(plain(value)) in (type(expected), Nanoseconds)
    assert as_text(value) == text
    to_json(plain(value))


@pytest.mark.parametrize(
    "value",
    [object(), memoryview(b"a"), bytearray(b"a"), b"a", (n for n in range(2)), {"a": object()}],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("params", [{}, {"temperature": "{heat}"}], ids=["between", "whole"])
def test_what_has_no_text_of_its_own_is_refused_by_its_column(value, params):
    """A place in memory would be another question in every process: a retry would pay for it anew."""
    given = spec([{"about": "x", "it": value, "heat": 1}], ChatRequest("m", user="{about}: {it}", params=params))
    with pytest.raises(InputError, match=r"row 0 .*column 'it' holds .*Nothing was sent"):
        list(encode_rows(given, OpenAI(), "00000000"))


@pytest.mark.parametrize("key", [None, "", float("nan")])
def test_a_row_without_a_key_is_refused(key):
    """What is null in Parquet is empty in CSV."""
    given = spec([{"id": "a", "text": "x"}, {"id": key, "text": "y"}], chat("openai"), "id")
    with pytest.raises(InputError, match=r"row 1: its key 'id' is .*Nothing was sent"):
        list(encode_rows(given, OpenAI(), "00000000"))


@pytest.mark.parametrize(
    "name", ["レビュー", "überschrift", "हिंदी", "نقد_و_بررسی", "отзыв 2", "naïve.col-1", "_x", "价格"]
)
def test_columns_have_names_in_any_script(name):
    """Combining marks, digits of the script, joints."""
    assert columns_of(f"a {{{name}}} b") == {name}
    assert compile_template(f"a {{{name}}} b")({name: "v"}) == "a v b"
    assert compile_template(f"{{{{{name}}}}}")({}) == f"{{{name}}}"


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "{ x }", "{1}", "{a: b}", "{a,b}", "{}", "{{ x }}", "{x\n}", "{a+b}", "{'x'}"]
)
def test_other_braces_are_text(text):
    """JSON, code and sets in a prompt need no escaping."""
    assert columns_of(text) == set()
    assert compile_template(text)({}) == text


@given(st.text(max_size=20))
def test_every_text_is_a_template(text):
    """Whatever it holds: columns that are named are asked of the row, and nothing else happens."""
    columns = columns_of(text)
    filled = compile_template(text)(dict.fromkeys(columns, "v"))
    assert isinstance(filled, str)


CONSTANT = [
    ChatRequest("m", user="Say hi", max_tokens=5),
    ChatRequest("m", system="{{ tone }}", user="Review: ", max_tokens=5),
    ChatRequest("m", messages=[{"role": "user", "content": "x"}], max_tokens=5),
    EmbeddingRequest("m", "text"),
    RawRequest({"model": "m", "messages": []}),
]


@pytest.mark.parametrize("request_", CONSTANT, ids=lambda r: type(r).__name__)
def test_a_template_without_a_column_is_refused(request_):
    """All rows would be asked the same, and paid; one row alone may be asked what it likes."""
    rows = [{"text": "a"}, {"text": "b"}]
    with pytest.raises(InputError, match=r"names no column.*'text'.*Jinja.*Nothing was sent"):
        list(encode_rows(RowSpec(rows, request_, None, {}), OpenAI(), "job"))
    assert len(list(encode_rows(RowSpec(rows[:1], request_, None, {}), OpenAI(), "job"))) == 1


def test_jinjas_spelling_is_explained(connect, emulator, context):
    """Before Airflow has filled it, and after."""
    rows = [{"review": "good"}, {"review": "bad"}]
    request = ChatRequest("gpt-5-mini", user="Review: {{ review }}", max_tokens=5)
    submit = SubmitBatchOperator(task_id="s", conn_id=connect(emulator.url), rows=rows, request=request)
    with pytest.raises(InputError, match=r"\{\{ review \}\}.*written \{review\} here.*Nothing was sent"):
        submit.execute(context)
    submit.render_template_fields({**context}, jinja2.Environment())
    with pytest.raises(InputError, match="names no column"):
        submit.execute(context)
    assert not emulator.vendor.batches


FRAME = {"id": [1, 2, 3], "text": ["great", None, "so-so"], "stars": [5.0, math.nan, 3.0]}


def frames():
    table = pa.table({**FRAME, "stars": [5.0, None, 3.0]})
    yield pd.DataFrame(FRAME)
    yield pd.DataFrame(FRAME).convert_dtypes()
    yield pl.DataFrame({**FRAME, "stars": [5.0, None, 3.0]})
    yield table
    yield table.to_batches()[0]


@pytest.mark.parametrize("frame", list(frames()), ids=lambda f: f"{type(f).__module__}.{type(f).__name__}")
def test_dataframes_and_tables_are_rows(frame, hook, store, tmp_path):
    """pandas, polars, Arrow: rows in their order, nulls empty, keys what they are."""
    name = hook.provider.name
    submit(store, hook, spec(frame, chat(name, user="Review {id}: {text} {stars}"), "id", ["stars"]))
    _, records = land(store, hook, store.job(), tmp_path / "out")
    assert [r["key"] for r in records] == [1, 2, 3]
    assert [r["stars"] for r in records] == [5, None, 3]
    assert records[1]["text"].strip() == "Review 2:"


NO_ROWS = [{"a": 1}, b"text", {"a", "b"}, 7, pl.LazyFrame({"a": [1]}), [1, 2], [["a"]], pd.Series([1, 2])]


@pytest.mark.parametrize("rows", NO_ROWS, ids=lambda rows: type(rows).__name__)
def test_what_is_no_rows_is_refused(rows):
    """A mapping, bytes, a set without order, numbers, a frame that was not computed."""
    with pytest.raises(InputError, match="Nothing was sent"):
        list(read_rows(rows))


@pytest.mark.parametrize(
    "name", ["Customer reviews.jsonl", "reviews[final].jsonl", "50%*.jsonl", "a+b=c.jsonl", "größe.jsonl"]
)
def test_files_have_any_name(tmp_path, name):
    """Spaces, brackets, stars: a URI, a path, one of a list; globs and directories find them."""
    path = tmp_path / name
    path.write_text('{"text": "a"}\n')
    for rows in (f"file://{path}", str(path), [f"file://{path}"], f"file://{tmp_path}", f"file://{tmp_path}/*.jsonl"):
        assert [row for _, row in read_rows(rows)] == [{"text": "a"}], rows


def test_texts_that_begin_with_a_link_are_texts():
    """Only what is a link as a whole may name a file."""
    texts = ["https://x.example/y is great", "https://z.example is not"]
    assert [row["text"] for _, row in read_rows(texts)] == texts


HIDDEN = [
    "_delta_log/0.json",
    "_temporary/0/part-0.jsonl",
    ".tmp/a.jsonl",
    "ds=1/_SUCCESS",
    "ds=1/.part.jsonl",
    "ds=1/_x/b.jsonl",
]


@pytest.mark.parametrize("rows", ["", "/", "/*", "/**"])
def test_other_tools_folders_are_no_data(tmp_path, rows):
    """Logs, markers and half-written files; partitions are data, a hidden folder that is named is too."""
    for name in [*HIDDEN, "ds=1/part-0.jsonl", "_year=2/part-0.jsonl"]:
        path = tmp_path / "table" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n")
    (tmp_path / "table" / "_delta_log" / "1.jsonl").write_text("{}\n")
    if rows == "/*":
        rows = "/*/*"
    found = [row["text"] for _, row in read_rows(f"file://{tmp_path}/table{rows}")]
    assert found == ["_year=2/part-0.jsonl", "ds=1/part-0.jsonl"]
    assert [row["text"] for _, row in read_rows(f"file://{tmp_path}/table/_temporary/0/*.jsonl")] == [HIDDEN[1]]


def test_is_data_looks_below_the_directory_alone():
    """A directory that lies in a hidden one is what the user named."""
    assert is_data("/home/.cache/rows/a.jsonl", "/home/.cache/rows")
    assert is_data("bucket/_raw/a.jsonl", "bucket/_raw")
    assert not is_data("bucket/_raw/_x/a.jsonl", "bucket/_raw")


COLUMNS = {
    "day": pa.array([dt.date(2026, 1, 1), None], pa.date32()),
    "at": pa.array([MOMENT, None], pa.timestamp("us", "UTC")),
    "local": pa.array([dt.datetime(2026, 1, 1, 0, 0, 0, 5), None], pa.timestamp("us")),  # noqa: DTZ001
    "nanos": pa.array([1735689600123456789, None], pa.timestamp("ns")),
    "nanos_utc": pa.array([1735689600123456789, None], pa.timestamp("ns", "UTC")),
    "milli": pa.array([MOMENT, None], pa.timestamp("ms", "UTC")),
    "clock": pa.array([dt.time(1, 2, 3), None], pa.time64("us")),
    "price": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
    "raw": pa.array([b"\x00\xff", None], pa.binary()),
    "tags": pa.array([["x", "y"], []], pa.list_(pa.string())),
    "days": pa.array([[dt.date(2026, 1, 1)], None], pa.list_(pa.date32())),
    "count": pa.array([2**62, None], pa.int64()),
    "word": pa.array(["a", "b"]).dictionary_encode(),
}


@pytest.mark.parametrize("pandas", [True, False])
def test_columns_pass_through_as_what_they_were(hook, store, tmp_path, monkeypatch, pandas):
    """Parquet to Parquet: dates, moments to the nanosecond, decimals, binary, lists; with pandas and without."""
    if not pandas:
        monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    table = pa.table(
        {
            "id": ["a", "b"],
            **{name: column for name, column in COLUMNS.items() if name != "raw"},
            "bytes": COLUMNS["raw"],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    carried = [name for name in table.column_names if name != "id"]
    request = chat(hook.provider.name, user="{id} {nanos} {at} {price}")
    submit(store, hook, spec(f"file://{tmp_path}/in.parquet", request, "id", carried))
    job = store.job()
    _, records = land(store, hook, job, tmp_path / "jsonl")
    assert records[0]["text"] == "a 2025-01-01 00:00:00.123456789 2026-01-01 12:30:00+00:00 1.50"
    assert (records[0]["nanos"], records[0]["bytes"], records[0]["day"]) == (
        "2025-01-01T00:00:00.123456789",
        "AP8=",
        "2026-01-01",
    )
    land(store, hook, job, tmp_path / "out", "parquet")
    landed = pq.read_table(tmp_path / "out")
    for name in carried:
        given, got = table[name].combine_chunks(), landed[name].combine_chunks()
        if pa.types.is_dictionary(given.type):
            given = given.dictionary_decode()
        assert got.cast(given.type).equals(given), (name, got)
        assert pa.types.is_decimal(got.type) == pa.types.is_decimal(given.type)
        assert pa.types.is_temporal(got.type) == pa.types.is_temporal(given.type)


@given(st.integers(-(2**60), 2**62))
def test_nanoseconds_go_there_and_back(moment):
    """Every moment that 64 bits hold, about."""
    text = pd.Timestamp(moment).isoformat()
    if moment % 1000:
        assert nanoseconds(text) == moment
        assert nanoseconds(text + "+00:00") == moment
        assert nanoseconds(pd.Timestamp(moment).tz_localize("UTC").tz_convert("Asia/Kolkata").isoformat()) == moment


scalar = (
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
)
scalar |= st.dates() | st.datetimes() | st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.times()


@given(st.lists(scalar | st.lists(scalar, max_size=2), max_size=5))
def test_every_column_has_a_kind_that_holds_all_of_it(values):
    """Whatever meets in one column: the kind that is found takes each of them, back from JSON."""
    seen = [plain(value) for value in values]
    kind = stated(merge({kind_of(value) for value in seen})) or "json"
    back = [stored(msgspec.json.decode(to_json(value)), kind) for value in seen]
    assert len(pa.array(back, kind_type(kind))) == len(values)


def node(fields):
    options = {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}
    properties = {"op": {"type": "string"}, **{f"f{n}": options for n in range(fields)}}
    closed = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {
        "$defs": {"Node": closed},
        **closed,
        "properties": {"tree": {"$ref": "#/$defs/Node"}, "n": {"type": "integer"}},
    }


@pytest.mark.parametrize("fields", [1, 2, 3, 30])
def test_recursive_schemas_are_json_text(fields):
    """However many ways lead back: one column of text, at once."""
    assert arrow_type(node(fields)) == pa.struct([("tree", pa.string()), ("n", pa.int64())])


def test_open_objects_keep_their_properties():
    """What a schema allows beside what it names is in the answer: the object is JSON text; a closed one is a struct."""
    inner = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert arrow_type(inner) == pa.string()
    assert arrow_type({**inner, "additionalProperties": {"type": "string"}}) == pa.string()
    assert arrow_type({**inner, "additionalProperties": False}) == pa.struct([("a", pa.string())])


def test_wide_schemas_end(tmp_path):
    """Ten definitions that name each other ten times each are no million columns."""
    definitions = {
        f"D{n}": {
            "type": "object",
            "properties": {f"p{m}": {"$ref": f"#/$defs/D{n + 1}"} for m in range(10)},
            "additionalProperties": False,
        }
        for n in range(9)
    }
    definitions["D9"] = {"type": "string"}
    assert arrow_type({"$defs": definitions, "$ref": "#/$defs/D0"}) == pa.string()


def translated(provider, content, **more):
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": content}], **more}
    return provider.translate(RawRequest(body).compile()({})).body


def test_pictures_and_files_are_translated_or_refused_by_name():
    """image/jpg, null addresses, documents, unknown kinds; Anthropic's own blocks pass."""
    data = "data:image/jpg;base64,QUJD"
    (image,) = translated(Anthropic(), [{"type": "image_url", "image_url": {"url": data}}])["messages"][0]["content"]
    assert image["source"] == {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}}
    (document,) = translated(Anthropic(), [pdf])["messages"][0]["content"]
    assert (document["type"], document["title"], document["source"]["data"]) == ("document", "a.pdf", "QUJD")
    found = {"type": "search_result", "source": "u", "title": "t", "content": [{"type": "text", "text": "x"}]}
    assert translated(Anthropic(), [found])["messages"][0]["content"] == [found]
    for provider in (OpenAI(), Anthropic()):
        for url in (None, "", {"url": None}, {}):
            with pytest.raises(InputError, match="Nothing was sent"):
                translated(provider, [{"type": "image_url", "image_url": url}])
        with pytest.raises(InputError, match=r"max_tokens.*Nothing was sent"):
            translated(provider, "x", max_tokens=0)
    for part in (
        {"type": "input_audio", "input_audio": {}},
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,A"}},
    ):
        with pytest.raises(InputError, match="Nothing was sent"):
            translated(Anthropic(), [part])


STARTS = {
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0",
    "gif": b"GIF89a",
    "webp": b"RIFF\x10\xff\0\0WEBPVP8 ",
}


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("called", ["png", "jpeg", "jpg", "bmp"])
def test_a_picture_is_what_its_bytes_are(kind, called):
    """Vendors look at them, and refuse the row of a PNG that is called a JPEG."""
    data = base64.b64encode(STARTS[kind] + bytes(20)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/{called};base64,{data}"}}
    (block,) = translated(Anthropic(), [part])["messages"][0]["content"]
    assert block["source"] == {"type": "base64", "media_type": f"image/{kind}", "data": data}
    assert media(part["image_url"]["url"]) == {"inlineData": {"mimeType": f"image/{kind}", "data": data}}
    assert image(part["image_url"]["url"], False)["image"]["format"] == kind
    assert image_type("application/pdf", data) == "application/pdf"


def test_empty_texts_never_reach_anthropic():
    """Blocks without text are left out, an empty assistant turn too; a row without any prompt is refused by place."""
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}],
    }
    turns = [
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": ""}, {"type": "text", "text": "x"}]},
    ]
    turns += [
        {"role": "assistant", "content": " "},
        {"role": "user", "content": "y"},
        call,
        {"role": "tool", "tool_call_id": "c", "content": ""},
    ]
    body = Anthropic().translate(RawRequest({"model": "m", "max_tokens": 1, "messages": turns}).compile()({})).body
    assert "system" not in body
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "c"}]
    rows = RowSpec([{"text": "a"}, {"text": None}], ChatRequest("m", user="{text}", max_tokens=5), None, {})
    with pytest.raises(InputError, match=r"row 1: .*prompt of this row is empty.*Nothing was sent"):
        list(encode_rows(rows, Anthropic(), "job"))
    assert len(list(encode_rows(rows, OpenAI(), "job"))) == 2
