"""Airflow's simple auth manager with one user who may not see everything, as auth managers with teams have them."""

from __future__ import annotations

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

#: what the user ``outsider`` may see
OPEN = {"mapped_partitions"}


class PerDagAuthManager(SimpleAuthManager):
    def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
        if user.get_name() == "outsider" and (details is None or details.id not in OPEN):
            return details is None and method == "GET"
        return super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details)

    def filter_authorized_dag_ids(self, *, dag_ids, user, method="GET", team_name=None):
        allowed = super().filter_authorized_dag_ids(dag_ids=dag_ids, user=user, method=method, team_name=team_name)
        return allowed & OPEN if user.get_name() == "outsider" else allowed
