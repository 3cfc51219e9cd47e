"""The small thing that travels between the tasks of one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from airflow_llm_batch.exceptions import ConfigurationError


@dataclass
class JobHandle:
    """A job's XCom: where it lies and whose it is; never rows, never secrets.

    :param job: URI of the job directory, None for a batch that no job of ours made.
    :param batches: the vendor's batch ids, in shard order.
    """

    job: str | None
    conn_id: str
    provider: str = ""
    rows: int | None = None
    shards: int | None = None
    batches: list[str] = field(default_factory=list)

    @property
    def external(self) -> str | None:
        """The batch, when no job of ours made it."""
        return self.batches[0] if self.job is None and self.batches else None

    def to_xcom(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, given: Any, conn_id: str | None = None) -> JobHandle:
        """The handle behind a task's ``job`` argument: an upstream output, or a job directory's URI.

        :param conn_id: overrides the job's connection.
        :raises ConfigurationError: for anything else, and for a URI where no job lies.
        """
        if isinstance(given, str) and given:
            from airflow_llm_batch.jobs.directory.store import JobStore

            job = JobStore(given).job()
            return cls(given, conn_id or job.conn_id, job.provider, job.rows, len(job.shards))
        if isinstance(given, Mapping) and "job" in given and "conn_id" in given:
            known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
            return cls(**{**known, "conn_id": conn_id or known["conn_id"]})
        raise ConfigurationError(
            f"job is {given!r}; pass the output of a SubmitBatchOperator or BatchSensor task, or a job directory's URI."
        )
