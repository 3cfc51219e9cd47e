"""Ended batches to landed results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_llm_batch.data.formats import check_format
from airflow_llm_batch.exceptions import plainly
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.lineage import emit_asset_events, lineage_of
from airflow_llm_batch.links import LINKS, addresses
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.operators.landing import check_failures, ended, failing_share, land

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job


class FetchResultsOperator(BaseOperator):
    """Downloads a job's results and writes exactly one record per input row to object storage.

    Whatever a batch ended as, what it finished is harvested; every other row is landed with the status and reason that
    explain it. Files appear whole or not at all, the manifest last; landing again costs nothing and overwrites the
    same files.

    A job whose rows are ``FailedRows`` is landed together with what was landed before of the other rows: one complete
    set again, which takes the place of the earlier one where both go to the same destination.

    :param job: the output of a ``BatchSensor`` (or Submit) task, or the URI of a job directory.
    :param destination: directory for ``results-{job id}-{shard}.jsonl``, any ``ObjectStoragePath`` URI.
    :param format: ``jsonl``, ``jsonl.gz``, ``jsonl.zst`` (extra ``zstd``) or ``parquet`` (extra ``parquet``).
    :param max_file_size: bytes after which another file is begun; one file per shard by default.
    :param fail_on: fails the task, after landing, when this many rows did not succeed: a share between 0 and 1 (half of
        them by default), ``"any"``, ``"all"``, or ``"none"`` to never fail for rows.
    :param keep_raw: the vendor's whole answer as a column ``raw``, for what the other columns leave out.
    :param conn_id: the ``llmbatch`` connection; the job's own by default.
    :return: the manifest's summary (XCom): ``{"manifest": URI, "message": one line for people, "files": [URI], "rows",
        "counts": {status: n}, "input_tokens", "output_tokens", "cost_usd", "sync_cost_usd", "saving_usd",
        "estimated_cost_usd": numbers or None, "provider", "models", "batches": [ids], "rounds"}``.
    """

    template_fields: Sequence[str] = ("job", "destination", "format", "fail_on", "conn_id")
    operator_extra_links = LINKS
    ui_color = "#d9f2e3"

    def __init__(
        self,
        *,
        job: Mapping[str, Any] | str,
        destination: str,
        format: str = "jsonl",  # noqa: A002
        max_file_size: int | None = None,
        fail_on: Literal["any", "all", "none"] | float | str = 0.5,
        keep_raw: bool = False,
        conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # A typo found here is found before anything is paid for.
        if "{" not in str(fail_on):
            failing_share(fail_on)
        if "{" not in format:
            check_format(format)
        self.job = job
        self.destination = destination
        self.format = format
        self.max_file_size = max_file_size
        self.keep_raw = keep_raw
        self.link_addresses: dict[str, str] = {}
        self._landed: JobStore | None = None
        self.fail_on = fail_on
        self.conn_id = conn_id

    @plainly
    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.landing.land import Target

        failing_share(self.fail_on)
        handle = JobHandle.of(self.job, self.conn_id)
        hook = LLMBatchHook(handle.conn_id)
        try:
            if handle.job is None:
                store, job = self._adopt(hook, handle.batches[0], context)
            else:
                store = JobStore(handle.job)
                job = store.job()
            target = Target(self.destination, self.format, self.max_file_size, self.keep_raw)
            manifest = land(store, job, hook, target, self.log)
        finally:
            hook.close()
        summary = manifest.summary(store.manifest_uri)
        self.link_addresses = addresses(store.uri, hook.provider, manifest.batches, manifest.destination)
        check_failures(summary, store.manifest_uri, self.fail_on)
        emit_asset_events(self.outlets, context, summary)
        self._landed = store
        return summary

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Where the rows came from and what was landed, for the OpenLineage provider."""
        return lineage_of(self._landed) if self._landed is not None else None

    def _adopt(self, hook: LLMBatchHook, batch_id: str, context: Context) -> tuple[JobStore, Job]:
        """A job directory, this task's own, for a batch that was made elsewhere."""
        from airflow_llm_batch.jobs.directory.store import JobStore, job_uri
        from airflow_llm_batch.jobs.submission.external import adopted_job

        ti = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        store = JobStore(job_uri(None, ti.dag_id, ti.run_id, ti.task_id, map_index) + f"~{batch_id}")
        return store, adopted_job(store, hook, ended(hook.get_batch(batch_id)))
