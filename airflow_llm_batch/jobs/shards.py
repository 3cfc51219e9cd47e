"""Encoded lines to shards cut at the provider's limits, and to their files."""

from __future__ import annotations

import hashlib
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_llm_batch.jobs.encoding import Line, RowSpec, encode_rows
from airflow_llm_batch.models import Estimate, Limits, Shard
from airflow_llm_batch.storage import CHUNK, WholeFile

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.store import JobStore
    from airflow_llm_batch.providers.base import Provider


class Written(NamedTuple):
    """The shard files of a job: the shards in order, the fingerprint of all that would be sent, the expected use."""

    shards: list[Shard]
    fingerprint: str
    use: dict[str, Estimate]


class Use:
    """What is expected to be used, summed by model."""

    def __init__(self) -> None:
        self.models: dict[str, list[int]] = {}
        self.uncapped: set[str] = set()

    def add(self, line: Line) -> None:
        kind = line.kind
        use = self.models.get(kind.model)
        if use is None:
            use = self.models[kind.model] = [0, 0, 0]
        use[0] += 1
        use[1] += line.tokens
        if kind.cap is None:
            self.uncapped.add(kind.model)
        else:
            use[2] += kind.cap

    def estimates(self) -> dict[str, Estimate]:
        return {
            model: Estimate(requests=n, input_tokens=read, output_tokens=None if model in self.uncapped else written)
            for model, (n, read, written) in self.models.items()
        }


class ShardFile:
    """A shard while lines are added to it."""

    def __init__(self, store: JobStore, index: int, group: tuple[str, str], limits: Limits, token: str) -> None:
        self.index, self.group, self.limits, self.token = index, group, limits, token
        self.embeddings = group[0] == "/v1/embeddings"
        self.files = WholeFile(store.requests(index, token)), WholeFile(store.rows(index, token))
        self.requests, self.entries = bytearray(), bytearray()
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
        self.requests += line.request
        self.entries += line.entry
        if len(self.requests) >= CHUNK or len(self.entries) >= CHUNK:
            self.flush()
        return True

    def flush(self) -> None:
        self.crc32 = zlib.crc32(self.requests, self.crc32)
        for file, lines in zip(self.files, (self.requests, self.entries), strict=True):
            file.write(lines)
            lines.clear()

    def finish(self, job_id: str, metadata: Mapping[str, str]) -> Shard:
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


class Fingerprint:
    """Of everything that would be sent, in the order of the rows: how it is cut into shards changes nothing."""

    def __init__(self, provider: Provider) -> None:
        self.sha = hashlib.sha256(provider.name.encode())

    def over(self, lines: Iterable[Line]) -> Iterator[Line]:
        update = self.sha.update
        for line in lines:
            update(line.request)
            update(line.entry)
            yield line


def write_shards(
    spec: RowSpec,
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
    token = uuid.uuid4().hex[:8]
    limits = limits or provider.limits
    fingerprint, use = Fingerprint(provider), Use()
    try:
        for count, line in enumerate(fingerprint.over(encode_rows(spec, provider, store.job_id)), 1):
            group = line.kind.group
            file = opened.get(group)
            if file is None or not file.add(line):
                if file is not None:
                    finished.append(opened.pop(group).finish(store.job_id, metadata))
                file = opened[group] = ShardFile(store, len(finished) + len(opened), group, limits, token)
                file.add(line)
            use.add(line)
            if count % 1000 == 0:
                report(1000)
        while opened:
            finished.append(opened.pop(next(iter(opened))).finish(store.job_id, metadata))
    except BaseException:
        for file in opened.values():
            file.discard()
        remove_files(store, finished)
        raise
    shards = sorted(finished, key=lambda shard: shard.index)
    return Written(shards, fingerprint.sha.hexdigest(), use.estimates())


def remove_files(store: JobStore, shards: list[Shard]) -> None:
    """Take away the files of a plan that was not published."""
    for shard in shards:
        for path in (store.requests(shard.index, shard.token), store.rows(shard.index, shard.token)):
            with suppress(OSError):
                path.unlink()


def fingerprint_of(spec: RowSpec, provider: Provider, job_id: str) -> str:
    """The fingerprint ``write_shards`` would return, without writing anything."""
    fingerprint = Fingerprint(provider)
    for _ in fingerprint.over(encode_rows(spec, provider, job_id)):
        pass
    return fingerprint.sha.hexdigest()
