"""The pages' API: their only source of data. Every route asks for a user, and shows what that user may see."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from airflow_llm_batch.jobs.directory.address import JobKey
from airflow_llm_batch.jobs.view.detail import JobDetail, detail
from airflow_llm_batch.jobs.view.overview import JobView, following, total
from airflow_llm_batch.links import files_page
from airflow_llm_batch.models import is_call
from airflow_llm_batch.plugin.access import UNKNOWN, Asks, require_edit, require_read
from airflow_llm_batch.plugin.snapshot import Snapshot, StoreTrouble

log = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
#: states of jobs that are on their way
AT_WORK = ("running", "ended")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Jobs(BaseModel):
    """A page of jobs, newest first.

    :param found: jobs that match, on all pages.
    :param active: how many of all the user may see are not landed yet.
    :param dags: of all jobs that the user may see, to filter by; likewise ``providers``.
    :param note: why what is shown is not of this moment.
    """

    jobs: list[JobView]
    found: int
    active: int
    dags: list[str]
    providers: list[str]
    note: str = ""


class Sum(BaseModel):
    """What the jobs of one day or one DAG came to. Dollars of jobs whose cost is not known are not in it; ``unknown``
    counts those jobs."""

    name: str
    jobs: int = 0
    rows: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    saving_usd: float = 0.0
    unknown: int = 0


class Totals(BaseModel):
    days: list[Sum]
    dags: list[Sum]
    note: str = ""


class Page(JobDetail):
    """A job's page, and whether the user may cancel it; ``destination_url`` is the store's own page of the files."""

    may_cancel: bool
    destination_url: str = ""
    note: str = ""


class Filters(BaseModel):
    """What to show; days are UTC, both included."""

    dag_id: str | None = None
    run_id: str | None = None
    provider: str | None = None
    state: str | None = None
    since: date | None = None
    until: date | None = None

    def keep(self, jobs: Iterable[JobView], readable: set[str]) -> list[JobView]:
        return [job for job in jobs if job.dag_id in readable and self.fits(job)]

    def fits(self, job: JobView) -> bool:
        day = job.created_at.date()
        wanted = ((self.dag_id, job.dag_id), (self.run_id, job.run_id), (self.provider, job.provider))
        states = {"active": AT_WORK}.get(self.state or "", (self.state,))
        return (
            all(asked in (None, "", actual) for asked, actual in wanted)
            and (not self.state or job.state in states)
            and (self.since is None or day >= self.since)
            and (self.until is None or day <= self.until)
        )


def make_app(snapshot: Snapshot | None = None) -> FastAPI:
    """:param snapshot: another store than Airflow's own, for tests."""
    app = FastAPI(
        title="LLM batches",
        description="Jobs of airflow-provider-llm-batch, as the pages in the Airflow UI show them.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(get_user)],
    )
    seen = snapshot or Snapshot()
    job_path = "/job/{dag_id}/{run_id}/{task_id}/{map_index}"

    @app.middleware("http")
    async def guard(request: Request, proceed: Any) -> Response:
        response: Response = await proceed(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.exception_handler(StoreTrouble)
    def no_store(request: Request, error: StoreTrouble) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    @app.get("/api/openapi.json", include_in_schema=False)
    def schema() -> dict[str, Any]:
        """The API's own description."""
        return app.openapi()

    @app.get("/api/jobs")
    async def jobs(
        access: Asks,
        filters: Annotated[Filters, Depends()],
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> Jobs:
        """Jobs, newest first."""
        look = await seen.look()
        readable = await run_in_threadpool(access.readable, {job.dag_id for job in look.jobs})
        mine = [job for job in look.jobs if job.dag_id in readable]
        found = filters.keep(mine, readable)
        near = [
            job for job in mine if filters.run_id in (None, job.run_id) and filters.dag_id in (None, "", job.dag_id)
        ]
        return Jobs(
            jobs=found[offset : offset + limit],
            found=len(found),
            active=sum(job.state in AT_WORK for job in near),
            dags=sorted({job.dag_id for job in mine}),
            providers=sorted({job.provider for job in mine}),
            note=look.note,
        )

    @app.get("/api/totals")
    async def totals(access: Asks, filters: Annotated[Filters, Depends()]) -> Totals:
        """Rows, tokens, dollars and saving per day and per DAG."""
        look = await seen.look()
        readable = await run_in_threadpool(access.readable, {job.dag_id for job in look.jobs})
        found = filters.keep(look.jobs, readable)
        return Totals(
            days=summed((job.created_at.date().isoformat(), job) for job in found),
            dags=summed((job.dag_id, job) for job in found),
            note=look.note,
        )

    @app.get(f"/api{job_path}", dependencies=[Depends(require_read)])
    async def job(dag_id: str, run_id: str, task_id: str, map_index: str, access: Asks) -> Page:
        """One job in full."""
        look = await seen.look()
        key = JobKey(dag_id, run_id, task_id, map_index)
        rounds = look.rounds.get(key)
        if rounds is None:
            raise HTTPException(404, UNKNOWN)
        shown_job = await seen.ask(key, lambda: detail(key, rounds, replaced=following(key) in look.rounds))
        called = any(is_call(shard.batch_id) for shard in shown_job.timeline)
        active = shown_job.state == "running" and not called
        may_cancel = active and await run_in_threadpool(access.may, "PUT", dag_id)
        shown = files_page(shown_job.destination) if shown_job.destination else ""
        return Page(**dict(shown_job), may_cancel=may_cancel, destination_url=shown, note=look.note)

    @app.post(f"/api{job_path}/cancel", dependencies=[Depends(require_edit)])
    async def cancel(dag_id: str, run_id: str, task_id: str, map_index: str) -> dict[str, str]:
        """Ask the vendor to cancel what runs of a job. Finished rows stay billed, and can still be fetched."""
        rounds = (await seen.look()).rounds.get(JobKey(dag_id, run_id, task_id, map_index))
        if rounds is None:
            raise HTTPException(404, UNKNOWN)
        try:
            message = await run_in_threadpool(cancel_job, rounds[-1].uri)
        finally:
            seen.forget()
        return {"message": message}

    @app.get("/", include_in_schema=False)
    @app.get("/run/{dag_id}/{run_id}", include_in_schema=False)
    @app.get(job_path, include_in_schema=False)
    def page(request: Request) -> HTMLResponse:
        """The same page for every address; its script reads which one it is."""
        root = request.scope.get("root_path", "").rstrip("/") + "/"
        return HTMLResponse((STATIC / "index.html").read_text().replace("{root}", root))

    files = StaticFiles(directory=STATIC)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        try:
            response: Response = await files.get_response(name, request.scope)
        except StarletteHTTPException as error:
            raise HTTPException(error.status_code) from None
        response.headers["Cache-Control"] = "no-cache"
        return response

    return app


def summed(jobs: Iterable[tuple[str, JobView]]) -> list[Sum]:
    """Jobs by name, in the order of the names."""
    groups: dict[str, list[JobView]] = {}
    for name, job in jobs:
        groups.setdefault(name, []).append(job)
    return [
        Sum(
            name=name,
            jobs=len(group),
            rows=sum(job.requests for job in group),
            tokens=sum(job.tokens for job in group),
            cost_usd=total(job.cost_usd or 0 for job in group) or 0,
            saving_usd=total(job.saving_usd or 0 for job in group) or 0,
            unknown=sum(job.cost_usd is None and job.landed_at is not None for job in group),
        )
        for name, group in sorted(groups.items())
    ]


def cancel_job(uri: str) -> str:
    """Cancel what runs of a job; the waiting task sees it end, and lands what was finished.

    :raises HTTPException: 409 when there is nothing to cancel, or not yet; 502 when it cannot be cancelled.
    """
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.waiting.wait import JobWait

    store = JobStore(uri)
    try:
        hook = LLMBatchHook(store.job().conn_id)
        try:
            wait = JobWait(hook, store, log)
            # What has ended meanwhile is written down, and not cancelled.
            wait.look()
            planned, creating = len(wait.wait.planned), wait.wait.doubtful
            if not (wait.wait.pending or planned or creating):
                raise HTTPException(409, "Nothing of this job runs any more.")
            taken = wait.withdraw()
        finally:
            hook.close()
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(502, f"The job could not be cancelled: {error}") from None
    done = [f"Cancellation of {wait.cancelled} batch(es) was asked for"] if wait.cancelled else []
    done += [f"{planned} that waited for room will not be sent"] if planned else []
    done += [f"{wait.uncertain} may be somebody else's and cannot be cancelled"] if wait.uncertain else []
    done += ["one is being created at this moment; cancel once more when it is there"] if creating else []
    if not taken:
        raise HTTPException(502, "; ".join([*done, "the vendor did not take every cancellation: try again"]) + ".")
    if not (wait.cancelled or planned):
        raise HTTPException(409, "; ".join(done).capitalize() + ".")
    return "; ".join(done) + ". Vendors take up to ten minutes; finished rows stay billed."
