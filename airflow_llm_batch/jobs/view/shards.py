"""The batches of a job, one by one: from the names of their files and the last look's notes, and few files read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Lock
from typing import Any

from pydantic import BaseModel

from airflow_llm_batch.file_facts import modified
from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT, names_by_shard, tries_of
from airflow_llm_batch.jobs.view.files import FILES_AT_ONCE, RoundFiles
from airflow_llm_batch.jobs.waiting.decisions import seen_of
from airflow_llm_batch.models import Batch, Created, Fact, Shard, ShardProgress, Void, is_call
from airflow_llm_batch.storage import read_small, storage_path

#: facts of tries, by name
FACTS: dict[str, type[Fact]] = {"created": Created, "ended": Batch, "void": Void}
#: shards that are shown one by one, and facts that one look reads for them: the next look reads others
MOST_SHARDS, MOST_READ = 2000, 32
#: seconds by which a store's clock may be behind the one of whoever waits
SKEW = 5.0


class ShardView(BaseModel):
    """One vendor batch.

    :param state: ``planned``, ``creating``, ``running`` or ``ended``; ``status`` is the vendor's own word.
    :param tries: what became of the tries that made no batch: ``no room``, ``rejected``...
    :param is_tried: its rows were called before the others were sent.
    :param ended_at: when it was seen to have ended.
    """

    round: int
    index: int
    rows: int
    bytes: int
    tokens: int
    state: str
    batch_id: str | None = None
    status: str | None = None
    outcome: str | None = None
    succeeded: int | None = None
    failed: int | None = None
    planned_at: datetime
    created_at: datetime | None = None
    ended_at: datetime | None = None
    tries: list[str] = []
    is_tried: bool = False
    errors: list[str] = []
    console_url: str = ""


class Facts:
    """Facts that were read; they never change, and a page is drawn again every few seconds. For several threads."""

    def __init__(self, most: int = 20_000) -> None:
        self.known: OrderedDict[str, Any] = OrderedDict()
        self.most, self.lock = most, Lock()

    def get(self, uri: str) -> Any:
        with self.lock:
            return self.known.get(uri)

    def read(self, uris: Iterable[str]) -> None:
        """Read, side by side, facts that are not known; one that is cut off, or gone, stays unknown."""
        wanted = list(uris)
        with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-detail") as pool:
            read = list(pool.map(fact_at, wanted))
        with self.lock:
            self.known.update((uri, fact) for uri, fact in zip(wanted, read, strict=True) if fact is not None)
            while len(self.known) > self.most:
                self.known.popitem(last=False)


facts = Facts()


def fact_at(uri: str) -> Any:
    try:
        name = uri.rpartition("/")[2].removesuffix(".json")
        return FACTS[name].model_validate_json(read_small(storage_path(uri)) or b"")
    except ValueError:
        return None


def timeline(found: RoundFiles) -> list[ShardView]:
    """The shards of one round."""
    job = found.job
    assert job is not None
    states, names = found.states(), names_by_shard(f"/{name}" for name in found.files)
    ways = [Way(found, shard, states[shard.index], names.get(shard.index, set())) for shard in job.shards[:MOST_SHARDS]]
    unread = (uri for way in ways for uri in way.wanted() if facts.get(uri) is None)
    facts.read(uri for uri, _ in zip(unread, range(MOST_READ), strict=False))
    return [way.view() for way in ways]


class Way:
    """A shard's way through the vendor, as far as it is known.

    :param names: of its files.
    """

    def __init__(self, found: RoundFiles, shard: Shard, state: str, names: set[str]) -> None:
        self.found, self.shard, self.state = found, shard, state
        self.tries = dict(sorted(tries_of(names).items()))
        self.last = next(reversed(self.tries), 0)
        self.has = self.tries.get(self.last, set())
        self.created_at, self.ended_at = self._written_at("created"), self._written_at("ended")
        #: what the last look has seen of this try, and not of one before it
        self.seen = self._seen()

    def _seen(self) -> ShardProgress:
        progress = self.found.progress
        if progress is None or (self.created_at and progress.at + SKEW < self.created_at.timestamp()):
            return ShardProgress()
        return progress.shards.get(self.shard.index, ShardProgress())

    def _uri(self, number: int, fact: str) -> str:
        return f"{self.found.uri}/shards/{self.shard.index:05d}/try-{number}/{fact}.json"

    def _written_at(self, fact: str) -> datetime | None:
        """When a fact of the newest try was written, as far as its store tells."""
        info = self.found.files.get(f"shards/{self.shard.index:05d}/try-{self.last}/{fact}.json")
        return modified(info) if info is not None else None

    def wanted(self) -> list[str]:
        """The facts that have to be read, since nothing else tells of them."""
        wanted = [self._uri(number, "void") for number, names in self.tries.items() if "void" in names]
        if "void" in self.has:
            return wanted
        if "created" in self.has and (not self.seen.batch or self.created_at is None):
            wanted.append(self._uri(self.last, "created"))
        if "ended" in self.has and self.seen.outcome is None:
            wanted.append(self._uri(self.last, "ended"))
        return wanted

    def _fact(self, fact: str) -> Any:
        return facts.get(self._uri(self.last, fact)) if fact in self.has and "void" not in self.has else None

    def view(self) -> ShardView:
        job, shard, seen, state = self.found.job, self.shard, self.seen, self.state
        assert job is not None
        voids = [facts.get(self._uri(number, "void")) for number, names in self.tries.items() if "void" in names]
        created, batch = self._fact("created"), self._fact("ended")
        if "void" in self.has and voids[-1] is not None and voids[-1].reason == "given up":
            state, batch = "ended", NEVER_SENT
        if batch is not None:
            seen = seen_of(batch)
        made = "created" in self.has and "void" not in self.has
        batch_id = (created.batch_id if created else seen.batch or None) if made else None
        is_over = state == "ended"
        return ShardView(
            round=job.round,
            index=shard.index,
            rows=shard.rows,
            bytes=shard.bytes,
            tokens=shard.tokens,
            state=state,
            batch_id=batch_id,
            status=seen.status or None if made or batch else None,
            outcome=seen.outcome if is_over else None,
            succeeded=seen.succeeded,
            failed=seen.failed,
            planned_at=job.created_at,
            created_at=(created.at if created else self.created_at) if made else None,
            ended_at=self.ended_at if made and is_over else None,
            tries=[void.reason for void in voids if void is not None],
            is_tried=shard.is_tried and batch_id is not None and is_call(batch_id),
            errors=[f"{code}: {message}" for code, message in seen.errors] if is_over else [],
            console_url=job.console_url.format(id=batch_id)
            if batch_id and job.console_url and not is_call(batch_id)
            else "",
        )
