"""The files of one job's rounds: one listing, and of the files only those that have changed."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from airflow_llm_batch.file_facts import modified
from airflow_llm_batch.jobs.directory.address import ROUND
from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT, ShardState, states
from airflow_llm_batch.jobs.directory.notes import Refused
from airflow_llm_batch.models import Cancelling, Job, Progress, ShardProgress
from airflow_llm_batch.results import Manifest
from airflow_llm_batch.storage import fresh, is_local, refuse, storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.address import JobKey

#: files read at once
FILES_AT_ONCE = 16
#: files whose content is looked at, and others whose age is
READ: dict[str, type[BaseModel]] = {
    "job.json": Job, "manifest.json": Manifest, "progress.json": Progress, "cancelling.json": Cancelling,
    "over_budget.json": Refused,
}  # fmt: skip
DATED = frozenset({*READ, "created.json", "ended.json"})
#: files whose content is kept at most
MOST_KEPT = 5000


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
    over_budget: Refused | None = None

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
    def refusal(self) -> str:
        """What a budget has said that refused the round; "" where none has, or the round was looked at since."""
        looked_at = self.progress.at if self.progress is not None else 0.0
        refused = self.over_budget
        return refused.message if refused is not None and refused.at.timestamp() > looked_at else ""

    @property
    def counts(self) -> tuple[int, int]:
        """Rows done and of them failed, as last seen at the vendor."""
        return self.progress.counts if self.progress is not None else (0, 0)


class Contents:
    """What was read of files, as long as they are what they were; for several threads."""

    def __init__(self) -> None:
        self.known: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self.lock = Lock()

    def get(self, info: Mapping[str, Any]) -> tuple[bool, Any]:
        """Whether the file is known as it is now, and its content."""
        with self.lock:
            known = self.known.get(info["name"])
            if known is None or known[0] != signature(info):
                return False, None
            self.known.move_to_end(info["name"])
            return True, known[1]

    def keep(self, info: Mapping[str, Any], value: Any) -> None:
        with self.lock:
            self.known[info["name"]] = signature(info), value
            while len(self.known) > MOST_KEPT:
                self.known.popitem(last=False)


def rounds_of(storage: str, key: JobKey, contents: Contents, *, details: bool = True) -> list[RoundFiles]:
    """A job's rounds, oldest first; none where nothing was planned.

    :param contents: of files that were read before.
    :param details: read what only a page of one job shows too.
    """
    if not all(is_name(part) for part in key):
        return []
    uri = "/".join([storage, *key])
    root = fresh(storage_path(uri))
    rounds = by_round(uri, root.path.rstrip("/"), listing(root))
    load(root, rounds.values(), contents, details=details)
    planned = [found for found in rounds.values() if found.job is not None]
    return sorted(planned, key=lambda found: found.job.round if found.job else 0)


def is_name(part: str) -> bool:
    """Whether a part of an address names something directly below what precedes it."""
    return part not in ("", ".", "..") and not {"/", "\\", "\0"} & set(part)


def by_round(uri: str, top: str, files: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, RoundFiles]:
    """The files of a job's directory at ``uri``, whose path is ``top``, by the directory of their round."""
    rounds: dict[str, RoundFiles] = {}
    for path, info in files:
        parts = path[len(top) + 1 :].split("/")
        if parts[-1].endswith(".part"):
            continue
        of_round = f"{uri}/{parts.pop(0)}" if len(parts) > 1 and parts[0].startswith(ROUND) else uri
        rounds.setdefault(of_round, RoundFiles(of_round)).files["/".join(parts)] = {**info, "name": path}
    return rounds


def load(root: ObjectStoragePath, rounds: Iterable[RoundFiles], contents: Contents, *, details: bool) -> None:
    """Read what has changed since the last look, side by side."""
    wanted: list[tuple[RoundFiles, str]] = []
    for found in rounds:
        names = ["job.json", "manifest.json"]
        if "manifest.json" not in found.files:
            names += ["progress.json", "cancelling.json", "over_budget.json"]
        elif details:
            # A landing tells all of it, but for how single batches have ended.
            names.append("progress.json")
        wanted += [(found, name) for name in names if name in found.files]
    unread = []
    for found, name in wanted:
        is_known, value = contents.get(found.files[name])
        if is_known:
            setattr(found, name.removesuffix(".json"), value)
        else:
            unread.append((found, name))
    if not unread:
        return
    with ThreadPoolExecutor(min(FILES_AT_ONCE, len(unread)), "llm-batch-files") as pool:
        read = pool.map(lambda one: parse(root.fs, one[0].files[one[1]]["name"], one[1]), unread)
        for (found, name), value in zip(unread, read, strict=True):
            contents.keep(found.files[name], value)
            setattr(found, name.removesuffix(".json"), value)


def listing(root: ObjectStoragePath) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every file below a directory, with what tells a changed one for those that are read.

    :raises OSError: when a directory cannot be read.
    """
    top = root.path.rstrip("/")
    if not is_local(root):
        try:
            yield from root.fs.find(top, detail=True).items()
        except FileNotFoundError:
            return
        return

    for folder, _, names in os.walk(top, onerror=refuse):
        for name in names:
            path = f"{folder}/{name}"
            info: dict[str, Any] = {}
            if name in DATED:
                try:
                    stat = os.stat(path)
                except FileNotFoundError:
                    continue
                info = {"size": stat.st_size, "mtime": stat.st_mtime, "ino": stat.st_ino}
            yield path, info


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
