"""What is landed reads back, without options, with what people use: pandas, polars, duckdb, pyarrow, gzip, zstd."""

from __future__ import annotations

import gzip
import json
from typing import Literal

import duckdb
import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from support.jobs import chat, land, spec, submit

from airflow_llm_batch.data import EmbeddingRequest
from airflow_llm_batch.data.arrow_types import arrow_type, fit
from airflow_llm_batch.data.output_schema import json_schema
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import Unwritable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.results import Result


class Part(BaseModel):
    name: str
    weight: float | None


class Review(BaseModel):
    """Nested on purpose."""

    sentiment: Literal["good", "bad"]
    score: int
    parts: list[Part]


def rows(count):
    """Rows with a column of every kind, nulls and surprises among them."""
    return [
        {
            "id": f"k{n}",
            "text": f"row {n} \u2028 é",
            "n": None if n == 1 else n,
            "share": n if n % 2 else n / 2,
            "good": n % 3 == 0,
            "tags": ["a", n],
            "huge": 2**70 if n == 2 else n,
            "mixed": n if n % 2 else f"{n}",
        }
        for n in range(count)
    ]


CARRIED = ["n", "share", "good", "tags", "huge", "mixed"]


def plain_name(uri):
    return uri.removeprefix("file://")


@pytest.fixture
def landed(hook, provider, store, tmp_path):
    """One job in every format; the JSON lines are what the others are compared with."""
    what = spec(rows(60), chat(provider, output=Review), "id", CARRIED)
    submit(store, hook, what)
    job = store.job()
    manifest, records = land(store, hook, job, tmp_path / "jsonl")

    def in_format(name, *more):
        return [plain_name(uri) for uri in land(store, hook, job, tmp_path / name, name, *more)[0].files]

    assert manifest.counts["succeeded"] == 60
    return records, in_format


def test_compressed_lines_are_the_plain_ones(landed):
    """gzip and zstd, by other programs' readers."""
    records, in_format = landed
    [zipped], [zstd] = in_format("jsonl.gz"), in_format("jsonl.zst")
    with gzip.open(zipped, "rt", encoding="utf-8") as file:
        assert [json.loads(line) for line in file.read().split("\n") if line] == records
    with open(zstd, "rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
    assert [json.loads(line) for line in text.split("\n") if line] == records


def test_parquet_has_typed_columns(landed):
    """Nested output, integers, floats, booleans; what has no one type is JSON text; nulls stay nulls."""
    records, in_format = landed
    [path] = in_format("parquet")
    schema = pq.read_schema(path)
    part = pa.struct([("name", pa.string()), ("weight", pa.float64())])
    review = pa.struct([("sentiment", pa.string()), ("score", pa.int64()), ("parts", pa.list_(part))])
    wanted = {
        "key": pa.string(), "row": pa.int64(), "output": review, "cost_usd": pa.float64(), "n": pa.int64(),
        "share": pa.float64(), "good": pa.bool_(), "tags": pa.string(), "huge": pa.string(), "mixed": pa.string(),
    }  # fmt: skip
    assert {name: schema.field(name).type for name in wanted} == wanted
    assert schema.names == [*Result.__struct_fields__, *CARRIED]
    for landed, record in zip(pq.read_table(path).to_pylist(), records, strict=True):
        for name, value in record.items():
            if name in ("tags", "huge", "mixed") and not isinstance(value, str):
                assert json.loads(landed[name]) == value
            else:
                assert landed[name] == value, name


@pytest.mark.parametrize("size", [None, 4000])
def test_everybody_reads_the_files(landed, size):
    """One file or many; a directory at once; the same rows everywhere."""
    records, in_format = landed
    paths = in_format("parquet", size)
    assert (len(paths) > 1) == (size is not None)
    keys = [record["key"] for record in records]
    scores = [record["output"]["score"] for record in records]
    directory = paths[0].rpartition("/")[0]
    assert pq.read_table(directory)["key"].to_pylist() == keys
    frame = pd.read_parquet(directory)
    assert frame["key"].tolist() == keys
    assert [output["score"] for output in frame["output"]] == scores
    polar = pl.read_parquet(f"{directory}/*.parquet")
    assert polar["output"].struct.field("score").to_list() == scores
    found = duckdb.sql(f"select key, output.score, len(output.parts) from '{directory}/*.parquet' order by row")
    assert [row[:2] for row in found.fetchall()] == list(zip(keys, scores, strict=True))


def test_embeddings_are_lists_of_float32(connect, store, tmp_path):
    """In all files of a job; a row that failed has none."""
    with Emulator(duration=0, faults={"row_errors": 0.3}) as emulator:
        hook = LLMBatchHook(connect(emulator.url, limits={"requests": 20}))
        texts = [f"text {n}" for n in range(50)]
        submit(store, hook, spec(texts, EmbeddingRequest("text-embedding-3-small", dimensions=16)))
        job = store.job()
        _, records = land(store, hook, job, tmp_path / "jsonl")
        manifest, _ = land(store, hook, job, tmp_path / "parquet", "parquet")
        assert 0 < manifest.counts["errored"] < 50
        table = pq.read_table(tmp_path / "parquet")
        assert table.schema.field("embedding").type == pa.list_(pa.float32())
        for vector, record in zip(table["embedding"].to_pylist(), records, strict=True):
            assert (vector is None) == (record["embedding"] is None)
            if vector is not None:
                assert vector == pytest.approx(record["embedding"], abs=1e-6)
        assert pl.read_parquet(f"{tmp_path}/parquet/*.parquet").height == 50


def test_a_first_file_without_a_vector_is_readable_too(tmp_path):
    """Every row of the first group failed: the file's vectors are lists of any length, and none is lost."""
    from airflow_llm_batch.data.parquet_sink import ParquetSink
    from airflow_llm_batch.data.sinks import Layout
    from airflow_llm_batch.storage import storage_path

    sink = ParquetSink(storage_path(f"file://{tmp_path}/a.parquet"), Layout(key="integer"))
    for row in range(6):
        if row == 3:
            sink.flush()
        vector = msgspec.Raw(b"[1.5, %d]" % row) if row in (3, 5) else None
        sink.write(Result(key=msgspec.Raw(b"%d" % row), row=row, embedding=vector), msgspec.Raw(b"{}"))
    sink.close()
    sink.commit()
    assert pq.read_table(tmp_path / "a.parquet")["embedding"].to_pylist() == [None] * 3 + [[1.5, 3], None, [1.5, 5]]


def test_nothing_appears_before_the_end_and_nothing_old_stays(landed, hook, store, tmp_path, monkeypatch):
    """A landing that breaks leaves no file; one that makes fewer files takes the superfluous ones away."""
    from airflow_llm_batch.data import sinks
    from airflow_llm_batch.operators import FetchResultsOperator

    def broken(self, result, columns):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(sinks.Parts, "write", broken)
        with pytest.raises(OSError, match="full"):
            land(store, hook, store.job(), tmp_path / "broken", "parquet", 4000)
    assert list((tmp_path / "broken").iterdir()) == []
    many = {"task_id": "f", "job": store.uri, "destination": f"file://{tmp_path}/again"}
    for more in ({"format": "parquet", "max_file_size": 4000}, {"format": "parquet"}, {"format": "jsonl"}):
        summary = FetchResultsOperator(**many, **more).execute({})
        assert sorted(map(plain_name, summary["files"])) == sorted(map(str, (tmp_path / "again").iterdir()))


schemas = st.recursive(
    st.sampled_from(
        [
            *({"type": kind} for kind in ("string", "integer", "number", "boolean", "object")),
            *({"enum": ["a", "b"]}, {}, {"const": 3}, {"$ref": "#/$defs/node"}, {"type": ["string", "null"]}),
            {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        ]
    ),
    lambda inner: (
        st.fixed_dictionaries({"type": st.just("array"), "items": inner})
        | st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(lambda p: {"type": "object", "properties": p})
    ),
    max_leaves=8,
)
NODE = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}


def value_of(schema, draw, depth=0):
    """Something that fits the schema."""
    if "$ref" in schema:
        return {"next": None if depth > 3 else value_of(schema, draw, depth + 1)}
    if "anyOf" in schema:
        schema = draw(st.sampled_from(schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return draw(st.sampled_from(schema.get("enum") or [schema["const"]]))
    kind = schema.get("type")
    kind = draw(st.sampled_from(kind)) if isinstance(kind, list) else kind
    if kind == "object" and "properties" in schema:
        names = draw(st.sets(st.sampled_from(sorted(schema["properties"]))))
        return {name: value_of(schema["properties"][name], draw, depth) for name in names}
    if kind == "array":
        return [value_of(schema["items"], draw, depth) for _ in range(draw(st.integers(0, 2)))]
    simple = {
        "string": st.text(max_size=3), "integer": st.integers(-(2**66), 2**66), "null": st.none(),
        "number": st.integers(-5, 5) | st.floats(allow_nan=False), "boolean": st.booleans(),
    }  # fmt: skip
    return draw(simple.get(kind, st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)))


@settings(max_examples=300)
@given(schemas, st.data())
def test_every_answer_that_fits_its_schema_fits_its_column(schema, data):
    """Unions, open objects, recursion: nothing breaks a landing; integers beyond 64 bits are refused."""
    schema = {**schema, "$defs": {"node": NODE}}
    kind = arrow_type(schema)
    value = value_of(schema, data.draw)
    try:
        fitted = fit(value, kind)
    except Unwritable:
        return
    assert len(pa.array([fitted, None], type=kind)) == 2


def test_pydantic_models_become_structs():
    """As they are sent, references and all."""
    assert arrow_type(json_schema(Review)).field("parts").type.value_type.field("weight").type == pa.float64()


def kinds_within(kind):
    return [kind] + [inner for n in range(kind.num_fields) for inner in kinds_within(kind.field(n).type)]


@pytest.mark.parametrize("several", [False, True])
def test_no_list_is_of_fixed_size(tmp_path, several):
    """pyarrow 16 to 25 read no null among lists of fixed size, and pages of them are not ours to mend later."""
    from airflow_llm_batch.data.parquet_sink import ParquetSink
    from airflow_llm_batch.data.sinks import Layout
    from airflow_llm_batch.storage import storage_path

    schema = {"type": "object", "additionalProperties": False, "properties": {"v": {
        "type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2,
    }}}  # fmt: skip
    columns = {"mine": "list:number", "empty": "list:"}
    layout = Layout(schema, key="integer", columns=columns, several_vectors=several)
    sink = ParquetSink(storage_path(f"file://{tmp_path}/a.parquet"), layout)
    for row, vector in enumerate((None, [1.0, 2.0], None)):
        given = [vector] * 2 if several and vector else vector
        output = {"v": vector} if vector else None
        result = Result(key=msgspec.Raw(b"%d" % row), row=row, embedding=given, output=output)
        sink.write(result, msgspec.Raw(b'{"mine": [1.0, 2.0]}' if vector else b"{}"))
    sink.close()
    sink.commit()
    written = pq.read_schema(tmp_path / "a.parquet")
    found = [kind for field in written for kind in kinds_within(field.type)]
    assert sum(map(pa.types.is_list, found)) == (6 if several else 5)
    assert not any(map(pa.types.is_fixed_size_list, found))
    # As readers see it that know nothing of Arrow: repeated in the middle, optional outside.
    columns = pq.ParquetFile(tmp_path / "a.parquet").schema
    levels = {column.path: column.max_repetition_level for column in map(columns.column, range(len(columns)))}
    assert levels["embedding" + ".list.element" * (2 if several else 1)] == (2 if several else 1)
    assert pq.read_table(tmp_path / "a.parquet")["embedding"].null_count == 2


def test_a_carried_file_with_lists_of_fixed_size_is_written_as_all_can_read_it(tmp_path):
    """As files of an earlier version may be; nulls stay nulls."""
    from airflow_llm_batch.data.parquet_sink import ParquetSink
    from airflow_llm_batch.data.sinks import Layout
    from airflow_llm_batch.storage import storage_path

    vectors = pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"row": [0, 1, 2], "embedding": vectors}), tmp_path / "old.parquet")
    sink = ParquetSink(storage_path(f"file://{tmp_path}/new.parquet"), Layout())
    assert sink.copy(storage_path(f"file://{tmp_path}/old.parquet"), {1}) == (2, 1)
    sink.close()
    sink.commit()
    table = pq.read_table(tmp_path / "new.parquet")
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert table.to_pylist() == [{"row": 0, "embedding": [1, 2]}, {"row": 2, "embedding": [5, 6]}]
