"""Records as rows of a table, each value looked at: what a column does not hold stops no other row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pyarrow as pa

from airflow_llm_batch.data.arrow_records import LONGEST, UNWRITABLE, Records
from airflow_llm_batch.data.tables.columns import Column
from airflow_llm_batch.exceptions import ConfigurationError, InputError, Unwritable
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow_llm_batch.data.destinations import Writer
    from airflow_llm_batch.data.sinks import Layout

Convert = Callable[[Any], Any]


class Unfit(ValueError):
    """A value that its column does not take."""


class Filled(NamedTuple):
    """A column, its type in the table, and what makes its values of Arrow's, or raises ``Unfit``."""

    column: Column
    there: Any
    convert: Convert


class Loaded(NamedTuple):
    """What a load has done.

    :param deleted: rows of the job that were there before, and are not of it any more.
    :param unfit: rows that came as ``invalid``, since they were landed before without regard to the table.
    """

    rows: int
    deleted: int
    unfit: int


class Rows:
    """Records as rows, in the order of the filled columns.

    :param job: whose rows they are.
    :ivar unfit: rows so far that were landed without regard to the table, and do not fit it.
    """

    def __init__(self, filled: Sequence[Filled], job: str) -> None:
        self.filled, self.job = filled, job
        self.count = self.unfit = 0

    def of(self, records: Iterable[pa.Table]) -> Iterator[list[tuple[Any, ...]]]:
        """:raises ConfigurationError: for a row without a key."""
        for some in records:
            columns = [one.column.of(some, self.job) for one in self.filled]
            for one, values in zip(self.filled, columns, strict=True):
                if one.column.is_key and values.null_count:
                    raise ConfigurationError(
                        f"{values.null_count:,} rows have nothing in {one.column.name}, a column of the table's key. "
                        "Nothing was loaded; the result files are landed. Give the table another key, and clear this "
                        "task: nothing is paid again."
                    )
            yield [self.row(values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]
            self.count += some.num_rows

    def row(self, values: Sequence[Any]) -> tuple[Any, ...]:
        try:
            return tuple([None if value is None else one[2](value) for one, value in zip(self.filled, values)])  # noqa: B905
        except Unfit:
            return self.what_fits(values)

    def what_fits(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """A row whose other values are null; it is ``invalid`` then, as it would have been in the files.

        :raises Unfit: where it is a value of the key.
        """
        self.unfit += 1
        made, why = [], ""
        for one, value in zip(self.filled, values, strict=True):
            try:
                made.append(None if value is None else one.convert(value))
            except Unfit as error:
                if one.column.is_key:
                    raise
                why = why or f"{one.column.name}: {error}"
                made.append(None)
        verdict = {"status": "invalid", "error_code": UNWRITABLE, "error_message": why[:LONGEST]}
        return tuple(verdict.get(one.column.field, value) for one, value in zip(self.filled, made, strict=True))


class Checked:
    """A writer of files whose records have to fit a table too."""

    def __init__(self, writer: Writer, layout: Layout, filled: Sequence[Filled]) -> None:
        self.writer, self.records = writer, Records(layout)
        self.looked_at = [one for one in filled if one.column.path and one.column.path[0] != "embedding"]
        self.commit, self.discard = writer.commit, writer.discard

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        # What comes once more is what is left of a record, and lands in any case.
        if result.error_code != UNWRITABLE:
            record, _ = self.records.values(result, columns)
            for column, _, convert in self.looked_at:
                value = record[column.path[0]]
                for member in column.path[1:]:
                    value = None if value is None else value.get(member)
                try:
                    if value is not None:
                        convert(value)
                except Unfit as error:
                    raise Unwritable(f"column {column.name} of the table: {error}"[:LONGEST]) from None
        self.writer.write(result, columns)


#: fields of which every record of a job has its own
ONCE = ("row", "custom_id")


class PlannedRows:
    """Looks at the values that are known before anything is sent.

    :ivar name: of the key, for messages.
    """

    def __init__(self, place: str, layout: Layout, filled: Sequence[Filled]) -> None:
        self.place, self.records = place, Records(layout)
        self.own = [one for one in filled if one.column.is_own]
        keys = [one.column for one in filled if one.column.is_key]
        #: those that tell rows apart, none where something does that is not known yet and comes once
        self.keys = [] if any(key.field in ONCE for key in keys) else [key.name for key in keys if key.is_own]
        self.kinds = {"key": layout.key, **layout.columns}
        self.name = f"{', '.join(self.keys)}, the key of {place}"

    def key(self, row: int, key: bytes, columns: bytes) -> bytes:
        """What a row is told apart by in the table.

        :param key: as JSON, and ``columns``, the pass-through columns, as a JSON object.
        :raises InputError: for a value that its column does not take.
        """
        given = {**msgspec.json.decode(columns), "key": msgspec.json.decode(key)}
        found = []
        for column, _, convert in self.own:
            try:
                value = self.records.carried(column.field, given, self.kinds[column.field], again=False)
                made = None if value is None else convert(value)
            except (Unfit, Unwritable) as error:
                raise InputError(
                    f"Row {row:,} (counted from 0) does not fit {self.place}: column {column.name}: {error}. Nothing "
                    "was sent."
                ) from None
            if column.is_key:
                if made is None:
                    raise InputError(
                        f"Row {row:,} (counted from 0) has nothing in {column.name}, a column of the key of "
                        f"{self.place}. Nothing was sent."
                    )
                found.append(made)
        return repr(found).encode("utf-8", "backslashreplace")
