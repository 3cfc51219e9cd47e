"""Budgets and rows tried first where tries of a task get into each other's way, and where jobs end early."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from support.tasks import drive, operator

from airflow_llm_batch.alerts import Alerts
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import (
    BudgetExceeded,
    Busy,
    ConfigurationError,
    FirstRowsFailed,
    InputError,
    LLMBatchError,
    WaitEnded,
)
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.claims import Claim
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money.accounts import Account
from airflow_llm_batch.jobs.money.ledger import Ledger, folder_of
from airflow_llm_batch.jobs.online import flex, online, trial
from airflow_llm_batch.jobs.options import Origin
from airflow_llm_batch.models import Job
from airflow_llm_batch.operators import (
    CleanupJobsOperator,
    CompletionOperator,
    FetchResultsOperator,
    SubmitBatchOperator,
)
from airflow_llm_batch.sensors import BatchSensor

CALL = "POST /v1/chat/completions"
REQUEST = ChatRequest("gpt-5-mini", user="{text}", max_tokens=50)


@pytest.fixture(autouse=True)
def storage(tmp_path, monkeypatch):
    uri = f"file://{tmp_path}/storage"
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", uri)
    return uri


def rows(count):
    return [{"id": f"k{n}", "text": f"text {n}"} for n in range(count)]


def sums(storage):
    """Spent and reserved of the month, all accounts together."""
    book = Ledger(storage)
    last = [book.last(folder) for folder in book.folders(datetime.now(UTC).strftime("%Y-%m"))]
    return round(sum(e.sum_spent for e in last), 9), round(sum(e.sum_reserved for e in last), 9)


def submitting(conn_id, count=10, **arguments):
    given = {"rows": rows(count), "key": "id", "request": REQUEST, **arguments}
    return SubmitBatchOperator(task_id="submit", conn_id=conn_id, **given)


def fetch(context, tmp_path, handle):
    waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02).execute(context)
    task = FetchResultsOperator(task_id="fetch", job=waited, destination=f"file://{tmp_path}/out", fail_on="none")
    return task.execute(context)


def calls(emulator):
    return emulator.vendor.calls[CALL], len(emulator.vendor.batches)


def test_another_try_frees_nothing(connect, context, storage, tmp_path):
    """One try calls its first rows, the next finds it at work: what is reserved stays, and the landing is booked."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0}, lapse_seconds=2)
        first = submitting(conn_id, check_first=2)
        run = first.run_of(context, conn_id)
        run.plan(first._rows(first.rows, first.request, None))
        run.reserve()
        held = sums(storage)
        with Claim.of(run.store, "calls", run.hook.options), pytest.raises(Busy):
            submitting(conn_id, check_first=2).execute(context)
        assert sums(storage) == held
        run.submit()
        handle = {"job": run.store.uri, "conn_id": conn_id, "batches": []}
        cost = fetch(context, tmp_path, handle)["cost_usd"]
        assert sums(storage) == (round(cost, 9), 0)


def test_what_was_given_back_too_early_is_booked_by_the_landing(connect, context, storage, tmp_path):
    """A try that failed has given back while another one sent the job."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0})
        task = submitting(conn_id)
        run = task.run_of(context, conn_id)
        run.plan(task._rows(task.rows, task.request, None))
        run.reserve()
        run.give_back()
        assert sums(storage) == (0, 0)
        run.submit()
        for _ in range(2):
            cost = fetch(context, tmp_path, {"job": run.store.uri, "conn_id": conn_id, "batches": []})["cost_usd"]
            assert sums(storage) == (round(cost, 9), 0)


def test_rows_are_not_called_again_after_their_landing(connect, context, tmp_path, monkeypatch):
    """A row that was tried in vain is answered by the second round; a retry of the task calls nobody."""
    monkeypatch.setattr(trial, "AT_ONCE", 1)
    faults = {"http": [{"on": CALL, "cut": "before", "times": 4, "skip": 2}]}
    with Emulator(duration=0, faults=faults) as emulator:
        task = operator(connect(emulator.url, retries=1), tmp_path, rows=rows(10), passthrough=None, check_first=3)
        drive(task, context)
        before = calls(emulator)
        assert drive(task, context)["counts"]["succeeded"] == 10
        assert calls(emulator) == before


@pytest.mark.parametrize("value", ["team-a", "debt-settlement", "1-settle", "more-reserve"])
def test_any_name_is_settled(storage, value):
    store = JobStore(f"{storage}/dag/run/submit/-1")
    store.save_job(
        Job(
            id="0", fingerprint="", provider="openai", conn_id="c", created_at=datetime.now(UTC), rows=1, shards=(),
            dag_id="dag", run_id="run", task_id="submit",
        )
    )  # fmt: skip
    account, book = Account("all", "team", value, "2026-11", 1.0), Ledger(storage)
    book.reserve(store, [account], 0.4)
    book.settle(store, 0.1)
    last = book.last(folder_of(account))
    assert (last.sum_spent, last.sum_reserved) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("extra", "arguments", "error"),
    [
        ({"limits": {"minimum": 100}}, {"rows": rows(7)}, InputError),
        ({"batch": False}, {}, ConfigurationError),
        ({"budget": {"month": float("inf")}}, {}, ConfigurationError),
        ({"budget": {"day": float("nan")}}, {}, ConfigurationError),
        ({}, {"models": ["gpt-5-mini", "gpt-5"], "max_cost": 0.015}, BudgetExceeded),
    ],
    ids=["too few for a batch", "no batches", "no end", "no number", "the second model is too dear"],
)
def test_what_is_refused_holds_nothing(connect, context, storage, tmp_path, extra, arguments, error):
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, **{"budget": {"month": 10.0}, **extra})
        with pytest.raises(error):
            drive(operator(conn_id, tmp_path, passthrough=None, **arguments), context)
        assert not emulator.vendor.batches
    assert sums(storage) == (0, 0)


def test_a_repair_that_is_too_small_holds_nothing(connect, context, storage, tmp_path):
    with Emulator(duration=0, faults={"row_errors": 0.1, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0}, limits={"minimum": 100})
        task = operator(conn_id, tmp_path, rows=rows(200), passthrough=None, fail_on="none")
        cost = drive(task, context)["cost_usd"]
    assert sums(storage) == (round(cost, 9), 0)


def test_a_job_that_is_replaced_is_settled(connect, context, storage, tmp_path):
    """The rows change after the job was sent: what it held counts as spent, for it may be billed."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 10})
        submitting(conn_id, 10).execute(context)
        held = sums(storage)[1]
        cost = fetch(context, tmp_path, submitting(conn_id, 11).execute(context))["cost_usd"]
    assert sums(storage) == (round(held + cost, 9), 0)


def test_a_plan_that_is_cut_anew_is_held_once(connect, context, storage):
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, budget={"month": 10})
        task = submitting(conn_id, 100)
        run = task.run_of(context, conn_id)
        task.plan(run, task.rows, task.request)
        task.hold_to_budget(context, run)
        held = sums(storage)
        submitting(conn_id, 100, max_enqueued_tokens=500).execute(context)
    assert sums(storage) == held


def test_cleaning_up_settles(connect, context, storage):
    """The directory of a job that was never landed goes, and what it held counts as spent."""
    with Emulator(duration=0) as emulator:
        submitting(connect(emulator.url, budget={"month": 10})).execute(context)
        held = sums(storage)[1]
        CleanupJobsOperator(task_id="clean", older_than=0, unlanded=True).execute(context)
    assert sums(storage) == (held, 0)


def test_a_budget_that_is_gone_for_a_while_is_settled(connect, context, storage, tmp_path):
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 10})
        handle = submitting(conn_id).execute(context)
        connect(emulator.url)
        cost = fetch(context, tmp_path, handle)["cost_usd"]
    assert sums(storage) == (round(cost, 9), 0)


def test_what_was_tried_is_booked_once(connect, context, storage, tmp_path, monkeypatch):
    """Refused three times after trying, for the budget's sake: the answers are kept, and count when they are landed."""

    def refuse(*_):
        raise BudgetExceeded("more than max_cost")

    with Emulator(duration=0) as emulator:
        task = operator(connect(emulator.url, budget={"month": 1.0}), tmp_path, check_first=20, max_cost=1)
        with monkeypatch.context() as patch:
            patch.setattr("airflow_llm_batch.jobs.run.check_again", refuse)
            for _ in range(3):
                with pytest.raises(BudgetExceeded):
                    drive(task, context)
        assert calls(emulator) == (20, 0)
        cost = drive(task, context)["cost_usd"]
    assert sums(storage) == (round(cost, 9), 0)


def test_what_an_earlier_trial_cost_is_not_booked_again(connect, context, storage, tmp_path):
    """Other refusals after a failed trial book nothing."""
    with Emulator(duration=0, faults={"http": [{"on": CALL, "status": 400, "times": 1}]}) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0})
        with pytest.raises(FirstRowsFailed):
            drive(operator(conn_id, tmp_path, check_first=2), context)
        spent, held = sums(storage)
        assert held == 0
    with Emulator(duration=0, api_key="another") as emulator:
        connect(emulator.url, budget={"month": 1.0})
        for _ in range(2):
            with pytest.raises(LLMBatchError):
                drive(operator(conn_id, tmp_path, check_first=2), context)
    assert sums(storage) == (spent, 0)


def test_flex_that_may_fall_back_reserves_the_full_price(connect, context, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(flex, "PATIENCE", 0.2)
    with Emulator(duration=0, faults={"flex": {"full": 10**9, "retry_after": "0.05"}}) as emulator:
        conn_id = connect(emulator.url, budget={"month": 10})
        task = CompletionOperator(
            task_id="submit", conn_id=conn_id, rows=rows(30), key="id", lane="auto", request=REQUEST,
            destination=f"file://{tmp_path}/out",
        )  # fmt: skip
        summary = task.execute(context)
    store = JobStore(summary["manifest"].removesuffix("/manifest.json"))
    entries = list(Ledger(storage).entries(Ledger(storage).folders(datetime.now(UTC).strftime("%Y-%m"))[0]))
    assert entries[0].reserved == pytest.approx(store.job().estimate["gpt-5-mini"].sync_cost_usd)
    assert entries[0].reserved >= summary["cost_usd"]


def test_a_lane_that_costs_more_reserves_the_rest(connect, context, storage, tmp_path):
    """Reserved as a batch, killed before anything was sent, and called row by row after all."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url, budget={"month": 1.0})
        held = []
        for lane in ("batch", "online"):
            task = CompletionOperator(
                task_id="submit", conn_id=conn_id, rows=rows(10), key="id", lane=lane, request=REQUEST, check_first=0,
                destination=f"file://{tmp_path}/out",
            )  # fmt: skip
            [run] = task.planned_runs(context)
            task.hold_to_budget(context, run, 0, lane)
            held.append(sums(storage)[1])
            task.close()
        assert held[1] == pytest.approx(2 * held[0])
        cost = task.execute(context)["cost_usd"]
    assert sums(storage) == (round(cost, 9), 0)


def test_metadata_does_not_hide_a_tag(connect, context):
    task = submitting(connect("http://127.0.0.1:9"), metadata={"tag": "x"})
    assert task.labels({**context, "dag": SimpleNamespace(tags={"costly"})})["tag"] == ["costly"]


def test_one_reservation_is_one_alert(connect, context):
    sent = []
    faults = {"http": [{"on": "POST /v1/files", "status": 400, "times": 100}]}
    with Emulator(duration=0, faults=faults) as emulator:
        conn_id = connect(emulator.url, budget={"month": 0.0006})
        alerts = Alerts(notify=lambda context: sent.append(context["llm_batch"]["alert"]))
        task = submitting(conn_id, alerts=alerts)
        run = task.run_of(context, conn_id)
        task.plan(run, task.rows, task.request)
        for _ in range(3):
            task.hold_to_budget(context, run)
    assert sent == ["budget"]


@pytest.mark.parametrize("first", ["auto", 3])
def test_trying_makes_no_batch_too_small(connect, context, first):
    """A vendor that takes no batch of fewer than a hundred rows, and a model with just so many; and large rows."""
    lines = [
        {
            "custom_id": f"{model}-{n}", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
        }
        for model, count in (("gpt-4o-mini", 100), ("gpt-5-mini", 900)) for n in range(count)
    ]  # fmt: skip
    with Emulator(duration=60) as emulator:
        conn_id = connect(emulator.url, limits={"minimum": 100})
        SubmitBatchOperator(task_id="submit", conn_id=conn_id, rows=lines, check_first=first).execute(context)
        assert sorted(batch.total for batch in emulator.vendor.batches.values()) == [100, 900]
        context["ti"].run_id += "-2"
        large = [{"id": n, "text": "x" * 100_000} for n in range(100)]
        submitting(conn_id, rows=large, check_first=first).execute(context)
        assert [batch.total for batch in emulator.vendor.batches.values()][-1] == 100


def test_killed_while_trying_and_then_told_not_to(connect, context, tmp_path, monkeypatch):
    """The calls that were begun are brought to their end, and the job with them."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        with monkeypatch.context() as patch:
            patch.setattr(online.Online, "call", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                submitting(conn_id, check_first=2).execute(context)
        handle = submitting(conn_id, check_first=0).execute(context)
        assert fetch(context, tmp_path, handle)["counts"]["succeeded"] == 10


def test_given_back_rows_are_a_batch_like_any_other(connect, context):
    """With room for one batch at a time: the job is begun, no completion is told of half of it, and it is not cleaned
    up."""
    from airflow.sdk.execution_time.context import OutletEventAccessors

    faults = {"http": [{"on": CALL, "times": 10_000, "status": 503}]}
    with Emulator(duration=60, faults=faults) as emulator:
        conn_id = connect(emulator.url, retries=1, max_running_shards=1)
        handle = submitting(conn_id, check_first=2).execute(context)
        store = JobStore(handle["job"])
        assert history.is_begun(store, store.job())
        removed = CleanupJobsOperator(task_id="clean", older_than=0, dry_run=True).execute(context)
        assert removed["removed"] == []
        context["ti"].run_id += "-2"
        context["outlet_events"] = OutletEventAccessors()
        with pytest.raises(TaskDeferred):
            submitting(conn_id, check_first=2, completion="asset").execute(context)


def test_a_sensor_sends_nothing_that_was_refused(connect, context, monkeypatch):
    """A job that its task has refused after trying it is not created by whoever waits for its directory."""

    def refuse(*_):
        raise BudgetExceeded("more than max_cost")

    monkeypatch.setattr("airflow_llm_batch.jobs.run.check_again", refuse)
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        with pytest.raises(BudgetExceeded):
            submitting(conn_id, check_first=2, max_cost=1).execute(context)
        uri = Origin.of(context["ti"]).address(None).uri
        with pytest.raises(WaitEnded, match="Nothing of the job"):
            BatchSensor(task_id="wait", job=uri, deferrable=False, poke_interval=0.02, timeout=10).execute(context)
        assert calls(emulator) == (2, 0)


def test_a_damaged_earlier_job_stops_no_wait(connect, context):
    """Alerts look at what earlier jobs took; one that cannot be read is passed over."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for number in range(2):
            context["ti"].run_id = f"run-{number}"
            handle = submitting(conn_id).execute(context)
        JobStore(handle["job"].replace("run-1", "run-0")).path("manifest.json").write_text('{"job":')
        alerts = Alerts(notify=[print])
        task = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.02, alerts=alerts)
        assert task.execute(context)["job"] == handle["job"]
        assert alerts.late_after(JobStore(handle["job"])) is None


def test_each_reason_for_more_is_booked(storage):
    """A job whose prompts turn out longer, and whose deadline is kept by calls: both are reserved, each once."""
    store = JobStore(f"{storage}/dag/run/submit/-1")
    store.save_job(
        Job(
            id="0", fingerprint="", provider="openai", conn_id="c", created_at=datetime.now(UTC), rows=1, shards=(),
            dag_id="dag", run_id="run", task_id="submit",
        )
    )  # fmt: skip
    account, book = Account("all", "all", "", "2026-11", 1.0), Ledger(storage)
    book.reserve(store, [account], 0.1)
    for _ in range(2):
        book.more(store, 0.2, "tried")
        book.more(store, 0.4, "late")
    assert book.last(folder_of(account)).sum_reserved == pytest.approx(0.7)
    book.settle(store, 0.3, landed=True)
    last = book.last(folder_of(account))
    assert (last.sum_spent, round(last.sum_reserved, 9)) == (0.3, 0.0)
