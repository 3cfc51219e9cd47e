"""The API of a job's rows: asked, answered, failed, and how the answers spread; for those who may read the logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import Response
from pydantic import BaseModel

from airflow_llm_batch.exceptions import LLMBatchError
from airflow_llm_batch.jobs.directory.address import JobAddress, JobKey
from airflow_llm_batch.jobs.view.files import RoundFiles
from airflow_llm_batch.jobs.view.job import JobView, aware
from airflow_llm_batch.jobs.view.overview import Overview
from airflow_llm_batch.jobs.view.rows import Wanted, failed_rows, landed_rows, own_files, sent
from airflow_llm_batch.jobs.view.spread import Spread, spread_of
from airflow_llm_batch.plugin.access import UNKNOWN, require_rows
from airflow_llm_batch.plugin.api import JOB, Seen

router = APIRouter(prefix=f"/api{JOB}", dependencies=[Depends(require_rows)])
Limit = Annotated[int, Query(ge=1, le=200)]


class Spreads(BaseModel):
    """:param previous: the same of the task's run before, ``previous_run``, None where there is none."""

    now: Spread
    previous: Spread | None = None
    previous_run: str = ""


class Landed(NamedTuple):
    """A landed job's files.

    :param key: where the job lies, and ``rounds`` of it, oldest first.
    :param files: URIs of those that are its own, and ``unshown``, how many are not.
    :param rows: of all of them.
    """

    key: JobKey
    rounds: list[RoundFiles]
    files: list[str]
    unshown: int
    rows: int
    at: str


async def rounds_of(dag_id: str, run_id: str, task_id: str, map_index: str, seen: Seen) -> Landed:
    """:raises HTTPException: 404 for a job that is not there."""
    key = JobKey(dag_id, run_id, task_id, map_index)
    rounds = await seen.rounds(key)
    if not rounds:
        raise HTTPException(404, UNKNOWN)
    return landed_of(key, rounds, seen.overview.uri)


def landed_of(key: JobKey, rounds: list[RoundFiles], storage: str) -> Landed:
    """:param storage: what lies below it and the same DAG may be read together with the job: what it repairs, say."""
    manifest = next((found.manifest for found in reversed(rounds) if found.manifest is not None), None)
    if manifest is None:
        return Landed(key, rounds, [], 0, 0, "")
    below = f"{storage}/{key.dag_id}/"
    jobs = {done.job for done in manifest.rounds if done.job.startswith(below) and "/../" not in done.job}
    files = own_files(manifest.files, {*jobs, *(found.uri for found in rounds)})
    left = len(manifest.files) - len(files)
    return Landed(key, rounds, files, left, manifest.rows, manifest.landed_at.isoformat())


Job = Annotated[Landed, Depends(rounds_of)]


def plainly(read: Callable[[], Any]) -> Callable[[], Any]:
    """What cannot be read now is told, and is no trouble of the job store's."""

    def guarded() -> Any:
        try:
            return read()
        except FileNotFoundError:
            return HTTPException(
                404, "The landed files are not where this Airflow's API server can read them: moved, removed, or on a "
                "worker's own disk.",
            )  # fmt: skip
        except (LLMBatchError, ImportError) as error:
            return HTTPException(502, f"The landed files cannot be read: {error}")

    return guarded


async def answered(seen: Seen, name: Any, read: Callable[[], Any]) -> Response:
    """The JSON of what was read, whatever a row may hold."""
    value = await seen.ask(name, plainly(read))
    if isinstance(value, HTTPException):
        raise value
    plain = value._asdict() if hasattr(value, "_asdict") else value
    return Response(msgspec.json.encode(plain, enc_hook=str), media_type="application/json")


@router.get("/rows")
async def rows(job: Job, seen: Seen, wanted: Annotated[Wanted, Depends()], limit: Limit = 25) -> Response:
    """Landed rows that fit, in the order of the files."""
    name = ("rows", job.key, job.at, wanted.model_dump_json(), limit)
    return await answered(seen, name, lambda: landed_rows(job.files, wanted, limit, job.unshown))


@router.get("/failed")
async def failed(job: Job, seen: Seen, at: Annotated[int, Query(ge=0)] = 0, limit: Limit = 25) -> Response:
    """Rows that did not succeed, with the beginning of the vendor's answer."""
    newest = next((found for found in reversed(job.rounds) if found.manifest is not None), job.rounds[-1])
    return await answered(seen, ("failed", job.key, job.at, at, limit), lambda: failed_rows(newest, at, limit))


@router.get("/sent")
async def asked(job: Job, seen: Seen, number: int, shard: int, custom_id: str) -> Response:
    """One row's request as it was sent.

    :param number: of the round that asked it.
    """
    name = ("sent", job.key, number, shard, custom_id)
    return await answered(seen, name, lambda: {"sent": sent(job.rounds, number, shard, custom_id)})


@router.get("/spread")
async def spread(job: Job, seen: Seen) -> Spreads:
    """How the answers spread, beside those of the run before."""
    jobs = (await seen.look()).jobs

    def read() -> Spreads:
        before = previous(job, jobs, seen.overview)
        earlier = spread_of(tuple(before.files), before.rows, before.at) if before is not None else None
        now = spread_of(tuple(job.files), job.rows, job.at)
        return Spreads(now=now, previous=earlier, previous_run=before.key.run_id if before is not None else "")

    value = await seen.ask(("spread", job.key, job.at), plainly(read))
    if isinstance(value, HTTPException):
        raise value
    spreads: Spreads = value
    return spreads


def previous(job: Landed, jobs: list[JobView], overview: Overview) -> Landed | None:
    """The newest landed job of the same task in another run that was planned before, of the last thirty days."""
    own, planned = JobAddress.parse(job.rounds[0].uri), job.rounds[0].job
    alike = [
        shown
        for shown in jobs
        if (shown.dag_id, shown.task_id) == (job.key.dag_id, job.key.task_id)
        and (shown.index, shown.asked_model) == (own.map_index, own.model)
        and shown.run_id != job.key.run_id
        and shown.landed_at is not None
        and planned is not None
        and shown.created_at < aware(planned.created_at)
    ]
    if not alike:
        return None
    before = max(alike, key=lambda shown: shown.created_at)
    key = JobKey(before.dag_id, before.run_id, before.task_id, before.map_index)
    rounds = overview.rounds(key)
    return landed_of(key, rounds, overview.uri) if rounds else None
