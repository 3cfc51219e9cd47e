"""Two tries of one task at the same time, on one host and as if on two: what was paid and what was landed.

    python tests/killing/twins.py

Each try is a process. ``together`` starts both at once; ``frozen`` stops the first one in its midst (SIGSTOP), lets the
second one go on, and wakes the first one then, as a machine that hung would. A try that is told that another is at work
is made again a little later, as Airflow's retries do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from emulated import start_emulator

HOME = Path(tempfile.mkdtemp(prefix="llm-batch-twins-"))
os.environ |= {"AIRFLOW_HOME": str(HOME), "AIRFLOW__LLM_BATCH__STORAGE": f"file://{HOME}/jobs"}

from airflow.providers.common.compat.sdk import TaskDeferred  # noqa: E402

from airflow_llm_batch.data import ChatRequest  # noqa: E402
from airflow_llm_batch.exceptions import LLMBatchError  # noqa: E402
from airflow_llm_batch.jobs.directory import owner  # noqa: E402
from airflow_llm_batch.jobs.landing import land  # noqa: E402, F401
from airflow_llm_batch.jobs.online import finish, race  # noqa: E402, F401
from airflow_llm_batch.jobs.planning import plan  # noqa: E402, F401
from airflow_llm_batch.operators import (  # noqa: E402
    CompletionOperator,
    FetchResultsOperator,
    LLMBatchOperator,
    SubmitBatchOperator,
)
from airflow_llm_batch.providers import anthropic, openai  # noqa: E402, F401
from airflow_llm_batch.sensors import BatchSensor  # noqa: E402

ROWS, AT_ONCE, MOST_TRIES, LAPSE = 60, 6, 60, 1.0
MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5"}
#: of the tasks of a lane, the one that has a twin
LANES = ("submit", "wait", "fetch", "rounds", "online", "fastest", "finish_online")


def execute(lane: str, provider: str, directory: Path) -> object:
    """One try of the task that has a twin; those before it have run."""
    ti = SimpleNamespace(dag_id="dag", run_id=directory.name, task_id=lane, map_index=-1)
    context, out = {"ti": ti}, f"file://{directory}/out"
    rows = [{"id": f"k{n}", "text": f"text {n}"} for n in range(ROWS)]
    request = ChatRequest(model=MODELS[provider], user="{text}", max_tokens=50)
    asked = {"rows": rows, "key": "id", "request": request, "conn_id": provider}
    handle = directory / "handle.json"
    if lane == "rounds":
        return LLMBatchOperator(task_id=lane, destination=out, **asked).execute(context)
    if lane in ("online", "fastest"):
        models = [MODELS[provider], MODELS[provider] + "-fast"] if lane == "fastest" else ()
        calls = {"concurrency": AT_ONCE, "models": models, "strategy": "fastest" if models else "all"}
        return CompletionOperator(task_id=lane, destination=out, **calls, **asked).execute(context)
    if lane == "submit":
        return SubmitBatchOperator(task_id=lane, **asked).execute(context)
    given = json.loads(handle.read_text())
    if lane == "wait":
        return BatchSensor(task_id=lane, job=given, deferrable=False, poke_interval=0.05).execute(context)
    if lane == "finish_online":
        late = {"deadline": 0.01, "on_deadline": "finish_online"}
        return BatchSensor(task_id=lane, job=given, deferrable=False, poke_interval=0.05, **late).execute(context)
    return FetchResultsOperator(task_id=lane, job=given, destination=out).execute(context)


def start(name: str, lane: str, provider: str, directory: Path, host: str | None) -> int:
    """A process that tries until it is done; its pid."""
    if child := os.fork():
        return child
    status = 1
    try:
        if host is not None:
            owner.socket = SimpleNamespace(gethostname=lambda: host)  # type: ignore[assignment]
        for _ in range(MOST_TRIES):
            try:
                value = execute(lane, provider, directory)
                (directory / f"{name}.xcom").write_text(json.dumps(value))
                status = 0
                break
            except TaskDeferred:
                time.sleep(0.05)
            except LLMBatchError as error:
                (directory / f"{name}.error").write_text(f"{error}\n")
                if not error.retry_helps:
                    raise
                time.sleep(0.2)
    except BaseException:
        (directory / f"{name}.error").write_text(traceback.format_exc())
    finally:
        os._exit(status)


def ended(pid: int, seconds: float) -> int | None:
    """A process's exit status, None while it runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    return None


def calls() -> int:
    counted = VENDOR.get("/_emulator/stats").json()["calls"]
    return sum(n for call, n in counted.items() if call in ("POST /v1/chat/completions", "POST /v1/messages"))


def run_twins(lane: str, provider: str, how: str, hosts: int, number: int) -> dict:
    """A whole job whose ``lane`` has a twin."""
    VENDOR.post("/_emulator/reset").raise_for_status()
    directory = HOME / f"{lane}-{provider}-{how}-{hosts}-{number}"
    directory.mkdir()
    if lane == "rounds":
        VENDOR.put("/_emulator/faults", json={"row_errors": 0.3, "heal": 1}).raise_for_status()
    slow = {"http": [{"on": f"POST {path}", "times": 10**6, "delay": 0.1} for path in CALLED]}
    if lane in ("online", "fastest", "finish_online"):
        VENDOR.put("/_emulator/faults", json=slow).raise_for_status()
    VENDOR.put("/_emulator/duration", json=30 if lane == "finish_online" else 0.2).raise_for_status()
    if lane in ("wait", "fetch", "finish_online"):
        before = ["submit", "wait"] if lane == "fetch" else ["submit"]
        for task in before:
            (directory / "handle.json").write_text(json.dumps(execute(task, provider, directory)))
    names = ("a", "b")
    pids = [start("a", lane, provider, directory, None)]
    if how == "frozen":
        froze = False
        for _ in range(200):
            if lane in ("online", "fastest", "finish_online") and calls() < ROWS // 4:
                if ended(pids[0], 0.02) is not None:
                    break
                continue
            os.kill(pids[0], signal.SIGSTOP)
            froze = True
            break
        pids.append(start("b", lane, provider, directory, "elsewhere" if hosts == 2 else None))
        # On one host a frozen process is seen to be there: only its heartbeat tells that it is not at work.
        second = ended(pids[1], 40)
        if froze:
            os.kill(pids[0], signal.SIGCONT)
        statuses = [ended(pids[0], 40), second]
    else:
        pids.append(start("b", lane, provider, directory, "elsewhere" if hosts == 2 else None))
        statuses = [ended(pid, 60) for pid in pids]
    for pid, status in zip(pids, statuses, strict=True):
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    made = calls()
    if lane in ("submit", "wait", "finish_online"):
        done = next(name for name in names if (directory / f"{name}.xcom").exists())
        (directory / "handle.json").write_text((directory / f"{done}.xcom").read_text())
        VENDOR.put("/_emulator/duration", json=0).raise_for_status()
        for task in ("wait", "fetch") if lane == "submit" else ("fetch",):
            (directory / "handle.json").write_text(json.dumps(execute(task, provider, directory) or {}))
    stats = VENDOR.get("/_emulator/stats").json()
    landed = Counter(
        json.loads(line)["key"]
        for path in (directory / "out").iterdir()
        if path.suffix == ".jsonl"
        for line in path.read_bytes().split(b"\n")
        if line
    )
    called = lane in ("online", "fastest", "finish_online")
    wanted_calls = {"online": ROWS, "finish_online": ROWS, "fastest": 2 * ROWS}.get(lane, 0)
    # What was in flight when the second took over is called again; no more than that.
    in_flight = {"fastest": 2 * AT_ONCE, "finish_online": ROWS // 3}.get(lane, AT_ONCE)
    slack = in_flight if how == "frozen" else 0
    whole = dict(landed) == {f"k{n}": 1 for n in range(ROWS)}
    billed = stats["billed_rows"]
    return {
        "ended": sum(status == 0 for status in statuses),
        "calls": made,
        "billed": billed,
        "landed": landed.total(),
        "exact": whole
        and any(status == 0 for status in statuses)
        and (wanted_calls <= made <= wanted_calls + slack or (lane == "fastest" and made <= wanted_calls + slack))
        and (called or billed == ROWS),
        "errors": [(directory / f"{name}.error").read_text()[-2500:] for name in names
                   if (directory / f"{name}.error").exists()],
    }  # fmt: skip


CALLED = ("/v1/chat/completions", "/v1/messages")


def main(lanes: list[str]) -> int:
    table = "{:<14} {:<10} {:<9} {:>5} {:>6} {:>7} {:>7} {:>7}"
    print(table.format("lane", "vendor", "twin", "hosts", "ended", "calls", "billed", "landed"))
    wrong = number = 0
    for lane in lanes:
        for provider in MODELS:
            for how in ("together", "frozen"):
                for hosts in (1, 2):
                    number += 1
                    outcome = run_twins(lane, provider, how, hosts, number)
                    wrong += not outcome["exact"]
                    figures = [outcome[k] for k in ("ended", "calls", "billed", "landed")]
                    line = table.format(lane, provider, how, hosts, *figures)
                    print(line if outcome["exact"] else f"{line}   <- WRONG {outcome['errors']}", flush=True)
    print(
        f"Wanted everywhere: {ROWS} rows landed once each; batches bill {ROWS}; calls as many as rows (fastest: as the"
    )
    print(f"rows of both models at most), and {AT_ONCE} more a model at most, which were in flight, where a try froze.")
    print(f"{number} pairs; {wrong} not exact")
    return 1 if wrong else 0


def connections() -> dict[str, dict]:
    extra = {"settle_seconds": 0.1, "create_seconds": 0.5, "lapse_seconds": LAPSE, "limits": {"requests": ROWS // 3}}
    return {provider: {**extra, "provider": provider} for provider in MODELS}


if __name__ == "__main__":
    EMULATOR, VENDOR = start_emulator(connections())
    try:
        status = main(sys.argv[1:] or list(LANES))
    finally:
        EMULATOR.terminate()
        EMULATOR.wait()
        shutil.rmtree(HOME, ignore_errors=True)
    sys.exit(status)
