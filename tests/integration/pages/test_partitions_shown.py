"""The listing's line of a partitioned task: sums of its jobs, which it opens to."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from support.tasks import drive, operator

from airflow_llm_batch.data import ChatRequest, partitions
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import BudgetExceeded
from airflow_llm_batch.operators import SubmitBatchOperator

pytestmark = pytest.mark.usefixtures("airflow_db")
REQUEST = ChatRequest("gpt-5-mini", user="{text}", max_tokens=50)


def ti(index, task_id="submit"):
    return {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id=task_id, map_index=index)}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": f"k{n}", "text": f"text {n}"}) + "\n" for n in range(100)))
    return str(path)


def test_a_partitioned_task_is_one_line(site, connect, storage, rows, tmp_path):
    """Some landed and one running: one line with their sums, and each of them below it; other jobs stay as they are."""
    with Emulator(duration=0, faults={"row_errors": 0.2}) as emulator:
        conn_id = connect(emulator.url)
        SubmitBatchOperator(
            task_id="alone", conn_id=conn_id, storage=storage, rows=[{"text": "a"}], request=REQUEST
        ).execute(ti(-1, "alone"))
        for index, partition in enumerate(partitions(4)[:2]):
            given = {"partition": partition, "rows": rows, "storage": storage, "max_rounds": 1, "fail_on": "none"}
            drive(operator(conn_id, tmp_path, **given), ti(index))
        [line, _] = site.get("jobs")["jobs"]
        assert (line["state"], line["partitions"], line["planned"], line["landed"]) == ("with_failures", 4, 2, 2)
        assert line["words"] == "2 with failures; 2 of 4 have no job"
        emulator.vendor.settings.duration = 60
        SubmitBatchOperator(
            task_id="submit", conn_id=conn_id, storage=storage, partition="2/4", rows=rows, request=REQUEST, key="id"
        ).execute(ti(2))
        page = site.get("jobs")
        assert (page["found"], page["active"]) == (2, 2)
        [line, alone] = page["jobs"]
        assert (alone["task_id"], "partitions" in alone) == ("alone", False)
        parts = site.get("jobs", dag_id="dag", run_id="run", task_id="submit", partitions=True)["jobs"]
        assert [part["partition"] for part in parts] == ["0/4", "1/4", "2/4"]
        assert [part["map_index"] for part in parts] == ["0", "1", "2"]
        assert (line["state"], line["map_index"], line["words"]) == (
            "running", "partitions-4", "1 running, 2 with failures; 1 of 4 have no job",
        )  # fmt: skip
        for name in ("rows", "done", "failed", "shards", "requests", "tokens"):
            assert line[name] == sum(part[name] for part in parts), name
        assert line["cost_usd"] == pytest.approx(sum(part["cost_usd"] or 0 for part in parts))
        assert line["committed_usd"] == pytest.approx(sum(part["committed_usd"] for part in parts))
        assert line["landed_at"] is None
        assert line["failed"] > 0


def test_filters_find_a_set_by_any_of_its_partitions(site, connect, storage, rows, tmp_path):
    """A state that one partition is in shows the whole line; a page of lines counts lines."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for task_id in ("first", "second"):
            for index, partition in enumerate(partitions(3)):
                emulator.vendor.settings.duration = 60 if (task_id, index) == ("second", 1) else 0
                SubmitBatchOperator(
                    task_id=task_id, conn_id=conn_id, storage=storage, partition=partition, rows=rows, request=REQUEST
                ).execute(ti(index, task_id))
        assert [line["task_id"] for line in site.get("jobs")["jobs"]] == ["second", "first"]
        assert site.get("jobs", limit=1)["found"] == 2
        assert [line["rows"] for line in site.get("jobs", limit=1, offset=1)["jobs"]] == [100]
        [line] = site.get("jobs", q="second")["jobs"]
        assert (line["partitions"], line["rows"]) == (3, 100)
        assert site.get("jobs", state="landed")["jobs"] == []
        assert site.get("jobs", run_id="run")["found"] == 2


def test_what_a_budget_has_refused_says_so(site, connect, storage, rows):
    """The refusal is on the line, the partition and its page, and gone when the task is cleared with more to spend."""
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url)

        def submit(partition, max_cost):
            task = SubmitBatchOperator(
                task_id="submit", conn_id=conn_id, storage=storage, partition=partition, rows=rows, request=REQUEST,
                max_cost=max_cost,
            )  # fmt: skip
            return task.execute(ti(int(partition[0])))

        submit("0/3", 1)
        for number in (1, 2):
            with pytest.raises(BudgetExceeded):
                submit(f"{number}/3", 0.0001)
        [line] = site.get("jobs")["jobs"]
        assert (line["state"], line["words"]) == ("running", "1 running, 2 over budget")
        running, refused = line["states"]
        assert (running["state"], running["partitions"], running["refusal"]) == ("running", 1, "")
        assert (refused["state"], refused["partitions"], refused["landed"]) == ("over_budget", 2, 0)
        assert running["rows"] + refused["rows"] == line["rows"] == 100
        assert "above max_cost=$0.000100. Raise max_cost" in refused["refusal"]
        assert line["committed_usd"] == running["estimated_cost_usd"]
        page = site.get("job/dag/run/submit/1")
        assert (page["state"], page["words"]) == ("over_budget", "over budget, nothing sent")
        assert page["refusal"] == refused["refusal"]
        found = site.get("jobs", dag_id="dag", run_id="run", state="over_budget", partitions=True)["jobs"]
        assert [part["partition"] for part in found] == ["1/3", "2/3"]
        submit("1/3", 1)
        [line] = site.get("jobs")["jobs"]
        assert line["words"] == "2 running, 1 over budget"
        assert site.get("job/dag/run/submit/1")["refusal"] == ""
