"""Landing a job, for the operators that do: the results, what they replace, what is told, what fails the task."""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.landing.land import Target
    from airflow_llm_batch.models import Batch, Job, Manifest


def land(
    store: JobStore, job: Job, hook: LLMBatchHook, target: Target, log: Logger, only: Container[int] | None = None
) -> Manifest:
    """Land a job's results and publish its manifest, then take away what the landed files replace.

    What the vendor does not have any more, or a repair has landed together with its own rows, is left as it lies.

    :param only: the rows that this job has to account for, None for all of its own.
    :raises ResultsUnusable: when the vendor's files are gone and something else is wanted than was landed.
    """
    from airflow_llm_batch.jobs.landing.land import Landing
    from airflow_llm_batch.metrics import count_landing

    if hook.provider.name != job.provider:
        raise ConfigurationError(
            f"The job was submitted to {job.provider}; connection {hook.conn_id!r} is for {hook.provider.name}."
        )
    before = store.manifest()
    if before is not None and (by := store.taken_over()) is not None and is_landed(by, target):
        log.info("The rows lie there already, landed together with those of the repair at %s.", by.uri)
        return before
    if store.cleaned() == "all":
        return as_landed(store, target)
    landing = Landing(store, job, hook, target, log, only)
    manifest = landing.land(ended_batches(store, hook, job), before)
    store.save_manifest(manifest)
    if before is None:
        count_landing(job, landing.own)
    report(manifest, log)
    remove_superseded(store, job, manifest, before, log)
    delete_files(store, job, hook, manifest, log)
    return manifest


def as_landed(store: JobStore, target: Target) -> Manifest:
    """The landing of a job whose results the vendor does not have any more.

    :raises ResultsUnusable: when it is not there, or was another.
    """
    manifest = store.manifest()
    if manifest is not None and is_landed(store, target):
        return manifest
    raise ResultsUnusable(
        f"The vendor's files of {store.uri} were deleted after they were landed (delete_files='all'), and cannot be "
        f"landed once more. What was landed: {', '.join(manifest.files) if manifest else 'unknown'}."
    )


def delete_files(store: JobStore, job: Job, hook: LLMBatchHook, manifest: Manifest, log: Logger) -> None:
    """Delete the vendor's files of a landed job, as the connection's ``delete_files`` says, and never before every row
    was seen to be landed. A failure is told and harms nothing: files expire by themselves."""
    from airflow_llm_batch.jobs.landing.carry import exists

    scope = hook.connection.extra_dejson.get("delete_files") or hook.provider.deletes
    if scope not in ("none", "inputs", "all"):
        raise ConfigurationError(
            f"The connection's delete_files is {scope!r}; give 'none', 'inputs' or 'all'. Everything was landed."
        )
    whole = manifest.rounds[-1].rows == job.rows and all(map(exists, manifest.files))
    called = store.lane(job) == "online"
    if scope == "none" or job.adopted or called or not whole or store.cleaned() in (scope, "all"):
        return
    deleted = 0
    try:
        for shard in job.shards:
            batch = store.ended(shard.index)
            if batch is not None and batch.id:
                deleted += hook.run(hook.provider.delete(batch, scope))
        store.save_cleaned(scope)
    except Exception as error:
        log.warning("The vendor's files could not all be deleted: %s", error)
    if deleted:
        log.info("Deleted %d of the vendor's files (%s); what was landed is whole.", deleted, scope)


def land_once(store: JobStore, job: Job, hook: LLMBatchHook, target: Target, log: Logger) -> Manifest:
    """What the job, or a later round of it, has landed already; else land it."""
    manifest = store.manifest()
    if manifest is None or not is_landed(store, target):
        return land(store, job, hook, target, log)
    # The last try may have been killed right before this.
    remove_superseded(store, job, manifest, None, log)
    return manifest


def is_landed(store: JobStore, target: Target) -> bool:
    """Whether the rows lie there already, as this job has landed them, or one that repairs it."""
    from airflow_llm_batch.data.sinks import sink_class
    from airflow_llm_batch.jobs.landing.carry import exists
    from airflow_llm_batch.storage import storage_path

    manifest = store.manifest()
    if manifest is None or manifest.destination != str(storage_path(target.destination)):
        return False
    if not all(file.endswith(sink_class(target.format).suffix) for file in manifest.files):
        return False
    if all(map(exists, manifest.files)):
        return True
    by = store.taken_over()
    return by is not None and is_landed(by, target)


def remove_superseded(store: JobStore, job: Job, manifest: Manifest, before: Manifest | None, log: Logger) -> None:
    """Take away what was landed in the same place by jobs that this one replaced or repaired, and by an earlier landing
    of this one in another format or other sizes: rows must not be there twice."""
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.storage import storage_path, sweep

    others = [landed for previous in store.first.previous_generations() for landed in previous.landings()]
    if job.repairs is not None:
        repaired = JobStore(job.repairs)
        others += filter(None, [repaired.manifest()])
        repaired.save_taken_over(store.uri)
    for landed in filter(None, [before, *others]):
        superseded = set(landed.places.get(manifest.destination, ()))
        for file in sorted(superseded - set(manifest.files)):
            storage_path(file).unlink(missing_ok=True)
            log.info("Removed %s, landed earlier and superseded.", file)
    sweep(storage_path(manifest.destination), {file.rpartition("/")[2] for file in manifest.files})


def remove_others(store: JobStore, files: Collection[str], destination: str, log: Logger) -> None:
    """Take away what the task instance has landed in this place and does not account for now: other models' rows, say,
    that are not asked any more.

    :param files: what it has landed now, all models together.
    """
    from airflow_llm_batch.storage import storage_path

    for sibling in store.siblings():
        for landed in sibling.landings():
            for file in sorted(set(landed.places.get(destination, ())) - set(files)):
                path = storage_path(file)
                if path.exists():
                    path.unlink(missing_ok=True)
                    log.info("Removed %s, which this task has landed earlier.", file)


def report(manifest: Manifest, log: Logger) -> None:
    """The landing, in the task's log."""
    log.info("%s", manifest.message)
    log.info(
        "%s input and %s output tokens. In %s",
        f"{manifest.input_tokens:,}", f"{manifest.output_tokens:,}", manifest.destination,
    )  # fmt: skip
    dropped = {reason: n for reason, n in manifest.dropped.items() if n}
    if dropped:
        log.warning("Lines that were not landed: %s; unreadable ones are kept in %s.", dropped, manifest.aside)


def check_failures(summary: dict[str, Any], uri: str, fail_on: Any) -> None:
    """Fail the task when too many rows did not succeed.

    :param summary: of what was landed.

    :raises ResultsUnusable: with counts and reasons; everything was landed.
    """
    share = failing_share(fail_on)
    rows = summary["rows"]
    failed = rows - summary["counts"]["succeeded"]
    if share is not None and failed and failed >= share * rows:
        raise ResultsUnusable(
            f"{failed:,} of {rows:,} rows did not succeed, which fail_on={fail_on!r} does not accept. "
            f"{summary['message']} Everything was landed: {uri}"
        )


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
