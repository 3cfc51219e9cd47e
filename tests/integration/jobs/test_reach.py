"""Where a job may lie: not on one machine when others run its next try, nor where two attempts can both create."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from airflow.sdk.execution_time import supervisor, task_runner
from support import MODELS
from support.stores import Bucket

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory import exclusive
from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.operators import CompletionOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.operators.reach import POD, remote_executor

ROWS = [{"id": n, "text": f"text {n}"} for n in range(3)]


def asked(conn_id, **more):
    request = ChatRequest(MODELS["openai"], user="{text}", max_tokens=20)
    return {"task_id": "t", "conn_id": conn_id, "rows": ROWS, "request": request, **more}


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """``[llm_batch] storage`` is not set, and the default lies below a directory of the test's own."""
    monkeypatch.delenv("AIRFLOW__LLM_BATCH__STORAGE")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


@pytest.fixture
def run_by(monkeypatch):
    """Tasks are run by an executor's worker."""

    def configure(executor):
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", object(), raising=False)
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)

    return configure


@pytest.mark.parametrize("operator", [SubmitBatchOperator, LLMBatchOperator, CompletionOperator])
def test_a_job_that_the_next_try_may_not_find_is_refused(emulator, connect, context, unset, run_by, operator, tmp_path):
    """Nothing is sent, nothing lies there, and the message names the setting and what it would have been."""
    run_by("CeleryExecutor")
    landing = {} if operator is SubmitBatchOperator else {"destination": f"file://{tmp_path}/out"}
    with pytest.raises(ConfigurationError) as raised:
        operator(**asked(connect(emulator.url)), **landing).execute(context)
    for word in ("[llm_batch] storage", "CeleryExecutor", f"file://{tmp_path}/llm_batch", "Nothing was sent"):
        assert word in str(raised.value)
    assert not emulator.vendor.calls
    assert not (tmp_path / "llm_batch").exists()


@pytest.mark.parametrize("executor", ["LocalExecutor", "airflow.executors.local_executor.LocalExecutor:mine"])
def test_on_one_machine_the_default_will_do(emulator, connect, context, unset, run_by, executor):
    run_by(executor)
    assert SubmitBatchOperator(**asked(connect(emulator.url))).execute(context)["batches"]


def test_in_process_the_default_will_do(emulator, connect, context, unset, run_by, monkeypatch):
    """As ``dag.test()`` runs tasks, whatever executor is configured."""
    run_by("CeleryExecutor")
    inside = object.__new__(supervisor.InProcessSupervisorComms)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", inside)
    assert SubmitBatchOperator(**asked(connect(emulator.url))).execute(context)["batches"]


def test_a_job_that_lies_here_goes_on(emulator, connect, context, unset, run_by):
    """What was sent before is taken up: whoever finds it need not be told that it may be lost."""
    first = SubmitBatchOperator(**asked(connect(emulator.url))).execute(context)
    run_by("CeleryExecutor")
    assert SubmitBatchOperator(**asked("llm_test")).execute(context) == first
    assert len(emulator.vendor.batches) == 1


@pytest.mark.parametrize("shared", ["budget", "completion"])
def test_a_task_with_a_storage_of_its_own_needs_the_other_for_what_is_shared(
    emulator, connect, context, unset, run_by, tmp_path, shared
):
    """Its job directory is found; the book of budgets, and the list of awaited jobs, would be one per machine."""
    run_by("CeleryExecutor")
    own = {"storage": f"file://{tmp_path}/shared"}
    conn_id = connect(emulator.url, **({"budget": {"month": 100}} if shared == "budget" else {}))
    more = {"completion": "asked"} if shared == "completion" else {}
    with pytest.raises(ConfigurationError, match=r"budgets and awaited jobs.*Nothing was sent"):
        SubmitBatchOperator(**asked(conn_id, **own, **more)).execute(context)
    assert not emulator.vendor.calls
    assert SubmitBatchOperator(**asked(connect(emulator.url), **own)).execute(context)["batches"]


@pytest.mark.parametrize(
    ("configured", "own", "found"),
    [
        ("LocalExecutor", None, None),
        ("LocalExecutor,CeleryExecutor", None, None),
        ("LocalExecutor,CeleryExecutor", "CeleryExecutor", "CeleryExecutor"),
        ("CeleryExecutor,LocalExecutor", "LocalExecutor", None),
        ("CeleryExecutor,my.Own:here", "here", "Own"),
        ("CeleryExecutor,airflow.executors.local_executor.LocalExecutor:here", "here", None),
        ("LocalExecutor;team_a=KubernetesExecutor,LocalExecutor", None, "KubernetesExecutor"),
        ("LocalExecutor;team_a=LocalExecutor,CeleryExecutor", None, None),
        ("some.where.MyExecutor", None, "MyExecutor"),
    ],
)
def test_an_executor_is_told_from_airflows_own_words(run_by, configured, own, found):
    """Several, by alias, by module, by team; the task's own goes before the configured one."""
    run_by(configured)
    assert remote_executor(own) == found


def test_a_pod_is_no_machine_whatever_it_is_configured_as(run_by, monkeypatch):
    """The pods of some charts are told that their executor is a local one."""
    run_by("LocalExecutor")
    monkeypatch.setenv(POD, "True")
    assert remote_executor(None) == "KubernetesExecutor"


@pytest.mark.parametrize(
    ("folder", "storage"),
    [
        ("s3://c@bucket/jobs/dag/run/task", "s3://c@bucket/jobs"),
        ("s3://c@bucket/dag/run/task", "s3://c@bucket"),
        ("s3://c@bucket", "s3://c@bucket"),
        ("file:///tmp/jobs/dag/run/task", "file:///tmp/jobs"),
    ],
)
def test_an_address_tells_its_storage(folder, storage):
    """A directory that no task has made has at least a bucket."""
    assert JobAddress.parse(f"{folder}/-1/round-2").storage == storage


class Ignoring(Bucket):
    """A server that answers every create with a success, as some that speak S3's protocol do."""

    def write(self, kind, key, data, exclusive=False):
        super().write(kind, key, data)


def test_a_store_that_ignores_preconditions_is_found_out(emulator, connect, context):
    """Before anything is sent, and each time anew."""
    bucket = Ignoring()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"ignores preconditions.*_creation = waived.*Nothing was sent"):
            SubmitBatchOperator(**asked(connect(emulator.url), storage=f"{bucket.uri}/jobs")).execute(context)
    assert not emulator.vendor.calls
    assert set(bucket.files) == {f"bucket/jobs/{exclusive.NAME}"}


def test_by_choice_it_is_used_all_the_same(emulator, connect, context, monkeypatch, caplog):
    """One attempt at a time creates, which is the user's to see to: that is said once by each process."""
    bucket = Ignoring()
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__EXCLUSIVE_CREATION", "waived")
    caplog.set_level(logging.WARNING, logger=exclusive.__name__)
    for task_id in ("one", "two"):
        context["ti"].task_id = task_id
        SubmitBatchOperator(**asked(connect(emulator.url), storage=f"{bucket.uri}/jobs")).execute(context)
    assert len(emulator.vendor.batches) == 2
    assert [record.getMessage().count("ignores preconditions") for record in caplog.records] == [1]


def test_an_unknown_choice_is_refused(emulator, connect, context, monkeypatch):
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__EXCLUSIVE_CREATION", "maybe")
    with pytest.raises(ConfigurationError, match="exclusive_creation is 'maybe'; give required or waived"):
        SubmitBatchOperator(**asked(connect(emulator.url))).execute(context)
    assert not emulator.vendor.calls


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_an_honest_store_is_tried_with_two_requests_once_and_one_by_each_further_process(monkeypatch, lost):
    """Also where the answer to a create is lost, and it is made again."""

    class Forgetful(Bucket):
        left = lost

        def write(self, kind, key, data, exclusive=False):
            super().write(kind, key, data, exclusive)
            if self.left:
                self.left -= 1
                raise ConnectionResetError

    bucket = Forgetful()
    monkeypatch.setattr("airflow_llm_batch.outages.pause", lambda seconds: None)
    totals = []
    for _ in range(3):
        exclusive.tried.clear()
        for _ in range(2):
            exclusive.check_exclusive(f"{bucket.uri}/jobs")
        totals.append(bucket.kinds.total())
    assert totals == [2, 3, 4]
    assert bucket.kinds == Counter(PUT=4)


def test_a_storage_may_be_a_path(tmp_path):
    """As ``destination`` and ``rows`` may be."""
    from airflow.sdk import ObjectStoragePath

    given = [f"file://{tmp_path}/jobs/", ObjectStoragePath(f"file://{tmp_path}/jobs")]
    assert len({JobAddress.of_task(storage, "d", "r", "t", None).uri for storage in given}) == 1
