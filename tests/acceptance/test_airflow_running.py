"""A whole Airflow, its triggerer killed and restarted, a waiting task failed and cleared over the REST API."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import ROOT, TESTS, read_jsonl

from airflow_llm_batch import demo
from airflow_llm_batch.emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
#: what must be in the message of a wrong set-up: the remedy, or the place
SAID = {
    "no_connection": "There is no connection 'not_there'",
    "no_key": "has no key",
    "refused_key": "HTTP 401",
    "refused_key_online": "refuses the key",
    "wrong_path": "HTTP 404",
    "no_column": "'txt'",
    "no_rows": "on_empty='skip'",
    "budget": "above max_cost",
    "destination": "Cannot write to file:///proc/nowhere",
    "no_sql_hook": "no hook that runs queries",
    "too_much_metadata": "at most 12",
}
OURS = "/airflow_llm_batch/"
SIGNED = "whsec_" + base64.b64encode(b"a shared secret of tests").decode()
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


class Running:
    """The components, each a process group of its own, and what a test asks of them."""

    def __init__(self, home: Path, environment: dict[str, str], emulator: Emulator) -> None:
        self.home, self.environment, self.emulator = home, environment, emulator
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, component: str) -> None:
        with (self.home / f"{component}.log").open("ab") as log:
            self.processes[component] = subprocess.Popen(
                [sys.executable, "-m", "airflow", component],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, component: str) -> None:
        process = self.processes.pop(component)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def run_until_waiting(self, name: str) -> str:
        """Trigger the DAG and wait until its sensor is deferred and the triggerer has looked at the batches."""
        data = f"file://{self.home}/{name}"
        run_id = self.api.trigger({"reviews": 40, "model": "gpt-5-mini", "data": data})
        self.until(lambda: self.task_state(run_id, "wait") == "deferred", "the sensor to be deferred")
        seen = self.reads(run_id)
        self.until(lambda: self.reads(run_id) > seen, "the triggerer to look")
        return run_id

    def batches(self, run_id: str) -> list:
        """The vendor's batches of one run; unpausing the DAG starts its nightly run as well."""
        known = list(self.emulator.vendor.batches.values())
        return [batch for batch in known if (batch.metadata or {}).get("airflow_run_id") == run_id]

    def reads(self, run_id: str) -> int:
        """Looks at a run's batches, one by one or in listings, which are used when more than a few wait."""
        calls = self.emulator.vendor.calls
        return calls["GET /v1/batches"] + sum(calls[f"GET /v1/batches/{b.id}"] for b in self.batches(run_id))

    def task_state(self, run_id: str, task_id: str) -> str | None:
        path = f"/api/v2/dags/{demo.DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}"
        return self.api.http.get(path).json().get("state")

    def until(self, holds, what: str, seconds: int = 150) -> None:
        for _ in range(seconds * 2):
            if holds():
                return
            time.sleep(0.5)
        logs = "".join((self.home / f"{name}.log").read_text(errors="replace")[-1500:] for name in COMPONENTS)
        raise AssertionError(f"waited {seconds} s for {what}\n{logs}")

    def logs(self, dag_id: str) -> str:
        """The end of each of its tasks' logs."""
        logs = sorted(self.home.rglob(f"dag_id={dag_id}/**/*.log"))
        return "\n".join(f"== {log}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)

    def landed(self, name: str) -> list[dict]:
        return [row for path in (self.home / name).rglob("results-*.jsonl") for row in read_jsonl(path)]


def wrong_connections(url: str) -> dict[str, str]:
    """Connections of every wrong kind, as environment variables."""

    def connection(name, host=f"{url}/v1", password="sk-wrong", **extra):
        given = {"conn_type": "llmbatch", "host": host, "password": password, "extra": {"provider": "openai", **extra}}
        if extra.get("provider", "") is None:
            del given["extra"]["provider"]
        return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(given)}

    theirs = {"conn_type": "pydanticai", "host": f"{url}/v1", "password": "k", "extra": {"model": "openai:gpt-5-mini"}}
    return {
        "AIRFLOW_CONN_PYDANTICAI_DEFAULT": json.dumps(theirs),
        **connection("llm_test"),
        **connection("wrong_no_provider", provider=None),
        **connection("wrong_unknown_provider", provider="nobody"),
        **connection("wrong_no_key", host="", password=""),
        **connection("wrong_refused_key", host=f"{SITES['401']}/v1"),
        **connection("wrong_path", host=f"{url}/v9"),
        **connection("wrong_credentials_in_host", host="https://me:secret@127.0.0.1/v1"),
        **connection("wrong_limits", limits={"requests": "many"}),
        **connection("wrong_prices", prices={"*": "cheap"}),
        **connection("wrong_headers", headers="x: y"),
        **connection("passing_down", host=f"http://127.0.0.1:{demo.free_port()}/v1", retries=0),
        **connection("passing_busy", host=f"{SITES['503']}/v1", retries=0),
    }


SITES: dict[str, str] = {}


@pytest.fixture(scope="module")
def sites():
    """Servers that refuse everything in their own way."""
    running = []
    for status in ("401", "503"):

        class Refusing(BaseHTTPRequestHandler):
            code = int(status)

            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                body = b'{"error": {"message": "no", "type": "refused"}}'
                self.send_response(self.code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.do_POST()

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        SITES[status] = f"http://127.0.0.1:{server.server_port}"
        running.append(server)
    yield
    for server in running:
        server.shutdown()


@pytest.fixture(scope="module")
def airflow(sites, tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    port = demo.free_port()
    hooks = f"http://127.0.0.1:{port}/llm-batches/hooks/pushed"
    with Emulator(duration=15) as emulator, Emulator(duration=20, webhook_url=hooks, webhook_secret=SIGNED) as pushing:
        made = demo.airflow_environment(home) | demo.connections("openai", emulator.url, None)
        folder = home / "dags"
        for source in (ROOT / "dags_examples", TESTS / "dags"):
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        made["AIRFLOW__CORE__DAGS_FOLDER"] = str(folder)
        environment = clean | made | demo.api_environment(port) | wrong_connections(emulator.url)
        # Assets start DAGs only where the scheduler schedules.
        environment["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "True"
        environment["BOTH_PACKAGES_DATA"] = f"file://{home}/both"
        environment["AIRFLOW_VAR_PUSHED_DATA"] = f"file://{home}"
        extra = {"provider": "openai", "webhook_secret": SIGNED}
        environment["AIRFLOW_CONN_PUSHED"] = json.dumps(
            {"conn_type": "llmbatch", "host": f"{pushing.url}/v1", "password": "k", "extra": extra}
        )
        (home / "bad.jsonl").write_text("{}\nnot json\n")
        running = Running(home, environment, emulator)
        running.pushing = pushing
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True
        )
        for component in COMPONENTS:
            running.start(component)
        try:
            process = SimpleNamespace(poll=running.processes["api-server"].poll)
            running.api = demo.Api(f"http://127.0.0.1:{port}", home, process)
            running.api.wait_until_ready()
            yield running
        finally:
            for component in list(running.processes):
                running.kill(component)


def test_a_wait_outlives_its_triggerer(airflow):
    """SIGKILL for the triggerer while a job waits; another one takes over; nothing is cancelled or sent again."""
    run_id = airflow.run_until_waiting("outlives")
    airflow.kill("triggerer")
    airflow.start("triggerer")
    airflow.until(lambda: airflow.api.state(run_id) in ("success", "failed"), "the run to end", 200)
    assert airflow.api.state(run_id) == "success"
    assert [batch.cancelled_at for batch in airflow.batches(run_id)] == [None]
    assert len(airflow.batches(run_id)) == 1
    assert sorted(row["row"] for row in airflow.landed("outlives")) == list(range(40))


def test_failing_a_waiting_task_by_hand_cancels_what_runs(airflow):
    """PATCH new_state=failed on the deferred sensor: the vendor's batch is cancelled."""
    airflow.emulator.vendor.settings.duration = 120
    run_id = airflow.run_until_waiting("failed")
    path = f"/api/v2/dags/{demo.DAG_ID}/dagRuns/{run_id}/taskInstances/wait"
    airflow.api.http.patch(path, json={"new_state": "failed"}).raise_for_status()
    airflow.until(lambda: all(b.cancelled_at for b in airflow.batches(run_id)), "the cancellation", 60)
    assert len(airflow.batches(run_id)) == 1


def test_clearing_a_waiting_task_cancels_and_then_harvests(airflow):
    """Cleared while deferred: the batch is cancelled, the sensor waits again, what was finished lands."""
    airflow.emulator.vendor.settings.duration = 60
    run_id = airflow.run_until_waiting("cleared")
    airflow.until(lambda: airflow.batches(run_id)[0].view(time.time()).done > 22, "more than half to be done")
    body = {"dry_run": False, "task_ids": ["wait"], "dag_run_id": run_id, "only_failed": False}
    airflow.api.http.post(f"/api/v2/dags/{demo.DAG_ID}/clearTaskInstances", json=body).raise_for_status()
    airflow.until(lambda: all(b.cancelled_at for b in airflow.batches(run_id)), "the cancellation", 60)
    airflow.until(lambda: airflow.api.state(run_id) in ("success", "failed"), "the run to end", 120)
    assert airflow.api.state(run_id) == "success"
    assert len(airflow.batches(run_id)) == 1
    rows = airflow.landed("cleared")
    assert sorted(row["row"] for row in rows) == list(range(40))
    assert {row["status"] for row in rows} == {"succeeded", "cancelled"}


def test_mapped_partitions_are_jobs_of_their_own(airflow):
    """Twelve mapped partitions through submit, wait and fetch on the scheduler; the triggerer waits for all with one
    client and reads them from listings."""
    airflow.emulator.vendor.settings.duration = 45
    known = set(airflow.emulator.vendor.batches)
    before = Counter(airflow.emulator.vendor.calls)
    conf = {"partitions": 12, "data": f"file://{airflow.home}/mapped"}
    run_id = airflow.api.trigger(conf, "mapped_partitions")
    ended = ("success", "failed")
    airflow.until(lambda: airflow.api.state(run_id, "mapped_partitions") in ended, "the run to end", 250)
    assert airflow.api.state(run_id, "mapped_partitions") == "success"
    made = [batch for name, batch in airflow.emulator.vendor.batches.items() if name not in known]
    assert sorted(batch.total for batch in made if batch.metadata["airflow_run_id"] == run_id) == [25] * 12
    rows = airflow.landed("mapped")
    assert len(rows) == len({row["key"] for row in rows}) == 12 * 25
    assert {row["status"] for row in rows} == {"succeeded"}
    calls = Counter(airflow.emulator.vendor.calls) - before
    assert calls["GET /v1/batches"] > 0


def until_landed(airflow, name, rows):
    """Wait until so many rows lie there; the epoch seconds at which the last file was written."""
    airflow.until(lambda: len(airflow.landed(name)) == rows, f"{rows} rows in {name}", 200)
    return max(path.stat().st_mtime for path in (airflow.home / name).rglob("results-*.jsonl"))


def test_a_pushed_event_lands_a_job_in_seconds(airflow, capsys):
    """Looks are five minutes apart. A deferred wait goes on with the event, and a DAG that is scheduled on the asset
    begins with it, with nothing waiting in between; each row lands once."""
    pushing = airflow.pushing.vendor
    for dag_id in ("pushed_fetch", "pushed_submit", "pushed_wait"):
        airflow.api.http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
    for dag_id, name in (("pushed_wait", "waited"), ("pushed_submit", "unwaited")):
        known = set(pushing.batches)
        airflow.api.trigger({}, dag_id)
        landed = until_landed(airflow, name, 20)
        [batch] = [batch for batch_id, batch in pushing.batches.items() if batch_id not in known]
        ended = batch.view(time.time()).ended_at
        looks = pushing.calls[f"GET /v1/batches/{batch.id}"]
        with capsys.disabled():
            print(f"\n{name}: landed {landed - ended:.1f} s after the vendor's end, {looks} looks, 300 s apart")
        assert landed - batch.view(time.time()).ended_at < 300
        assert sorted(row["row"] for row in airflow.landed(name)) == list(range(20))
    runs = airflow.api.http.get("/api/v2/dags/pushed_fetch/dagRuns").json()["dag_runs"]
    assert [run["run_type"] for run in runs] == ["asset_triggered"]
    # Nothing waited: the submitting run was over before the vendor was.
    runs = airflow.api.http.get("/api/v2/dags/pushed_submit/dagRuns").json()["dag_runs"]
    assert [run["state"] for run in runs] == ["success"]


def test_a_watched_asset_starts_the_fetching_dag(airflow):
    """No webhook: the example's watcher, in the triggerer, sees the job end; the consumer lands it."""
    airflow.emulator.vendor.settings.duration = 10
    airflow.api.http.patch("/api/v2/dags/nothing_waits_fetch", json={"is_paused": False}).raise_for_status()
    airflow.api.http.patch("/api/v2/dags/nothing_waits_submit", json={"is_paused": False}).raise_for_status()
    run_id = airflow.api.trigger({"letters": 7}, "nothing_waits_submit")
    ended = ("success", "failed")
    airflow.until(lambda: airflow.api.state(run_id, "nothing_waits_submit") in ended, "the run to end", 120)

    def runs():
        return airflow.api.http.get("/api/v2/dags/nothing_waits_fetch/dagRuns").json()["dag_runs"]

    airflow.until(lambda: [run["state"] for run in runs()] == ["success"], "the consumer", 200)
    [run] = runs()
    path = (
        f"/api/v2/dags/nothing_waits_fetch/dagRuns/{run['dag_run_id']}/taskInstances/fetch/0/xcomEntries/return_value"
    )
    summary = airflow.api.http.get(path, params={"map_index": 0}).json()
    if "value" not in summary:
        path = path.replace("/fetch/0/", "/fetch/")
        summary = airflow.api.http.get(path, params={"map_index": 0}).json()
    assert "7 rows" in str(summary["value"]), summary


def test_what_cannot_work_is_tried_once_and_what_may_pass_three_times(airflow, capsys):
    """Every wrong set-up with two retries: one try, no traceback of ours, a message that says what to do."""
    sys.path.insert(0, str(TESTS / "dags"))
    from wrong_setups import PASSING, WRONG

    run_id = airflow.api.trigger({}, "wrong_setups")
    ended = ("success", "failed")
    airflow.until(lambda: airflow.api.state(run_id, "wrong_setups") in ended, "the run to end", 400)
    path = f"/api/v2/dags/wrong_setups/dagRuns/{run_id}/taskInstances"
    found = {ti["task_id"]: ti for ti in airflow.api.http.get(path, params={"limit": 100}).json()["task_instances"]}
    tasks = []
    for name in (*WRONG, *PASSING):
        task = found[name]
        events = airflow.api.http.get(f"{path}/{name}/logs/{task['try_number']}", params={"full_content": True}).json()
        details = [e["error_detail"] for e in events["content"] if isinstance(e, dict) and e.get("error_detail")]
        message = details[-1][0]["exc_value"] if details else ""
        frames = [f for detail in details for part in detail for f in part["frames"] if OURS in f["filename"]]
        tasks.append((name, task["duration"] or 0.0, task["try_number"], task["state"], len(frames), message))
    with capsys.disabled():
        print("\nwrong set-up | seconds | tries | message")
        for name, seconds, tries, _, _, message in tasks:
            print(f"{name} | {seconds:.1f} | {tries} | {message[:160]}")
    for name, _, tries, state, frames, message in tasks:
        assert state == "failed", name
        assert tries == (3 if name in PASSING else 1), (name, tries, message)
        assert message, name
        assert frames <= 1, (name, frames)
    messages = {name: message for name, *_, message in tasks}
    for name, words in SAID.items():
        assert words in messages[name], (name, messages[name])


def test_beside_common_ai_both_decorators_are_their_own(airflow):
    """Installed together, the documented DAG of each runs: ``@task.llm_batch`` is theirs, ``@task.llm_rows`` ours."""
    # Airflow fails a task that is resumed before its scheduler has seen that the deferring process is over: seconds.
    airflow.emulator.vendor.settings.duration = 20
    run_id = airflow.api.trigger({}, "both_packages")
    ended = ("success", "failed")
    airflow.until(lambda: airflow.api.state(run_id, "both_packages") in ended, "the run to end", 250)
    assert airflow.api.state(run_id, "both_packages") == "success", airflow.logs("both_packages")
    both = airflow.home / "both"
    assert len([row for path in (both / "ours").glob("*.jsonl") for row in read_jsonl(path)]) == 3
    assert len([row for path in (both / "theirs").rglob("*.jsonl") for row in read_jsonl(path)]) == 2
