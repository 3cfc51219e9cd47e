"""Old job directories taken away."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.store import JobStore


class CleanupJobsOperator(BaseOperator):
    """Removes job directories that are older than a given age. Landed results and the vendor's files are left alone.

    A job that was not landed is kept however old it is: what the vendor has finished of it is paid for and may still be
    fetched.

    :param older_than: age since landing, or since planning for jobs that were not landed.
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

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_llm_batch.jobs.listing import find_jobs
        from airflow_llm_batch.operators.waiting import seconds

        age = seconds(self.older_than)
        if age is None or age < 0:
            raise ConfigurationError(f"older_than is {self.older_than!r}; give a timedelta or seconds, 0 or more.")
        before = datetime.now(UTC) - timedelta(seconds=age)
        removed: list[str] = []
        waiting: list[str] = []
        kept = 0
        for store in find_jobs(self.storage, self.of_dag):
            if not is_old(store, before):
                kept += 1
            elif store.manifest() is None and not self.unlanded:
                waiting.append(store.uri)
            else:
                removed.append(store.uri)
                if not self.only_tell:
                    store.remove()
        told = "Would remove" if self.only_tell else "Removed"
        self.log.info("%s %d job directories; kept %d that are younger.", told, len(removed), kept)
        if waiting:
            self.log.warning(
                "Kept %d old jobs that were never landed: %s. Fetch them, or remove them with unlanded=True.",
                len(waiting), ", ".join(waiting[:20]),
            )  # fmt: skip
        return {"removed": removed, "kept": kept, "unlanded": waiting}


def is_old(store: JobStore, before: datetime) -> bool:
    """Whether nothing happened to a job, or to a further round of it, since then."""
    job, landings = store.load_job(), store.landings()
    if job is None:
        return False
    return max([job.created_at, *(landed.landed_at for landed in landings)]) < before
