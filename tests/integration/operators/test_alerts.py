"""Who is told of a job, and when."""

import pytest
from airflow.sdk.bases.notifier import BaseNotifier
from support.tasks import drive, operator

from airflow_llm_batch.alerts import Alerts
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, ResultsUnusable
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

SENT = []


class Chat(BaseNotifier):
    """A notifier as Airflow's providers write them: its text is a template."""

    template_fields = ("text",)

    def __init__(self, text="{{ llm_batch.alert }}: {{ llm_batch.message }} {{ llm_batch.job }}"):
        super().__init__()
        self.text = text

    def notify(self, context):
        SENT.append(self.text)


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    SENT.clear()
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", f"file://{tmp_path}/storage")


def run(context, tmp_path, url_connection, rows=4, *, alerts, wait=None, **fetch):
    handle = SubmitBatchOperator(
        task_id="submit",
        conn_id=url_connection,
        rows=[{"text": f"text {n}"} for n in range(rows)],
        request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=50),
    ).execute(context)
    waited = drive(BatchSensor(task_id="wait", job=handle, poll_interval=0.05, **(wait or {})), context)
    task = FetchResultsOperator(
        task_id="fetch", job=waited, destination=f"file://{tmp_path}/out", alerts=alerts, **fetch
    )
    return task.execute(context)


def test_a_landing_is_told_in_the_notifiers_own_words(connect, context, tmp_path):
    """Airflow's own notifier, whose fields are templates: each alert has its own text."""
    with Emulator(duration=0, faults={"row_errors": 0.5}) as emulator:
        alerts = Alerts(notify=Chat(), landed=True, failing=0.2)
        summary = run(context, tmp_path, connect(emulator.url), 40, alerts=alerts, fail_on="none")
    first, second = SENT
    assert first.startswith(f"landed: {summary['message']}")
    assert "/storage/dag/" in first
    failed = 40 - summary["counts"]["succeeded"]
    assert second.startswith(f"failing: {failed} of 40 rows did not succeed")


def test_a_task_that_fails_for_its_rows_tells_first(connect, context, tmp_path):
    """``fail_on`` raises after the alert was sent."""
    with Emulator(duration=0, faults={"row_errors": 1.0}) as emulator, pytest.raises(ResultsUnusable):
        run(context, tmp_path, connect(emulator.url), 4, alerts=Alerts(notify=[Chat()]), fail_on="any")
    assert [text.partition(":")[0] for text in SENT] == ["failing"]


def test_no_news_is_good_news(connect, context, tmp_path):
    """Every row succeeded, cheaply and in time: nobody is told."""
    with Emulator(duration=0) as emulator:
        run(context, tmp_path, connect(emulator.url), alerts=Alerts(notify=[Chat()]))
    assert SENT == []


def test_most_of_the_money_is_told(connect, context, tmp_path):
    """The landing cost 80 % of ``max_cost`` or more."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        cost = drive(operator(conn_id, tmp_path), context)["cost_usd"]
        context["ti"].run_id += "-2"
        task = operator(conn_id, tmp_path, max_cost=10.0, alerts=Alerts(notify=Chat(), budget=cost / 10 * 0.99))
        drive(task, context)
        assert [text.partition(":")[0] for text in SENT] == ["budget"]
        assert "of max_cost=$10.00 are spent" in SENT[0]
        context["ti"].run_id += "-3"
        drive(operator(conn_id, tmp_path, max_cost=10.0, alerts=Alerts(notify=Chat())), context)
    assert len(SENT) == 1


def test_an_alert_that_cannot_be_sent_stops_nothing(connect, context, tmp_path):
    """The next notifier is asked all the same."""
    with Emulator(duration=0) as emulator:
        alerts = Alerts(notify=[lambda _: 1 / 0, Chat("{{ llm_batch.summary.rows }}")], landed=True)
        assert run(context, tmp_path, connect(emulator.url), alerts=alerts)["rows"] == 4
    assert SENT == ["4"]


@pytest.mark.parametrize("kind", ["sensor", "poked", "one task"])
def test_a_late_job_is_told_once_and_waited_for(connect, context, tmp_path, kind):
    """Three quick runs, then one that takes thirty times as long: told by the deferred wait, the poking one and the
    operator that does everything, which go on waiting; two runs are too few to tell."""
    alerts = Alerts(notify=Chat(), late=2.0)
    wait = {"alerts": alerts} if kind != "poked" else {"alerts": alerts, "deferrable": False, "poke_interval": 0.05}
    base = context["ti"].run_id
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for number in range(5):
            emulator.vendor.settings.duration = {2: 1.5, 4: 3.0}.get(number, 0.05)
            context["ti"].run_id = f"scheduled__2026-01-0{number}-{base}"
            if kind == "one task":
                drive(operator(conn_id, tmp_path, alerts=alerts), context)
            else:
                summary = run(context, tmp_path, conn_id, alerts=None, wait=wait)
                assert summary["counts"]["succeeded"] == 4
            # The third takes long as well, and two are too few to tell.
            assert len(SENT) == (1 if number == 4 else 0)
    assert SENT[0].startswith("late: Job ")
    assert "has not ended" in SENT[0]


def test_the_usual_time_is_the_same_tasks(tmp_path, connect, context):
    """Jobs of other tasks, DAGs and map indexes tell nothing."""
    with Emulator(duration=0) as emulator:
        conn_id = connect(emulator.url)
        for number in range(4):
            context["ti"].run_id = f"manual__{number}"
            context["ti"].task_id = "submit" if number < 3 else "other"
            run(context, tmp_path, conn_id, alerts=None)
    store = JobStore(f"file://{tmp_path}/storage/dag/manual__9/submit/-1")
    assert len([job for job in history.earlier_jobs(store) if job.load_job()]) == 3
    assert history.usual_seconds(store) > 0
    for other in ("dag/manual__9/other/-1", "dag/manual__9/submit/0", "dag2/manual__9/submit/-1"):
        assert history.usual_seconds(JobStore(f"file://{tmp_path}/storage/{other}")) is None


@pytest.mark.parametrize("wrong", [{"failing": -1}, {"late": "soon"}, {"budget": 0}, {"notify": ["#channel"]}])
def test_what_cannot_be_meant_is_refused_when_the_dag_is_read(wrong):
    with pytest.raises(ConfigurationError, match=r"Alerts\."):
        Alerts(**wrong)
    with pytest.raises(ConfigurationError, match="alerts is"):
        FetchResultsOperator(task_id="fetch", job="x", destination="file:///x", alerts=[Chat()])
