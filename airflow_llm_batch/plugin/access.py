"""Who may see and do what, as Airflow's auth manager says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request

UNKNOWN = "No such job, or not yours to see."


class Access:
    """What one user may."""

    def __init__(self, user: Any) -> None:
        self.user = user

    def readable(self, dag_ids: Iterable[str]) -> set[str]:
        """Those of the DAGs whose jobs the user may see."""
        allowed = get_auth_manager().get_authorized_dag_ids(user=self.user, method="GET")
        return {dag_id for dag_id in set(dag_ids) & allowed if self.may("GET", dag_id)}

    def may_read_rows(self, dag_id: str) -> bool:
        """Whether the user may see what the DAG's jobs have asked and were answered: as its tasks' logs."""
        return rows_are_shown() and self.may("GET", dag_id, DagAccessEntity.TASK_LOGS)

    def may(self, method: Any, dag_id: str, *also: DagAccessEntity) -> bool:
        """Whether the user may do this to the DAG and to its task instances, as Airflow's own routes ask.

        :param also: what else of the DAG.
        """
        team = team_of(dag_id)
        details = DagDetails(id=dag_id, team_name=team) if team else DagDetails(id=dag_id)
        entities = (None, DagAccessEntity.TASK_INSTANCE, *also)
        return all(
            get_auth_manager().is_authorized_dag(method=method, access_entity=entity, details=details, user=self.user)
            for entity in entities
        )


def rows_are_shown() -> bool:
    """``[llm_batch] show_answers``."""
    return bool(conf.getboolean("llm_batch", "show_answers", fallback=True))


def team_of(dag_id: str) -> str | None:
    """The team that a DAG belongs to, where Airflow has several."""
    return DagModel.get_team_name(dag_id)


def access_of(user: GetUserDep) -> Access:
    return Access(user)


Asks = Annotated[Access, Depends(access_of)]


def require_read(dag_id: str, access: Asks) -> None:
    """:raises HTTPException: 404 for a DAG that the user may not see: not even that it exists is told."""
    if not access.may("GET", dag_id):
        raise HTTPException(404, UNKNOWN)


def require_rows(dag_id: str, access: Asks) -> None:
    """:raises HTTPException: as ``require_read``; 403 where jobs' rows are shown to nobody, or not to this user."""
    require_read(dag_id, access)
    if not rows_are_shown():
        raise HTTPException(403, "Rows and answers are not shown here: [llm_batch] show_answers is off.")
    if not access.may_read_rows(dag_id):
        raise HTTPException(403, f"Rows and answers of {dag_id} are shown to those who may read its tasks' logs.")


def require_edit(dag_id: str, access: Asks, request: Request) -> None:
    """:raises HTTPException: 403 without the permission, 415 for what a form of another site could send."""
    require_read(dag_id, access)
    if not access.may("PUT", dag_id):
        raise HTTPException(403, f"You may see the jobs of {dag_id}, and not cancel them.")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "Send application/json.")
