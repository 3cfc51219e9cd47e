"""Lines to the files of shards, cut where the next line would be one too many."""

from __future__ import annotations

import uuid
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from airflow_llm_batch.blocks import CHUNK
from airflow_llm_batch.jobs.money.tokens import EMBEDDINGS
from airflow_llm_batch.jobs.planning.lines import Line
from airflow_llm_batch.models import Limits, Shard
from airflow_llm_batch.storage import WholeFile

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.store import JobStore

Group = tuple[str, str]
#: bytes of the keys and columns of one shard's rows: whoever lands it has them on its disk
MOST_ENTRIES = 256 * 2**20
#: lanes of rows that somebody is asked
ASKED = frozenset({"batch", "online"})
#: the first index of shards that nobody is asked: those that are count from 0
SPARED_FROM = 1_000_000


class ShardFile:
    """A shard while lines are added to it. Its last lines, as many as a batch has at least, are held back: the shard
    after it may come out too small, and then gets them."""

    def __init__(
        self, store: JobStore, index: int, group: Group, limits: Limits, token: str, lane: str = "batch"
    ) -> None:
        self.index, self.group, self.limits, self.token, self.lane = index, group, limits, token, lane
        self.store = store
        self.files = [WholeFile(store.requests(index, token)), WholeFile(store.rows(index, token))]
        self.requests, self.entries, self.contents = bytearray(), bytearray(), bytearray()
        self.held: deque[Line] = deque()
        self.rows = self.inputs = self.tokens = self.size = self.kept = self.crc32 = 0
        self.most_tokens = inf if limits.tokens is None else limits.tokens
        inputs = limits.embedding_inputs if group[0] == EMBEDDINGS else None
        self.most_inputs = inf if inputs is None else inputs

    def add(self, line: Line) -> bool:
        """Take a line; False when it is one too many. The first always fits."""
        rows, size = self.rows + 1, self.size + len(line.request)
        tokens, inputs = self.tokens + line.tokens, self.inputs + line.kind.inputs
        limits = self.limits
        if self.rows and (
            rows > limits.requests
            or size > limits.bytes
            or self.kept + len(line.entry) > MOST_ENTRIES
            or tokens > self.most_tokens
            or inputs > self.most_inputs
        ):
            return False
        self.rows, self.size, self.tokens, self.inputs = rows, size, tokens, inputs
        self.kept += len(line.entry)
        if limits.minimum:
            self.held.append(line)
            if len(self.held) <= limits.minimum:
                return True
            line = self.held.popleft()
        self._write(line)
        return True

    def _write(self, line: Line) -> None:
        self.requests += line.request
        self.entries += line.entry
        if line.content:
            self.contents += line.content + b"\n"
        if len(self.requests) >= CHUNK or len(self.entries) >= CHUNK:
            self.flush()

    def give_to(self, other: ShardFile) -> None:
        """Make one that is too small large enough, as far as this one can spare lines and they fit."""
        lines = [*other.held]
        while other.rows < self.limits.minimum < self.rows and self.held:
            line = self.held[-1]
            if not other.add(line):
                break
            other.held.pop()
            self.held.pop()
            self.rows, self.size, self.kept = self.rows - 1, self.size - len(line.request), self.kept - len(line.entry)
            self.tokens, self.inputs = self.tokens - line.tokens, self.inputs - line.kind.inputs
            lines.insert(0, line)
        other.held = deque(lines)

    def flush(self) -> None:
        self.crc32 = zlib.crc32(self.requests, self.crc32)
        if self.contents and len(self.files) == 2:
            self.files.append(WholeFile(self.store.asked(self.index, self.token)))
        for file, lines in zip(self.files, (self.requests, self.entries, self.contents), strict=False):
            file.write(lines)
            lines.clear()

    def finish(self, job_id: str, metadata: Mapping[str, str]) -> Shard:
        while self.held:
            self._write(self.held.popleft())
        self.flush()
        for file in self.files:
            file.commit()
        return Shard(
            index=self.index,
            key=f"{job_id}-{self.index}-{self.crc32:08x}",
            token=self.token,
            endpoint=self.group[0],
            model=self.group[1],
            rows=self.rows,
            bytes=self.size,
            tokens=self.tokens,
            crc32=self.crc32,
            metadata=dict(metadata),
            lane=self.lane,
        )

    def discard(self) -> None:
        for file in self.files:
            file.discard()


class Cutter:
    """A job's shards while its lines come in.

    :param limits: of one shard.
    :param metadata: what the vendor is to keep with every batch.
    :ivar full: shards that are full, each as long as the one after it may come out too small.
    """

    def __init__(self, store: JobStore, limits: Limits, metadata: Mapping[str, str]) -> None:
        self.store, self.limits, self.metadata = store, limits, metadata
        # Rows that are called, or not asked at all, are no batch, and never too few for one.
        self.called = limits.model_copy(update={"minimum": 0})
        self.token = uuid.uuid4().hex[:8]
        self.indices, self.spared_indices = count(), count(SPARED_FROM)
        self.finished: list[Shard] = []
        #: of rows that nobody is asked
        self.spared: list[Shard] = []
        #: in lanes of their own: rows that are tried first, and those that nobody is asked
        self.beside: dict[tuple[str, Group], ShardFile] = {}
        self.opened: dict[Group, ShardFile] = {}
        self.full: dict[Group, ShardFile] = {}

    def add(self, line: Line) -> None:
        """Put a line into the open shard of its kind, or the next one."""
        group = line.kind.group
        file = self.opened.get(group)
        if file is not None and file.add(line):
            return
        if before := self.full.pop(group, None):
            self._finish(before)
        if file is not None and self.limits.minimum:
            self.full[group] = file
        elif file is not None:
            self._finish(self.opened.pop(group))
        file = self.opened[group] = ShardFile(self.store, next(self.indices), group, self.limits, self.token)
        file.add(line)

    def add_beside(self, line: Line) -> None:
        """Put a line into a shard of its lane."""
        place = line.lane, line.kind.group
        file = self.beside.get(place)
        if file is None or not file.add(line):
            if file is not None:
                self._finish(self.beside.pop(place))
            group = line.kind.group
            index = next(self.indices if line.lane in ASKED else self.spared_indices)
            file = ShardFile(self.store, index, group, self.called, self.token, line.lane)
            self.beside[place] = file
            file.add(line)

    def _finish(self, file: ShardFile) -> None:
        shards = self.finished if file.lane in ASKED else self.spared
        shards.append(file.finish(self.store.job_id, self.metadata))

    def finish(self) -> list[Shard]:
        """All shards that are asked, in order; ``spared`` has the others."""
        for group, before in self.full.items():
            before.give_to(self.opened[group])
        for file in (*self.beside.values(), *self.full.values(), *self.opened.values()):
            self._finish(file)
        for files in (self.beside, self.full, self.opened):
            files.clear()
        self.spared.sort(key=lambda shard: shard.index)
        return sorted(self.finished, key=lambda shard: shard.index)

    def discard(self) -> None:
        for file in (*self.beside.values(), *self.full.values(), *self.opened.values()):
            file.discard()
        remove_files(self.store, [*self.finished, *self.spared])


def remove_files(store: JobStore, shards: list[Shard]) -> None:
    """Take away the files of a plan that was not published."""
    for shard in shards:
        for path in (store.requests, store.rows, store.asked):
            with suppress(OSError):
                path(shard.index, shard.token).unlink()
