"""Landed files a few records at a time, from wherever the last look at them has ended."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.blocks import Ranges
from airflow_llm_batch.data.files import ending_of, unpacked
from airflow_llm_batch.exceptions import ResultsUnusable
from airflow_llm_batch.storage import file_size, is_local, open_blocks, open_random

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: bytes asked of a store at once, of one line, and rows of Parquet that are decoded at once
BLOCK, LONGEST, BATCH = 2**18, 16 * 2**20, 200
#: columns of Parquet files that nobody reads
UNSHOWN = frozenset({"embedding", "logprobs"})


class Step(NamedTuple):
    """One record of a file.

    :param after: where the next one is: bytes of a plain file, records of any other.
    :param size: bytes that were read for it, about.
    """

    record: dict[str, Any]
    after: int
    size: int


def records_from(path: ObjectStoragePath, at: int = 0) -> Iterator[Step]:
    """The records of a landed file from one on.

    :param at: 0, or what an earlier step's ``after`` was.
    :raises ResultsUnusable: for what is no landed file; what it holds is not in the message.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return parquet_from(path, at)
    return plain_from(path, at) if ending_of(name) == "jsonl" and name.endswith(".jsonl") else packed_from(path, at)


def plain_from(path: ObjectStoragePath, at: int) -> Iterator[Step]:
    """JSON lines from a byte on; only what is walked is read."""
    with opened_at(path, at) as file:
        for line in iter(lambda: file.readline(LONGEST + 1), b""):
            at += len(line)
            yield Step(decoded(line, path), at, len(line))


def packed_from(path: ObjectStoragePath, at: int) -> Iterator[Step]:
    """Compressed lines have no places: those before are unpacked, and not looked at."""
    with open_blocks(path) as raw, unpacked(raw, path.name) as file:
        lines = iter(lambda: file.readline(LONGEST + 1), b"")
        for number, line in enumerate(islice(lines, at, None), at + 1):
            yield Step(decoded(line, path), number, len(line))


def parquet_from(path: ObjectStoragePath, at: int) -> Iterator[Step]:
    """Rows of Parquet from one on: the row groups before it are not read."""
    import pyarrow.parquet as pq

    from airflow_llm_batch.data.parquet_rows import batch_rows

    with open_random(path) as file, pq.ParquetFile(file, buffer_size=BLOCK, pre_buffer=False) as parquet:
        names = [name for name in parquet.schema_arrow.names if name not in UNSHOWN]
        first = 0
        for group in range(parquet.num_row_groups):
            meta = parquet.metadata.row_group(group)
            number, first = first, first + meta.num_rows
            if first <= at:
                continue
            size = meta.total_byte_size // max(meta.num_rows, 1)
            for batch in parquet.iter_batches(BATCH, row_groups=[group], columns=names, use_threads=False):
                skipped = min(max(at - number, 0), batch.num_rows)
                for record in batch_rows(batch.slice(skipped)) if skipped < batch.num_rows else ():
                    at = max(at, number) + 1
                    yield Step(record, at, size)
                number += batch.num_rows


def places(path: ObjectStoragePath, count: int) -> list[int]:
    """Where to look for a sample of a file's records: so many places, spread over it; the beginning of a packed one."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        with open_random(path) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            whole = parquet.metadata.num_rows
        return [whole * number // count for number in range(count)]
    if not name.endswith(".jsonl"):
        return [0]
    size = file_size(path)
    return [line_after(path, size * number // count) for number in range(count)]


def line_after(path: ObjectStoragePath, at: int) -> int:
    """Where the first line begins that begins at a byte or after it."""
    if at == 0:
        return 0
    with opened_at(path, at - 1) as file:
        return at - 1 + len(file.readline(LONGEST))


def opened_at(path: ObjectStoragePath, at: int) -> io.BufferedReader:
    """A file that never changes, from a byte on, in small blocks."""
    if is_local(path):
        file: io.BufferedReader = io.BufferedReader(io.FileIO(path.path), BLOCK)
        file.seek(at)
        return file
    ranges = Ranges(path.fs, path.path)
    ranges.place = at
    return io.BufferedReader(ranges, BLOCK)


def decoded(line: bytes, path: ObjectStoragePath) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ResultsUnusable(f"{path} has a line that is no record. Was it changed since it was landed?")
    return record
