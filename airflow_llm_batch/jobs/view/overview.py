"""All jobs of a storage as people want to see them: from its index, and of those at work from their directories."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import msgspec

from airflow_llm_batch.file_facts import modified
from airflow_llm_batch.jobs.directory.address import JobAddress, JobKey, default_storage
from airflow_llm_batch.jobs.directory.index import UNKNOWN, IndexEntry, announce
from airflow_llm_batch.jobs.directory.indexed import Index, days_between
from airflow_llm_batch.jobs.view.check import check
from airflow_llm_batch.jobs.view.files import FILES_AT_ONCE, Contents, RoundFiles, rounds_of
from airflow_llm_batch.jobs.view.job import JobView, view

log = logging.getLogger(__name__)
#: days that are shown unless somebody asks for others, and for how long a job of a day may go on
WINDOW, LONGEST = timedelta(days=30), timedelta(days=14)
#: operations of the store that one look spends on jobs that were at work before
MOST_OPERATIONS = 30
#: a job is looked at again after this share of the time in which nothing has happened to it, and seconds at most
SHARE, MOST_PAUSE = 0.05, 600.0
#: seconds after which a job that was announced and never planned is looked for no more
NEVER_PLANNED = 24 * 3600.0
#: seconds from one check of the whole storage to the next
CHECKS = 24 * 3600.0


@dataclass
class Work:
    """A job that is not landed yet, or whose directory was not read.

    :param seen_at: epoch seconds when its directory was read last; ``changed_at`` when something was new there.
    :param operations: that reading it takes, about.
    """

    seen_at: float = 0.0
    changed_at: float = 0.0
    operations: int = 2

    def due_at(self) -> float:
        return self.seen_at + min((self.seen_at - self.changed_at) * SHARE, MOST_PAUSE)


class Overview:
    """The jobs of one storage.

    :param storage: object storage URI, ``[llm_batch] storage`` by default.
    :param clock: epoch seconds.
    :ivar views: of the days that were asked for.
    """

    def __init__(self, storage: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self.uri = (storage or default_storage()).rstrip("/")
        self.clock = clock
        self.index = Index(self.uri, clock)
        self.contents = Contents()
        self.views: dict[JobKey, JobView] = {}
        self.work: dict[JobKey, Work] = {}
        self.is_checked = False

    def refresh(self, days: Collection[date] | None = None) -> list[JobView]:
        """Look at the storage; the jobs, newest first.

        :param days: whose jobs are wanted, beside those of earlier looks; the last thirty by default.
        :raises Exception: what the store raises.
        """
        self._read(window(self.today) if days is None else days)
        return self._look()

    def refresh_all(self) -> list[JobView]:
        """The same with the jobs of all days."""
        self._read(None)
        return self._look()

    @property
    def today(self) -> date:
        return datetime.fromtimestamp(self.clock(), UTC).date()

    @property
    def is_check_due(self) -> bool:
        """Whether it is time to list the whole storage again, for jobs that the index has lost."""
        at = self.index.checked_at
        return at is not None and self.clock() - at / 1000 >= CHECKS

    def check(self) -> None:
        """Do so; the next look finds what was found. Good for a thread of its own."""
        check(self.uri, self.clock)
        self.index.renew()

    def rounds(self, key: JobKey) -> list[RoundFiles]:
        """One job's rounds as they are now, oldest first; none where there is no such job."""
        return rounds_of(self.uri, key, self.contents)

    def is_replaced(self, key: JobKey) -> bool:
        """Whether another job has taken a job's place."""
        after = following(key)
        return after in self.views or bool(rounds_of(self.uri, after, self.contents, details=False))

    def let_go(self, days: Collection[date]) -> None:
        """Forget the jobs of all days but these."""
        self.index.keep(days)

    def hurry(self, key: JobKey) -> None:
        """Something was done to a job: the next look reads its directory."""
        if key in self.work:
            self.work[key] = Work(-1.0, -1.0, self.work[key].operations)

    def _read(self, days: Collection[date] | None) -> None:
        self.index.read(days)
        if self.index.checked_at is None and not self.is_checked:
            # The first look at all: jobs may be there that were made before there was an index.
            found = check(self.uri, self.clock)
            self.index.renew()
            self.index.read(days)
            if self.index.checked_at is None:
                self.index.take(found)
            self.is_checked = True

    def _look(self) -> list[JobView]:
        self._take(self.index.changed)
        self._look_at(self._due())
        self._pack()
        # Kept in order: what is nearly sorted is sorted soon.
        newest_first = sorted(self.views.items(), key=lambda item: item[1].created_at, reverse=True)
        self.views = dict(newest_first)
        return list(self.views.values())

    def _take(self, changed: set[str]) -> None:
        """What entries say."""
        while changed:
            job = changed.pop()
            entry = self.index.entries.get(job)
            key = JobKey(*job.split("/"))
            shown = view_in(entry) if entry is not None else None
            if entry is None or entry.gone:
                self.views.pop(key, None)
                self.work.pop(key, None)
                continue
            # It is kept as a view alone.
            entry.raw = UNKNOWN
            if shown is None:
                self._at_work(key)
            elif shown.landed_at is not None:
                self._hurry_replaced(key)
                self.views[key] = shown
                self.work.pop(key, None)
            elif key not in self.views:
                # How far it was when the day was put together; what was seen here is newer.
                self.views[key] = shown
                self._at_work(key)

    def _at_work(self, key: JobKey) -> None:
        self._hurry_replaced(key)
        self.work[key] = Work()

    def _hurry_replaced(self, key: JobKey) -> None:
        """A job that was not known replaces another, which is shown otherwise from then on."""
        before = previous(key)
        if before is not None and key not in self.views:
            self.hurry(before)

    def _due(self) -> list[JobKey]:
        """The jobs whose directories are to be read: all that nothing is known of, and of the others those that were
        looked at longest ago."""
        now, left, due = self.clock(), MOST_OPERATIONS, []
        for key, work in sorted(self.work.items(), key=lambda item: item[1].due_at()):
            if key not in self.views and not work.seen_at:
                due.append(key)
            elif work.due_at() <= now and left > 0:
                due.append(key)
                left -= work.operations
        return due

    def _look_at(self, keys: Iterable[JobKey]) -> None:
        # Whatever replaces a job is known before it.
        keys = sorted(keys, key=generation, reverse=True)
        if not keys:
            return
        with ThreadPoolExecutor(min(FILES_AT_ONCE, len(keys)), "llm-batch-overview") as pool:
            for key, rounds in zip(keys, pool.map(self._rounds, keys), strict=True):
                self._seen(key, rounds)

    def _rounds(self, key: JobKey) -> list[RoundFiles]:
        return rounds_of(self.uri, key, self.contents, details=False)

    def _seen(self, key: JobKey, rounds: list[RoundFiles]) -> None:
        """Take note of what a job's directory says."""
        now, work, before = self.clock(), self.work[key], self.views.get(key)
        shown = view_of(key, rounds, replaced=following(key) in self.views) if rounds else None
        if shown is None:
            self._missing(key, work, now)
            return
        files = sum(len(found.files) for found in rounds)
        is_new = before is not None and shown != before
        changed = now if is_new else max(newest(rounds) or now, work.changed_at)
        self.work[key] = Work(now, changed, 2 + files // 1000)
        self.views[key] = shown
        if shown.landed_at is not None:
            # Whoever has landed it was killed right after, or its entry was lost.
            del self.work[key]
            announce(JobAddress.parse(rounds[0].uri), shown.model_dump_json().encode())

    def _missing(self, key: JobKey, work: Work, now: float) -> None:
        """Announced, and not planned yet; damaged; or taken away."""
        self.views.pop(key, None)
        entry = self.index.entries.get("/".join(key))
        at = entry.at / 1000 if entry is not None else 0.0
        if now - at > NEVER_PLANNED:
            self.work.pop(key)
        else:
            work.seen_at, work.changed_at = now, at

    def _pack(self) -> None:
        """Put days together of which many entries were read one by one, for whoever looks next."""
        for day in self.index.days_to_pack():
            try:
                self.index.pack(day, self.index.days[day].entries, self._packed)
            except Exception as error:
                # Who may only read looks all the same.
                log.info("The index of %s was not put together: %s: %s", day, type(error).__name__, error)

    def _packed(self, entry: IndexEntry) -> IndexEntry:
        shown = self.views.get(entry.key)
        raw = UNKNOWN if shown is None else msgspec.Raw(shown.model_dump_json().encode())
        return IndexEntry(entry.job, entry.at, raw, entry.gone)


def window(last: date, first: date | None = None) -> list[date]:
    """The days that tell of jobs planned from ``first``, thirty days by default, to ``last``: a job may land later."""
    return days_between(first or last - WINDOW, last + LONGEST)


def view_in(entry: IndexEntry) -> JobView | None:
    """What an entry shows, None where the job's directory has to be read."""
    try:
        return None if entry.view is None else JobView.model_validate_json(entry.view)
    except ValueError:
        return None  # another version's


def view_of(key: JobKey, rounds: list[RoundFiles], *, replaced: bool) -> JobView | None:
    """A job from its files; None for a damaged one, which hides nothing but itself."""
    try:
        return view(key, rounds, replaced=replaced)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        log.warning("The job at %s cannot be shown: %r", rounds[0].uri, error)
        return None


def newest(rounds: list[RoundFiles]) -> float:
    """Epoch seconds when something was last written of what tells how far a job is, 0 where the store does not say."""
    infos = (info for found in rounds for name, info in found.files.items() if "/" not in name)
    return max((at.timestamp() for at in map(modified, infos) if at is not None), default=0.0)


def generation(key: JobKey) -> int:
    """How many jobs there were in its place, this one included."""
    return JobAddress.parse("/".join(key)).generation


def following(key: JobKey) -> JobKey:
    """The key of the job that replaces one when a task's input has changed."""
    return JobAddress.parse("/".join(key)).next_generation.key


def previous(key: JobKey) -> JobKey | None:
    """The key of the job that a job has replaced."""
    earlier = JobAddress.parse("/".join(key)).previous_generations
    return earlier[-1].key if earlier else None
