"""All jobs of a storage as people want to see them: one listing, and of the files only those that have changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from airflow_llm_batch.jobs.directory.address import ROUND, JobAddress, JobKey, default_storage
from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT, ShardState, states
from airflow_llm_batch.jobs.view.job import JobView, view
from airflow_llm_batch.models import Cancelling, Job, Progress, ShardProgress
from airflow_llm_batch.results import Manifest
from airflow_llm_batch.storage import fresh, is_local, storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)
#: files read at once
FILES_AT_ONCE = 16
#: files whose content is looked at
READ: dict[str, type[BaseModel]] = {
    "job.json": Job, "manifest.json": Manifest, "progress.json": Progress, "cancelling.json": Cancelling,
}  # fmt: skip
#: parts of a path below the storage that name a task's job
DEPTH = 4


@dataclass
class RoundFiles:
    """The files of one round of a job.

    :param files: name below the round's directory -> what the store tells of it.
    """

    uri: str
    files: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    job: Job | None = None
    manifest: Manifest | None = None
    progress: Progress | None = None
    cancelling: Cancelling | None = None

    def states(self) -> dict[int, ShardState]:
        found = states(self.job, (f"/{name}" for name in self.files)) if self.job else {}
        # One that was given up at the deadline, or when the job was cancelled, has no try that tells.
        seen = self.seen
        for index, state in found.items():
            if state == "planned" and index in seen and seen[index].status == NEVER_SENT.status:
                found[index] = "ended"
        return found

    @property
    def seen(self) -> dict[int, ShardProgress]:
        """Shard -> what the last look saw of it."""
        return self.progress.shards if self.progress is not None else {}

    @property
    def lane(self) -> str:
        """How the round's rows travel, as its landing or the last look tells."""
        return (self.manifest or self.progress or Progress(at=0)).lane

    @property
    def counts(self) -> tuple[int, int]:
        """Rows done and of them failed, as last seen at the vendor."""
        return self.progress.counts if self.progress is not None else (0, 0)


class Overview:
    """The jobs of one storage.

    :param storage: object storage URI, ``[llm_batch] storage`` by default.
    """

    def __init__(self, storage: str | None = None) -> None:
        self.uri = (storage or default_storage()).rstrip("/")
        self.known: dict[str, tuple[Any, Any]] = {}
        self.jobs: dict[JobKey, list[RoundFiles]] = {}

    def refresh(self) -> list[JobView]:
        """Look at the storage; the jobs, newest first.

        :raises Exception: what the store raises.
        """
        root = fresh(storage_path(self.uri))
        top = root.path.rstrip("/")
        jobs: dict[JobKey, dict[str, RoundFiles]] = {}
        for path, info in listing(root, top):
            parts = path[len(top) + 1 :].split("/")
            if len(parts) <= DEPTH or parts[-1].endswith(".part"):
                continue
            depth = DEPTH + parts[DEPTH].startswith(ROUND)
            uri = "/".join([self.uri, *parts[:depth]])
            rounds = jobs.setdefault(JobKey(*parts[:DEPTH]), {})
            rounds.setdefault(uri, RoundFiles(uri)).files["/".join(parts[depth:])] = {**info, "name": path}
        self.load(root, [found for rounds in jobs.values() for found in rounds.values()])
        self.jobs = {}
        for key, rounds in jobs.items():
            planned = [found for found in rounds.values() if found.job is not None]
            if planned:
                self.jobs[key] = sorted(planned, key=lambda found: found.job.round if found.job else 0)
        views = []
        for key in list(self.jobs):
            try:
                views.append(view(key, self.jobs[key], replaced=following(key) in self.jobs))
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                # A damaged job hides nothing but itself.
                log.warning("The job at %s cannot be shown: %r", self.jobs.pop(key)[0].uri, error)
        return sorted(views, key=lambda job: job.created_at, reverse=True)

    def load(self, root: ObjectStoragePath, rounds: Iterable[RoundFiles]) -> None:
        """Read what has changed since the last look, side by side."""
        wanted: list[tuple[RoundFiles, str]] = []
        for found in rounds:
            names = ["job.json", "manifest.json"]
            wanted += [(found, name) for name in names if name in found.files]
            if "manifest.json" not in found.files:
                wanted += [(found, name) for name in ("progress.json", "cancelling.json") if name in found.files]
        changed = {
            info["name"]: name
            for found, name in wanted
            if (self.known.get((info := found.files[name])["name"]) or (None,))[0] != signature(info)
        }
        with ThreadPoolExecutor(FILES_AT_ONCE, "llm-batch-overview") as pool:
            read = dict(zip(changed, pool.map(lambda path: parse(root.fs, path, changed[path]), changed), strict=True))
        known = {}
        for found, name in wanted:
            info = found.files[name]
            path = info["name"]
            value = read[path] if path in read else self.known[path][1]
            known[path] = signature(info), value
            setattr(found, name.removesuffix(".json"), value)
        self.known = known


def listing(root: ObjectStoragePath, top: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every file of the storage, with what tells a changed one for those that are read.

    :raises OSError: when a directory cannot be read.
    """
    if not is_local(root):
        yield from root.fs.find(top, detail=True).items()
        return

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, names in os.walk(top, onerror=refuse):
        for name in names:
            path = f"{folder}/{name}"
            info: dict[str, Any] = {}
            if name in READ:
                try:
                    stat = os.stat(path)
                except FileNotFoundError:
                    continue
                info = {"size": stat.st_size, "mtime": stat.st_mtime, "ino": stat.st_ino}
            yield path, info


def following(key: JobKey) -> JobKey:
    """The key of the job that replaces one when a task's input has changed."""
    return JobAddress.parse("/".join(key)).next_generation.key


def parse(fs: Any, path: str, name: str) -> Any:
    """A file's content; None for one that is gone or damaged, which must not hide the others."""
    try:
        data = fs.cat_file(path)
        return READ[name].model_validate_json(data)
    except (OSError, ValueError, TypeError):
        return None


def signature(info: Mapping[str, Any]) -> Any:
    """What changes when a file does."""
    return info.get("size"), str(modified(info)), info.get("ETag") or info.get("etag") or info.get("ino")


def modified(info: Mapping[str, Any]) -> datetime | None:
    """When a file was last written, as far as its store tells."""
    names = ("mtime", "LastModified", "updated", "last_modified")
    moment = next((info[name] for name in names if info.get(name)), None)
    if isinstance(moment, int | float):
        return datetime.fromtimestamp(moment, UTC)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    return moment if isinstance(moment, datetime) else None
