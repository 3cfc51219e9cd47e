"""Tables whose types are Arrow's own: how their columns are made, compared and filled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_llm_batch.data.arrow_records import UNWRITABLE
from airflow_llm_batch.data.arrow_types import as_json
from airflow_llm_batch.data.tables.columns import JOB, Column
from airflow_llm_batch.data.tables.rows import Convert, Filled, Unfit
from airflow_llm_batch.exceptions import ConfigurationError


def made_as(column: Column) -> pa.DataType:
    """The type of a column of a table that is made: what the format does not have is a text."""
    kind = column.kind
    nanoseconds = pa.types.is_timestamp(kind) and kind.unit == "ns"
    return pa.string() if pa.types.is_time(kind) or nanoseconds else kind


def schema_of(columns: Sequence[Column]) -> pa.Schema:
    always = {JOB, *(column.name for column in columns if column.is_key)}
    return pa.schema([pa.field(c.name, made_as(c), nullable=c.name not in always) for c in columns])


def fill(place: str, there: pa.Schema, columns: Sequence[Column], remedy: str) -> list[Filled]:
    """The columns as they are there.

    :raises ConfigurationError: names every column that is missing or of another type, and what wants a value.
    """
    filled, wrong = [], []
    for column in columns:
        wanted = made_as(column)
        known = column.name in there.names
        kind = there.field(column.name).type if known else None
        if not known:
            wrong.append(f"has no column {column.name} ({wanted})")
        elif kind != wanted and not column.is_own:
            wrong.append(f"has {column.name} as {kind}, where {wanted} is needed")
        else:
            filled.append(Filled(column, kind, conversion(kind)))
    ours = {column.name for column in columns}
    wrong += [
        f"needs a value for {name}, which is not among what is loaded"
        for name in there.names
        if name not in ours and not there.field(name).nullable
    ]
    if wrong:
        raise ConfigurationError(
            f"The table {place} {'; it '.join(wrong)}. Change the table, or choose what is loaded by columns=. {remedy}"
        )
    return filled


def conversion(kind: pa.DataType) -> Convert:
    """What makes a value one of the column's type."""

    def convert(value: Any) -> Any:
        try:
            if pa.types.is_string(kind):
                return value if isinstance(value, str) else as_text(value)
            return pa.scalar(value, kind).as_py()
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            raise Unfit(f"{value!r:.80} is no {kind} that the column holds") from None

    return convert


def as_text(value: Any) -> str:
    if isinstance(value, bytes):
        raise TypeError("binary")
    return str(value.isoformat()) if hasattr(value, "isoformat") else as_json(value)


class Batches:
    """Records as batches of a table's columns.

    :ivar unfit: rows so far that were landed without regard to the table, and do not fit it.
    """

    def __init__(self, filled: Sequence[Filled], job: str) -> None:
        self.filled, self.job = filled, job
        self.schema = pa.schema([pa.field(one.column.name, one.there) for one in filled])
        self.count = self.unfit = 0

    def of(self, records: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        """:raises ConfigurationError: for a row without a key."""
        for some in records:
            arrays = [one.column.of(some, self.job) for one in self.filled]
            odd: dict[int, str] = {}
            made = [self.array(one, array, odd) for one, array in zip(self.filled, arrays, strict=True)]
            if odd:
                self.unfit += len(odd)
                verdict = {"status": "invalid", "error_code": UNWRITABLE}
                for place, one in enumerate(self.filled):
                    if one.column.field in verdict:
                        made[place] = replaced(made[place], dict.fromkeys(odd, verdict[one.column.field]))
                    elif one.column.field == "error_message":
                        made[place] = replaced(made[place], odd)
            self.count += some.num_rows
            yield from pa.table(made, schema=self.schema).to_batches()

    def array(self, one: Filled, array: pa.ChunkedArray, odd: dict[int, str]) -> pa.ChunkedArray:
        """A column as the table has it; what does not fit is null, and noted by its place."""
        if one.column.is_key and array.null_count:
            raise ConfigurationError(
                f"{array.null_count:,} rows have nothing in {one.column.name}, a column of the table's key. Nothing "
                "was loaded; the result files are landed. Give the table another key, and clear this task: nothing is "
                "paid again."
            )
        if array.type == one.there:
            return array
        try:
            if not pa.types.is_temporal(array.type):
                return pc.cast(array, one.there)
        except (pa.ArrowException, NotImplementedError):
            pass
        values = array.to_pylist()
        for place, value in enumerate(values):
            try:
                values[place] = None if value is None else one.convert(value)
            except Unfit as error:
                if one.column.is_key:
                    raise
                values[place] = None
                odd[place] = f"{one.column.name}: {error}"
        return pa.chunked_array([pa.array(values, one.there)])


def replaced(array: pa.ChunkedArray, by: dict[int, str]) -> pa.ChunkedArray:
    values = array.to_pylist()
    for place, text in by.items():
        values[place] = text
    return pa.chunked_array([pa.array(values, array.type)])
