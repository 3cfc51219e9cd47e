"""Landing a job: the results, then what they replace and what the vendor need not keep any more."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_llm_batch.data.destinations import destination_of
from airflow_llm_batch.estimate import CALLED
from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.claims import Claim
from airflow_llm_batch.jobs.directory.rules import rules_of
from airflow_llm_batch.jobs.landing.figures import report_figures
from airflow_llm_batch.jobs.landing.layouts import owner_of
from airflow_llm_batch.jobs.landing.ownership import short_hash, take_place
from airflow_llm_batch.jobs.landing.records import Landing
from airflow_llm_batch.jobs.landing.superseded import remove_superseded
from airflow_llm_batch.metrics import count_landing
from airflow_llm_batch.models import is_call
from airflow_llm_batch.storage import exists, removed, storage_path
from airflow_llm_batch.telemetry import trace_landing

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.attempts import Listing
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.options import Target
    from airflow_llm_batch.models import Batch, Job
    from airflow_llm_batch.results import Manifest


def land(
    store: JobStore, job: Job, hook: LLMBatchHook, target: Target, log: Logger, only: Container[int] | None = None
) -> Manifest:
    """Land a job's results and publish its manifest, then take away what the landed files replace.

    What the vendor does not have any more, or a repair has landed together with its own rows, is left as it lies.

    :param only: the rows that this job has to account for, None for all of its own.
    :raises ResultsUnusable: when the vendor's files are gone and something else is wanted than was landed.
        Likewise when another job's files lie there under this one's names.
    :raises Busy: when another try is landing it there.
    """
    if hook.provider.name != job.provider:
        raise ConfigurationError(
            f"The job was submitted to {job.provider}; connection {hook.conn_id!r} is for {hook.provider.name}."
        )
    destination = destination_of(target, store.address.landed)
    with Claim.of(store, f"landing-{short_hash(destination.uri)}", hook.options) as claim:
        before = store.manifest()
        kept = before is not None and has_passed(store, before, target)
        if before is not None and kept and (by := store.notes.taken_over()) is not None and is_landed(by, target):
            log.info("The rows lie there already, landed together with those of the repair at %s.", by.uri)
            return before
        if store.notes.cleaned() == "all":
            return as_landed(store, target)
        take_place(store, destination)
        landing = Landing(store, job, hook, target, log, only, claim)
        manifest = landing.land(ended_batches(landing.listing, hook, job), before)
        claim.check()
        if outcome := destination.finish(landing.layout, manifest.files, owner_of(store, job)):
            log.info("%s", outcome)
            claim.check()
        store.save_manifest(manifest)
        if before is None:
            count_landing(job, landing.own)
            trace_landing(job, landing.own)
        report(manifest, log)
        remove_superseded(store, job, destination, manifest, before, log)
        delete_files(landing.listing, job, hook, manifest, log)
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
        "landed once more, in another place or held to other checks. "
        f"What was landed: {', '.join(manifest.files) if manifest else 'unknown'}."
    )


def delete_files(listing: Listing, job: Job, hook: LLMBatchHook, manifest: Manifest, log: Logger) -> None:
    """Delete the vendor's files of a landed job, as the connection's ``delete_files`` says, and never before every row
    was seen to be landed. A failure is told and harms nothing: files expire by themselves."""
    scope = hook.options.delete_files or hook.provider.deletes
    if scope not in ("none", "inputs", "all"):
        raise ConfigurationError(
            f"The connection's delete_files is {scope!r}; give 'none', 'inputs' or 'all'. Everything was landed."
        )
    store = listing.store
    if (
        scope == "none"
        or job.adopted
        or manifest.rounds[-1].rows != job.rows_asked
        or store.notes.cleaned() in (scope, "all")
    ):
        return
    if history.lane(listing, job) in CALLED or not all(exists(storage_path(file)) for file in manifest.files):
        return
    deleted = 0
    try:
        for shard in job.shards:
            batch = listing.attempts(shard.index).ended()
            if batch is not None and batch.id and not is_call(batch.id):
                deleted += hook.run(hook.provider.delete(batch, scope))
                objects = hook.provider.objects(batch, scope)
                # The connection's storage may be a folder above: a repair takes its requests from the job directory.
                deleted += sum(removed(uri) for uri in objects if not lies_in(uri, store.uri))
        store.notes.save_cleaned(scope)
    except Exception as error:
        log.warning("The vendor's files could not all be deleted: %s", error)
    if deleted:
        log.info("Deleted %d of the vendor's files (%s); what was landed is whole.", deleted, scope)


def lies_in(uri: str, folder: str) -> bool:
    """Whether a stored object lies in a folder, whichever connection either is read with."""
    one, other = urlsplit(uri), urlsplit(folder)
    bucket = one.netloc.rpartition("@")[2] == other.netloc.rpartition("@")[2]
    return bucket and one.path.startswith(f"{other.path.rstrip('/')}/")


def land_once(store: JobStore, job: Job, hook: LLMBatchHook, target: Target, log: Logger) -> Manifest:
    """What the job, or a later round of it, has landed already; else land it."""
    manifest = store.manifest()
    if manifest is None or not is_landed(store, target):
        return land(store, job, hook, target, log)
    # The last try may have been killed right before this.
    remove_superseded(store, job, destination_of(target, store.address.landed), manifest, None, log)
    return manifest


def is_landed(store: JobStore, target: Target) -> bool:
    """Whether the rows lie there already, as this job has landed them, or one that repairs it."""
    manifest, destination = store.manifest(), destination_of(target, store.address.landed)
    if manifest is None or manifest.destination != destination.uri or not has_passed(store, manifest, target):
        return False
    if destination.holds(manifest.files):
        return not manifest.rows or destination.is_finished(owner_of(store, store.job()))
    by = store.notes.taken_over()
    return by is not None and is_landed(by, target)


def has_passed(store: JobStore, manifest: Manifest, target: Target) -> bool:
    """Whether what was landed has passed what is wanted of it now."""
    return manifest.rules == rules_of(store, store.job(), target.checks)


def report(manifest: Manifest, log: Logger) -> None:
    """The landing, in the task's log."""
    log.info("%s", manifest.message)
    log.info(
        "%s input and %s output tokens. In %s",
        f"{manifest.input_tokens:,}", f"{manifest.output_tokens:,}", manifest.destination,
    )  # fmt: skip
    report_figures(manifest, log)
    dropped = {reason: n for reason, n in manifest.dropped.items() if n}
    if dropped:
        log.warning("Lines that were not landed: %s; unreadable ones are kept in %s.", dropped, manifest.aside)


def ended_batches(listing: Listing, hook: LLMBatchHook, job: Job) -> dict[int, Batch]:
    """Every shard's batch as it ended.

    :raises ConfigurationError: when one was never submitted or still runs.
    """
    batches = {}
    for shard in job.shards:
        attempts = listing.attempts(shard.index)
        batch = attempts.ended()
        if batch is None:
            created = attempts.created()
            if created is None:
                raise ConfigurationError(
                    f"Shard {shard.index} of {listing.store.uri} was never submitted; clear the submitting task."
                )
            batch = ended(hook.get_batch(created.batch_id))
            attempts.save_ended(batch)
        batches[shard.index] = batch
    return batches


def ended(batch: Batch) -> Batch:
    """:raises ConfigurationError: when the batch still runs."""
    if batch.outcome is None:
        raise ConfigurationError(
            f"Batch {batch.id} is still {batch.status!r}; put a BatchSensor between submitting and fetching."
        )
    return batch
