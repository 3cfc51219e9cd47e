"""Encoded lines to shards cut at the provider's limits, and to their files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airflow_llm_batch.data.kinds import Kinds
from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.jobs.money.tokens import Kind
from airflow_llm_batch.jobs.options import NO_REUSE, NOT_TRIED, First, Reuse
from airflow_llm_batch.jobs.planning.cutter import Cutter
from airflow_llm_batch.jobs.planning.lines import Line
from airflow_llm_batch.jobs.planning.sparing import spared
from airflow_llm_batch.jobs.reuse.buckets import HashBuckets
from airflow_llm_batch.models import Limits, Rules, Shard

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

    def rules(self, checks: Sequence[str] | None) -> Rules:
        """What their answers have to pass.

        :param checks: as they were given, None where nothing was said.
        """

    def lines(self, provider: Provider, job_id: str, kinds: Kinds, stable: bool = True) -> Iterator[Line]:
        """Every row encoded; the same each time.

        :param stable: whether their digests are compared with those of other jobs, or kept.
        """

    def check_keys(self) -> None:
        """:raises InputError: for keys that are not unique beyond these rows; after all of ``lines`` were taken."""

    def facts(self, kinds: Kinds) -> dict[str, Any]:
        """The job's fields that they tell."""


#: bytes of requests that are worth trying one first, however few rows they are; no more are held in memory
WORTH = 8 * 2**20


class Written(NamedTuple):
    """The shard files of a job: the shards in order, those that nobody is asked, the fingerprint of all rows, the
    expected use, that of rows that are tried first, what keys and pass-through columns hold, whether a request embeds
    several texts, and how many rows ask the same as another one, though each is asked."""

    shards: list[Shard]
    spared: list[Shard]
    fingerprint: str
    use: dict[str, Estimate]
    tried: dict[str, Estimate]
    kinds: Kinds
    several_vectors: bool
    alike: int


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


def write_shards(
    spec: Rows,
    provider: Provider,
    store: JobStore,
    metadata: Mapping[str, str],
    limits: Limits | None = None,
    report: Callable[[int], Any] = lambda rows: None,
    first: First = NOT_TRIED,
    reuse: Reuse = NO_REUSE,
) -> Written:
    """Write the job's shard files.

    :param metadata: what the vendor is to keep with every batch.
    :param limits: of one shard; the provider's by default.
    :param report: told how many rows were added, every thousand of them.
    :param first: the rows that get shards of their own, to be called before the others are sent.
    :param reuse: whether some need not be asked.
    """
    use, tried, kinds = Use(), Use(), Kinds(spec.passthrough)
    cutter = Cutter(store, limits or provider.limits, metadata)
    # Of all rows in their order: how they are cut into shards, and which of them are asked, changes nothing.
    fingerprint = hashlib.sha256(f"{provider.name}{spec.identity}".encode())
    most_inputs = 1

    def to_ask(lines: Iterator[Line]) -> Iterator[Line]:
        """The lines that somebody is asked; the others have their place then."""
        nonlocal most_inputs
        for line in lines:
            if line.lane == "batch":
                yield line
            else:
                most_inputs = max(most_inputs, line.kind.inputs)
                cutter.add_beside(line)

    with HashBuckets() as hashes:
        try:
            lines = noted(spec.lines(provider, store.job_id, kinds, reuse.is_wanted), fingerprint, hashes, report)
            if reuse.is_wanted:
                lines = to_ask(spared(lines, hashes, reuse))
            head, lines = taken_first(lines, first, cutter.limits.minimum)
            for line in head:
                line.lane = "online"
                cutter.add_beside(line)
                tried.add(line)
            for line in lines:
                cutter.add(line)
                use.add(line)
            shards = cutter.finish()
            spec.check_keys()
        except BaseException:
            cutter.discard()
            raise
        alike = 0 if reuse.is_wanted else hashes.repeated()
    several = any(kind.inputs > 1 for kind in (*use.kinds, *tried.kinds)) or most_inputs > 1
    used = use.estimates(), tried.estimates()
    return Written(shards, cutter.spared, fingerprint.hexdigest(), *used, kinds, several, alike)


def noted(lines: Iterator[Line], fingerprint: Any, hashes: HashBuckets, report: Callable[[int], Any]) -> Iterator[Line]:
    """Lines passed on and taken note of."""
    for number, line in enumerate(lines, 1):
        fingerprint.update(line.request)
        fingerprint.update(line.entry)
        hashes.add_digest(line.digest, line.row)
        yield line
        if number % 1000 == 0:
            report(1000)


def taken_first(lines: Iterator[Line], first: First, minimum: int) -> tuple[list[Line], Iterator[Line]]:
    """The lines that are tried first, none of a job that is too small for it; and those that are left.

    :param minimum: lines that a batch has at least: so many are left of each kind that is tried.
    """
    held: list[Line] = []
    size, least = 0, max(first.least, first.rows + max(minimum, 1))
    while first.rows and len(held) < least and (size < WORTH or len(held) <= first.rows):
        line = next(lines, None)
        if line is None:
            return [], iter(held)
        held.append(line)
        size += len(line.request)
    left = Counter(line.kind.group for line in held[first.rows :])
    if any(left[line.kind.group] < minimum for line in held[: first.rows]):
        return [], chain(held, lines)
    return held[: first.rows], chain(held[first.rows :], lines)


def too_small(shards: Sequence[Shard], provider: Provider) -> str | None:
    """Why some shards cannot be sent as batches, None where all can."""
    least = provider.limits.minimum
    rows = min((shard.rows for shard in shards if not shard.is_tried), default=0 if shards else least)
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
    return all(shard.rows < provider.limits.minimum for shard in shards if not shard.is_tried)


def fingerprint_of(spec: Rows, provider: Provider, job_id: str) -> str:
    """The fingerprint ``write_shards`` would return, without writing anything."""
    fingerprint = hashlib.sha256(f"{provider.name}{spec.identity}".encode())
    for line in spec.lines(provider, job_id, Kinds(spec.passthrough), stable=False):
        fingerprint.update(line.request)
        fingerprint.update(line.entry)
    return fingerprint.hexdigest()
