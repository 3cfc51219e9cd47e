"""Kills a job whose rows, directory and results lie in an object store, at requests to that store.

    python tests/killing/stores.py s3 gcs azure --points 24 --seed 7

Each task runs in a process of its own. A *point* is a request that changes something in the store: right after the
store has done what was asked, the process is ended with SIGKILL, or its connection cut, and then the same task runs
again in a new process until it is done. Of all points of a job in batches, and of one that calls online, a sample is
struck: half of it where a file is uploaded in parts. Prints a table, with the uploads that were open in the store when
the process had been killed and when the job had ended; exits non-zero unless every line of it is exact.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

from emulated import start_emulator
from tries import one_try

HOME = Path(tempfile.mkdtemp(prefix="llm-batch-stores-"))
os.environ["AIRFLOW_HOME"] = str(HOME)
# Read when gcsfs is imported: it asks Google itself what kind of bucket it has otherwise.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
sys.path.insert(0, str(Path(__file__).parent.parent))

import adlfs  # noqa: E402, F401
import aiohttp  # noqa: E402
import gcsfs  # noqa: E402, F401
import s3fs  # noqa: E402, F401
from airflow.sdk.io import has_fs  # noqa: E402
from support.object_stores import STORES, ObjectStore, absent, make_bucket  # noqa: E402

from airflow_llm_batch.data import ChatRequest  # noqa: E402
from airflow_llm_batch.data.sources import read_rows  # noqa: E402
from airflow_llm_batch.jobs.landing import land  # noqa: E402, F401
from airflow_llm_batch.jobs.online import endpoint  # noqa: E402, F401
from airflow_llm_batch.jobs.planning import plan  # noqa: E402, F401
from airflow_llm_batch.jobs.submission import submit  # noqa: E402, F401
from airflow_llm_batch.jobs.waiting import wait  # noqa: E402, F401
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, SubmitBatchOperator  # noqa: E402
from airflow_llm_batch.providers import openai  # noqa: E402, F401
from airflow_llm_batch.sensors import BatchSensor  # noqa: E402
from airflow_llm_batch.storage import PART, find_files, storage_path, whole_file  # noqa: E402

ROWS, SHARDS, AT_ONCE, MOST_TRIES = 10, 2, 2, 5
BUCKET = "killing"
TASKS = {"batch": ("submit", "wait", "fetch"), "online": ("online",)}
#: requests that are part of an upload in parts: S3's and GCS's own words, Azure's blocks and their list
IN_PARTS = re.compile(r"uploads?\b|uploadId|upload_id|comp=block")
#: servers that put a part which is sent again behind itself, as those that they stand for do not
FORGETS_PLACES = frozenset({"gcs"})
CHANGES = frozenset({"PUT", "POST", "DELETE"})


class Points:
    """Counts the requests that changed something in a store, and acts after a chosen one.

    :param stop_at: the number of the request, None to only count.
    :param how: ``kill`` the process, or ``cut`` the connection, so that nobody hears that it was done.
    """

    def __init__(self, stop_at: int | None, how: str) -> None:
        self.stop_at, self.how = stop_at, how
        self.seen: list[str] = []

    def install(self) -> None:
        """All three clients speak through aiohttp; the vendor's speaks through httpx."""
        ask = aiohttp.ClientSession._request

        async def asked(session, method, url, *args, **kwargs):
            answer = await ask(session, method, url, *args, **kwargs)
            if method.upper() not in CHANGES or answer.status >= 400:
                return answer
            self.seen.append(named(method, str(url)))
            if len(self.seen) - 1 == self.stop_at:
                await answer.read()
                if self.how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                answer.close()
                raise aiohttp.ServerDisconnectedError
            return answer

        aiohttp.ClientSession._request = asked


def named(method: str, url: str) -> str:
    """What a request does, without what differs from run to run."""
    where, _, query = url.partition("?")
    in_query = re.search(r"name=([^&]*)", query)
    key = (in_query[1] if in_query else where).replace("%2F", "/").rstrip("/")
    name = re.sub(r"^\.|\.[0-9a-f]{8}\.part$", "", "/".join(key.rpartition("/")[::2][1:]) or key)
    stem, _, kind = name.partition(".")
    parts = " in parts" if IN_PARTS.search(query) or ("/upload/" in where and "uploadType=resumable" in query) else ""
    return f"{method.upper()} {re.sub(r'-[0-9a-f-]{8,}$', '', stem)[:24]}.{kind[:12]}{parts}"


def run_task(name: str, place: str, directory: Path, stop_at: int | None = None, how: str = "kill") -> str:
    return one_try(name, directory, Points(stop_at, how), lambda: execute(name, place, directory))


def execute(name: str, place: str, directory: Path) -> object:
    """:param place: URI of a folder of the store, this job's own."""
    rows, jobs, out = f"{place}/in/rows.jsonl", f"{place}/jobs", f"{place}/out"
    if name == "put":
        make_rows(rows)
        return None
    if name == "count":
        landed = [row["key"] for _, row in read_rows(f"{out}/")]
        return {"landed": landed, "files": len(find_files(storage_path(place)))}
    ti = SimpleNamespace(dag_id="dag", run_id=directory.name, task_id=name, map_index=-1)
    context = {"ti": ti}
    asked = {
        "task_id": name, "rows": rows, "key": "id", "passthrough": ["note"], "conn_id": "openai", "storage": jobs,
        "request": ChatRequest(model="gpt-5-mini", user="{text}", max_tokens=50),
    }  # fmt: skip
    if name == "online":
        return CompletionOperator(destination=out, concurrency=AT_ONCE, **asked).execute(context)
    if name == "submit":
        return SubmitBatchOperator(**asked).execute(context)
    if name == "wait":
        job = json.loads((directory / "submit.xcom").read_text())
        return BatchSensor(task_id=name, job=job, deferrable=False, poke_interval=0.01).execute(context)
    job = json.loads((directory / "wait.xcom").read_text())
    return FetchResultsOperator(task_id=name, job=job, destination=out).execute(context)


def make_rows(uri: str) -> None:
    """The first shard's pass-through columns fill more than one part: what is planned of it, and what is landed."""
    with whole_file(storage_path(uri)) as file:
        for number in range(ROWS):
            note = "n" * (PART * 2 // ROWS + 20_000 if number < ROWS // SHARDS else 10)
            row = {"id": f"k{number}", "text": f"text {number}", "note": note}
            file.write(json.dumps(row).encode() + b"\n")


def run_job(lane: str, uri: str, struck: tuple[str, int, str] | None = None) -> dict:
    """A whole job whose task is struck at one request of its first try; what it cost and what it landed.

    :param struck: the task, the number of the request, and how.
    """
    VENDOR.post("/_emulator/reset").raise_for_status()
    name = "-".join(map(str, struck)) if struck else "none"
    directory = HOME / f"{uri.partition(':')[0]}-{lane}-{name}"
    directory.mkdir()
    place, tries = f"{uri}/{directory.name}", Counter()
    left = 0
    for task in ("put", *TASKS[lane], "count"):
        for _ in range(MOST_TRIES):
            first = struck is not None and task == struck[0] and not tries[task]
            tries[task] += 1
            ended = run_task(task, place, directory, *(struck[1:] if first else ()))
            left += len(STORE.unfinished(BUCKET)) if first else 0
            if ended == "done":
                break
        else:
            raise SystemExit(f"{directory.name}: {task} never ended\n{(directory / f'{task}.error').read_text()}")
    stats = VENDOR.get("/_emulator/stats").json()
    counted = json.loads((directory / "count.xcom").read_text())
    called = stats["calls"].get("POST /v1/chat/completions", 0)
    times = Counter(counted["landed"])
    unfinished = len(STORE.unfinished(BUCKET))
    outcome = {
        "tries": tries[struck[0]] if struck else 1,
        "batches": len(stats["batches"]),
        "billed": stats["billed_rows"] + called,
        "landed": len(counted["landed"]),
        "left": f"{left} {unfinished}",
        "exact": set(times) == {f"k{n}" for n in range(ROWS)}
        and set(times.values()) == {1}
        and not unfinished
        and is_paid(lane, len(stats["batches"]), stats["billed_rows"], called),
        "points": [(task, number, point) for task in TASKS[lane] for number, point in points_of(directory, task)],
    }
    shutil.rmtree(directory)
    return outcome


def is_paid(lane: str, batches: int, billed: int, called: int) -> bool:
    """Batches: each row once. Online: calls that were under way when the process was killed are made again."""
    if lane == "batch":
        return (batches, billed, called) == (SHARDS, ROWS, 0)
    return not batches and ROWS <= called <= ROWS + AT_ONCE


def points_of(directory: Path, task: str) -> list[tuple[int, str]]:
    return list(enumerate(json.loads((directory / f"{task}.points").read_text())))


def sampled(points: list[tuple[str, int, str]], most: int, draw: random.Random) -> list[tuple[str, int, str]]:
    """Some of them, half of those in parts where there are as many."""
    parts = [point for point in points if "in parts" in point[2]]
    chosen = draw.sample(parts, min(len(parts), most // 2))
    rest = [point for point in points if point not in chosen]
    return sorted(chosen + draw.sample(rest, min(len(rest), most - len(chosen))), key=points.index)


def strike(kind: str, most: int, draw: random.Random) -> tuple[int, int]:
    """The table of one store; how many points were struck, and how many were not exact."""
    uri = STORE.uri(kind, BUCKET)
    table = "{:<7} {:<7} {:<7} {:<4} {:<42} {:>5} {:>7} {:>6} {:>6} {:>10}"
    print(table.format("store", "lane", "task", "how", "after", "tries", "batches", "billed", "landed", "unfinished"))
    struck = wrong = 0
    for lane in TASKS:
        undisturbed = run_job(lane, uri)
        if not undisturbed["exact"]:
            raise SystemExit(f"{kind}: an undisturbed job is not exact: {undisturbed}")
        for number, (task, at, point) in enumerate(sampled(undisturbed["points"], most // len(TASKS), draw)):
            how = "cut" if number % 4 == 3 and not (kind in FORGETS_PLACES and "in parts" in point) else "kill"
            outcome = run_job(lane, uri, (task, at, how))
            struck, wrong = struck + 1, wrong + (not outcome["exact"])
            figures = [outcome[name] for name in ("tries", "batches", "billed", "landed", "left")]
            line = table.format(kind, lane, task, how, point, *figures)
            print(line if outcome["exact"] else f"{line}   <- WRONG", flush=True)
        print(f"{kind} {lane}: {len(undisturbed['points'])} points in all", flush=True)
    return struck, wrong


def main() -> int:
    global STORE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", default=["s3", "gcs", "azure"])
    parser.add_argument("--points", type=int, default=24, help="how many are struck in each store")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    struck = wrong = 0
    for kind in given.stores:
        if reason := absent(kind):
            print(f"{kind}: not struck, {reason}")
            continue
        with STORES[kind]() as STORE:
            os.environ |= {f"AIRFLOW_CONN_{kind.upper()}": STORE.connection, **STORE.environment}
            made = os.fork()
            if not made:
                make_bucket(STORE.uri(kind, BUCKET))
                os._exit(0)
            os.waitpid(made, 0)
            figures = strike(kind, given.points, random.Random(given.seed))
            struck, wrong = struck + figures[0], wrong + figures[1]
    print(f"{struck} points struck, seed {given.seed}; {wrong} not exact")
    return 1 if wrong or not struck else 0


if __name__ == "__main__":
    # Imported once, and not by each of hundreds of processes.
    for scheme in ("s3", "gs", "abfs"):
        has_fs(scheme)
    STORE: ObjectStore
    with ExitStack() as stack:
        extra = {
            "provider": "openai",
            "settle_seconds": 0.05,
            "create_seconds": 0.2,
            "limits": {"requests": ROWS // SHARDS},
        }
        EMULATOR, VENDOR = start_emulator({"openai": extra})
        stack.callback(shutil.rmtree, HOME, ignore_errors=True)
        stack.callback(EMULATOR.wait)
        stack.callback(EMULATOR.terminate)
        status = main()
    sys.exit(status)
