"""What was wrong with the pages once: each with the state of things that led to it."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from support.airflow_versions import forget_teams, needs_teams
from support.pages import dags, look, site, storage, submit  # noqa: F401

from airflow_llm_batch.data import ChatRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.address import JobKey
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.view.overview import Overview
from airflow_llm_batch.links import job_page
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.plugin import snapshot
from airflow_llm_batch.sensors import BatchSensor

pytestmark = pytest.mark.usefixtures("airflow_db")
PAGE = "/api/job/dag/run/submit/-1"


def fetch(handle, tmp_path, **arguments):
    target = {"destination": f"file://{tmp_path}/out", "fail_on": "none", **arguments}
    return FetchResultsOperator(task_id="f", job=handle, **target).execute({})


@needs_teams
def test_another_teams_jobs_are_not_seen_nor_cancelled(site, connect, storage, monkeypatch):  # noqa: F811
    """Multi-team Airflow: the DAG's team decides, as it does for Airflow's own routes."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.team import Team
    from airflow.utils.session import create_session
    from sqlalchemy import select

    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    forget_teams()
    with create_session() as session:
        team = session.scalar(select(Team).where(Team.name == "team_b")) or Team(name="team_b")
        session.add(team)
        session.get(DagBundleModel, "llm-batch-tests").teams = [team]
    try:
        with Emulator(duration=60) as emulator:
            submit(connect(emulator.url), storage)
            user = SimpleAuthManagerUser(username="eve", role="user", teams=["team_a"])
            site.app.dependency_overrides[get_user] = lambda: user
            assert site.get("jobs")["found"] == 0
            assert site.http.get(PAGE).status_code == 404
            assert site.http.post(f"{PAGE}/cancel", json={}).status_code == 404
            assert not any(batch.cancelled_at for batch in emulator.vendor.batches.values())
    finally:
        with create_session() as session:
            session.get(DagBundleModel, "llm-batch-tests").teams = []
        forget_teams()


def test_list_page_and_button_ask_for_the_same_permissions(site, connect, storage, monkeypatch):  # noqa: F811
    """The DAG alone is not enough to see a job, nor its task instances' reading to cancel one."""
    real = SimpleAuthManager.is_authorized_dag
    with Emulator(duration=60) as emulator:
        submit(connect(emulator.url), storage)

        def without(refused):
            def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
                allowed = real(self, method=method, user=user, access_entity=access_entity, details=details)
                return allowed and not (access_entity is not None and method in refused)

            monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", is_authorized_dag)

        without({"PUT"})
        assert site.get("job/dag/run/submit/-1")["may_cancel"] is False
        assert site.http.post(f"{PAGE}/cancel", json={}).status_code == 403
        without({"GET", "PUT"})
        assert (site.get("jobs")["found"], site.get("totals")["dags"]) == (0, [])


def test_what_a_cancellation_has_closed_stays_closed(site, connect, storage):  # noqa: F811
    """Cancelled, and then the submitting task and a poking sensor would create more: nothing is sent any more."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, limits={"requests": 1}, max_running_shards=1)
        handle = submit(conn_id, storage, rows=[f"text {n}" for n in range(4)])
        sensor = BatchSensor(task_id="w", job=handle, deferrable=False)
        assert sensor.poke({}).is_done is False
        assert site.http.post(f"{PAGE}/cancel", json={}).status_code == 200
        [batch] = emulator.vendor.batches.values()
        batch.cancelled_at -= 1000
        sensor.poke({})
        submit(conn_id, storage, rows=[f"text {n}" for n in range(4)])
        for _ in range(3):
            sensor.poke({})
        assert len(emulator.vendor.batches) == 1
        [job] = site.get("jobs")["jobs"]
        assert (job["state"], job["words"]) == ("cancelled", "cancelled, not landed yet")


def test_a_store_that_hangs_holds_up_one_page_and_not_airflow(site, connect, storage, monkeypatch):  # noqa: F811
    """A job's page answers 503 in time, and many such requests wait for one reading."""
    from airflow_llm_batch.plugin import api

    with Emulator(duration=60) as emulator:
        submit(connect(emulator.url), storage)
        site.get("jobs")
        site.snapshot.patience = 0.2
        gate, read = threading.Event(), []
        real = api.detail

        def slow(key, rounds, **options):
            read.append(key)
            gate.wait(30)
            return real(key, rounds, **options)

        monkeypatch.setattr(api, "detail", slow)
        for _ in range(5):
            answer = site.http.get(PAGE)
            assert (answer.status_code, "has not answered" in answer.json()["detail"]) == (503, True)
        assert len(read) == 1
        gate.set()
        time.sleep(0.1)
        assert site.http.get(PAGE).status_code == 200
        monkeypatch.setattr(api, "detail", lambda *given, **options: (_ for _ in ()).throw(PermissionError("denied")))
        site.snapshot.forget(JobKey("dag", "run", "submit", "-1"))
        assert site.http.get(PAGE).status_code == 503


def test_an_unreadable_directory_is_not_an_empty_one(site, connect, storage, monkeypatch):  # noqa: F811
    """Permission denied is told; a storage that does not exist yet is empty."""
    assert site.get("jobs")["found"] == 0

    def denied(top, onerror=None):
        onerror(PermissionError(13, "Permission denied", top))
        return iter(())

    monkeypatch.setattr(os, "walk", denied)
    assert "Permission denied" in site.get("jobs")["note"]
    site.snapshot.seen = None
    answer = site.http.get("/api/jobs")
    assert (answer.status_code, "Permission denied" in answer.json()["detail"]) == (503, True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("progress.json", '{"shards": null}'),
        ("progress.json", '{"shards": {"0": {}}}'),
        ("progress.json", "1"),
        ("manifest.json", '{"counts": {}}'),
        ("job.json", "{"),
        ("job.json", "naive"),
        ("shards/00000/try-1/created.json", "{"),
        ("shards/00000/try-1/ended.json", ""),
        ("failed.jsonl", "{"),
    ],
)
def test_a_damaged_file_hides_nothing_but_itself(site, connect, storage, tmp_path, name, content):  # noqa: F811
    """The list goes on showing the others, and no page answers 500."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        handle = submit(conn_id, storage)
        submit(conn_id, storage, run_id="other")
        look(handle, conn_id)
        if name == "failed.jsonl":
            fetch(handle, tmp_path)
    path = Path(handle["job"].removeprefix("file://")) / name
    if content == "naive":
        facts = json.loads(path.read_text())
        content = json.dumps(
            {**facts, "created_at": datetime.fromisoformat(facts["created_at"]).replace(tzinfo=None).isoformat()}
        )
    path.write_text(content)
    assert "other" in {job["run_id"] for job in site.get("jobs")["jobs"]}
    assert site.http.get(PAGE).status_code in (200, 404)
    assert site.http.get("/api/job/dag/other/submit/-1").status_code == 200


def test_replaced_and_merely_planned_jobs_are_not_at_work(site, connect, storage, monkeypatch):  # noqa: F811
    """Changed input leaves a job behind that nobody waits for; a dry run one that was never begun."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url)
        submit(conn_id, storage)
        submit(conn_id, storage, rows=["others"])
        ti = SimpleNamespace(
            dag_id="dag", run_id="dry", task_id="submit", map_index=-1, xcom_push=lambda **listing: None
        )
        task = SubmitBatchOperator(
            task_id="submit", conn_id=conn_id, rows=["a"], storage=storage, dry_run=True,
            request=ChatRequest("gpt-5-mini", max_tokens=9),
        )  # fmt: skip
        with pytest.raises(Exception, match="dry_run"):
            task.execute({"ti": ti})
        listing = site.get("jobs")
        states = {(job["run_id"], job["map_index"]): job["state"] for job in listing["jobs"]}
        assert states == {("run", "-1"): "replaced", ("run", "-1.2"): "running", ("dry", "-1"): "planned"}
        assert listing["active"] == 1
        for path in ("job/dag/run/submit/-1", "job/dag/dry/submit/-1"):
            assert site.get(path)["may_cancel"] is False


def test_adopted_batches_are_shown_and_linked(site, connect, storage, tmp_path, monkeypatch):  # noqa: F811
    """A batch that was made elsewhere, landed: in the list, under the address that its link has."""
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", storage)
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        path = tmp_path / "in.jsonl"
        body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}
        path.write_text(json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}))
        batch = hook.create_batch(hook.upload_file(str(path))).id
        job = BatchSensor(task_id="w", batch_id=batch, conn_id="llm_test", deferrable=False).execute({})
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="f", map_index=-1)
        task = FetchResultsOperator(task_id="f", job=job, destination=f"file://{tmp_path}/out")
        task.execute({"ti": ti})
    [shown] = site.get("jobs")["jobs"]
    assert shown["state"] == "landed"
    path = task.link_addresses["LLM batch job"].rpartition("/llm-batches/")[2]
    assert site.http.get(f"/api/{path}").status_code == 200
    assert job_page("s3://b/round-trip/jobs/round-robin/run/t/-1/round-2").endswith("/job/round-robin/run/t/-1")


def test_a_repairs_page_shows_its_own_money_and_the_first_jobs_page_no_lost_files(site, connect, storage, tmp_path):  # noqa: F811
    """Both jobs' figures add up to what was spent; nothing is told twice."""
    with Emulator(duration=0, faults={"row_errors": 0.5, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        first = fetch(submit(conn_id, storage, rows=[f"text {n}" for n in range(20)]), tmp_path)
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="again", map_index=-1)
        task = SubmitBatchOperator(task_id="again", conn_id=conn_id, rows=FailedRows(first), storage=storage)
        second = fetch(task.execute({"ti": ti}), tmp_path)
    pages = [site.get(f"job/dag/run/{name}/-1") for name in ("submit", "again")]
    assert sum(page["cost_usd"] for page in pages) == pytest.approx(second["cost_usd"])
    assert sum(page["sync_cost_usd"] for page in pages) == pytest.approx(second["sync_cost_usd"])
    for page in pages:
        assert sum(line["cost_usd"] for line in page["usage"]) == pytest.approx(page["cost_usd"])
        assert sum(line["input_tokens"] + line["output_tokens"] for line in page["usage"]) == page["tokens"]
    assert (pages[0]["files"], pages[1]["files"]) == ([], second["files"])
    assert site.get("totals")["dags"][0]["cost_usd"] == pytest.approx(second["cost_usd"])


def test_shards_that_were_given_up_are_ended(site, connect, storage, tmp_path):  # noqa: F811
    """Landed as cancelled: the timeline does not go on to the present."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, limits={"requests": 1}, max_running_shards=1)
        handle = submit(conn_id, storage)
        site.http.post(f"{PAGE}/cancel", json={})
        fetch(handle, tmp_path)
    page = site.get("job/dag/run/submit/-1")
    assert [(shard["state"], shard["outcome"]) for shard in page["timeline"]] == [
        ("ended", "completed"),
        ("ended", "cancelled"),
    ]
    assert (page["state"], page["words"]) == ("cancelled", "cancelled, 1 of 2 rows landed")


def test_a_runs_tab_counts_its_own_jobs_alone(site, connect, storage):  # noqa: F811
    """At work is what of this run is; more than a page of mapped tasks fit."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url)
        submit(conn_id, storage)
        submit(conn_id, storage, dag_id="other", run_id="quiet")
        assert site.get("jobs", dag_id="other", run_id="quiet", limit=500)["active"] == 1
        assert site.get("jobs", dag_id="dag", run_id="none")["active"] == 0
        assert site.get("jobs")["active"] == 2


def test_a_cancellation_says_what_it_has_done(site, connect, storage, monkeypatch):  # noqa: F811
    """A create under way, a batch that may be a stranger's, a connection that is not known here."""
    with Emulator(duration=60) as emulator:
        handle = submit(connect(emulator.url), storage)
        created = JobStore(handle["job"]).attempts(0).path(1, "created")
        whole = created.read_bytes()
        created.unlink()
        answer = site.http.post(f"{PAGE}/cancel", json={})
        assert (answer.status_code, "being created" in answer.text) == (409, True)
        created.write_bytes(json.dumps({**json.loads(whole), "provisional": True}).encode())
        answer = site.http.post(f"{PAGE}/cancel", json={})
        assert (answer.status_code, "somebody else's" in answer.text) == (409, True)
        created.write_bytes(whole)
        monkeypatch.delenv("AIRFLOW_CONN_LLM_TEST")
        answer = site.http.post(f"{PAGE}/cancel", json={})
        assert (answer.status_code, "llm_test" in answer.text) == (502, True)
        assert not any(batch.cancelled_at for batch in emulator.vendor.batches.values())


def test_jobs_that_are_called_online_are_shown_and_have_no_button(site, connect, storage, tmp_path):  # noqa: F811
    """No vendor's batch stands behind them."""
    with Emulator(duration=0) as emulator:
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="submit", map_index=-1)
        task = CompletionOperator(
            task_id="submit", conn_id=connect(emulator.url), rows=["a", "b"], storage=storage,
            request=ChatRequest("gpt-5-mini", max_tokens=9), destination=f"file://{tmp_path}/out",
        )  # fmt: skip
        summary = task.execute({"ti": ti})
    [job] = site.get("jobs")["jobs"]
    assert (job["state"], job["done"], job["cost_usd"]) == ("landed", 2, summary["cost_usd"])
    page = site.get("job/dag/run/submit/-1")
    assert (page["may_cancel"], page["timeline"][0]["console_url"]) == (False, "")


def test_the_age_of_what_is_shown_survives_a_cancellation(storage, monkeypatch):  # noqa: F811
    """It is counted from the last look, not from the beginning of time."""
    import asyncio

    shown = snapshot.Snapshot(Overview(storage))
    asyncio.run(shown.look())
    shown.forget(JobKey("dag", "run", "submit", "-1"))
    monkeypatch.setattr(Overview, "refresh", lambda self, days: (_ for _ in ()).throw(OSError("gone")))
    assert "is 0 seconds old" in asyncio.run(shown.look()).note
