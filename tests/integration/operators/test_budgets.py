"""Budgets that span jobs: reserved before anything is sent, settled when it is landed, and never exceeded."""

import csv
import io
import json
import multiprocessing
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from support.tasks import drive, operator

from airflow_llm_batch.alerts import Alerts
from airflow_llm_batch.chargeback import lines
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import BudgetExceeded, ConfigurationError, FirstRowsFailed
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money import ledger as ledger_module
from airflow_llm_batch.jobs.money.accounts import Account, accounts_of, budgets_of
from airflow_llm_batch.jobs.money.ledger import Ledger, folder_of
from airflow_llm_batch.models import Job
from airflow_llm_batch.operators import CompletionOperator, SubmitBatchOperator

NOW = datetime(2026, 11, 29, 23, 30, tzinfo=UTC)


@pytest.fixture
def storage(tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/storage"
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", uri)
    return uri


def sums(storage):
    """Spent and reserved of every account of this month, by name."""
    book = Ledger(storage)
    last = [book.last(folder) for folder in book.folders(datetime.now(UTC).strftime("%Y-%m"))]
    return {entry.value: (round(entry.sum_spent, 9), round(entry.sum_reserved, 9)) for entry in last}


def planned(storage, name):
    """A job that lies there, and no more."""
    store = JobStore(f"{storage}/dag/{name}/submit/-1")
    store.save_job(
        Job(
            id="00000000", fingerprint="", provider="openai", conn_id="c", created_at=NOW, rows=1, shards=(),
            dag_id="dag", run_id=name, task_id="submit",
        )
    )  # fmt: skip
    return store


ACCOUNT = Account("all", "all", "", "2026-11", 1.0)


def test_a_job_reserves_and_settles(connect, context, storage, tmp_path):
    """What it may cost at most while it runs, what it has cost once it is landed; the second landing books nothing."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0})
        request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=50)
        rows = [{"text": f"text {n}"} for n in range(10)]
        task = SubmitBatchOperator(task_id="submit", conn_id=conn_id, rows=rows, request=request)
        handle = task.execute(context)
        estimate = sum(e.cost_usd for e in JobStore(handle["job"]).job().estimate.values())
        assert sums(storage) == {conn_id: (0, round(estimate, 9))}
        # A retry of the task has it already.
        task.execute(context)
        assert sums(storage) == {conn_id: (0, round(estimate, 9))}
        from airflow_llm_batch.operators import FetchResultsOperator
        from airflow_llm_batch.sensors import BatchSensor

        waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)
        for _ in range(2):
            fetch = FetchResultsOperator(task_id="fetch", job=waited, destination=f"file://{tmp_path}/out")
            summary = fetch.execute(context)
            assert sums(storage) == {conn_id: (round(summary["cost_usd"], 9), 0)}
    assert 0 < summary["cost_usd"] < estimate


def test_a_refusal_names_the_budget_and_who_holds_it(connect, context, storage, tmp_path):
    """Nothing is sent; what runs is landed, and there is room again."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget=[{"month": 0.05, "by": "team"}])
        wanted = {"metadata": {"team": "search"}, "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=200)}
        # At most 200 rows of 200 tokens: $0.04.
        first = SubmitBatchOperator(
            task_id="submit", conn_id=conn_id, rows=[{"text": f"t {n}"} for n in range(200)], **wanted
        )
        first.execute(context)
        context["ti"].run_id += "-2"
        with pytest.raises(BudgetExceeded) as raised:
            drive(operator(conn_id, tmp_path, **wanted), context)
        message = str(raised.value)
        assert "team 'search'" in message
        assert "$0.050000" in message
        assert "dag.submit $0.04" in message
        assert "Nothing was sent" in message
        assert len(emulator.vendor.batches) == 1
        # Another team has its own.
        wanted["metadata"] = {"team": "ads"}
        drive(operator(conn_id, tmp_path, **wanted), context)
        assert len(emulator.vendor.batches) == 2
        # No team, no budget of one.
        context["ti"].run_id += "-3"
        wanted.pop("metadata")
        drive(operator(conn_id, tmp_path, **wanted), context)
        assert set(sums(storage)) == {"search", "ads"}


def test_what_was_not_sent_is_given_back(connect, context, storage, tmp_path, monkeypatch):
    """Rows that were tried first fail: what they have cost is spent, the rest is free again; and so for each retry."""
    with Emulator(duration=0, faults={"http": [{"on": "POST /v1/chat/completions", "status": 400, "times": 6}]}) as one:
        conn_id = connect(one.url, budget={"month": 1.0})
        task = operator(conn_id, tmp_path, check_first=2, max_cost=1.0)
        for _ in range(2):
            with pytest.raises(FirstRowsFailed):
                drive(task, context)
            assert sums(storage) == {conn_id: (0, 0)}
        one.vendor.settings.faults.http.clear()
        summary = drive(task, context)
        assert sums(storage) == {conn_id: (round(summary["cost_usd"], 9), 0)}


def test_one_of_several_models_that_is_refused_frees_the_others(connect, context, storage, tmp_path):
    """The second model's job has no room: nothing of the first is held either."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 0.015})
        with pytest.raises(BudgetExceeded):
            drive(operator(conn_id, tmp_path, models=["gpt-5-mini", "gpt-5"]), context)
        assert not emulator.vendor.batches
        assert sums(storage) == {conn_id: (0, 0)}


def test_the_online_lane_and_rounds_are_charged_too(connect, context, storage, tmp_path):
    with Emulator(duration=0, faults={"row_errors": 0.3, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0, "day": 1.0})
        total = drive(operator(conn_id, tmp_path), context)["cost_usd"]
        assert sums(storage) == {conn_id: (round(total, 9), 0)}
        context["ti"].run_id += "-2"
        task = CompletionOperator(
            task_id="ask", conn_id=conn_id, rows=[{"text": "a"}], destination=f"file://{tmp_path}/online",
            request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=20),
        )  # fmt: skip
        total += task.execute(context)["cost_usd"]
        assert sums(storage) == {conn_id: (round(total, 9), 0)}
    # The day's account is a book of its own.
    today = [Ledger(storage).last(f) for f in Ledger(storage).folders(datetime.now(UTC).strftime("%Y-%m-%d"))]
    assert [(round(entry.sum_spent, 9), entry.value) for entry in today] == [(round(total, 9), conn_id)]


def test_what_cannot_be_estimated_is_refused(connect, context, storage, tmp_path):
    """A budget that holds needs to know."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0})
        with pytest.raises(BudgetExceeded, match="max_tokens"):
            drive(operator(conn_id, tmp_path, request=ChatRequest("gpt-5-mini", user="{text}")), context)
        assert not emulator.vendor.batches


def test_a_dry_run_reserves_nothing(connect, context, storage, tmp_path):
    from airflow.providers.common.compat.sdk import AirflowSkipException

    context["ti"].xcom_push = lambda **_: None
    with Emulator(duration=0) as emulator, pytest.raises(AirflowSkipException):
        drive(operator(connect(emulator.url, budget={"month": 1.0}), tmp_path, dry_run=True), context)
    assert sums(storage) == {}


def race(storage, number, start, outcomes):
    store = JobStore(f"{storage}/dag/run-{number}/submit/-1")
    start.wait()
    try:
        balance = Ledger(storage).reserve(store, [ACCOUNT], 0.13)
        outcomes.put((number, round(balance[0].reserved, 9)))
    except BudgetExceeded:
        outcomes.put((number, None))


def test_twenty_processes_cannot_exceed_it(storage):
    """A dollar raced by twenty processes at once, thirteen cents each: seven win, whatever the order, and the book's
    sums are those of its entries."""
    for number in range(20):
        planned(storage, f"run-{number}")
    context = multiprocessing.get_context("fork")
    start, outcomes = context.Event(), context.Queue()
    processes = [context.Process(target=race, args=(storage, n, start, outcomes)) for n in range(20)]
    for process in processes:
        process.start()
    start.set()
    found = dict(outcomes.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    won = sorted(reserved for reserved in found.values() if reserved is not None)
    assert won == [round(0.13 * n, 9) for n in range(1, 8)]
    entries = list(Ledger(storage).entries(folder_of(ACCOUNT)))
    assert [entry.number for entry in entries] == list(range(1, 8))
    assert entries[-1].sum_reserved == pytest.approx(0.91)


@pytest.mark.parametrize("what", ["reserve", "settle"])
def test_a_booking_that_is_killed_anywhere_is_made_once(storage, monkeypatch, what):
    """Ended at every file that it writes, before and after, and done again: one entry, and the sums are right."""
    number = 0
    while True:
        store, book = planned(storage, f"{what}-{number}"), Ledger(storage)
        before = book.last(folder_of(ACCOUNT))
        if what == "settle":
            book.reserve(store, [ACCOUNT], 0.01)
        struck = strike(monkeypatch, number, lambda book=book, store=store: act(book, store, what))
        # Other jobs come in between.
        other = planned(storage, f"{what}-other-{number}")
        book.reserve(other, [ACCOUNT], 0.001)
        act(book, store, what)
        act(book, store, what) if what == "settle" else None
        entries = list(book.entries(folder_of(ACCOUNT)))
        mine = [(entry.kind, entry.reserved, entry.spent) for entry in entries if entry.job == store.uri]
        wanted = [("reserve", 0.01, 0.0)] + ([("settle", -0.01, 0.004)] if what == "settle" else [])
        assert mine == wanted, number
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        last = entries[-1]
        assert last.sum_reserved == pytest.approx(sum(entry.reserved for entry in entries))
        assert last.sum_spent == pytest.approx(sum(entry.spent for entry in entries))
        assert before is None or last.number > before.number
        if not struck:
            break
        number += 1
    assert number >= 4


def act(book, store, what):
    if what == "reserve":
        book.reserve(store, [ACCOUNT], 0.01)
    else:
        book.settle(store, 0.004)


class Killed(BaseException):
    pass


def strike(monkeypatch, at, do):
    """Whether the process was ended at a moment before or after one of the files that it writes."""
    seen = 0

    def around(write):
        def wrapped(*given):
            nonlocal seen
            for part in ("before", "after"):
                if seen == at:
                    raise Killed(part)
                seen += 1
                if part == "before":
                    value = write(*given)
            return value

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("create_exclusive", "write_whole"):
            patch.setattr(ledger_module, name, around(getattr(ledger_module, name)))
        try:
            do()
        except Killed:
            return True
    return False


def test_an_unknown_cost_counts_as_what_was_reserved(storage):
    store, book = planned(storage, "a"), Ledger(storage)
    book.reserve(store, [ACCOUNT], 0.25)
    book.settle(store, None)
    last = book.last(folder_of(ACCOUNT))
    assert (last.sum_spent, last.sum_reserved) == (0.25, 0.0)


def test_a_raised_budget_goes_on_in_the_same_book(storage):
    book = Ledger(storage)
    book.reserve(planned(storage, "a"), [ACCOUNT], 0.9)
    with pytest.raises(BudgetExceeded):
        book.reserve(planned(storage, "b"), [ACCOUNT], 0.2)
    [balance] = book.reserve(planned(storage, "c"), [ACCOUNT._replace(limit=2.0)], 0.2)
    assert (round(balance.reserved, 9), round(balance.left, 9)) == (1.1, 0.9)


SMALLER = {"month": 2, "by": "dag", "of": "nightly"}
LABELS = {"connection": ["openai"], "dag": ["nightly"], "tag": ["ml", "prod"], "team": ["search"]}


@pytest.mark.parametrize(
    ("own", "everybodys", "accounts"),
    [
        ({"month": 5}, None, [("connection 'openai'", "connection", "openai", "2026-11", 5)]),
        (None, {"month": 5, "day": 1}, [("all", "all", "", "2026-11", 5), ("all", "all", "", "2026-11-29", 1)]),
        ({"day": 1, "by": "team"}, None, [("connection 'openai'", "team", "search", "2026-11-29", 1)]),
        (None, {"day": 1, "by": "tag"}, [("all", "tag", t, "2026-11-29", 1) for t in ("ml", "prod")]),
        (None, {"month": 1, "by": "dag", "of": "other"}, []),
        (None, [{"month": 9, "by": "dag"}, SMALLER], [("all", "dag", "nightly", "2026-11", 2)]),
        ({"month": 1, "by": "cost_center"}, None, []),
    ],
)  # fmt: skip
def test_which_accounts_a_job_has(own, everybodys, accounts):
    """By the connection, everything, a DAG, its tags, a metadata key; of two for the same the smaller one."""
    found = accounts_of(budgets_of(own, "x"), budgets_of(everybodys, "y"), LABELS, NOW)
    assert [tuple(account) for account in found] == accounts


@pytest.mark.parametrize(
    "given", [{"by": "team"}, {"month": "much"}, {"month": -1}, {"week": 5}, [{"month": 1}, 5], "1000", 5]
)
def test_what_is_no_budget_is_refused(connect, context, storage, tmp_path, given):
    """Before anything is sent; and the configuration's likewise."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget=given)
        with pytest.raises(ConfigurationError, match="budget"):
            drive(operator(conn_id, tmp_path), context)
        assert not emulator.vendor.batches


def test_everybodys_budget_is_read_from_the_configuration(connect, context, storage, tmp_path, monkeypatch):
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        monkeypatch.setenv("AIRFLOW__LLM_BATCH__BUDGET", json.dumps([{"month": 0.0001}]))
        with pytest.raises(BudgetExceeded, match="everything, 20"):
            drive(operator(conn_id, tmp_path), context)
        monkeypatch.setenv("AIRFLOW__LLM_BATCH__BUDGET", "{month")
        with pytest.raises(ConfigurationError, match=r"\[llm_batch\] budget is no JSON"):
            drive(operator(conn_id, tmp_path), context)


def test_tags_come_from_the_dag(connect, context, storage, tmp_path):
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1, "by": "tag"})
        drive(operator(conn_id, tmp_path), {**context, "dag": SimpleNamespace(tags={"ml", "prod"})})
    assert set(sums(storage)) == {"ml", "prod"}


def test_eighty_percent_are_told_once(connect, context, storage, tmp_path):
    """The reservation that takes the budget across the line tells, and none after it."""
    sent = []
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 0.1})
        alerts = Alerts(notify=lambda context: sent.append(context["llm_batch"]), budget=0.0001, failing=None)
        for number in range(3):
            context["ti"].run_id = f"run-{number}"
            drive(operator(conn_id, tmp_path, alerts=alerts, destination=f"file://{tmp_path}/{number}"), context)
    assert [alert["alert"] for alert in sent] == ["budget"]
    assert "of the budget of $0.100000" in sent[0]["message"]


def test_a_month_as_csv(connect, context, storage, tmp_path):
    """Each job once, with what it has spent: by the function, and by the command."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0})
        costs = []
        for number in range(2):
            context["ti"].run_id = f"run-{number}"
            summary = drive(operator(conn_id, tmp_path, destination=f"file://{tmp_path}/{number}"), context)
            costs.append(round(summary["cost_usd"], 9))
    month = datetime.now(UTC).strftime("%Y-%m")
    bill = list(lines(storage, month))
    assert [line["spent_usd"] for line in bill] == costs
    command = [sys.executable, "-m", "airflow_llm_batch.chargeback", month, "--storage", storage]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = list(csv.DictReader(io.StringIO(done.stdout[done.stdout.index("period,") :])))
    assert [(line["run_id"], float(line["spent_usd"]), float(line["reserved_usd"])) for line in found] == [
        ("run-0", costs[0], 0.0),
        ("run-1", costs[1], 0.0),
    ]
