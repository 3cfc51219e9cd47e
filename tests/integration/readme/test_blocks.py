"""Every fenced block of the README is run, or read by what it is meant for; a block that nothing takes fails."""

from __future__ import annotations

import configparser
import json
import re
import socket
import subprocess
import sys
import time
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support import ROOT, SECRET, read_jsonl
from support.airflow_versions import known_bag
from support.readme import README, Block, blocks, commands, dag_file, give_rows, placed

from airflow_llm_batch import demo_processes
from airflow_llm_batch.console.cli import main
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.money.accounts import budgets_of
from airflow_llm_batch.jobs.money.agreed import negotiated
from airflow_llm_batch.provider_info import OPTIONS
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.registry import OURS, provider_class

pytestmark = pytest.mark.usefixtures("airflow_db")

BLOCKS = blocks()
PYTHON = [block for block in BLOCKS if block.language == "python"]
SCRIPTS = [block for block in PYTHON if re.search(r"^(hook|for answer)\b", block.text, re.MULTILINE)]
DAGS = [block for block in PYTHON if block not in SCRIPTS]
WHOLE = [block for block in DAGS if block.heading == "A DAG"]
SHELL = [block for block in BLOCKS if block.language == "bash"]
JSON = [json.loads(block.text) for block in BLOCKS if block.language == "json"]
INI = [block for block in BLOCKS if block.language == "ini"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: the constraints that Airflow publishes with each version
AIRFLOWS = re.compile(
    r"https://raw\.githubusercontent\.com/apache/airflow/constraints-3\.\d+\.\d+/constraints-3\.\d+\.txt"
)
MADE = re.compile(r'DAG\(\s*"([^"]+)"')
#: what blocks end as that are not to succeed: an emulator's answers add up by chance alone
ENDS_AS = {"checks-1": "failed"}


def named(block: Block) -> str:
    return block.name


def test_no_block_is_left_out():
    """Each is of one of the kinds below, and every command of a shell block is one that is known here."""
    assert len(DAGS) + len(SCRIPTS) + len(SHELL) + len(JSON) + len(INI) == len(BLOCKS) > 30
    # A connection, the extra of one, a policy.
    assert all(len({"conn_type", "provider", "Statement"} & given.keys()) == 1 for given in JSON)
    assert len(WHOLE) == 2
    assert len(SCRIPTS) == 2
    for block in SHELL:
        assert all(checker(words) for words in commands(block)), block.name


@pytest.mark.parametrize("block", DAGS, ids=named)
def test_a_dag_runs(block, connect, tmp_path, monkeypatch):
    """Imported as a DAG file, and each of its DAGs run against the emulator; what a task lands is there, row by row."""
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier
    from airflow.sdk import timezone

    now = timezone.utcnow()
    source = placed(dag_file(block, WHOLE, block.name), tmp_path)
    give_rows(source, tmp_path, now.strftime("%Y-%m-%d"))
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / f"{block.name.replace('-', '_')}.py").write_text(source)
    mails = []
    monkeypatch.setattr(SmtpNotifier, "notify", lambda self, context: mails.append((self.subject, self.html_content)))
    faults = {"row_errors": 0.4, "heal": 1} if "FailedRows" in block.text else {}
    with Emulator(duration=0.2, faults=faults) as emulator:
        connect(emulator.url, "anthropic" if '"claude-' in block.text else "openai", "llm_batch_default")
        bag = known_bag(tmp_path / "dags")
        assert set(MADE.findall(block.text)) <= set(bag.dags)
        landed = [run_of(bag.dags[dag_id], now, ENDS_AS.get(block.name, "success")) for dag_id in sorted(bag.dags)]
    summaries = [summary for of_dag in landed for summary in of_dag]
    for summary in summaries:
        records = [record for file in summary["files"] for record in read_jsonl(file)]
        assert len(records) == summary["rows"]
        assert summary["counts"].get("succeeded", 0) == summary["rows"]
    if block.name in ENDS_AS:
        [results] = tmp_path.glob("out/*/results-*.jsonl")
        assert {record["status"] for record in read_jsonl(results)} == {"invalid"}
    elif "CleanupJobs" not in block.text and "completion=" not in block.text:
        # Of many partitions of few rows some are empty.
        assert sum(summary["rows"] for summary in summaries) > 0
    if "SmtpNotifier" in block.text:
        [(subject, text)] = mails
        assert subject == "LLM batches: landed"
        assert "rows landed" in text


def run_of(dag, now, state):
    """Run a DAG; the summaries of what its tasks have landed, by the last that landed the same rows."""
    run = dag.test(logical_date=now)
    assert str(run.state) == state, {ti.task_id: ti.state for ti in run.get_task_instances()}
    summaries = {}
    for ti in sorted(run.get_task_instances(), key=lambda ti: (ti.start_date is None, ti.start_date)):
        for value in (ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index),):
            if isinstance(value, dict) and "files" in value:
                summaries[tuple(value["files"])] = value
    gone = [files for files in summaries if not all(Path(file.removeprefix("file://")).exists() for file in files)]
    return [summary for files, summary in summaries.items() if files not in gone]


@pytest.mark.parametrize("duration", [0, 60])
def test_the_hook_does_what_its_block_says(duration, connect, tmp_path):
    """A batch that has ended is downloaded, one that runs is cancelled."""
    [block] = [block for block in SCRIPTS if "LLMBatchHook" in block.text]
    source = placed(block.text, tmp_path)
    give_rows(source, tmp_path, "")
    (tmp_path / "bucket" / "raw.jsonl").unlink()
    with Emulator(duration=duration) as emulator:
        connect(emulator.url, conn_id="llm_batch_default")
        names = {}
        exec(source, names)
        [batch] = emulator.vendor.batches.values()
        assert names["batch"].id == batch.id
    if duration:
        assert batch.cancelled_at is not None
    else:
        assert len(read_jsonl(tmp_path / "bucket" / "raw.jsonl")) == 20


def test_jobs_outside_of_a_task(emulator, tmp_path, monkeypatch, capsys):
    """The lines of Python with the vendor's own variable, and then every command about jobs, as the text has them."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.openai_url)
    (tmp_path / "reviews.csv").write_text("id,text\nr1,good\nr2,bad\n")
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in SCRIPTS if "import run" in block.text]
    exec(block.text, {})
    assert "r2 succeeded Label: bad" in capsys.readouterr().out
    [beside] = [other for other in SHELL if other.heading == block.heading]
    codes = {}
    for words in commands(beside):
        assert words[:3] == ["python", "-m", "airflow_llm_batch"]
        codes[words[3]] = main(words[3:])
    # Nothing of the job runs any more when it is cancelled.
    assert codes == {"run": 0, "list": 0, "show": 0, "cancel": 1, "cost": 0}


def test_commands_show_what_the_first_dag_has_landed(connect, tmp_path, monkeypatch, capsys):
    """*Results and costs*: the job is listed, shown by the DAG's name, and in the sums."""
    from airflow.sdk import timezone

    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", f"file://{tmp_path}/jobs")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "label_reviews.py").write_text(placed(WHOLE[0].text, tmp_path))
    with Emulator(duration=0.1) as emulator:
        connect(emulator.url, conn_id="llm_batch_default")
        [landed] = run_of(known_bag(tmp_path / "dags").dags["label_reviews"], timezone.utcnow(), "success")
    [block] = [block for block in SHELL if block.heading == "Results and costs"]
    for words in commands(block):
        capsys.readouterr()
        assert main(words[3:]) == 0
        assert "label_reviews" in capsys.readouterr().out
    # What the table above it names is there.
    section = README.partition("### Results and costs")[2].partition("\n## ")[0]
    for field in re.findall(r"`(\w+)`", section.partition("`return_value`")[2].partition("\n")[0]):
        assert field in landed, field
    [record, _] = read_jsonl(landed["files"][0])
    assert {"key", "status", "output", "cost_usd", "product"} <= record.keys()


@pytest.mark.parametrize("block", SHELL, ids=named)
def test_commands_are_understood(block, monkeypatch, tmp_path):
    """By those that they are for: Airflow's parser, ours, what is installed and what pyproject.toml offers."""
    for words in commands(block):
        found = checker(words)
        assert found is not None, words
        found(words)


def checker(words):
    """What reads a command, None for one that nothing here understands."""
    text = " ".join(words)
    for pattern, check in CHECKERS:
        if re.match(pattern, text):
            return check
    return None


def check_environment(words):
    usage = subprocess.run([sys.executable, "-m", "venv", "-h"], capture_output=True, text=True, check=True).stdout
    assert all(word in usage for word in words[3:] if word.startswith("-"))


def check_installs(words):
    """What is installed is this project, with extras that it has, and constraints that are there."""
    wanted = iter(words[words.index("install") + 1 :])
    extras = set(PROJECT["optional-dependencies"])
    installed = []
    for word in wanted:
        if word in ("-c", "--constraint"):
            place = next(wanted)
            airflow = (
                r"https://raw\.githubusercontent\.com/apache/airflow/constraints-3\.\d+\.\d+/constraints-3\.\d+\.txt"
            )
            assert (ROOT / place).is_file() or re.fullmatch(airflow, place), place
        elif word not in ("-q", "--no-compile", "-e"):
            installed.append(Requirement(re.sub(r"^\.(?=\[|$)", PROJECT["name"], word)))
    [ours] = installed
    assert ours.name == PROJECT["name"]
    assert ours.extras <= extras


def check_module(words):
    assert find_spec(words[2]) is not None


def check_airflow(words):
    """Parsed by Airflow; a connection is really added, and makes a client of the provider that it names."""
    from airflow.cli.cli_parser import get_parser
    from airflow.models import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    given = get_parser().parse_args(words[1:])
    if words[1] == "dags":
        assert given.dag_id in MADE.findall(README)
        return
    extra, conn_id = json.loads(given.conn_extra), given.conn_id
    understood({"host": given.conn_host, "password": given.conn_password, "extra": extra})
    given.func(given)
    try:
        with create_session() as session:
            [stored] = session.scalars(select(Connection).where(Connection.conn_id == conn_id))
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", stored.as_json())
                hook = LLMBatchHook(conn_id)
                assert (hook.provider.name, hook.connection.password) == (extra["provider"], given.conn_password)
    finally:
        removing = get_parser().parse_args(["connections", "delete", conn_id])
        removing.func(removing)


def check_emulator(words):
    """Started for real, on a port that is free; a batch of it is nobody's, so none is listed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, *(str(port) if word == "8089" else word for word in words[1:])]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        for _ in range(300):
            assert process.poll() is None, process.communicate()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            pytest.fail("the emulator did not start")
    finally:
        demo_processes.end([process.pid], process)
        process.communicate()


def check_console(words):
    """Its own tests above run them; here the words are known."""
    from airflow_llm_batch.console.cli import parser

    parser().parse_args(words[3:])


CHECKERS = (
    (r"python3 -m venv ", check_environment),
    (r"(\.venv/bin/)?pip install ", check_installs),
    (r"\.venv/bin/python -m (pytest|airflow_llm_batch\.demo)$", check_module),
    (r"airflow (connections add|dags (test|unpause|trigger)) ", check_airflow),
    (r"python -m airflow_llm_batch\.emulator ", check_emulator),
    (r"python -m airflow_llm_batch (run|list|show|cancel|cost)\b", check_console),
)

CONNECTIONS = [given for given in JSON if "conn_type" in given] + [
    json.loads(written) for written in re.findall(r"\| `(\{.*\})` \|$", README, re.MULTILINE)
]


def test_every_vendor_has_a_connection():
    """Whoever comes with a cloud, or any other vendor, finds its connection."""
    assert {given["extra"]["provider"] for given in CONNECTIONS} >= OURS.keys() - {"openai", "anthropic"}


@pytest.mark.parametrize("connection", CONNECTIONS, ids=lambda given: given["extra"]["provider"])
def test_a_connection_is_understood(connection):
    """No option is unknown, and there is a way to prove who asks."""
    assert connection["conn_type"] == "llmbatch"
    understood(connection)


def understood(connection):
    provider = provider_class(connection["extra"]["provider"])(connection.get("host"), connection["extra"])
    assert provider.options.unknown == []
    login = Login("llm_batch_default", connection.get("login", ""), connection.get("password", ""))
    assert provider.auth(login).owns(provider.url())
    place = provider.place("shard.jsonl", "file:///jobs/shard.jsonl")
    assert (place is None) == (connection["extra"].get("storage") is None)


@pytest.mark.parametrize("extra", [given for given in JSON if "provider" in given], ids=lambda given: [*given][-1])
def test_an_extra_is_understood(extra):
    """Its budgets and prices are some."""
    provider = provider_class(extra["provider"])(None, extra)
    assert provider.options.unknown == []
    assert len(budgets_of(provider.options.budget, "here")) == len(extra.get("budget", []))
    assert negotiated(provider.options.prices).keys() == extra.get("prices", {}).keys()


def test_a_buckets_policy_allows_what_production_names():
    """The rights of *Executors and pods* are those of *Storage and its rights*: objects', and the bucket's own."""
    [policy] = [given for given in JSON if "Statement" in given]
    allowed = {}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            allowed[action] = statement["Resource"]
    [row] = re.findall(r"^\| S3 \| (.*) \|$", README, re.MULTILINE)
    of_bucket, of_objects = row.split(";")
    assert {action for action in allowed if not allowed[action].endswith("/*")} == set(re.findall(r"s3:\w+", of_bucket))
    assert {action for action in allowed if allowed[action].endswith("/*")} == set(re.findall(r"s3:\w+", of_objects))


@pytest.mark.parametrize("block", INI, ids=named)
def test_settings_are_settings(block, monkeypatch):
    """Options that the package declares, and where jobs lie is where they then lie."""
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    assert parser.sections() == ["llm_batch"]
    for option, value in parser["llm_batch"].items():
        assert option in OPTIONS
        monkeypatch.setenv(f"AIRFLOW__LLM_BATCH__{option.upper()}", value)
        if option == "storage":
            assert default_storage() == value
