"""A whole Airflow on several hosts, which have nothing in common but a database, a broker and an object store."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from airflow_llm_batch import demo
from support import ROOT, TESTS

#: CeleryExecutor and what it needs; .ci/run puts it there
CELERY = ROOT / ".executors"
#: what belongs to Airflow in an AIRFLOW_HOME
AIRFLOWS = ("airflow.cfg", "dags", "logs", "airflow-worker.pid", "simple_auth_manager_passwords.json.generated")


class Host:
    """A machine as a process sees one: a name, a home, a working directory and a ``TMPDIR`` of its own.

    :ivar process: the component that runs on it, None when there is none.
    """

    def __init__(self, name: str, root: Path, dag: str) -> None:
        """:param dag: text of the one DAG file."""
        self.name, self.root = name, root / name
        self.airflow, self.home, self.cwd, self.tmp = (self.root / part for part in ("airflow", "home", "cwd", "tmp"))
        for folder in (self.airflow / "dags", self.home, self.cwd, self.tmp):
            folder.mkdir(parents=True)
        (self.airflow / "dags" / "nightly.py").write_text(dag)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AS_HOST": self.name,
            "AIRFLOW_HOME": str(self.airflow),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.airflow / "dags"),
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
        }

    def start(self, command: list[str], environment: dict[str, str]) -> None:
        """:param command: what follows ``airflow``."""
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *command], env=environment | self.environment, cwd=self.cwd,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def kill(self) -> int:
        """Pull the plug: SIGKILL for the component and all that it has started; how many processes it was."""
        assert self.process is not None
        below = []
        with suppress(psutil.Error):
            component = psutil.Process(self.process.pid)
            component.suspend()  # it starts no more
            below = component.children(recursive=True)
        self.process.kill()
        for process in below:
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()
        self.process = None
        return 1 + len(below)

    def stop(self) -> None:
        """Politely first; what it has started is of its process group and does not outlive it."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(8)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def files(self) -> dict[str, int]:
        """What lies on its disk and is not Airflow's own: path below the root -> bytes."""
        own = {f"airflow/{name}" for name in AIRFLOWS} | {"log"}
        found = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if path.is_file() and not any(name == one or name.startswith(f"{one}/") for one in own):
                found[name] = path.stat().st_size
        return found


class Cluster:
    """
    :param dag: text of the one DAG file, which every host has.
    :param environment: of all processes, beside Airflow's own.
    """

    def __init__(self, root: Path, dag: str, database: str, broker: str, environment: dict[str, str]) -> None:
        self.root, self.dag = root, dag
        self.hosts: dict[str, Host] = {}
        self.port = demo.free_port()
        key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        path = os.pathsep.join(map(str, (TESTS / "support" / "hosts", CELERY, ROOT, TESTS)))
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PYTEST"))},
            **demo.api_environment(self.port),
            "PYTHONPATH": path,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
            "AIRFLOW__CELERY__BROKER_URL": broker,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{database}",
            # Each host would make one of its own, and trust no other.
            "AIRFLOW__CORE__FERNET_KEY": key,
            "AIRFLOW__API__SECRET_KEY": key,
            "AIRFLOW__API_AUTH__JWT_SECRET": key,
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
            # How soon a worker that is gone is missed, in seconds.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
            **environment,
        }

    def host(self, name: str) -> Host:
        if name not in self.hosts:
            self.hosts[name] = Host(name, self.root, self.dag)
        return self.hosts[name]

    def start(self, name: str, *command: str, **environment: str) -> Host:
        """A component on a host of its own."""
        host = self.host(name)
        host.start(list(command), self.environment | environment)
        return host

    def begin(self) -> None:
        """Database, API server, DAG processor and triggerer; until the DAG is known."""
        here = self.host("control")
        subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"], env=self.environment | here.environment, cwd=here.cwd,
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        server = self.start("control", "api-server").process
        assert server is not None
        self.start("parser", "dag-processor")
        self.start("triggerer", "triggerer", "--skip-serve-logs")
        self.api = demo.Api(f"http://127.0.0.1:{self.port}", here.airflow, server)
        self.api.wait_until_ready()

    def until(self, holds, what: str, seconds: float) -> None:
        for _ in range(int(seconds * 5)):
            if holds():
                return
            time.sleep(0.2)
        raise AssertionError(f"waited {seconds} s for {what}\n{self.logs()}")

    def logs(self) -> str:
        """The end of each component's."""
        logs = ((host.name, (host.root / "log").read_text(errors="replace")[-2000:]) for host in self.hosts.values())
        return "\n".join(f"== {name}\n{text}" for name, text in logs)

    def close(self) -> None:
        for host in self.hosts.values():
            if host.process is not None:
                host.process.send_signal(signal.SIGINT)
        for host in reversed(self.hosts.values()):
            host.stop()


@contextmanager
def redis_server(program: str, home: Path) -> Iterator[str]:
    """Its URL, on 127.0.0.1; nothing is kept on disk."""
    port = demo.free_port()
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def missing() -> str | None:
    """Why no such Airflow can be here, None when it can."""
    from support.databases import binaries

    if not (CELERY / "celery").is_dir():
        return f"CeleryExecutor is not in {CELERY.name}: see CONTRIBUTING.md"
    if shutil.which("redis-server") is None:
        return "no Redis server is installed here"
    return None if binaries() else "no PostgreSQL server is installed here"
