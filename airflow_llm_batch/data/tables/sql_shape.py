"""A table of a database as it is there: made where it is missing, and compared with what a job fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from airflow_llm_batch.data.tables.columns import JOB, Column
from airflow_llm_batch.data.tables.rows import Filled
from airflow_llm_batch.data.tables.sql_types import conversion, made_as

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

#: databases in which rows are staged, and merged by ``ON CONFLICT``
STAGED = frozenset({"postgresql", "sqlite"})
#: fields that no record lacks
ALWAYS = frozenset({"status", "row", "custom_id", "key", "provider", "shard", "round", ""})


class Found(NamedTuple):
    """A table that is there.

    :param unique: the sets of columns that a unique index is on.
    """

    table: sa.Table
    unique: set[frozenset[str]]


class Place:
    """A table's name in a database."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        schema, _, self.name = name.rpartition(".")
        self.schema = schema or None

    def reflected(self) -> Found | None:
        """The table as it is; None where there is none."""
        with self.engine.connect() as connection:
            inspector: Any = sa.inspect(connection)
            if not inspector.has_table(self.name, schema=self.schema):
                return None
            made = [
                sa.Column(c["name"], c["type"], nullable=c["nullable"], server_default=given_by_itself(c))
                for c in inspector.get_columns(self.name, schema=self.schema)
            ]
            table = sa.Table(self.name, sa.MetaData(), *made, schema=self.schema)
            return Found(table, unique_sets(inspector, self.name, self.schema))

    def make(self, columns: Sequence[Column]) -> None:
        """Make the table; of two tasks that do so at once both find it then."""
        dialect = self.engine.dialect.name
        made = [
            sa.Column(c.name, made_as(c, dialect), nullable=not (c.is_key or c.name == JOB), autoincrement=False)
            for c in columns
        ]
        keys = sa.PrimaryKeyConstraint(*(column.name for column in columns if column.is_key))
        table = sa.Table(self.name, sa.MetaData(), *made, keys, schema=self.schema)
        if dialect in STAGED:
            sa.Index(f"{self.name[:40]}_{JOB}", table.c[JOB])
        try:
            with self.engine.begin() as connection:
                table.create(connection)
        except sa.exc.SQLAlchemyError:
            if self.reflected() is None:
                raise

    def fill(self, found: Found, columns: Sequence[Column]) -> tuple[list[Filled], list[str]]:
        """The columns that are filled, and what is wrong with the table."""
        dialect = self.engine.dialect
        types = {column.name: column.type for column in found.table.columns}
        filled, wrong = [], []
        for column in columns:
            there = types.get(column.name)
            wanted = made_as(column, dialect.name).compile(dialect=dialect)
            convert = None if there is None else conversion(column, there, dialect.name)
            if there is None:
                wrong.append(f"has no column {column.name} ({wanted})")
            elif convert is None:
                wrong.append(f"has {column.name} as {type_name(there, dialect)}, where {wanted} is needed")
            else:
                filled.append(Filled(column, there, convert))
        return filled, wrong + self.lacks(found, columns)

    def lacks(self, found: Found, columns: Sequence[Column]) -> list[str]:
        """What else keeps a job's rows out of the table."""
        ours = {column.name: column for column in columns}
        wrong = []
        for column in found.table.columns:
            if column.nullable:
                continue
            if column.name not in ours:
                if column.server_default is None:
                    wrong.append(f"needs a value for {column.name}, which is not among what is loaded")
            elif not ours[column.name].is_key and ours[column.name].field not in ALWAYS:
                wrong.append(f"has {column.name} as NOT NULL, and rows may have nothing there")
        keys = [column.name for column in columns if column.is_key]
        if self.engine.dialect.name in STAGED and frozenset(keys) not in found.unique:
            quote = self.engine.dialect.identifier_preparer
            listed = ", ".join(map(quote.quote, keys))
            wrong.append(
                f"has no unique index on its key (CREATE UNIQUE INDEX ON {quote.format_table(found.table)} ({listed}))"
            )
        return wrong


def unique_sets(inspector: Any, name: str, schema: str | None) -> set[frozenset[str]]:
    """The sets of columns of which an index without a condition keeps values from coming twice."""
    found = [inspector.get_pk_constraint(name, schema=schema)["constrained_columns"]]
    found += [unique["column_names"] for unique in inspector.get_unique_constraints(name, schema=schema)]
    for index in inspector.get_indexes(name, schema=schema):
        options = index.get("dialect_options") or {}
        if index["unique"] and not any(name.endswith("_where") for name in options):
            found.append(index["column_names"])
    # An index on an expression is on a column without a name.
    return {frozenset(names) for names in found if names and None not in names}


def type_name(there: Any, dialect: Any) -> str:
    try:
        return str(there.compile(dialect=dialect))
    except sa.exc.CompileError:
        return "a type that is not known"


def given_by_itself(column: Any) -> Any:
    """What stands for a column that an insert need not name; None for none."""
    own = column.get("identity") or column.get("computed") or column.get("autoincrement") is True
    return sa.text("''") if own or column.get("default") is not None else None
