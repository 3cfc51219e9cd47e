"""Results as Parquet: typed nested columns, a row group at a time. Needs pyarrow, the extra ``parquet``."""

from __future__ import annotations

from array import array
from collections.abc import Container
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_llm_batch.data.arrow_types import JSON_TEXT, arrow_type, as_json, fit, kind_type, stored
from airflow_llm_batch.data.sinks import not_alike
from airflow_llm_batch.exceptions import Unwritable
from airflow_llm_batch.results import Result
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
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "row",
    "shard",
    "round",
)
#: fields of no one type
JSON = ("choices", "logprobs", "citations", "tool_uses", "raw")
VECTOR = pa.float32()
NO_FIELDS = ("embedding", "key", "output", "tool_calls", *JSON)


class ParquetSink:
    """One Parquet file, zstd-compressed.

    ``output`` has the type of the job's output schema, ``embedding`` is a list of float32 (a list of such lists where
    requests embed several texts), the key and the pass-through columns have the types that planning met. What has no
    single type is JSON text.
    """

    suffix = ".parquet"

    def __init__(self, path: ObjectStoragePath, layout: Layout) -> None:
        self.uri = str(path)
        self.file = WholeFile(path)
        self.layout = layout
        self.writer: pq.ParquetWriter | None = None
        self.fields = [field for field in Result.__struct_fields__ if field not in NO_FIELDS]
        self.output_type = arrow_type(layout.output_schema) if layout.output_schema else JSON_TEXT
        self.clear()

    @staticmethod
    def check_installed() -> None:
        """This module has imported what it needs."""

    @property
    def size(self) -> int:
        return self.file.size + self.bytes + 4 * len(self.vectors)

    def clear(self) -> None:
        names = (name for name in (*Result.__struct_fields__, *self.layout.columns) if name != "embedding")
        self.columns: dict[str, list[Any]] = {name: [] for name in names}
        #: the numbers of all vectors, where each vector ends among them, and each row among the vectors
        self.vectors = array("f")
        self.ends, self.row_ends, self.has_vector = array("i", [0]), array("i", [0]), array("b")
        self.rows = self.bytes = 0

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        # What may be refused comes before anything is added.
        output = fit(result.output, self.output_type)
        vectors = self.vectors_of(result.embedding)
        texts = [None if (value := getattr(result, name)) is None else as_json(value) for name in JSON]
        calls = result.tool_calls and [
            {**call, "arguments": as_json(call.get("arguments"))} for call in result.tool_calls
        ]
        values = self.columns
        for name in self.fields:
            values[name].append(getattr(result, name))
        for name, text in zip(JSON, texts, strict=True):
            values[name].append(text)
        values["key"].append(stored(msgspec.json.decode(result.key), self.layout.key))
        values["output"].append(output)
        values["tool_calls"].append(calls or None)
        for vector in vectors:
            self.vectors.extend(vector)
            self.ends.append(len(self.vectors))
        self.row_ends.append(len(self.ends) - 1)
        self.has_vector.append(bool(vectors))
        carried = msgspec.json.decode(columns)
        for name, kind in self.layout.columns.items():
            values[name].append(stored(carried.get(name), kind))
        self.rows += 1
        self.bytes += len(result.text or "") + len(columns) + sum(map(len, filter(None, texts)))
        if self.rows >= GROUP_ROWS or self.bytes + 4 * len(self.vectors) >= GROUP_BYTES:
            self.flush()

    def vectors_of(self, embedding: Any) -> list[list[float]]:
        """The vectors of one row.

        :raises Unwritable: for several where the plan knew of one.
        """
        if embedding is None:
            return []
        if isinstance(embedding, msgspec.Raw):
            return [msgspec.json.decode(embedding)]
        if not isinstance(embedding[0], list | msgspec.Raw):
            return [embedding]
        if not self.layout.several_vectors:
            raise Unwritable(f"{len(embedding)} vectors came where one was asked for")
        return [msgspec.json.decode(vector) if isinstance(vector, msgspec.Raw) else vector for vector in embedding]

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

    def flush(self) -> None:
        """Write a row group."""
        if not self.rows and self.writer is not None:
            return
        schema = self.writer.schema if self.writer is not None else self.schema()
        arrays = [self.vector_array() if f.name == "embedding" else self.array(f) for f in schema]
        if self.writer is None:
            self.writer = pq.ParquetWriter(Out(self.file), schema, compression="zstd")
        self.writer.write_table(pa.table(arrays, schema=schema))
        self.clear()

    def array(self, field: pa.Field) -> pa.Array:
        return pa.array(self.columns[field.name], type=field.type)

    def vector_array(self) -> pa.Array:
        missing = pa.array([not has for has in self.has_vector], pa.bool_())
        numbers = pa.Array.from_buffers(VECTOR, len(self.vectors), [None, pa.py_buffer(self.vectors)])
        vectors = pa.ListArray.from_arrays(pa.array(self.ends, pa.int32()), numbers)
        rows = pa.array(self.row_ends, pa.int32())
        if self.layout.several_vectors:
            return pa.ListArray.from_arrays(rows, vectors, mask=missing)
        # One vector or none: the rows' ends among the numbers.
        ends = pa.array([self.ends[place] for place in self.row_ends], pa.int32())
        return pa.ListArray.from_arrays(ends, numbers, mask=missing)

    def schema(self) -> pa.Schema:
        vector = pa.list_(VECTOR)
        special = {
            "key": kind_type(self.layout.key),
            "output": self.output_type,
            "tool_calls": TOOL_CALLS,
            "embedding": pa.list_(vector) if self.layout.several_vectors else vector,
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
