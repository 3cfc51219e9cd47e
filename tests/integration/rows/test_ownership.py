"""Jobs that land in one destination: each beside the others, over its own earlier landing, and over nobody else's."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from support import read_jsonl
from support.tasks import drive, operator

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ResultsUnusable
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator

REQUEST = ChatRequest("gpt-5-mini", max_tokens=9)
FORMATS = ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]


def submitted(conn_id, storage, task_id="submit", rows=("a", "b"), run_id="run"):
    context = {"ti": SimpleNamespace(dag_id="dag", run_id=run_id, task_id=task_id, map_index=-1)}
    task = SubmitBatchOperator(task_id=task_id, conn_id=conn_id, rows=list(rows), request=REQUEST, storage=storage)
    return task.execute(context)


def fetched(handle, tmp_path, **arguments):
    return FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out", **arguments).execute({})


def content(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def another_airflow(storage, tmp_path):
    """The same address of storage on another machine: nothing lies there."""
    (tmp_path / "jobs").rename(tmp_path / f"jobs-{len(list(tmp_path.iterdir()))}")


@pytest.fixture
def storage(tmp_path):
    return f"file://{tmp_path}/jobs"


def test_two_tasks_and_two_storages_land_beside_each_other(emulator, connect, storage, tmp_path):
    """Equal rows and equal names of DAG, run and task: every job has file names of its own."""
    conn_id = connect(emulator.url)
    handles = [submitted(conn_id, storage, task_id) for task_id in ("one", "two")]
    handles += [submitted(conn_id, f"file://{tmp_path}/elsewhere", task_id) for task_id in ("one", "two")]
    files = [fetched(handle, tmp_path)["files"] for handle in handles]
    assert len({file for landed in files for file in landed}) == 4
    assert len(content(tmp_path)) == 4


@pytest.mark.parametrize("kind", FORMATS)
def test_another_airflows_files_are_left_alone(emulator, connect, storage, tmp_path, kind):
    """The same address, so the same names: the second is refused, says whose they are, and lands when they are gone."""
    conn_id = connect(emulator.url)
    first = fetched(submitted(conn_id, storage), tmp_path)
    before = content(tmp_path)
    another_airflow(storage, tmp_path)
    handle = submitted(conn_id, storage, rows=["x", "y", "z"])
    for _ in range(2):
        with pytest.raises(ResultsUnusable) as caught:
            fetched(handle, tmp_path, format=kind)
        assert content(tmp_path) == before
    message = str(caught.value)
    assert first["files"][0] in message
    assert f"with the same address, {handle['job']}, in another Airflow" in message
    assert "not paid again" in message
    batches = len(emulator.vendor.batches)
    shutil.rmtree(tmp_path / "out")
    assert fetched(handle, tmp_path, format=kind)["rows"] == 3
    assert len(emulator.vendor.batches) == batches


def test_one_task_that_does_it_all_is_refused_before_anything_is_sent(emulator, connect, storage, tmp_path):
    """LLMBatchOperator knows its destination: no batch is made."""
    context = {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id="submit", map_index=-1)}
    task = operator(connect(emulator.url), tmp_path, storage=storage)
    drive(task, context)
    batches, before = len(emulator.vendor.batches), content(tmp_path)
    another_airflow(storage, tmp_path)
    with pytest.raises(ResultsUnusable, match="in another Airflow"):
        drive(operator(task.conn_id, tmp_path, storage=storage), context)
    assert (len(emulator.vendor.batches), content(tmp_path)) == (batches, before)


def test_a_job_takes_the_place_of_its_own_landing(emulator, connect, storage, tmp_path):
    """Again, in another format and sizes, and after a kill between a published file and the manifest."""
    handle = submitted(connect(emulator.url), storage, rows=[f"text {n}" for n in range(50)])
    fetched(handle, tmp_path)
    for arguments in ({}, {"format": "parquet"}, {"max_file_size": 2000}, {"format": "jsonl.gz"}, {}):
        summary = fetched(handle, tmp_path, **arguments)
        assert sorted(content(tmp_path)) == sorted(file.rpartition("/")[2] for file in summary["files"])
    JobStore(handle["job"]).path("manifest.json").unlink()
    assert fetched(handle, tmp_path)["rows"] == 50
    assert len(content(tmp_path)) == 1


def test_rounds_and_clears_take_the_place_of_what_they_landed(connect, storage, tmp_path):
    """Rows that heal in a further round, a clear, and a clear with other rows: one record a row, no file of before."""
    context = {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id="submit", map_index=-1)}
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        for rows in ([{"id": f"k{n}", "text": f"text {n}"} for n in range(count)] for count in (40, 40, 60)):
            summary = drive(operator(conn_id, tmp_path, storage=storage, rows=rows), context)
            landed = [row["row"] for file in summary["files"] for row in read_jsonl(file)]
            assert sorted(landed) == list(range(len(rows)))
            assert sorted(content(tmp_path)) == sorted(file.rpartition("/")[2] for file in summary["files"])


def test_what_an_older_version_has_landed_is_the_jobs_own(emulator, connect, storage, tmp_path):
    """A manifest and no note: the files that it names are not another's, whatever way their URI is spelled."""
    handle = submitted(connect(emulator.url), storage)
    fetched(handle, tmp_path)
    store = JobStore(handle["job"])
    shutil.rmtree(tmp_path / "jobs" / store.uri.partition("/jobs/")[2] / "landings")
    assert fetched(handle, tmp_path)["rows"] == 2
