"""Encoded lines to shards cut at the provider's limits, and to their files."""

from __future__ import annotations

import hashlib
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airflow_llm_batch.blocks import CHUNK
from airflow_llm_batch.data.kinds import Kinds
from airflow_llm_batch.jobs.money.tokens import EMBEDDINGS, Kind
from airflow_llm_batch.jobs.planning.encoding import Line
from airflow_llm_batch.models import Estimate, Limits, Shard
from airflow_llm_batch.storage import WholeFile

if TYPE_CHECKING:
    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.providers.base import Provider


class Rows(Protocol):
    """What a job is made of: rows that are asked for the first time (``RowSpec``), or once more (``Repair``)."""

    @property
    def passthrough(self) -> Mapping[str, str]: ...

    @property
    def request(self) -> RequestTemplate | None:
        """What they are asked, None for requests that are there already."""

    @property
    def identity(self) -> str:
        """What makes these rows others although the same is sent: the job they are taken from."""

    def check(self, provider: Provider) -> None:
        """:raises LLMBatchError: when they cannot be asked, whatever the rows are."""

    def lines(self, provider: Provider, job_id: str, kinds: Kinds) -> Iterator[Line]:
        """Every row encoded; the same each time."""

    def facts(self, kinds: Kinds) -> dict[str, Any]:
        """The job's fields that they tell."""


class Written(NamedTuple):
    """The shard files of a job: the shards in order, the fingerprint of all that would be sent, the expected use, what
    keys and pass-through columns hold, and whether a request embeds several texts."""

    shards: list[Shard]
    fingerprint: str
    use: dict[str, Estimate]
    kinds: Kinds
    several_vectors: bool


class Use:
    """What is expected to be used, summed by kind of request: most jobs have one."""

    def __init__(self) -> None:
        #: requests, tokens of their prompts, and of the largest
        self.kinds: dict[Kind, list[int]] = {}
        self.kind: Kind | None = None
        self.sums = [0, 0, 0]

    def add(self, line: Line) -> None:
        if line.kind is not self.kind:
            self.kind = line.kind
            self.sums = self.kinds.setdefault(line.kind, [0, 0, 0])
        self.sums[0] += 1
        self.sums[1] += line.tokens
        if line.tokens > self.sums[2]:
            self.sums[2] = line.tokens

    def estimates(self) -> dict[str, Estimate]:
        """By model."""
        models: dict[str, Estimate] = {}
        for kind, (requests, tokens, largest) in self.kinds.items():
            use = models.setdefault(kind.model, Estimate(requests=0, input_tokens=0, output_tokens=0))
            use.requests += requests
            use.input_tokens += tokens
            use.largest = max(use.largest, largest)
            use.cache = max(use.cache, kind.cache, key=("", "5m", "1h").index)
            use.unknown = use.unknown or kind.unknown
            use.static = max(use.static, kind.static)
            capped = use.output_tokens is not None and kind.cap is not None
            use.output_tokens = use.output_tokens + requests * kind.cap if capped else None  # type: ignore[operator]
        return models


class ShardFile:
    """A shard while lines are added to it. Its last lines, as many as a batch has at least, are held back: the shard
    after it may come out too small, and then gets them."""

    def __init__(self, store: JobStore, index: int, group: tuple[str, str], limits: Limits, token: str) -> None:
        self.index, self.group, self.limits, self.token = index, group, limits, token
        self.embeddings = group[0] == EMBEDDINGS
        self.files = WholeFile(store.requests(index, token)), WholeFile(store.rows(index, token))
        self.requests, self.entries = bytearray(), bytearray()
        self.held: deque[Line] = deque()
        self.rows = self.inputs = self.tokens = self.size = self.crc32 = 0

    def add(self, line: Line) -> bool:
        """Take a line; False when it is one too many. The first always fits."""
        rows, size = self.rows + 1, self.size + len(line.request)
        tokens, inputs = self.tokens + line.tokens, self.inputs + line.kind.inputs
        limits = self.limits
        if self.rows and (
            rows > limits.requests
            or size > limits.bytes
            or (limits.tokens is not None and tokens > limits.tokens)
            or (self.embeddings and limits.embedding_inputs is not None and inputs > limits.embedding_inputs)
        ):
            return False
        self.rows, self.size, self.tokens, self.inputs = rows, size, tokens, inputs
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
            self.rows, self.size = self.rows - 1, self.size - len(line.request)
            self.tokens, self.inputs = self.tokens - line.tokens, self.inputs - line.kind.inputs
            lines.insert(0, line)
        other.held = deque(lines)

    def flush(self) -> None:
        self.crc32 = zlib.crc32(self.requests, self.crc32)
        for file, lines in zip(self.files, (self.requests, self.entries), strict=True):
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
        )

    def discard(self) -> None:
        for file in self.files:
            file.discard()


def write_shards(
    spec: Rows,
    provider: Provider,
    store: JobStore,
    metadata: Mapping[str, str],
    limits: Limits | None = None,
    report: Callable[[int], Any] = lambda rows: None,
) -> Written:
    """Write the job's shard files.

    :param metadata: what the vendor is to keep with every batch.
    :param limits: of one shard; the provider's by default.
    :param report: told how many rows were added, every thousand of them.
    """
    finished: list[Shard] = []
    opened: dict[tuple[str, str], ShardFile] = {}
    #: full ones, each as long as the one after it may come out too small
    full: dict[tuple[str, str], ShardFile] = {}
    indices = count()
    token = uuid.uuid4().hex[:8]
    limits = limits or provider.limits
    use, kinds = Use(), Kinds(spec.passthrough)
    # Of everything that is sent, in the order of the rows: how it is cut into shards changes nothing.
    fingerprint = hashlib.sha256(f"{provider.name}{spec.identity}".encode())
    try:
        for number, line in enumerate(spec.lines(provider, store.job_id, kinds), 1):
            fingerprint.update(line.request)
            fingerprint.update(line.entry)
            group = line.kind.group
            file = opened.get(group)
            if file is None or not file.add(line):
                if before := full.pop(group, None):
                    finished.append(before.finish(store.job_id, metadata))
                if file is not None and limits.minimum:
                    full[group] = file
                elif file is not None:
                    finished.append(opened.pop(group).finish(store.job_id, metadata))
                file = opened[group] = ShardFile(store, next(indices), group, limits, token)
                file.add(line)
            use.add(line)
            if number % 1000 == 0:
                report(1000)
        for group, before in full.items():
            before.give_to(opened[group])
        for files in (full, opened):
            while files:
                finished.append(files.pop(next(iter(files))).finish(store.job_id, metadata))
    except BaseException:
        for file in (*full.values(), *opened.values()):
            file.discard()
        remove_files(store, finished)
        raise
    shards = sorted(finished, key=lambda shard: shard.index)
    several = any(kind.inputs > 1 for kind in use.kinds)
    return Written(shards, fingerprint.hexdigest(), use.estimates(), kinds, several)


def too_small(shards: Sequence[Shard], provider: Provider) -> str | None:
    """Why some shards cannot be sent as batches, None where all can."""
    rows, least = min((shard.rows for shard in shards), default=0), provider.limits.minimum
    if rows >= least:
        return None
    why = f"A batch of this job has {rows:,} rows, and {provider.title} takes none of fewer than {least:,}."
    if not all_too_small(shards, provider):
        return f"{why} Others of its batches are large enough: give these rows a task of their own. Nothing was sent."
    return (
        f"{why} Add rows; or "
        'have so few called one by one, at the price of synchronous calls, with "small_batches": "online" in the '
        'connection\'s extra. If your quota says otherwise, set "limits": {"minimum": ...} there. Nothing was sent.'
    )


def all_too_small(shards: Sequence[Shard], provider: Provider) -> bool:
    """Whether none of them can be sent: only then may they be called instead, which costs more for each row."""
    return all(shard.rows < provider.limits.minimum for shard in shards)


def remove_files(store: JobStore, shards: list[Shard]) -> None:
    """Take away the files of a plan that was not published."""
    for shard in shards:
        for path in (store.requests(shard.index, shard.token), store.rows(shard.index, shard.token)):
            with suppress(OSError):
                path.unlink()


def fingerprint_of(spec: Rows, provider: Provider, job_id: str) -> str:
    """The fingerprint ``write_shards`` would return, without writing anything."""
    fingerprint = hashlib.sha256(f"{provider.name}{spec.identity}".encode())
    for line in spec.lines(provider, job_id, Kinds(spec.passthrough)):
        fingerprint.update(line.request)
        fingerprint.update(line.entry)
    return fingerprint.hexdigest()
