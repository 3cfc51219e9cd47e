"""A task's partition: its share of the rows, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.data.partitions import Partition
from airflow_llm_batch.exceptions import ConfigurationError, NoRows

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys
    from airflow_llm_batch.jobs.run import JobRun
    from airflow_llm_batch.jobs.sets.store import PartitionSet
    from airflow_llm_batch.results import Manifest


class EmptyPartition(NoRows):
    """More partitions than there is to share out: this one has no rows, and nothing is to be done.

    :param run: the job that was to be planned.
    """

    def __init__(self, message: str, run: JobRun) -> None:
        super().__init__(message)
        self.run = run


def taken(run: JobRun, rows: Any, key: str | None) -> tuple[Any, SharedKeys | None]:
    """The rows of a job, all that were given or its partition of them; and where a partition's keys are compared with
    those of the others.

    :raises InputError: where they cannot be cut, or are others than those that were.
    """
    from airflow_llm_batch.data.failed import FailedRows
    from airflow_llm_batch.data.sql import Sql
    from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys
    from airflow_llm_batch.jobs.sets.store import PartitionSet

    partition = Partition.of(run.origin.partition)
    if partition is None:
        return rows, None
    if isinstance(rows, FailedRows):
        raise ConfigurationError(
            "FailedRows are those of one landing, which may be a partition's: map over the outputs of what has landed "
            "them, and leave out partition. Nothing was sent."
        )
    found = PartitionSet(run.store.address, partition)
    part = found.take(rows)
    # Ranges of the key itself have none in common.
    is_cut_by_key = isinstance(rows, Sql) and rows.partition_by == key
    return part, None if is_cut_by_key else SharedKeys(found.keys, partition)


def told_landed(store: JobStore, manifests: Mapping[str, Manifest], summary: dict[str, Any], log: Logger) -> None:
    """Tell the other partitions of a landing, if it is one of a partition's, and in the summary where their manifest
    will be.

    :param store: of any of the jobs.
    :param manifests: what was landed, by URI.
    """
    job = store.job()
    if job.partition is None and job.repairs is None:
        return
    from airflow_llm_batch.jobs.sets.manifest import LandedPart
    from airflow_llm_batch.jobs.sets.store import PartitionSet

    found = PartitionSet.of(store)
    if found is not None:
        found.add(LandedPart.of(str(found.partition), manifests), log)
        summary.update(of_set(found))


def landed_nothing(store: JobStore, partition: str | None, provider: str, log: Logger) -> dict[str, Any]:
    """The summary of a partition without rows, of which the others are told, or of a mapped task without any.

    :param store: of the job that was not planned.
    """
    from airflow_llm_batch.jobs.sets.manifest import LandedPart
    from airflow_llm_batch.jobs.sets.store import PartitionSet
    from airflow_llm_batch.results import ROW_STATUSES

    of_all, message = {}, "There are no rows. Nothing was sent."
    if partition is not None:
        found = PartitionSet(store.address, one_of(partition))
        message = f"Partition {partition} has no rows: there are fewer row groups, files or lines. Nothing was sent."
        found.add(LandedPart.of(partition, {}), log)
        of_all = of_set(found)
    log.info("%s", message)
    numbers = ("rows", "input_tokens", "output_tokens", "cost_usd", "sync_cost_usd", "saving_usd", "estimated_cost_usd")
    return {
        "manifest": None, "message": message, "files": [], "counts": dict.fromkeys(ROW_STATUSES, 0),
        **dict.fromkeys(numbers, 0), "provider": provider, "models": [], "batches": [], "rounds": 0, **of_all,
    }  # fmt: skip


def of_set(found: PartitionSet) -> dict[str, Any]:
    """What a summary says of the set: which partition it is of, and where all of them will be told together."""
    return {"partition": str(found.partition), "set_manifest": found.manifest_uri}


def one_of(given: Any) -> Partition:
    partition = Partition.of(given)
    assert partition is not None
    return partition
