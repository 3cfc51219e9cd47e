"""All jobs of a storage as people want to see them: one listing, and of the files only those that have changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from airflow_llm_batch.jobs.directory.address import ROUND, JobAddress, JobKey, default_storage
from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT, ShardState, states
from airflow_llm_batch.jobs.money.budget import estimated_cost
from airflow_llm_batch.models import Job, Progress, ShardProgress
from airflow_llm_batch.results import Manifest
from airflow_llm_batch.storage import fresh, is_local, storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

JobState = Literal["planned", "running", "ended", "landed", "failed", "replaced"]
log = logging.getLogger(__name__)
#: files read at once
FILES_AT_ONCE = 16
#: files whose content is looked at
READ: dict[str, type[BaseModel]] = {"job.json": Job, "manifest.json": Manifest, "progress.json": Progress}
#: parts of a path below the storage that name a task's job
DEPTH = 4


class JobView(BaseModel):
    """One task's job, further rounds of it included.

    :param state: ``planned`` (nothing was sent), ``running``, ``ended`` (not landed yet), ``landed``, ``failed``
        (landed, and no row succeeded), or ``replaced`` (the task's input has changed since); ``words`` says it for
        people.
    :param map_index: with what tells jobs of one task instance apart: ``-1~gpt-5-mini_llm_batch_default.2``. These are
        its map ``index``, ``asked_model`` (of one of several models' jobs) and ``generation``.
    :param generation: 2 and more for one that took the place of a job with other input.
    :param done: rows that the vendor has finished, failed ones included.
    :param requests: that were sent, a row in two rounds counted twice.
    :param cost_usd: of what was landed; None where it is not known, or nothing was landed.
    :param lane: how its rows travel, ``batch``, ``flex`` or ``online``, as far as it is known.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: str
    index: str
    asked_model: str | None
    generation: int
    uri: str
    provider: str
    models: list[str]
    created_at: datetime
    landed_at: datetime | None = None
    state: JobState
    words: str
    rows: int
    done: int
    failed: int
    shards: int
    rounds: int
    requests: int
    tokens: int
    estimated_cost_usd: float | None
    cost_usd: float | None
    saving_usd: float | None
    lane: str = "batch"


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
            if "manifest.json" not in found.files and "progress.json" in found.files:
                wanted.append((found, "progress.json"))
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


def view(key: JobKey, rounds: list[RoundFiles], *, replaced: bool = False) -> JobView:
    """One job from its rounds, oldest first.

    :param replaced: another job has taken its place.
    """
    first, last = rounds[0].job, rounds[-1].job
    assert first is not None
    assert last is not None
    manifest = next((found.manifest for found in reversed(rounds) if found.manifest is not None), None)
    states = rounds[-1].states()
    done, failed = rounds[-1].counts
    own = [done for done in manifest.rounds if f"{done.job}/".startswith(f"{rounds[0].uri}/")] if manifest else []
    landed = rounds[-1].manifest is not None
    if manifest is not None:
        bad = manifest.rows - manifest.counts.get("succeeded", 0)
        # A further round runs: its rows are not done yet, and have not failed again.
        done = manifest.rows if landed else manifest.rows - last.rows + done
        failed = bad if landed else max(bad - last.rows, 0) + failed
    state, words = describe(states, manifest if landed else None, rounds[-1], done, failed)
    if replaced and not landed:
        state, words = "replaced", "replaced by a job with other input"
    estimates = [estimated_cost(found.job, found.lane) for found in rounds if found.job]
    address = JobAddress.parse(rounds[0].uri)
    return JobView(
        dag_id=key.dag_id,
        run_id=key.run_id,
        task_id=key.task_id,
        map_index=key.place,
        index=address.map_index,
        asked_model=address.model,
        generation=address.generation,
        uri=rounds[0].uri,
        provider=first.provider,
        models=sorted({model for found in rounds if found.job for model in found.job.estimate}),
        created_at=aware(first.created_at),
        landed_at=manifest.landed_at if manifest and landed else None,
        state=state,
        words=words,
        rows=manifest.rows if manifest else first.rows,
        done=done,
        failed=failed,
        shards=sum(found.job.batches for found in rounds if found.job),
        rounds=len(rounds),
        requests=sum(done.rows for done in own) if own else sum(found.job.rows_asked for found in rounds if found.job),
        tokens=sum(done.input_tokens + done.output_tokens for done in own),
        estimated_cost_usd=None if None in estimates else sum(filter(None, estimates)),
        cost_usd=total(done.cost_usd for done in own) if own else None,
        saving_usd=total(done.saving_usd for done in own) if own else None,
        lane=rounds[-1].lane,
    )


def aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def total(amounts: Iterable[float | None]) -> float | None:
    """The sum, None when one of them is not known."""
    known = list(amounts)
    return None if None in known else sum(filter(None, known))


def describe(
    states: dict[int, ShardState], manifest: Manifest | None, found: RoundFiles, done: int, failed: int
) -> tuple[JobState, str]:
    """A job's state, and the same in words."""
    if manifest is not None:
        return ("failed", "landed, no row succeeded") if failed and failed == manifest.rows else ("landed", "landed")
    number = found.job.round if found.job else 1
    round_ = f"round {number}: " if number > 1 else ""
    counts = {state: list(states.values()).count(state) for state in ("planned", "creating", "running", "ended")}
    if counts["ended"] == len(states):
        cancelled = " (cancelled by hand)" if "killed.json" in found.files else ""
        return "ended", f"{round_}ended, not landed yet{cancelled}"
    if counts["planned"] == len(states):
        return "planned", f"{round_}planned, nothing sent"
    words = {"running": "running", "creating": "being sent", "planned": "waiting for room", "ended": "ended"}
    parts = [(counts[state], word) for state, word in words.items() if counts[state]]
    if len(states) == 1:
        return "running", round_ + parts[0][1]
    batches = "batch" if parts[0][0] == 1 else "batches"
    rest = "".join(f", {count} {word}" for count, word in parts[1:])
    return "running", f"{round_}{parts[0][0]} {batches} {parts[0][1]}{rest}"
