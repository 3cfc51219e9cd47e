"""The columns that a job fills in a table, and what of a record each of them holds. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_llm_batch.data.arrow_records import JSON, Records
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow_llm_batch.data.sinks import Layout
    from airflow_llm_batch.data.table import Keyed

#: the column that says whose rows they are
JOB = "llm_batch_job"
#: what a table tells of a row beside what was answered
TOLD = (
    "status", "finish_reason", "error_code", "error_message", "model", "input_tokens", "output_tokens", "cost_usd",
)  # fmt: skip
#: fields of a record that may be part of a key
IN_KEYS = ("key", "row", "custom_id", "model", "provider")
#: those of them that rows of a job have in common
SHARED = ("model", "provider")


@dataclass(frozen=True)
class Column:
    """One column.

    :param path: of the value in a record: a field, and members below it; empty for ``JOB``.
    :param kind: its Arrow type.
    :param is_own: the value is the row's own, and known before anything is sent.
    :param is_json: the text is JSON.
    """

    name: str
    path: tuple[str, ...]
    kind: pa.DataType
    is_key: bool = False
    is_own: bool = False
    is_json: bool = False

    @property
    def field(self) -> str:
        return ".".join(self.path)

    def of(self, records: pa.Table, job: str) -> pa.ChunkedArray:
        """The column of these records."""
        if not self.path:
            return pa.chunked_array([pa.repeat(pa.scalar(job, self.kind), records.num_rows)])
        found, kind = records.column(self.path[0]), records.schema.field(self.path[0]).type
        for member in self.path[1:]:
            place = kind.get_field_index(member)
            found, kind = pc.struct_field(found, [place]), kind.field(place).type
        # An unknown model is a model of its own among the keys, which hold no null.
        return pc.fill_null(found, "") if self.is_key and pa.types.is_string(kind) and not self.is_own else found


def columns_of(table: Keyed, layout: Layout) -> list[Column]:
    """What a job of this layout fills.

    :raises ConfigurationError: for a key or a field that its records do not have.
    """
    find = Finder(layout)
    keys = {name: key_path(name, table, layout) for name in table.keys}
    if all(path in SHARED for path in keys.values()):
        raise ConfigurationError(
            f"The key of {table.place} is {', '.join(keys)}, which many rows share; add the column that names a row. "
            "Nothing was sent."
        )
    chosen = table.given["columns"]
    if chosen is None:
        wanted = keys | by_default(layout, find, keys)
    else:
        wanted = dict(chosen) if isinstance(chosen, Mapping) else {name.rpartition(".")[2]: name for name in chosen}
        wanted = {**wanted, **keys}
    columns = [find.column(name, path, name in keys) for name, path in wanted.items()]
    columns.append(Column(JOB, (), pa.string()))
    names = [column.name.casefold() for column in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(
            f"The columns of {table.place} would be called {', '.join(twice)} more than once; name them by "
            "columns={column: field}. Nothing was sent."
        )
    return columns


def key_path(name: str, table: Keyed, layout: Layout) -> str:
    """What of a record a column of the key holds."""
    if name in layout.columns or name in IN_KEYS:
        return name
    others = [other for other in table.keys if other not in layout.columns and other not in IN_KEYS]
    if len(others) > 1 or "key" in table.keys or name in Result.__struct_fields__:
        raise ConfigurationError(
            f"The key of {table.place} has {', '.join(map(repr, others))}, and the results have no such columns: name "
            "them in passthrough. (One of them may have a name of its own, and holds the record's key then.) Nothing "
            "was sent."
        )
    return "key"


def by_default(layout: Layout, find: Finder, keys: Mapping[str, str]) -> dict[str, str | tuple[str, ...]]:
    """What is loaded where nothing is chosen."""
    wanted: dict[str, str | tuple[str, ...]] = {name: (name,) for name in layout.columns if name not in keys}
    answered = {name: (name,) for name in (*layout.answers, *TOLD)}
    taken = {name.casefold() for name in (*keys, *wanted, *answered, JOB)}
    if layout.output_schema is not None:
        kind = find.schema.field("output").type
        for member in (kind.field(n).name for n in range(kind.num_fields)) if pa.types.is_struct(kind) else ():
            name = f"output_{member}" if member.casefold() in taken else member
            wanted[name] = ("output", member)
            taken.add(name.casefold())
        if not pa.types.is_struct(kind):
            wanted["output"] = ("output",)
    return {**wanted, **{name: path for name, path in answered.items() if name not in keys}}


class Finder:
    """Finds what of a record a column is to hold."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.schema: pa.Schema = Records(layout).schema

    def column(self, name: str, given: str | tuple[str, ...], is_key: bool) -> Column:
        """:raises ConfigurationError: for a field that records do not have."""
        path = given if isinstance(given, tuple) else (given,)
        if path[0] not in self.schema.names:
            path = tuple(str(given).split("."))
        kind = self.kind(path)
        if kind is None:
            raise ConfigurationError(
                f"Column {name!r} is to hold {'.'.join(path)!r}, which results do not have: they have "
                f"{', '.join(self.schema.names)}, and output.name for a member that the output schema gives a type of "
                "its own. Nothing was sent."
            )
        own = path[0] in self.layout.columns or path[0] == "key"
        has_schema = self.layout.output_schema is not None
        is_json = path[0] in JSON or (path == ("output",) and has_schema and pa.types.is_string(kind))
        return Column(name, path, kind, is_key, own, is_json)

    def kind(self, path: tuple[str, ...]) -> pa.DataType | None:
        """The type of what lies there in a record, None where nothing does."""
        if path[0] not in self.schema.names:
            return None
        kind = self.schema.field(path[0]).type
        for member in path[1:]:
            place = kind.get_field_index(member) if pa.types.is_struct(kind) else -1
            if place < 0:
                return None
            kind = kind.field(place).type
        return kind
