"""Good manners: what cannot work fails at once, what is sent is what gateways and models take, no name is taken."""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSkipException
from support import MODELS
from support.jobs import chat, spec, submit
from support.servers import GOOD, server, serving

from airflow_llm_batch import exceptions
from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest, Sql
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, InputError, LLMBatchError, RequestRejected, WaitEnded
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.planning.encoding import RowSpec, encode_rows
from airflow_llm_batch.jobs.submission.room import never_fits
from airflow_llm_batch.models import Shard
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator, LLMBatchOperator, SubmitBatchOperator
from airflow_llm_batch.outages import is_outage
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.sensors import BatchSensor

#: every class, and whether another try of the task may help
RETRY_HELPS = {
    "NothingBilled": True, "InputError": False, "NoRows": False, "ConfigurationError": False, "BudgetExceeded": False,
    "SourceUnavailable": True, "Busy": True, "RequestRejected": True, "RefusedForGood": False, "SomethingBilled": True,
    "SubmissionUnconfirmed": True, "Interrupted": True, "WaitEnded": False, "ResultsUnusable": False,
    "FirstRowsFailed": False, "Unwritable": True, "VendorUnavailable": True, "LLMBatchError": True,
}  # fmt: skip


def test_every_error_says_whether_a_retry_helps():
    """The table, of all classes there are; what a retry cannot mend is Airflow's own word for that."""
    found = {
        name: kind
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, LLMBatchError)
    }
    assert set(found) == set(RETRY_HELPS)
    for name, kind in found.items():
        error = kind("x", status=400) if issubclass(kind, RequestRejected) else kind("x")
        assert error.retry_helps == RETRY_HELPS[name], name
        assert issubclass(kind, AirflowFailException) != RETRY_HELPS[name], name


@pytest.mark.parametrize(
    ("status", "body", "helps"),
    [
        (400, {}, False), (401, {}, False), (403, {}, False), (404, {}, False), (422, {}, False), (408, {}, True),
        (409, {}, True), (429, {}, True), (429, {"error": {"code": "insufficient_quota"}}, False), (402, {}, False),
        (500, {}, True), (529, {}, True),
    ],
)  # fmt: skip
def test_refusals_for_good_and_for_now(status, body, helps):
    """By the HTTP status, and by what it says of the account."""
    with pytest.raises(LLMBatchError) as caught:
        OpenAI().expect(httpx.Response(status, json=body), "a test")
    assert caught.value.retry_helps == helps


OUTAGES = [
    (ConnectionResetError(), True), (TimeoutError(), True), (type("EndpointConnectionError", (Exception,), {})(), True),
    (type("ReadTimeoutError", (Exception,), {})(), True), (OSError(5, "EIO"), True), (FileNotFoundError(), False),
    (PermissionError(), False), (sqlite3.OperationalError("no such table: x"), False), (ValueError("x"), False),
    (sqlite3.OperationalError("database is locked"), True), (UnicodeDecodeError("utf-8", b"", 0, 1, "x"), False),
]  # fmt: skip


@pytest.mark.parametrize(("error", "outage"), OUTAGES, ids=lambda v: type(v).__name__)
def test_a_store_that_is_down_is_no_wrong_input(error, outage):
    """What cannot be reached may pass; what is not there, not allowed or not readable does not."""
    assert is_outage(error) == outage


def test_an_operator_tells_its_failure_without_the_way_there(emulator, connect, context):
    """One sentence, one frame of ours, no cause behind it."""
    task = SubmitBatchOperator(task_id="s", conn_id=connect(emulator.url), rows=[], request=ChatRequest("m"))
    with pytest.raises(InputError) as caught:
        task.execute(context)
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
    ours = [frame for frame in caught.traceback if "/airflow_llm_batch/" in str(frame.path)]
    assert len(ours) == 1


class Absent:
    """A package that is not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'")


@pytest.fixture
def without_pyarrow(monkeypatch):
    for name in [
        n
        for n in sys.modules
        if n.startswith(("pyarrow", "airflow_llm_batch.data.parquet", "airflow_llm_batch.data.arrow"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])


def test_a_package_that_landing_needs_is_missed_before_anything_is_paid(
    emulator, connect, context, tmp_path, without_pyarrow
):
    """Of downstream Fetch tasks too."""
    conn_id, destination = connect(emulator.url), f"file://{tmp_path}/out"
    request = ChatRequest("gpt-5-mini", user="{text}")
    with DAG("d"):
        task = SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["a"], request=request)
        FetchResultsOperator(task_id="f", job=task.output, destination=destination, format="parquet")
    alone = LLMBatchOperator(
        task_id="l", conn_id=conn_id, rows=["a"], request=request, destination=destination, format="parquet"
    )
    for operator in (task, alone):
        with pytest.raises(ConfigurationError, match=r"airflow-provider-llm-batch\[parquet\]"):
            operator.execute(context)
    assert not emulator.vendor.files


@pytest.mark.parametrize("rows", [[], "file:///nowhere/at/all/*.jsonl"])
def test_an_empty_day_may_skip(emulator, connect, context, rows):
    """``on_empty``: no rows, no files."""
    given = {"task_id": "s", "conn_id": connect(emulator.url), "rows": rows, "request": ChatRequest("m", user="{text}")}
    with pytest.raises(AirflowSkipException):
        SubmitBatchOperator(**given, on_empty="skip").execute(context)
    with pytest.raises(InputError, match="on_empty"):
        SubmitBatchOperator(**given).execute(context)
    with pytest.raises(ConfigurationError, match="on_empty"):
        SubmitBatchOperator(**given, on_empty="maybe")


def test_half_of_the_rows_failing_fails_the_task_by_default(connect, context, tmp_path):
    """Landed all the same."""

    def answer(before, body):
        return (400, {"error": {"message": "no"}}) if "bad" in body["messages"][-1]["content"] else (200, GOOD)

    with server(answer) as (url, _, _):
        for rows, red in ((["bad", "a", "b"], False), (["bad", "a"], True)):
            task = CompletionOperator(
                task_id=f"t{len(rows)}", conn_id=connect(url), rows=rows, destination=f"file://{tmp_path}/{len(rows)}",
                request=ChatRequest("gpt-5-mini", user="{text}"),
            )  # fmt: skip
            context["ti"].task_id = task.task_id
            if red:
                with pytest.raises(exceptions.ResultsUnusable, match=r"fail_on=0\.5"):
                    task.execute(context)
            else:
                task.execute(context)
            assert list((tmp_path / str(len(rows))).glob("*.jsonl"))


def test_a_query_without_a_hook_is_told(emulator, connect, context):
    """A connection whose type runs no queries, and one that is not there."""
    conn_id = connect(emulator.url)
    for sql, words in (
        (Sql(conn_id, "select 1"), "no hook that runs queries"),
        (Sql("gone", "select 1"), "no connection"),
    ):
        with pytest.raises(InputError, match=words):
            list(sql.rows())


LIMITS = [
    ("Enqueued token limit reached for m in organization o. Limit: 1,000 enqueued tokens. Please try again.", True),
    ("Enqueued token limit reached for m. Limit: 90,000 enqueued tokens.", False),
    ("Batch token limit exceeded. limit=3000, requested: 5,000 tokens", True),
    ("Enqueued request limit reached. Limit: 5 enqueued requests", True),
    ("Enqueued token limit reached", False),
    ("The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'x'.", False),
    ("The number of enqueued tokens has surpassed the configured limit of 2.5K for the deployment 'x'.", True),
    ("The number of enqueued tokens has surpassed the configured limit of 1B for the deployment 'x'.", False),
]


@pytest.mark.parametrize(("message", "never"), LIMITS)
def test_a_shard_that_can_never_fit_is_known(message, never):
    """By the limit that the refusal quotes, and what it says was asked."""
    why = never_fits(Shard(endpoint="/v1/x", rows=10, tokens=4000), message)
    assert (why is not None) == never
    if why:
        assert "can never fit" in why
        assert "Nothing was billed" in why


@pytest.mark.parametrize("refuse", [None, 429, 400])
def test_a_shard_larger_than_the_queue_fails_at_once_and_is_cut_anew(connect, context, tmp_path, refuse):
    """Both numbers and the remedy are named, whether the create is refused or the batch fails; following it works."""
    rows = [{"id": n, "text": f"text {n} " * 20} for n in range(40)]
    given = {
        "task_id": "s",
        "rows": rows,
        "key": "id",
        "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=90),
    }
    with Emulator(duration=0.05) as emulator:
        emulator.faults(enqueued_tokens=1200, **({"refuse_enqueued": refuse} if refuse else {}))
        conn_id = connect(emulator.url)

        def ask():
            job = SubmitBatchOperator(**given, conn_id=conn_id).execute(context)
            BatchSensor(task_id="w", job=job, deferrable=False, poke_interval=0.02).execute(context)

        with pytest.raises(ConfigurationError, match=r"about [\d,]+ tokens.*holds 1,200.*max_enqueued_tokens=1200"):
            ask()
        job = SubmitBatchOperator(**given, conn_id=conn_id, max_enqueued_tokens=900).execute(context)
        assert job["shards"] > 1
        waited = BatchSensor(task_id="w", job=job, deferrable=False, poke_interval=0.02).execute(context)
        fetch = FetchResultsOperator(task_id="f", job=waited, destination=f"file://{tmp_path}/out")
        summary = fetch.execute(context)
    assert summary["counts"]["succeeded"] == 40


def test_a_deadline_with_nothing_sent_is_not_green(connect, context):
    """``on_deadline="cancel"`` while the queue was always full."""
    with Emulator(duration=0.05) as emulator:
        emulator.faults(enqueued_tokens=0, refuse_enqueued=429)
        given = {"task_id": "s", "rows": ["a"], "request": ChatRequest("gpt-5-mini", user="{text}", max_tokens=9)}
        job = SubmitBatchOperator(**given, conn_id=connect(emulator.url)).execute(context)
        sensor = BatchSensor(
            task_id="w", job=job, deferrable=False, poke_interval=0.02, deadline=0.05, on_deadline="cancel"
        )
        with pytest.raises(WaitEnded, match="nothing of the job was ever"):
            sensor.execute(context)


@pytest.mark.parametrize("lane", ["batch", "online"])
def test_a_gateway_gets_its_headers_query_and_form(connect, context, tmp_path, lane):
    """With every call, and as fields of an upload; what is secret among them is not told."""
    seen = []

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((self.path, dict(self.headers), body))
            data = json.dumps({"error": {"message": "the token hush-hush-hush is wrong"}}).encode()
            self.send_response(400)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    extra = {
        "headers": {"x-litellm-model": "my-model", "X-Gateway-Token": "hush-hush-hush"},
        "query": {"api-version": "2026-01-01"},
        "form": {"target_model_names": "my-model"},
    }
    given = {"rows": ["a"], "request": ChatRequest("gpt-5-mini", user="{text}")}
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Gateway)) as url:
        given["conn_id"] = connect(f"{url}/v1", **extra)
        if lane == "batch":
            with pytest.raises(RequestRejected) as caught:
                SubmitBatchOperator(task_id="s", **given).execute(context)
            assert "hush" not in str(caught.value)
            assert b'name="target_model_names"\r\n\r\nmy-model' in seen[0][2]
        else:
            CompletionOperator(task_id="s", destination=f"file://{tmp_path}", fail_on="none", **given).execute(context)
    path, headers, _ = seen[0]
    assert path.endswith("?api-version=2026-01-01")
    lower = {name.lower(): value for name, value in headers.items()}
    assert (lower["x-litellm-model"], lower["x-gateway-token"]) == ("my-model", "hush-hush-hush")


CLAUDE = [
    ({"temperature": 0.5, "top_p": 0.5}, "claude-sonnet-4-5", {}, "temperature and top_p"),
    ({"temperature": 0.5, "top_p": 0.5}, "claude-3-haiku", {}, None),
    ({"reasoning_effort": "low"}, "claude-sonnet-4-5", {}, "effort"),
    ({"reasoning_effort": "low"}, "claude-opus-4-6", {}, None),
    ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "claude-sonnet-4-5", {}, "budget of 2000"),
    ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "claude-sonnet-4-5", {}, "1024"),
    ({"temperature": 0.5}, "claude-sonnet-4-5", {"anthropic_version": "2026-10-21"}, "API version"),
    ({"temperature": 0.5}, "claude-sonnet-4-5", {}, None),
    ({"speed": "fast"}, "claude-opus-4-6", {}, "'speed'"),
    ({"tool_choice": "required"}, "claude-opus-4-6", {}, "without tools"),
]


@pytest.mark.parametrize(("params", "model", "options", "words"), CLAUDE)
def test_what_a_model_refuses_is_refused_before(params, model, options, words):
    """Parameters that some models, versions or batches do not take."""
    request = ChatRequest(model, user="{text}", max_tokens=1500, params=params).compile()({"text": "a"})
    if words is None:
        Anthropic(options=options).translate(request)
    else:
        with pytest.raises(InputError, match=rf"{words}.*Nothing was sent"):
            Anthropic(options=options).translate(request)


def test_tool_choices_are_as_anthropic_takes_them():
    """None beside parallel_tool_calls, a choice without tools, images inside tool messages."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    talk = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "see"}, image]},
    ]

    def made(**params):
        return Anthropic().translate(ChatRequest("m", messages=talk, max_tokens=9, params=params).compile()({})).body

    assert made(tools=[tool], tool_choice="none", parallel_tool_calls=False)["tool_choice"] == {"type": "none"}
    both = made(tools=[tool], parallel_tool_calls=False)["tool_choice"]
    assert both == {"type": "auto", "disable_parallel_tool_use": True}
    plain = made(parallel_tool_calls=False, tool_choice="none")
    assert "tool_choice" not in plain
    assert [part["type"] for part in plain["messages"][2]["content"][0]["content"]] == ["text", "image"]


def test_the_connections_timeout_and_retries_hold_online(connect, context, tmp_path):
    """``retries`` of the extra says how often a call is repeated; ``connect_timeout`` reaches the connection."""
    from airflow_llm_batch.jobs.online.endpoint import Calls, Vendor

    with server(lambda before, body: (500, {"error": {"message": "no"}})) as (url, asked, _):
        conn_id = connect(url, retries=1, connect_timeout=3)
        vendor = Vendor(LLMBatchHook(conn_id), Calls())
        assert (vendor.retries, vendor.connect_timeout) == (1, 3)
        task = CompletionOperator(
            task_id="s", conn_id=conn_id, rows=["a"], destination=f"file://{tmp_path}", fail_on="none",
            request=ChatRequest("gpt-5-mini", user="{text}"),
        )  # fmt: skip
        task.execute(context)
    assert set(asked.values()) == {2}


def test_a_kept_connection_that_was_closed_is_opened_again(connect, context, tmp_path):
    """A server that closes after every answer without a word costs no try, no pause and no row."""
    listener = socket.create_server(("127.0.0.1", 0))
    answers = []

    def serve():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            data = b""
            while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < size_of(data):
                more = peer.recv(65536)
                if not more:
                    break
                data += more
            if data:
                body = json.dumps(GOOD).encode()
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                answers.append(1)
            peer.close()

    def size_of(data):
        head = data.partition(b"\r\n\r\n")[0].lower()
        return int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])

    threading.Thread(target=serve, daemon=True).start()
    conn_id = connect(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", retries=0)
    task = CompletionOperator(
        task_id="s", conn_id=conn_id, rows=[f"t{n}" for n in range(12)], destination=f"file://{tmp_path}",
        request=ChatRequest("gpt-5-mini", user="{text}"), concurrency=1,
    )  # fmt: skip
    summary = task.execute(context)
    listener.close()
    assert summary["counts"]["succeeded"] == len(answers) == 12


def test_a_job_of_a_newer_version_is_left_alone(hook, provider, store):
    """What a newer package has planned is not guessed at."""
    submit(store, hook, spec(["a"], chat(provider)))
    path = store.path("job.json")
    path.write_bytes(
        path.read_bytes().replace(b'"version":1', b'"version":99').replace(b'"version": 1', b'"version": 99')
    )
    with pytest.raises(ConfigurationError, match="newer"):
        JobStore(store.uri).job()


def test_small_manners(emulator, connect, context, caplog, tmp_path):
    """A model only beside ``models``, both names of the interval, rows of an external batch, nulls told once."""
    conn_id = connect(emulator.url)
    task = LLMBatchOperator(
        task_id="m", conn_id=conn_id, rows=["a"], request=ChatRequest(user="{text}", max_tokens=9), poke_interval=7,
        models=["gpt-5-mini", "gpt-4o-mini"], destination=f"file://{tmp_path}/m",
    )  # fmt: skip
    assert task.poll_interval == 7
    assert BatchSensor(task_id="w", job="file:///x", poll_interval=3).poke_interval == 3
    assert EmbeddingRequest(input="{text}").model == ""
    hook = LLMBatchHook(conn_id)
    path = tmp_path / "in.jsonl"
    body = {"model": MODELS["openai"], "messages": [{"role": "user", "content": "hi"}]}
    lines = [{"custom_id": c, "method": "POST", "url": "/v1/chat/completions", "body": body} for c in "abc"]
    path.write_text("\n".join(map(json.dumps, lines)))
    batch_id = hook.create_batch(hook.upload_file(str(path))).id
    waited = BatchSensor(task_id="w", batch_id=batch_id, conn_id=conn_id, deferrable=False).execute(context)
    assert waited["rows"] == 3
    rows = [{"a": "x", "b": None}, {"a": None, "b": None}, {"a": "y", "b": "z"}]
    request = ChatRequest("m", user="{a} {b}")
    assert len(list(encode_rows(RowSpec(rows, request, None, {}), OpenAI(), "job"))) == 3
    assert len([r for r in caplog.records if "has nothing in" in r.getMessage()]) == 2
    with pytest.raises(InputError, match=r"row 0: its column 'b' is null"):
        list(encode_rows(RowSpec(rows, ChatRequest("m", user="{a} {b}", on_null="fail"), None, {}), OpenAI(), "job"))
    with pytest.raises(InputError, match="on_null"):
        RawRequest({}, on_null="x")


def test_nothing_of_another_package_is_named_as_ours():
    """Connection types, decorators, plugins and config sections that Airflow keeps once: ours collide with nobody's."""
    from importlib.metadata import entry_points

    from airflow_llm_batch.provider_info import get_provider_info

    def names(info):
        yield from (("connection", kind["connection-type"]) for kind in info.get("connection-types", ()))
        yield from (("decorator", kind["name"]) for kind in info.get("task-decorators", ()))
        yield from (("plugin", kind["name"]) for kind in info.get("plugins", ()))
        yield from (("config", section) for section in info.get("config", ()))
        yield from (("link", link) for link in info.get("extra-links", ()))

    ours = set(names(get_provider_info())) | {("plugin", "llm_batch")}
    others = [
        p.load()() for p in entry_points(group="apache_airflow_provider") if p.dist.name != "airflow-provider-llm-batch"
    ]
    assert len(others) > 5
    for info in others:
        assert not ours & set(names(info)), info["package-name"]


@pytest.mark.parametrize(
    "extra",
    [
        {"timeout": "2m"}, {"retries": "many"}, {"connect_timeout": -1}, {"batch_factor": "half"}, {"batch_factor": -1},
        {"batch_factor": 50}, {"prices": {"*": {"input": 1, "output": 1, "batch_factor": 50}}},
        {"lapse_seconds": "soon"}, {"limits": [1]}, {"headers": "x"}, {"create": "x"},
    ],
)  # fmt: skip
def test_an_extra_that_cannot_be_meant_fails_at_once(emulator, connect, context, extra):
    """Named with its value, before anything is sent; no retry helps."""
    conn_id = connect(emulator.url, **extra)
    with pytest.raises(ConfigurationError, match=next(iter(extra))) as raised:
        SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["a"], request=chat("openai")).execute(context)
    assert isinstance(raised.value, AirflowFailException)
    assert not emulator.vendor.batches


@pytest.mark.parametrize("wrong", [{"max_cost": "25 USD"}, {"metadata": ["a"]}, {"max_cost": "nan"}])
def test_an_argument_that_cannot_be_meant_fails_at_once(emulator, connect, context, wrong):
    """As above."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        SubmitBatchOperator(
            task_id="s", conn_id=connect(emulator.url), rows=["a"], request=chat("openai"), **wrong
        ).execute(context)
    assert not emulator.vendor.batches
