"""Results as Parquet: typed nested columns, a row group at a time. Needs pyarrow, the extra ``parquet``."""

from __future__ import annotations

from array import array
from collections.abc import Container
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_llm_batch.data.arrow_types import JSON_TEXT, PLAIN, arrow_type
from airflow_llm_batch.data.sinks import not_alike
from airflow_llm_batch.models import Result
from airflow_llm_batch.storage import WholeFile, open_random

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.data.sinks import Layout

#: rows, and bytes of text or vectors, after which a row group is written
GROUP_ROWS, GROUP_BYTES = 20_000, 8 * 2**20
TOOL_CALLS = pa.list_(pa.struct([("id", pa.string()), ("name", pa.string()), ("arguments", pa.string())]))
INTEGERS = (
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "row",
    "shard",
    "round",
)
VECTOR = pa.float32()


class ParquetSink:
    """One Parquet file, zstd-compressed.

    ``output`` has the type of the job's output schema, ``embedding`` is a list of float32 of the vectors' length, the
    key and the pass-through columns have the types that planning met. What has no single type is JSON text.
    """

    suffix = ".parquet"

    def __init__(self, path: ObjectStoragePath, layout: Layout) -> None:
        self.uri = str(path)
        self.file = WholeFile(path)
        self.layout = layout
        self.writer: pq.ParquetWriter | None = None
        self.fields = [field for field in Result.__struct_fields__ if field != "embedding"]
        self.output_type = arrow_type(layout.output_schema) if layout.output_schema else JSON_TEXT
        self.clear()

    @property
    def size(self) -> int:
        return self.file.size + self.bytes + 4 * len(self.vectors)

    def clear(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in (*self.fields, *self.layout.columns)}
        self.vectors = array("f")
        self.has_vector: list[bool] = []
        self.rows = self.bytes = 0

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        values = self.columns
        for name in self.fields:
            values[name].append(getattr(result, name))
        values["key"][-1] = stored(msgspec.json.decode(result.key), self.layout.key)
        values["output"][-1] = fit(result.output, self.output_type)
        if result.tool_calls:
            calls = [{**call, "arguments": as_json(call.get("arguments"))} for call in result.tool_calls]
            values["tool_calls"][-1] = calls
        self.add_vector(result.embedding)
        carried = msgspec.json.decode(columns)
        for name, kind in self.layout.columns.items():
            values[name].append(stored(carried.get(name), kind))
        self.rows += 1
        self.bytes += len(result.text or "") + len(columns)
        if self.rows >= GROUP_ROWS or self.bytes + 4 * len(self.vectors) >= GROUP_BYTES:
            self.flush()

    def copy(self, landed: ObjectStoragePath, without: Container[int]) -> tuple[int, int]:
        if not str(landed).endswith(self.suffix):
            raise not_alike(str(landed), self.suffix)
        taken = left = 0
        with open_random(landed) as file, pq.ParquetFile(file) as source:
            for batch in source.iter_batches(GROUP_ROWS):
                keep = [row not in without for row in batch["row"].to_pylist()]
                taken, left = taken + sum(keep), left + keep.count(False)
                if self.writer is None:
                    self.writer = pq.ParquetWriter(Out(self.file), batch.schema, compression="zstd")
                self.writer.write_batch(batch.filter(pa.array(keep, pa.bool_())))
        return taken, left

    def add_vector(self, embedding: Any) -> None:
        if isinstance(embedding, msgspec.Raw):
            embedding = msgspec.json.decode(embedding)
        usable = bool(embedding) and not isinstance(embedding, str) and not isinstance(embedding[0], list | msgspec.Raw)
        if usable and not self.layout.vector_length:
            self.layout.vector_length = len(embedding)
        usable = usable and len(embedding) == self.layout.vector_length
        self.has_vector.append(usable)
        if usable:
            self.vectors.extend(embedding)

    def flush(self) -> None:
        """Write a row group."""
        if not self.rows and self.writer is not None:
            return
        schema = self.writer.schema if self.writer is not None else self.schema()
        arrays = [self.vector_array(f.type) if f.name == "embedding" else self.array(f) for f in schema]
        if self.writer is None:
            self.writer = pq.ParquetWriter(Out(self.file), schema, compression="zstd")
        self.writer.write_table(pa.table(arrays, schema=schema))
        self.clear()

    def array(self, field: pa.Field) -> pa.Array:
        return pa.array(self.columns[field.name], type=field.type)

    def vector_array(self, kind: pa.DataType) -> pa.Array:
        """The vectors as the file has them: of one length, or, when its first rows had none to tell it, of any."""
        length = self.layout.vector_length
        missing = pa.array([not has for has in self.has_vector], pa.bool_())
        if not pa.types.is_fixed_size_list(kind):
            ends = accumulate((length * has for has in self.has_vector), initial=0)
            return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), floats(self.vectors), mask=missing)
        padded, used, zeros = array("f"), 0, array("f", bytes(4 * length))
        for has in self.has_vector:
            padded.extend(self.vectors[used : used + length] if has else zeros)
            used += length if has else 0
        return pa.FixedSizeListArray.from_arrays(floats(padded), length, mask=missing)

    def schema(self) -> pa.Schema:
        length = self.layout.vector_length
        special = {
            "key": kind_type(self.layout.key),
            "output": self.output_type,
            "tool_calls": TOOL_CALLS,
            "embedding": pa.list_(VECTOR, length) if length else pa.list_(VECTOR),
            "cost_usd": pa.float64(),
            **dict.fromkeys(INTEGERS, pa.int64()),
        }
        fields = [pa.field(name, special.get(name, pa.string())) for name in Result.__struct_fields__]
        fields += [pa.field(name, kind_type(kind)) for name, kind in self.layout.columns.items()]
        return pa.schema(fields)

    def close(self) -> None:
        self.flush()
        assert self.writer is not None
        self.writer.close()
        self.file.finish()

    def commit(self) -> None:
        self.file.commit()

    def discard(self) -> None:
        self.file.discard()


class Out:
    """A ``WholeFile`` as the file object that pyarrow wants."""

    closed = False

    def __init__(self, file: WholeFile) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        self.file.write(bytes(data))
        return len(data)

    def tell(self) -> int:
        return self.file.size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """The file is published by its owner."""

    close = flush


def floats(values: array[float]) -> pa.Array:
    return pa.Array.from_buffers(VECTOR, len(values), [None, pa.py_buffer(values)])


def kind_type(kind: str) -> pa.DataType:
    return PLAIN.get(kind, JSON_TEXT)


def stored(value: Any, kind: str) -> Any:
    """A pass-through value for a column of a kind that planning met."""
    if value is None or kind in ("string", "integer", "boolean"):
        return value
    return float(value) if kind == "number" else as_json(value)


def fit(value: Any, kind: pa.DataType) -> Any:
    """An answer, which fits its schema, for a column of the schema's type."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {field.name: fit(value.get(field.name), field.type) for field in kind}
    if pa.types.is_list(kind):
        return [fit(item, kind.value_type) for item in value]
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else as_json(value)
    if pa.types.is_int64(kind):
        return int(value) if -(2**63) <= value < 2**63 else None
    return float(value) if pa.types.is_float64(kind) else value


def as_json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
