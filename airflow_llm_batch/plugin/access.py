"""Who may see and do what, as Airflow's auth manager says."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, HTTPException, Request


def readable_dags(user: GetUserDep) -> set[str]:
    """The DAGs whose jobs the user may see."""
    return get_auth_manager().get_authorized_dag_ids(user=user, method="GET")


def editable_dags(user: GetUserDep) -> set[str]:
    """The DAGs whose jobs the user may cancel."""
    return get_auth_manager().get_authorized_dag_ids(user=user, method="PUT")


def require_read(dag_id: str, user: GetUserDep) -> None:
    """:raises HTTPException: 404 for a DAG that the user may not see: not even that it exists is told."""
    if not may(user, "GET", dag_id):
        raise HTTPException(404, "No such job, or not yours to see.")


def require_edit(dag_id: str, user: GetUserDep, request: Request) -> None:
    """:raises HTTPException: 403 without the permission, 415 for what a form of another site could send."""
    require_read(dag_id, user)
    if not may(user, "PUT", dag_id):
        raise HTTPException(403, f"You may see the jobs of {dag_id}, and not cancel them.")
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "Send application/json.")


def may(user: Any, method: Any, dag_id: str) -> bool:
    """Whether a user may do this to the task instances of a DAG, and to the DAG itself."""
    manager, details = get_auth_manager(), DagDetails(id=dag_id)
    return manager.is_authorized_dag(method=method, details=details, user=user) and manager.is_authorized_dag(
        method=method, access_entity=DagAccessEntity.TASK_INSTANCE, details=details, user=user
    )


Readable = Annotated[set[str], Depends(readable_dags)]
Editable = Annotated[set[str], Depends(editable_dags)]
