"""The demo leaves no process behind, however it ends."""

import os
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest

pytestmark = pytest.mark.slow

WAYS = {
    "by itself": None,
    "SIGINT": signal.SIGINT,
    "SIGTERM": signal.SIGTERM,
    "SIGHUP": signal.SIGHUP,
    "SIGKILL": signal.SIGKILL,
}


def marked(mark: str) -> list[str]:
    """What runs with this mark in its environment, which every child inherits."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_ENDING_TEST") == mark:
                found.append(" ".join(process.cmdline())[:120])
        except (psutil.Error, OSError):
            pass
    return found


def until(condition, what: str, seconds: int) -> None:
    for _ in range(seconds * 4):
        if condition():
            return
        time.sleep(0.25)
    raise AssertionError(f"waited in vain for {what}")


def end(tmp_path, way: str, *arguments: str, when: str) -> None:
    """Start the demo, end it once it has said ``when``, and ask for what it has left."""
    mark = uuid.uuid4().hex
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")} | {"DEMO_ENDING_TEST": mark}
    log = tmp_path / "demo.log"
    command = [sys.executable, "-u", "-m", "airflow_llm_batch.demo", "--home", str(tmp_path / "home"), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        until(lambda: when in log.read_text() or process.poll() is not None, when, 240)
        assert when in log.read_text(), log.read_text()[-2000:]
        assert len(marked(mark)) > 1
        if WAYS[way] is not None:
            process.send_signal(WAYS[way])
        process.wait(120)
        until(lambda: not marked(mark), f"the end of {marked(mark)}", 60)
    finally:
        process.kill()
    assert marked(mark) == []


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_of_the_demo(tmp_path, way):
    """In the midst of its run, with an emulator and Airflow's task runner at work."""
    end(tmp_path, way, "--rows", "20", "--duration", "2" if way == "by itself" else "90", when="Running the DAG")


@pytest.mark.parametrize("way", ["SIGTERM", "SIGKILL"])
def test_nothing_is_left_of_a_whole_airflow(tmp_path, way):
    """With api-server, scheduler, triggerer, dag-processor and a run under way."""
    end(tmp_path, way, "--ui", "--rows", "20", "--duration", "90", when="Triggered:")
