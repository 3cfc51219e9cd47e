"""Kills a job at every step that touches the disk or the vendor, retries as Airflow would, and counts what was paid.

    python tests/killing/harness.py openai azure anthropic gemini bedrock groq together perplexity waves rounds tried
    python tests/killing/harness.py mistral cached table ladder openrouter xai fireworks anthropic-aws anthropic-google

Each task runs in a process of its own. A *point* is a moment just before or just after a file is published or a request
is sent. At every point of submit, wait and fetch a process is ended with SIGKILL (or, for a request, its connection
cut), then the same task runs again in a new process until it is done; each task of a fresh job is struck once, at a
point of its own. Prints a table, exits non-zero unless every line of it is exact.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import httpx
from emulated import start_emulator
from tries import one_try

HOME = Path(tempfile.mkdtemp(prefix="llm-batch-killing-"))
os.environ |= {"AIRFLOW_HOME": str(HOME), "AIRFLOW__LLM_BATCH__STORAGE": f"file://{HOME}/jobs"}
# Read when gcsfs is imported: it asks Google itself what kind of bucket it has otherwise.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

from airflow_llm_batch import storage, transport  # noqa: E402
from airflow_llm_batch.data import ChatRequest, Table  # noqa: E402
from airflow_llm_batch.data.tables.merging import Merge  # noqa: E402
from airflow_llm_batch.jobs.landing import land  # noqa: E402, F401
from airflow_llm_batch.jobs.money import ledger  # noqa: E402
from airflow_llm_batch.jobs.planning import plan  # noqa: E402, F401
from airflow_llm_batch.jobs.submission import external, submit  # noqa: E402, F401
from airflow_llm_batch.jobs.waiting import wait  # noqa: E402, F401
from airflow_llm_batch.operators import FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator  # noqa: E402
from airflow_llm_batch.providers import anthropic, bedrock, gemini, openai  # noqa: E402, F401
from airflow_llm_batch.sensors import BatchSensor  # noqa: E402

ROWS, SHARDS, MOST_TRIES = 10, 2, 4
#: rows of the column ``cached``
KNOWN, COPIES = 2, 2
#: ``waves`` is OpenAI with room for one batch at a time: the waiting task creates the second
#: ``tried`` is OpenAI with two rows called before anything is uploaded, and a budget that spans jobs
#: ``rounds`` is one task for all of it, which asks three rows again
#: ``ladder`` is the same with a stronger model for those rows
#: ``cached`` is OpenAI with an answer cache that knows two rows, and two rows that ask what others ask
#: ``table`` is OpenAI with its results merged into a table of SQLite: the task that does so is struck in between
#: ``bedrock`` reads and writes in an S3 server of its own
#: ``groq`` is found by metadata in a listing without pages, ``together`` by its input file, which three calls upload,
#: ``perplexity`` is told again for the same key; every other vendor of OpenAI's kind is found as one of these
#: ``mistral`` is found by metadata in pages by number, ``xai`` by its name, ``fireworks`` by its id, of which there is
#: one job at most; ``openrouter`` keeps nothing of ours: it is found by time and size, and its rows prove it
#: ``anthropic-aws`` and ``anthropic-google`` are Anthropic's with calls that are signed, or have an account's token
MODELS = dict.fromkeys(("openai", "azure", "waves", "rounds", "tried", "cached", "table", "ladder"), "gpt-5-mini") | {
    **dict.fromkeys(("anthropic", "anthropic-aws", "anthropic-google"), "claude-haiku-4-5"),
    "bedrock": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "gemini": "gemini-3.8-flash",
    "vertex": "gemini-2.5-flash",
    **dict.fromkeys(("groq", "together", "perplexity"), "llama-3.1-8b-instant"),
    "mistral": "mistral-small-latest",
    "openrouter": "openai/gpt-5-mini",
    "xai": "grok-4.3",
    "fireworks": "accounts/fireworks/models/llama-v3p1-8b-instruct",
}
#: what a vendor's connection needs, where it is not OpenAI's
VENDORS = (
    {name: {"provider": name} for name in ("azure", "anthropic", "bedrock", "gemini")}
    | {
        "vertex": {"provider": "vertex", "project": "p", "location": "us-central1", "storage": "gs://b/stage"}
        | {"gcp_conn_id": "gcp"},
    }
    | {name: {"provider": name} for name in ("groq", "together", "perplexity", "mistral", "openrouter", "xai")}
    | {"fireworks": {"provider": "fireworks", "account": "acc"}}
    | {
        "anthropic-aws": {"provider": "anthropic-aws", "workspace_id": "w"}
        | {"region": "us-east-1", "aws_conn_id": "aws_keys"},
        "anthropic-google": {"provider": "anthropic-google", "workspace_id": "w"}
        | {"project": "p", "gcp_conn_id": "gcp"},
    }
)
#: where those are at the emulator that are not at its root
PATHS = {"groq": "groq/openai/v1", "together": "together/v1", "perplexity": "perplexity/v1"} | {
    "mistral": "mistral/v1",
    "openrouter": "openrouter/api/v1",
    "xai": "xai/v1",
    "fireworks": "fireworks",
    "anthropic-aws": "anthropic-aws",
    "anthropic-google": "anthropic-google/v1/projects/p/locations/global/workspaces/w/invoke",
}
BUCKET = "killing"
#: columns that are one task for all of it
ROUNDS = ("rounds", "ladder")
TASKS = dict.fromkeys(MODELS, ("submit", "wait", "fetch")) | dict.fromkeys(ROUNDS, ("rounds",))
PLANNED = "planned.json"
#: rows that the column of that name calls first
TRIED = 2


class Points:
    """Counts the moments a task passes and acts at a chosen one.

    :param stop_at: the number of the moment, None to only count.
    :param how: ``kill`` the process, or ``cut`` the connection where the moment is a request's.
    """

    def __init__(self, stop_at: int | None, how: str) -> None:
        self.stop_at, self.how, self.seen = stop_at, how, []

    def pass_by(self, name: str, request: bool = False) -> None:
        self.seen.append([name, request])
        if len(self.seen) - 1 != self.stop_at:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if request:
            raise httpx.ReadError("the connection was cut")

    def around(self, call: Callable, name: Callable[..., str], request: bool = False) -> Callable:
        def wrapped(*args, **kwargs):
            label = name(*args, **kwargs)
            self.pass_by(f"before {label}", request)
            value = call(*args, **kwargs)
            self.pass_by(f"after {label}", request)
            return value

        return wrapped

    def install(self) -> None:
        """Every published file and every request of this process passes by."""

        def file_name(path, *args):
            if "/_index/" in path.path:
                # Named by its moment.
                return f"_index/{path.suffix}"
            stem, _, kind = path.name.partition(".")
            return f"{path.parent.name}/{stem.partition('-')[0]}.{kind}"

        def call_name(client, request, **kwargs):
            path = re.split(r"/v1(?:beta)?/", request.url.path)[-1].strip("/")
            return f"{request.method} {path.partition('/')[0]}{':' if ':' in path else ''}{path.partition(':')[2]}"

        storage.WholeFile.commit = self.around(storage.WholeFile.commit, lambda file: file_name(file.path))
        create = storage.create_exclusive
        exclusive = self.around(create, file_name)
        # Each module that knows it by name, whenever that was imported.
        for module in list(sys.modules.values()):
            if vars(module).get("create_exclusive") is create:
                module.create_exclusive = exclusive
        for step in ("staging", "fill", "merge"):
            setattr(Merge, step, self.around(getattr(Merge, step), lambda *_, step=step, **__: f"table/{step}"))
        httpx.Client.send = self.around(httpx.Client.send, call_name, request=True)
        # A cut connection of a safe call is mended inside the same process; that must not take long here.
        transport.pause = lambda state: 0


def run_task(name: str, provider: str, directory: Path, stop_at: int | None, how: str) -> str:
    return one_try(name, directory, Points(stop_at, how), lambda: execute(name, provider, directory))


def execute(name: str, provider: str, directory: Path) -> object:
    ti = SimpleNamespace(dag_id="dag", run_id=directory.name, task_id=name, map_index=-1)
    context = {"ti": ti}
    rows, request = rows_of(provider), ChatRequest(model=MODELS[provider], user="{text}", max_tokens=50)
    out = f"file://{directory}/out"
    if provider == "table":
        os.environ["AIRFLOW_CONN_ANSWERS"] = json.dumps({"conn_type": "sqlite", "host": f"{directory}/answers.db"})
        out = Table("answers", "answers", key="id", files=out)
    if name == "rounds":
        asked = {"rows": rows, "key": "id", "request": request, "conn_id": provider}
        more = {"max_rounds": 1, "then": ["gpt-5"]} if provider == "ladder" else {}
        return LLMBatchOperator(task_id=name, destination=out, **asked, **more).execute(context)
    if name == "submit":
        asked = {"rows": rows, "key": "id", "request": request, "conn_id": provider}
        first = TRIED if provider == "tried" else 0
        reuse = {"ask_once": True, "cache": f"file://{directory}/answers"} if provider == "cached" else {}
        return SubmitBatchOperator(task_id=name, check_first=first, **asked, **reuse).execute(context)
    if name == "wait":
        job = json.loads((directory / "submit.xcom").read_text())
        return BatchSensor(task_id=name, job=job, deferrable=False, poke_interval=0.01).execute(context)
    job = json.loads((directory / "wait.xcom").read_text())
    return FetchResultsOperator(task_id=name, job=job, destination=out).execute(context)


def rows_of(provider: str) -> list[dict[str, str]]:
    """The last two ask what others ask, where that is of use."""
    alike = COPIES if provider == "cached" else 0
    same = [*range(ROWS - alike), *range(KNOWN, KNOWN + alike)]
    return [{"id": f"k{n}", "text": f"text {same[n]}"} for n in range(ROWS)]


def cache_in(directory: Path, known: int | None = None) -> int:
    """How many of the rows an answer cache knows.

    :param known: first rows whose answers are put there before.
    """
    from airflow_llm_batch.data import AnswerCache
    from airflow_llm_batch.data.kinds import Kinds
    from airflow_llm_batch.jobs.planning.encoding import RowSpec
    from airflow_llm_batch.jobs.reuse.answers import AnswerFiles
    from airflow_llm_batch.jobs.reuse.new import NewAnswers
    from airflow_llm_batch.providers.registry import provider_class
    from airflow_llm_batch.results import Result

    request = ChatRequest(model=MODELS["cached"], user="{text}", max_tokens=50)
    files = AnswerFiles(AnswerCache(f"file://{directory}/answers"))
    lines = list(RowSpec(rows_of("cached"), request, "id", {}).lines(provider_class("openai")({}), "job", Kinds(())))
    if known is not None:
        new = NewAnswers()
        for line in lines[:known]:
            new.add(line.digest.hex(), Result(status="succeeded", text=f"text {line.row}", custom_id="before"))
        new.publish(files, "before")
    return len(list(files.find(((line.row, line.digest.hex()) for line in lines), datetime.now(UTC))))


def run_job(provider: str, strikes: dict[str, tuple[int, str]], number: int) -> dict:
    """A whole job; what it cost and what it landed.

    :param strikes: where, and how, a task is struck in its first try.
    """
    VENDOR.post("/_emulator/reset").raise_for_status()
    if provider in ROUNDS:
        VENDOR.put("/_emulator/faults", json={"row_errors": 0.3, "heal": 1}).raise_for_status()
    directory = HOME / f"{provider}-{number}"
    directory.mkdir()
    if provider == "cached":
        cache_in(directory, KNOWN)
    tries = Counter()
    for name in TASKS[provider]:
        for _ in range(MOST_TRIES):
            stop_at, how = strikes[name] if name in strikes and not tries[name] else (None, "none")
            tries[name] += 1
            if run_task(name, provider, directory, stop_at, how) == "done":
                break
        else:
            raise SystemExit(f"{directory.name}: {name} never ended\n{(directory / f'{name}.error').read_text()}")
    stats = VENDOR.get("/_emulator/stats").json()
    landed = [
        json.loads(line)["key"]
        for path in (directory / "out").iterdir()
        for line in path.read_bytes().split(b"\n")
        if line
    ]
    if provider == "table":
        with sqlite3.connect(directory / "answers.db") as db:
            merged = [key for (key,) in db.execute("select id from answers where status = 'succeeded'")]
        landed = merged if sorted(merged) == sorted(landed) else []
    called = stats["calls"].get("POST /v1/chat/completions", 0)
    points = {name: json.loads((directory / f"{name}.points").read_text()) for name in TASKS[provider]}
    times = Counter(landed)
    outcome = {
        "tries": tries,
        "batches": len(stats["batches"]),
        "billed": stats["billed_rows"],
        "landed": len(landed),
        "exact": len(stats["batches"]) == SHARDS + (provider in ROUNDS)
        and stats["billed_rows"] + called == ROWS - (KNOWN + COPIES if provider == "cached" else 0)
        and (provider != "cached" or cache_in(directory) == ROWS)
        and called == (TRIED if provider == "tried" else 0)
        and booked(provider, directory)
        and set(times) == {f"k{n}" for n in range(ROWS)}
        and set(times.values()) == {1},
        "points": points,
    }
    shutil.rmtree(directory)
    return outcome


def booked(provider: str, directory: Path) -> bool:
    """Whether the book of the budget holds what the job has cost, and nothing reserved."""
    if provider != "tried":
        return True
    book = ledger.Ledger(f"file://{HOME}/jobs")
    [folder] = book.folders(datetime.now(UTC).strftime("%Y-%m"))
    mine = [entry for entry in book.entries(folder) if entry.run_id == directory.name]
    paid = json.loads((directory / "fetch.xcom").read_text())["cost_usd"]
    kinds = [entry.kind for entry in mine]
    return (
        kinds == ["reserve", "settle"]
        and abs(sum(entry.reserved for entry in mine)) < 1e-12
        and abs(sum(entry.spent for entry in mine) - paid) < 1e-12
    )


def strikes_of(points: list[tuple[str, bool]]) -> list[tuple[int, str]]:
    """Every way in which a task can be struck at its points."""
    return [(at, how) for at, (_, request) in enumerate(points) for how in (("kill", "cut") if request else ("kill",))]


def main(providers: list[str]) -> int:
    wrong = 0
    table = "{:<16} {:<7} {:<5} {:<42} {:>5} {:>7} {:>6} {:>6}"
    print(table.format("provider", "task", "fault", "point", "tries", "batches", "billed", "landed"))
    struck = Counter()
    for provider in providers:
        points = run_job(provider, {}, 0)["points"]
        tasks = ("fetch",) if provider == "table" else TASKS[provider]
        for number, together in enumerate(zip_longest(*(strikes_of(points[task]) for task in tasks)), 1):
            strikes = {task: strike for task, strike in zip(tasks, together, strict=True) if strike}
            whole = run_job(provider, strikes, number)
            for task, (at, how) in strikes.items():
                outcome = whole
                # Struck before, a job may have gone another way, and not have come to this point.
                if whole["tries"][task] == 1 and (how == "kill" or len(whole["points"][task]) <= at):
                    outcome = run_job(provider, {task: (at, how)}, number)
                struck[provider, how] += 1
                wrong += not outcome["exact"]
                figures = [outcome["tries"][task], *(outcome[k] for k in ("batches", "billed", "landed"))]
                line = table.format(provider, task, how, points[task][at][0], *figures)
                print(line if outcome["exact"] else f"{line}   <- WRONG", flush=True)
    counted = ", ".join(f"{provider} {n} {how}" for (provider, how), n in sorted(struck.items()))
    print(
        f"Wanted everywhere: {SHARDS} batches (rounds: {SHARDS + 1}), {ROWS} rows billed (cached: "
        f"{ROWS - KNOWN - COPIES}), {ROWS} rows landed once each under its own key."
    )
    print(f"{sum(struck.values())} points struck ({counted}); {wrong} not exact")
    return 1 if wrong or not struck else 0


def connections() -> dict[str, dict]:
    extra = {"settle_seconds": 0.05, "create_seconds": 0.2, "limits": {"requests": ROWS // SHARDS}}
    found = {name: {**extra, **VENDORS.get(name, {"provider": "openai"})} for name in MODELS}
    found["waves"]["max_running_shards"] = 1
    found["tried"] |= {"budget": {"month": 1000}}
    place = {"region": "us-east-1", "role_arn": "arn:aws:iam::123456789012:role/r", "storage": f"s3://{BUCKET}/staged"}
    limits = {**extra["limits"], "minimum": 1}
    found["bedrock"] |= {**place, "aws_conn_id": "aws_default", "limits": limits}
    return found


@contextmanager
def stored() -> Iterator[list[str]]:
    """An S3 server with a bucket; what the emulator has to know of it."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    # Imported here, they need not be in each of the processes.
    import s3fs  # noqa: F401
    from airflow.providers.amazon.aws.fs import s3  # noqa: F401
    from airflow.providers.amazon.aws.hooks import base_aws  # noqa: F401
    from support.s3 import KEYS, REGION, s3_client, s3_server

    with s3_server() as url:
        s3_client(url).create_bucket(Bucket=BUCKET)
        login = {"login": KEYS["aws_access_key_id"], "password": KEYS["aws_secret_access_key"]}
        aws = {"conn_type": "aws", **login, "extra": {"endpoint_url": url, "region_name": REGION}}
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(aws)
        os.environ |= {"AWS_ACCESS_KEY_ID": "emulator", "AWS_SECRET_ACCESS_KEY": "emulator"}
        yield ["--s3-endpoint", url, "--bedrock-minimum", "1"]


def amazon() -> None:
    """An aws connection that signs."""
    from airflow.providers.amazon.aws.hooks import base_aws  # noqa: F401

    os.environ["AIRFLOW_CONN_AWS_KEYS"] = json.dumps({"conn_type": "aws", "login": "AKIA", "password": "secret"})


def google(url: str) -> None:
    """Google's connection to the emulator, and to its store."""
    # Imported once, and not by each of hundreds of processes.
    import gcsfs  # noqa: F401
    from airflow.providers.google.common.hooks import base_google  # noqa: F401
    from airflow.sdk.io import has_fs

    has_fs("gs")
    store = {"is_anonymous": True, "project": "p", "gcs.endpoint": url.rstrip("/")}
    os.environ["AIRFLOW_CONN_GCP"] = json.dumps({"conn_type": "google_cloud_platform", "extra": store})


if __name__ == "__main__":
    chosen = sys.argv[1:] or sorted(MODELS.keys() - {"bedrock"})
    with ExitStack() as stack:
        stores = stack.enter_context(stored()) if "bedrock" in chosen else []
        EMULATOR, VENDOR = start_emulator(connections(), *stores, paths=PATHS)
        stack.callback(shutil.rmtree, HOME, ignore_errors=True)
        stack.callback(EMULATOR.wait)
        stack.callback(EMULATOR.terminate)
        if "anthropic-aws" in chosen:
            amazon()
        if {"vertex", "anthropic-google"} & set(chosen):
            google(str(VENDOR.base_url))
        status = main(chosen)
    sys.exit(status)
