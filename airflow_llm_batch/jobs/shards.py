"""Encoded lines to shards cut at the provider's limits, and to their files."""

from __future__ import annotations

import hashlib
import uuid
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

    def __init__(self, store: JobStore, index: int, group: tuple[str, str], token: str) -> None:
        self.index, self.group, self.token = index, group, token
        self.files = WholeFile(store.requests(index, token)), WholeFile(store.rows(index, token))
        self.requests, self.entries = bytearray(), bytearray()
        self.sha = hashlib.sha256()
        self.rows = self.inputs = self.tokens = self.size = 0

    def fits(self, line: Line, limits: Limits) -> bool:
        return (
            self.rows < limits.requests
            and self.size + len(line.request) <= limits.bytes
            and (limits.tokens is None or self.tokens + line.tokens <= limits.tokens)
            and not (
                limits.embedding_inputs
                and self.group[0] == "/v1/embeddings"
                and self.inputs + line.kind.inputs > limits.embedding_inputs
            )
        )

    def add(self, line: Line) -> None:
        self.requests += line.request
        self.entries += line.entry
        self.rows += 1
        self.size += len(line.request)
        self.tokens += line.tokens
        self.inputs += line.kind.inputs
        if len(self.requests) >= CHUNK or len(self.entries) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        self.sha.update(self.requests)
        for file, lines in zip(self.files, (self.requests, self.entries), strict=True):
            file.write(lines)
            lines.clear()

    def finish(self, job_id: str, metadata: Mapping[str, str]) -> Shard:
        self.flush()
        for file in self.files:
            file.commit()
        return Shard(
            index=self.index,
            key=f"{job_id}-{self.index}-{self.sha.hexdigest()[:8]}",
            token=self.token,
            endpoint=self.group[0],
            model=self.group[1],
            rows=self.rows,
            bytes=self.size,
            tokens=self.tokens,
            sha256=self.sha.hexdigest(),
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
            if file is not None and not file.fits(line, limits):
                finished.append(opened.pop(group).finish(store.job_id, metadata))
                file = None
            if file is None:
                file = opened[group] = ShardFile(store, len(finished) + len(opened), group, token)
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
