"""What is repeated, what is not, and where credentials go."""

from __future__ import annotations

import asyncio
import email.utils
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from support import SECRET

from airflow_llm_batch.exceptions import RequestRejected, VendorUnavailable
from airflow_llm_batch.models import Shard
from airflow_llm_batch.pauses import retry_after
from airflow_llm_batch.providers.bodies import Payload, repeatable, streamed
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.transport import Transport

BASE = "http://vendor.test/v1"


class Vendor:
    """A callable app in the vendor's place: answers from a list, remembers what came."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    def __call__(self, request):
        self.requests.append((request, request.read()))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def asynchronous(self, request):
        await request.aread()
        return self(request)


def on(vendor, retries=3):
    made = Transport(OpenAI(BASE), SECRET, retries=retries, pause=lambda state: 0)
    made.options["transport"] = httpx.MockTransport(vendor)
    return made


def ok(**body):
    return httpx.Response(200, json=body)


BATCH = {"id": "b1", "status": "in_progress"}


@pytest.mark.parametrize(
    "trouble", [httpx.Response(s) for s in (408, 429, 500, 502, 503, 504, 529)] + [httpx.ReadError("cut")]
)
def test_reading_is_repeated(trouble):
    """A GET survives every transient answer and a cut connection."""
    vendor = Vendor(trouble, ok(**BATCH))
    assert on(vendor).run(OpenAI(BASE).get("b1")).id == "b1"
    assert len(vendor.requests) == 2


@pytest.mark.parametrize("trouble", [httpx.Response(500), httpx.ReadTimeout("late"), httpx.RemoteProtocolError("cut")])
def test_a_create_that_may_have_arrived_is_sent_once(trouble):
    """Timeouts, cut connections and 5xx end a create: whether it went through is not for the driver to guess."""
    vendor = Vendor(trouble, ok(**BATCH))
    with pytest.raises(VendorUnavailable):
        on(vendor).run(OpenAI(BASE).create(Shard(endpoint="/v1/x"), "file-1", Payload(tuple, 0)))
    assert len(vendor.requests) == 1


@pytest.mark.parametrize(
    "trouble", [httpx.Response(429), httpx.ConnectError("refused"), httpx.ConnectTimeout("no route")]
)
def test_a_create_that_was_not_taken_is_sent_again(trouble):
    """A 429 and a connection that never stood are safe to repeat."""
    vendor = Vendor(trouble, ok(**BATCH))
    assert on(vendor).run(OpenAI(BASE).create(Shard(endpoint="/v1/x"), "file-1", Payload(tuple, 0))).id == "b1"
    assert len(vendor.requests) == 2


def test_an_upload_is_repeated_with_its_whole_body():
    """The streamed body is opened anew for the second try."""
    vendor = Vendor(httpx.Response(503), httpx.WriteError("cut"), ok(id="file-1"))
    content = Payload(lambda: iter([b"line 1\n", b"line 2\n"]), 14)
    assert on(vendor).run(OpenAI(BASE).upload("a.jsonl", content)) == "file-1"
    bodies = [body for _, body in vendor.requests]
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert b"line 1\nline 2\n" in bodies[0]
    assert int(vendor.requests[0][0].headers["content-length"]) == len(bodies[0])


EMPTY = [
    {"message": "You exceeded your current quota, please check your plan.", "code": "insufficient_quota"},
    {"message": "Enqueued token limit reached for gpt-5-mini.", "code": "token_limit_exceeded"},
]


@pytest.mark.parametrize("error", EMPTY)
def test_what_no_pause_mends_is_asked_once(error):
    """A 429 that tells of an empty account, or of a queue that is full for hours."""
    vendor = Vendor(httpx.Response(429, json={"error": error}), ok(id="b1"))
    with pytest.raises(RequestRejected, match=error["code"]):
        on(vendor).run(OpenAI(BASE).create(Shard(endpoint="/v1/x"), "f", Payload(tuple, 0)))
    assert len(vendor.requests) == 1


def test_giving_up_tells_what_failed_without_the_key():
    """After the last try the error names the call; the key is nowhere in it."""
    with pytest.raises(VendorUnavailable, match=r"GET http://vendor.test/v1/batches/b1 failed: ReadError") as caught:
        on(Vendor(*[httpx.ReadError("cut")] * 4)).run(OpenAI(BASE).get("b1"))
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_a_rejection_carries_the_vendors_own_words():
    """4xx: status, code and message."""
    answer = httpx.Response(404, json={"error": {"message": "No batch found", "type": "invalid", "code": "gone"}})
    with pytest.raises(RequestRejected, match="HTTP 404 gone: No batch found") as caught:
        on(Vendor(answer)).run(OpenAI(BASE).get("b1"))
    assert (caught.value.status, caught.value.code) == (404, "gone")


def test_credentials_go_to_the_configured_origin_only():
    """Another host, port or scheme gets none, and a redirect is not followed."""
    provider, vendor = (
        OpenAI(BASE),
        Vendor(*[ok() for _ in range(4)], httpx.Response(302, headers={"location": "http://x"})),
    )
    sender = on(vendor)
    for url in (f"{BASE}/a", "http://other.test/v1/a", "http://vendor.test:81/v1/a", "https://vendor.test/v1/a"):
        sender.send(httpx.Request("GET", url))
    sent = [request.headers.get("authorization") for request, _ in vendor.requests]
    assert sent == [f"Bearer {SECRET}", None, None, None]
    with pytest.raises(VendorUnavailable, match="HTTP 302"):
        sender.run(provider.get("b1"))


def moved(place, status=302):
    return httpx.Response(status, headers={"location": place})


def downloaded(vendor, base=BASE):
    """The body of a download, and where it was asked for, with which credentials."""
    with on(vendor).stream(httpx.Request("GET", f"{base}/files/f1/content")) as chunks:
        body = b"".join(chunks)
    return body, [(str(request.url), request.headers.get("authorization")) for request, _ in vendor.requests]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_download_is_followed_to_where_it_lies(status):
    """A store's signed address, and a path of the vendor's own; the key goes to the vendor alone."""
    key = f"Bearer {SECRET}"
    answers = (
        moved("/v1/blobs/1", status),
        moved("https://store.test/b?sig=1", status),
        httpx.Response(200, content=b"x\n"),
    )
    body, asked = downloaded(Vendor(*answers))
    assert body == b"x\n"
    assert asked == [
        (f"{BASE}/files/f1/content", key),
        ("http://vendor.test/v1/blobs/1", key),
        ("https://store.test/b?sig=1", None),
    ]


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Sign in</title>", b"\n <html>", b'<?xml version="1.0"?>'])
@pytest.mark.parametrize("ahead", [(), (moved("https://login.test/"),)])
def test_a_page_is_no_download(page, ahead):
    """A sign-in's, with 200, where a proxy sends whoever has no session: its lines are no rows; a try may follow."""
    with pytest.raises(VendorUnavailable, match=r"(login|vendor)\.test is a page.*nothing is asked again"):
        downloaded(Vendor(*ahead, httpx.Response(200, content=page)))
    whole = b'{"custom_id": "<html>"}\n'
    typed = httpx.Response(200, content=whole, headers={"content-type": "text/html"})
    assert downloaded(Vendor(typed))[0] == whole


@pytest.mark.parametrize("hops", [5, 6])
def test_a_download_is_not_followed_for_ever(hops):
    """Nor out of an encrypted connection."""
    vendor = Vendor(*[moved("/v1/again")] * hops, httpx.Response(200, content=b"x\n"))
    if hops == 5:
        assert downloaded(vendor)[0] == b"x\n"
    else:
        with pytest.raises(VendorUnavailable, match="HTTP 302"):
            downloaded(vendor)
    vendor = Vendor(moved("http://store.test/b"))
    with pytest.raises(VendorUnavailable, match="HTTP 302"):
        downloaded(vendor, "https://vendor.test/v1")
    assert len(vendor.requests) == 1


def test_the_asynchronous_driver_repeats_alike():
    """arun: the same flow, the same decisions, streamed bodies included."""

    async def go():
        vendor = Vendor(httpx.Response(503), ok(id="file-1"), httpx.Response(500))
        sender = on(vendor)
        sender.options["transport"] = httpx.MockTransport(vendor.asynchronous)
        async with sender.session() as client:
            assert await sender.arun(OpenAI(BASE).upload("a", Payload(lambda: iter([b"x\n"]), 2)), client) == "file-1"
            with pytest.raises(VendorUnavailable):
                await sender.arun(OpenAI(BASE).create(Shard(endpoint="/v1/x"), "f", Payload(tuple, 0)), client)
        return len(vendor.requests)

    assert asyncio.run(go()) == 3


def test_retry_after_is_read_in_every_form():
    """Milliseconds, seconds, an HTTP date; nonsense is ignored."""
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    pauses = [
        retry_after(httpx.Response(429, headers=headers))
        for headers in (
            {"retry-after-ms": "1500"},
            {"retry-after": "7"},
            {"retry-after": later},
            {"retry-after": "soon"},
            {},
        )
    ]
    assert pauses[:2] == [1.5, 7.0]
    assert 25 < pauses[2] <= 30
    assert pauses[3:] == [None, None]
    kind = "type.googleapis.com/google.rpc.RetryInfo"
    for delay, seconds in (("30s", 30.0), ("1.5s", 1.5), ("soon", None), (30, None)):
        details = [{"@type": kind, "retryDelay": delay}]
        assert retry_after(httpx.Response(429, json={"error": {"code": 429, "details": details}})) == seconds


def test_streamed_requests_name_host_and_length():
    """httpx adds no headers to a request with a stream of its own."""
    request = repeatable(streamed("POST", httpx.URL("http://h.test:8/x"), {}, Payload(tuple, 5)))
    assert (request.headers["host"], request.headers["content-length"]) == ("h.test:8", "5")
