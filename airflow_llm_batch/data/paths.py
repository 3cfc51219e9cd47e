"""The files that URIs, paths, directories and globs mean, and their rows one after the other."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_llm_batch.airflow_versions import connection_of
from airflow_llm_batch.data.files import Located, Row, is_parquet, read_file, reader_of
from airflow_llm_batch.exceptions import InputError, NoRows
from airflow_llm_batch.storage import fresh, storage_path, unreadable

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)
#: a task's directory, by a shard's files in one of its jobs, and what was landed: both may lie below the rows
SHARD = re.compile(r"(.*)/[^/]+/shards/\d{5,}/")
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
    """The files a path or glob means, by name; a directory means the data files in it, or those further down where it
    has none.

    :raises InputError: ``NoRows`` where there are none.
    """
    uri = str(path)
    try:
        fresh(path)
        if any(c in uri for c in "*?[") and not path.fs.exists(path.path):
            found = path.fs.glob(path.path, detail=True)
            names = [name for name, file in found.items() if file["type"] != "directory"]
            above = re.split(r"[*?\[]", path.path, maxsplit=1)[0].rpartition("/")[0]
        elif (reader_of(uri) is None or is_parquet(uri)) and path.fs.isdir(path.path):
            above = path.path
            inside = path.fs.ls(path.path, detail=True)
            names = data_in([file["name"] for file in inside if file["type"] != "directory"], above)
            if names:
                tell_of_folders(uri, [file["name"] for file in inside if file["type"] == "directory"], above)
            else:
                # A dataset in partitions has its files further down.
                names = without_jobs({name: below(name, above) for name in path.fs.find(path.path)})
        else:
            return [path]
    except Exception as error:
        raise unreadable(f"Cannot list {uri}", error) from error
    names = [name for name in names if is_data(name, above)]
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


def data_in(names: Iterable[str], above: str) -> list[str]:
    """Those that are data, in a format that is read."""
    return [name for name in names if reader_of(name) and is_data(name, above)]


def tell_of_folders(uri: str, folders: Iterable[str], above: str) -> None:
    """Libraries differ in whether files further down belong to a directory that has its own: here they do not."""
    names = [below(name, above) for name in folders if is_data(name, above)]
    if names:
        log.warning(
            "%s has files of its own; none in the %d folder(s) below it (%s) are read. Say /**/ for all of them.",
            uri, len(names), ", ".join(sorted(names)[:3]),
        )  # fmt: skip


def without_jobs(names: Mapping[str, str]) -> list[str]:
    """The data files further down, without what jobs have written there; that too, where there is nothing else.

    :param names: of all files, to their paths from the directory on.
    """
    jobs = {found[1] for path in names.values() if (found := SHARD.match(path))}
    data = {name: path for name, path in names.items() if reader_of(name)}
    others = [
        name
        for name, path in data.items()
        if not LANDED.search(path) and jobs.isdisjoint(map(str, PurePosixPath(path).parents))
    ]
    return others or list(data)


def storage_path_of(protocol: str, name: str, conn_id: str | None) -> ObjectStoragePath:
    from airflow.sdk import ObjectStoragePath

    return ObjectStoragePath(name if "://" in name else f"{protocol}://{name}", conn_id=conn_id)
