"""Where the partitions of a task agree, and tell each other what they have landed.

{DAG}/{run}/{task}/partitions-64/cut.json          what is cut, and how: written by whichever partition is the first
{DAG}/{run}/{task}/partitions-64/keys-{cut}/       their keys, see ``jobs.planning.shared_keys``
{DAG}/{run}/{task}/partitions-64/00003.0001.json   what partition 3 has landed; 0002 where it was landed once more
{DAG}/{run}/{task}/manifest.json                   all of it, from the last partition's landing on
{destination}/_manifest-{id}.json                  the same beside the results

All but the manifests are written once. A landing writes its own file first and then looks whether all are there: so
whoever comes last writes the manifest, and two that come last together write the same. After the manifest it looks
once more: where another partition was landed meanwhile, the manifest is written anew, by both of them at most.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.data.partitions import Cut, Partition, cut_of, part_of
from airflow_llm_batch.exceptions import InputError, SourceUnavailable
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.sets.manifest import LandedPart, SetManifest
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.results import usd
from airflow_llm_batch.storage import create_exclusive, fresh, read_small, remove, remove_all, storage_path, write_whole

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.data.sources import Source
    from airflow_llm_batch.jobs.directory.address import JobAddress
    from airflow_llm_batch.jobs.directory.store import JobStore

FOLDER = re.compile(r"partitions-\d+")
NOTE = re.compile(r"(\d{5})\.(\d{4,})\.json")
#: landings of other partitions that may come between two looks
MOST_RACES = 1000
#: files read at once
FILES_AT_ONCE = 16


class PartitionSet:
    """The partitions of one task in one run.

    :param address: of any job of the task.
    """

    def __init__(self, address: JobAddress, partition: Partition) -> None:
        self.address, self.partition = address, partition
        self.folder = storage_path(f"{address.folder}/partitions-{partition.count}")
        self.manifest_uri = f"{address.folder}/manifest.json"
        #: of the cut that was taken last
        self.keys = self.folder / "keys"

    @classmethod
    def of(cls, store: JobStore) -> PartitionSet | None:
        """The set of a planned job, or of the job that it repairs; None for one that is no partition."""
        first, job = history.chain(store)[0]
        partition = Partition.of(job.partition)
        return None if partition is None else cls(first.address, partition)

    def take(self, rows: Any) -> Source:
        """This partition's rows.

        :param rows: all of them, as they were given.
        :raises InputError: where the set was cut from others.
        """
        path = self.folder / "cut.json"
        data = read_small(path)
        if data is None:
            data = msgspec.json.encode(cut_of(rows))
            if not create_exclusive(path, data):
                data = read_small(path) or b""
        self.keys = self.folder / f"keys-{hashlib.sha256(data).hexdigest()[:8]}"
        cut = msgspec.json.decode(data, type=Cut)
        from airflow_llm_batch.data.sources import sources_of

        if (sources := sources_of(rows)) != cut.sources:
            raise InputError(
                f"The rows are {', '.join(sources)[:200] or 'a list'}, and the {self.partition.count} partitions of "
                f"this run were cut from {', '.join(cut.sources)[:200] or 'a list'}. To ask these, remove {path} and "
                "clear all partitions of the task. Nothing was sent."
            )
        return part_of(rows, self.partition, cut)

    def add(self, part: LandedPart, log: Logger) -> None:
        """Note what this partition has landed, and publish the set's manifest where all others have."""
        self.note(part)
        # What was seen before the note was written is not all: another one may have been written meanwhile.
        names = self.names()
        for _ in range(MOST_RACES):
            newest = newest_of(names)
            if len(newest) < self.partition.count:
                log.info("%d of %d partitions are landed.", len(newest), self.partition.count)
                return
            self.publish(self.read(newest), log)
            before, names = names, self.names()
            if names == before:
                return
        raise SourceUnavailable(f"The partitions of {self.address.folder} are landed faster than they are read; retry.")

    def note(self, part: LandedPart) -> None:
        """Write down what was landed, unless that is what was landed before."""
        data = part.dump()
        for _ in range(MOST_RACES):
            last = newest_of(self.names()).get(self.partition.number, 0)
            if last and read_small(self.folder / self.name(last)) == data:
                return
            if create_exclusive(self.folder / self.name(last + 1), data):
                return
        raise SourceUnavailable(f"Partition {self.partition} is landed by others at the same time; retry.")

    def name(self, number: int) -> str:
        return f"{self.partition.number:05d}.{number:04d}.json"

    def names(self) -> set[str]:
        """The notes as of now."""
        try:
            found = patiently(fresh(self.folder).fs.ls, self.folder.path, detail=False)
        except FileNotFoundError:
            return set()
        return {name for path in found if NOTE.fullmatch(name := str(path).rpartition("/")[2])}

    def read(self, newest: dict[int, int]) -> SetManifest:
        """:param newest: partition -> the number of its newest note."""
        paths = [self.folder / f"{number:05d}.{last:04d}.json" for number, last in sorted(newest.items())]
        with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-set") as pool:
            notes = list(pool.map(read_small, paths))
        return SetManifest.of([LandedPart.model_validate_json(note or b"") for note in notes])

    def publish(self, manifest: SetManifest, log: Logger) -> None:
        """Write the manifest where it is not there yet, or has changed."""
        data = manifest.dump()
        # A table is no place for files, and theirs lie elsewhere.
        places = [place.rstrip("/") for place in manifest.destinations]
        beside = [
            f"{place}/{self.beside}" for place in places if any(f.startswith(f"{place}/") for f in manifest.files)
        ]
        # Whoever waits for the set looks at its own: that is the last.
        for path in map(storage_path, (*beside, self.manifest_uri)):
            if read_small(path) != data and not create_exclusive(path, data):
                write_whole(path, data)
        log.info(
            "All %d partitions are landed, %s rows, %s: %s",
            manifest.partitions, f"{manifest.rows:,}", usd(manifest.cost_usd), self.manifest_uri,
        )  # fmt: skip

    @property
    def beside(self) -> str:
        """The manifest's name beside the results; whoever reads a directory of data passes such names over."""
        return f"_manifest-{hashlib.sha256(self.address.folder.encode()).hexdigest()[:8]}.json"


def newest_of(names: set[str]) -> dict[int, int]:
    """Partition -> the number of its newest note."""
    newest: dict[int, int] = {}
    for name in names:
        if found := NOTE.fullmatch(name):
            number, landing = map(int, found.groups())
            newest[number] = max(newest.get(number, 0), landing)
    return newest


def remove_set(folder: str) -> None:
    """Take away what the partitions of a task have told each other; their jobs, and what they have landed, stay.

    :param folder: URI that the directories of their jobs lie in.
    """
    above = fresh(storage_path(folder))
    with suppress(FileNotFoundError):
        for path in patiently(above.fs.ls, above.path, detail=False):
            name = str(path).rstrip("/").rpartition("/")[2]
            if FOLDER.fullmatch(name):
                remove_all(above / name)
        remove(above / "manifest.json")
