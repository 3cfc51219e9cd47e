"""Rows that nobody was asked: what they are landed with, and what later jobs need not ask."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.data.answer_cache import AnswerCache
from airflow_llm_batch.exceptions import ResultsUnusable
from airflow_llm_batch.jobs.directory.rows import entries
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.jobs.planning.sparing import COPY, KNOWN
from airflow_llm_batch.jobs.reuse.answers import AnswerFiles
from airflow_llm_batch.jobs.reuse.new import NewAnswers
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.jobs.directory.rows import Entry
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job, Shard

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Result).decode


class Unasked:
    """A job's rows that nobody was asked, and the results that they take over, in a temporary database."""

    def __init__(self, store: JobStore, job: Job) -> None:
        self.store, self.job = store, job
        #: rows whose results others take over
        self.wanted = RowSet()
        for shard in job.spared:
            if shard.lane == COPY:
                for entry in entries(self.store, shard):
                    self.wanted.add(entry.of if entry.of is not None else entry.row)
        self.results = sqlite3.connect("") if len(self.wanted) else None
        if self.results is not None:
            self.results.execute("create table results (row_number integer primary key, result blob)")

    def keep(self, result: Result) -> None:
        """Take note of a result as it came, if others take it over; the vendor's line stays with the row it is of."""
        if self.results is not None and result.row in self.wanted:
            values = result.row, encode(msgspec.structs.replace(result, raw=None))
            self.results.execute("insert or replace into results values (?, ?)", values)

    def rows(self, shard: Shard, only: Container[int] | None) -> Iterator[tuple[Entry, Result]]:
        """Each row of a shard with its result, which says whose answer it is.

        :param only: the rows that are landed, None for all.
        :raises ResultsUnusable: when the row that was asked was not landed before.
        """
        for entry in entries(self.store, shard):
            if only is not None and entry.row not in only:
                continue
            result = self._result_of(entry.of) if shard.lane == COPY else decode(entry.answer)
            result.answered_by = (result.answered_by or result.custom_id) if shard.lane in (COPY, KNOWN) else None
            result.custom_id = f"{self.job.id}-{entry.row}"
            yield entry, result

    def _result_of(self, row: int | None) -> Result:
        found = None
        if self.results is not None:
            found = self.results.execute("select result from results where row_number = ?", (row,)).fetchone()
        if found is None:
            raise ResultsUnusable(
                f"Row {row} of {self.store.uri} was asked for others too, and its result is not here; clear the task. "
                "Nothing is paid again."
            )
        return decode(found[0])

    def close(self) -> None:
        if self.results is not None:
            self.results.close()


def cache_name(store: JobStore) -> str:
    """What a job's answers are called in a cache, the same each time that it is landed."""
    return hashlib.sha256(store.uri.encode()).hexdigest()[:24]


def add_to_cache(new: NewAnswers, store: JobStore, job: Job, log: Logger) -> None:
    """Keep a job's answers for later ones. A failure is told and harms nothing: they are bought again."""
    if job.cache is None or not new.count:
        return
    try:
        files = AnswerFiles(AnswerCache(job.cache, max_bytes=job.cache_bytes))
        size = new.publish(files, cache_name(store))
    except Exception as error:
        log.warning(
            "%s answers could not be added to the cache %s, and will be bought again: %s: %s",
            f"{new.count:,}", job.cache, type(error).__name__, error,
        )  # fmt: skip
    else:
        log.info("%s answers were added to the cache %s (%s bytes).", f"{new.count:,}", job.cache, f"{size:,}")
