"""A job is cancelled with the connection that its own task names, whatever its directory says."""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from support.airflow_versions import forget_teams, needs_teams
from support.pages import record, submit

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.jobs.directory.listing import find_jobs
from airflow_llm_batch.operators import LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.operators.models import job_name

pytestmark = pytest.mark.usefixtures("airflow_db")
MODELS = ["gpt-5-mini", ("gpt-5-nano", "llm_other"), {"model": "gpt-5", "conn_id": "llm_other"}]


def cancel(site, *names):
    return site.http.post(f"/api/job/{'/'.join(names)}/cancel", json={})


def plant(handle, place, **changes):
    """A copy of a job of DAG ``dag`` below DAG ``other``, as whoever may write to the storage can make one."""
    source = Path(handle["job"].removeprefix("file://"))
    target = source.parents[3] / "other" / "run" / "submit" / place
    shutil.copytree(source, target)
    plan = json.loads((target / "job.json").read_text())
    (target / "job.json").write_text(json.dumps({**plan, **changes}))


OTHERS = {"dag_id": "other", "run_id": "run", "task_id": "submit", "map_index": -1}


@pytest.mark.parametrize(
    ("place", "changes", "names", "why"),
    [
        ("-1", OTHERS, {"conn_id": "own"}, "names connection 'theirs', and task 'submit' asks on 'own'"),
        ("-1", {}, {"conn_id": "own"}, "says that it is dag/run/submit/-1"),
        ("-1", {}, {"conn_id": "theirs"}, "says that it is dag/run/submit/-1"),
        ("-1", OTHERS | {"dag_id": None}, {"conn_id": "own"}, "says that it is None/run/submit/-1"),
        ("-1", OTHERS | {"map_index": 3}, {"conn_id": "own"}, "says that it is other/run/submit/3"),
        ("4", OTHERS | {"map_index": 4}, {"conn_id": "own"}, "no record of the connection"),
        ("nowhere", OTHERS, {"conn_id": "own"}, "lies below other/run/submit/nowhere"),
        ("-1.2", OTHERS, {"conn_id": "own"}, "names connection 'theirs'"),
        ("-1~gpt-5_theirs", OTHERS, {"conn_id": "own"}, "no record of the connection"),
        ("-1~gpt-5_theirs", OTHERS, {"conn_id": "own", "models": ["gpt-5"]}, "no record of the connection"),
        ("-1~gpt-5_own", OTHERS, {"conn_id": "own", "models": ["gpt-5"]}, "names connection 'theirs'"),
        ("-1", OTHERS, {"conn_id": "own", "models": "[('gpt-5', 'theirs')] cut off"}, "no record of the connection"),
        ("-1", OTHERS, {"conn_id": None}, "no record of the connection"),
    ],
)
def test_a_planted_job_reaches_no_other_teams_vendor(site, connect, storage, place, changes, names, why):
    """403 that says why and that nothing was cancelled; not one request, and the real job can still be cancelled."""
    with Emulator(duration=60) as vendor, Emulator(duration=60) as own:
        connect(own.url, conn_id="own")
        handle = submit(connect(vendor.url, conn_id="theirs"), storage)
        plant(handle, place, **changes)
        record(dag_id="other", **names)
        before = dict(vendor.vendor.calls)
        answer = cancel(site, "other", "run", "submit", place)
        assert (answer.status_code, dict(vendor.vendor.calls), dict(own.vendor.calls)) == (403, before, {})
        assert answer.json()["detail"].startswith("Nothing was cancelled: ")
        assert why in answer.json()["detail"]
        assert not any(batch.cancelled_at for batch in vendor.vendor.batches.values())
        assert cancel(site, "dag", "run", "submit", "-1").status_code == 200
        assert all(batch.cancelled_at for batch in vendor.vendor.batches.values())


#: seconds that a batch takes, more than a run of dag.test() does: that builds Airflow's task API anew for every task
LASTING = 3600


def make_dag(storage, tmp_path):
    """Every kind of task that makes jobs, none of which lasts."""
    from airflow.sdk import DAG

    brief = {"deadline": timedelta(seconds=0.2), "poll_interval": 0.1, "destination": f"file://{tmp_path}/out"}
    given = {"rows": ["a"], "request": ChatRequest("gpt-5-mini", max_tokens=9), "storage": storage}
    with DAG("dag", schedule=None, params={"conn": "llm_test"}) as dag:
        SubmitBatchOperator(task_id="submit", conn_id="{{ params.conn }}", **given)
        SubmitBatchOperator(task_id="plain", conn_id="llm_test", **given)
        LLMBatchOperator(task_id="models", conn_id="llm_test", models=MODELS, **given, **brief)
        SubmitBatchOperator.partial(task_id="mapped", **given).expand(conn_id=["llm_test", "llm_other"])
        del given["rows"]
        SubmitBatchOperator.partial(task_id="rows", conn_id="llm_test", **given).expand(rows=[["a"], ["b"]])
    return dag


def jobs_of_a_run(site, connect, storage, tmp_path, vendor, other):
    """A run of it through Airflow: each job, by what it is called."""
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.sdk import timezone
    from airflow.serialization.serialized_objects import LazyDeserializedDAG

    connect(vendor.url)
    connect(other.url, conn_id="llm_other")
    dag = make_dag(storage, tmp_path)
    SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="llm-batch-tests")
    run = dag.test(logical_date=timezone.utcnow())
    return run.run_id, {(found.address.key.task_id, found.address.place) for found in find_jobs(storage)}


NAMES = [job_name("gpt-5-mini", "llm_test"), job_name("gpt-5-nano", "llm_other"), job_name("gpt-5", "llm_other")]
JOBS = {
    ("submit", "-1"), ("plain", "-1"), *(("models", f"-1~{name}") for name in NAMES),
    ("mapped", "0"), ("mapped", "1"), ("rows", "0"), ("rows", "1"),
}  # fmt: skip


def test_every_task_that_ran_can_have_its_jobs_cancelled(site, connect, storage, tmp_path):
    """Templates, several models on two connections, mapped connections and rows, by what Airflow has kept of them."""
    with Emulator(duration=LASTING) as vendor, Emulator(duration=LASTING) as other:
        run_id, jobs = jobs_of_a_run(site, connect, storage, tmp_path, vendor, other)
        assert jobs == JOBS
        for task_id, place in sorted(jobs):
            answer = cancel(site, "dag", run_id, task_id, place)
            assert answer.status_code == 200, answer.text
        cancelled = [[batch.cancelled_at is not None for batch in e.vendor.batches.values()] for e in (vendor, other)]
        assert cancelled == [[True] * 6, [True] * 3]


def test_arguments_that_airflow_does_not_keep_are_read_from_the_dag(site, connect, storage, tmp_path):
    """Of old runs: what the DAG says plainly counts, a template and what is mapped do not."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session

    with Emulator(duration=LASTING) as vendor, Emulator(duration=LASTING) as other:
        run_id, jobs = jobs_of_a_run(site, connect, storage, tmp_path, vendor, other)
        with create_session() as session:
            session.query(RenderedTaskInstanceFields).filter_by(dag_id="dag", run_id=run_id).delete()
        status = {names: cancel(site, "dag", run_id, *names).status_code for names in jobs}
        unknown = {("submit", "-1"), ("mapped", "0"), ("mapped", "1")}
        assert status == {names: 403 if names in unknown else 200 for names in JOBS}


@needs_teams
def test_a_teams_connection_is_its_dags_alone(site, connect, storage, monkeypatch):
    """Multi-team Airflow: a DAG that names another team's connection gets none; its own team's DAG cancels with it."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.team import Team
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with Emulator(duration=60) as vendor:
        handle = submit(connect(vendor.url, conn_id="theirs"), storage)
        monkeypatch.setenv("AIRFLOW_CONN__TEAM_B___THEIRS", os.environ["AIRFLOW_CONN_THEIRS"])
        monkeypatch.delenv("AIRFLOW_CONN_THEIRS")
        monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
        before = dict(vendor.vendor.calls)
        forget_teams()
        answer = cancel(site, "dag", "run", "submit", "-1")
        assert (answer.status_code, "isn't defined" in answer.text, dict(vendor.vendor.calls)) == (502, True, before)
        with create_session() as session:
            team = session.scalar(select(Team).where(Team.name == "team_b")) or Team(name="team_b")
            session.add(team)
            session.get(DagBundleModel, "llm-batch-tests").teams = [team]
        forget_teams()
        try:
            assert cancel(site, "dag", "run", "submit", "-1").status_code == 200
            assert handle["batches"] == [batch.id for batch in vendor.vendor.batches.values() if batch.cancelled_at]
        finally:
            with create_session() as session:
                session.get(DagBundleModel, "llm-batch-tests").teams = []
            forget_teams()
