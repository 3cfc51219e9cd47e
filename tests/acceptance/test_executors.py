"""A nightly DAG on several hosts: CeleryExecutor with a worker that is killed amid its creates, LocalExecutor, pods."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
from support import ROOT, read_jsonl
from support.clusters import Cluster, missing, redis_server
from support.databases import binaries, postgres_server
from support.s3 import s3_client, s3_server

from airflow_llm_batch import demo
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.emulator.settings import Faults, HttpFault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROWS, TRIED, BATCHES, BUCKET = 1200, 3, 8, "llm-batch"
CREATE, CALL = "POST /v1/batches", "POST /v1/chat/completions"
#: bytes that a pod may have: the task, what supervises it, the S3 client
MOST_MEMORY = 512 * 2**20
#: seconds that the vendor takes for a create
SLOW = 1.5
ENDED = ("success", "failed")


def connections(vendor: str, store: str) -> dict[str, str]:
    """The environment's: the vendor and the object store are all that the hosts share."""
    # A create takes up to 1.5 s here; the dead worker's host cannot be looked at from another one.
    extra = {"provider": "openai", "limits": {"requests": ROWS // BATCHES}, "settle_seconds": 1, "create_seconds": 6}
    made = {
        "llm_batch_default": {"conn_type": "llmbatch", "host": f"{vendor}/v1", "password": "k", "extra": extra},
        "store": {
            "conn_type": "aws", "login": "test", "password": "test",
            "extra": {"endpoint_url": store, "region_name": "us-east-1"},
        },
    }  # fmt: skip
    found = {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(connection) for conn_id, connection in made.items()}
    return {**found, "AIRFLOW__LLM_BATCH__STORAGE": f"s3://store@{BUCKET}/jobs"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running Airflow without scheduler and workers; its vendor and its store are attributes."""
    if why := missing():
        pytest.skip(why)
    root = tmp_path_factory.mktemp("cluster")
    # The retry comes soon; nothing else of the example is changed.
    dag = (ROOT / "dags_examples" / "nightly_review_labels.py").read_text()
    soon = dag.replace('"retry_delay": timedelta(seconds=30)', '"retry_delay": timedelta(seconds=2)')
    assert soon != dag
    with (
        Emulator(duration=6) as emulator,
        s3_server() as store,
        redis_server(shutil.which("redis-server"), root) as broker,
        postgres_server(binaries()) as known,
    ):
        server = json.loads(known)
        database = f"{server['login']}:none@{server['host']}:{server['port']}/{server['schema']}"
        s3 = s3_client(store)
        s3.create_bucket(Bucket=BUCKET)
        made = Cluster(root, soon, database, broker, connections(emulator.url, store))
        made.emulator, made.s3 = emulator, s3
        try:
            made.begin()
            yield made
        finally:
            made.close()


def instances(cluster, run_id: str, task: str) -> list[dict]:
    """Every try of a task, oldest first."""
    path = f"/api/v2/dags/{demo.DAG_ID}/dagRuns/{run_id}/taskInstances/{task}/tries"
    tries = cluster.api.http.get(path).json()["task_instances"]
    return sorted(tries, key=lambda one: one["try_number"])


def made_for(cluster, run_id: str) -> list:
    """The vendor's batches of one run."""
    known = list(cluster.emulator.vendor.batches.values())
    return [batch for batch in known if (batch.metadata or {}).get("airflow_run_id") == run_id]


def stored(cluster, prefix: str) -> dict[str, bytes]:
    """The objects whose keys begin so."""
    pages = cluster.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
    return {key: cluster.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def check(cluster, run_id: str, data: str, calls: int) -> None:
    """The vendor's own ledger, what was landed, and what it says to have cost.

    :param calls: that the vendor had served before the run.
    """
    batches = made_for(cluster, run_id)
    assert len(batches) == BATCHES
    asked = Counter(json.loads(line)["custom_id"] for b in batches for line in b.lines.read_bytes().splitlines())
    # The first rows were tried by calls of their own, before anything was created.
    assert (len(asked), set(asked.values())) == (ROWS - TRIED, {1})
    assert cluster.emulator.vendor.calls[CALL] - calls == TRIED
    files = stored(cluster, f"{data}/labels/")
    landed = [json.loads(line) for key, body in files.items() if "/results-" in key for line in body.splitlines()]
    assert Counter(row["key"] for row in landed) == {f"r-{n:05d}": 1 for n in range(ROWS)}
    assert {row["status"] for row in landed} == {"succeeded"}
    job = stored(cluster, f"jobs/{demo.DAG_ID}/{run_id}/")
    [manifest] = [json.loads(body) for key, body in job.items() if key.endswith("/manifest.json")]
    assert manifest["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in landed), rel=1e-6)
    billed = [row for row in landed if row["custom_id"] in asked]
    used = [sum(batch.used[n] for batch in batches) for n in (0, 1)]
    assert [sum(row[f"{kind}_tokens"] for row in billed) for kind in ("input", "output")] == used


def run_through(cluster, name: str) -> str:
    """One run, from trigger to success, and what it has come to."""
    calls = cluster.emulator.vendor.calls[CALL]
    run_id = cluster.api.trigger({"reviews": ROWS, "data": f"s3://store@{BUCKET}/{name}"})
    cluster.until(lambda: cluster.api.state(run_id) in ENDED, "the run to end", 200)
    assert cluster.api.state(run_id) == "success", cluster.logs()
    check(cluster, run_id, name, calls)
    return run_id


def test_a_celery_worker_is_killed_amid_its_creates(cluster, capsys):
    """Two workers on two hosts, no disk in common; the one that submits is gone after some of its creates, with others
    in flight. The other one goes on: no batch twice, each row once, its cost counted once, nothing on either disk."""
    cluster.emulator.vendor.settings.faults = Faults(http=[HttpFault(on=CREATE, times=10**6, delay=SLOW)])
    executor = {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"}
    scheduler = cluster.start("scheduler", "scheduler", "--skip-serve-logs", **executor)
    workers = {}
    for name in ("worker-a", "worker-b"):
        celery = ("celery", "worker", "--concurrency", "2", "--celery-hostname", f"celery@{name}", "--skip-serve-logs")
        workers[name] = cluster.start(name, *celery, **executor)
    calls = cluster.emulator.vendor.calls[CALL]
    run_id = cluster.api.trigger({"reviews": ROWS, "data": f"s3://store@{BUCKET}/celery"})
    cluster.until(lambda: len(made_for(cluster, run_id)) >= 3, "three batches", 120)
    struck = instances(cluster, run_id, "submit")[0]["hostname"]
    gone = workers[struck].kill()
    before = len(made_for(cluster, run_id))
    assert before < BATCHES
    cluster.until(lambda: cluster.api.state(run_id) in ENDED, "the run to end", 150)
    assert cluster.api.state(run_id) == "success", cluster.logs()
    [other] = workers.keys() - {struck}
    tries = [(one["hostname"], one["state"]) for one in instances(cluster, run_id, "submit")]
    assert tries == [(struck, "failed"), (other, "success")]
    check(cluster, run_id, "celery", calls)
    for host in (workers[other], scheduler):
        host.stop()
    assert {host.name: files for host in cluster.hosts.values() if (files := host.files())} == {}
    with capsys.disabled():
        print(f"\n{struck} lost {gone} processes after {before} of {BATCHES} creates; {other} made the others")


def test_local_executor(cluster):
    """The same DAG, database and store, with all tasks on the scheduler's host."""
    cluster.emulator.vendor.settings.faults = Faults()
    local = {"AIRFLOW__CORE__EXECUTOR": "LocalExecutor"}
    scheduler = cluster.start("local", "scheduler", "--skip-serve-logs", **local)
    run_id = run_through(cluster, "local")
    scheduler.stop()
    assert [(one["hostname"], one["state"]) for one in instances(cluster, run_id, "submit")] == [("local", "success")]
    assert scheduler.files() == {}


def test_what_a_pod_needs(cluster, capsys):
    """Each task by the command of KubernetesExecutor's pods, on a host that is gone afterwards: how much memory it took
    and what it wrote. So few rows need no disk at all."""
    cluster.emulator.vendor.settings.faults = Faults()
    root = cluster.root / "pods"
    root.mkdir()
    pods = {"AIRFLOW__CORE__EXECUTOR": "support.pods.PodExecutor", "PODS": str(root)}
    scheduler = cluster.start("pods-scheduler", "scheduler", "--skip-serve-logs", **pods)
    run_id = run_through(cluster, "pods")
    written = root / "footprints.jsonl"
    cluster.until(lambda: b'"fetch"' in written.read_bytes(), "the last pod to be gone", 30)
    scheduler.stop()
    took = read_jsonl(written)
    # A wait that was handed to the triggerer comes back in a second pod.
    assert list(dict.fromkeys(one["task"] for one in took)) == ["collect_reviews", "submit", "wait", "fetch"]
    assert len(took) <= 5
    hosts = {instances(cluster, run_id, task)[-1]["hostname"] for task in ("submit", "wait", "fetch")}
    assert len(hosts) == 3
    with capsys.disabled():
        print(f"\n{'pod':<16} {'MB':>5} {'temporary':>9}")
        for one in took:
            print(f"{one['task']:<16} {one['memory'] / 1e6:>5.0f} {one['temporary']:>9,}")
    assert {one["status"] for one in took} == {0}
    assert [(one["temporary"], one["elsewhere"], one["left"]) for one in took] == [(0, [], {})] * len(took)
    assert max(one["memory"] for one in took) < MOST_MEMORY
