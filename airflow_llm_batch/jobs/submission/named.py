"""Batches that a user names for shards."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.owner import this_process
from airflow_llm_batch.models import Created, Intent, Job

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore


def adopt(store: JobStore, hook: LLMBatchHook, job: Job, batch_ids: dict[int, str]) -> None:
    """Take batches that a user names for shards; each is read first, and its results must show that they are ours.

    :raises ConfigurationError: for a shard that does not exist, or that has another batch already.
    """
    for index, batch_id in batch_ids.items():
        if index not in range(len(job.shards)):
            raise ConfigurationError(f"batch_ids names shard {index}; the job has {len(job.shards)}. Nothing was sent.")
        attempts = store.attempts(index)
        created = attempts.created()
        if created is not None and created.batch_id != batch_id:
            raise ConfigurationError(
                f"batch_ids gives {batch_id} for shard {index}, which is batch {created.batch_id} already. "
                "Nothing was sent."
            )
        if created is None:
            batch = hook.get_batch(batch_id)
            if not attempts.own(batch.id):
                raise ConfigurationError(
                    f"batch_ids gives {batch_id} for shard {index}, which is another shard's batch. Nothing was sent."
                )
            number = attempts.last()
            if not number or attempts.void(number) is not None:
                number += 1
            taken = Created(batch_id=batch.id, at=datetime.now(UTC), adopted=True, provisional=True)
            attempts.begin(Intent(at=datetime.now(UTC), owner=this_process()), number)
            attempts.save_created(taken, number)
