"""Landed files as Arrow tables, a few thousand records at a time. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_llm_batch.data.arrow_records import Records
from airflow_llm_batch.data.raw import without_answer
from airflow_llm_batch.data.sinks import GzipJsonlSink, JsonlSink, ZstdJsonlSink
from airflow_llm_batch.exceptions import Unwritable
from airflow_llm_batch.results import Result
from airflow_llm_batch.storage import open_random, storage_path

if TYPE_CHECKING:
    from airflow_llm_batch.data.sinks import Layout

#: records that are read at once
ROWS = 2000
NULL = msgspec.Raw(b"null")


#: a record as its line has it: fields of any shape, and in ``raw`` numbers of any size
Landed: Any = msgspec.defstruct(
    "Landed",
    [(name, msgspec.Raw, NULL) if name in ("key", "raw") else (name, Any, None) for name in Result.__struct_fields__],
)


def landed_records(places: Sequence[str], layout: Layout, fields: Sequence[str]) -> Iterator[pa.Table]:
    """The records of landed files, in their order.

    :param fields: those that are wanted; others may be there or not.
    """
    for place in places:
        if place.endswith(".parquet"):
            yield from parquet_records(place, fields)
        else:
            yield from line_records(place, layout)


def parquet_records(place: str, fields: Sequence[str]) -> Iterator[pa.Table]:
    with open_random(storage_path(place)) as file, pq.ParquetFile(file) as source:
        for batch in source.iter_batches(ROWS, columns=list(fields)):
            yield pa.Table.from_batches([batch])


def line_records(place: str, layout: Layout) -> Iterator[pa.Table]:
    sink = next(sink for sink in (JsonlSink, GzipJsonlSink, ZstdJsonlSink) if place.endswith(sink.suffix))
    result_of = msgspec.json.Decoder(Landed).decode
    members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    names = {name: msgspec.json.encode(name) for name in layout.columns}
    records = Records(layout)
    with sink.open_lines(storage_path(place)) as lines:
        for line in lines:
            members = members_of(line) if names else {}
            carried = b",".join(b"%b:%b" % (names[n], bytes(v)) for n, v in members.items() if n in names)
            add(records, result_of(line), msgspec.Raw(b"{%b}" % carried))
            if records.is_full or records.rows >= ROWS:
                yield records.take()
    if records.rows:
        yield records.take()


def add(records: Records, landed: Any, columns: msgspec.Raw) -> None:
    """Add a record; of one that was landed without regard to columns, and does not fit them, what does."""
    line = bytes(landed.raw)
    raw: Any = None if line == b"null" else landed.raw
    if line[:1] == b'"':
        raw = msgspec.json.decode(line)
        line = raw.encode()
    landed.raw = raw
    try:
        records.add(landed, columns)
    except Unwritable as error:
        records.add(without_answer(landed, str(error), None if raw is None else line), columns)
