"""The files that URIs, paths, directories and globs mean, and their rows one after the other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_llm_batch.airflow_versions import connection_of
from airflow_llm_batch.data.files import Located, Row, ending_of, is_parquet, read_file, reader_of
from airflow_llm_batch.exceptions import InputError, NoRows
from airflow_llm_batch.storage import fresh, storage_path, unreadable

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: a job directory, by a shard's files in it, and what was landed: both may lie below the rows
SHARD = re.compile(r"(.*)/shards/\d{5}/(rows|requests)-[0-9a-f]{8}\.jsonl$")
LANDED = re.compile(r"(^|/)results-[0-9a-f]{8}-\d{5}[^/]*$")


def read_files(uris: Iterable[Any], columns: Collection[str] | None) -> Located:
    for path, below in files_named(uris):
        extra = partition_columns(path.path) if below else {}
        located = read_file(path, None if columns is None else set(columns) - extra.keys())
        yield from ((place, {**extra, **row}) for place, row in located) if extra else located


def files_named(uris: Iterable[Any]) -> Iterator[tuple[ObjectStoragePath, bool]]:
    """The files that paths, directories and globs mean, in the order in which they are read, and whether each was
    found below what was given.

    :raises InputError: for a file that is meant twice; ``NoRows`` where there are none.
    """
    seen: set[str] = set()
    for given in map(storage_path, uris):
        for path in expand(given):
            if (name := str(path)) in seen:
                raise InputError(
                    f"rows names {name} twice, and its rows would be asked, and billed, twice; name it once. Nothing "
                    "was sent."
                )
            seen.add(name)
            yield path, path is not given


def partition_columns(path: str) -> Row:
    """What a path says of the rows in its file: ``.../ds=2026-01-01/lang=de/part-0.parquet``."""
    pairs = (part.split("=", 1) for part in path.split("/")[:-1] if "=" in part)
    return {name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, value in pairs}


def expand(path: ObjectStoragePath) -> list[ObjectStoragePath]:
    """The files a path or glob means, by name; a directory means the data files in it, or further down.

    :raises InputError: for a directory with data files both in it and further down; ``NoRows`` where there are none.
    """
    uri = str(path)
    is_directory = False
    try:
        fresh(path)
        if any(c in uri for c in "*?[") and not path.fs.exists(path.path):
            found = path.fs.glob(path.path, detail=True)
            names = [name for name, file in found.items() if file["type"] != "directory"]
            above = re.split(r"[*?\[]", path.path, maxsplit=1)[0].rpartition("/")[0]
        elif (reader_of(uri) is None or is_parquet(uri)) and path.fs.isdir(path.path):
            is_directory, above = True, path.path
            # A dataset in partitions has its files further down.
            names = [name for name in path.fs.find(path.path) if reader_of(name)]
        else:
            return [path]
    except Exception as error:
        raise unreadable(f"Cannot list {uri}", error) from error
    names = [name for name in names if is_data(name, above)]
    if is_directory:
        names = at_one_depth(uri, {name: below(name, above) for name in names})
    if not names:
        raise NoRows(f"No files match {uri}. Nothing was sent. (on_empty='skip' skips the task then.)")
    protocol = path.protocol or "file"
    return [storage_path_of(protocol, name, connection_of(path)) for name in sorted(names)]


def is_data(name: str, above: str) -> bool:
    """Whether a file found below a directory is data, and none of the markers, logs and half-written files that other
    tools keep there: ``_SUCCESS``, ``_delta_log``, ``_temporary``, ``.part``."""
    parts = below(name, above).split("/")
    return bool(parts[-1]) and not any(part[:1] in (".", "_") and "=" not in part for part in parts)


def below(name: str, above: str) -> str:
    """A file's path from a directory on."""
    name, above = (text.partition("://")[2] or text for text in (name, above))
    return name.strip("/").removeprefix(above.strip("/")).strip("/")


def at_one_depth(uri: str, names: Mapping[str, str]) -> list[str]:
    """The files that a directory means: its own, and those further down where it has none.

    :param names: of all of them, to their paths from the directory on.
    :raises InputError: where there are both, in which libraries differ; what jobs have written there is no data.
    """
    own = [name for name, path in names.items() if "/" not in path]
    jobs = {found[1] for path in names.values() if (found := SHARD.match(path))}
    further = [
        path
        for path in names.values()
        if "/" in path and not LANDED.search(path) and jobs.isdisjoint(map(str, PurePosixPath(path).parents))
    ]
    if own and further:
        raise InputError(
            f"{uri} has data files in it ({names[own[0]]}) and further down ({further[0]}); say which are meant: "
            f"{uri.rstrip('/')}/*.{ending_of(own[0])} or a glob with /**/. Nothing was sent."
        )
    return own or list(names)


def storage_path_of(protocol: str, name: str, conn_id: str | None) -> ObjectStoragePath:
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(name if "://" in name else f"{protocol}://{name}", conn_id=conn_id)
