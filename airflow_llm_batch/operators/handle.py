"""The small thing that travels between the tasks of one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from airflow_llm_batch.data.values import written
from airflow_llm_batch.exceptions import ConfigurationError


@dataclass
class JobHandle:
    """A job's XCom: where it lies and whose it is; never rows, never secrets.

    :param job: URI of the job directory, None for a batch that no job of ours made.
    :param batches: the vendor's batch ids, in shard order.
    :param partition: which of the task's rows are the job's, ``3/64``; None for all of them.
    :param empty: a mapped task had no rows, and planned no job.
    """

    job: str | None
    conn_id: str
    provider: str = ""
    rows: int | None = None
    shards: int | None = None
    batches: list[str] = field(default_factory=list)
    partition: str | None = None
    empty: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it is of a partition, or a mapped task, without rows: no job was planned."""
        return self.empty or (self.partition is not None and self.rows == 0)

    @property
    def external(self) -> str | None:
        """The batch, when no job of ours made it."""
        return self.batches[0] if self.job is None and self.batches else None

    def to_xcom(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value or name not in ("partition", "empty")}

    @classmethod
    def of(cls, given: Any, conn_id: str | None = None) -> JobHandle:
        """The handle behind a task's ``job`` argument: an upstream output, or a job directory's URI.

        :param conn_id: overrides the job's connection.
        :raises ConfigurationError: for anything else, and for a URI where no job lies.
        """
        given = written(given)
        if isinstance(given, str) and given:
            from airflow_llm_batch.jobs.directory.store import JobStore

            job = JobStore(given).job()
            return cls(given, conn_id or job.conn_id, job.provider, job.rows, job.batches, partition=job.partition)
        if isinstance(given, Mapping) and isinstance(given.get("payload"), Mapping):
            given = given["payload"]  # as Airflow wraps what an asset's watcher has seen
        if isinstance(given, Mapping) and "job" in given and "conn_id" in given:
            known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
            return cls(**{**known, "conn_id": conn_id or known["conn_id"]})
        if given is None:
            raise ConfigurationError(
                "job is None: the task that it is the output of has pushed none, for it was skipped or has "
                "do_xcom_push=False. Give a job directory's URI; what was sent is there, and nothing is lost."
            )
        if isinstance(given, Sequence) and not isinstance(given, str):
            raise ConfigurationError(
                "job is a list, as a mapped task's output is: map this task over it too, as in "
                "BatchSensor.partial(task_id='wait').expand(job=submit.output). Nothing is lost."
            )
        raise ConfigurationError(
            f"job is {given!r}; pass the output of a SubmitBatchOperator or BatchSensor task, the extra of its "
            "completion's asset event, or a job directory's URI."
        )


def completed_jobs(events: Mapping[Any, Any]) -> list[dict[str, Any]]:
    """The handles of the jobs whose completion has triggered a run: one run may take several events.

    :param events: the run's ``triggering_asset_events``.
    :return: each job once, in the order in which they ended; for ``FetchResultsOperator.partial(...).expand(job=...)``.
    """
    handles: dict[str, dict[str, Any]] = {}
    for event in sorted((e for of_asset in events.values() for e in of_asset), key=lambda event: event.timestamp):
        extra = event.extra or {}
        if "payload" in extra or "job" in extra:
            handle = JobHandle.of(extra)
            handles[handle.job or handle.batches[0]] = handle.to_xcom()
    return list(handles.values())
