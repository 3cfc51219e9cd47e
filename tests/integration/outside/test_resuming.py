"""Downloads that break off: every byte is handed on once, and as few as the server allows are sent twice."""

from __future__ import annotations

import gzip
import random

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import MODELS, SECRET, read_jsonl
from support.breaking import Breaking, breaking

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.exceptions import VendorUnavailable
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.resuming import OVERLAP
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.transport import Transport

DATA = random.Random(1).randbytes(300_000)
ETAG, WEAK, DATE = '"5-x"', 'W/"5-x"', "Mon, 01 Jan 2024 00:00:00 GMT"
MARKS = ({}, {"etag": ETAG}, {"etag": WEAK}, {"last-modified": DATE}, {"etag": WEAK, "last-modified": DATE})


@pytest.fixture
def vendor():
    with breaking(DATA) as running:
        yield running


def read(vendor: Breaking, retries: int = 20) -> bytes:
    transport = Transport(OpenAI(f"{vendor.url}/v1"), SECRET, retries=retries, pause=lambda state: 0)
    try:
        with transport.stream(httpx.Request("GET", f"{vendor.url}/v1/files/f/content")) as chunks:
            return b"".join(chunks)
    finally:
        transport.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, len(DATA) - 1) | st.sampled_from([0, 1, OVERLAP, OVERLAP + 1, len(DATA) - 1]), max_size=5),
    st.sampled_from(["yes", "no"]),
    st.sampled_from(MARKS),
    st.booleans(),
    st.integers(0, len(DATA)),
)
def test_wherever_it_breaks_each_byte_comes_once(vendor, breaks, ranges, marks, sized, size):
    """Whether the server knows ranges or not, with validators and without, of a known length or not."""
    data = DATA[:size]
    vendor.versions[0], vendor.ranges, vendor.headers, vendor.sized = data, ranges, marks, sized
    vendor.breaks.clear()
    vendor.breaks.extend(breaks)
    vendor.asked.clear()
    vendor.sent.clear()
    assert read(vendor) == data
    if ranges == "yes":
        assert sum(vendor.sent) <= len(data) + OVERLAP * (len(vendor.sent) - 1)
    for asked in vendor.asked[1:]:
        assert asked.get("if-range") in (None, ETAG, DATE)
        assert asked["authorization"] == f"Bearer {SECRET}"


def test_what_breaks_at_nine_tenths_is_not_sent_twice(vendor):
    """As few bytes more as prove that it is the same file."""
    vendor.breaks.append(len(DATA) * 9 // 10)
    vendor.headers = {"etag": ETAG}
    assert read(vendor) == DATA
    assert sum(vendor.sent) == len(DATA) + OVERLAP
    assert vendor.asked[1]["range"] == f"bytes={len(DATA) * 9 // 10 - OVERLAP}-"
    assert vendor.asked[1]["if-range"] == ETAG


def test_a_packed_body_goes_on_too(vendor):
    """Ranges are of what travels."""
    packed = gzip.compress(DATA)
    vendor.versions[0], vendor.headers = packed, {"content-encoding": "gzip"}
    vendor.breaks.extend([len(packed) // 3, len(packed) // 2])
    assert read(vendor) == DATA
    assert sum(vendor.sent) == len(packed) + 2 * OVERLAP


@pytest.mark.parametrize(("ranges", "place"), [("no", 0), ("no", 100_000), ("no", 199_999), ("yes", 199_500)])
def test_another_file_is_not_put_behind_the_first_one(vendor, ranges, place):
    """Told by its bytes where no header tells it: by all that came, or by those that are asked for twice."""
    other = bytearray(DATA)
    other[place] ^= 1
    vendor.versions.append(bytes(other))
    vendor.breaks.append(200_000)
    vendor.ranges = ranges
    with pytest.raises(VendorUnavailable, match="broke off after 200,000 bytes"):
        read(vendor)


def test_a_changed_mark_tells_another_file(vendor, monkeypatch):
    """Without reading past what is known of it."""
    answer = vendor.answer

    def marked(asked):
        vendor.headers = {"etag": f'"{len(vendor.asked)}"'}
        return answer(asked)

    monkeypatch.setattr(vendor, "answer", marked)
    vendor.breaks.append(200_000)
    with pytest.raises(VendorUnavailable, match="is another file now"):
        read(vendor)


def test_a_range_that_is_not_the_rest_is_not_taken_for_it(vendor):
    """A part of what was asked for would end the file too early; what was read of it is not handed on."""
    vendor.breaks.append(200_000)
    vendor.ranges = "wrong"
    with pytest.raises(VendorUnavailable, match="RemoteProtocolError"):
        read(vendor)


def test_a_refused_range_ends_it_as_the_break_would_have(vendor):
    vendor.breaks.append(200_000)
    vendor.ranges = "refused"
    with pytest.raises(VendorUnavailable, match="RemoteProtocolError"):
        read(vendor)


def test_a_server_that_always_breaks_is_left(vendor):
    """So many tries without getting on, and as many requests more."""
    vendor.breaks.extend([200_000] * 50)
    with pytest.raises(VendorUnavailable, match="RemoteProtocolError"):
        read(vendor, retries=3)
    assert len(vendor.asked) == 4


def test_who_gets_on_is_not_counted_as_failing(vendor):
    """A file of many breaks is read to its end, as long as each gets it on by a megabyte."""
    data = DATA * 40
    vendor.versions[0] = data
    vendor.breaks.extend(range(1_100_000, len(data), 1_100_000))
    assert read(vendor, retries=1) == data
    assert len(vendor.asked) == 11
    assert sum(vendor.sent) == len(data) + OVERLAP * 10


def test_a_job_is_landed_from_a_download_that_broke_off(emulator, connect, context, tmp_path, monkeypatch):
    """The emulator knows ranges: the rest of the results is all that it sends again."""
    sent = []

    class Broken(httpx.SyncByteStream):
        def __init__(self, stream, left):
            self.stream, self.left = stream, left

        def __iter__(self):
            for chunk in self.stream:
                sent.append(len(chunk[: self.left]))
                yield chunk[: self.left]
                self.left -= len(chunk)
                if self.left <= 0:
                    raise httpx.ReadError("cut")

        def close(self):
            self.stream.close()

    send = httpx.Client.send
    bodies = []

    def sending(client, request, **how):
        response = send(client, request, **how)
        if request.url.path.endswith("/content"):
            size = int(response.headers["content-length"])
            bodies.append((response.status_code, size))
            response.stream = Broken(response.stream, size * 9 // 10 if len(bodies) == 1 else size + 1)
        return response

    monkeypatch.setattr(httpx.Client, "send", sending)
    monkeypatch.setattr("airflow_llm_batch.resuming.time.sleep", lambda seconds: None)
    rows = [{"id": f"k{n}", "text": f"text {n} {'x' * 200}"} for n in range(500)]
    request = ChatRequest(MODELS["openai"], user="{text}", max_tokens=200)
    asked = {"rows": rows, "key": "id", "conn_id": connect(emulator.url), "request": request}
    job = SubmitBatchOperator(task_id="s", **asked).execute(context)
    job = BatchSensor(task_id="w", job=job, deferrable=False).execute(context)
    summary = FetchResultsOperator(task_id="f", job=job, destination=f"file://{tmp_path}/out").execute(context)
    landed = [(row["key"], row["text"]) for file in summary["files"] for row in read_jsonl(file)]
    assert landed == [(row["id"], row["text"]) for row in rows]
    (first, size), (second, rest) = bodies
    assert (first, second) == (200, 206)
    assert rest <= size // 10 + 1 + OVERLAP
    assert sum(sent) == size + OVERLAP
