"""The index of a storage: what a look at many jobs asks of each store, and that nothing wrong with it loses a job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path

import msgspec
import pytest
from support.counted import bucket_requests, http_requests, local_operations
from support.many_jobs import at_the_vendor, entry_like, landing, made, shown_landed, uri_of
from support.pages import submit
from support.s3 import s3_server
from support.stores import Bucket

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.jobs.directory.address import JobAddress, JobKey
from airflow_llm_batch.jobs.directory.index import ENTRY, announce, index_root, write_pack
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.view.detail import detail
from airflow_llm_batch.jobs.view.overview import Overview, window
from airflow_llm_batch.operators import CleanupJobsOperator, FetchResultsOperator
from airflow_llm_batch.storage import storage_path, write_whole

pytestmark = pytest.mark.usefixtures("airflow_db")
#: operations of one look, the first excepted
MOST = 50
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url


@pytest.fixture(params=["local", "memory", "s3"])
def counted(request, tmp_path, monkeypatch):
    """A storage, and how what is asked of it is counted."""
    if request.param == "local":
        return f"file://{tmp_path}/jobs", lambda: local_operations(tmp_path / "jobs")
    if request.param == "memory":
        bucket = Bucket()
        return f"{bucket.uri}/jobs", lambda: bucket_requests(bucket)
    pytest.importorskip("moto")
    extra = {"endpoint_url": request.getfixturevalue("server"), "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_S3", json.dumps(connection))
    name = f"index-{abs(hash(str(tmp_path)))}"
    storage_path(f"s3://s3@{name}").fs.mkdir(name)
    return f"s3://s3@{name}/jobs", http_requests


def count_of(storage, number):
    """So many, and fewer in a server that takes its time for each file."""
    return 40 if storage.startswith("s3://s3@") else number


class Clock:
    """Epoch seconds that a test moves on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return datetime.now(UTC).timestamp() + self.ahead


@pytest.mark.parametrize("jobs", [1_000, 10_000])
def test_a_look_reads_what_is_new_and_no_more(counted, jobs, request):
    """The first one a file for each of thirty days and the entries of today; later ones fewer than fifty operations,
    when a job was landed too, and when whole days are listed again."""
    if "s3" in request.node.callspec.id and jobs > 1_000:
        pytest.skip("the store in memory counts as S3's server does, and takes a hundredth of the time")
    storage, count = counted
    made(storage, jobs)
    clock = Clock()
    overview = Overview(storage, clock)
    with count() as asked:
        shown = overview.refresh()
    each = jobs // 100
    assert len(shown) == 31 * each
    assert asked.total() <= 31 + each + MOST, asked
    clock.ahead += 2
    with count() as asked:
        assert len(overview.refresh()) == 31 * each
    assert 0 < asked.total() < MOST, asked
    # One more is planned and landed, between two looks.
    uri = uri_of(storage, 5_000_000, datetime.now(UTC).date())
    announce(JobAddress.parse(uri))
    announce(JobAddress.parse(uri), shown_landed(uri, datetime.now(UTC)))
    clock.ahead += 2
    with count() as asked:
        assert overview.refresh()[0].uri == uri
    assert 0 < asked.total() < MOST, asked
    clock.ahead += 301
    with count() as asked:
        assert len(overview.refresh()) == 31 * each + 1
    assert 0 < asked.total() < MOST, asked


def test_jobs_at_work_share_what_a_look_may_ask(counted):
    """A hundred of them are seen one after the other; one that was cancelled by hand comes first."""
    storage, count = counted
    now = datetime.now(UTC)
    uris = [uri_of(storage, number, now.date()) for number in range(count_of(storage, 100))]
    for uri in uris:
        announce(JobAddress.parse(uri))
        at_the_vendor(uri, now)
    clock = Clock()
    overview = Overview(storage, clock)
    overview.refresh()
    for uri in uris:
        write_whole(storage_path(uri) / "manifest.json", landing(uri, datetime.now(UTC)).dump())
    overview.hurry(JobAddress.parse(uris[35]).key)
    landed = []
    for _ in range(10):
        clock.ahead += 60
        with count() as asked:
            landed.append({job.uri for job in overview.refresh() if job.state == "landed"})
        # Reading, and writing the entries that nobody has written.
        assert asked.total() < 3 * MOST, asked
    assert uris[35] in landed[0]
    assert len(landed[0]) < 100
    assert landed[-1] == set(uris)


def test_a_page_of_a_thousand_batches_reads_few_files(counted):
    """Names and the last look's notes tell of all of them."""
    storage, count = counted
    uri = uri_of(storage, 0, datetime.now(UTC).date())
    at_the_vendor(uri, datetime.now(UTC), count_of(storage, 1000))
    overview, key = Overview(storage), JobAddress.parse(uri).key
    with count() as asked:
        page = detail(key, overview.rounds(key))
    assert len(page.timeline) == count_of(storage, 1000)
    assert {(shard.state, shard.status, shard.succeeded) for shard in page.timeline} == {("running", "in_progress", 3)}
    assert [shard.batch_id for shard in page.timeline] == [f"batch-{n}" for n in range(len(page.timeline))]
    assert all(shard.created_at for shard in page.timeline)
    # A local disk lists each directory by itself, and opens no more files than a store.
    assert sum(times for kind, times in asked.items() if not kind.startswith("os.")) < MOST, asked


def entries_in(storage):
    folder = Path(storage.removeprefix("file://")) / "_index"
    return sorted(path for path in folder.rglob("*.json") if ENTRY.fullmatch(path.name))


def test_a_landed_job_whose_entry_was_lost_is_seen_and_entered_again(site, connect, storage, tmp_path):
    """And a torn one counts as none: the one before it does."""
    with Emulator(duration=0) as emulator:
        handle = submit(connect(emulator.url), storage)
        FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out").execute({})
    assert [job.state for job in Overview(storage).refresh()] == ["landed"]
    _, landed = entries_in(storage)
    landed.write_bytes(landed.read_bytes()[:50])
    for path in landed.parents[3].glob("_index/packs/20*"):
        path.unlink()
    assert [job["state"] for job in site.get("jobs")["jobs"]] == ["landed"]
    assert len(entries_in(storage)) == 3
    for path in entries_in(storage)[1:]:
        path.unlink()
    assert [job.state for job in Overview(storage).refresh()] == ["landed"]
    assert len(entries_in(storage)) == 2
    # What says nothing of a job leaves the page as it is.
    (landed.parent / f"{int(landed.name[:13]) + 1:013d}{landed.name[13:]}").write_bytes(b'{"job": "../..", "at": 1}')
    assert [job.state for job in Overview(storage).refresh()] == ["landed"]


def test_a_job_that_nothing_tells_of_is_found_within_a_day(site, connect, storage):
    """By the listing of the whole storage; what was taken away by hand goes likewise."""
    clock = Clock()
    site.overview.clock = site.overview.index.clock = clock
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url)
        submit(conn_id, storage, run_id="kept")
        assert site.get("jobs")["found"] == 1
        submit(conn_id, storage, run_id="lost")
        entries_in(storage)[-1].unlink()
    assert site.get("jobs")["found"] == 1
    clock.ahead += 25 * 3600
    for path in (tmp := Path(storage.removeprefix("file://"))).glob("dag/kept/**/*"):
        path.is_file() and path.unlink()
    assert site.get("jobs")["found"] in (0, 1, 2)
    site.snapshot.readers.shutdown(wait=True)
    assert [job["run_id"] for job in site.get("jobs")["jobs"]] == ["lost"]
    assert len(list((tmp / "_index" / "packs").glob("checked-*"))) == 1


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=lambda order: "".join(map(str, order)))
def test_a_replaced_job_is_one_in_whatever_order_entries_are_read(tmp_path, order):
    """Input that has changed twice: of three jobs the last is at work, from the first look on."""
    now, storage = datetime.now(UTC), f"file://{tmp_path}/jobs"
    places = [f"{storage}/dag/run/task/{place}" for place in ("-1", "-1.2", "-1.3")]
    for uri in places:
        announce(JobAddress.parse(uri))
        at_the_vendor(uri, now)
    overview = Overview(storage)
    overview.index.read(window(overview.today))
    for number in order:
        overview._take({"/".join(JobAddress.parse(places[number]).key)})
    overview.index.changed.clear()
    assert [job.state for job in sorted(overview.refresh(), key=lambda job: job.uri)] == [*["replaced"] * 2, "running"]


def test_a_job_is_replaced_by_one_that_is_landed_already(tmp_path):
    """Whoever looks now and then may never see the new one at work."""
    now, storage = datetime.now(UTC), f"file://{tmp_path}/jobs"
    first, second = (f"{storage}/dag/run/task/{place}" for place in ("-1", "-1.2"))
    announce(JobAddress.parse(first))
    at_the_vendor(first, now - timedelta(hours=5))
    for path in Path(first.removeprefix("file://")).rglob("*.json"):
        # Nothing has happened to it for hours: it is not looked at again soon.
        os.utime(path, times=(now.timestamp() - 5 * 3600,) * 2)
    overview = Overview(storage)
    assert [job.state for job in overview.refresh()] == ["running"]
    announce(JobAddress.parse(second))
    at_the_vendor(second, now)
    write_whole(storage_path(second) / "manifest.json", landing(second, now).dump())
    Overview(storage).refresh()  # whoever else looks enters the landing
    assert {job.uri: job.state for job in overview.refresh()} == {first: "replaced", second: "landed"}


KILLED = """
import os, signal, sys
from types import SimpleNamespace
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.jobs.directory import index
from airflow_llm_batch.operators import LLMBatchOperator

number, after, conn_id, storage, out = int(sys.argv[1]), sys.argv[2] == "after", *sys.argv[3:]
calls, write = [], index.write_whole

def struck(path, data):
    calls.append(path)
    if len(calls) == number:
        if after:
            write(path, data)
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)

index.write_whole = struck
ti = SimpleNamespace(dag_id="dag", run_id="run", task_id="all", map_index=-1)
LLMBatchOperator(
    task_id="all", conn_id=conn_id, rows=["a", "b"], storage=storage, destination=out,
    request=ChatRequest("gpt-5-mini", max_tokens=9),
).execute({"ti": ti})
"""


@pytest.mark.parametrize(
    ("number", "moment", "seen"), [(1, "after", []), (2, "before", ["landed"])], ids=["plan", "landing"]
)
def test_a_kill_between_a_fact_and_its_entry_loses_no_job(site, connect, storage, tmp_path, number, moment, seen):
    """Announced and not planned: nobody sees it yet. Landed and not entered: everybody does. The retry lands it once,
    and pays nothing twice."""
    with Emulator(duration=0) as emulator:
        given = [connect(emulator.url), storage, f"file://{tmp_path}/out"]
        command = [sys.executable, "-c", KILLED]
        done = subprocess.run([*command, str(number), moment, *given], check=False, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert [job["state"] for job in site.get("jobs")["jobs"]] == seen
        again = subprocess.run([*command, "0", moment, *given], check=False, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert [job["state"] for job in site.get("jobs")["jobs"]] == ["landed"]
        assert [job.state for job in Overview(storage).refresh()] == ["landed"]
        assert len(emulator.vendor.batches) == 1
    assert len(list((tmp_path / "out").glob("results-*"))) == 1


def test_days_are_put_together_and_older_ones_are_shown_when_they_are_asked_for(tmp_path):
    """A second process reads one file for many entries; thirty days are read by default, others when somebody asks."""
    storage = f"file://{tmp_path}/jobs"
    made(storage, 1000, days=10)
    with local_operations(tmp_path) as first:
        assert len(Overview(storage).refresh()) == 1000
    with local_operations(tmp_path) as second:
        later = Overview(storage)
        assert len(later.refresh()) == 1000
    assert second.total() < first.total() - 50, (first, second)
    today = later.today
    old = today - 60 * DAY
    like = msgspec.json.decode(
        shown_landed(uri_of(storage, 0, old), datetime(old.year, old.month, old.day, tzinfo=UTC))
    )
    write_pack(index_root(storage), old, [entry_like(like, uri_of(storage, 1, old), old)])
    assert min(job.created_at.date() for job in later.refresh()) > today - 30 * DAY
    days = {job.created_at.date() for job in later.refresh(window(old, old - DAY))}
    assert {old, today} <= days
    later.let_go(window(today))
    assert min(job.created_at.date() for job in later.refresh()) > today - 30 * DAY


def test_who_may_not_write_sees_the_same(tmp_path, monkeypatch):
    """The index is read, and what it does not have is kept in mind."""
    storage = f"file://{tmp_path}/jobs"
    at_the_vendor(uri_of(storage, 1, datetime.now(UTC).date()), datetime.now(UTC))

    def denied(path, data):
        raise PermissionError("read only")

    from airflow_llm_batch.jobs.directory import index

    monkeypatch.setattr(index, "write_whole", denied)
    overview = Overview(storage)
    assert [len(overview.refresh()) for _ in range(3)] == [1, 1, 1]
    assert not list(tmp_path.rglob("checked-*"))
    assert announce(JobAddress.parse(uri_of(storage, 2, datetime.now(UTC).date()))) is False


def test_jobs_that_were_cleaned_up_are_gone_from_the_index(site, connect, storage, tmp_path):
    """From looks of all days, without another listing of the storage."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for run_id in ("old", "new"):
            handle = submit(conn_id, storage, run_id=run_id)
            FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/{run_id}").execute({})
    assert site.get("jobs")["found"] == 2
    old = JobStore(f"{storage}/dag/old/submit/-1")
    for name, field in (("job.json", "created_at"), ("manifest.json", "landed_at")):
        facts = json.loads(old.path(name).read_text())
        old.path(name).write_text(json.dumps({**facts, field: "2026-01-01T00:00:00Z"}))
    removed = CleanupJobsOperator(task_id="c", storage=storage).execute({})["removed"]
    assert removed == [old.uri]
    assert [job.run_id for job in Overview(storage).refresh()] == ["new"]
    assert [job.run_id for job in Overview(storage).refresh_all()] == ["new"]


@pytest.mark.parametrize("part", ["..", "%2e%2e", "..%2f..", "."])
def test_no_address_leads_out_of_the_storage(site, connect, storage, part):
    """A DAG's jobs are found by names alone, whoever asks."""
    with Emulator(duration=60) as emulator:
        submit(connect(emulator.url), storage)
    answer = site.http.get(f"/api/job/dag/{part}/submit/-1")
    assert answer.status_code == 404
    assert site.overview.rounds(JobKey("dag", "..", "dag", "run")) == []
    assert os.path.isdir(storage.removeprefix("file://"))
