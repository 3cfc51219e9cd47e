"""The job directory: every fact about a job as a write-once file in object storage.

job.json                          the plan, the last file of planning
shards/00000/requests-{plan}.jsonl  the bytes that are sent
shards/00000/rows-{plan}.jsonl      row number, key and pass-through columns, a line per request
shards/00000/uploaded.json        the vendor's input file
shards/00000/try-1/intent.json    before the create   created.json  the vendor's id   ended.json  the end as told
progress.json                     the one mutable file
failed.jsonl                      landed rows that did not succeed: what a repair asks again, and people look at
manifest.json                     what was landed
shards/00000/answers-{try}.jsonl  what calls of the online lane have answered, as a batch would have
killed.json  cleaned.json  taken_over.json  notes: cancelled by hand, vendor files deleted, landed by a repair
round-2/                          the job of the next round; -1.2 beside -1 replaces it, -1~{model} is another model's
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.submission.room import Refusal
from airflow_llm_batch.models import Batch, Created, Failure, Intent, Job, Manifest, Void
from airflow_llm_batch.storage import create_exclusive, fresh, open_blocks, read_small, storage_path, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: begins the id of a shard that was called and not sent as a batch
ONLINE = "online-"
M = TypeVar("M", bound=BaseModel)
ShardState = Literal["planned", "creating", "running", "ended"]
VERSION = 1
NEVER_SENT = Batch(
    id="",
    status="never sent",
    outcome="cancelled",
    errors=(("never_sent", "The vendor's queue had no room for this row's shard before the deadline; not billed."),),
)
ATTEMPT = re.compile(r"/shards/(\d{5})/try-(\d+)/(intent|created|void|ended)\.json$")


def default_storage() -> str:
    """``[llm_batch] storage``, or a directory below AIRFLOW_HOME, which only suits a single machine."""
    import os

    from airflow.providers.common.compat.sdk import conf

    home = os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow")
    return conf.get("llm_batch", "storage", fallback=None) or f"file://{home}/llm_batch"


def job_uri(storage: str | None, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Where a task's job lives: the same for every try of one task instance."""
    return "/".join([(storage or default_storage()).rstrip("/"), dag_id, run_id, task_id, str(map_index)])


class JobStore:
    """One job directory.

    :param uri: any ``ObjectStoragePath`` URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.root = storage_path(self.uri)
        #: prefix of every custom_id: bound to the directory, so the same rows get the same ids again
        self.job_id = hashlib.sha256(self.uri.encode()).hexdigest()[:8]

    def path(self, *parts: str) -> ObjectStoragePath:
        return self.root.joinpath(*parts)

    def shard(self, index: int, *parts: str) -> ObjectStoragePath:
        return self.path("shards", f"{index:05d}", *parts)

    def requests(self, index: int, token: str) -> ObjectStoragePath:
        return self.shard(index, f"requests-{token}.jsonl")

    def rows(self, index: int, token: str) -> ObjectStoragePath:
        return self.shard(index, f"rows-{token}.jsonl")

    def attempt(self, index: int, number: int, name: str) -> ObjectStoragePath:
        return self.shard(index, f"try-{number}", name)

    def next_generation(self) -> JobStore:
        """Where the job goes that replaces this one in the same task instance: ``...`` then ``....2``, ``....3``."""
        base, _, number = self.uri.rpartition("/")
        instance, _, generation = number.partition(".")
        return JobStore(f"{base}/{instance}.{int(generation or 1) + 1}")

    def previous_generations(self) -> list[JobStore]:
        """The jobs that this one replaced, oldest first."""
        base, _, number = self.uri.rpartition("/")
        instance, _, generation = number.partition(".")
        names = [instance, *(f"{instance}.{n}" for n in range(2, int(generation or 1)))] if generation else []
        return [JobStore(f"{base}/{name}") for name in names]

    def load_job(self) -> Job | None:
        """The plan, None before planning has finished.

        :raises ConfigurationError: for one that a newer version of this package has made.
        """
        job = self._read(self.path("job.json"), Job)
        if job is not None and job.version > VERSION:
            raise ConfigurationError(
                f"The job at {self.uri} was planned by a newer airflow-provider-llm-batch (job.json version "
                f"{job.version}, this one reads {VERSION}). Install the same version everywhere; its batches are left "
                "as they are."
            )
        return job

    def job(self) -> Job:
        """The plan.

        :raises ConfigurationError: when there is none here.
        """
        if job := self.load_job():
            return job
        raise ConfigurationError(
            f"No job at {self.uri}: job.json is missing. Was it cleaned up, or does this worker see another storage "
            "than the one that submitted ([llm_batch] storage)?"
        )

    def save_job(self, job: Job) -> bool:
        """Publish the plan; False when another attempt has published one first."""
        return create_exclusive(self.path("job.json"), dump(job))

    def uploaded(self, index: int) -> str | None:
        data = read_small(self.shard(index, "uploaded.json"))
        return msgspec.json.decode(data)["ref"] if data else None

    def save_uploaded(self, index: int, ref: str) -> None:
        write_whole(self.shard(index, "uploaded.json"), msgspec.json.encode({"ref": ref}))

    def last_try(self, index: int) -> int:
        """The number of the newest create that was claimed for a shard, 0 for none."""
        number = 0
        while read_small(self.attempt(index, number + 1, "intent.json")) is not None:
            number += 1
        return number

    def states(self, job: Job) -> dict[int, ShardState]:
        """Every shard's state, from one listing of the directory."""
        found: dict[int, dict[int, set[str]]] = {}
        for name in fresh(self.root).fs.find(self.path("shards").path):
            if match := ATTEMPT.search(name):
                found.setdefault(int(match[1]), {}).setdefault(int(match[2]), set()).add(match[3])
        return {shard.index: state_of(found.get(shard.index, {})) for shard in job.shards}

    def is_creating(self, index: int) -> bool:
        """Whether a create of the shard was claimed and nothing is known of what came of it."""
        number = self.last_try(index)
        return bool(number) and self.void(index, number) is None and self.created(index) is None

    def refusal(self, indices: Iterable[int]) -> Refusal | None:
        """When the vendor last had no room for one of these planned shards."""
        refusals = [self._refusals(index) for index in indices]
        latest = max((voids[0] for voids in refusals if voids), key=lambda void: void.at, default=None)
        if latest is None:
            return None
        return Refusal(latest.at.timestamp(), latest.running, max(map(len, refusals)))

    def _refusals(self, index: int) -> list[Void]:
        """The tries of a shard that found no room since it was last in the queue, newest first."""
        newest_first = range(self.last_try(index), 0, -1)
        voids = (self.void(index, number) for number in newest_first)
        return list(takewhile(lambda void: void is not None and void.reason == "no room", voids))  # type: ignore[arg-type]

    def is_begun(self, job: Job) -> bool:
        """Whether a create of any shard was ever claimed."""
        return any(self.last_try(shard.index) for shard in job.shards)

    def begin(self, index: int, intent: Intent, number: int = 1) -> bool:
        """Claim a create of a shard; True for exactly one caller, ever."""
        return create_exclusive(self.attempt(index, number, "intent.json"), dump(intent))

    def intent(self, index: int, number: int) -> Intent:
        """A claim. One that was cut off while it was written still is one, of unknown owner, at the file's time."""
        path = self.attempt(index, number, "intent.json")
        try:
            if intent := self._read(path, Intent):
                return intent
        except ConfigurationError:
            pass
        return Intent(at=modified_at(path) or self.job().created_at)

    def created(self, index: int) -> Created | None:
        """The shard's batch, None while it has none."""
        number = self.last_try(index)
        if not number or self.void(index, number) is not None:
            return None
        return self._read(self.attempt(index, number, "created.json"), Created)

    def save_created(self, index: int, created: Created, number: int) -> None:
        write_whole(self.attempt(index, number, "created.json"), dump(created))

    def void(self, index: int, number: int) -> Void | None:
        return self._read(self.attempt(index, number, "void.json"), Void)

    def save_void(self, index: int, number: int, void: Void) -> None:
        write_whole(self.attempt(index, number, "void.json"), dump(void))

    def strangers(self, index: int) -> set[str]:
        """Batches that were taken for the shard's and are known not to be."""
        tries = (self.void(index, number) for number in range(1, self.last_try(index) + 1))
        return {batch_id for void in tries if void for batch_id in void.strangers}

    def ended(self, index: int) -> Batch | None:
        """The shard's batch as it ended, None while it has not. A shard that was given up unsent has an empty one."""
        number = self.last_try(index)
        if void := self.void(index, number):
            return NEVER_SENT if void.reason == "given up" else None
        return self._read(self.attempt(index, number, "ended.json"), Batch)

    def save_ended(self, index: int, batch: Batch) -> None:
        if number := self.tried(index).get(batch.id):
            write_whole(self.attempt(index, number, "ended.json"), dump(batch))

    def tried(self, index: int) -> dict[str, int]:
        """Every batch that was ever taken for the shard's, void or not, and its try."""
        numbers = range(1, self.last_try(index) + 1)
        found = ((self._read(self.attempt(index, number, "created.json"), Created), number) for number in numbers)
        return {created.batch_id: number for created, number in found if created is not None}

    def save_progress(self, progress: dict[str, Any]) -> None:
        write_whole(self.path("progress.json"), msgspec.json.encode(progress))

    def progress(self) -> dict[str, Any] | None:
        data = read_small(self.path("progress.json"))
        return msgspec.json.decode(data) if data else None

    def save_killed(self) -> None:
        """Note that the waiting task was failed or cleared, and its batches therefore cancelled."""
        write_whole(self.path("killed.json"), msgspec.json.encode({"at": datetime.now(UTC)}))

    def was_killed(self) -> bool:
        return read_small(self.path("killed.json")) is not None

    def save_cleaned(self, scope: str) -> None:
        """Note which of the vendor's files were deleted after the landing."""
        write_whole(self.path("cleaned.json"), msgspec.json.encode({"at": datetime.now(UTC), "scope": scope}))

    def cleaned(self) -> str | None:
        """``inputs`` or ``all``, None while the vendor's files were left alone."""
        data = read_small(self.path("cleaned.json"))
        return msgspec.json.decode(data)["scope"] if data else None

    def forget_uploaded(self, index: int) -> None:
        """The vendor has not, or does not take, the input file: the next try uploads another."""
        self.shard(index, "uploaded.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the whole directory away, further rounds included."""
        self.root.fs.rm(self.root.path, recursive=True)

    def of_model(self, name: str | None) -> JobStore:
        """Where a task that asks several models keeps the job of one: ``-1~gpt-5-mini_llm_batch_default``."""
        return self if name is None else JobStore(f"{self.uri}~{name}")

    def siblings(self) -> list[JobStore]:
        """Every job that the task instance has made, this one included: of other models, and of other input."""
        base = self.task_uri.rpartition("/")[0]
        folder = fresh(storage_path(base))
        names = [path.rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.path, detail=False)]
        return [
            JobStore(f"{base}/{name}") for name in sorted(names) if JobStore(f"{base}/{name}").task_uri == self.task_uri
        ]

    def newest(self) -> JobStore:
        """The job that has replaced this one last; itself when none has."""
        store = self
        while (following := store.next_generation()).load_job() is not None:
            store = following
        return store

    def lane(self, job: Job) -> str | None:
        """How a job was begun: its rows ``online``, or as a ``batch``; None when it was not."""
        for shard in job.shards:
            if number := self.last_try(shard.index):
                return self.intent(shard.index, number).lane
        return None

    def following(self, number: int) -> JobStore:
        """Where a task keeps a further round of its job: ``round-2``, ``round-3``."""
        return JobStore(f"{self.first.uri}/round-{number}")

    @property
    def task_uri(self) -> str:
        """What the jobs of one task instance have in common: ``.../-1`` of ``.../-1.2`` and ``.../-1.2/round-2``."""
        base, _, name = self.first.uri.rpartition("/")
        return f"{base}/{name.partition('.')[0].partition('~')[0]}"

    @property
    def first(self) -> JobStore:
        """The job that a task's further rounds began with; itself when there are none."""
        base, _, name = self.uri.rpartition("/")
        return JobStore(base) if name.startswith("round-") else self

    def failed(self) -> ObjectStoragePath:
        """Every landed row that did not succeed, a ``Failure`` a line."""
        return self.path("failed.jsonl")

    def failures(self) -> Iterator[Failure]:
        """The rows of ``failed.jsonl``.

        :raises ConfigurationError: when there is no such file.
        """
        decode = msgspec.json.Decoder(Failure).decode
        try:
            with open_blocks(self.failed()) as lines:
                yield from map(decode, lines)
        except FileNotFoundError:
            raise ConfigurationError(
                f"{self.failed()} is missing: which rows failed is written down when a job is landed. Clear the "
                "FetchResultsOperator that landed it; nothing is paid again."
            ) from None

    @property
    def manifest_uri(self) -> str:
        return f"{self.uri}/manifest.json"

    def save_manifest(self, manifest: Manifest) -> None:
        write_whole(self.path("manifest.json"), dump(manifest))

    def manifest(self) -> Manifest | None:
        return self._read(self.path("manifest.json"), Manifest)

    def rounds(self) -> list[tuple[JobStore, Job]]:
        """A job and the further rounds that its task has made of it, oldest first; empty when nothing was planned."""
        found, store = [], self
        while job := store.load_job():
            found.append((store, job))
            store = self.following(job.round + 1)
        return found

    def landings(self) -> list[Manifest]:
        """The manifests of a job and its further rounds."""
        return [manifest for store, _ in self.rounds() if (manifest := store.manifest()) is not None]

    def save_taken_over(self, by: str) -> None:
        """Note the job that repairs this one and has landed its rows together with its own."""
        write_whole(self.path("taken_over.json"), msgspec.json.encode({"by": by}))

    def taken_over(self) -> JobStore | None:
        """The job that has landed this one's rows together with its own, if there is one."""
        data = read_small(self.path("taken_over.json"))
        return JobStore(msgspec.json.decode(data)["by"]) if data else None

    def _read(self, path: ObjectStoragePath, model: type[M]) -> M | None:
        data = read_small(path)
        if data is None:
            return None
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise ConfigurationError(
                f"{path} is damaged ({error.error_count()} problems, {len(data)} bytes). It is written once and never "
                "changed by this package; restore it, or remove the job directory to plan anew."
            ) from None


def state_of(tries: dict[int, set[str]]) -> ShardState:
    """A shard's state from the names of the files in its tries."""
    claimed = [number for number, names in tries.items() if "intent" in names]
    names = tries[max(claimed)] if claimed else set()
    if not names or "void" in names:
        return "planned"
    return "ended" if "ended" in names else "running" if "created" in names else "creating"


def dump(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=1).encode()


def modified_at(path: ObjectStoragePath) -> datetime | None:
    """When a file was last written, as far as its store tells."""
    try:
        told: datetime = path.fs.modified(path.path)
    except (OSError, NotImplementedError):
        return None
    return told if told.tzinfo else told.replace(tzinfo=UTC)
