"""Jobs whose end is to be told to somebody who does not wait: which batches they are, and which of these have ended.

{storage}/_awaited/{connection}/{job}.json          a job that was submitted, all its batches named
{storage}/_awaited/{connection}/{job}.telling       somebody is telling of it
{storage}/_batches/{connection}/{batch}.json        the job that a batch belongs to
{storage}/_batches/{connection}/{batch}.ended       an event has told that the batch has ended

An end is told at least once: whoever tells takes the job off the list afterwards, and one who dies half-way leaves it
there for the next. All of it goes when it was told.
"""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from airflow_llm_batch.exceptions import Busy
from airflow_llm_batch.file_facts import modified_at
from airflow_llm_batch.models import Fact, is_call
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import below, create_exclusive, fresh, read_small, remove, storage_path, write_whole
from airflow_llm_batch.webhooks import folder_of

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

AWAITED, BATCHES = "_awaited", "_batches"
#: seconds after which whoever began to tell of a job is taken to have died
LAPSE = 60.0
#: how long a vendor may work on a batch
LONGEST = timedelta(days=14)


class Awaited(Fact):
    """A job that somebody wants to be told of.

    :param handle: what is told: the job handle.
    :param completion: name of the asset whose event it becomes, "" for none; ``uri`` is its URI.
    :param token: of this expectation: a task that is cleared expects its job once more.
    :param place: what stays the same from run to run, ``{dag}/{task}``.
    """

    handle: dict[str, Any]
    completion: str = ""
    uri: str = ""
    place: str = ""
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def job(self) -> str | None:
        """The job directory's URI, None for a batch that no job of ours made."""
        job: str | None = self.handle["job"]
        return job

    @property
    def batches(self) -> list[str]:
        return list(self.handle["batches"])

    @property
    def mark(self) -> str:
        return digest(self.job or f"batch:{self.batches[0]}")


class AwaitedJobs:
    """The awaited jobs of one connection.

    :param storage: URI of the storage that workers, triggerers and the API server share.
    """

    def __init__(self, storage: str, conn_id: str) -> None:
        root = storage_path(storage.rstrip("/"))
        self.jobs: ObjectStoragePath = root / AWAITED / folder_of(conn_id)
        self.batches: ObjectStoragePath = root / BATCHES / folder_of(conn_id)

    def expect(self, awaited: Awaited) -> bool:
        """Put a job on the list; False when its end was told before it got there, and nobody will tell it again."""
        for batch_id in awaited.batches:
            write_whole(self._batch(batch_id, "json"), awaited.mark.encode())
        write_whole(self._job(awaited.mark, "json"), awaited.dump())
        # In this order one of the two sees the other: an event is noted first, and looks for its job then.
        return not self.has_ended(awaited)

    def end(self, name: str) -> Awaited | None:
        """Note that a batch has ended; its job when it was the last of it.

        :param name: the batch's, as the event has it.
        """
        write_whole(self._batch(name, "ended"), b"")
        mark = read_small(self._batch(name, "json"))
        awaited = self.read(mark.decode()) if mark else None
        return awaited if awaited is not None and self.has_ended(awaited) else None

    def has_ended(self, awaited: Awaited) -> bool:
        """Whether events have told of the end of every batch; a row that was called has ended by itself."""
        wanted = {self._batch(batch_id, "ended").name for batch_id in awaited.batches if not is_call(batch_id)}
        return wanted <= names_in(self.batches)

    def read(self, mark: str) -> Awaited | None:
        """One job, None when it is not awaited any more."""
        try:
            return Awaited.model_validate_json(read_small(self._job(mark, "json")) or b"")
        except ValidationError:
            return None

    def marks(self) -> set[str]:
        """What the awaited jobs are read by: one listing."""
        return {name.removesuffix(".json") for name in names_in(self.jobs) if name.endswith(".json")}

    def begin_telling(self, awaited: Awaited) -> bool:
        """Take it upon oneself to tell of a job's end; ``forget`` says that it was done. False when it was told before.

        :raises Busy: while somebody else is at it.
        """
        claim = self._job(awaited.mark, "telling")
        if not create_exclusive(claim, datetime.now(UTC).isoformat().encode()):
            began = modified_at(claim)
            if began is not None and (datetime.now(UTC) - began).total_seconds() < LAPSE:
                raise Busy(f"The end of {awaited.job or awaited.batches[0]} is being told by another process just now.")
            write_whole(claim, b"")
        if self.read(awaited.mark) is None:
            self.leave(awaited)
            return False
        return True

    def leave(self, awaited: Awaited) -> None:
        """It could not be told: the next may try at once."""
        remove(self._job(awaited.mark, "telling"))

    def withdraw(self, awaited: Awaited) -> None:
        """Take a job off the list, and leave what has told of its batches' ends."""
        remove(self._job(awaited.mark, "json"))
        self.leave(awaited)

    def forget(self, awaited: Awaited) -> None:
        """Take a job off the list, unless it was put there once more."""
        now = self.read(awaited.mark)
        if now is not None and now.token != awaited.token:
            self.leave(awaited)
            return
        remove(self._job(awaited.mark, "json"))
        for batch_id in awaited.batches:
            remove(self._batch(batch_id, "json"))
            remove(self._batch(batch_id, "ended"))
        self.leave(awaited)

    def _job(self, mark: str, kind: str) -> ObjectStoragePath:
        return self.jobs / f"{mark}.{kind}"

    def _batch(self, batch_id: str, kind: str) -> ObjectStoragePath:
        # Gemini's are named batches/... in some places.
        return self.batches / f"{digest(batch_id.rpartition('/')[2])}.{kind}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def names_in(folder: ObjectStoragePath) -> set[str]:
    """The names in a folder, as of now; none where there is no such folder."""
    try:
        return {str(name).rpartition("/")[2] for name in patiently(fresh(folder).fs.ls, folder.path, detail=False)}
    except FileNotFoundError:
        return set()


def forget_awaited(storage: str, before: datetime) -> int:
    """Remove what was written before a moment and of which nobody was ever told; how many files there were.

    No vendor works on a batch for longer than two weeks; what is younger than that is kept.
    """
    before = min(before, datetime.now(UTC) - LONGEST)
    old = [
        file
        for folder in (AWAITED, BATCHES)
        for file in below(f"{storage.rstrip('/')}/{folder}", "*")
        if (at := modified_at(file)) is not None and at < before
    ]
    for file in old:
        remove(file)
    return len(old)
