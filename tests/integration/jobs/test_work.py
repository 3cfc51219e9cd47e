"""What a row costs, counted in calls of functions: what is done once per job, shard or chunk is not done per row."""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from support import MODELS

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, SubmitBatchOperator

FEW, MANY = 60, 260
#: calls of our own functions that a further row may cost; a change that adds one says why: rows are counted by a
#: tokenizer or by their kind of text, what caches saved is summed up, a call has a lane, and rows that ask the same are
#: counted
SUBMITTED, FETCHED, CALLED = 29, 25, 169
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def counted(action):
    """Calls of Python functions in this thread, by file and name; the resumption of a generator is one."""
    calls: Counter[str] = Counter()

    def look(frame, event, arg):
        if event == "call":
            calls[f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"] += 1

    sys.setprofile(look)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


class Costs:
    """Calls of functions that each further row takes.

    :param work: an action of so many rows; done once with few of them, so that what happens once has happened.
    """

    def __init__(self, work):
        work(3)
        few, many = counted(lambda: work(FEW)), counted(lambda: work(MANY))
        self.calls = {name: (many[name] - few[name]) / (MANY - FEW) for name in many}

    def of(self, *ends):
        """By how a function's file and name end, all of them together."""
        return sum(calls for name, calls in self.calls.items() if name.endswith(ends))

    @property
    def ours(self):
        return sum(calls for name, calls in self.calls.items() if "/airflow_llm_batch/" in name)


@pytest.fixture
def task(emulator, connect, provider, tmp_path):
    """What all tasks of these tests are given, and contexts of their runs."""
    options = {"conn_id": connect(emulator.url, provider), "key": "id", "storage": f"file://{tmp_path}/jobs"}

    def rows(count):
        return {**options, "rows": [{"id": n, "text": f"text {n}"} for n in range(count)]}

    def context(task_id, count):
        return {"ti": SimpleNamespace(dag_id="dag", run_id=f"run-{count}", task_id=task_id, map_index=-1)}

    return SimpleNamespace(rows=rows, context=context)


def test_a_row_of_a_batch_is_encoded_once_and_its_answer_read_once(task, provider, tmp_path):
    """Keys and the vendor's secrets are looked for in many lines at once; nothing is parsed twice."""
    jobs = {}
    request = ChatRequest(MODELS[provider], user="{text}", max_tokens=50, output=SCHEMA)

    def submit(count):
        carried = {"input": "text"}
        made = SubmitBatchOperator(task_id="submit", request=request, passthrough=carried, **task.rows(count))
        jobs[count] = made.execute(task.context("submit", count))

    def fetch(count):
        made = FetchResultsOperator(task_id="fetch", job=jobs[count], destination=f"file://{tmp_path}/out-{count}")
        assert made.execute(task.context("fetch", count))["counts"]["succeeded"] == count

    costs = Costs(submit)
    assert costs.of("encode_between.<locals>.encode") == 1
    assert costs.of("encode_whole.<locals>.encode", ".translate", ":ChatRequest.compile") == 0
    assert costs.ours <= SUBMITTED
    costs = Costs(fetch)
    assert costs.of(":read_frequent") == costs.of(":OutputCheck.__call__") == costs.of(":Prices.cost") == 1
    assert costs.of(":parse_line", ":read_line", ":Transport.clean_line", ":Redactor.text", ":Redactor.is_in") < 0.1
    assert costs.ours <= FETCHED


def test_a_call_costs_one_request_and_one_look_at_the_claim(task, provider, tmp_path):
    """No path and no connection is made for it, its address is known, and its answer is made a response once."""
    request = ChatRequest(MODELS[provider], user="{text}", max_tokens=50)

    def call(count):
        made = CompletionOperator(
            task_id="call", request=request, concurrency=4, destination=f"file://{tmp_path}/{count}", **task.rows(count)
        )
        assert made.execute(task.context("call", count))["counts"]["succeeded"] == count

    costs = Costs(call)
    assert (
        costs.of("httpcore/_models.py:Request.__init__")
        == costs.of("httpx/_models.py:Response.__init__")
        == costs.of(":Journal.add")
        == 1
    )
    # Each worker looks once more, when nothing is left: that is no row's.
    assert costs.of(":Claim.holds") == costs.of(":read_small") == 1
    assert costs.of(":connect_tcp", ".joinpath", "httpx/_models.py:Request.__init__") == 0
    assert costs.of(":urlparse") <= (1 if provider == "gemini" else 0)
    assert costs.of(":read_frequent") == 1
    # What watches beside the calls goes by the clock: parts of a call of a function.
    assert int(costs.ours) <= CALLED
