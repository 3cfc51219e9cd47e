"""The example DAG ``nightly_review_labels`` on the local emulator, through Airflow itself.

python -m airflow_llm_batch.demo                 one run, deferral included, and a table of what it landed
python -m airflow_llm_batch.demo --ui            the same in a running Airflow with its UI
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow_llm_batch.demo_processes import Children, wait_for_port
from airflow_llm_batch.demo_report import follow, newest, say, show
from airflow_llm_batch.demo_vendors import VENDORS, check, connections, start_store

DAG_ID = "nightly_review_labels"
START_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_llm_batch.demo",
        description="Runs the example DAG nightly_review_labels on a local emulator, through Airflow itself.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--provider", choices=list(VENDORS), default="openai", help="whose batch API to speak")
    rows: dict[str, Any] = {"type": int, "default": 1200, "choices": range(1, 10_001), "metavar": "N"}
    parser.add_argument("--rows", help="reviews to label, at most 10000", **rows)
    parser.add_argument("--duration", type=float, default=8.0, help="seconds an emulated batch takes")
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="where everything of the run lies")
    parser.add_argument("--ui", action="store_true", help="run in a whole Airflow and leave its UI running")
    parser.add_argument("--exit", action="store_true", help="with --ui: stop Airflow when the run is over")
    given = parser.parse_args()
    home = given.home.resolve()
    if given.ui and home.exists():
        shutil.rmtree(home / "jobs", ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    check(given.provider)
    emulator_port = free_port()
    environment = airflow_environment(home)
    conf = {"reviews": given.rows, "model": VENDORS[given.provider].model, "data": f"file://{home}/data"}
    children = Children(home)
    try:
        store = None
        if VENDORS[given.provider].store:
            store = start_store(children.start, free_port(), home / "store.log", environment)
        environment |= connections(given.provider, f"http://127.0.0.1:{emulator_port}", store)
        start_emulator(children, emulator_port, given.duration, home / "emulator.log", environment, store)
        say(
            f"Emulator of the {given.provider} batch API on http://127.0.0.1:{emulator_port}. Its answers fit the "
            "asked schema and mean nothing; 1 row in 200 fails on purpose; batches hold 500 rows here."
        )
        run = run_in_ui if given.ui else run_once
        code = run(children, home, environment, conf, given.exit)
    except KeyboardInterrupt:
        say("Stopping.")
        code = 130
    finally:
        children.close()
    sys.exit(code)


def airflow_environment(home: Path) -> dict[str, str]:
    """The process environment of an Airflow that lives in ``home``."""
    settings = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(example_dags()),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        # One run and no other: unpausing the DAG would begin last night's as well.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__LLM_BATCH__STORAGE": f"file://{home}/jobs",
    }
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | settings


def api_environment(port: int) -> dict[str, str]:
    """What a second Airflow on one machine needs to set."""
    url = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
    }


def example_dags() -> Path:
    """The example DAGs: of the clone this runs in, or of the installed package."""
    here = Path(__file__).resolve().parent
    clone = here.parent / "dags_examples"
    return clone if clone.is_dir() else here / "dags_examples"


def run_once(children: Children, home: Path, environment: dict[str, str], conf: dict[str, Any], leave: bool) -> int:
    """``airflow dags test``: Airflow's own task runner, deferral and trigger, without scheduler and UI."""
    log = home / "run.log"
    airflow = [sys.executable, "-m", "airflow"]
    say("Preparing Airflow's database ...")
    with log.open("wb") as output:
        subprocess.run([*airflow, "db", "migrate"], env=environment, stdout=output, stderr=output, check=True)
        command = [*airflow, "dags", "test", DAG_ID, "--conf", json.dumps(conf)]
        say(f"Running the DAG {DAG_ID} (log: {log})")
        started = time.time()
        process = children.start(command, environment, output)
    follow(home / "jobs", started, process.poll, phase_of(log))
    children.stop(process)
    manifest = newest(home / "jobs", "manifest.json", started)
    if process.returncode != 0 or manifest is None:
        tail = log.read_text(errors="replace").splitlines()[-30:]
        say("The run failed. The end of its log:\n" + "\n".join(tail))
        return 1
    show(manifest)
    return 0


def phase_of(log: Path) -> Callable[[], str]:
    """What ``airflow dags test`` is at, read from its log, before there is a job to look at."""

    def phase() -> str:
        text = log.read_text(errors="replace")
        begun = [task for task in ("collect_reviews", "submit", "wait", "fetch") if f"task_id={task}" in text]
        return f"task {begun[-1]}" if begun else "Airflow loads the DAG"

    return phase


def run_in_ui(children: Children, home: Path, environment: dict[str, str], conf: dict[str, Any], leave: bool) -> int:
    """``airflow standalone``: api-server, scheduler, triggerer and dag-processor."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment |= api_environment(port)
    log = home / "standalone.log"
    with log.open("wb") as output:
        process = children.start([sys.executable, "-m", "airflow", "standalone"], environment, output)
    say(f"Starting Airflow, about a minute (log: {log})")
    api = Api(url, home, process)
    api.wait_until_ready()
    say(f"Airflow runs at {url}   user: {api.user}   password: {api.password}")
    started = time.time()
    run_id = api.trigger(conf)
    say(f"Triggered: {url}/dags/{DAG_ID}/runs/{run_id}")
    jobs = home / "jobs" / DAG_ID / run_id
    ended = {"success": 0, "failed": 1}
    follow(jobs, started, lambda: ended.get(api.state(run_id)), lambda: f"the run is {api.seen or 'queued'}")
    state = api.state(run_id)
    if manifest := newest(jobs, "manifest.json", started):
        show(manifest)
    say(f"The run ended: {state}.")
    if not leave:
        say("Airflow goes on running; stop it with Ctrl+C.")
        with suppress(KeyboardInterrupt):
            process.wait()
    return 0 if state == "success" else 1


class Api:
    """What the demo needs of Airflow's REST API."""

    def __init__(self, url: str, home: Path, process: subprocess.Popen[bytes]) -> None:
        import httpx

        self.http = httpx.Client(base_url=url, timeout=30)
        self.home, self.process = home, process
        self.user = self.password = ""
        #: the run's state when it was last heard of
        self.seen = ""

    def wait_until_ready(self) -> None:
        """Until the DAG is known to the API; logs in on the way."""
        import httpx

        for _ in range(START_SECONDS):
            if self.process.poll() is not None:
                raise SystemExit("airflow standalone ended; see standalone.log")
            try:
                if self._log_in() and self.http.get(f"/api/v2/dags/{DAG_ID}").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(1)
        raise SystemExit(f"Airflow was not ready within {START_SECONDS} seconds; see standalone.log")

    def _log_in(self) -> bool:
        passwords = self.home / "simple_auth_manager_passwords.json.generated"
        if not passwords.exists() or not passwords.read_text().strip():
            return False
        self.user, self.password = next(iter(json.loads(passwords.read_text()).items()))
        token = self.http.post("/auth/token", json={"username": self.user, "password": self.password})
        if token.status_code >= 300:
            return False
        self.http.headers["authorization"] = f"Bearer {token.json()['access_token']}"
        return True

    def trigger(self, conf: dict[str, Any], dag_id: str = DAG_ID) -> str:
        self.http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        run = self.http.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        run.raise_for_status()
        return str(run.json()["dag_run_id"])

    def state(self, run_id: str, dag_id: str = DAG_ID) -> str:
        """The run's state; as it was last seen where the server is slow to answer."""
        import httpx

        try:
            state = self.http.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}").json().get("state")
        except (httpx.TransportError, ValueError):
            return self.seen
        self.seen = str(state)
        return self.seen


def start_emulator(
    children: Children, port: int, duration: float, log: Path, environment: dict[str, str], store: str | None
) -> None:
    command = [sys.executable, "-m", "airflow_llm_batch.emulator", "--port", str(port), "--duration", str(duration)]
    command += ["--faults", json.dumps({"row_errors": 0.005})]
    if store is not None:
        command += ["--s3-endpoint", store]
    with log.open("wb") as output:
        process = children.start(command, environment, output)
    wait_for_port(port, process, log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
