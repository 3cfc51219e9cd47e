"""The pages' API as a user sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.api_fastapi.app import init_auth_manager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.view.overview import Overview
from airflow_llm_batch.jobs.waiting.wait import JobWait
from airflow_llm_batch.operators import SubmitBatchOperator
from airflow_llm_batch.plugin.app import make_app
from airflow_llm_batch.plugin.snapshot import Snapshot

NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def dags():
    """Two DAGs that Airflow knows."""
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.session import create_session

    with create_session() as session:
        session.merge(DagBundleModel(name="llm-batch-tests"))
        session.flush()
        for dag_id in ("dag", "other"):
            session.merge(DagModel(dag_id=dag_id, bundle_name="llm-batch-tests", is_stale=False, fileloc="/dev/null"))


class Site:
    """The app over one storage, as a user of a role sees it."""

    def __init__(self, storage: str) -> None:
        self.overview = Overview(storage)
        # A busy machine is no slow store.
        self.snapshot = Snapshot(self.overview, fresh=0.0, patience=60.0)
        self.app = make_app(self.snapshot)
        self.as_role("admin")

    def as_role(self, role: str | None) -> Site:
        init_auth_manager()
        self.app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(username="somebody", role=role)
        self.http = TestClient(self.app)
        return self

    def get(self, path, **query):
        answer = self.http.get(f"/api/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def storage(tmp_path):
    return f"file://{tmp_path}/jobs"


@pytest.fixture
def site(storage, monkeypatch, dags):
    return Site(storage)


def record(conn_id, dag_id="dag", run_id="run", task_id="submit", map_index=-1, **fields):
    """What Airflow keeps of a task instance that runs: its arguments as they were rendered."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session
    from sqlalchemy import text

    names = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    with create_session() as session:
        # There is no run that it could belong to.
        session.execute(text("PRAGMA foreign_keys=OFF"))
        row = session.get(RenderedTaskInstanceFields, names) or RenderedTaskInstanceFields(
            cast("Any", SimpleNamespace(**names, task=None)), render_templates=False, rendered_fields={"-": ""}
        )
        row.rendered_fields = {"conn_id": conn_id, **fields}
        session.add(row)
        session.commit()
        session.execute(text("PRAGMA foreign_keys=ON"))


def submit(conn_id, storage, dag_id="dag", run_id="run", rows=("a", "b"), **arguments):
    ti = SimpleNamespace(dag_id=dag_id, run_id=run_id, task_id="submit", map_index=-1)
    arguments = {"request": ChatRequest("gpt-5-mini", max_tokens=9), **arguments}
    rows = list(rows) if isinstance(rows, tuple) else rows
    operator = SubmitBatchOperator(task_id="submit", conn_id=conn_id, rows=rows, storage=storage, **arguments)
    record(conn_id, dag_id, run_id)
    return operator.execute(cast("Any", {"ti": ti}))


def look(handle, conn_id):
    from airflow_llm_batch.jobs.directory.store import JobStore

    hook = LLMBatchHook(conn_id)
    JobWait(hook, JobStore(handle["job"]), __import__("logging").getLogger()).look()
    hook.close()
