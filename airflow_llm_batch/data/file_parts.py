"""The rows of one partition of some files: its own row groups, lines and whole files, and no byte of the others."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.blocks import CHUNK, FETCH, FrontToBack, read_range
from airflow_llm_batch.data.files import (
    MOST_BYTES,
    Located,
    is_parquet,
    json_rows,
    parquet_rows,
    read_file,
)
from airflow_llm_batch.data.partitions import CutFile, Partition
from airflow_llm_batch.data.paths import files_named, partition_columns
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.file_facts import file_info, version_of
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import fresh, storage_path, unreadable

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: bytes asked for at once after a part's end, for the rest of the line that begins in it
BEYOND = 2**16
#: files of a directory from which on it is listed for their sizes, and they are not asked one by one
FEW = 4


def listed(paths: Iterable[Any]) -> list[CutFile]:
    """The files that paths, directories and globs mean, in the order in which they are read, as they are now.

    :raises InputError: for what cannot be listed; ``NoRows`` where there are none.
    """
    found = list(files_named(paths))
    known = infos_of([path for path, _ in found])
    infos = [known[str(path)] for path, _ in found]
    return [
        CutFile(str(path), int(info["size"] or 0), below, version_of(info))
        for (path, below), info in zip(found, infos, strict=True)
    ]


def infos_of(paths: Sequence[ObjectStoragePath]) -> dict[str, Mapping[str, Any]]:
    """What the store tells of each file; a directory is listed once for many of them."""
    folders: dict[str, list[ObjectStoragePath]] = {}
    for path in paths:
        folders.setdefault(str(path.parent), []).append(path)
    known: dict[str, Mapping[str, Any]] = {}
    try:
        for inside in folders.values():
            if len(inside) >= FEW:
                above = fresh(inside[0].parent)
                entries = patiently(above.fs.ls, above.path, detail=True)
                infos = {str(entry["name"]).rpartition("/")[2]: entry for entry in entries}
            for path in inside:
                known[str(path)] = infos[path.name] if len(inside) >= FEW else file_info(path)
    except (OSError, KeyError) as error:
        raise unreadable(f"Cannot read the size of {path}", error) from error
    return known


class FilePart:
    """One partition of files that are laid end to end.

    :param files: all of them, in their order.
    :param uris: what was given for them.
    """

    def __init__(self, files: Sequence[CutFile], partition: Partition, uris: tuple[str, ...]) -> None:
        self.files, self.partition, self.uris = files, partition, uris

    def rows(self, columns: Collection[str] | None = None) -> Located:
        for file, start, end in self.shares():
            path = storage_path(file.uri)
            self.check(path, file)
            extra = partition_columns(path.path) if file.found else {}
            wanted = None if columns is None else set(columns) - extra.keys()
            located = read_part(path, file.uri, wanted, start, end)
            yield from ((place, {**extra, **row}) for place, row in located) if extra else located
            # Whoever has written it meanwhile has given us some of each.
            self.check(path, file)

    def check(self, path: ObjectStoragePath, file: CutFile) -> None:
        """:raises InputError: for a file that is not what it was when it was cut."""
        try:
            info = file_info(path)
        except OSError as error:
            raise unreadable(f"Cannot read {path}", error) from error
        size, version = int(info["size"] or 0), version_of(info)
        if size == file.size and version == (file.version or version):
            return
        now, before = f"has {size:,} bytes", f"had {file.size:,}"
        if size == file.size:
            now, before = f"is of version {version}", f"was of {file.version}"
        raise InputError(
            f"{file.uri} {now}, and {before} when the task's rows were cut into {self.partition.count} partitions: "
            "others have rows of it as it was, and some would be asked twice or never. Remove "
            f"partitions-{self.partition.count}/cut.json beside the task's job directories and clear all partitions "
            "of the task: those whose rows are the same go on with what they have sent. Nothing was sent."
        )

    def shares(self) -> Iterator[tuple[CutFile, int, int]]:
        """The files of which this partition has something, and from which byte to before which."""
        # Whoever has a file that ought not to be empty is to find that out.
        mine, ends = self.partition.share(sum(max(file.size, 1) for file in self.files))
        begin = 0
        for file in self.files:
            size = max(file.size, 1)
            start, end = max(mine - begin, 0), min(ends - begin, size)
            if start < end and (start == 0 or is_split(file.uri)):
                yield file, start, end
            begin += size


def is_split(name: str) -> bool:
    """Whether a file's rows can be read from its middle on: what is packed as one stream, a JSON array and CSV, whose
    quoted fields hold line ends, cannot."""
    return is_parquet(name) or name.lower().endswith((".jsonl", ".ndjson"))


def read_part(path: ObjectStoragePath, name: str, columns: Collection[str] | None, start: int, end: int) -> Located:
    """The rows that begin in a part of a file."""
    if is_parquet(name):
        return parquet_rows(path, name, columns, (start, end))
    return json_rows(lines_between(path, start, end), name, "byte") if is_split(name) else read_file(path, columns)


def lines_between(path: ObjectStoragePath, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines whose first byte lies in a part of a file, each with its place."""
    try:
        # The byte before tells whether a line begins where the part does.
        with io.BufferedReader(Slice(path, max(start - 1, 0), end), FETCH) as file:
            place = max(start - 1, 0)
            while start and place < end:
                skipped = file.readline(CHUNK)
                place += len(skipped)
                if skipped.endswith(b"\n") or not skipped:
                    break
            while place < end and (line := file.readline(MOST_BYTES + 1)):
                yield place, line
                place += len(line)
    except OSError as error:
        raise unreadable(f"Cannot read {path}", error) from error


class Slice(FrontToBack):
    """A part of a file: its bytes, and then a few at a time of what follows."""

    def __init__(self, path: ObjectStoragePath, start: int, end: int) -> None:
        self.path, self.place, self.end = path, start, end

    def readinto(self, into: Any) -> int:
        left = self.end - self.place
        count = min(len(into), left if left > 0 else BEYOND)
        data = patiently(read_range, self.path.fs, self.path.path, self.place, self.place + count)
        into[: len(data)] = data
        self.place += len(data)
        return len(data)
