"""Result files that are loaded into a table once all of them lie there."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from airflow_llm_batch.data.table import DeltaTable, Keyed, Table
from airflow_llm_batch.data.tables.columns import Column, columns_of
from airflow_llm_batch.data.tables.reading import landed_records
from airflow_llm_batch.data.tables.rows import Checked, Filled, Loaded, PlannedRows

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_llm_batch.data.destinations import CarriedFiles, FileDestination
    from airflow_llm_batch.data.sinks import Layout

UNSENT = "Nothing was sent."
LANDED = (
    "The table holds what it held; the result files are landed, or can be, and nothing is lost. Clear this task once "
    "it is mended: nothing is paid again."
)


class Merged(Protocol):
    """What every kind of table does; ``SqlTable`` says what each means."""

    remedy: str

    def reach(self) -> None: ...
    def filled(self, columns: Sequence[Column], *, make: bool) -> list[Filled] | None: ...
    def load(self, columns: Sequence[Column], records: Callable[[], Iterable[pa.Table]], job: str) -> Loaded: ...
    def is_filled(self, job: str) -> bool: ...
    def remove(self, job: str) -> int: ...


class TableDestination:
    """A table, and the files that it is filled from."""

    def __init__(self, files: FileDestination, given: Keyed) -> None:
        self.files, self.given = files, given
        self.uri = given.place
        self.table = table_of(given)
        self._filled: list[Filled] | None = None

    def check(self) -> None:
        self.files.check()
        self.table.remedy = UNSENT
        self.table.reach()

    def prepare(self, layout: Layout, *, make: bool) -> PlannedRows | None:
        self.table.remedy = UNSENT
        filled = self.table.filled(columns_of(self.given, layout), make=make)
        return None if filled is None else PlannedRows(self.uri, layout, filled)

    def begin(self, layout: Layout, name: str) -> Checked:
        if self._filled is None:
            self.table.remedy = LANDED
            self._filled = self.table.filled(columns_of(self.given, layout), make=True)
            assert self._filled is not None
        return Checked(self.files.begin(layout, name), layout, self._filled)

    def finish(self, layout: Layout, places: Sequence[str], job: str) -> str:
        self.table.remedy = LANDED
        columns = columns_of(self.given, layout)
        fields = sorted({column.path[0] for column in columns if column.path})
        loaded = self.table.load(columns, lambda: landed_records(places, layout, fields), job)
        gone = f"; {loaded.deleted:,} earlier rows of this job made way" if loaded.deleted else ""
        unfit = f"; {loaded.unfit:,} that its columns cannot hold are invalid there" if loaded.unfit else ""
        return f"{loaded.rows:,} rows merged into {self.uri}{gone}{unfit}."

    def is_finished(self, job: str) -> bool:
        self.table.remedy = LANDED
        return self.table.is_filled(job)

    def withdraw(self, job: str) -> int:
        self.table.remedy = LANDED
        return self.table.remove(job)

    def carry(self, layout: Layout, places: Sequence[str], mark: str, without: Container[int]) -> CarriedFiles:
        return self.files.carry(layout, places, mark, without)

    def holds(self, places: Sequence[str]) -> bool:
        return self.files.holds(places)

    def named(self, stem: str) -> list[str]:
        return self.files.named(stem)

    def remove(self, places: Sequence[str]) -> list[str]:
        return self.files.remove(places)

    def sweep(self, places: Sequence[str]) -> None:
        self.files.sweep(places)


def table_of(given: Keyed) -> Merged:
    """What merges into a table."""
    if isinstance(given, DeltaTable):
        from airflow_llm_batch.data.tables.delta import Delta

        return Delta(given, UNSENT)
    from airflow_llm_batch.data.tables.sql import SqlTable

    assert isinstance(given, Table)
    return SqlTable(given, UNSENT)
