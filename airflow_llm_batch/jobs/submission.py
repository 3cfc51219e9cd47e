"""planned -> creating -> running, exactly once.

The order of facts decides: the input file's id, then the intent, then the create, then the batch's id, each in the job
directory before the next step is taken. Whoever finds an intent without an id asks the vendor what became of it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import ConfigurationError, SubmissionUnconfirmed, VendorUnavailable
from airflow_llm_batch.jobs.shards import RowSpec, fingerprint_of, write_shards
from airflow_llm_batch.jobs.store import JobStore
from airflow_llm_batch.models import Batch, Created, Intent, Job, Shard
from airflow_llm_batch.transport import stored_payload

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook

log = logging.getLogger(__name__)
#: a listing may lag behind a create; how often and how long apart it is asked before "not there" is believed
LOOKS, BETWEEN_LOOKS = 4, 2.0
REPORT_ROWS = 50_000


def plan(
    store: JobStore, hook: LLMBatchHook, spec: RowSpec, metadata: Mapping[str, str], origin: dict[str, Any]
) -> Job:
    """Write the shards and the plan, or take up the plan that lies in the directory.

    :param metadata: kept by the vendor with each batch.
    :param origin: ``dag_id``, ``run_id``, ``task_id``, ``map_index`` of the task instance.
    :raises ConfigurationError: when the directory holds a job made from other input.
    """
    provider = hook.provider
    if job := store.load_job():
        if job.fingerprint == fingerprint_of(spec, provider, job.id):
            log.info("Job %s is planned already (%d rows, %d shards); taking it up.", job.id, job.rows, len(job.shards))
            return job
        raise ConfigurationError(
            f"The job at {store.uri} was made from other input than this try's (rows, request, key or pass-through "
            "columns changed). Its batches are left as they are. Trigger a new DAG run, or remove the job directory, "
            "to submit the changed input."
        )
    provider.check_metadata(metadata)
    shards, fingerprint = write_shards(spec, provider, store, metadata, report_rows)
    job = Job(
        id=store.job_id,
        fingerprint=fingerprint,
        provider=provider.name,
        conn_id=hook.conn_id,
        created_at=datetime.now(UTC),
        rows=sum(shard.rows for shard in shards),
        shards=tuple(shards),
        request=spec.request.serialize() if spec.request else None,
        output_schema=spec.request.schema() if spec.request else None,
        **origin,
    )
    if not store.save_job(job):
        # Another attempt planned at the same time; what it published is what gets sent.
        return plan(store, hook, spec, metadata, origin)
    log.info("Job %s: %d rows in %d shard(s) at %s", job.id, job.rows, len(shards), store.uri)
    return job


def report_rows(count: int) -> None:
    if count % REPORT_ROWS == 0:
        log.info("%d rows encoded.", count)


def submit(store: JobStore, hook: LLMBatchHook, job: Job) -> list[str]:
    """Bring every shard to ``running``; returns the vendor's batch ids in shard order."""
    ids = []
    for shard in job.shards:
        created = store.created(shard.index) or submit_shard(store, hook, shard)
        ids.append(created.batch_id)
        log.info(
            "Shard %d of %d: %d rows, %.1f MB -> batch %s",
            shard.index + 1, len(job.shards), shard.rows, shard.bytes / 1e6, created.batch_id,
        )  # fmt: skip
    return ids


def submit_shard(store: JobStore, hook: LLMBatchHook, shard: Shard) -> Created:
    """Create one shard's batch, or find the one that an earlier attempt created."""
    content = stored_payload(store.shard(shard.index, "requests.jsonl"))
    ref = store.uploaded(shard.index)
    if ref is None:
        verify(store, shard)
        ref = hook.run(hook.provider.upload(f"{shard.key}.jsonl", content))
        if ref is not None:
            store.save_uploaded(shard.index, ref)
    intent = Intent(at=datetime.now(UTC), input_ref=ref)
    if store.begin(shard.index, intent):
        try:
            batch = hook.run(hook.provider.create(shard, ref, content))
        except VendorUnavailable as error:
            log.warning("Creating shard %d got no clear answer (%s); asking the vendor.", shard.index, error)
            batch = settle(store, hook, shard, intent)
        return record(store, shard, batch, adopted=False)
    # The intent is an earlier attempt's: it may have died before, during or after its create.
    batch = settle(store, hook, shard, store.intent(shard.index) or intent)
    return record(store, shard, batch, adopted=True)


def settle(store: JobStore, hook: LLMBatchHook, shard: Shard, intent: Intent) -> Batch:
    """Find out whether a create went through, and create once more only when it certainly did not.

    :raises SubmissionUnconfirmed: when more than one batch may be the one.
    """
    for look in range(LOOKS):
        if look:
            time.sleep(BETWEEN_LOOKS)
        found = hook.run(hook.provider.find(shard, intent.at, intent.input_ref))
        if len(found) == 1:
            log.info("Batch %s is the one; nothing is sent again.", found[0].id)
            return found[0]
        if found:
            raise SubmissionUnconfirmed(
                f"Shard {shard.index} may be any of the batches {', '.join(b.id for b in found)}: they were created "
                "in the same moment with the same number of rows. Nothing was sent again. Cancel the ones that are "
                f"not yours, or clear {store.attempt(shard.index, 'intent.json')} to submit once more."
            )
    log.info("The vendor knows no batch for shard %d; creating it.", shard.index)
    content = stored_payload(store.shard(shard.index, "requests.jsonl"))
    try:
        return hook.run(hook.provider.create(shard, intent.input_ref, content))
    except VendorUnavailable as error:
        raise SubmissionUnconfirmed(
            f"Creating shard {shard.index} failed twice without a clear answer ({error}). It may have been billed "
            "once; a retry of this task asks the vendor again before it sends anything."
        ) from error


def record(store: JobStore, shard: Shard, batch: Batch, *, adopted: bool) -> Created:
    created = Created(batch_id=batch.id, at=datetime.now(UTC), adopted=adopted)
    store.save_created(shard.index, created)
    return created


def verify(store: JobStore, shard: Shard) -> None:
    """Refuse to send a shard file that is not what was planned.

    :raises ConfigurationError: when its bytes have changed.
    """
    sha = hashlib.sha256()
    for chunk in stored_payload(store.shard(shard.index, "requests.jsonl")):
        sha.update(chunk)
    if sha.hexdigest() != shard.sha256:
        raise ConfigurationError(
            f"{store.shard(shard.index, 'requests.jsonl')} is not what was planned (sha256 differs). Nothing of this "
            "shard was sent. Remove the job directory to plan anew."
        )
