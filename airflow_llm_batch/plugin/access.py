"""Who may see and do what, as Airflow's auth manager says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
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

    def may(self, method: Any, dag_id: str) -> bool:
        """Whether the user may do this to the DAG and to its task instances, as Airflow's own routes ask."""
        team = team_of(dag_id)
        details = DagDetails(id=dag_id, team_name=team) if team else DagDetails(id=dag_id)
        entities = (None, DagAccessEntity.TASK_INSTANCE)
        return all(
            get_auth_manager().is_authorized_dag(method=method, access_entity=entity, details=details, user=self.user)
            for entity in entities
        )


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


def require_edit(dag_id: str, access: Asks, request: Request) -> None:
    """:raises HTTPException: 403 without the permission, 415 for what a form of another site could send."""
    require_read(dag_id, access)
    if not access.may("PUT", dag_id):
        raise HTTPException(403, f"You may see the jobs of {dag_id}, and not cancel them.")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "Send application/json.")
