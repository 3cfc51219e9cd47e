"""Events that vendors push: proved, kept once, and a wait that they wake."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import jwt
import openai
import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from support.jobs import chat, spec, submit, texts

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.emulator.events import Keys, event_of, signed, stamped
from airflow_llm_batch.emulator.server import Server
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.waiting import mail as mails
from airflow_llm_batch.jobs.waiting.mail import Mail
from airflow_llm_batch.operators import CleanupJobsOperator
from airflow_llm_batch.plugin import hooks
from airflow_llm_batch.signing_keys import SigningKeys
from airflow_llm_batch.storage import below
from airflow_llm_batch.triggers import BatchTrigger
from airflow_llm_batch.webhooks import STAMPED, Event, Mailbox, NotAuthentic, verified

SECRET = "whsec_" + base64.b64encode(b"a shared secret of tests").decode()
BODY = json.dumps({"id": "evt_1", "type": "batch.completed", "created_at": 1, "data": {"id": "batch_1"}}).encode()


def now():
    return datetime.now(UTC)


@pytest.fixture
def storage(tmp_path):
    return f"file://{tmp_path}/storage"


@pytest.fixture
def door(storage, connect):
    """The route, on a connection that has a secret."""
    connect("http://127.0.0.1:9", webhook_secret=SECRET)
    connect("http://127.0.0.1:9", conn_id="llm_without")
    return TestClient(hooks.make_hooks(storage))


def push(door, body=BODY, conn_id="llm_test", secret=SECRET, at=None, name="wh_1", **headers):
    made = signed(secret, body, name, time.time() if at is None else at)
    return door.post(f"/hooks/{conn_id}", content=body, headers={**made, **headers})


def test_the_emulator_signs_as_the_vendors_libraries_want():
    """openai's own client and the standardwebhooks library take what the emulator sends."""
    headers = signed(SECRET, BODY, "wh_1", time.time())
    assert Webhook(SECRET).verify(BODY, headers)["data"]["id"] == "batch_1"
    event = openai.OpenAI(api_key="k", webhook_secret=SECRET).webhooks.unwrap(BODY, headers)
    assert (event.type, event.data.id) == ("batch.completed", "batch_1")


def test_an_event_is_kept_once(door, storage):
    """Repeats are answered, and nothing is kept of them."""
    assert push(door).json() == {"kept": True}
    assert [push(door).json(), push(door).json()] == [{"kept": False}] * 2
    assert push(door, name="wh_2").json() == {"kept": True}
    box = Mailbox(storage, "llm_test")
    assert sorted((e.id, e.kind, e.batch) for e in box.events(box.names(now()))) == [
        ("wh_1", "batch.completed", "batch_1"),
        ("wh_2", "batch.completed", "batch_1"),
    ]


def test_old_events_go_with_old_jobs(storage):
    """Cleaning up removes days that nobody looks at; what a repeat is known by stays, whatever the age asked for."""
    box = Mailbox(storage, "llm_test")
    for days in (0, 1, 3, 40):
        assert box.keep(Event(id=f"e{days}", kind="k", batch="b", at=now() - timedelta(days=days)))

    def left():
        return sorted(file.parent.name for file in below(f"{storage}/_events", "*.json"))

    days = {n: (now() - timedelta(days=n)).strftime("%Y%m%d") for n in (0, 1, 3, 40)}
    CleanupJobsOperator(task_id="c", storage=storage, older_than=timedelta(days=30), dry_run=True).execute({})
    assert len(left()) == 4
    CleanupJobsOperator(task_id="c", storage=storage, older_than=timedelta(days=30)).execute({})
    assert left() == sorted(days[n] for n in (0, 1, 3))
    CleanupJobsOperator(task_id="c", storage=storage, older_than=0).execute({})
    assert left() == sorted(days[n] for n in (0, 1))


def forgeries():
    yield "another secret", {"secret": "whsec_" + base64.b64encode(b"guessed").decode()}
    yield "old", {"at": time.time() - 3600}
    yield "from the future", {"at": time.time() + 3600}
    yield "no connection", {"conn_id": "nobody"}
    yield "a connection without a secret", {"conn_id": "llm_without"}
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        for text in ("", "nonsense", "v1,", "v1,!!!", "v2,AAAA", "9" * 40):
            yield f"{name} is {text!r}", {name: text}


@pytest.mark.parametrize(
    ("what", "change"), list(forgeries()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_forgeries_are_refused_alike(door, storage, what, change):
    """401 and the same words each time: whether the connection exists is not told either."""
    answer = push(door, **change)
    assert (answer.status_code, answer.json()["detail"]) == (401, hooks.REFUSED)
    assert not Mailbox(storage, "llm_test").names(now())


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_body_that_was_changed_is_refused(place, other):
    """Whichever byte it is."""
    headers = signed(SECRET, BODY, "wh_1", time.time())
    changed = BODY[:place] + bytes([BODY[place] ^ other]) + BODY[place + 1 :]
    with pytest.raises(NotAuthentic):
        verified(SECRET, headers, changed, now())


def test_anything_with_a_shared_secret_may_push():
    """A signature of the body alone, which has to tell its time."""

    def push(secret="s3cret", **body):
        data = json.dumps(body).encode()
        return verified("s3cret", {"x-hub-signature-256": "sha256=" + sign(secret, data)}, data, now())

    def sign(secret, data):
        return hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()

    event = push(id="e1", status="completed", batch_id="b1", timestamp=now().isoformat())
    assert (event.id, event.kind, event.batch) == ("e1", "completed", "b1")
    for odd in ({"batch_id": "b1"}, {"batch_id": "b1", "timestamp": (now() - timedelta(hours=1)).isoformat()}):
        with pytest.raises(NotAuthentic):
            push(**odd)
    with pytest.raises(NotAuthentic):
        push("other", batch_id="b1", timestamp=now().isoformat())


def test_too_much_is_refused(door, storage):
    """A body over 64 KB, and more events at once than a vendor has."""
    assert push(door, b"x" * 65_537).status_code == 413
    door = TestClient(hooks.make_hooks(storage, clock=lambda: 0.0))
    codes = [push(door, name=f"n{n}", secret="whsec_AAAA").status_code for n in range(int(hooks.BURST) + 20)]
    assert codes == [401] * int(hooks.BURST) + [429] * 20
    # Another connection has a share of its own.
    assert push(door, conn_id="llm_without").status_code == 401


def test_a_store_that_is_down_has_the_event_sent_again(connect, tmp_path):
    """503, and the same event is kept when it comes once more."""
    connect("http://127.0.0.1:9", webhook_secret=SECRET)
    (tmp_path / "storage").write_text("in the way")
    door = TestClient(hooks.make_hooks(f"file://{tmp_path}/storage"))
    assert push(door).status_code == 503
    (tmp_path / "storage").unlink()
    assert push(door).json() == {"kept": True}


def test_nothing_of_a_body_is_logged(door, caplog):
    """Neither of a good event nor of a bad one."""
    caplog.set_level(logging.DEBUG)
    body = json.dumps({"id": "e", "type": "batch.completed", "data": {"id": "b", "secret": "planted-in-body"}}).encode()
    push(door, body)
    push(door, body, secret="whsec_AAAA")
    push(door, b"planted-in-body {")
    assert "planted-in-body" not in caplog.text


@pytest.fixture
def served(storage):
    """The route on a port of its own."""
    server = Server(uvicorn.Config(hooks.make_hooks(storage), port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(500):
        if server.started:
            break
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/hooks/llm_test"
    server.stop()
    thread.join(10)


@pytest.mark.parametrize("faults", [{}, {"repeated_events": 2}, {"lost_events": 1}], ids=["once", "repeated", "lost"])
def test_an_event_wakes_what_waits(connect, store, served, storage, monkeypatch, faults):
    """With looks five minutes apart the wait ends with the event; one that is lost is made up for by the next look."""
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", storage)
    monkeypatch.setattr(mails, "EVERY", 0.2)
    settings = {"duration": 2, "webhook_url": served, "webhook_secret": SECRET, "faults": faults}
    with Emulator(**settings) as emulator:
        conn_id = connect(emulator.url, webhook_secret=SECRET)
        _, [batch_id] = submit(store, LLMBatchHook(conn_id), spec(texts(3), chat("openai")))
        apart = 3 if "lost_events" in faults else 300
        trigger = BatchTrigger(store.uri, conn_id, poll_interval=apart, max_poll_interval=apart)

        async def fired():
            return (await asyncio.wait_for(anext(trigger.run()), 60)).payload

        assert asyncio.run(fired())["status"] == "ended"
        looks = emulator.vendor.calls[f"GET /v1/batches/{batch_id}"]
    # One when the wait began and one for the event, which may come a moment before the batch shows its end.
    assert 2 <= looks <= 3
    box = Mailbox(storage, "llm_test")
    assert len(box.names(now())) == (0 if "lost_events" in faults else 1)


def test_gemini_tells_of_a_single_batch_by_its_own_key(connect, store, served, storage, monkeypatch):
    """No secret: the batch is created with the route's address, the event is signed with a key of the vendor's, which
    is fetched once; what another key has signed, or for somebody else, or long ago, is refused."""
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", storage)
    monkeypatch.setattr(mails, "EVERY", 0.2)
    with Emulator(duration=2) as emulator:
        conn_id = connect(emulator.url, "gemini", webhook_url=served)
        _, [batch_id] = submit(store, LLMBatchHook(conn_id), spec(texts(3), chat("gemini")))
        trigger = BatchTrigger(store.uri, conn_id, poll_interval=300, max_poll_interval=300)

        async def fired():
            return (await asyncio.wait_for(anext(trigger.run()), 60)).payload

        assert asyncio.run(fired())["status"] == "ended"
        [event] = Mailbox(storage, conn_id).events(Mailbox(storage, conn_id).names(now()))
        assert event.batch == f"batches/{batch_id}"
        assert emulator.vendor.calls["GET /.well-known/jwks.json"] == 1
        body = json.dumps(event_of(SimpleNamespace(dialect="gemini", id="b1"), "completed", time.time())).encode()
        stranger, at = Keys(), time.time()
        forged = {
            "another's key": stranger.signed(body, "wh", served, at),
            "no signature": {"webhook-id": "wh", "webhook-timestamp": str(int(at))},
            "an HMAC without a secret": signed(SECRET, body, "wh", at),
            "none": {**stranger.signed(body, "wh", served, at), "webhook-signature": unsigned()},
        }
        for what, headers in forged.items():
            assert httpx.post(served, content=body, headers=headers).status_code == 401, what
        assert emulator.vendor.calls["GET /.well-known/jwks.json"] == 1, "unknown keys are not fetched again and again"


def test_openrouter_tells_of_each_batch_with_the_workspaces_secret(connect, store, served, storage, monkeypatch):
    """The create names the route; a signature of another secret, of another body, or of long ago is refused."""
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", storage)
    monkeypatch.setattr(mails, "EVERY", 0.2)
    with Emulator(duration=2, webhook_secret="workspace") as emulator:
        url = f"{emulator.url}/openrouter/api/v1"
        conn_id = connect(url, "openrouter", webhook_url=served, webhook_secret="workspace")
        _, [batch_id] = submit(store, LLMBatchHook(conn_id), spec(texts(3), chat("openrouter")))
        trigger = BatchTrigger(store.uri, conn_id, poll_interval=300, max_poll_interval=300)

        async def fired():
            return (await asyncio.wait_for(anext(trigger.run()), 60)).payload

        assert asyncio.run(fired())["status"] == "ended"
        [event] = Mailbox(storage, conn_id).events(Mailbox(storage, conn_id).names(now()))
        assert (event.batch, event.is_end) == (batch_id, True)
        body = json.dumps(event_of(SimpleNamespace(dialect="openrouter", id="b1"), "completed", 1.0)).encode()
        at = time.time()
        right = stamped("workspace", body, "b1-completed", at)
        assert httpx.post(served, content=body, headers=right).json() == {"kept": True}
        assert httpx.post(served, content=body, headers={**right, "x-openrouter-idempotency-key": "other"}).json() == {
            "kept": False
        }
        forged = {
            "another secret": stamped("guessed", body, "b1-completed", at),
            "another time": stamped("workspace", body, "b1-completed", at - 400),
            "another body": stamped("workspace", body + b" ", "b1-completed", at),
            "no time": {STAMPED: right[STAMPED].partition(",")[2]},
            "no signature": {STAMPED: right[STAMPED].partition(",")[0]},
            "no secret": {STAMPED: f"t={int(at)},v1="},
        }
        for what, headers in forged.items():
            assert httpx.post(served, content=body, headers=headers).status_code == 401, what


def test_openrouters_route_wants_a_secret(connect, emulator):
    """An address alone would have whoever knows it believed."""
    hook = LLMBatchHook(connect(emulator.url, "openrouter", webhook_url="https://airflow.example/hooks/c"))
    with pytest.raises(ConfigurationError, match=r"webhook_secret is not.*Nothing was sent"):
        hook.provider  # noqa: B018


def unsigned():
    return jwt.encode({"exp": time.time() + 300}, None, algorithm="none", headers={"kid": "x"})


def test_a_signature_of_the_vendors_is_for_us_and_lately(connect, monkeypatch):
    """For another address, expired, without an end, or with a time of another day: refused; PyJWT has made them."""
    keys, url = Keys(), "https://airflow.example/llm-batches/hooks/gemini"

    class Known(SigningKeys):
        def key(self, name):
            return jwt.PyJWKSet.from_dict(keys.public()).keys[0]

    def attempt(timestamp=None, **claims):
        at = time.time()
        token = jwt.encode({"aud": url, "exp": at + 300, **claims}, keys.private, "RS256", headers={"kid": keys.name})
        headers = {"webhook-id": "wh", "webhook-timestamp": str(int(timestamp or at)), "webhook-signature": token}
        return verified("", headers, BODY, now(), Known(""), url).id

    assert attempt() == attempt(aud=["https://else", url]) == "wh"
    for wrong in ({"aud": "https://else"}, {"exp": time.time() - 60}, {"exp": None}, {"timestamp": time.time() - 3600}):
        with pytest.raises(NotAuthentic):
            attempt(**wrong)


def test_events_that_the_store_withholds_are_read_later(storage, monkeypatch):
    """A look that fails half-way loses nothing, and the first one that succeeds is the first."""
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", storage)
    box, mail = Mailbox(storage, "llm_test"), Mail("llm_test")
    box.keep(Event(id="e0", kind="", batch="b0", at=now()))
    for name, until in (("names", None), ("events", "b1")):
        with monkeypatch.context() as patch:
            patch.setattr(Mailbox, name, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                mail.look()
        found = [event.batch for event in mail.look()]
        assert found == ([until] if until else [])
        box.keep(Event(id="e1", kind="", batch="b1", at=now()))


def test_geminis_events_name_the_batch_as_its_listing_does():
    """``batches/...`` in ``data.id``."""
    event = event_of(SimpleNamespace(dialect="gemini", id="b1"), "completed", time.time())
    body = json.dumps(event).encode()
    event = verified(SECRET, signed(SECRET, body, "wh", time.time()), body, now())
    assert (event.kind, event.batch) == ("batch.succeeded", "batches/b1")
