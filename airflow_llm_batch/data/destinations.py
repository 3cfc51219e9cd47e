"""Where results go, as landing sees it. Files in object storage are one kind; another has to do what is asked here."""

from __future__ import annotations

import glob
import re
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Protocol

from airflow_llm_batch.data.sinks import Parts, sink_class
from airflow_llm_batch.data.table import Keyed
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import check_writable, exists, fresh, remove, storage_path
from airflow_llm_batch.unfinished import sweep

if TYPE_CHECKING:
    import msgspec

    from airflow_llm_batch.data.sinks import Layout, Sink
    from airflow_llm_batch.data.tables.rows import PlannedRows
    from airflow_llm_batch.jobs.options import Target
    from airflow_llm_batch.results import Result

#: what follows the stem in the name of a landed file; a mark of records that stayed is part of it
ENDING = re.compile(r"(-r\d+)?(\.parquet|\.jsonl(\.gz|\.zst)?)$")


class Unpublished(Protocol):
    """Records on their way; nobody sees them before they are published."""

    def commit(self) -> list[str]:
        """Publish; returns the places where they lie now."""

    def discard(self) -> None:
        """Leave nothing behind of what was not published."""


class Writer(Unpublished, Protocol):
    """Records that are new."""

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        """Add a record: a result and, as a JSON object, the pass-through columns.

        :raises Unwritable: when the destination cannot hold it; nothing was added then.
        """


class Carrying(Unpublished, Protocol):
    """Records of an earlier landing, taken over.

    :ivar taken: how many were, and how many were ``left`` out.
    """

    taken: int
    left: int


class Destination(Protocol):
    """A place for result records. ``places`` are what a landing publishes: files, say.

    :ivar uri: names it in the manifest.
    """

    uri: str

    def check(self) -> None:
        """Prove that it can be written, and that what it needs is installed.

        :raises ConfigurationError: names what is wrong.
        """

    def prepare(self, layout: Layout, *, make: bool) -> PlannedRows | None:
        """Before anything is sent: prove that it can hold a job's records.

        :param make: make what is missing there.
        :return: what looks at the values that are known by now, None where there is nothing to look at.
        :raises ConfigurationError: names what cannot be held.
        """

    def begin(self, layout: Layout, name: str) -> Writer:
        """Records of one shard.

        :param name: the same for every landing of the shard.
        """

    def carry(self, layout: Layout, places: Sequence[str], mark: str, without: Container[int]) -> Carrying:
        """Write landed records anew, but for some rows.

        :param mark: ends their names, and tells them apart from what they were.
        :raises FileNotFoundError: when one is gone.
        """

    def finish(self, layout: Layout, places: Sequence[str], job: str) -> str:
        """After the last record of a landing is published, and before its manifest: what has to be done at once, with
        all of them. Done again, it changes nothing.

        :param places: all that the landing has published.
        :param job: whose records they are, the same for every landing of it, whichever round or input.
        :return: what was done, for the log; "" for nothing.
        """

    def is_finished(self, job: str) -> bool:
        """Whether what ``finish`` has done of a job is still there."""

    def withdraw(self, job: str) -> int:
        """Undo what ``finish`` has done of a job; how many records it was."""

    def holds(self, places: Sequence[str]) -> bool:
        """Whether all of them are there, of this kind."""

    def named(self, stem: str) -> list[str]:
        """Every place, of any kind, whose name begins so."""

    def remove(self, places: Sequence[str]) -> list[str]:
        """Take them away; returns those that were there."""

    def sweep(self, places: Sequence[str]) -> None:
        """Take away what was left of landings of these places that were killed."""


def destination_of(target: Target, home: str) -> Destination:
    """Where a job's results go.

    :param home: directory for its files where the target names none.
    :raises ConfigurationError: for an unknown format, and for what needs a library that is not installed.
    """
    given = target.destination
    if not isinstance(given, Keyed):
        return FileDestination(given, target.format, target.max_file_size)
    files = FileDestination(given.given["files"] or home, target.format, target.max_file_size)
    try:
        from airflow_llm_batch.data.tables.destination import TableDestination

        return TableDestination(files, given)
    except ImportError as error:
        raise ConfigurationError(
            f"{type(given).__name__} as a destination needs a package that is not installed here ({error}); pip "
            f"install 'airflow-provider-llm-batch[{given.extra}]' where tasks run. Nothing was sent."
        ) from None


class FileDestination:
    """Result files in a directory, one per shard or more.

    :param uri: any ``ObjectStoragePath`` URI.
    """

    def __init__(self, uri: str, format: str, max_file_size: int | None) -> None:  # noqa: A002
        self.directory = storage_path(uri)
        self.uri = str(self.directory)
        self.largest = max_file_size
        self.sink = sink_class(format)

    def check(self) -> None:
        check_writable(self.directory)

    def prepare(self, layout: Layout, *, make: bool) -> None:
        """A file holds anything."""

    def finish(self, layout: Layout, places: Sequence[str], job: str) -> str:
        return ""

    def is_finished(self, job: str) -> bool:
        return True

    def withdraw(self, job: str) -> int:
        return 0

    def file(self, layout: Layout, stem: str) -> Sink:
        return self.sink(self.directory / f"{stem}{self.sink.suffix}", layout)

    def begin(self, layout: Layout, name: str) -> Parts:
        return Parts(lambda stem: self.file(layout, stem), name, self.largest)

    def carry(self, layout: Layout, places: Sequence[str], mark: str, without: Container[int]) -> CarriedFiles:
        carried = CarriedFiles()
        try:
            for place in places:
                stem = ENDING.sub("", place.rpartition("/")[2])
                carried.take(self.file(layout, f"{stem}-{mark}"), place, without)
        except BaseException:
            carried.discard()
            raise
        return carried

    def holds(self, places: Sequence[str]) -> bool:
        return all(place.endswith(self.sink.suffix) and exists(storage_path(place)) for place in places)

    def named(self, stem: str) -> list[str]:
        directory = fresh(self.directory)
        found = patiently(directory.fs.glob, f"{glob.escape(directory.path.rstrip('/'))}/{stem}*")
        return [str(self.directory / path.rpartition("/")[2]) for path in sorted(found)]

    def remove(self, places: Sequence[str]) -> list[str]:
        removed = [place for place in places if exists(storage_path(place))]
        for place in removed:
            remove(storage_path(place))
        return removed

    def sweep(self, places: Sequence[str]) -> None:
        sweep(self.directory, {place.rpartition("/")[2] for place in places})


class CarriedFiles:
    """Files that hold what others held, written and not published."""

    def __init__(self) -> None:
        self.sinks: list[Sink] = []
        self.taken = self.left = 0

    def take(self, sink: Sink, place: str, without: Container[int]) -> None:
        self.sinks.append(sink)
        taken, left = sink.copy(storage_path(place), without)
        self.taken, self.left = self.taken + taken, self.left + left
        sink.close()

    def commit(self) -> list[str]:
        published = [sink.uri for sink in self.sinks]
        while self.sinks:
            self.sinks[0].commit()
            self.sinks.pop(0)
        return published

    def discard(self) -> None:
        for sink in self.sinks:
            sink.discard()
