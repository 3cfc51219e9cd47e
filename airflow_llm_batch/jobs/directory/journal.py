"""Answers of the online lane, kept as they come: the lines a batch would have answered, a file per try and shard.

On a local disk every line is written before the next call is made, and survives the process. Object stores take whole
files only: there a file is written every few seconds, and a killed task loses the answers since the last one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory.attempts import ANSWERS, answers_name, answers_token
from airflow_llm_batch.storage import is_local, make_parent, open_fact, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.attempts import Attempts
    from airflow_llm_batch.jobs.directory.store import JobStore

#: in a line that says why there is no answer: the row may be called again
UNANSWERED = b'"unanswered":true'
#: seconds, and bytes, after which a file is written to an object store
EVERY, MOST = 2.0, 4 * 2**20
#: how often the last of the answers is tried to be written
LAST_TRIES = 5


class Journal:
    """Takes one shard's answers; everything but the writing itself happens on the event loop."""

    def __init__(self, store: JobStore, index: int) -> None:
        self.store, self.index = store, index
        self.token = answers_token()
        self.number = self.size = 0
        self.file: int | None = None
        self.lines = bytearray()
        self.written_at = time.monotonic()
        self.writing = asyncio.Lock()
        path = self.path()
        if is_local(path):
            make_parent(path)
            self.file = os.open(path.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def path(self) -> ObjectStoragePath:
        return self.store.shard(self.index, answers_name(self.number, self.token))

    def add(self, line: bytes) -> None:
        """Keep an answer."""
        if self.file is not None:
            left = memoryview(line + b"\n")
            while left:
                # A full disk, or a signal, lets a write take less than it was given.
                left = left[os.write(self.file, left) :]
            self.size += len(line) + 1
            return
        self.lines += line + b"\n"

    @property
    def is_due(self) -> bool:
        """Whether what was added should be written now."""
        return bool(self.lines) and (len(self.lines) > MOST or time.monotonic() - self.written_at > EVERY)

    async def flush(self) -> None:
        """Write what was added since the last time; what cannot be written is kept for the next.

        :raises Exception: what the store raises.
        """
        async with self.writing:
            if self.lines:
                lines, self.lines = self.lines, bytearray()
                path = self.path()
                self.number += 1
                try:
                    await asyncio.to_thread(write_whole, path, bytes(lines))
                except BaseException:
                    self.lines = lines + self.lines
                    raise
            self.written_at = time.monotonic()

    async def close(self) -> None:
        """Write the last of it, as often as it takes within reason: it was paid for."""
        for attempt in range(LAST_TRIES):
            try:
                await self.flush()
                break
            except Exception:
                if attempt == LAST_TRIES - 1:
                    raise
                await asyncio.sleep(2.0**attempt)
        if self.file is not None:
            try:
                written = os.fstat(self.file).st_size
            finally:
                os.close(self.file)
                self.file = None
            if written != self.size:
                raise OSError(
                    f"{self.path()} has {written:,} bytes where {self.size:,} were written: answers are lost."
                )


def journal_lines(store: JobStore, attempts: Attempts) -> Iterator[bytes]:
    """Every answer that was kept of a shard, those of the newest try first: what it has answered counts.

    :param attempts: the shard's; they know its files.
    """
    index = attempts.index
    for name in sorted(attempts.names(), reverse=True):
        if name.startswith(ANSWERS) and name.endswith(".jsonl"):
            with open_fact(store.shard(index, name)) as lines:
                yield from (line.rstrip(b"\n") for line in lines if not line.isspace())
