"""Answers of the online lane, kept as they come: the lines a batch would have answered, a file per try and shard.

On a local disk every line is written before the next call is made, and survives the process. Object stores take whole
files only: there a file is written every few seconds, and a killed task loses the answers since the last one.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_llm_batch.storage import fresh, is_local, make_parent, open_blocks, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.store import JobStore

#: seconds, and bytes, after which a file is written to an object store
EVERY, MOST = 2.0, 4 * 2**20


class Journal:
    """Takes one shard's answers."""

    def __init__(self, store: JobStore, index: int) -> None:
        self.store, self.index = store, index
        self.token = uuid.uuid4().hex[:8]
        self.number = 0
        self.file: int | None = None
        self.lines = bytearray()
        self.written_at = time.monotonic()
        path = self.path()
        if is_local(path):
            make_parent(path)
            self.file = os.open(path.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def path(self) -> ObjectStoragePath:
        return self.store.shard(self.index, f"answers-{self.token}-{self.number:05d}.jsonl")

    def add(self, line: bytes) -> None:
        """Keep an answer."""
        if self.file is not None:
            os.write(self.file, line + b"\n")
            return
        self.lines += line + b"\n"

    @property
    def is_due(self) -> bool:
        """Whether what was added should be written now."""
        return bool(self.lines) and (len(self.lines) > MOST or time.monotonic() - self.written_at > EVERY)

    def flush(self) -> None:
        """Write what was added since the last time."""
        if self.lines:
            lines, self.lines = bytes(self.lines), bytearray()
            write_whole(self.path(), lines)
            self.number += 1
        self.written_at = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self.file is not None:
            os.close(self.file)
            self.file = None


def journal_lines(store: JobStore, index: int) -> Iterator[bytes]:
    """Every answer that was kept of a shard, oldest file first."""
    folder = store.shard(index)
    try:
        names = fresh(folder).fs.ls(folder.path, detail=False)
    except FileNotFoundError:
        return
    for name in sorted(name.rpartition("/")[2] for name in names):
        if name.startswith("answers-") and name.endswith(".jsonl"):
            with open_blocks(store.shard(index, name)) as lines:
                yield from (line.rstrip(b"\n") for line in lines if not line.isspace())
