"""Ended batches to landed results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_llm_batch.data.formats import check_format
from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators.handle import JobHandle

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.store import JobStore
    from airflow_llm_batch.models import Batch, Job, Manifest


class FetchResultsOperator(BaseOperator):
    """Downloads a job's results and writes exactly one record per input row to object storage.

    Whatever a batch ended as, what it finished is harvested; every other row is landed with the status and reason that
    explain it. Files appear whole or not at all, the manifest last; landing again costs nothing and overwrites the
    same files.

    :param job: the output of a ``BatchSensor`` (or Submit) task, or the URI of a job directory.
    :param destination: directory for ``results-{job id}-{shard}.jsonl``, any ``ObjectStoragePath`` URI.
    :param format: ``jsonl``, ``jsonl.gz``, ``jsonl.zst`` (extra ``zstd``) or ``parquet`` (extra ``parquet``).
    :param max_file_size: bytes after which another file is begun; one file per shard by default.
    :param fail_on: fails the task, after landing, when this many rows did not succeed: ``"any"``, ``"all"``, a share
        between 0 and 1, or ``"none"`` to never fail for rows.
    :param conn_id: the ``llmbatch`` connection; the job's own by default.
    :return: the manifest's summary (XCom): ``{"manifest": URI, "files": [URI], "rows", "counts": {status: n},
        "input_tokens", "output_tokens", "cost_usd": number or None, "batches": [ids]}``.
    """

    template_fields: Sequence[str] = ("job", "destination", "format", "fail_on", "conn_id")
    ui_color = "#d9f2e3"

    def __init__(
        self,
        *,
        job: Mapping[str, Any] | str,
        destination: str,
        format: str = "jsonl",  # noqa: A002
        max_file_size: int | None = None,
        fail_on: Literal["any", "all", "none"] | float | str = "all",
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
        self.fail_on = fail_on
        self.conn_id = conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_llm_batch.jobs.results import Landing, Target
        from airflow_llm_batch.jobs.store import JobStore

        share = failing_share(self.fail_on)
        handle = JobHandle.of(self.job, self.conn_id)
        hook = LLMBatchHook(handle.conn_id)
        if handle.job is None:
            store, job = self._adopt(hook, handle.batches[0], context)
        else:
            store = JobStore(handle.job)
            job = store.job()
        if hook.provider.name != job.provider:
            raise ConfigurationError(
                f"The job was submitted to {job.provider}; connection {handle.conn_id!r} is for {hook.provider.name}."
            )
        try:
            before = store.manifest()
            landing = Landing(store, job, hook, Target(self.destination, self.format, self.max_file_size), self.log)
            manifest = landing.land(ended_batches(store, hook, job))
        finally:
            hook.close()
        uri = store.save_manifest(manifest)
        self._report(manifest)
        self._remove_superseded(store, manifest, before)
        failed = manifest.rows - manifest.counts["succeeded"]
        if share is not None and failed and failed >= share * manifest.rows:
            raise ResultsUnusable(
                f"{failed:,} of {manifest.rows:,} rows did not succeed ({told_counts(manifest)}), which fail_on="
                f"{self.fail_on!r} does not accept. {told_reasons(manifest)}Everything was landed: {uri}"
            )
        return manifest.summary(uri)

    def _adopt(self, hook: LLMBatchHook, batch_id: str, context: Context) -> tuple[JobStore, Job]:
        """A job directory, this task's own, for a batch that was made elsewhere."""
        from airflow_llm_batch.jobs.adoption import adopted_job
        from airflow_llm_batch.jobs.store import JobStore, job_uri

        ti = context["ti"]
        map_index = -1 if ti.map_index is None else ti.map_index
        store = JobStore(job_uri(None, ti.dag_id, ti.run_id, ti.task_id, map_index) + f"/{batch_id}")
        return store, adopted_job(store, hook, ended(hook.get_batch(batch_id)))

    def _remove_superseded(self, store: JobStore, manifest: Manifest, before: Manifest | None) -> None:
        """Take away what was landed in the same place by jobs that this one replaced, and by an earlier landing of this
        one in another format or other sizes: rows must not be there twice."""
        from airflow_llm_batch.storage import storage_path

        for landed in (before, *(previous.manifest() for previous in store.previous_generations())):
            superseded = set(landed.files) if landed and landed.destination == manifest.destination else set()
            for file in sorted(superseded - set(manifest.files)):
                storage_path(file).unlink(missing_ok=True)
                self.log.info("Removed %s, landed earlier and superseded.", file)

    def _report(self, manifest: Manifest) -> None:
        cost = "unknown" if manifest.cost_usd is None else f"${manifest.cost_usd:,.6f}"
        self.log.info(
            "Landed %s rows (%s); %s input and %s output tokens; cost %s. In %s",
            f"{manifest.rows:,}", told_counts(manifest), f"{manifest.input_tokens:,}", f"{manifest.output_tokens:,}",
            cost, manifest.destination,
        )  # fmt: skip
        if reasons := told_reasons(manifest):
            self.log.warning("%s", reasons)
        dropped = {reason: n for reason, n in manifest.dropped.items() if n}
        if dropped:
            self.log.warning("Lines that were not landed: %s; unreadable ones are kept in %s.", dropped, manifest.aside)


def told_counts(manifest: Manifest) -> str:
    return ", ".join(f"{n:,} {status}" for status, n in manifest.counts.items() if n)


def told_reasons(manifest: Manifest) -> str:
    """The most frequent reasons in words, empty when there are none."""
    told = "; ".join(f"{r.rows:,} x {r.code or r.status}: {r.message or 'no message'}" for r in manifest.reasons)
    return f"Reasons: {told}. " if told else ""


def failing_share(fail_on: Any) -> float | None:
    """``fail_on`` as the share of unsuccessful rows that fails the task, None for never.

    :raises ConfigurationError: for anything that is not one.
    """
    named = {"any": 0.0, "all": 1.0, "none": None}
    if fail_on in named:
        return named[fail_on]
    try:
        share = float(fail_on)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigurationError(f"fail_on is {fail_on!r}; give 'any', 'all', 'none' or a share between 0 and 1.")
    return share


def ended_batches(store: JobStore, hook: LLMBatchHook, job: Job) -> dict[int, Batch]:
    """Every shard's batch as it ended.

    :raises ConfigurationError: when one was never submitted or still runs.
    """
    batches = {}
    for shard in job.shards:
        batch = store.ended(shard.index)
        if batch is None:
            created = store.created(shard.index)
            if created is None:
                raise ConfigurationError(
                    f"Shard {shard.index} of {store.uri} was never submitted; clear the submitting task."
                )
            batch = ended(hook.get_batch(created.batch_id))
            store.save_ended(shard.index, batch)
        batches[shard.index] = batch
    return batches


def ended(batch: Batch) -> Batch:
    """:raises ConfigurationError: when the batch still runs."""
    if batch.outcome is None:
        raise ConfigurationError(
            f"Batch {batch.id} is still {batch.status!r}; put a BatchSensor between submitting and fetching."
        )
    return batch
