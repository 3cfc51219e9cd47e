"""The pages' API: their only source of data. Every route asks for a user, and shows what that user may see."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from airflow_llm_batch.jobs.directory.address import JobKey
from airflow_llm_batch.jobs.money.accounts import DAG, PERIODS
from airflow_llm_batch.jobs.money.ledger import Ledger
from airflow_llm_batch.jobs.view.detail import JobDetail, detail
from airflow_llm_batch.jobs.view.job import JobView
from airflow_llm_batch.jobs.view.overview import WINDOW, window
from airflow_llm_batch.jobs.view.sets import SetView, gathered
from airflow_llm_batch.jobs.view.sums import Sum, summed
from airflow_llm_batch.links import files_page
from airflow_llm_batch.models import is_call
from airflow_llm_batch.plugin.access import UNKNOWN, Asks, require_edit, require_read
from airflow_llm_batch.plugin.cancelling import cancel_job
from airflow_llm_batch.plugin.runs import began_on
from airflow_llm_batch.plugin.snapshot import Snapshot

router = APIRouter(prefix="/api")
#: a job's address in the API and among the pages
JOB = "/job/{dag_id}/{run_id}/{task_id}/{map_index}"


def snapshot_of(request: Request) -> Snapshot:
    snapshot: Snapshot = request.app.state.snapshot
    return snapshot


Seen = Annotated[Snapshot, Depends(snapshot_of)]


class Jobs(BaseModel):
    """A page of jobs, newest first.

    :param jobs: the partitions of one task are one line.
    :param found: lines that match, on all pages.
    :param active: how many of all the user may see are not landed yet.
    :param dags: of all jobs that the user may see, to filter by; likewise ``providers``.
    :param since: the first day that is shown; ``until`` the day before shows what is older.
    :param note: why what is shown is not of this moment.
    """

    jobs: list[SetView | JobView]
    found: int
    active: int
    dags: list[str]
    providers: list[str]
    since: date
    note: str = ""


class BudgetView(BaseModel):
    """One budget in the current month or day, and what is left of it; dollars."""

    name: str
    by: str
    value: str
    period: str
    limit_usd: float
    spent_usd: float
    reserved_usd: float
    left_usd: float


class Totals(BaseModel):
    """:param budgets: those that span jobs, of this month and day."""

    days: list[Sum]
    dags: list[Sum]
    budgets: list[BudgetView] = []
    note: str = ""


class Page(JobDetail):
    """A job's page, whether the user may cancel it and may see its rows; ``destination_url`` is the store's own page of
    the files."""

    may_cancel: bool
    may_read_rows: bool = True
    destination_url: str = ""


class Filters(BaseModel):
    """What to show; days are UTC, both included: the last thirty by default, or thirty until ``until``.

    :param q: part of a DAG's, run's, task's, provider's or model's name; several words have to be there, each anywhere.
    """

    q: str | None = None
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    provider: str | None = None
    state: str | None = None
    since: date | None = None
    until: date | None = None

    @property
    def last(self) -> date:
        return self.until or datetime.now(UTC).date()

    @property
    def first(self) -> date:
        return self.since or self.last - WINDOW

    def days(self) -> list[date]:
        """The days of the index that tell of these jobs."""
        days = window(self.last, min(self.first, self.last))
        if self.is_of_run and (began := began_on(self.dag_id or "", self.run_id or "")) is not None:
            days += window(began, began)
        return days

    @property
    def is_of_run(self) -> bool:
        """Whether the jobs of one run are wanted, whenever that was."""
        return bool(self.dag_id and self.run_id) and self.since is None and self.until is None

    def keep(self, jobs: Iterable[JobView], readable: set[str]) -> list[JobView]:
        return [job for job in jobs if job.dag_id in readable and self.fits(job)]

    def fits(self, job: JobView) -> bool:
        day = job.created_at.date()
        own = ((self.dag_id, job.dag_id), (self.run_id, job.run_id), (self.task_id, job.task_id))
        wanted = (*own, (self.provider, job.provider))
        names = " ".join([job.dag_id, job.run_id, job.task_id, job.provider, *job.models]).casefold()
        return (
            all(word in names for word in (self.q or "").casefold().split())
            and all(asked in (None, "", actual) for asked, actual in wanted)
            and (not self.state or (job.is_at_work if self.state == "active" else job.state == self.state))
            and (self.is_of_run or day >= self.first)
            and (self.until is None or day <= self.until)
        )


def budgets_now(storage: str) -> list[BudgetView]:
    """The budgets of which something is booked in this month, or today."""
    ledger, now = Ledger(storage), datetime.now(UTC)
    views = []
    for form in PERIODS.values():
        for folder in ledger.folders(now.strftime(form)):
            if (last := ledger.last(folder)) is not None:
                left = last.limit - last.sum_spent - last.sum_reserved
                views.append(
                    BudgetView(
                        name=last.account.name, by=last.by, value=last.value, period=last.period, limit_usd=last.limit,
                        spent_usd=last.sum_spent, reserved_usd=last.sum_reserved, left_usd=left,
                    )
                )  # fmt: skip
    return views


@router.get("/jobs")
async def jobs(
    access: Asks,
    seen: Seen,
    filters: Annotated[Filters, Depends()],
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
    partitions: bool = False,
) -> Jobs:
    """Jobs, newest first.

    :param partitions: each partition of a task as a line of its own, and no other jobs.
    """
    look = await seen.look(await run_in_threadpool(filters.days))
    readable = await run_in_threadpool(access.readable, {job.dag_id for job in look.jobs})
    mine = [job for job in look.jobs if job.dag_id in readable]
    if partitions:
        parts = [job for job in mine if job.partition is not None and filters.fits(job)]
        found = sorted(parts, key=lambda job: int(job.index))
    else:
        found = gathered(mine, filters.fits)
    near = [job for job in mine if filters.run_id in (None, job.run_id) and filters.dag_id in (None, "", job.dag_id)]
    return Jobs(
        jobs=found[offset : offset + limit],
        found=len(found),
        active=sum(job.is_at_work for job in near),
        dags=sorted({job.dag_id for job in mine}),
        providers=sorted({job.provider for job in mine}),
        since=filters.first,
        note=look.note,
    )


@router.get("/totals")
async def totals(access: Asks, seen: Seen, filters: Annotated[Filters, Depends()]) -> Totals:
    """Rows, tokens, dollars and saving per day and per DAG."""
    look = await seen.look(await run_in_threadpool(filters.days))
    readable = await run_in_threadpool(access.readable, {job.dag_id for job in look.jobs})
    found = filters.keep(look.jobs, readable)
    budgets = await seen.ask("budgets", lambda: budgets_now(seen.overview.uri))
    return Totals(
        budgets=[view for view in budgets if view.by != DAG or view.value in readable],
        days=summed((job.created_at.date().isoformat(), job) for job in found),
        dags=summed((job.dag_id, job) for job in found),
        note=look.note,
    )


@router.get(JOB, dependencies=[Depends(require_read)])
async def job(dag_id: str, run_id: str, task_id: str, map_index: str, access: Asks, seen: Seen) -> Page:
    """One job in full."""
    key = JobKey(dag_id, run_id, task_id, map_index)
    rounds = await seen.rounds(key)
    if not rounds:
        raise HTTPException(404, UNKNOWN)

    def read() -> JobDetail:
        landed = rounds[-1].manifest is not None
        return detail(key, rounds, replaced=not landed and seen.overview.is_replaced(key))

    shown_job = await seen.ask(key, read)
    called = any(is_call(shard.batch_id) and not shard.is_tried for shard in shown_job.timeline)
    active = shown_job.state == "running" and not called
    may_cancel = active and await run_in_threadpool(access.may, "PUT", dag_id)
    may_read = await run_in_threadpool(access.may_read_rows, dag_id)
    shown = files_page(shown_job.destination) if shown_job.destination else ""
    # These hold prompts, keys and answers.
    facts = dict(shown_job) if may_read else {**dict(shown_job), "tried": None, "failures": []}
    return Page(**facts, may_cancel=may_cancel, may_read_rows=may_read, destination_url=shown)


@router.post(f"{JOB}/cancel", dependencies=[Depends(require_edit)])
async def cancel(dag_id: str, run_id: str, task_id: str, map_index: str, seen: Seen) -> dict[str, str]:
    """Ask the vendor to cancel what runs of a job. Finished rows stay billed, and can still be fetched."""
    key = JobKey(dag_id, run_id, task_id, map_index)
    rounds = await seen.rounds(key)
    if not rounds:
        raise HTTPException(404, UNKNOWN)
    try:
        message = await run_in_threadpool(cancel_job, key, rounds[-1].uri)
    finally:
        seen.forget(key)
    return {"message": message}
