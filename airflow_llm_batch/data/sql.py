"""Rows from a query over any Airflow database connection, a thousand at a time."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_llm_batch.airflow_versions import get_connection
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.storage import unreadable

if TYPE_CHECKING:
    from airflow_llm_batch.data.partitions import Partition

#: rows fetched at once
ROWS = 1000
#: a column's name that needs no quoting
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: connection types whose driver loads a whole result at once, unless the cursor has a name and stays on the server
NAMED_CURSORS = frozenset({"postgres", "redshift", "alloydb", "gcpcloudsqlpostgres"})


@dataclass
class Sql:
    """The rows of a query.

    A retried task runs the query again, and rows in another order are other input: order by something unique, and
    select what does not change meanwhile.

    :param conn_id: any Airflow connection whose hook is a ``DbApiHook`` (PostgreSQL, SQLite, Snowflake, ...).
    :param sql: one statement that returns rows; its columns must have names of their own.
    :param parameters: for the placeholders of the database's driver.
    :param partition_by: a column of the result by whose ranges it is cut into partitions: whole numbers, unique, and
        best with an index. Each partition asks for its range, in that order.
    """

    conn_id: str
    sql: str
    parameters: Mapping[str, Any] | Sequence[Any] | None = None
    partition_by: str | None = None

    template_fields: ClassVar[tuple[str, ...]] = ("conn_id", "sql", "parameters", "partition_by")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Run the query.

        :raises InputError: when it cannot be run, or names a column twice; nothing was sent.
        """
        try:
            hook: Any = self.hook()
            with (
                closing(hook.get_conn()) as opened,
                closing(server_side(opened, getattr(hook, "conn_type", None))) as cursor,
            ):
                cursor.execute(self.sql, *([self.parameters] if self.parameters else []))
                batch = cursor.fetchmany(ROWS)
                names = [column[0] for column in cursor.description or ()]
                self.check(names)
                while batch:
                    for values in batch:
                        yield dict(zip(names, values, strict=True))
                    batch = cursor.fetchmany(ROWS)
        except (InputError, GeneratorExit):
            raise
        except Exception as error:
            raise unreadable(f"The query on connection {self.conn_id!r} failed", error) from error

    def bounds(self) -> tuple[int | None, int | None]:
        """The least and the largest value of the column that it is cut by, None where there is none.

        :raises InputError: for values that are no whole numbers, and where no column is named.
        """
        column = self.cut_by()
        asked = f"SELECT MIN({column}) AS low, MAX({column}) AS high FROM {self.inner()}"  # noqa: S608
        found = replace(self, sql=asked)
        low, high = next(found.rows()).values()
        for value in (low, high):
            if value is not None and (isinstance(value, str | bytes | date) or value != int(value)):
                raise InputError(
                    f"The query on connection {self.conn_id!r} is cut by {column}, which holds {value!r}; name a "
                    "column of whole numbers. Nothing was sent."
                )
        return (None, None) if low is None or high is None else (int(low), int(high))

    def between(self, partition: Partition, low: int | None, high: int | None) -> Sql:
        """One partition of it. What has no value in the column is the first one's.

        :param low: as ``bounds`` gives it, and ``high``.
        """
        column = self.cut_by()
        least, most = (0, -1) if low is None or high is None else (low, high)
        width = most - least + 1
        start = least + width * partition.number // partition.count
        end = least + width * (partition.number + 1) // partition.count
        nulls = f" OR {column} IS NULL" if partition.number == 0 else ""
        wanted = f"{column} >= {start} AND {column} < {end}{nulls}"
        return replace(self, sql=f"SELECT * FROM {self.inner()} WHERE {wanted} ORDER BY {column}")  # noqa: S608

    def cut_by(self) -> str:
        """:raises InputError: where no column is named, or by no plain name."""
        if not self.partition_by or not NAME.fullmatch(self.partition_by):
            raise InputError(
                f"partition needs the column by whose ranges the query on connection {self.conn_id!r} is cut, by its "
                f"plain name: Sql(..., partition_by='id'), not {self.partition_by!r}. Nothing was sent."
            )
        return self.partition_by

    def inner(self) -> str:
        # No AS before the name: Oracle knows none there.
        return f"({self.sql.rstrip().rstrip(';')}) llm_batch_rows"

    def hook(self) -> Any:
        """The connection's hook.

        :raises InputError: for a connection that does not exist, or whose type has no hook to run queries with.
        """
        from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException

        try:
            connection = get_connection(self.conn_id)
        except AirflowNotFoundException:
            raise InputError(f"There is no connection {self.conn_id!r} for the query. Nothing was sent.") from None
        try:
            hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
        except AirflowException:
            hook = None
        if not (hasattr(hook, "get_conn") and hasattr(hook, "get_records")):
            raise InputError(
                f"Connection {self.conn_id!r} is of type {connection.conn_type!r}, for which no hook that runs queries "
                "is installed; install the database's Airflow provider. Nothing was sent."
            )
        return hook

    def check(self, names: list[str]) -> None:
        if not names:
            raise InputError(f"The statement on connection {self.conn_id!r} returns no rows at all. Nothing was sent.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"The query on connection {self.conn_id!r} names {', '.join(twice)} more than once; give each column a "
                "name of its own (AS ...). Nothing was sent."
            )


def server_side(opened: Any, conn_type: str | None) -> Any:
    """A cursor that does not load the whole result."""
    if conn_type in NAMED_CURSORS:
        return opened.cursor(name=f"llm_batch_{uuid.uuid4().hex[:8]}")
    return opened.cursor()
