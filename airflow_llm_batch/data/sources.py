"""Where rows come from: lists, upstream tasks' outputs, DataFrames, queries, files. Each is a ``Source``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Protocol

from airflow_llm_batch.data.files import Located, Row, as_row, reader_of
from airflow_llm_batch.data.paths import read_files
from airflow_llm_batch.data.sql import Sql
from airflow_llm_batch.data.values import written
from airflow_llm_batch.exceptions import InputError

IS_URI = re.compile(r"[a-z][a-z0-9+.-]*://\S[^\r\n]*$")
#: rows of a DataFrame taken at once
FRAME = 1000
#: stands for the first item of nothing; an item may be None, and is refused
NONE: Any = object()


class Source(Protocol):
    """Rows in an order that is the same each time.

    :ivar uris: where they come from, as far as that has a URI; lineage tells of it.
    """

    uris: tuple[str, ...]

    def rows(self, columns: Collection[str] | None = None) -> Located:
        """Every row, with its place.

        :param columns: the only columns that are needed, None for all; sources that can leave the others out do.
        :raises InputError: for what cannot be read, by its place.
        """


class Files:
    """Files, directories and globs in object storage.

    :param paths: URIs, absolute paths or ``ObjectStoragePath``s.
    """

    def __init__(self, paths: Iterable[Any]) -> None:
        self.paths = paths
        self.uris = tuple(str(path) for path in paths) if isinstance(paths, list | tuple) else ()

    def rows(self, columns: Collection[str] | None = None) -> Located:
        return read_files(self.paths, columns)


class Items:
    """A list, or a mapped task's output, read as it is walked. Its first item tells what they are: URIs of files,
    or rows themselves."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items
        given = items if isinstance(items, list) else ()
        self.uris = tuple(item for item in given if isinstance(item, str) and (IS_URI.match(item) or item[:1] == "/"))

    def rows(self, columns: Collection[str] | None = None) -> Located:
        items = iter(self.items)
        first = next(items, NONE)
        if first is NONE:
            return
        if is_path(first) or (isinstance(first, str) and is_file_uri(first)):
            if isinstance(first, str) and first.startswith(("http://", "https://")) and reader_of(first) is None:
                raise InputError(
                    f"rows is a list of addresses, the first of them {first!r:.120}, which is no file of rows. To ask "
                    "about addresses give them as objects: [{'text': 'https://...'}, ...]. Nothing was sent."
                )
            yield from read_files(chain([first], items), columns)
            return
        for number, item in enumerate(chain([first], items)):
            place = "", "row", number
            yield place, as_row(item, place)


class Numbered:
    """Rows that are made when they are asked for, and have no place but their number.

    :param make: called for each reading.
    :param name: what they are rows of.
    """

    def __init__(self, make: Callable[[], Iterator[Row]], name: str = "", uris: tuple[str, ...] = ()) -> None:
        self.make, self.name, self.uris = make, name, uris

    def rows(self, columns: Collection[str] | None = None) -> Located:
        return (((self.name, "row", number), row) for number, row in enumerate(self.make()))


def source_of(rows: Any) -> Source:
    """The source behind whatever ``SubmitBatchOperator(rows=...)`` was given.

    :param rows: a URI, path, directory or glob of files; a list of strings, dicts or URIs; a DataFrame (pandas, polars)
        or Arrow table; a Fetch task's output; a query; a ``Source``.
    :raises InputError: for anything else.
    """
    rows = written(rows)
    if isinstance(rows, Mapping) and isinstance(rows.get("files"), list):
        return Items(rows["files"])
    if isinstance(rows, Sql):
        return Numbered(rows.rows, f"{rows.conn_id}:", (f"airflow://{rows.conn_id}",))
    if isinstance(rows, str):
        if not IS_URI.match(rows) and not rows.startswith("/"):
            raise InputError(
                f"rows is the text {rows[:60]!r}; give a URI (file:///..., s3://...), an absolute path or a list. "
                "For an upstream task's output pass upstream.output itself. Nothing was sent."
            )
        return Files([rows])
    if is_path(rows):
        return Files([rows])
    if callable(getattr(rows, "rows", None)) and isinstance(getattr(rows, "uris", None), tuple):
        source: Source = rows
        return source
    if is_frame(rows):
        return Numbered(lambda: frame_rows(rows))
    if isinstance(rows, Iterable) and not isinstance(rows, Mapping | bytes | set | frozenset):
        return Items(rows)
    raise InputError(f"rows is a {type(rows).__name__}; give a URI, a path, a list or a DataFrame. Nothing was sent.")


def files_of(rows: Any) -> list[Any] | None:
    """The paths that were given where rows come from files, None where they do not."""
    source = source_of(rows)
    if isinstance(source, Files):
        return list(source.paths)
    first = next(iter(source.items), None) if isinstance(source, Items) else None
    if first is not None and (is_path(first) or (isinstance(first, str) and is_file_uri(first))):
        return list(source.items) if isinstance(source, Items) else None
    return None


def read_rows(rows: Any, columns: Collection[str] | None = None) -> Located:
    """The rows of whatever was given, see ``source_of``."""
    return source_of(rows).rows(columns)


def sources_of(rows: Any) -> tuple[str, ...]:
    """Where rows come from, as far as that has a URI."""
    return source_of(rows).uris


def is_path(given: Any) -> bool:
    """Whether it is an ``ObjectStoragePath``, or a path of pathlib's."""
    return isinstance(given, os.PathLike) or (hasattr(given, "protocol") and hasattr(given, "path"))


def is_file_uri(text: str) -> bool:
    """Whether an item of a list names a file; a text that begins with a link does not."""
    return bool(IS_URI.match(text)) and not (text.startswith(("http://", "https://")) and any(map(str.isspace, text)))


def library_of(rows: Any) -> str:
    return type(rows).__module__.partition(".")[0]


def is_frame(rows: Any) -> bool:
    """Whether it is a DataFrame or an Arrow table.

    :raises InputError: for a frame that was not computed yet.
    """
    library = library_of(rows)
    if library == "polars" and hasattr(rows, "collect") and not hasattr(rows, "iter_rows"):
        raise InputError("rows is a LazyFrame, which was not computed yet; give rows.collect(). Nothing was sent.")
    marks = {"pandas": ("iloc", "columns"), "polars": ("iter_rows",)}
    if library == "pyarrow":
        return any(hasattr(rows, mark) for mark in ("to_batches", "num_rows", "read_all"))
    return library in marks and all(hasattr(rows, mark) for mark in marks[library])


def check_names(names: Any) -> None:
    """:raises InputError: for two columns of one name, of which a row would hold one."""
    names = names if isinstance(names, list | tuple) else ()
    if twice := sorted({str(name) for name in names if names.count(name) > 1}):
        raise InputError(
            f"The DataFrame has more than one column named {', '.join(twice)}; give each a name of its own. "
            "Nothing was sent."
        )


def frame_rows(rows: Any) -> Iterator[Row]:
    """The rows of a DataFrame or an Arrow table, some at a time."""
    library = library_of(rows)
    if library == "pandas":
        # Those of a file without a header are numbers.
        names = list(map(str, rows.columns))
        check_names(names)
        starts = range(0, len(rows), FRAME)
        parts = (rows.iloc[start : start + FRAME].set_axis(names, axis=1) for start in starts)
        return (row for part in parts for row in part.to_dict("records"))
    if library == "polars":
        found: Iterator[Row] = rows.iter_rows(named=True, buffer_size=FRAME)
        return found
    from airflow_llm_batch.data.parquet_rows import table_rows

    check_names(getattr(getattr(rows, "schema", None), "names", None))
    return table_rows(rows)
