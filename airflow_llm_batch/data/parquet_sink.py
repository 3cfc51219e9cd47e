"""Results as Parquet: typed nested columns, a row group at a time. Needs pyarrow, the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_llm_batch.data.arrow_records import GROUP_ROWS, Records
from airflow_llm_batch.data.arrow_types import of_any_length
from airflow_llm_batch.data.sinks import not_alike
from airflow_llm_batch.results import Result
from airflow_llm_batch.storage import WholeFile, open_random

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.data.sinks import Layout


class ParquetSink:
    """One Parquet file, zstd-compressed, of the columns that ``Records`` has. No list is of fixed size: pyarrow before
    26 cannot read those where a row failed."""

    suffix = ".parquet"

    def __init__(self, path: ObjectStoragePath, layout: Layout) -> None:
        self.uri = str(path)
        self.file = WholeFile(path)
        self.records = Records(layout)
        self.writer: pq.ParquetWriter | None = None

    @staticmethod
    def check_installed() -> None:
        """This module has imported what it needs."""

    @property
    def size(self) -> int:
        return self.file.size + self.records.size

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        self.records.add(result, columns)
        if self.records.is_full:
            self.flush()

    def copy(self, landed: ObjectStoragePath, without: Container[int]) -> tuple[int, int]:
        if not str(landed).endswith(self.suffix):
            raise not_alike(str(landed), self.suffix)
        taken = left = 0
        with open_random(landed) as file, pq.ParquetFile(file) as source:
            for batch in source.iter_batches(GROUP_ROWS):
                keep = [row not in without for row in batch["row"].to_pylist()]
                taken, left = taken + sum(keep), left + keep.count(False)
                if self.writer is None:
                    schema = pa.schema([field.with_type(of_any_length(field.type)) for field in batch.schema])
                    self.writer = pq.ParquetWriter(Out(self.file), schema, compression="zstd")
                kept = pa.Table.from_batches([batch.filter(pa.array(keep, pa.bool_()))])
                self.writer.write_table(kept.cast(self.writer.schema))
        return taken, left

    def flush(self) -> None:
        """Write a row group."""
        if not self.records.rows and self.writer is not None:
            return
        table = self.records.take()
        if self.writer is None:
            self.writer = pq.ParquetWriter(Out(self.file), table.schema, compression="zstd")
        self.writer.write_table(table)

    def close(self) -> None:
        self.flush()
        assert self.writer is not None
        self.writer.close()
        self.file.finish()

    def commit(self) -> None:
        self.file.commit()

    def discard(self) -> None:
        self.file.discard()


class Out:
    """A ``WholeFile`` as the file object that pyarrow wants."""

    closed = False

    def __init__(self, file: WholeFile) -> None:
        self.file = file

    def write(self, data: Any) -> int:
        self.file.write(bytes(data))
        return len(data)

    def tell(self) -> int:
        return self.file.size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """The file is published by its owner."""

    close = flush
