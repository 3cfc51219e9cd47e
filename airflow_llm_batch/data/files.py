"""Rows from JSONL, JSON, CSV and Parquet files in object storage, streamed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, cast

import msgspec

from airflow_llm_batch.blocks import CHUNK
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.storage import open_blocks, unreadable

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

Row = dict[str, Any]
#: file, unit and number; put into words only when something is wrong with the row
Place = tuple[str, str, int]
Located = Iterator[tuple[Place, Row]]
SPACE = re.compile(r"[ \t\r\n]*")
BOM = b"\xef\xbb\xbf"
#: bytes of one row
MOST_BYTES = 64 * 2**20


def named(place: Place) -> str:
    """A place in words: ``reviews.jsonl line 17``."""
    file, unit, number = place
    return f"{file} {unit} {number}".strip()


def as_row(item: Any, place: Place) -> Row:
    if isinstance(item, Mapping):
        return item if isinstance(item, dict) else dict(item)
    if isinstance(item, str):
        return {"text": item}
    raise InputError(f"{named(place)} is a {type(item).__name__}; rows are strings or objects. Nothing was sent.")


def read_file(path: ObjectStoragePath, columns: Collection[str] | None = None) -> Located:
    name = str(path)
    reader = reader_of(name)
    if reader is None:
        raise InputError(
            f"{name}: rows are read from .parquet, and from .jsonl, .ndjson, .json, .csv and .tsv files, plain, .gz or "
            ".zst. Nothing was sent."
        )
    if is_parquet(name):
        yield from parquet_rows(path, name, columns)
        return
    try:
        with open_blocks(path) as raw, unpacked(raw, name) as plain:
            yield from reader(plain, name)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise unreadable(f"Cannot read {name}", error) from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise unreadable(f"Cannot read {name}", error) from error


def unpacked(raw: io.BufferedReader, name: str) -> io.BufferedReader:
    """The file's own bytes, whatever it is packed with.

    :raises InputError: where a library for it is not installed.
    """
    if name.lower().endswith(".gz"):
        return io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=raw)), CHUNK)
    if not name.lower().endswith(".zst"):
        return raw
    try:
        import zstandard
    except ImportError:
        raise InputError(
            f"{name}: reading .zst needs zstandard; pip install 'airflow-provider-llm-batch[zstd]'. Nothing was sent."
        ) from None
    # A file may be several frames, one after the other.
    stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    return io.BufferedReader(stream, CHUNK)


def ending_of(name: str) -> str:
    """What says how a file is read: its name's end, without what it is packed with."""
    return name.lower().removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]


def reader_of(name: str) -> Callable[[io.BufferedReader, str], Located] | None:
    return READERS.get(ending_of(name))


def read_jsonl(file: io.BufferedReader, name: str) -> Located:
    # Bounded: a file without line ends, or one that was compressed very small, must not fill the memory.
    return json_rows(enumerate(iter(partial(file.readline, MOST_BYTES + 1), b""), 1), name, "line")


def json_rows(lines: Iterable[tuple[int, bytes]], name: str, unit: str) -> Located:
    """The rows of JSON lines, each with its number.

    :param unit: what the numbers count: ``line`` from 1, or ``byte`` from 0.
    """
    decode = msgspec.json.Decoder().decode
    for number, line in lines:
        if number <= 1:
            line = line.removeprefix(BOM)
        if not line or line.isspace():
            continue
        place = name, unit, number
        if len(line) > MOST_BYTES:
            raise InputError(
                f"{named(place)} has more than {MOST_BYTES:,} bytes, which is the most of a row. Nothing was sent."
            )
        try:
            row = decode(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{named(place)} is not JSON: {error}. Its start: {line[:80]!r}. A row is a line; a .json file may be "
                "an array of rows instead. Nothing was sent."
            ) from None
        yield place, row if type(row) is dict else as_row(row, place)


def read_json(file: io.BufferedReader, name: str) -> Located:
    """An array of rows, read piece by piece; a file that starts with an object is taken for JSON lines."""
    start = file.peek(64)[:64].removeprefix(BOM).lstrip()
    if not start.startswith(b"["):
        rows = read_jsonl(file, name)
        begun = list(islice(rows, 2))
        if len(begun) == 1 and is_by_column(begun[0][1]):
            raise InputError(
                f"{name} holds a table by columns, as DataFrame.to_json() writes one; write it by rows: "
                "to_json(orient='records', lines=True). Nothing was sent."
            )
        yield from chain(begun, rows)
        return
    text = io.TextIOWrapper(file, "utf-8-sig")
    decoder = json.JSONDecoder()
    buffer, position, number = text.read(CHUNK), 0, 0
    position = buffer.index("[") + 1
    comma = False
    while True:
        place = name, "item", number
        try:
            position = SPACE.match(buffer, position).end()  # type: ignore[union-attr]
            if buffer.startswith("]", position) and not (comma and number):
                rest = buffer[position + 1 :] + text.read(CHUNK)
                if rest.strip():
                    raise InputError(f"{name}: something follows the array: {rest.strip()[:40]!r}. Nothing was sent.")
                return
            if number and not comma:
                if not buffer.startswith(",", position):
                    raise json.JSONDecodeError("expected a comma", buffer, position)
                comma, position = True, SPACE.match(buffer, position + 1).end()  # type: ignore[union-attr]
            item, position = decoder.raw_decode(buffer, position)
        except RecursionError:
            raise InputError(f"{named(place)} is nested too deeply to be read. Nothing was sent.") from None
        except json.JSONDecodeError as error:
            more = text.read(max(CHUNK, len(buffer) - position))
            if not more:
                raise InputError(f"{named(place)}: {error.msg}. Nothing was sent.") from None
            buffer, position = buffer[position:] + more, 0
            continue
        yield place, as_row(item, place)
        number, comma = number + 1, False


def is_by_column(row: Row) -> bool:
    """Whether an object is a whole table, a column's values by their numbers."""
    numbers = [value.keys() if isinstance(value, dict) else () for value in row.values()]
    return bool(numbers) and "0" in numbers[0] and all(keys == numbers[0] for keys in numbers)


def read_csv(file: io.BufferedReader, name: str) -> Located:
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(file, "utf-8-sig", newline="")
    tabs = ending_of(name) == "tsv"
    # Tab-separated files rarely quote: there a quotation mark is part of the text, unless it quotes a whole field.
    reader = csv.DictReader(
        text, delimiter="\t" if tabs else ",", strict=True, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    )
    try:
        names = [unquoted(column) if tabs else column for column in reader.fieldnames or ()]
        # Spreadsheets leave empty columns behind the last one; one without a name may be data.
        while not "".join(names[-2:]).strip() and len(names) > 1:
            names.pop()
        reader.fieldnames = names
        if twice := {column for column, times in Counter(names).items() if times > 1}:
            named_twice = ", ".join(column or "''" for column in sorted(twice))
            raise InputError(f"{name}: the header names {named_twice} more than once. Nothing was sent.")
        for row in reader:
            place = name, "line", reader.line_num
            if None in row and not any(map(str.strip, row[None])):
                del row[None]
            if None in row or None in row.values():
                wanted = len(reader.fieldnames or ())
                got = sum(value is not None for key, value in row.items() if key) + len(row.get(None) or ())
                raise InputError(f"{named(place)} has {got} fields where the header has {wanted}. Nothing was sent.")
            # Spreadsheets leave lines of nothing but separators, for rows that were cleared.
            if len(names) == 1 or any(map(str.strip, row.values())):
                yield place, {column: unquoted(field) for column, field in row.items()} if tabs else row
    except UnicodeDecodeError as error:  # of a piece of the file, wherever in it
        raise InputError(
            f"{name} line {reader.line_num + 1} or a later one is not UTF-8: {error}. Convert the file first. Nothing "
            "was sent."
        ) from None
    except csv.Error as error:
        raise InputError(f"{name} line {reader.line_num + 1}: {error}. Nothing was sent.") from None


def unquoted(field: str) -> str:
    """A field's text, where quotation marks enclose it and each of its own is doubled: pandas, Excel and DuckDB write
    fields so that hold one."""
    if len(field) < 2 or field[0] != '"' or field[-1] != '"':
        return field
    inside = field[1:-1]
    return inside.replace('""', '"') if '"' not in inside.replace('""', "") else field


def is_parquet(name: str) -> bool:
    return name.lower().endswith((".parquet", ".pq"))


def parquet_rows(
    path: ObjectStoragePath, name: str, columns: Collection[str] | None, within: tuple[int, int] | None = None
) -> Located:
    """:param within: bytes of the file in which row groups begin that are wanted, None for all."""
    try:
        from airflow_llm_batch.data.parquet_rows import read_groups, read_parquet
    except ImportError:
        raise InputError(
            f"{name}: reading Parquet needs pyarrow; pip install 'airflow-provider-llm-batch[parquet]'. "
            "Nothing was sent."
        ) from None
    numbered = enumerate(read_parquet(path, columns)) if within is None else read_groups(path, columns, *within)
    yield from (((name, "row", number), row) for number, row in numbered)


def no_stream(file: io.BufferedReader, name: str) -> Located:
    raise InputError(f"{name}: Parquet files are compressed inside, and not read as a stream. Nothing was sent.")


READERS: dict[str, Callable[[io.BufferedReader, str], Located]] = {
    "parquet": no_stream,
    "pq": no_stream,
    "jsonl": read_jsonl,
    "ndjson": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_csv,
}
