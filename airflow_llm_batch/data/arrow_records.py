"""Records as Arrow columns: what a Parquet file holds, and what a table is filled from. Needs pyarrow."""

from __future__ import annotations

from array import array
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from airflow_llm_batch.data.arrow_types import JSON_TEXT, arrow_type, as_json, fit, kind_type, legal_text, stored
from airflow_llm_batch.exceptions import Unwritable
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow_llm_batch.data.sinks import Layout

#: rows, and bytes of text or vectors, that are held at most
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
COST = "cost_usd"
NUMBERS = (*INTEGERS, COST)
#: fields of no one type
JSON = ("choices", "logprobs", "citations", "tool_uses", "raw")
VECTOR = pa.float32()
#: kinds whose columns hold whatever ``stored`` makes of a value
CERTAIN = frozenset(
    {"string", "integer", "number", "boolean", "json", "date", "time", "timestamp", "timestamp_tz", "binary"}
)
#: the code of a record that came once more without the answer that its format could not hold
UNWRITABLE = "unwritable"
#: characters of a reason
LONGEST = 300
NO_FIELDS = ("embedding", "key", "output", "tool_calls", *JSON)


class Records:
    """Records that are gathered, column by column, until they are taken as an Arrow table.

    ``output`` has the type of the job's output schema, ``embedding`` is a list of float32 (a list of such lists where
    requests embed several texts), the key and the pass-through columns have the types that planning met. What has no
    single type is JSON text.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.texts = [field for field in Result.__struct_fields__ if field not in (*NO_FIELDS, *NUMBERS)]
        self.output_type = arrow_type(layout.output_schema) if layout.output_schema else JSON_TEXT
        self.types = {"key": kind_type(layout.key), **{name: kind_type(kind) for name, kind in layout.columns.items()}}
        self.schema = self.make_schema()
        self.clear()

    def clear(self) -> None:
        names = (name for name in (*Result.__struct_fields__, *self.layout.columns) if name != "embedding")
        self.columns: dict[str, list[Any]] = {name: [] for name in names}
        #: the numbers of all vectors, where each vector ends among them, and each row among the vectors
        self.vectors = array("f")
        self.ends, self.row_ends, self.has_vector = array("i", [0]), array("i", [0]), array("b")
        self.rows = self.bytes = 0

    def add(self, result: Result, columns: msgspec.Raw) -> None:
        """Add a record: a result and, as a JSON object, the pass-through columns.

        :raises Unwritable: for one that the columns cannot hold; nothing was added then.
        """
        # Everything is converted before anything is added: a record is added whole or not at all.
        record, vectors = self.values(result, columns)
        values = self.columns
        for name, value in record.items():
            values[name].append(value)
        for vector in vectors:
            self.vectors.extend(vector)
            self.ends.append(len(self.vectors))
        self.row_ends.append(len(self.ends) - 1)
        self.has_vector.append(bool(vectors))
        self.rows += 1
        texts = (record[name] for name in JSON)
        self.bytes += len(result.text or "") + len(columns) + sum(map(len, filter(None, texts)))

    def values(self, result: Result, columns: msgspec.Raw) -> tuple[dict[str, Any], list[array[float]]]:
        """A record's values by column, and its vectors.

        :raises Unwritable: for one that the columns cannot hold.
        """
        try:
            return self.converted(result, columns), self.vectors_of(result.embedding)
        except Unwritable:
            raise
        except Exception as error:
            # Answers and rows are anything: whatever a conversion says of one, the others have to be landed.
            raise Unwritable(f"{type(error).__name__}: {error}"[:LONGEST]) from None

    @property
    def size(self) -> int:
        """Bytes that are held, about."""
        return self.bytes + 4 * len(self.vectors)

    @property
    def is_full(self) -> bool:
        return self.rows >= GROUP_ROWS or self.size >= GROUP_BYTES

    def take(self) -> pa.Table:
        """What was gathered; the next is begun."""
        arrays = [self.vector_array() if f.name == "embedding" else self.array(f) for f in self.schema]
        table = pa.table(arrays, schema=self.schema)
        self.clear()
        return table

    def converted(self, result: Result, columns: msgspec.Raw) -> dict[str, Any]:
        """A record's values as their columns take them.

        :raises Exception: for what a column cannot hold.
        """
        again = result.error_code == UNWRITABLE
        record = {name: getattr(result, name) for name in self.texts}
        # Nearly all are as they should be, and looked at no closer.
        for name, value in record.items():
            if value is not None and not (type(value) is str and value.isascii()):
                record[name] = legal_text(value)
        for name in NUMBERS:
            value = getattr(result, name)
            if value is not None and not (type(value) is int and -(2**63) <= value < 2**63 and name != COST):
                value = number(name, value, again)
            record[name] = value
        for name in JSON:
            value = getattr(result, name)
            record[name] = None if value is None else legal_text(as_json(value))
        calls = result.tool_calls or ()
        record["tool_calls"] = [tool_call(call) for call in calls] or None
        record["output"] = fit(result.output, self.output_type)
        carried = {"key": msgspec.json.decode(result.key)}
        record["key"] = self.carried("key", carried, self.layout.key, again)
        carried = msgspec.json.decode(columns)
        for name, kind in self.layout.columns.items():
            record[name] = self.carried(name, carried, kind, again)
        return record

    def carried(self, name: str, row: dict[str, Any], kind: str, again: bool) -> Any:
        """A value of the row itself, as planning said its column is.

        :param again: the record comes once more, as ``invalid``: what its columns cannot hold is null now, for its
            answer was paid.
        :raises Unwritable: the first time.
        """
        try:
            value = stored(row.get(name), kind)
            if kind not in CERTAIN:
                pa.scalar(value, self.types[name])
            return legal_text(value) if isinstance(value, str) else whole(value)
        except Exception as error:
            if again:
                return None
            raise Unwritable(f"the row's own {name!r} is no {kind}: {error}"[:LONGEST]) from None

    def vectors_of(self, embedding: Any) -> list[array[float]]:
        """The vectors of one row.

        :raises Unwritable: for several where the plan knew of one, and for numbers that 32 bits do not hold.
        """
        if embedding is None:
            return []
        if isinstance(embedding, msgspec.Raw) or not isinstance(embedding[0], list | msgspec.Raw):
            return [packed(embedding)]
        if not self.layout.several_vectors:
            raise Unwritable(f"{len(embedding)} vectors came where one was asked for")
        return [packed(vector) for vector in embedding]

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

    def make_schema(self) -> pa.Schema:
        vector = pa.list_(VECTOR)
        special = {
            "key": kind_type(self.layout.key),
            "output": self.output_type,
            "tool_calls": TOOL_CALLS,
            "embedding": pa.list_(vector) if self.layout.several_vectors else vector,
            COST: pa.float64(),
            **dict.fromkeys(INTEGERS, pa.int64()),
        }
        fields = [pa.field(name, special.get(name, pa.string())) for name in Result.__struct_fields__]
        fields += [pa.field(name, kind_type(kind)) for name, kind in self.layout.columns.items()]
        return pa.schema(fields)


def whole(value: Any) -> Any:
    """:raises OverflowError: for an integer that no column holds."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise OverflowError(f"{str(value)[:40]} has more than the 64 bits of a column")
    return value


def number(name: str, value: Any, again: bool) -> Any:
    """A count or a cost; what is none, or too large, is null where the record comes once more."""
    try:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r:.80}")
        return float(value) if name == COST else whole(int(value))
    except (OverflowError, TypeError, ValueError):
        if again:
            return None
        raise


def tool_call(call: dict[str, Any]) -> dict[str, Any]:
    texts = {name: None if call.get(name) is None else legal_text(str(call[name])) for name in ("id", "name")}
    return {**texts, "arguments": legal_text(as_json(call.get("arguments")))}


def packed(vector: Any) -> array[float]:
    """A vector as a column of 32-bit numbers takes it.

    :raises Unwritable: for numbers that they do not hold.
    """
    made = array("f", msgspec.json.decode(vector) if isinstance(vector, msgspec.Raw) else vector)
    # What is too large became infinite.
    if not isfinite(sum(made)):
        raise Unwritable("a vector has numbers that 32 bits do not hold")
    return made
