"""Rows into a table of a database, all or none: staged and merged, or deleted and inserted by key."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from airflow_llm_batch.data.tables.columns import JOB
from airflow_llm_batch.data.tables.copying import copy_rows
from airflow_llm_batch.data.tables.rows import Filled
from airflow_llm_batch.exceptions import ResultsUnusable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Rows = Iterable[list[tuple[Any, ...]]]


class Merge:
    """One load of a job's rows.

    :param filled: the columns that are filled; a row has its values in their order.
    """

    def __init__(self, connection: Connection, table: sa.Table, filled: Sequence[Filled], job: str) -> None:
        self.connection, self.table, self.job = connection, table, job
        self.dialect = connection.dialect.name
        self.types = {one.column.name: one.there for one in filled}
        self.keys = [one.column.name for one in filled if one.column.is_key]

    def run(self, rows: Rows, *, keep: bool = True) -> int:
        """Load the rows.

        :param keep: or take all of it back.
        :return: rows of the job that were there and are not of it any more.
        """
        if self.dialect == "sqlite":
            # A temporary table is nobody else's: others read and write while it is filled.
            with self.connection.begin():
                staging = self.staging()
            with self.connection.begin():
                self.fill(staging, rows)
                # Every row of the job is looked for here.
                keys = ", ".join(map(self.connection.dialect.identifier_preparer.quote, self.keys))
                self.connection.exec_driver_sql(f"CREATE INDEX temp.{staging.name}_key ON {staging.name} ({keys})")
            self.connection = self.connection.execution_options(writes=True)
            with self.connection.begin() as whole:
                deleted = self.merge(staging)
                self.connection.exec_driver_sql(f"DROP TABLE {staging.name}")
                if not keep:
                    whole.rollback()
            return deleted
        with self.connection.begin() as whole:
            deleted = self.staged(rows) if self.dialect == "postgresql" else self.by_key(rows)
            if not keep:
                whole.rollback()
        return deleted

    def staged(self, rows: Rows) -> int:
        staging = self.staging("ON COMMIT DROP ")
        copy_rows(self.connection, staging.name, list(self.types), rows)
        self.connection.exec_driver_sql(f"ANALYZE {staging.name}")
        # Tasks of ours that load the same table wait for each other, so that none ends in a deadlock.
        name = f"llm_batch {self.table.fullname}"
        self.connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))
        return self.merge(staging)

    def staging(self, then: str = "") -> Any:
        """A temporary table with the columns that are filled."""
        quote = self.connection.dialect.identifier_preparer
        name, listed = f"llm_batch_{uuid.uuid4().hex[:12]}", ", ".join(map(quote.quote, self.types))
        source = quote.format_table(self.table)
        self.connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE {name} {then}AS SELECT {listed} FROM {source} WHERE 1 = 0"  # noqa: S608
        )
        return sa.table(name, *(sa.column(column, kind) for column, kind in self.types.items()))

    def fill(self, staging: Any, rows: Rows) -> None:
        insert = self.insert_into(staging.name)
        for some in rows:
            if some:
                self.connection.execute(insert, [dict(zip(self.types, row, strict=True)) for row in some])

    def merge(self, staging: Any) -> int:
        """Delete what the job has there and not here, and update or insert the rest."""
        self.refuse_twice(staging)
        here = sa.exists().where(sa.and_(*(staging.c[key] == self.table.c[key] for key in self.keys)))
        deleted = self.connection.execute(sa.delete(self.table).where(self.table.c[JOB] == self.job, ~here)).rowcount
        if self.dialect == "postgresql":
            from sqlalchemy.dialects.postgresql import insert
        else:
            from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
        # SQLite takes ON CONFLICT for a part of a join where there is no condition.
        chosen = sa.select(*(staging.c[name] for name in self.types)).where(sa.true())
        merged = insert(self.table).from_select(
            list(self.types), chosen.order_by(*(staging.c[key] for key in self.keys))
        )
        changed = {name: merged.excluded[name] for name in self.types if name not in self.keys}
        by = [self.table.c[key] for key in self.keys]
        self.connection.execute(merged.on_conflict_do_update(index_elements=by, set_=changed))
        return int(deleted)

    def refuse_twice(self, staging: Any) -> None:
        """:raises ResultsUnusable: for rows of one job that have the same key."""
        by = [staging.c[key] for key in self.keys]
        count = sa.func.count()
        twice = self.connection.execute(sa.select(*by, count).group_by(*by).having(count > 1).limit(1)).first()
        if twice is not None:
            named = ", ".join(f"{key}={value!r:.80}" for key, value in zip(self.keys, twice, strict=False))
            raise ResultsUnusable(
                f"{twice[-1]:,} rows of the job have the same key, {named}, of which the table can hold one. "
                "Nothing was loaded; the result files are landed, and nothing is lost. Give the table a key that tells "
                "its rows apart, and clear this task: nothing is paid again."
            )

    def by_key(self, rows: Rows) -> int:
        """Delete the job's rows and those with the keys that come, and insert: SQL that every database has.

        :return: rows of the job that were deleted, those that come again included.
        """
        deleted = self.connection.execute(sa.delete(self.table).where(self.table.c[JOB] == self.job)).rowcount
        names = list(self.types)
        places = [names.index(key) for key in self.keys]
        same = [self.table.c[key] == sa.bindparam(f"key_{n}") for n, key in enumerate(self.keys)]
        insert = self.insert_into(self.table.name, self.table.schema)
        for some in rows:
            if some:
                keys = [{f"key_{n}": row[place] for n, place in enumerate(places)} for row in some]
                self.connection.execute(sa.delete(self.table).where(*same), keys)
                self.connection.execute(insert, [dict(zip(names, row, strict=True)) for row in some])
        return int(deleted)

    def insert_into(self, name: str, schema: str | None = None) -> Any:
        columns = [sa.Column(column, self.bound(kind)) for column, kind in self.types.items()]
        return sa.insert(sa.Table(name, sa.MetaData(), *columns, schema=schema))

    def bound(self, kind: Any) -> Any:
        """A type as which a value is handed over: JSON comes as a text, and so do SQLite's decimals."""
        decimal = self.dialect == "sqlite" and isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float)
        return sa.Text() if decimal or isinstance(kind, sa.JSON | sa.Enum | sa.types.NullType) else kind
