"""A disk that is full: said as such, and gone on with once there is room. Nothing is asked, or paid for, twice."""

from __future__ import annotations

import subprocess

import pytest
from support import read_jsonl
from support.jobs import chat, texts

from airflow_llm_batch.exceptions import Interrupted
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator

#: bytes of the disk, and of what is on it until there is room
SIZE, FILLER = 2**20, 960 * 2**10
ROWS = 400


@pytest.fixture
def small(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("full", ["storage", "destination"])
def test_a_full_disk_is_said_and_gone_on_with(emulator, connect, context, tmp_path, small, full):
    """Of the job directory while a job is planned, of the results while they are landed."""
    places = {"storage": tmp_path / "jobs", "destination": tmp_path / "results", full: small / full}
    filler = small / "filler"
    submit = SubmitBatchOperator(
        task_id="submit", conn_id=connect(emulator.url), rows=texts(ROWS), request=chat("openai"),
        storage=f"file://{places['storage']}",
    )  # fmt: skip

    def fetch(job):
        return FetchResultsOperator(task_id="fetch", job=job, destination=f"file://{places['destination']}")

    filler.write_bytes(bytes(FILLER))
    with pytest.raises(Interrupted, match=r"The disk is full: .*neither sent nor billed again"):
        fetch(submit.execute(context)).execute(context)
    assert len(emulator.vendor.batches) == (0 if full == "storage" else 1)
    filler.unlink()
    summary = fetch(submit.execute(context)).execute(context)
    assert summary["counts"]["succeeded"] == ROWS
    [batch] = emulator.vendor.batches.values()
    assert batch.total == ROWS
    assert sorted(row["row"] for uri in summary["files"] for row in read_jsonl(uri)) == list(range(ROWS))
