"""Rows from Parquet files and Arrow tables, some at a time and only the columns that are needed. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_llm_batch.data.values import Nanoseconds
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.storage import open_random, unreadable

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: rows decoded at once, and bytes of a column asked for at once: row groups may be larger than memory
ROWS, BYTES = 1000, 2**20


def read_parquet(path: ObjectStoragePath, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """The file's rows.

    :param columns: the columns to read, None for all.
    :raises InputError: for a column the file does not have, and for a file that is not Parquet.
    """
    with opened(path, columns) as (parquet, wanted):
        for batch in parquet.iter_batches(ROWS, columns=wanted, use_threads=False):
            yield from batch_rows(batch)


def read_groups(
    path: ObjectStoragePath, columns: Collection[str] | None, start: int, end: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, with their numbers in the file, of the row groups whose first byte lies from ``start`` to before
    ``end``; nothing is read of the others."""
    with opened(path, columns) as (parquet, wanted):
        number = 0
        for group in range(parquet.num_row_groups):
            facts = parquet.metadata.row_group(group)
            if start <= first_byte(facts) < end:
                batches = parquet.iter_batches(ROWS, row_groups=[group], columns=wanted, use_threads=False)
                yield from enumerate((row for batch in batches for row in batch_rows(batch)), number)
            number += facts.num_rows


def first_byte(facts: Any) -> int:
    """Where a row group begins in its file."""
    if not facts.num_columns:
        return 0
    column = facts.column(0)
    # Some writers leave the dictionary's place at 0 where there is none.
    return min(filter(None, (column.dictionary_page_offset, column.data_page_offset)), default=0)


@contextmanager
def opened(path: ObjectStoragePath, columns: Collection[str] | None) -> Iterator[tuple[Any, list[str] | None]]:
    """The file, and the columns to read.

    :raises InputError: as ``read_parquet``.
    """
    try:
        with open_random(path) as file, pq.ParquetFile(file, buffer_size=BYTES, pre_buffer=False) as parquet:
            names = parquet.schema_arrow.names
            if missing := sorted(set(columns or ()) - set(names)):
                raise InputError(
                    f"{path} has no column {missing[0]!r}, which the request template, the key or passthrough names; "
                    f"it has {', '.join(map(repr, names)) or 'no columns'}. Nothing was sent."
                )
            # Without a column there would be no rows to count.
            yield parquet, None if columns is None else [name for name in names if name in columns] or names[:1]
    except (pa.ArrowException, OSError) as error:
        raise unreadable(f"Cannot read {path}", error) from error


def table_rows(table: Any) -> Iterator[dict[str, Any]]:
    """The rows of an Arrow table, record batch or reader."""
    batches = [table] if isinstance(table, pa.RecordBatch) else table
    for batch in table.to_batches(ROWS) if isinstance(table, pa.Table) else batches:
        for start in range(0, batch.num_rows, ROWS):
            yield from batch_rows(batch.slice(start, ROWS))


def batch_rows(batch: Any) -> list[dict[str, Any]]:
    """A record batch's rows, without pandas: Arrow would ask it for nanoseconds."""
    columns = [readable_values(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def readable_values(name: str, column: Any) -> list[Any]:
    """:raises InputError: for what Python has no value for: years after 9999, time zones that are none."""
    try:
        return column_values(column)
    except (pa.ArrowException, ArithmeticError, ValueError, LookupError) as error:
        raise InputError(
            f"The column {name!r} of type {column.type} has a value that cannot be read: {error}. Cast it to text, or "
            "leave it out. Nothing was sent."
        ) from None


def column_values(column: Any) -> list[Any]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if not has_nanoseconds(kind):
        values: list[Any] = column.to_pylist()
        return values
    if not pa.types.is_timestamp(kind):
        return list(column.cast(in_microseconds(kind), safe=False).to_pylist())
    numbers = column.cast(pa.int64())
    if pc.all(pc.equal(numbers, pc.multiply(pc.divide(numbers, 1000), 1000))).as_py() is not False:
        return list(column.cast(in_microseconds(kind)).to_pylist())
    zone = "+00:00" if kind.tz else ""
    texts = pc.strftime(column.cast(pa.timestamp("ns", "UTC") if kind.tz else kind), format="%Y-%m-%dT%H:%M:%S")
    return [None if text is None else Nanoseconds(f"{text}{zone}") for text in texts.to_pylist()]


def has_nanoseconds(kind: Any) -> bool:
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
        return str(kind.unit) == "ns"
    return any(has_nanoseconds(kind.field(place).type) for place in range(kind.num_fields))


def in_microseconds(kind: Any) -> Any:
    """The type with microseconds in the place of nanoseconds."""
    if not has_nanoseconds(kind):
        return kind
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, in_microseconds(f.type)) for f in kind])
    if pa.types.is_map(kind):
        return pa.map_(in_microseconds(kind.key_type), in_microseconds(kind.item_type))
    inner = in_microseconds(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inner, kind.list_size)
    return pa.large_list(inner) if pa.types.is_large_list(kind) else pa.list_(inner)
