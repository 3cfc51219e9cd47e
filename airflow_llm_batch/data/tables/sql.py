"""A table of an Airflow database connection: reached through Airflow's hook, compared, filled in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from airflow_llm_batch.airflow_versions import get_connection
from airflow_llm_batch.data.tables.columns import JOB, Column
from airflow_llm_batch.data.tables.merging import Merge
from airflow_llm_batch.data.tables.rows import Filled, Loaded, Rows
from airflow_llm_batch.data.tables.sql_shape import STAGED, Place
from airflow_llm_batch.exceptions import ConfigurationError, LLMBatchError, SourceUnavailable
from airflow_llm_batch.outages import LASTING, is_outage

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from airflow_llm_batch.data.table import Table

#: seconds that SQLite waits for another writer
PATIENCE = 120


class SqlTable:
    """The table of a ``Table``; every method opens a connection of its own, and closes it.

    :param remedy: the end of what errors say: whether anything was sent, and what to do.
    """

    def __init__(self, given: Table, remedy: str) -> None:
        self.given, self.remedy = given, remedy

    def reach(self) -> None:
        """:raises LLMBatchError: when the database cannot be reached."""
        with self.engine() as engine, engine.connect():
            pass

    def filled(self, columns: Sequence[Column], *, make: bool) -> list[Filled] | None:
        """The columns as they are there; a load of no rows has shown that they can be filled.

        :param make: make the table where it is missing.
        :return: None where it is missing and is not to be made.
        :raises ConfigurationError: names every column that is missing or of another type, and what else is wrong.
        """
        with self.engine() as engine:
            found = self.compared(engine, columns, make=make)
            if found is None:
                return None
            with engine.connect() as connection:
                Merge(connection, *found, job="").run((), keep=False)
            return found[1]

    def load(self, columns: Sequence[Column], records: Callable[[], Iterable[pa.Table]], job: str) -> Loaded:
        """Replace a job's rows by these, in one transaction.

        :param records: begins to read them.
        """
        with self.engine() as engine:
            found = self.compared(engine, columns, make=True)
            assert found is not None
            rows = Rows(found[1], job)
            with engine.connect() as connection:
                deleted = Merge(connection, *found, job=job).run(rows.of(records()))
        return Loaded(rows.count, deleted, rows.unfit)

    def is_filled(self, job: str) -> bool:
        """Whether rows of a job are there."""
        with self.engine() as engine:
            found = self.reflected(engine)
            if found is None:
                return False
            mine = sa.select(found.c[JOB]).where(found.c[JOB] == job).limit(1)
            with engine.connect() as connection:
                return connection.execute(mine).first() is not None

    def remove(self, job: str) -> int:
        """Take a job's rows away; how many there were."""
        with self.engine() as engine:
            found = self.reflected(engine)
            if found is None:
                return 0
            with engine.begin() as connection:
                return int(connection.execute(sa.delete(found).where(found.c[JOB] == job)).rowcount)

    def reflected(self, engine: Engine) -> sa.Table | None:
        """The table where there is one that results may be in."""
        found = Place(engine, self.given.table).reflected()
        return found.table if found is not None and JOB in found.table.c else None

    def compared(
        self, engine: Engine, columns: Sequence[Column], *, make: bool
    ) -> tuple[sa.Table, list[Filled]] | None:
        place = Place(engine, self.given.table)
        found = place.reflected()
        if found is None:
            if not make:
                return None
            place.make(columns)
            found = place.reflected()
            assert found is not None
        filled, wrong = place.fill(found, columns)
        if wrong:
            raise ConfigurationError(
                f"The table {self.given.place} {'; it '.join(wrong)}. Change the table, or choose what is loaded by "
                f"columns=. {self.remedy}"
            )
        return found.table, filled

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """SQLAlchemy over the connections that Airflow's hook makes.

        :raises LLMBatchError: what the database says, in a sentence, without the rows that it says it of.
        """
        try:
            engine = self.open_engine()
            try:
                yield engine
            finally:
                engine.dispose()
        except LLMBatchError:
            raise
        except Exception as error:
            raise self.refusal(error) from None

    def open_engine(self) -> Engine:
        hook: Any = self.hook()
        engine: Engine = hook.get_sqlalchemy_engine()
        if engine.dialect.name in STAGED:
            # The hook's own way to connect knows all of the connection's extra.
            engine.dispose()
            engine = hook.get_sqlalchemy_engine({"creator": hook.get_conn, "poolclass": NullPool})
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", by_hand)
            sa.event.listen(engine, "begin", begin)
        return engine

    def hook(self) -> Any:
        from airflow.providers.common.compat.sdk import AirflowException, AirflowNotFoundException

        conn_id = self.given.conn_id
        try:
            connection = get_connection(conn_id)
        except AirflowNotFoundException:
            raise ConfigurationError(
                f"There is no connection {conn_id!r} for the table {self.given.table}. {self.remedy}"
            ) from None
        try:
            hook: Any = connection.get_hook()  # type: ignore[no-untyped-call]
        except AirflowException:
            hook = None
        if not hasattr(hook, "get_sqlalchemy_engine"):
            raise ConfigurationError(
                f"Connection {conn_id!r} is of type {connection.conn_type!r}, for which no hook that writes tables is "
                f"installed; install the database's Airflow provider. {self.remedy}"
            )
        return hook

    def refusal(self, error: Exception) -> LLMBatchError:
        """The error of a database as one of ours."""
        cause: BaseException = getattr(error, "orig", None) or error
        kind = SourceUnavailable if passes(cause) else ConfigurationError
        said = " ".join(str(cause).split())[:500]
        return kind(f"The table {self.given.place}: {type(cause).__name__}: {said}. {self.remedy}")


def passes(error: BaseException) -> bool:
    """Whether a database's trouble is one of the moment: a lost connection, a deadlock, a lock that others hold."""
    operational = any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)
    return is_outage(error) or (operational and not LASTING.search(str(error)))


def by_hand(connection: Any, record: Any) -> None:
    """Python's SQLite begins no transactions of its own."""
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000}")


def begin(connection: Connection) -> None:
    """Whoever is to write takes his turn before he reads."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
