"""A Delta Lake table, by delta-rs: one merge, which is one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import deltalake
import pyarrow as pa
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from airflow_llm_batch.data.tables.columns import JOB, Column
from airflow_llm_batch.data.tables.lake import Batches, fill, schema_of
from airflow_llm_batch.data.tables.rows import Filled, Loaded
from airflow_llm_batch.exceptions import ConfigurationError, LLMBatchError, SourceUnavailable
from airflow_llm_batch.outages import is_outage

if TYPE_CHECKING:
    from airflow_llm_batch.data.table import DeltaTable

#: merges that are tried where others have committed meanwhile
TRIES = 10


class Delta:
    """The table of a ``DeltaTable``; ``SqlTable`` says what each method means."""

    def __init__(self, given: DeltaTable, remedy: str) -> None:
        self.given, self.remedy = given, remedy

    def reach(self) -> None:
        with self.telling():
            self.open()

    def filled(self, columns: Sequence[Column], *, make: bool) -> list[Filled] | None:
        with self.telling():
            table = self.open()
            if table is None and not make:
                return None
            if table is None:
                options = self.given.storage_options or None
                made = schema_of(columns)
                table = deltalake.DeltaTable.create(self.given.uri, made, mode="ignore", storage_options=options)
                # Of two tasks that make it at once, one finds the other's.
                table.update_incremental()
            return fill(self.given.place, pa.schema(table.schema().to_arrow()), columns, self.remedy)

    def load(self, columns: Sequence[Column], records: Callable[[], Iterable[pa.Table]], job: str) -> Loaded:
        filled = self.filled(columns, make=True)
        assert filled is not None
        with self.telling():
            for left in reversed(range(TRIES)):
                try:
                    return self.merge(filled, records(), job)
                except CommitFailedError:
                    # Another task has changed the same files: this merge has done nothing.
                    if not left:
                        raise
            raise AssertionError

    def merge(self, filled: Sequence[Filled], records: Iterable[pa.Table], job: str) -> Loaded:
        batches = Batches(filled, job)
        source = pa.RecordBatchReader.from_batches(batches.schema, batches.of(records))
        keys = [quoted(one.column.name) for one in filled if one.column.is_key]
        table = self.open()
        assert table is not None
        merged = (
            table.merge(
                source,
                " AND ".join(f"target.{key} = source.{key}" for key in keys),
                source_alias="source",
                target_alias="target",
            )
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .when_not_matched_by_source_delete(f"target.{quoted(JOB)} = {literal(job)}")
            .execute()
        )
        return Loaded(batches.count, int(merged["num_target_rows_deleted"]), batches.unfit)

    def is_filled(self, job: str) -> bool:
        with self.telling():
            table = self.open()
            if table is None or JOB not in table.schema().to_arrow().names:
                return False
            asked = f"SELECT 1 FROM answers WHERE {quoted(JOB)} = {literal(job)} LIMIT 1"  # noqa: S608
            found = deltalake.QueryBuilder().register("answers", table).execute(asked)
            return any(batch.num_rows for batch in pa.RecordBatchReader.from_stream(found))

    def remove(self, job: str) -> int:
        with self.telling():
            table = self.open()
            if table is None or JOB not in table.schema().to_arrow().names:
                return 0
            return int(table.delete(f"{quoted(JOB)} = {literal(job)}")["num_deleted_rows"])

    def open(self) -> Any:
        """The table as of now, None where there is none."""
        try:
            return deltalake.DeltaTable(self.given.uri, storage_options=self.given.storage_options or None)
        except TableNotFoundError:
            return None

    @contextmanager
    def telling(self) -> Iterator[None]:
        """:raises LLMBatchError: what delta-rs says, in a sentence."""
        try:
            yield
        except LLMBatchError:
            raise
        except Exception as error:
            kind = SourceUnavailable if is_outage(error) or isinstance(error, CommitFailedError) else ConfigurationError
            said = " ".join(str(error).split())[:500]
            raise kind(f"The table {self.given.place}: {type(error).__name__}: {said}. {self.remedy}") from None


def quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def literal(text: str) -> str:
    escaped = text.replace("'", "''")
    return f"'{escaped}'"
