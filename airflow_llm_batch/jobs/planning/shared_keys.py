"""Keys that are unique among all partitions of a task: each of them lays its own out where the others find them.

{folder}/00003.keys   of partition 3: how many keys each bucket has, and a half of each key's hash, bucket after bucket
{folder}/00003.rows   the other half and the row's number, in the same order: read where two halves are alike

A partition writes its own before it reads the others', and publishes its plan after both. So whichever of two that have
a key in common reads last finds it, and sends nothing. It takes its keys back, for the other one is not to be refused
when it is tried again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.blocks import read_range
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.reuse.buckets import BUCKETS
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import fresh, remove, whole_file

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.data.partitions import Partition
    from airflow_llm_batch.jobs.reuse.buckets import HashBuckets

#: bytes of the counts, of a half, and of the other half with its row
HEAD, HALF, REST = BUCKETS * 4, 8, 16
#: keys of other partitions that are held at once, and of the own one
MOST = 1_000_000
#: files read at once
FILES_AT_ONCE = 16


class Halves(NamedTuple):
    """Halves of some buckets' hashes.

    :param starts: of each bucket among all of the file's keys.
    :param first: the number of the first one in ``values``.
    """

    starts: list[int]
    values: array[int]
    first: int

    def bucket(self, number: int) -> array[int]:
        return self.values[self.starts[number] - self.first : self.starts[number + 1] - self.first]


class SharedKeys:
    """The keys of one partition among those of the others.

    :param folder: for all partitions that are cut alike.
    """

    def __init__(self, folder: ObjectStoragePath, partition: Partition) -> None:
        self.folder, self.partition = folder, partition
        self.column = ""
        self.count = 0

    def keep(self, column: str, hashes: HashBuckets) -> None:
        """Lay the partition's keys out for the others.

        :param column: the key column's name, for the message.
        :param hashes: the same for equal keys in every process.
        """
        self.column, self.count = column, hashes.count
        # Whoever sees the halves finds the rest.
        with whole_file(self.file("keys")) as halves, whole_file(self.file("rows")) as rest:
            halves.write(array("I", hashes.counts()).tobytes())
            for held in hashes:
                pairs = array("q", bytes(len(held) // 3 * REST))
                pairs[::2], pairs[1::2] = held[1::3], held[2::3]
                halves.write(held[::3].tobytes())
                rest.write(pairs.tobytes())

    def check(self) -> None:
        """Look for the partition's keys among those of the others.

        :raises InputError: names the partitions and rows of one that is there twice.
        """
        others = self.others()
        if not self.count or not others:
            return
        parts = -(-max(self.count, *others.values()) // MOST)
        width = max(BUCKETS // parts, 1)
        with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-keys") as pool:
            for low in range(0, BUCKETS, width):
                window = range(low, min(low + width, BUCKETS))
                mine = self.read(self.partition.number, window)
                for group in grouped(others, MOST * parts):
                    theirs = zip(group, pool.map(self.read, group, repeat(window)), strict=True)
                    self.compare(window, mine, dict(theirs))

    def compare(self, window: range, mine: Halves, theirs: Mapping[int, Halves]) -> None:
        for bucket in window:
            # One bucket's as a set: as many of the whole window would take ten times the room.
            own = set(mine.bucket(bucket))
            for number, halves in theirs.items():
                if not own.isdisjoint(halves.bucket(bucket)):
                    self.look(bucket, number)

    def look(self, bucket: int, number: int) -> None:
        """Some halves are alike: refuse if hashes are."""
        mine, theirs = self.rows(self.partition.number, bucket), self.rows(number, bucket)
        same = min(mine.keys() & theirs.keys(), key=mine.__getitem__, default=None)
        if same is None:
            return
        remove(self.file("keys"))
        count = self.partition.count
        raise InputError(
            f"Duplicate key: row {theirs[same] // count:,} of partition {number}/{count} and row "
            f"{mine[same] // count:,} of partition {self.partition} (counted from 0) have the same {self.column}. "
            "Every row's key must be its own, or results cannot be told apart; name another key column, or none to "
            f"use row numbers, and clear all partitions of the task; for other rows remove {self.folder.parent}/"
            f"cut.json before. Nothing was sent of partition {self.partition}; {number}/{count}, which came first, "
            "goes on."
        )

    def others(self) -> dict[int, int]:
        """Partition -> how many keys it has, of those that have laid them out."""
        try:
            entries = patiently(fresh(self.folder).fs.ls, self.folder.path, detail=True)
        except FileNotFoundError:
            return {}
        sizes = {str(entry["name"]).rpartition("/")[2]: int(entry["size"] or 0) for entry in entries}
        found = {int(name[:5]): (size - HEAD) // HALF for name, size in sizes.items() if name.endswith(".keys")}
        return {number: count for number, count in sorted(found.items()) if number != self.partition.number}

    def read(self, number: int, window: range) -> Halves:
        """The halves of some buckets; none where the partition has taken its keys back."""
        path, whole = self.file("keys", number), len(window) == BUCKETS
        try:
            data = patiently(read_range, path.fs, path.path, 0, None if whole else HEAD)
            starts = [0, *accumulate(array("I", data[:HEAD]))]
            first, last = starts[window.start], starts[window.stop]
            halves = memoryview(data)[HEAD:] if whole else part_of(path, HEAD + first * HALF, HEAD + last * HALF)
        except FileNotFoundError:
            return Halves([0] * (BUCKETS + 1), array("q"), 0)
        values = array("q")
        values.frombytes(halves)
        return Halves(starts, values, first)

    def rows(self, number: int, bucket: int) -> dict[tuple[int, int], int]:
        """Whole hash -> row, of one bucket."""
        halves = self.read(number, range(bucket, bucket + 1))
        first, last = halves.starts[bucket : bucket + 2]
        rest = array("q", part_of(self.file("rows", number), first * REST, last * REST))
        return dict(zip(zip(halves.values, rest[::2], strict=True), rest[1::2], strict=True))

    def file(self, kind: str, number: int | None = None) -> ObjectStoragePath:
        """:param number: of another partition."""
        return self.folder / f"{self.partition.number if number is None else number:05d}.{kind}"


def part_of(path: ObjectStoragePath, start: int, end: int) -> bytes:
    return patiently(read_range, path.fs, path.path, start, end) if start < end else b""


def grouped(counts: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Partitions, so many at a time that they have ``most`` keys together, or one that has more."""
    group: list[int] = []
    held = 0
    for number, count in counts.items():
        if group and held + count > most:
            yield group
            group, held = [], 0
        group.append(number)
        held += count
    if group:
        yield group
