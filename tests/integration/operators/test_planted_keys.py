"""A planted key is looked for everywhere, in every spelling, while the vendor quotes it wherever it can."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from support.pages import dags, record, site, storage  # noqa: F401
from support.quoting import quoting, spellings, traces

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.exceptions import LLMBatchError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.redaction import TALKATIVE
from airflow_llm_batch.sensors import BatchSensor

pytestmark = pytest.mark.usefixtures("airflow_db")
ODD = "sk-a+b/c=d\"e'f\\g&h<i>j%41;k-planted"
KEYS = ["sk-planted-secret-4711", "sk-planted-newline-99\n", " sk-planted-blank-0815 ", ODD]
REQUEST = ChatRequest("gpt-5-mini", max_tokens=9)
ROWS = ["a", "b", "c", "d"]


class Everything(logging.Handler):
    """Every record of every logger, at DEBUG."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.kept = []

    def emit(self, record):
        self.kept.append(f"{record.name}: {record.getMessage()} {record.args!r} {record.msg!r}")
        if record.exc_info:
            self.kept.append("".join(traceback.format_exception(*record.exc_info)))


@pytest.fixture
def everything():
    handler, root = Everything(), logging.getLogger()
    found = [logger for logger in root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    before = {logger: (logger.level, logger.propagate, logger.disabled) for logger in [root, *found]}
    for logger in before:
        logger.setLevel(logging.DEBUG)
        logger.propagate, logger.disabled = True, False
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for logger, (level, propagates, disabled) in before.items():
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagates, disabled


class Places:
    """What was found where."""

    def __init__(self):
        self.texts = {}

    def put(self, name, value):
        self.texts[f"{len(self.texts)} {name}"] = f"{value}\n{value!r}"

    def attempt(self, name, action):
        """Something that fails: the error, and all that led to it."""
        with pytest.raises((LLMBatchError, ValueError)) as caught:
            action()
        error, seen = caught.value, set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            self.put(name, error)
            if isinstance(error, LLMBatchError):
                self.put(name, vars(error))
            error = error.__cause__ or error.__context__
        self.put(name, "".join(traceback.format_exception(caught.value)))

    def hold_no(self, key):
        found = [(place, trace) for place, text in self.texts.items() for trace in traces(key) if trace in text]
        assert not found, [(place, trace, around(self.texts[place], trace)) for place, trace in found[:5]]


def around(text, trace):
    at = text.index(trace)
    return text[max(0, at - 150) : at + 100]


def batch_way(places, conn_id, vendor, storage, tmp_path):  # noqa: F811
    """Submitted, waited for and landed, row errors and garbage and all."""
    context = {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id="submit", map_index=-1)}
    submit = SubmitBatchOperator(task_id="submit", conn_id=conn_id, rows=ROWS, request=REQUEST, storage=storage)
    handle = submit.execute(context)
    sensor = BatchSensor(task_id="wait", job=handle, poll_interval=0.05)
    vendor.faults = {"GET /v1/batches/": 503}
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(context)
    places.put("trigger", deferred.value.trigger.serialize())
    vendor.faults = {}
    event = asyncio.run(anext(deferred.value.trigger.run())).payload
    places.put("event", event)
    waited = sensor.execute_complete(context, event)
    target = {"destination": f"file://{tmp_path}/out", "keep_raw": True, "fail_on": "none"}
    fetch = FetchResultsOperator(task_id="fetch", job=waited, **target)
    summary = fetch.execute(context)
    assert summary["counts"]["errored"] + summary["counts"]["invalid"] == 3
    for operator in (submit, sensor, fetch):
        places.put(operator.task_id, {name: getattr(operator, name) for name in operator.template_fields})
        places.put(operator.task_id, vars(operator))
    for value in (handle, waited, summary):
        places.put("xcom", json.dumps(value))
    refused = FetchResultsOperator(task_id="fetch", job=waited, **{**target, "fail_on": "any"})
    places.attempt("too many failed", lambda: refused.execute(context))


def online_way(places, conn_id, vendor, storage, tmp_path):  # noqa: F811
    """Called: refused rows, errors in good answers, and a key that is refused altogether."""

    def call(name):
        ti = SimpleNamespace(dag_id="dag", run_id="run", task_id=name, map_index=-1)
        operator = CompletionOperator(
            task_id=name, conn_id=conn_id, rows=ROWS, request=REQUEST, storage=storage, keep_raw=True,
            destination=f"file://{tmp_path}/{name}", fail_on="none",
        )  # fmt: skip
        return operator.execute({"ti": ti})

    for fault in (400, 500, "error", "text", "cut"):
        vendor.faults = {"POST /v1/chat/completions": fault}
        summary = call(f"online_{fault}")
        assert summary["counts"]["succeeded"] == 0
        places.put("xcom", json.dumps(summary))
    vendor.faults = {"POST /v1/chat/completions": 401}
    places.attempt("online 401", lambda: call("online_401"))


@pytest.mark.parametrize("key", KEYS)
def test_a_planted_key_is_nowhere(connect, site, storage, tmp_path, capfd, everything, key):  # noqa: F811
    """Logs at DEBUG, errors and what led to them, XCom, templates, trigger, job directory, results, pages."""
    places = Places()
    with quoting(key.strip()) as vendor:
        conn_id = connect(vendor.url, key=key, retries=0, query={"x-api-key": key.strip()})
        record(conn_id)
        hook = LLMBatchHook(conn_id)
        places.put("test_connection", hook.test_connection())
        for fault in (401, 404, 429, 500, "text", "cut", "header"):
            vendor.faults = {"": fault}
            done, message = hook.test_connection()
            assert done is False, message
            places.put("test_connection", message)
            places.attempt(f"list {fault}", hook.list_batches)

            async def listing():
                async with LLMBatchHook(conn_id).session() as looking:
                    await looking.arun(looking.provider.list())

            places.attempt(f"alist {fault}", lambda: asyncio.run(listing()))
        vendor.faults = {}
        batch_way(places, conn_id, vendor, storage, tmp_path)
        online_way(places, conn_id, vendor, storage, tmp_path)
        vendor.faults = {}
        hook.download("b1", f"file://{tmp_path}/raw.jsonl")
        for fault in (403, "header"):
            vendor.faults = {"GET /v1/files": fault}
            places.attempt("download", lambda: hook.download("b1", f"file://{tmp_path}/none.jsonl"))
        for path in ("jobs", "totals", "job/dag/run/submit/-1", "job/dag/run/online_400/-1"):
            places.put(path, json.dumps(site.get(path)))
        places.put("cancel", site.http.post("/api/job/dag/run/submit/-1/cancel", json={}).text)
        places.put("hook", f"{hook!r} {hook.transport!r} {vars(hook.provider).keys()}")
        hook.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 40
    for path in files:
        places.put(str(path), path.read_text("utf-8", "replace"))
    printed = capfd.readouterr()
    places.put("printed", printed.out + printed.err)
    assert any(text.startswith("httpcore.http11") for text in everything.kept)
    assert any("x-echo" in text for text in everything.kept)
    for text in everything.kept:
        # The tests' own client speaks to the pages.
        places.put("log", text)
    assert any("***" in text for text in everything.kept)
    places.hold_no(key.strip())


def test_every_logger_of_the_http_client_is_listened_to():
    """A newer one that tells of headers under another name is found here."""
    found = {name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("httpx", "httpcore")}
    talk = {name for name in found if isinstance(logging.root.manager.loggerDict[name], logging.Logger)}
    assert talk <= set(TALKATIVE)


@pytest.mark.parametrize("text", spellings(ODD))
def test_each_spelling_is_taken_out_of_a_text_and_nothing_else(text):
    """Alone, in a sentence, as bytes; cut short, the beginning of a key goes too."""
    from airflow_llm_batch.redaction import Redactor

    redactor = Redactor([ODD])
    for whole in (text, f"before {text} behind"):
        for clean in (redactor.text(whole), redactor.data(whole.encode()).decode()):
            assert not [trace for trace in traces(ODD) if trace in clean], clean
    assert redactor.text(f"before {text} behind").startswith("before ")
    assert redactor.text(f"before {text} behind").endswith(" behind")
    assert redactor.text(f"cut {ODD[:15]}") == "cut ***"
    assert redactor.text("no key at all, k-plan") == "no key at all, k-plan"


HOSTS = [
    "user:{key}@host", "https://user:{key}@host/v1", "{key}@host", "host?key={key}", "https://host/v1?key={key}",
    "host#{key}", "user:{key}%40host", "host:{key}", "https://host:{key}/v1", "user:pa/{key}@host", "ftp://{key}",
    "{key}://host", "https://[{key}", "https://",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_holds_a_secret_is_refused_and_never_printed(monkeypatch, capfd, everything, host):
    """Credentials, parameters, and whatever else is no address: by test_connection and by every call."""
    places, key = Places(), "planted-in-the-host-4711"
    connection = {"conn_type": "llmbatch", "host": host.format(key=key), "password": "k-123456"}
    monkeypatch.setenv("AIRFLOW_CONN_BAD", json.dumps({**connection, "extra": {"provider": "openai"}}))
    done, message = LLMBatchHook("bad").test_connection()
    assert (done, message.endswith("Nothing was sent.")) == (False, True)
    places.put("test_connection", message)
    places.attempt("list", LLMBatchHook("bad").list_batches)
    printed = capfd.readouterr()
    for text in (printed.out, printed.err, *everything.kept):
        places.put("log", text)
    places.hold_no(key)


@pytest.mark.parametrize(
    "extra",
    [
        {"headers": "authorization: {key}"}, {"headers": {"authorization": {"x": "{key}"}}}, {"create": "{key}"},
        {"headers": {"x-token": "{key}\nx: y"}}, {"headers": {"x-token": "{key}é"}}, {"query": ["{key}"]},
        {"form": "{key}"}, {"limits": "{key}"},
    ],
)  # fmt: skip
def test_options_that_cannot_be_used_are_not_quoted(monkeypatch, extra):
    """A key in a header of the wrong shape is in no message."""
    places, key = Places(), "planted-in-the-extra-4711"
    given = json.loads(json.dumps(extra).replace("{key}", key))
    connection = {"conn_type": "llmbatch", "host": "http://127.0.0.1:9", "password": "k-123456"}
    monkeypatch.setenv("AIRFLOW_CONN_BAD", json.dumps({**connection, "extra": {"provider": "openai", **given}}))
    places.attempt("list", LLMBatchHook("bad").list_batches)
    places.hold_no(key)
