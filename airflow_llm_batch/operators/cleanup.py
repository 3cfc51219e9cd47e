"""Old job directories taken away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_llm_batch.exceptions import ConfigurationError, plainly
from airflow_llm_batch.jobs.directory.address import JobAddress, default_storage

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.directory.store import JobStore


class CleanupJobsOperator(BaseOperator):
    """Removes job directories that are older than a given age. Landed results and the vendor's files are left alone.

    A job that was not landed is kept however old it is: what the vendor has finished of it is paid for and may still be
    fetched. So is one whose failed rows a job that is kept has asked again. What one task instance has made, further
    rounds and replaced jobs, goes together or stays. A task that is cleared afterwards starts anew, and pays again;
    where its results still lie at its destination, it refuses before that. Events that vendors have pushed go likewise,
    those of the last two days excepted.

    :param older_than: age since something last happened to a job: its planning, its landing, a further round.
    :param unlanded: remove jobs that were not landed too.
    :param of_dag: only the jobs of the DAG with this id.
    :param dry_run: only tell what would be removed.
    :param storage: object storage URI of the job directories; ``[llm_batch] storage`` by default.
    :return: ``{"removed": [URI], "kept": n, "unlanded": [URI]}``, the last being jobs of that age that were kept.
    """

    template_fields: Sequence[str] = ("older_than", "of_dag", "storage")
    ui_color = "#e6e6e6"

    def __init__(
        self,
        *,
        older_than: timedelta | float = timedelta(days=30),
        unlanded: bool = False,
        of_dag: str | None = None,
        dry_run: bool = False,
        storage: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.older_than = older_than
        self.unlanded = unlanded
        self.of_dag = of_dag
        self.only_tell = dry_run
        self.storage = storage

    @plainly
    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_llm_batch.jobs.directory import history
        from airflow_llm_batch.jobs.directory.awaited import forget_awaited
        from airflow_llm_batch.jobs.directory.indexed import forget_jobs
        from airflow_llm_batch.jobs.directory.listing import find_jobs
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.money.funds import release
        from airflow_llm_batch.jobs.sets.store import remove_set
        from airflow_llm_batch.operators.waiting import seconds
        from airflow_llm_batch.webhooks import forget_events

        age = seconds(self.older_than)
        if age is None or age < 0:
            raise ConfigurationError(f"older_than is {self.older_than!r}; give a timedelta or seconds, 0 or more.")
        before = datetime.now(UTC) - timedelta(seconds=age)
        tasks: dict[tuple[str, str], Task] = {}
        for store in find_jobs(self.storage, self.of_dag):
            tasks.setdefault(task_of(store.uri), Task()).add(store)
        removed: list[str] = []
        waiting: list[str] = []
        for task in (task for task in tasks.values() if task.newest < before):
            (waiting if task.is_unlanded and not self.unlanded else removed).extend(task.stores)
        gone = set(removed)
        needed = {uri for task in tasks.values() if not gone.issuperset(task.stores) for uri in needs(task, tasks)}
        removed = [uri for uri in removed if uri not in needed]
        sets: set[str] = set()
        for uri in () if self.only_tell else removed:
            for store, job in history.rounds(JobStore(uri)):
                if job.budgeted:
                    release(store, sent=history.is_sent(store, job))
                if job.partition is not None:
                    sets.add(store.address.folder)
            JobStore(uri).remove()
        left = {task_of(uri)[0] for task in tasks.values() for uri in task.stores if uri not in removed}
        for folder in sets - left:
            remove_set(folder)
        if not self.only_tell:
            forget_jobs(self.storage or default_storage(), [JobAddress.parse(uri) for uri in removed])
        if not self.only_tell and self.of_dag is None:
            forget_events(self.storage or default_storage(), before)
            forget_awaited(self.storage or default_storage(), before)
        kept = sum(len(task.stores) for task in tasks.values()) - len(removed) - len(waiting)
        what = "Would remove" if self.only_tell else "Removed"
        self.log.info("%s %d job directories; kept %d that are younger.", what, len(removed), kept)
        if waiting:
            self.log.warning(
                "Kept %d old jobs that were never landed: %s. Fetch them, or remove them with unlanded=True.",
                len(waiting), ", ".join(waiting[:20]),
            )  # fmt: skip
        return {"removed": removed, "kept": kept, "unlanded": waiting}


class Task:
    """All jobs that one task instance has made: those that a changed input replaced go and stay with the newest one.

    :ivar newest: when something last happened to one of them.
    :ivar is_unlanded: something was sent of the newest that was not landed.
    :ivar repairs: jobs of other tasks that these were made from.
    """

    def __init__(self) -> None:
        self.stores: list[str] = []
        self.repairs: set[str] = set()
        self.newest = datetime.min.replace(tzinfo=UTC)
        self.is_unlanded = False

    def add(self, store: JobStore) -> None:
        """Take in a job, in the order in which they replaced each other."""
        from airflow_llm_batch.jobs.directory import history

        self.stores.append(store.uri)
        for round_, job in history.rounds(store):
            manifest = round_.manifest()
            self.newest = max([self.newest, job.created_at, *([manifest.landed_at] if manifest else [])])
            self.is_unlanded = manifest is None and history.is_begun(round_, job)
            if job.repairs is not None:
                self.repairs.add(job.repairs)


def task_of(uri: str) -> tuple[str, str]:
    """What the jobs of one task instance have in common."""
    address = JobAddress.parse(uri)
    return address.folder, address.map_index


def needs(task: Task, tasks: dict[tuple[str, str], Task]) -> set[str]:
    """The jobs that a task's were made from, and those were made from in turn."""
    found: set[str] = set()
    wanted = set(task.repairs)
    while wanted:
        other = tasks.get(task_of(wanted.pop()))
        if other is not None and not found.issuperset(other.stores):
            found.update(other.stores)
            wanted |= other.repairs
    return found
