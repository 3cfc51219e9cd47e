"""The vendor's files, job directories, metrics and links: what is left behind, and what is told."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from support import MODELS, read_jsonl

from airflow_llm_batch import links, metrics
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, RequestRejected, ResultsUnusable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.jobs.directory.listing import find_jobs
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.links import LINKS, addresses, files_page, job_page
from airflow_llm_batch.models import Shard
from airflow_llm_batch.operators import (
    CleanupJobsOperator,
    FetchResultsOperator,
    LLMBatchOperator,
    SubmitBatchOperator,
)
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.sensors import BatchSensor

ROWS = [{"id": n, "text": f"text {n}"} for n in range(6)]


def submitted(context, conn_id, provider):
    request = ChatRequest(MODELS[provider], user="{text}", max_tokens=20)
    handle = SubmitBatchOperator(task_id="submit", conn_id=conn_id, rows=ROWS, key="id", request=request)
    handle = handle.execute(context)
    return BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)


def fetch(job, tmp_path, **arguments):
    operator = FetchResultsOperator(task_id="fetch", job=job, destination=f"file://{tmp_path}/out", **arguments)
    return operator.execute({})


@pytest.mark.parametrize(("scope", "left"), [(None, ["out"]), ("none", ["in", "out"]), ("all", [])])
def test_vendor_files_are_deleted_after_the_landing_and_not_before(emulator, connect, context, tmp_path, scope, left):
    """Inputs by default, all or none by choice; results stay landed, and stay fetchable where the vendor has them."""
    conn_id = connect(emulator.url, **({"delete_files": scope} if scope else {}))
    job = submitted(context, conn_id, "openai")
    assert len(emulator.vendor.files) == 2
    summary = fetch(job, tmp_path)
    kinds = {"batch": "in", "batch_output": "out"}
    assert sorted(kinds[file.purpose] for file in emulator.vendor.files.values()) == left
    rows = [row for file in summary["files"] for row in read_jsonl(file)]
    assert len(rows) == 6
    again = fetch(job, tmp_path)
    assert again == summary
    if scope == "all":
        # What the vendor has no more cannot be landed elsewhere, and nothing is taken for lost silently.
        with pytest.raises(ResultsUnusable, match="cannot be landed once more"):
            fetch(job, tmp_path, format="parquet")
        Path(summary["files"][0].removeprefix("file://")).unlink()
        with pytest.raises(ResultsUnusable, match="were deleted after they were landed"):
            fetch(job, tmp_path)


def test_anthropics_batch_is_deleted_by_choice(emulator, connect, context, tmp_path):
    """Its results go with it; by default it is left to expire."""
    job = submitted(context, connect(emulator.url, "anthropic"), "anthropic")
    fetch(job, tmp_path)
    assert len(emulator.vendor.batches) == 1
    connect(emulator.url, "anthropic", delete_files="all")
    assert fetch(job, tmp_path)["rows"] == 6
    assert not emulator.vendor.batches


def test_a_deletion_that_fails_harms_nothing(emulator, connect, context, tmp_path):
    """A gateway without DELETE: the results are landed, the task is green, it is asked once a file."""
    job = submitted(context, connect(emulator.url), "openai")
    emulator.faults(http=[{"on": "DELETE*", "times": 99, "status": 501}])
    assert fetch(job, tmp_path)["rows"] == 6
    assert sum(n for call, n in emulator.vendor.calls.items() if call.startswith("DELETE")) == 1
    connect(emulator.url, delete_files="everything")
    with pytest.raises(ConfigurationError, match="delete_files"):
        fetch(job, tmp_path)


def test_rounds_work_although_the_vendors_files_are_gone(emulator, connect, context, tmp_path):
    """delete_files='all': a repair takes its requests from the job directory and the rest from what was landed."""
    with Emulator(duration=0, faults={"row_errors": 0.4, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, delete_files="all")
        task = LLMBatchOperator(
            task_id="submit", conn_id=conn_id, rows=ROWS, key="id", request=ChatRequest("gpt-5-mini", user="{text}"),
            destination=f"file://{tmp_path}/out",
        )  # fmt: skip
        summary = task.execute(context)
        assert (summary["counts"]["succeeded"], summary["rounds"]) == (6, 2)
        assert not emulator.vendor.files
        assert task.execute(context) == summary


def test_input_files_expire_at_the_vendor_by_themselves(emulator, connect, context, tmp_path):
    """Two weeks at OpenAI's own address; elsewhere when the connection says so, for outputs too."""
    own = OpenAI()
    upload = next(own.upload("x", Payload(lambda: [b"{}\n"], 3)))
    assert b'name="expires_after[seconds]"\r\n\r\n1209600' in b"".join(upload.stream)
    assert b"expires_after" not in b"".join(next(OpenAI("http://h").upload("x", Payload(lambda: [b""], 0))).stream)
    assert b"output_expires_after" not in next(own.create(Shard(endpoint="/e"), "f", Payload(tuple, 0))).content
    chosen = OpenAI("http://h", {"expire_seconds": 7200})
    body = json.loads(next(chosen.create(Shard(endpoint="/e"), "f", Payload(tuple, 0))).content)
    assert body["output_expires_after"] == {"anchor": "created_at", "seconds": 7200}
    submitted(context, connect(emulator.url, expire_seconds=7200), "openai")
    [stored] = [file for file in emulator.vendor.files.values() if file.purpose == "batch"]
    assert stored.expires_at == pytest.approx(stored.created_at + 7200)


def test_an_input_file_that_is_gone_is_uploaded_again(emulator, connect, context, monkeypatch):
    """Deleted between upload and create: the create is refused, and the retry sends the file anew."""
    conn_id = connect(emulator.url)
    operator = SubmitBatchOperator(
        task_id="submit", conn_id=conn_id, rows=ROWS, key="id", request=ChatRequest("gpt-5-mini", user="{text}")
    )
    real = httpx.Client.send

    def forgetful(client, request, **kwargs):
        answer = real(client, request, **kwargs)
        if request.url.path.endswith("/files") and len(emulator.vendor.calls) < 3:
            emulator.vendor.files.clear()
        return answer

    monkeypatch.setattr(httpx.Client, "send", forgetful)
    with pytest.raises(RequestRejected, match="file"):
        operator.execute(context)
    monkeypatch.setattr(httpx.Client, "send", real)
    assert len(operator.execute(context)["batches"]) == 1


def test_old_job_directories_are_removed_landed_ones_only(emulator, connect, context, tmp_path):
    """By age; what was never landed is kept and named, unless told otherwise; a dry run removes nothing."""
    storage = f"file://{tmp_path}/jobs"
    conn_id = connect(emulator.url)
    for number, is_landed in enumerate((True, True, False)):
        context["ti"].run_id = f"run-{number}"
        operator = SubmitBatchOperator(
            task_id="submit", conn_id=conn_id, rows=ROWS, request=ChatRequest("m", user="{text}"), storage=storage
        )
        handle = operator.execute(context)
        if is_landed:
            fetch(handle, tmp_path / str(number))

    def clean(**arguments):
        return CleanupJobsOperator(task_id="clean", storage=storage, **arguments).execute({})

    jobs = [JobAddress.of_task(storage, "dag", f"run-{number}", "submit", -1).uri for number in range(3)]
    assert [store.uri for store in find_jobs(storage)] == jobs
    assert [store.uri for store in find_jobs(storage, "dag")] == jobs
    assert list(find_jobs(storage, "other")) == list(find_jobs(f"{storage}/nowhere")) == []
    assert clean() == {"removed": [], "kept": 3, "unlanded": []}
    assert clean(older_than=0, dry_run=True) == {"removed": jobs[:2], "kept": 0, "unlanded": jobs[2:]}
    assert len(list(find_jobs(storage))) == 3
    assert clean(older_than=timedelta(0)) == {"removed": jobs[:2], "kept": 0, "unlanded": jobs[2:]}
    assert [store.uri for store in find_jobs(storage)] == jobs[2:]
    assert clean(older_than=0, unlanded=True, of_dag="other")["removed"] == []
    assert clean(older_than=0, unlanded=True)["removed"] == jobs[2:]
    assert list(find_jobs(storage)) == []
    with pytest.raises(ConfigurationError, match="older_than"):
        clean(older_than=-1)


class Recorder:
    def __init__(self):
        self.seen = []

    def incr(self, name, count=1, tags=None):
        self.seen.append((name, count, tags))

    timing = incr


def test_metrics_count_rows_tokens_dollars_and_wait_once(emulator, provider, connect, context, tmp_path, monkeypatch):
    """By provider, model and DAG; a second landing of the same job counts nothing."""
    recorder = Recorder()
    monkeypatch.setattr(metrics, "airflow_stats", lambda: recorder)
    job = submitted(context, connect(emulator.url, provider), provider)
    summary = fetch(job, tmp_path)
    fetch(job, tmp_path)
    tags = {"provider": provider, "model": summary["models"][0], "dag_id": "dag"}
    recorded = {(name, *sorted(set(t.values()) - set(tags.values()))): (n, t) for name, n, t in recorder.seen}
    assert len(recorded) == len(recorder.seen) == 5
    assert recorded["llm_batch.rows", "succeeded"] == (6, {**tags, "status": "succeeded"})
    assert recorded["llm_batch.tokens", "input"][0] == summary["input_tokens"]
    assert recorded["llm_batch.tokens", "output"][0] == summary["output_tokens"]
    assert recorded["llm_batch.microdollars",][0] == round(summary["cost_usd"] * 1e6)
    assert recorded["llm_batch.wait",][0] > 0
    # Airflow's own Stats takes these names and tags.
    monkeypatch.undo()
    metrics.airflow_stats().incr("llm_batch.rows", 6, tags=tags)


def test_links_lead_to_job_files_and_console(emulator, connect, context, tmp_path, monkeypatch):
    """After each task; the vendor's console only where the vendor itself is asked."""
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.test:8080/")
    job = submitted(context, connect(emulator.url), "openai")
    operator = FetchResultsOperator(task_id="fetch", job=job, destination=f"file://{tmp_path}/out")
    operator.execute({})
    shown = {link.name: link.get_link(operator, ti_key=None) for link in LINKS}
    framed_by = "/plugin/llm-batches" if links.frame_is_linked() else ""
    page = f"http://airflow.test:8080{framed_by}/llm-batches/job/dag/{context['ti'].run_id}/submit/-1"
    assert shown == {"LLM batch job": page, "Landed files": "", "Vendor console": ""}
    assert job_page("s3://c@b/jobs/d g/manual__2026-01-01T00:00:00+00:00/t/3/round-2").endswith(
        "/llm-batches/job/d%20g/manual__2026-01-01T00%3A00%3A00%2B00%3A00/t/3"
    )
    assert files_page("s3://aws@bucket/a b/") == "https://console.aws.amazon.com/s3/buckets/bucket?prefix=a%20b/"
    assert addresses(None, OpenAI(), ["batch_1"]) == {"Vendor console": "https://platform.openai.com/batches/batch_1"}
    # In Airflow's own frame, where its address bar follows that.
    monkeypatch.setattr(links, "frame_is_linked", lambda: True)
    framed = "http://airflow.test:8080/plugin/llm-batches/llm-batches/job/dag/run/t/-1"
    assert job_page("s3://b/jobs/dag/run/t/-1") == framed
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.test/below")
    below = "http://airflow.test/below/plugin/llm-batches/below/llm-batches/job/dag/run/t/-1"
    assert job_page("s3://b/jobs/dag/run/t/-1") == below
    assert LLMBatchHook("llm_test").provider.console("batch_1") == ""
    assert [link.get_link(SubmitBatchOperator(task_id="x", rows=[]), ti_key=None) for link in LINKS] == ["", "", ""]
    assert JobStore(job["job"]).job().sources == ()
