"""With which connection a job may be cancelled: the one that its task names in Airflow's own records.

A job directory is written by whoever may write to the storage, so nothing that lies there gives a right to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.operators.models import job_name, model_and_connection
from airflow_llm_batch.plugin.access import team_of

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.address import JobKey
    from airflow_llm_batch.models import Job


class NotItsOwn(Exception):
    """A job does not belong to the task below whose name it lies, or names a connection that the task does not."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"Nothing was cancelled: {why} Fail or clear the waiting task in Airflow instead: it cancels with its own "
            "connection."
        )


def own_hook(key: JobKey, job: Job) -> LLMBatchHook:
    """A hook on the connection with which the task asks, read as the task itself would read it.

    :param key: where the job lies.
    :raises NotItsOwn: when the job is another task's, or says that it is asked on another connection.
    """
    address = JobAddress.parse("/".join(key))
    lies = (key.dag_id, key.run_id, key.task_id, address.map_index)
    says = (job.dag_id, job.run_id, job.task_id, str(job.map_index))
    if lies != says:
        raise NotItsOwn(f"the job lies below {'/'.join(lies)} and says that it is {'/'.join(map(str, says))}.")
    conn_id = named_connection(key, address)
    if conn_id is None:
        raise NotItsOwn(f"Airflow has no record of the connection that task {key.task_id!r} asks this job on.")
    if conn_id != job.conn_id:
        raise NotItsOwn(f"the job names connection {job.conn_id!r}, and task {key.task_id!r} asks on {conn_id!r}.")
    hook = LLMBatchHook(conn_id)
    hook._connection = connection_for(conn_id, key.dag_id)
    return hook


def named_connection(key: JobKey, address: JobAddress) -> str | None:
    """The connection that the task's arguments name for this job, None where Airflow does not tell."""
    arguments = rendered_arguments(key, address.map_index) or written_arguments(key)
    conn_id, models = arguments.get("conn_id"), arguments.get("models") or ()
    if not isinstance(conn_id, str) or not conn_id or "{" in conn_id:
        return None
    if not models:
        return conn_id if address.model is None else None
    try:
        asked = [model_and_connection(model, conn_id) for model in models]
    except (ConfigurationError, TypeError):
        return None
    return next((connection for model, connection in asked if job_name(model, connection) == address.model), None)


def rendered_arguments(key: JobKey, map_index: str) -> Mapping[str, Any]:
    """The task instance's arguments as they were rendered when it ran last; empty when Airflow keeps them no more."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.models.taskinstancekey import TaskInstanceKey

    ti = TaskInstanceKey(key.dag_id, key.task_id, key.run_id, map_index=int(map_index))
    return RenderedTaskInstanceFields.get_templated_fields(ti) or {}


def written_arguments(key: JobKey) -> Mapping[str, Any]:
    """The task's arguments as the DAG's newest version has them, templates as they are written; what differs from one
    mapped task to the next is not among them."""
    from airflow.models.serialized_dag import SerializedDagModel

    dag = SerializedDagModel.get_dag(key.dag_id)
    task: Any = dag.task_dict.get(key.task_id) if dag is not None else None
    partial = getattr(task, "partial_kwargs", None)
    if isinstance(partial, Mapping):
        return partial
    return {name: getattr(task, name, None) for name in ("conn_id", "models")}


def connection_for(conn_id: str, dag_id: str) -> Any:
    """A connection as the DAG's tasks see it: in an Airflow of several teams another team's is not there.

    :raises AirflowNotFoundException: when there is none.
    """
    from airflow.configuration import conf
    from airflow.models.connection import Connection

    team = team_of(dag_id) if conf.getboolean("core", "multi_team", fallback=False) else None
    return Connection.get_connection_from_secrets(conn_id, **({"team_name": team} if team else {}))
