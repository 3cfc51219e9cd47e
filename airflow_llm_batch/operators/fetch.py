"""Ended batches to landed results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.data.checks import texts_of, verify
from airflow_llm_batch.exceptions import plainly
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.options import Origin, Target
from airflow_llm_batch.lineage import emit_asset_events
from airflow_llm_batch.links import addresses
from airflow_llm_batch.operators.arguments import LandsResults
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.operators.partitioned import landed_nothing, told_landed

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.directory.store import JobStore


class FetchResultsOperator(LandsResults):
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
    :param checks: what answers have to pass, in place of the job's own (``SubmitBatchOperator``).
    :param alerts: who is told of the landing, and when: ``Alerts(notify=[...])``.
    :param conn_id: the ``llmbatch`` connection; the job's own by default.
    :return: the manifest's summary (XCom): ``{"manifest": URI, "message": one line for people, "files": [URI], "rows",
        "counts": {status: n}, "input_tokens", "output_tokens", "cost_usd", "sync_cost_usd", "saving_usd",
        "estimated_cost_usd": numbers or None, "provider", "models", "batches": [ids], "lane", "rounds"}``. Of a
        partition also ``partition``, and ``set_manifest``, the URI where all partitions are told together once the last
        of them is landed.
    """

    template_fields: Sequence[str] = ("job", *LandsResults.template_fields, "conn_id")
    ui_color = "#d9f2e3"

    def __init__(
        self,
        *,
        job: Mapping[str, Any] | str,
        checks: Sequence[Any] | None = None,
        conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.checks = texts_of(checks)
        self.conn_id = conn_id

    @property
    def target(self) -> Target:
        return replace(super().target, checks=self.checks)

    @plainly
    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.run import JobRun

        self.check_landing()
        handle = JobHandle.of(self.job, self.conn_id)
        if handle.is_empty:
            return landed_nothing(JobStore(str(handle.job)), handle.partition, handle.provider, self.log)
        hook = LLMBatchHook(handle.conn_id)
        try:
            store = self._store(hook, handle, context)
            job = store.job()
            schema, refusal = job.output_schema, "Nothing was landed, and nothing is lost."
            verify(self.checks or (), job.columns, schema, free=schema is None, refusal=refusal)
            run = JobRun(hook, store, Origin.of(job), self.log)
            manifest = run.land(self.target)
        finally:
            hook.close()
        uri = run.store.manifest_uri
        summary = manifest.summary(uri)
        self.link_addresses = addresses(run.store.uri, hook.provider, manifest.batches, manifest.destination)
        told_landed(run.store, {uri: manifest}, summary, self.log)
        self.alerts.tell_of_landing(context, self.log, summary, run.job.max_cost)
        self.check_failures(summary, uri)
        emit_asset_events(self.outlets, context, summary)
        self._landed = run.store
        return summary

    def _store(self, hook: LLMBatchHook, handle: JobHandle, context: Context) -> JobStore:
        """The job's directory; a batch that was made elsewhere gets one of this task's."""
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.landing.land import ended
        from airflow_llm_batch.jobs.submission.external import adopted_job

        if handle.job is not None:
            return JobStore(handle.job)
        batch_id = handle.batches[0]
        store = JobStore(Origin.of(context["ti"]).address().of_model(batch_id).uri)
        adopted_job(store, hook, ended(hook.get_batch(batch_id)))
        return store
