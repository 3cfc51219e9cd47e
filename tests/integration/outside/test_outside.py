"""Jobs outside of a task, by the function and by the command line, on the emulator over HTTP."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import ROOT, SECRET

import airflow_llm_batch
from airflow_llm_batch.console.cli import INTERRUPTED, main
from airflow_llm_batch.console.connecting import hook_of, key_variables
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.exceptions import BudgetExceeded, ConfigurationError, InputError, ResultsUnusable
from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.run import JobRun

CHAT = ChatRequest("gpt-5-mini", user="{text}", max_tokens=9)
CREATE, LOOK = "POST /v1/batches", "GET /v1/batches/"


@pytest.fixture
def keyed(emulator, monkeypatch):
    """An emulator at whose vendor's address a key is in the environment, and no connection anywhere."""
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.delenv(f"{name}_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.openai_url)
    return emulator


def texts(count):
    return [{"id": f"k{n}", "text": f"text {n}"} for n in range(count)]


def ask(rows, storage, **more):
    return airflow_llm_batch.run(rows, CHAT, storage=str(storage), poll_interval=0.05, **more)


def test_two_lines_bring_the_answers(keyed, tmp_path):
    """Rows and a request in, a record per row out; the key is the vendor's own variable."""
    answers = ask(texts(30), tmp_path, key="id", passthrough={"asked": "text"})
    assert sorted(a["key"] for a in answers) == sorted(f"k{n}" for n in range(30))
    assert all(a["text"] == a["asked"] for a in answers)
    assert (len(answers), answers.counts["succeeded"]) == (30, 30)
    assert answers.cost_usd > 0
    assert "30 rows landed" in repr(answers)
    job = json.loads((Path(answers.job.removeprefix("file://")) / "job.json").read_bytes())
    assert job["conn_id"] == "OPENAI_API_KEY"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_the_same_again_is_the_same_job(keyed, tmp_path):
    """Without a name the job is called after what it asks: nothing is sent twice, and anything else is another job."""
    first = ask(texts(5), tmp_path)
    assert ask(texts(5), tmp_path).name == first.name
    assert keyed.vendor.calls[CREATE] == 1
    assert ask(texts(6), tmp_path).name != first.name
    generated = ask(iter(texts(5)), tmp_path)
    assert (generated.name, keyed.vendor.calls[CREATE]) == (first.name, 2)


def test_a_name_is_a_place_and_changed_rows_take_it(keyed, tmp_path):
    """The same name with other rows replaces the job, and its files."""
    before = ask(texts(3), tmp_path, name="reviews")
    after = ask(texts(4), tmp_path, name="reviews")
    assert after.job == f"file://{tmp_path}/~outside/reviews/run/-1.2"
    left = list((tmp_path / "~outside" / "reviews" / "results").glob("results-*"))
    assert sorted(f"file://{path}" for path in left) == sorted(after.files)
    assert not set(before.files) & set(after.files)
    with pytest.raises(ConfigurationError, match=r"name is '\.\./up'"):
        ask(texts(3), tmp_path, name="../up")


def test_rows_may_be_a_relative_path(keyed, tmp_path, monkeypatch):
    """A notebook lies beside its data."""
    (tmp_path / "rows.csv").write_text("id,text\na,one\nb,two\n")
    monkeypatch.chdir(tmp_path)
    answers = airflow_llm_batch.run("rows.csv", CHAT, key="id", storage="jobs", destination="out", poll_interval=0.05)
    assert {a["key"] for a in answers} == {"a", "b"}
    assert len(list((tmp_path / "out").glob("results-*"))) == 1


def test_rows_are_called_one_by_one_where_that_is_asked(keyed, tmp_path):
    """The online lane makes no batch, and asks no answered row again."""
    answers = ask(texts(7), tmp_path, lane="online", name="now")
    assert answers.counts["succeeded"] == len(ask(texts(7), tmp_path, lane="online", name="now")) == 7
    assert (keyed.vendor.calls["POST /v1/chat/completions"], keyed.vendor.calls[CREATE]) == (7, 0)


def test_failed_rows_are_asked_again(keyed, tmp_path):
    """Rounds, as an operator has them; the job is the first round's."""
    keyed.faults(row_errors=0.3)
    answers = ask(texts(60), tmp_path, name="rounds", max_rounds=2, fail_on="none")
    assert answers.summary["rounds"] == 2
    assert sorted(a["row"] for a in answers) == list(range(60))
    assert answers.job.endswith("/-1")
    with pytest.raises(ResultsUnusable, match="Everything was landed"):
        ask(texts(60), tmp_path, name="rounds", max_rounds=2, fail_on="any")
    assert keyed.vendor.calls[CREATE] == 2


def test_budgets_hold_and_an_estimate_sends_nothing(keyed, tmp_path):
    """Neither what may cost too much nor what is only planned reaches the vendor."""
    with pytest.raises(BudgetExceeded, match="max_cost"):
        ask(texts(1000), tmp_path, max_cost=0.000001)
    estimate = ask(texts(1000), tmp_path, dry_run=True)
    assert 0 < estimate.summary["estimated_cost_usd"] < 1
    assert "Nothing was sent" in estimate.summary["message"]
    assert not keyed.vendor.calls


def test_a_budget_that_spans_jobs_holds(emulator, connect, tmp_path):
    """The same ledger as the tasks': what one job has spent the next one has not."""
    conn_id = connect(emulator.url, conn_id="spanned", budget={"month": 0.0000001})
    with pytest.raises(BudgetExceeded, match="spanned"):
        ask(texts(10), tmp_path, conn_id=conn_id)
    assert not emulator.vendor.calls[CREATE]


def test_which_vendor_is_asked_is_never_guessed(keyed, tmp_path, monkeypatch, connect):
    """The default connection, else the only key; none or two are refused before anything is read."""
    assert hook_of().conn_id == "OPENAI_API_KEY"
    assert hook_of(provider="anthropic").provider.name == "anthropic"
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    with pytest.raises(ConfigurationError, match="keys for openai, anthropic"):
        ask(texts(1), tmp_path)
    assert hook_of(connect(keyed.url, conn_id="llm_batch_default")).conn_id == hook_of().conn_id == "llm_batch_default"
    with pytest.raises(ConfigurationError, match="Give one of them"):
        hook_of("llm_batch_default", "openai")
    monkeypatch.delenv("AIRFLOW_CONN_LLM_BATCH_DEFAULT")
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.delenv(f"{name}_API_KEY")
    with pytest.raises(ConfigurationError, match="no vendor's key is in the environment"):
        ask(texts(1), tmp_path)
    assert key_variables("bedrock-openai") == ("BEDROCK_OPENAI_API_KEY",)
    assert not keyed.vendor.calls


def test_a_connection_of_airflows_database_is_found(emulator, airflow_db, tmp_path):
    """Outside of a task nobody asks the API server: the database is read."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session

    extra = json.dumps({"provider": "openai"})
    with create_session() as session:
        session.add(Connection("kept", "llmbatch", host=emulator.url, password="k-12345678", extra=extra))
    try:
        assert len(ask(texts(2), tmp_path, conn_id="kept")) == 2
    finally:
        with create_session() as session:
            session.query(Connection).filter(Connection.conn_id == "kept").delete()


def test_wrong_arguments_are_refused_before_anything_is_sent(keyed, tmp_path):
    """Each by its name."""
    costs = [{"max_cost": cost} for cost in ("$1", float("nan"), float("inf"), -1)]
    named = [{"lane": "fast"}, {"on_deadline": "shrug"}, {"max_rounds": 0}, {"fail_on": "many"}, {"also": ["invalied"]}]
    for wrong in named + costs:
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            ask(texts(1), tmp_path, **wrong)
    with pytest.raises(InputError, match="request is a str"):
        airflow_llm_batch.run(texts(1), "Label it", storage=str(tmp_path))
    assert not keyed.vendor.calls


def test_the_package_imports_nothing_heavy():
    """``run`` is fetched when it is asked for."""
    code = "import sys, airflow_llm_batch; sys.exit(any(n in sys.modules for n in ('airflow', 'httpx', 'rich')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        airflow_llm_batch.runs  # noqa: B018


class Shell:
    """The command line in processes of its own.

    :param emulator: where its connection leads: batches of 50 rows.
    """

    def __init__(self, emulator, tmp_path):
        self.started = []
        self.rows, self.storage = tmp_path / "rows.jsonl", f"file://{tmp_path}/jobs"
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in texts(200)))
        extra = {"provider": "openai", "limits": {"requests": 50}, "settle_seconds": 0.1, "create_seconds": 0.3}
        connection = {"conn_type": "llmbatch", "host": emulator.url, "password": SECRET, "extra": extra}
        self.environment = os.environ | {
            "AIRFLOW_CONN_SHELL": json.dumps(connection), "PYTHONPATH": str(ROOT), "COLUMNS": "200",
        }  # fmt: skip

    def start(self, *words):
        command = [sys.executable, "-m", "airflow_llm_batch", *words, "--storage", self.storage]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.started.append(subprocess.Popen(command, env=self.environment, cwd=ROOT, **pipes))
        return self.started[-1]

    def run(self, *more):
        asked = (
            "--conn-id",
            "shell",
            "--name",
            "nightly",
            "--key",
            "id",
            "--poll-interval",
            "0.1",
            "--passthrough",
            "asked=text",
        )
        return self.start("run", str(self.rows), "--model", "gpt-5-mini", "--max-tokens", "9", *asked, *more)


@pytest.fixture
def shell(emulator, tmp_path):
    made = Shell(emulator, tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


def wait_for(check, process):
    for _ in range(3000):
        if check():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("not within 30 seconds")


def test_killed_in_the_middle_and_run_again_each_row_is_billed_once(emulator, shell):
    """SIGKILL between two creates, and once more in the wait; the third run brings the same batches home."""
    emulator.vendor.settings.duration = 600
    for creates in (2, 4):
        process = shell.run()
        wait_for(lambda creates=creates: emulator.vendor.calls[CREATE] >= creates, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    emulator.vendor.settings.duration = 0
    for batch in emulator.vendor.batches.values():
        batch.duration = 0
    process = shell.run("--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    summary = json.loads(out)
    landed = Counter(
        json.loads(line)["key"] for file in summary["files"] for line in Path(file[7:]).read_text().splitlines()
    )
    assert landed == Counter(f"k{n}" for n in range(200))
    assert emulator.vendor.stats()["billed_rows"] == 200
    assert len(emulator.vendor.batches) == emulator.vendor.calls[CREATE] == 4
    assert SECRET not in out + err


def test_ctrl_c_says_what_runs_and_how_to_cancel_it(emulator, shell):
    """What it says can be done is done: the job is cancelled by its name, and the same run again lands the rest."""
    emulator.vendor.settings.duration = 600
    process = shell.run()
    wait_for(lambda: sum(n for call, n in emulator.vendor.calls.items() if call.startswith(LOOK)) >= 4, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert "200 rows in 4 batch(es)" in err
    assert all(batch in err for batch in emulator.vendor.batches)
    assert f"cancel nightly --storage {shell.storage}" in err
    assert "Traceback" not in err
    listed = shell.start("list", "--json")
    [job] = json.loads(listed.communicate(timeout=60)[0])
    assert (job["run_id"], job["state"]) == ("nightly", "running")
    cancelled = shell.start("cancel", "nightly")
    out, err = cancelled.communicate(timeout=60)
    assert "Cancellation of 4 batch(es) was asked for" in out, err
    assert cancelled.returncode == 0
    assert all(batch.cancelled_at for batch in emulator.vendor.batches.values())
    for batch in emulator.vendor.batches.values():
        batch.cancelled_at -= 600
    process = shell.run()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "200 cancelled" in err
    assert emulator.vendor.calls[CREATE] == 4


class Swallowed(io.IOBase):
    """Struck by Ctrl-C when it is finalized: Python drops whatever is raised there, and says nothing."""

    def close(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("step", "said", "creates"),
    [
        ("plan", "Nothing runs at the vendor.", 0),
        ("submit", "5 rows in 1 batch(es)", 1),
        ("look", "5 rows in 1 batch(es)", 1),
        ("land_once", "what it has answered is kept", 1),
        ("next_round", "5 rows in 1 batch(es)", 2),
    ],
)
def test_ctrl_c_that_a_finalizer_swallows_ends_the_run(step, said, creates, keyed, tmp_path, monkeypatch, capsys):
    """Wherever it has struck, nothing more is done, nothing more is sent, and what runs is told."""
    keyed.faults(row_errors=1.0)
    if step == "look":
        keyed.vendor.settings.duration = 600
    real, done, before = getattr(JobRun, step), [], signal.getsignal(signal.SIGINT)

    def struck(*given):
        result = real(*given)
        Swallowed()
        done.append(step)
        assert len(done) < 3
        return result

    monkeypatch.setattr(JobRun, step, struck)
    with pytest.raises(KeyboardInterrupt):
        ask(texts(5), tmp_path, name="struck", max_rounds=2)
    assert done == [step]
    assert said in capsys.readouterr().err
    assert keyed.vendor.calls[CREATE] == creates
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_a_thread_of_its_own_leaves_signals_alone(keyed, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask, texts(5), tmp_path).result().counts["succeeded"] == 5


@pytest.mark.slow
def test_ctrl_c_while_rows_are_called_leaves_nothing_running(emulator, shell):
    """Calls end with the process; what was answered is kept, and not asked again."""
    chats = "POST /v1/chat/completions"
    emulator.faults(http=[{"on": chats, "times": 1000, "delay": 0.3}])
    process = shell.run("--lane", "online")
    wait_for(lambda: emulator.vendor.calls[chats] >= 64, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, err
    assert "Nothing runs at the vendor; what it has answered is kept" in err
    assert "Traceback" not in err
    emulator.faults()
    process = shell.run("--lane", "online")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    # The 32 that were under way may be asked once more.
    assert 200 <= emulator.vendor.calls[chats] <= 232


def test_the_commands_read_what_the_pages_read(emulator, connect, capsys, tmp_path, monkeypatch):
    """Jobs of tasks and of no task, one in full, and what all have cost; tables for people, JSON for programs."""
    monkeypatch.setenv("COLUMNS", "200")
    emulator.faults(row_errors=0.1)
    storage = f"file://{tmp_path}"
    ask(texts(40), storage, conn_id=connect(emulator.url), name="labels", fail_on="none", progress=False)
    capsys.readouterr()
    for words, seen in (
        (["list"], ["labels", "40 / 40", "gpt-5-mini"]),
        (["show", "labels"], ["Lies at", "server_error", "batch_", "succeeded"]),
        (["cost", "--by", "model"], ["gpt-5-mini", "all"]),
    ):
        assert main([*words, "--storage", storage]) == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in seen), printed
    assert main(["cost", "--by", "day", "--json", "--storage", storage]) == 0
    day, everything = json.loads(capsys.readouterr().out)
    assert day["cost_usd"] == everything["cost_usd"] > 0
    assert main(["show", "nobody", "--storage", storage]) == 1
    assert "There is no job 'nobody'" in capsys.readouterr().err
    assert main(["cancel", "labels", "--storage", storage]) == 1
    assert "Nothing of this job runs any more" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["80", None])
def test_tables_cut_nothing(emulator, connect, capsys, tmp_path, monkeypatch, columns):
    """A narrow terminal breaks names and sums, and shows all of them; a pipe has each on a line of its own."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    storage, name = f"file://{tmp_path}", "labels_of_last_night"
    ask(texts(2), storage, conn_id=connect(emulator.url), name=name, progress=False)
    for words, wanted in (["list"], name), (["cost", "--by", "model"], "gpt-5-mini"), (["cost", "--by", "day"], "20"):
        capsys.readouterr()
        assert main([*words, "--storage", storage]) == 0
        printed = capsys.readouterr().out
        assert "…" not in printed
        assert columns is not None or wanted in printed
        folded = "".join(line.lstrip("│").partition("│")[0].strip() for line in printed.splitlines() if "│" in line)
        assert wanted in folded, printed


def test_what_vendors_say_has_no_meaning_to_a_terminal(emulator, connect, capsys, tmp_path, monkeypatch):
    """Markup and control characters of a row are shown, and not obeyed."""
    monkeypatch.setenv("COLUMNS", "200")
    emulator.faults(row_errors=1)
    rows = [{"id": "[red]\x1b[2Jkey[/red]", "text": "a"}]
    storage = f"file://{tmp_path}"
    conn_id = connect(emulator.url)
    ask(rows, storage, conn_id=conn_id, key="id", name="odd", fail_on="none", max_rounds=1, progress=False)
    capsys.readouterr()
    assert main(["show", "odd", "--storage", storage]) == 0
    printed = capsys.readouterr().out
    assert "[red]" in printed
    assert "\x1b" not in printed


def test_jobs_lie_where_airflows_do_by_default(keyed):
    """One place for all: what is run by hand is listed, and its budget booked, with the rest."""
    answers = airflow_llm_batch.run(["hello"], CHAT, name="default-place", poll_interval=0.05, progress=False)
    assert answers.job.startswith(default_storage())
