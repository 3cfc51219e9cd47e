"""Partitions of one task: jobs of their own, cut alike, held to one budget, landed as one set."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from support import read_jsonl
from support.stores import Bucket
from support.tasks import drive, operator

from airflow_llm_batch.data import ChatRequest, FailedRows, partitions
from airflow_llm_batch.data.partitions import Partition
from airflow_llm_batch.data.paths import expand
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import BudgetExceeded, ConfigurationError, InputError
from airflow_llm_batch.jobs.directory.address import JobAddress
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money.ledger import Ledger
from airflow_llm_batch.jobs.sets.manifest import LandedPart, SetManifest
from airflow_llm_batch.jobs.sets.store import PartitionSet
from airflow_llm_batch.operators import (
    CleanupJobsOperator,
    CompletionOperator,
    FetchResultsOperator,
    SubmitBatchOperator,
)
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.storage import storage_path

REQUEST = ChatRequest("gpt-5-mini", user="{text}", max_tokens=50)


@pytest.fixture
def storage(tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/storage"
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", uri)
    return uri


@pytest.fixture
def rows(tmp_path):
    """90 rows in two files."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, count in (("a", 60), ("b", 30)):
        lines = [json.dumps({"id": f"{name}{n}", "text": f"text {name} {n}"}) for n in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return f"file://{folder}"


def mapped(context, index):
    return {"ti": SimpleNamespace(**{**vars(context["ti"]), "map_index": index})}


def run_part(context, conn_id, tmp_path, partition, **arguments):
    """One mapped task instance to its end."""
    index = int(partition.partition("/")[0])
    return drive(operator(conn_id, tmp_path, partition=partition, **arguments), mapped(context, index))


def manifest_at(uri):
    return SetManifest.model_validate_json(storage_path(uri).read_bytes())


def test_partitions_land_as_one_set(connect, context, storage, rows, tmp_path):
    """A job each at its usual address; the last one, whichever, tells of all; no two records have one key."""
    with Emulator(duration=0, faults={"row_errors": 0.1}) as emulator:
        conn_id = connect(emulator.url)
        landings = {}
        for partition in ("2/3", "0/3", "1/3"):
            assert not (tmp_path / "storage/dag").exists() or not list(tmp_path.glob("storage/dag/*/submit/manifest.*"))
            summary = run_part(context, conn_id, tmp_path, partition, rows=rows, key=None, max_rounds=1, fail_on="none")
            assert summary["partition"] == partition
            landings[partition] = summary
        assert len({summary["set_manifest"] for summary in landings.values()}) == 1
        whole = manifest_at(summary["set_manifest"])
        run_id = context["ti"].run_id
        assert summary["set_manifest"] == f"{storage}/dag/{run_id}/submit/manifest.json"
        assert (whole.partitions, whole.rows, whole.batches) == (3, 90, 3)
        assert whole.counts["succeeded"] + whole.counts["errored"] == 90
        assert whole.counts["errored"] > 0
        assert whole.cost_usd == pytest.approx(sum(summary["cost_usd"] for summary in landings.values()))
        assert [part.partition for part in whole.parts] == partitions(3)
        assert [part.rows for part in whole.parts] == [landings[part]["rows"] for part in partitions(3)]
        assert list(whole.files) == [file for part in partitions(3) for file in landings[part]["files"]]
        landed = [row for file in whole.files for row in read_jsonl(file)]
        assert sorted(row["input"] for row in landed) == sorted(
            f"text {name} {n}" for name, count in (("a", 60), ("b", 30)) for n in range(count)
        )
        assert len({row["key"] for row in landed}) == 90
        for part in whole.parts:
            assert {row["key"] % 3 for file in part.files for row in read_jsonl(file)} == {int(part.partition[0])}
        [beside] = (tmp_path / "out").glob("_manifest-*.json")
        assert beside.read_bytes() == storage_path(summary["set_manifest"]).read_bytes()
        # Whoever reads the results as rows does not take it for data.
        assert all("_manifest" not in str(path) for path in expand(storage_path(f"file://{tmp_path}/out")))
        # Cleared, each takes up what it has done.
        batches, written = len(emulator.vendor.batches), storage_path(summary["set_manifest"]).stat().st_mtime
        for partition in partitions(3):
            again = run_part(context, conn_id, tmp_path, partition, rows=rows, key=None, max_rounds=1, fail_on="none")
            assert again["files"] == landings[partition]["files"]
        assert len(emulator.vendor.batches) == batches == 3
        assert storage_path(summary["set_manifest"]).stat().st_mtime == written


def test_the_three_tasks_pass_a_partition_on(connect, context, storage, rows, tmp_path):
    """Submit, sensor and fetch; a partition without rows goes through all of them, and counts as landed."""
    for path in (tmp_path / "rows").iterdir():
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        landings = []
        for index, partition in enumerate(partitions(30)):
            ti = mapped(context, index)
            submit = SubmitBatchOperator(
                task_id="submit", conn_id=conn_id, rows=rows, partition=partition, request=REQUEST, key="id"
            )
            handle = submit.execute(ti)
            assert handle["partition"] == partition
            waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(ti)
            fetch = FetchResultsOperator(task_id="fetch", job=waited, destination=f"file://{tmp_path}/out")
            landings.append(fetch.execute(ti))
        assert len(emulator.vendor.batches) == 4
    assert sorted(summary["rows"] for summary in landings) == [0] * 26 + [1] * 4
    assert "has no rows" in next(summary["message"] for summary in landings if not summary["rows"])
    whole = manifest_at(landings[0]["set_manifest"])
    assert (whole.partitions, whole.rows, len(whole.parts), whole.counts["succeeded"]) == (30, 4, 30, 4)
    assert sorted(row["key"] for file in whole.files for row in read_jsonl(file)) == ["a0", "a1", "b0", "b1"]


def test_a_partition_that_is_landed_anew_changes_the_set(connect, context, storage, rows, tmp_path):
    """Its rows that failed are asked again by a task of their own: the set has the new landing."""
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url)
        for partition in partitions(2):
            first = run_part(context, conn_id, tmp_path, partition, rows=rows, max_rounds=1, fail_on="none")
        before = manifest_at(first["set_manifest"])
        assert before.counts["errored"] > 0
        for index, partition in enumerate(partitions(2)):
            part = before.parts[index]
            ti = mapped(context, index)
            ti["ti"].task_id = "again"
            handle = SubmitBatchOperator(
                task_id="again", conn_id=conn_id, rows=FailedRows({"manifest": part.manifests[0]})
            ).execute(ti)
            waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(ti)
            fetch = FetchResultsOperator(task_id="fetch", job=waited, destination=f"file://{tmp_path}/out")
            summary = fetch.execute(ti)
            assert (summary["partition"], summary["set_manifest"]) == (partition, first["set_manifest"])
    after = manifest_at(first["set_manifest"])
    assert (after.rows, after.counts["succeeded"], after.counts["errored"]) == (90, 90, 0)
    assert after.cost_usd > before.cost_usd
    assert len([row for file in after.files for row in read_jsonl(file)]) == 90
    names = sorted(path.name for path in tmp_path.rglob("0000?.*.json"))
    assert names == ["00000.0001.json", "00000.0002.json", "00001.0001.json", "00001.0002.json"]


def test_max_cost_holds_for_all_partitions_together(connect, context, storage, rows, tmp_path):
    """What would pass it is refused before it is sent; what was landed for less leaves room again."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        # Each partition: 30 rows of at most 200 tokens.
        wanted = {"rows": rows, "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=200)}

        def submit(partition, max_cost):
            index = int(partition[0])
            task = SubmitBatchOperator(
                task_id="submit", conn_id=conn_id, partition=partition, max_cost=max_cost, **wanted
            )
            return task.execute(mapped(context, index))

        handle = submit("0/3", 1.0)
        cost = sum(e.cost_usd for e in JobStore(handle["job"]).job().estimate.values())
        limit = cost * 2.5
        submit("0/3", limit)
        second = submit("1/3", limit)
        with pytest.raises(BudgetExceeded, match=r"all partitions of .* together"):
            submit("2/3", limit)
        assert len(emulator.vendor.batches) == 2
        [folder] = Ledger(storage).folders("sets")
        last = Ledger(storage).last(folder)
        assert last.sum_reserved == pytest.approx(cost * 2, rel=0.1)
        BatchSensor(task_id="wait", job=second, deferrable=False, poke_interval=0.02).execute(context)
        FetchResultsOperator(task_id="fetch", job=second, destination=f"file://{tmp_path}/out").execute(context)
        # It has cost less than it might have.
        submit("2/3", limit)
        assert len(emulator.vendor.batches) == 3
        assert Ledger(storage).last(folder).sum_spent > 0


def test_calls_are_partitioned_too(connect, context, storage, rows, tmp_path):
    """The online lane: the same rows, budget and set."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for index, partition in enumerate(partitions(2)):
            task = CompletionOperator(
                task_id="submit", conn_id=conn_id, rows=rows, partition=partition, request=REQUEST,
                destination=f"file://{tmp_path}/out", max_cost=1.0,
            )  # fmt: skip
            summary = task.execute(mapped(context, index))
        assert emulator.vendor.calls["POST /v1/chat/completions"] == 90
    whole = manifest_at(summary["set_manifest"])
    assert (whole.rows, whole.counts["succeeded"], whole.batches) == (90, 90, 0)


def test_partitions_are_cut_alike(connect, context, storage, rows, tmp_path):
    """A file that comes later is no part of them; other rows, and one that has changed, are refused unsent."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        first = run_part(context, conn_id, tmp_path, "0/2", rows=rows)
        (tmp_path / "rows/aa.jsonl").write_text('{"id": "late", "text": "late"}\n')
        second = run_part(context, conn_id, tmp_path, "1/2", rows=rows)
        assert first["rows"] + second["rows"] == 90
        batches = len(emulator.vendor.batches)
        with pytest.raises(InputError, match=r"remove .*cut\.json"):
            run_part(context, conn_id, tmp_path, "1/2", rows=f"{rows}/b.jsonl")
        (tmp_path / "rows/b.jsonl").write_text('{"id": "other", "text": "other"}\n')
        with pytest.raises(InputError, match=r"b\.jsonl has .* bytes"):
            run_part(context, conn_id, tmp_path, "1/2", rows=rows)
        assert len(emulator.vendor.batches) == batches == 2


def test_a_file_that_was_written_anew_is_refused_at_every_try(connect, context, storage, rows, tmp_path):
    """Of the same size: for partitions that were sent and others; cut anew, what has the same rows sends nothing."""
    path = tmp_path / "rows/b.jsonl"
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        summary = run_part(context, conn_id, tmp_path, "0/2", rows=rows)
        before = path.stat()
        path.write_text(path.read_text().replace("text b 3", "text b 4"))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**6))
        assert path.stat().st_size == before.st_size
        for _ in range(2):
            with pytest.raises(InputError, match=r"b\.jsonl is of version .*Nothing was sent"):
                run_part(context, conn_id, tmp_path, "1/2", rows=rows)
        assert len(emulator.vendor.batches) == 1
        (storage_path(summary["set_manifest"]).parent / "partitions-2/cut.json").unlink()
        landed = [run_part(context, conn_id, tmp_path, partition, rows=rows) for partition in partitions(2)]
        assert landed[0]["files"] == summary["files"]
        assert sum(one["rows"] for one in landed) == 90
        assert len(emulator.vendor.batches) == 2


def test_a_set_is_cleaned_up_with_its_last_job(connect, context, storage, rows, tmp_path):
    """What the partitions have told each other stays while one of their jobs does; results stay."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for partition in partitions(2):
            summary = run_part(context, conn_id, tmp_path, partition, rows=rows)
    folder = storage_path(summary["set_manifest"]).parent
    cleaned = CleanupJobsOperator(task_id="clean", older_than=0, dry_run=True).execute(context)
    assert len(cleaned["removed"]) == 2
    assert (folder / "manifest.json").exists()
    CleanupJobsOperator(task_id="clean", older_than=0).execute(context)
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_what_cannot_be_partitioned_is_refused(connect, context, storage, rows, tmp_path):
    """Failed rows, a batch that exists, and what is no partition: by name, and nothing is sent."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for partition, given, message in (
            ("0/2", {"rows": FailedRows({"manifest": "file:///x/manifest.json"})}, "leave out partition"),
            ("2/2", {"rows": rows, "request": REQUEST}, "0/64"),
            ("0/2", {"batch_id": "batch_1"}, "no partition"),
        ):
            with pytest.raises(ConfigurationError, match=message):
                SubmitBatchOperator(task_id="submit", conn_id=conn_id, partition=partition, **given).execute(context)
        assert not emulator.vendor.batches


def part_at(partition, landing):
    """What a landing of a partition might tell: each has rows of its own."""
    number = Partition.of(partition).number
    return LandedPart(
        partition=partition, manifests=(f"m{number}",), rows=1000 * number + landing,
        counts={"succeeded": 1000 * number + landing}, landed_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(landing),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_whoever_comes_last_tells_of_the_newest_landings(seed):
    """Twelve partitions landed by eight threads in any order, some several times: the manifest has the last of each."""
    bucket, draw = Bucket(), random.Random(seed)
    log = SimpleNamespace(info=lambda *said: None)
    address = JobAddress.of_task(f"{bucket.uri}/jobs", "dag", "run", "task", 0)
    landings = {partition: draw.randint(1, 4) for partition in partitions(12)}

    def land(partition):
        for landing in range(1, landings[partition] + 1):
            PartitionSet(address, Partition.of(partition)).add(part_at(partition, landing), log)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(land, draw.sample(sorted(landings), 12)))
    whole = manifest_at(f"{bucket.uri}/jobs/dag/run/task/manifest.json")
    assert [part.rows for part in whole.parts] == [1000 * n + landings[f"{n}/12"] for n in range(12)]
    assert whole.rows == sum(part.rows for part in whole.parts)


def test_the_set_is_told_once(tmp_path):
    """Of partitions that are landed once each, one landing writes the manifest, and it is never written again."""
    bucket = Bucket()
    log = SimpleNamespace(info=lambda *said: None)
    address = JobAddress.of_task(f"{bucket.uri}/jobs", "dag", "run", "task", 0)
    for _ in range(2):
        for partition in partitions(5):
            PartitionSet(address, Partition.of(partition)).add(part_at(partition, 1), log)
    written = {key: times for (kind, key), times in bucket.asked.items() if kind == "PUT"}
    assert written.pop("bucket/jobs/dag/run/task/manifest.json") == 1
    assert set(written.values()) == {1}
    assert len(written) == 5


@pytest.mark.parametrize("at", range(1, 4))
def test_a_landing_that_is_killed_half_way_is_told_by_its_retry(at):
    """The last partition's task dies after its note, or before its manifest: done again, the manifest is there."""
    bucket = Bucket()
    log = SimpleNamespace(info=lambda *said: None)
    address = JobAddress.of_task(f"{bucket.uri}/jobs", "dag", "run", "task", 0)
    PartitionSet(address, Partition(0, 2)).add(part_at("0/2", 1), log)
    last, puts = PartitionSet(address, Partition(1, 2)), []
    real = bucket.pipe_file

    def dying(path, value, mode="overwrite", **kwargs):
        puts.append(path)
        if len(puts) == at:
            raise KeyboardInterrupt
        real(path, value, mode, **kwargs)

    bucket.pipe_file = dying
    try:
        last.add(part_at("1/2", 1), log)
    except KeyboardInterrupt:
        bucket.pipe_file = real
        last.add(part_at("1/2", 1), log)
    assert manifest_at(f"{bucket.uri}/jobs/dag/run/task/manifest.json").partitions == 2
