"""Rows from a query over any Airflow database connection, a thousand at a time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.storage import unreadable

#: rows fetched at once
ROWS = 1000
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
    """

    conn_id: str
    sql: str
    parameters: Mapping[str, Any] | Sequence[Any] | None = None

    template_fields: ClassVar[tuple[str, ...]] = ("conn_id", "sql", "parameters")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Run the query.

        :raises InputError: when it cannot be run, or names a column twice; nothing was sent.
        """
        from airflow.providers.common.compat.sdk import BaseHook

        try:
            hook: Any = self.hook(BaseHook)
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

    def hook(self, base: Any) -> Any:
        """The connection's hook.

        :raises InputError: for a connection that does not exist, or whose type has no hook to run queries with.
        """
        from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException

        try:
            connection = base.get_connection(self.conn_id)
        except AirflowNotFoundException:
            raise InputError(f"There is no connection {self.conn_id!r} for the query. Nothing was sent.") from None
        try:
            hook = connection.get_hook()
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
