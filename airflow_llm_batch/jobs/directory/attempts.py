"""A shard's tries: each create claimed before it is sent, and what became of it; and the upload that they share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import msgspec

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.models import Batch, Created, Intent, Void
from airflow_llm_batch.storage import create_exclusive, modified_at, read_small, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job

ShardState = Literal["planned", "creating", "running", "ended"]
#: how a shard ended that was given up before there was room for it
NEVER_SENT = Batch(
    id="",
    status="never sent",
    outcome="cancelled",
    errors=(("never_sent", "The vendor's queue had no room for this row's shard before the deadline; not billed."),),
)
FACT = re.compile(r"/shards/(\d{5})/try-(\d+)/(intent|created|void|ended)\.json$")


class Attempts:
    """The tries of one shard."""

    def __init__(self, store: JobStore, index: int) -> None:
        self.store, self.index = store, index

    def path(self, number: int, fact: str) -> ObjectStoragePath:
        return self.store.shard(self.index, f"try-{number}", f"{fact}.json")

    def last(self) -> int:
        """The number of the newest create that was claimed, 0 for none."""
        number = 0
        while read_small(self.path(number + 1, "intent")) is not None:
            number += 1
        return number

    def begin(self, intent: Intent, number: int = 1) -> bool:
        """Claim a create; True for exactly one caller, ever."""
        return create_exclusive(self.path(number, "intent"), intent.dump())

    def intent(self, number: int) -> Intent:
        """A claim. One that was cut off while it was written still is one, of unknown owner, at the file's time."""
        path = self.path(number, "intent")
        try:
            if intent := self.store.read(path, Intent):
                return intent
        except ConfigurationError:
            pass
        return Intent(at=modified_at(path) or self.store.job().created_at)

    def uploaded(self) -> str | None:
        """The vendor's input file, None before it was uploaded."""
        data = read_small(self.store.shard(self.index, "uploaded.json"))
        return msgspec.json.decode(data)["ref"] if data else None

    def save_uploaded(self, ref: str) -> None:
        write_whole(self.store.shard(self.index, "uploaded.json"), msgspec.json.encode({"ref": ref}))

    def forget_uploaded(self) -> None:
        """The vendor has not, or does not take, the input file: the next try uploads another."""
        self.store.shard(self.index, "uploaded.json").unlink(missing_ok=True)

    def own(self, batch_id: str) -> bool:
        """Take a batch for this shard; False for one that is another shard's: a batch belongs to one, ever."""
        name = hashlib.sha256(batch_id.encode()).hexdigest()[:32]
        path = self.store.path("batches", f"{name}.json")
        ours = msgspec.json.encode({"batch": batch_id, "shard": self.index})
        return create_exclusive(path, ours) or read_small(path) in (ours, b"", None)

    def is_creating(self) -> bool:
        """Whether a create was claimed and nothing is known of what came of it."""
        number = self.last()
        return bool(number) and self.void(number) is None and self.created() is None

    def created(self) -> Created | None:
        """The shard's batch, None while it has none."""
        number = self.last()
        if not number or self.void(number) is not None:
            return None
        return self.store.read(self.path(number, "created"), Created)

    def save_created(self, created: Created, number: int) -> None:
        write_whole(self.path(number, "created"), created.dump())

    def void(self, number: int) -> Void | None:
        """Why no batch of ours came of a try, None when one did or may have."""
        return self.store.read(self.path(number, "void"), Void)

    def save_void(self, number: int, void: Void) -> None:
        write_whole(self.path(number, "void"), void.dump())

    def ended(self) -> Batch | None:
        """The shard's batch as it ended, None while it has not. A shard that was given up unsent has an empty one."""
        number = self.last()
        if void := self.void(number):
            return NEVER_SENT if void.reason == "given up" else None
        return self.store.read(self.path(number, "ended"), Batch)

    def save_ended(self, batch: Batch) -> None:
        if number := self.batches().get(batch.id):
            write_whole(self.path(number, "ended"), batch.dump())

    def batches(self) -> dict[str, int]:
        """Every batch that was ever taken for the shard's, void or not, and its try."""
        numbers = range(1, self.last() + 1)
        found = ((self.store.read(self.path(number, "created"), Created), number) for number in numbers)
        return {created.batch_id: number for created, number in found if created is not None}

    def strangers(self) -> set[str]:
        """Batches that were taken for the shard's and are known not to be."""
        voids = (self.void(number) for number in range(1, self.last() + 1))
        return {batch_id for void in voids if void for batch_id in void.strangers}

    def refusals(self) -> list[Void]:
        """The tries that found no room since the shard was last in the queue, newest first."""
        voids = (self.void(number) for number in range(self.last(), 0, -1))
        return list(takewhile(lambda void: void is not None and void.reason == "no room", voids))  # type: ignore[arg-type]


def states(job: Job, paths: Iterable[str]) -> dict[int, ShardState]:
    """Every shard's state, from the names of the files in its job's directory."""
    found: dict[int, dict[int, set[str]]] = {}
    for path in paths:
        if match := FACT.search(path):
            found.setdefault(int(match[1]), {}).setdefault(int(match[2]), set()).add(match[3])
    return {shard.index: state_of(found.get(shard.index, {})) for shard in job.shards}


def state_of(tries: dict[int, set[str]]) -> ShardState:
    """A shard's state from the facts that are known of its tries."""
    claimed = [number for number, facts in tries.items() if "intent" in facts]
    facts = tries[max(claimed)] if claimed else set()
    if not facts or "void" in facts:
        return "planned"
    return "ended" if "ended" in facts else "running" if "created" in facts else "creating"
