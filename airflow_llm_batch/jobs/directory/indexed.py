"""A storage's index as one process knows it: each look reads what is new of the days that are asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory.index import (
    CHECKED,
    ENTRY,
    PACK,
    PACKS,
    SETTLES,
    IndexEntry,
    day_of,
    decode,
    end_of,
    hour_folder,
    index_root,
    job_of,
    mark_of,
    read_pack,
    write_pack,
)
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import find_files, fresh, read_small, remove_all

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.address import JobAddress

log = logging.getLogger(__name__)
#: seconds between two listings of whole days and of the packs; between them the last two hours are listed
RELIST = 300.0
HOUR = 3600 * 1000
FILES_AT_ONCE = 16
#: entries of a day that are in no pack before another is written, at least, and as a share of those that are
FEWEST, SHARE = 40, 0.1


@dataclass
class Day:
    """What is known of one day.

    :param pack: name of the pack that was read last, and ``packed`` what it held; ``packs`` are all that there are.
    :param seen: names of entries that need not be read any more, and ``own`` what was read of them.
    """

    pack: str = ""
    packs: list[str] = field(default_factory=list)
    packed: dict[str, IndexEntry] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    own: dict[str, IndexEntry] = field(default_factory=dict)
    is_listed: bool = False

    @property
    def entries(self) -> dict[str, IndexEntry]:
        """Job -> its newest entry of the day."""
        newest = dict(self.packed)
        for job, entry in self.own.items():
            if entry.counts_over(newest.get(job)):
                newest[job] = entry
        return newest

    @property
    def is_to_be_packed(self) -> bool:
        return len(self.own) >= max(FEWEST, SHARE * len(self.packed))


class Index:
    """One storage's index.

    :param clock: epoch seconds.
    :ivar entries: job -> its newest entry, of the days that were read.
    :ivar changed: jobs whose entry has changed since somebody has emptied it.
    :ivar checked: names of the notes that the whole storage was listed.
    """

    def __init__(self, storage: str, clock: Callable[[], float] = time.time) -> None:
        self.root: ObjectStoragePath = index_root(storage)
        self.clock = clock
        self.days: dict[date, Day] = {}
        self.entries: dict[str, IndexEntry] = {}
        self.marks: dict[str, int] = {}
        self.changed: set[str] = set()
        self.checked: list[str] = []
        self.written: set[date] = set()
        self.listed_at = 0.0

    def now(self) -> int:
        return int(self.clock() * 1000)

    @property
    def checked_at(self) -> int | None:
        """When the whole storage was listed last, in epoch milliseconds; None where it never was."""
        return max((int(name.split("-")[1]) for name in self.checked), default=None)

    def read(self, days: Collection[date] | None = None) -> None:
        """Read what is new.

        :param days: to read from now on, beside those that were asked for before; None for all that there are.
        """
        new = set(days or ()) - self.days.keys()
        if days is None or new or self.clock() - self.listed_at >= RELIST:
            self._list(days)
        # What has begun since days were listed last may be there.
        lately = {day_of(self.now()), day_of(self.now() - HOUR)}
        for day in sorted((self.written | lately) & self.days.keys()):
            if not self.is_settled(day):
                self._read_entries(day)

    def keep(self, days: Collection[date]) -> None:
        """Let go of all other days."""
        if self.days.keys() <= set(days):
            return
        self.days = {day: known for day, known in self.days.items() if day in days}
        self._join()

    def renew(self) -> None:
        """List days and packs at the next look: they were changed by another hand."""
        self.listed_at = 0.0

    def pack(self, day: date, entries: dict[str, IndexEntry], completed: Callable[[IndexEntry], IndexEntry]) -> None:
        """Put a day's entries together in one file. Done twice, or by two at once, either file is good.

        :param told: an entry as it is to be written, with all that is known by now.
        """
        known = self.days[day]
        known.pack = write_pack(self.root, day, map(completed, entries.values()), known.packs)
        known.packs, known.packed, known.own = [known.pack], entries, {}

    def take(self, entries: Iterable[IndexEntry]) -> None:
        """Know of entries that could not be written."""
        for entry in entries:
            self.days.setdefault(day_of(entry.at), Day()).own[entry.job] = entry
        self._join()

    def days_to_pack(self) -> list[date]:
        """Days with many entries that are in no pack, and those that are over and were not put together since."""
        over = self.now() - SETTLES
        return [
            day
            for day, known in self.days.items()
            if known.is_to_be_packed or (day in self.written and end_of(day) <= over and not self.is_settled(day))
        ]

    def is_settled(self, day: date) -> bool:
        """Whether the day's pack was written when no more entries were to come."""
        found = PACK.fullmatch(self.days[day].pack)
        return found is not None and int(found["at"]) >= end_of(day) + SETTLES

    def _list(self, days: Collection[date] | None) -> None:
        """The days that have entries, and packs that are newer than those that were read."""
        packs: dict[date, list[str]] = {}
        self.checked = []
        for name in sorted(names_in(self.root / PACKS)):
            if found := PACK.fullmatch(name):
                packs.setdefault(date.fromisoformat(found["day"]), []).append(name)
            elif CHECKED.fullmatch(name):
                self.checked.append(name)
        self.written = {date.fromisoformat(name) for name in names_in(self.root) if name[:4].isdigit()}
        for day in self.written | packs.keys() if days is None else days:
            self.days.setdefault(day, Day())
        wanted = {}
        for day, known in self.days.items():
            known.packs, known.is_listed = packs.get(day, []), False
            if known.packs and known.packs[-1] != known.pack:
                wanted[day] = known.packs[-1]
        with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-index") as pool:
            read = pool.map(lambda name: read_small(self.root / PACKS / name), wanted.values())
            for (day, name), data in zip(wanted.items(), list(read), strict=True):
                self._take_pack(self.days[day], name, data)
        if wanted:
            self._join()
        self.listed_at = self.clock()

    def _take_pack(self, known: Day, name: str, data: bytes | None) -> None:
        """A pack that is gone was replaced, and one that is torn tells nothing: then the entries themselves do."""
        try:
            if data is not None:
                known.packed = read_pack(data)
                known.pack = name
        except ValueError as error:
            log.warning("%s of the index cannot be read (%s); its entries are.", name, error)
        known.own = {job: entry for job, entry in known.own.items() if entry.counts_over(known.packed.get(job))}
        # Another process may have packed less than this one had.
        known.seen = set()

    def _join(self) -> None:
        """The newest entry of each job, over all days."""
        joined: dict[str, IndexEntry] = {}
        for day in sorted(self.days):
            for job, entry in self.days[day].entries.items():
                if entry.counts_over(joined.get(job)):
                    joined[job] = entry
        self.changed |= {job for job, entry in joined.items() if self.entries.get(job) is not entry}
        self.changed |= self.entries.keys() - joined.keys()
        self.entries = joined
        self.marks = {mark_of(job): entry.at for job, entry in joined.items()}

    def _read_entries(self, day: date) -> None:
        """The entries of a day that are new: all of it is listed at times, and its last two hours always."""
        known = self.days[day]
        folders = [day.isoformat()]
        if known.is_listed:
            hours = {hour_folder(at) for at in (self.now() - HOUR, self.now())}
            folders = sorted(folder for folder in hours if folder.startswith(day.isoformat()))
        paths = {path.rpartition("/")[2]: path for folder in folders for path in find_files(self.root / folder)}
        known.is_listed = True
        new = sorted((name for name in paths.keys() - known.seen if ENTRY.fullmatch(name)), reverse=True)
        top = self.root.path.rstrip("/")
        while new:
            # The newest of each job; one before it only where that is torn.
            chosen: dict[str, str] = {}
            for name in new:
                at, mark, _ = name.split("-")
                if int(at) > self.marks.get(mark, -1):
                    chosen.setdefault(mark, name)
            read = self._read_all([paths[name].removeprefix(f"{top}/") for name in chosen.values()])
            for entry in filter(None, read):
                known.own[entry.job] = self.entries[entry.job] = entry
                self.marks[entry.mark] = entry.at
                self.changed.add(entry.job)
            torn = [name for name, entry in zip(chosen.values(), read, strict=True) if entry is None]
            known.seen.update(torn if torn else new)
            new = [name for name in new if name not in known.seen] if torn else []

    def _read_all(self, names: list[str]) -> list[IndexEntry | None]:
        with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-index") as pool:
            return list(pool.map(lambda name: parsed(read_small(self.root / name)), names))


def parsed(data: bytes | None) -> IndexEntry | None:
    """An entry, None for what is none."""
    try:
        entry = decode(data or b"")
    except ValueError:
        return None
    return entry if entry.job.count("/") == 3 else None


def names_in(folder: ObjectStoragePath) -> list[str]:
    """The names in a folder, as of now; none where there is no such folder."""
    try:
        return [
            path.rstrip("/").rpartition("/")[2] for path in patiently(fresh(folder).fs.ls, folder.path, detail=False)
        ]
    except FileNotFoundError:
        return []


def days_between(first: date, last: date) -> list[date]:
    """Both included."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def days_with(index: Index, job: str) -> list[date]:
    """The days of which something is known of a job."""
    return [day for day, known in index.days.items() if job in known.packed or job in known.own]


def rewrite(index: Index, changes: dict[str, IndexEntry]) -> None:
    """Put entries in the place of what is known, by packs of all days that know of these jobs.

    :param index: with all of its days read.
    """
    wanted: dict[date, dict[str, IndexEntry]] = {}
    for job, entry in changes.items():
        for day in days_with(index, job) or [day_of(entry.at)]:
            wanted.setdefault(day, {})[job] = entry
    for day, entries in sorted(wanted.items()):
        index.pack(day, {**index.days.setdefault(day, Day()).entries, **entries}, lambda entry: entry)


def forget_jobs(storage: str, addresses: Sequence[JobAddress]) -> None:
    """Take jobs out of a storage's index whose directories were taken away, and single entries of days that are over.

    A failure is told and harms nothing: the next check of the whole storage finds what is gone.
    """
    index = Index(storage)
    try:
        index.read()
        gone = {job_of(address) for address in addresses} & index.entries.keys()
        rewrite(index, {job: IndexEntry(job, index.entries[job].at + 1, gone=True) for job in gone})
        for day in sorted(index.written):
            if index.is_settled(day):
                remove_all(index.root / day.isoformat())
    except Exception as error:
        log.warning("The index of %s still has jobs that were removed: %s: %s", storage, type(error).__name__, error)
