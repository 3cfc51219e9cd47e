"""Files of answers, written and read a row group at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_llm_batch.data.parquet_sink import Out
from airflow_llm_batch.jobs.reuse.stored import Stored

if TYPE_CHECKING:
    from airflow_llm_batch.storage import WholeFile

#: ``answer`` is the ``Result`` as JSON, ``checksum`` the CRC-32 of hash and answer
COLUMNS = pa.schema(
    {
        "digest": pa.string(),
        "provider": pa.string(),
        "model": pa.string(),
        "answered_at": pa.timestamp("us"),
        "answered_by": pa.string(),
        "cost_usd": pa.float64(),
        "answer": pa.string(),
        "checksum": pa.int64(),
    }
)
#: characters of answers, and rows, of a row group
GROUP, MOST_ROWS = 4 * 2**20, 10_000


def write(rows: Iterable[Stored], file: WholeFile) -> int:
    """Write answers that are in the order of their hashes; how many."""
    count = 0
    with pq.ParquetWriter(Out(file), COLUMNS, compression="zstd") as writer:
        for group in groups(rows):
            count += len(group)
            columns = {name: [getattr(row, name) for row in group] for name in COLUMNS.names}
            writer.write_table(pa.table(columns, schema=COLUMNS))
    return count


def groups(rows: Iterable[Stored]) -> Iterator[list[Stored]]:
    held: list[Stored] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row.answer)
        if size >= GROUP or len(held) == MOST_ROWS:
            yield held
            held, size = [], 0
    if held:
        yield held


def at_places(file: Any, places: Iterator[int]) -> Iterator[Stored]:
    """The rows at some places of a file.

    :param places: in order.
    :raises ArrowException: for a file that cannot be read; ``OSError`` likewise.
    """
    wanted = next(places, None)
    with pq.ParquetFile(file) as source:
        start = 0
        for number in range(source.num_row_groups):
            end = start + source.metadata.row_group(number).num_rows
            chosen = []
            while wanted is not None and wanted < end:
                chosen.append(wanted - start)
                wanted = next(places, None)
            if chosen:
                group = source.read_row_group(number, columns=COLUMNS.names).cast(COLUMNS).take(chosen)
                group = group.set_column(3, "answered_at", group["answered_at"].cast(pa.int64()))
                for row in group.to_pylist():
                    yield Stored(**row)
            start = end
