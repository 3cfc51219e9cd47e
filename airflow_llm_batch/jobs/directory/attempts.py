"""A shard's tries: each create claimed before it is sent, and what became of it; and the upload that they share."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.file_facts import modified_at
from airflow_llm_batch.models import Batch, Created, Intent, Void, is_call
from airflow_llm_batch.storage import create_exclusive, find_files, read_small, remove, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.store import JobStore, M
    from airflow_llm_batch.models import Job

ShardState = Literal["planned", "creating", "running", "ended"]
#: how a shard ended that was given up before there was room for it
NEVER_SENT = Batch(
    id="",
    status="never sent",
    outcome="cancelled",
    errors=(("never_sent", "The vendor's queue had no room for this row's shard before the deadline; not billed."),),
)
FILE = re.compile(r".*/shards/(\d{5})/(.+)")
FACT = re.compile(r"try-(\d+)/(intent|created|void|ended)\.json")
UPLOADED = "uploaded.json"
ANSWERS = "answers-"


class Attempts:
    """The tries of one shard.

    Which facts there are is listed anew for each question, unless they are those of one moment. What a fact says never
    changes and is read once.

    :param listed: the names of the shard's files at one moment, which this process's own are added to.
    """

    def __init__(self, store: JobStore, index: int, listed: set[str] | None = None) -> None:
        self.store, self.index, self.listed = store, index, listed

    def path(self, number: int, fact: str) -> ObjectStoragePath:
        return self.store.shard(self.index, f"try-{number}", f"{fact}.json")

    def names(self) -> set[str]:
        """The names of the shard's files, below its folder."""
        if self.listed is not None:
            return self.listed
        return names_by_shard(find_files(self.store.shard(self.index))).get(self.index, set())

    def now(self) -> Attempts:
        """The tries as they are at this moment, for several questions."""
        return Attempts(self.store, self.index, self.names())

    def tries(self) -> dict[int, set[str]]:
        """The facts that there are of each try."""
        return tries_of(self.names())

    def last(self) -> int:
        """The number of the newest create that was claimed, 0 for none."""
        return last_of(self.tries())

    def begin(self, intent: Intent, number: int = 1) -> bool:
        """Claim a create; True for exactly one caller, ever."""
        ours = intent.model_copy(update={"token": uuid.uuid4().hex})
        won = create_exclusive(self.path(number, "intent"), ours.dump())
        self._note(number, "intent", ours if won else None)
        return won

    def clear(self, number: int) -> None:
        """Take away what there is of a try that nobody had claimed: the wait for a job whose directory was removed has
        written it there since, and it is no news of this one's batch."""
        for fact in ("ended", "void"):
            if f"try-{number}/{fact}.json" in self.names():
                remove(self.path(number, fact))

    def intent(self, number: int) -> Intent:
        """A claim. One that was cut off while it was written still is one, of unknown owner, at the file's time."""
        try:
            if intent := self._read(number, "intent", Intent):
                return intent
        except ConfigurationError:
            pass
        return Intent(at=modified_at(self.path(number, "intent")) or self.store.job().created_at)

    def uploaded(self) -> str | None:
        """The vendor's input file, None before it was uploaded."""
        if self.listed is not None and UPLOADED not in self.listed:
            return None
        data = read_small(self.store.shard(self.index, UPLOADED))
        return msgspec.json.decode(data)["ref"] if data else None

    def save_uploaded(self, ref: str) -> None:
        write_whole(self.store.shard(self.index, UPLOADED), msgspec.json.encode({"ref": ref}))

    def forget_uploaded(self) -> None:
        """The vendor has not, or does not take, the input file: the next try uploads another."""
        remove(self.store.shard(self.index, UPLOADED))

    def own(self, batch_id: str) -> bool:
        """Take a batch for this shard; False for one that is another shard's: a batch belongs to one, ever."""
        name = hashlib.sha256(batch_id.encode()).hexdigest()[:32]
        path = self.store.path("batches", f"{name}.json")
        ours = msgspec.json.encode({"batch": batch_id, "shard": self.index})
        return create_exclusive(path, ours) or read_small(path) in (ours, b"", None)

    def is_creating(self) -> bool:
        """Whether a create was claimed and nothing is known of what came of it."""
        facts = newest(self.tries())
        return bool(facts) and not facts & {"void", "created"}

    def created(self) -> Created | None:
        """The shard's batch, None while it has none."""
        tries = self.tries()
        facts = newest(tries)
        if "void" in facts or "created" not in facts:
            return None
        return self._read(last_of(tries), "created", Created)

    def save_created(self, created: Created, number: int) -> None:
        write_whole(self.path(number, "created"), created.dump())
        self._note(number, "created", created)

    def void(self, number: int) -> Void | None:
        """Why no batch of ours came of a try, None when one did or may have."""
        return self._read(number, "void", Void)

    def save_void(self, number: int, void: Void) -> None:
        write_whole(self.path(number, "void"), void.dump())
        self._note(number, "void", void)

    def ended(self) -> Batch | None:
        """The shard's batch as it ended, None while it has not. A shard that was given up unsent has an empty one."""
        tries = self.tries()
        number, facts = last_of(tries), newest(tries)
        if "void" in facts and (void := self.void(number)):
            return NEVER_SENT if void.reason == "given up" else None
        return self._read(number, "ended", Batch) if "ended" in facts else None

    def save_ended(self, batch: Batch, number: int | None = None) -> None:
        """Write down how a batch ended.

        :param number: its try, looked for where it is not known.
        """
        if number := number or self.batches().get(batch.id):
            write_whole(self.path(number, "ended"), batch.dump())
            self._note(number, "ended", batch)

    def keep_answers(self, lines: Sequence[bytes]) -> None:
        """Put these lines in the place of all that calls have answered so far."""
        old = [name for name in self.names() if name.startswith(ANSWERS)]
        # First what is kept: a line that is there twice is the same answer.
        if lines:
            write_whole(self.store.shard(self.index, answers_name()), b"\n".join([*lines, b""]))
        for name in old:
            remove(self.store.shard(self.index, name))

    def forget_calls(self) -> None:
        """Take away what was called of a shard, as if it had never been begun; nothing of one that is a batch."""
        created = self.created()
        if created is None or not is_call(created.batch_id):
            return
        self.keep_answers([])
        for fact in ("ended", "created", "intent"):
            remove(self.path(self.last(), fact))

    def batches(self) -> dict[str, int]:
        """Every batch that was ever taken for the shard's, void or not, and its try."""
        numbers = sorted(number for number, facts in self.tries().items() if "created" in facts)
        found = ((self._read(number, "created", Created), number) for number in numbers)
        return {created.batch_id: number for created, number in found if created is not None}

    def voids(self) -> dict[int, Void]:
        """The tries that made no batch of ours, newest first."""
        numbers = sorted((number for number, facts in self.tries().items() if "void" in facts), reverse=True)
        return {number: void for number in numbers if (void := self.void(number)) is not None}

    def strangers(self) -> set[str]:
        """Batches that were taken for the shard's and are known not to be."""
        return {batch_id for void in self.voids().values() for batch_id in void.strangers}

    def refusals(self) -> list[Void]:
        """The tries that found no room since the shard was last in the queue, newest first."""
        tries = self.tries()
        voids: list[Void] = []
        for number in range(last_of(tries), 0, -1):
            void = self.void(number) if "void" in tries.get(number, ()) else None
            if void is None or void.reason != "no room":
                break
            voids.append(void)
        return voids

    def _read(self, number: int, fact: str, model: type[M]) -> M | None:
        """A fact, None when it is not there; one that was read, or written, is not read again."""
        name = f"try-{number}/{fact}.json"
        if self.listed is not None and name not in self.listed:
            return None
        key = f"{self.index}/{name}"
        known = self.store.facts.get(key)
        if known is None and (read := self.store.read(self.path(number, fact), model)) is not None:
            known = self.store.facts[key] = read
        return cast("M | None", known)

    def _note(self, number: int, fact: str, value: Batch | Created | Intent | Void | None) -> None:
        """Remember a fact that is there now; None where it is somebody else's."""
        name = f"try-{number}/{fact}.json"
        if self.listed is not None:
            self.listed.add(name)
        if value is not None:
            self.store.facts[f"{self.index}/{name}"] = value


class Listing:
    """Which files a job's shards had at one moment.

    Good for what is looked at together; whoever wants to know what has happened since lists anew.
    """

    def __init__(self, store: JobStore, paths: Iterable[str]) -> None:
        self.store = store
        self.files = names_by_shard(paths)

    def attempts(self, index: int) -> Attempts:
        """A shard's tries as they were then."""
        return Attempts(self.store, index, self.files.setdefault(index, set()))

    def states(self, job: Job) -> dict[int, ShardState]:
        return {shard.index: state_of(tries_of(self.files.get(shard.index, ()))) for shard in job.shards}


def states(job: Job, paths: Iterable[str]) -> dict[int, ShardState]:
    """Every shard's state, from the names of the files in its job's directory."""
    files = names_by_shard(paths)
    return {shard.index: state_of(tries_of(files.get(shard.index, ()))) for shard in job.shards}


def answers_name(number: int = 0, token: str = "") -> str:
    """A file of answers: in the order of their names they are in that of their tries.

    :param token: of one writer, a new one by default.
    """
    return f"{ANSWERS}{token or answers_token()}-{number:05d}.jsonl"


def answers_token() -> str:
    return f"{time.time_ns() // 10**6:013d}-{uuid.uuid4().hex[:8]}"


def names_by_shard(paths: Iterable[str]) -> dict[int, set[str]]:
    """Shard -> the names of its files, below its folder."""
    found: dict[int, set[str]] = {}
    for path in paths:
        if match := FILE.fullmatch(path):
            found.setdefault(int(match[1]), set()).add(match[2])
    return found


def tries_of(names: Iterable[str]) -> dict[int, set[str]]:
    """Try -> the facts that there are of it, of those tries that were claimed."""
    tries: dict[int, set[str]] = {}
    for match in filter(None, map(FACT.fullmatch, names)):
        tries.setdefault(int(match[1]), set()).add(match[2])
    return {number: facts for number, facts in tries.items() if "intent" in facts}


def last_of(tries: dict[int, set[str]]) -> int:
    return max(tries, default=0)


def newest(tries: dict[int, set[str]]) -> set[str]:
    """What there is of the newest try."""
    return tries.get(last_of(tries), set())


def state_of(tries: dict[int, set[str]]) -> ShardState:
    """A shard's state from the facts that there are of its tries."""
    facts = newest(tries)
    if not facts or "void" in facts:
        return "planned"
    return "ended" if "ended" in facts else "running" if "created" in facts else "creating"
