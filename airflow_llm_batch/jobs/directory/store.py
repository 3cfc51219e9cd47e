"""The job directory: every fact about a job as a write-once file in object storage.

job.json                          the plan, the last file of planning
shards/00000/requests-{plan}.jsonl  the bytes that are sent
shards/00000/rows-{plan}.jsonl      row number, key and pass-through columns, a line per request
shards/00000/asked-{plan}.jsonl   the same requests in the neutral format, where other vendors may be asked too
shards/00000/uploaded.json        the vendor's input file
shards/00000/try-1/intent.json    before the create   created.json  the vendor's id   ended.json  the end as told
progress.json                     the one mutable file
failed.jsonl                      landed rows that did not succeed: what a repair asks again, and people look at
manifest.json                     what was landed
shards/00000/answers-{try}.jsonl  what calls of the online lane have answered, as a batch would have
comparison.json                   of several models' jobs, in each: what their answers have in common
rules.json                        what answers have to pass, where that has changed since the plan
killed.json  cancelling.json  cleaned.json  taken_over.json  late.json  tried.json   notes: see ``notes.py``
landed/                           result files that are loaded into a table, where no other place is named for them
round-2/                          the job of the next round; -1.2 beside -1 replaces it, -1~{model} is another model's
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.jobs.directory.attempts import Attempts, Listing, ShardState
from airflow_llm_batch.jobs.directory.notes import Notes
from airflow_llm_batch.models import Fact, Job, Progress
from airflow_llm_batch.results import Manifest
from airflow_llm_batch.storage import (
    create_exclusive,
    find_files,
    read_small,
    storage_path,
    write_whole,
)
from airflow_llm_batch.unfinished import remove_directory

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

M = TypeVar("M", bound=Fact)
VERSION = 1


class JobStore:
    """One job directory.

    :param uri: any ``ObjectStoragePath`` URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.address = JobAddress.parse(self.uri)
        self.root = storage_path(self.uri)
        #: what was read, or written, of facts that never change; what is not there yet is not kept
        self.facts: dict[str, Fact] = {}
        self._plan: tuple[str, Job] | None = None
        self.notes = Notes(self)
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

    def asked(self, index: int, token: str) -> ObjectStoragePath:
        return self.shard(index, f"asked-{token}.jsonl")

    def attempts(self, index: int) -> Attempts:
        """A shard's tries as they are whenever they are asked for."""
        return Attempts(self, index)

    def listing(self) -> Listing:
        """The files of all shards as of now, from one listing of the directory."""
        return Listing(self, find_files(self.path("shards")))

    def states(self, job: Job) -> dict[int, ShardState]:
        """Every shard's state as of now."""
        return self.listing().states(job)

    def load_job(self) -> Job | None:
        """The plan as of now, None before planning has finished.

        :raises ConfigurationError: for one that a newer version of this package has made.
        """
        data = read_small(self.path("job.json"))
        digest = hashlib.sha256(data or b"").hexdigest()
        if self._plan is not None and digest == self._plan[0]:
            return self._plan[1]
        # Planned anew: what was known was of another plan.
        self.forget()
        if data is None:
            return None
        job = self.parse(self.path("job.json"), data, Job)
        if job.version > VERSION:
            raise ConfigurationError(
                f"The job at {self.uri} was planned by a newer airflow-provider-llm-batch (job.json version "
                f"{job.version}, this one reads {VERSION}). Install the same version everywhere; its batches are left "
                "as they are."
            )
        self._plan = digest, job
        return job

    def job(self) -> Job:
        """The plan, read once.

        :raises ConfigurationError: when there is none here.
        """
        if self._plan is not None:
            return self._plan[1]
        return self.job_now()

    def job_now(self) -> Job:
        """The plan as of now: one that was cut too large, and of which nothing has run, is planned anew.

        :raises ConfigurationError: when there is none here.
        """
        if job := self.load_job():
            return job
        raise ConfigurationError(
            f"No job at {self.uri}: job.json is missing. Was it cleaned up, or does this worker see another storage "
            "than the one that submitted ([llm_batch] storage)? Nothing was sent. What was sent before is billed: "
            "SubmitBatchOperator(batch_id=...) lands a batch by its id; clearing the task that asked pays anew."
        )

    def save_job(self, job: Job) -> bool:
        """Publish the plan; False when another attempt has published one first."""
        return create_exclusive(self.path("job.json"), job.dump())

    def save_progress(self, progress: Progress) -> None:
        write_whole(self.path("progress.json"), progress.dump())

    def progress(self) -> Progress | None:
        """How far it was when it was last looked at."""
        return self.read(self.path("progress.json"), Progress)

    def remove(self) -> None:
        """Take the whole directory away, further rounds included."""
        self.forget()
        remove_directory(self.root)

    def forget(self) -> None:
        """Let go of what is known: memory, or facts of a plan that is not there any more."""
        self.facts.clear()
        self._plan = None

    @property
    def manifest_uri(self) -> str:
        return f"{self.uri}/manifest.json"

    def save_manifest(self, manifest: Manifest) -> None:
        write_whole(self.path("manifest.json"), manifest.dump())

    def manifest(self) -> Manifest | None:
        return self.read(self.path("manifest.json"), Manifest)

    def read(self, path: ObjectStoragePath, model: type[M]) -> M | None:
        data = read_small(path)
        return None if data is None else self.parse(path, data, model)

    @staticmethod
    def parse(path: ObjectStoragePath, data: bytes, model: type[M]) -> M:
        """:raises ConfigurationError: for what is no such fact."""
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            raise ConfigurationError(
                f"{path} is damaged ({error.error_count()} problems, {len(data)} bytes). It is written once and never "
                "changed by this package; restore it, or remove the job directory to plan anew."
            ) from None
