"""The pages' API, over Airflow's own auth manager: who sees and does what, and what a bad store does to it."""

from __future__ import annotations

import json
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.api_fastapi.app import init_auth_manager
from fastapi.testclient import TestClient
from support import ROOT
from support.pages import NASTY, look, submit

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.jobs.directory.address import JobKey
from airflow_llm_batch.jobs.view.overview import MOST_OPERATIONS, Overview
from airflow_llm_batch.operators import FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.plugin.app import make_app
from airflow_llm_batch.plugin.snapshot import Snapshot

pytestmark = pytest.mark.usefixtures("airflow_db")


def test_a_job_is_seen_from_its_planning_to_its_landing(site, connect, storage, tmp_path):
    """Running, ended, landed: counts, words, cost and totals as the job directory has them."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, limits={"requests": 1})
        handle = submit(conn_id, storage)
        [job] = site.get("jobs")["jobs"]
        assert (job["state"], job["words"], job["rows"], job["done"], job["shards"]) == (
            "running", "2 batches running", 2, 0, 2,
        )  # fmt: skip
        assert job["cost_usd"] is None
        assert job["estimated_cost_usd"] > 0
        assert site.get("jobs")["active"] == 1
        for batch in emulator.vendor.batches.values():
            batch.created_at -= 100
        look(handle, conn_id)
        [job] = site.get("jobs")["jobs"]
        assert (job["state"], job["words"], job["done"]) == ("ended", "ended, not landed yet", 2)
        summary = FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out").execute({})
    listing = site.get("jobs")
    [job] = listing["jobs"]
    assert (job["state"], job["words"], job["failed"], listing["active"]) == ("landed", "landed", 0, 0)
    assert job["cost_usd"] == summary["cost_usd"]
    [day], [dag] = (sums := site.get("totals"))["days"], sums["dags"]
    assert (day["name"], dag["name"]) == (datetime.now(UTC).date().isoformat(), "dag")
    assert (day["rows"], day["tokens"]) == (2, summary["input_tokens"] + summary["output_tokens"])
    assert (dag["cost_usd"], dag["saving_usd"]) == (summary["cost_usd"], summary["saving_usd"])
    page = site.get("job/dag/run/submit/-1")
    assert [shard["outcome"] for shard in page["timeline"]] == ["completed", "completed"]
    assert {shard["batch_id"] for shard in page["timeline"]} == set(handle["batches"])
    assert all(shard["planned_at"] < shard["created_at"] < shard["ended_at"] for shard in page["timeline"])
    assert page["files"] == summary["files"]
    assert (page["counts"]["succeeded"], page["sync_cost_usd"]) == (2, summary["sync_cost_usd"])
    assert page["may_cancel"] is False


def test_rounds_are_one_job(site, connect, storage, tmp_path):
    """A repair's batches, requests and dollars belong to the job they repair; rows are counted once."""
    with Emulator(duration=0, faults={"row_errors": 0.5, "heal": 1}) as emulator:
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="all", map_index=3)
        summary = LLMBatchOperator(
            task_id="all", conn_id=connect(emulator.url), rows=[f"text {n}" for n in range(20)], storage=storage,
            request=ChatRequest("gpt-5-mini", max_tokens=9), destination=f"file://{tmp_path}/out",
        ).execute({"ti": ti})  # fmt: skip
    [job] = site.get("jobs")["jobs"]
    assert (job["rounds"], job["rows"], job["done"], job["shards"], job["map_index"]) == (2, 20, 20, 2, "3")
    assert 20 < job["requests"] < 40
    assert job["cost_usd"] == pytest.approx(summary["cost_usd"])
    page = site.get("job/dag/run/all/3")
    assert [shard["round"] for shard in page["timeline"]] == [1, 2]


def test_filters_and_pages(site, connect, storage, tmp_path):
    """By DAG, run, provider, state and day; totals follow the same filters."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for number in range(5):
            handle = submit(conn_id, storage, run_id=f"run-{number}")
        FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out").execute({})
        submit(conn_id, storage, dag_id="other")

    def found(**query):
        return [job["run_id"] for job in site.get("jobs", **query)["jobs"]]

    assert found() == ["run", "run-4", "run-3", "run-2", "run-1", "run-0"]
    assert (found(limit=2, offset=1), site.get("jobs", limit=2)["found"]) == (["run-4", "run-3"], 6)
    assert found(dag_id="other") == ["run"]
    assert found(run_id="run-3") == ["run-3"]
    assert found(state="landed") == ["run-4"]
    assert len(found(state="active")) == 5
    assert found(provider="anthropic") == []
    assert found(q="RUN-3 gpt") == ["run-3"]
    assert (found(q="oth"), found(q="run-3 anthropic")) == (["run"], [])
    assert site.get("totals", q="oth")["dags"][0]["name"] == "other"
    today = datetime.now(UTC).date()
    assert len(found(since=today.isoformat(), until=today.isoformat())) == 6
    assert found(until=(today - timedelta(days=1)).isoformat()) == []
    assert site.get("totals", dag_id="other")["dags"][0]["jobs"] == 1
    assert site.get("jobs")["dags"] == ["dag", "other"]
    assert site.http.get("/api/jobs", params={"since": "yesterday"}).status_code == 422


def test_nobody_without_a_login_gets_anything(storage, monkeypatch, dags):
    """401 on every route there is, pages and files included."""
    init_auth_manager()
    app = make_app(Snapshot(Overview(storage)))
    http = TestClient(app)
    paths = [route.path for route in app.routes if "GET" in getattr(route, "methods", ())]
    assert len(paths) >= 8
    for path in paths:
        asked = path.format(dag_id="d", run_id="r", task_id="t", map_index="-1", name="app.js")
        assert http.get(asked).status_code == 401, path
    assert http.post("/api/job/d/r/t/-1/cancel", json={}).status_code == 401


def test_a_viewer_sees_and_cannot_cancel_a_stranger_sees_nothing(site, connect, storage):
    """Roles of Airflow's simple auth manager; the vendor's batch goes on running."""
    with Emulator(duration=60) as emulator:
        submit(connect(emulator.url), storage)
        assert site.get("job/dag/run/submit/-1")["may_cancel"] is True
        site.as_role("viewer")
        assert len(site.get("jobs")["jobs"]) == 1
        assert site.get("job/dag/run/submit/-1")["may_cancel"] is False
        answer = site.http.post("/api/job/dag/run/submit/-1/cancel", json={})
        assert (answer.status_code, "not cancel" in answer.text) == (403, True)
        site.as_role(None)
        listing = site.get("jobs")
        assert (listing["jobs"], listing["active"], listing["dags"]) == ([], 0, [])
        assert site.get("totals")["dags"] == []
        for path in ("/api/job/dag/run/submit/-1", "/api/job/nothing/run/submit/-1"):
            assert site.http.get(path).status_code == 404
        assert site.http.post("/api/job/dag/run/submit/-1/cancel", json={}).status_code == 404
        assert not any(batch.cancelled_at for batch in emulator.vendor.batches.values())


def test_cancelling_reaches_the_vendor_and_closes_what_was_not_sent(site, connect, storage):
    """Running shards are cancelled, waiting ones closed unsent; the second time there is nothing to cancel."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, limits={"requests": 1}, max_running_shards=1)
        handle = submit(conn_id, storage)
        form = site.http.post("/api/job/dag/run/submit/-1/cancel", data={"a": "b"})
        assert form.status_code == 415
        answer = site.http.post("/api/job/dag/run/submit/-1/cancel", json={})
        assert answer.json()["message"].startswith(
            "Cancellation of 1 batch(es) was asked for; 1 that waited for room will not be sent."
        )
        [batch] = emulator.vendor.batches.values()
        assert batch.cancelled_at is not None
        # Asked for, and not over yet: the button is gone, and nobody is told that it simply runs.
        page = site.get("job/dag/run/submit/-1")
        assert (page["state"], page["words"], page["may_cancel"]) == (
            "cancelling", "1 batch being cancelled, 1 ended", False,
        )  # fmt: skip
        assert site.get("jobs", state="active")["found"] == site.get("jobs")["active"] == 1
        batch.cancelled_at -= 1000
        look(handle, conn_id)
        [job] = site.get("jobs")["jobs"]
        assert (job["state"], job["words"]) == ("cancelled", "cancelled, not landed yet")
        assert site.http.post("/api/job/dag/run/submit/-1/cancel", json={}).status_code == 409


def test_a_cancellation_the_vendor_does_not_take_is_told(site, connect, storage):
    """502 with the reason, and no secret in it."""
    with Emulator(duration=60) as emulator:
        submit(connect(emulator.url), storage)
        emulator.faults(http=[{"on": "*", "times": 999, "status": 500}])
        assert site.http.post("/api/job/dag/run/submit/-1/cancel", json={}).status_code == 502
        page = site.get("job/dag/run/submit/-1")
        assert (page["state"], page["may_cancel"]) == ("running", True)


def test_states_and_totals_say_what_is_so(site, connect, storage, tmp_path):
    """Dollars are committed while a job runs and spent when it is landed; rows that failed are no success."""
    with Emulator(duration=60, faults={"row_errors": 0.2}) as emulator:
        conn_id = connect(emulator.url)
        handle = submit(conn_id, storage, rows=[f"text {n}" for n in range(40)])
        [day] = site.get("totals")["days"]
        [job] = site.get("jobs")["jobs"]
        assert (day["cost_usd"], day["committed_usd"]) == (0, job["estimated_cost_usd"])
        assert job["committed_usd"] > 0
        assert job["ended_at"] is None
        for batch in emulator.vendor.batches.values():
            batch.duration = 0
        look(handle, conn_id)
        [job] = site.get("jobs")["jobs"]
        assert job["state"] == "ended"
        assert job["ended_at"] >= job["created_at"]
        FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/o", fail_on="none").execute({})
    [day] = site.get("totals")["days"]
    [job] = site.get("jobs")["jobs"]
    assert (day["committed_usd"], day["cost_usd"]) == (0, job["cost_usd"])
    assert 0 < job["failed"] < 40
    assert (job["state"], job["words"]) == ("with_failures", f"landed, {job['failed']} of 40 rows failed")
    assert job["ended_at"] == job["landed_at"]


def test_what_rows_and_vendors_say_stays_text(site, connect, storage, tmp_path):
    """HTML in keys, prompts and errors is JSON in the API; the page has a policy that runs no script but its own."""
    with Emulator(duration=0, faults={"row_errors": 1}) as emulator:
        rows = [{"id": NASTY, "text": NASTY}]
        request = ChatRequest("gpt-5-mini", system=NASTY, max_tokens=9)
        handle = submit(connect(emulator.url), storage, rows=rows, key="id", request=request)
        FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/o", fail_on="none").execute({})
    page = site.get("job/dag/run/submit/-1")
    assert [json.loads(failure["key"]) for failure in page["failures"]] == [NASTY]
    assert page["request"]["system"] == NASTY
    answer = site.http.get("/job/dag/run/submit/-1")
    assert NASTY not in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    scripts = (ROOT / "airflow_llm_batch" / "plugin" / "static").glob("*.js")
    for script in scripts:
        assert not {
            word for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval(") if word in script.read_text()
        }


def test_a_thousand_jobs_that_are_older_than_the_index_are_read_once(site, connect, storage, monkeypatch):
    """The first look of all reads each plan; later ones some of those at work, and only what has changed."""
    with Emulator(duration=0) as emulator:
        handle = submit(connect(emulator.url), storage, run_id="run-0")
    base = Path(handle["job"].removeprefix("file://")).parents[1]
    for number in range(1, 1000):
        shutil.copytree(base, base.parent / f"run-{number}")
    reads = []
    from airflow_llm_batch.jobs.view import files

    real = files.parse
    monkeypatch.setattr(files, "parse", lambda fs, path, name: reads.append(path) or real(fs, path, name))
    assert site.get("jobs", limit=500)["found"] == 1000
    assert 1000 <= len(reads) <= 1000 + MOST_OPERATIONS
    reads.clear()
    assert site.get("jobs")["found"] == 1000
    assert len(reads) <= MOST_OPERATIONS
    # One is damaged, and hides nothing but itself.
    path = base.parent / "run-7" / "submit" / "-1" / "job.json"
    path.write_text("{")
    site.overview.hurry(JobKey("dag", "run-7", "submit", "-1"))
    assert site.get("jobs")["found"] == 999


def test_a_slow_store_gives_a_message_and_what_was_seen_last(site, connect, storage, monkeypatch):
    """Before the first look: 503 with the reason, soon. Later: the last look, and how old it is."""
    site.snapshot.patience = 0.2
    gate = threading.Event()
    real = Overview.refresh

    def slow(overview, days=None):
        gate.wait(30)
        return real(overview, days)

    monkeypatch.setattr(Overview, "refresh", slow)
    answer = site.http.get("/api/jobs")
    assert (answer.status_code, "has not answered for" in answer.json()["detail"]) == (503, True)
    gate.set()
    with Emulator(duration=60) as emulator:
        submit(connect(emulator.url), storage)
        assert len(site.get("jobs")["jobs"]) in (0, 1)
        assert len(site.get("jobs")["jobs"]) == 1
        gate.clear()
        listing = site.get("jobs")
        assert (len(listing["jobs"]), "has not answered" in listing["note"], "old" in listing["note"]) == (
            1,
            True,
            True,
        )
        gate.set()
        site.get("jobs")
        assert site.get("jobs")["note"] == ""


def test_an_unreadable_store_gives_a_message(site, monkeypatch):
    """Not a stack trace, not a hang: where it lies and what is wrong."""

    def broken(overview, days):
        raise PermissionError("access denied")

    monkeypatch.setattr(Overview, "refresh", broken)
    answer = site.http.get("/api/totals")
    assert answer.status_code == 503
    assert answer.json()["detail"].endswith("cannot be read: PermissionError: access denied")


def test_the_api_describes_itself(site):
    """OpenAPI, with a schema of every answer."""
    schema = site.get("openapi.json")
    assert {"/api/jobs", "/api/totals", "/api/job/{dag_id}/{run_id}/{task_id}/{map_index}"} <= set(schema["paths"])
    assert {"Jobs", "JobView", "Totals", "Page", "ShardView"} <= set(schema["components"]["schemas"])


def test_airflow_loads_the_plugin_and_its_files_are_in_the_package():
    """By its entry point; nav and run views below the app's prefix; every file that a page names is there."""
    from importlib.metadata import entry_points

    [point] = [p for p in entry_points(group="airflow.plugins") if p.dist.name == "airflow-provider-llm-batch"]
    plugin = point.load()
    assert [app["url_prefix"] for app in plugin.fastapi_apps] == ["/llm-batches"]
    assert [view["destination"] for view in plugin.external_views] == ["nav", "dag_run"]
    static = ROOT / "airflow_llm_batch" / "plugin" / "static"
    for view in plugin.external_views:
        assert view["href"].startswith("/llm-batches/")
    assert {path.name for path in static.iterdir()} >= {
        "index.html",
        "style.css",
        "app.js",
        "icon.svg",
        "icon-dark.svg",
    }


def test_a_job_whose_first_rows_were_tried_can_be_cancelled(site, connect, storage):
    """They are no batch, and the others are; the page shows what was tried."""
    with Emulator(duration=60) as emulator:
        task = SubmitBatchOperator(
            task_id="submit", conn_id=connect(emulator.url), rows=[{"text": f"t {n}"} for n in range(10)],
            request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=50), check_first=2, storage=storage,
        )  # fmt: skip
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="submit", map_index=-1)
        task.execute({"ti": ti})
        page = site.get("job/dag/run/submit/-1")
    assert page["may_cancel"] is True
    assert [row["row"] for row in page["tried"]["rows"]] == [0, 1]
    assert [shard["is_tried"] for shard in page["timeline"]] == [True, False]
    assert page["shards"] == 1
