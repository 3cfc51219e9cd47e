"""Answers that are compressed though nobody asked, or have no end: what is read and held of them is bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from types import SimpleNamespace

import genai_prices.data  # noqa: F401  (to trace the memory of its import takes minutes)
import httpx
import pytest
from support import read_jsonl
from support.endless import MB, bomb, endless, padded, peak
from support.servers import GOOD

from airflow_llm_batch import bounded
from airflow_llm_batch.bounded import LARGEST, Unpacking, split_lines
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.exceptions import RequestRejected, VendorUnavailable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.models import Batch, Shard
from airflow_llm_batch.operators import CompletionOperator
from airflow_llm_batch.providers.base import Payload

#: what may be held at once of an answer of ``LARGEST``: its parts and, for a moment, the whole
MOST = 2 * LARGEST + 16 * MB
RUNNING = {"id": "b1", "status": "in_progress"}


@pytest.fixture
def vendor():
    with endless() as running:
        yield running


@pytest.fixture
def hook(vendor, connect):
    made = LLMBatchHook(connect(vendor.url, retries=3))
    made.transport.pause = lambda state: 0
    yield made
    made.close()


async def looked(hook):
    async with hook.session() as looking:
        return await looking.arun(looking.provider.get("b1"))


WAYS = {"run": lambda hook: hook.get_batch("b1"), "arun": lambda hook: asyncio.run(looked(hook))}


@pytest.fixture(params=WAYS)
def get(request):
    return WAYS[request.param]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare deflate", "", "GZIP", "identity"])
def test_an_answer_compressed_unasked_is_read_all_the_same(vendor, hook, get, encoding):
    """gzip and deflate in both spellings of it; more than one member of gzip."""
    text = json.dumps({**RUNNING, "metadata": {"k": "v" * 300_000}}).encode()
    packer = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(text[:1000]) + gzip.compress(text[1000:]),
        "GZIP": gzip.compress(text) + b"\0" * 8,
        "deflate": zlib.compress(text),
        "bare deflate": packer.compress(text) + packer.flush(),
    }.get(encoding, text)
    vendor.encoding = encoding.rpartition(" ")[2]
    vendor.chunks = lambda: (packed[at : at + 997] for at in range(0, len(packed), 997))
    assert get(hook).metadata == {"k": "v" * 300_000}


def test_a_bomb_is_not_unpacked(vendor, hook, get):
    """2 GB in 2 MB: refused at 64 MB, once, in bounded memory, with limit, size and remedy."""
    packed = padded(RUNNING, 2048)
    assert len(packed) < 3 * MB
    vendor.encoding, vendor.chunks = "gzip", lambda: iter([packed])

    def refused():
        with pytest.raises(VendorUnavailable) as caught:
            get(hook)
        return str(caught.value)

    message, most = peak(refused)
    assert "/batches/b1 was answered with more than 64 MB (67," in message
    assert "the rest was not read." in message
    assert "Look at what answers at the connection's address" in message
    assert "billed" not in message
    assert most < MOST
    assert vendor.calls == 1


def test_an_answer_without_end_is_hung_up_on(vendor, hook, get):
    """What was sent is what is read, and little more than the limit."""
    vendor.chunks = vendor.zeros

    def refused():
        with pytest.raises(VendorUnavailable, match="more than 64 MB"):
            get(hook)

    assert peak(refused)[1] < MOST
    assert vendor.sent < LARGEST + 16 * MB
    assert vendor.calls == 1


def test_an_answer_that_trickles_ends_too(vendor, hook, get):
    """Seconds, not bytes: it counts as a connection that failed, and a reading is repeated."""
    hook.transport.slowest = 0.2
    vendor.chunks = vendor.trickle
    with pytest.raises(VendorUnavailable, match="still coming after 0 seconds"):
        get(hook)
    assert vendor.calls == 4


@pytest.mark.parametrize("broken", ["cut", "not gzip", "br", "gzip, gzip", "zstd"])
def test_what_cannot_be_unpacked_is_a_failed_answer(vendor, hook, get, broken):
    """Cut off, not what it says, or an encoding that has no bound: by name, and what to do."""
    whole = gzip.compress(json.dumps(RUNNING).encode())
    vendor.encoding = broken if broken in ("br", "gzip, gzip", "zstd") else "gzip"
    vendor.chunks = lambda: iter([{"cut": whole[:-12], "not gzip": b"{}" * 20}.get(broken, whole)])
    why = {"cut": "breaks off before its end", "not gzip": "DecodingError"}.get(broken, "was not asked for")
    with pytest.raises(VendorUnavailable, match=why):
        get(hook)


@pytest.mark.parametrize("how", ["bomb", "endless", "br"])
def test_a_create_that_was_answered_too_largely_may_exist(vendor, hook, how):
    """Sent once; whether it is billed is not known, and a batch is looked for as after a lost answer."""
    packed = padded(RUNNING, 200)
    vendor.encoding = {"bomb": "gzip", "br": "br"}.get(how, "")
    vendor.chunks = vendor.zeros if how == "endless" else lambda: iter([packed])
    create = hook.provider.create(Shard(endpoint="/v1/x"), "file-1", Payload(tuple, 0))
    with pytest.raises(VendorUnavailable) as caught:
        hook.run(create)
    assert vendor.calls == 1
    assert how == "br" or "Whether it was carried out, and is billed, is not known." in str(caught.value)


@pytest.mark.parametrize("encoding", ["", "gzip", "br"])
def test_a_refusal_stays_one_however_long_it_is(vendor, hook, get, encoding):
    """4xx is 4xx: a megabyte of it is read, and nothing was billed."""
    packed = bomb(300)
    vendor.status, vendor.encoding = 404, encoding
    vendor.chunks = vendor.zeros if not encoding else lambda: iter([packed])

    def refused():
        with pytest.raises(RequestRejected, match="HTTP 404"):
            get(hook)

    assert peak(refused)[1] < 16 * MB
    assert vendor.sent < 16 * MB
    assert vendor.calls == 1


def test_streamed_lines_are_unpacked_in_constant_memory(vendor, hook):
    """A file of 300 MB of lines in 300 kB: every line, and no more than some of them at once."""
    line = b'{"custom_id": "a"}' + b" " * 1000 + b"\n"
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join([*(packer.compress(line * 1000) for _ in range(300)), packer.flush()])
    vendor.encoding, vendor.chunks = "gzip", lambda: (packed[at : at + 2**16] for at in range(0, len(packed), 2**16))

    def count():
        bodies = hook.bodies(hook.provider.download("out"))
        return sum(1 for chunks in bodies for found in split_lines(chunks) if found)

    lines, most = peak(count)
    assert lines == 300_000
    assert most < 8 * MB


def test_a_line_without_end_is_one_that_cannot_be_read(vendor, hook, tmp_path):
    """2 GB of one line: its beginning is kept, in bounded memory, and the lines behind it are read."""
    packed = bomb(2048, b"x", head=b'{"custom_id": "a"}\n', tail=b'\n{"custom_id": "b"}\n')
    vendor.encoding, vendor.chunks = "gzip", lambda: iter([packed])
    batch = Batch(id="b1", status="completed", outcome="completed", files=("out",))
    hook.get_batch = lambda batch_id: batch
    size, most = peak(lambda: hook.download("b1", f"file://{tmp_path}/raw.jsonl"))
    assert most < MOST
    assert size < 2 * MB
    lines = (tmp_path / "raw.jsonl").read_bytes().splitlines()
    assert (lines[0], lines[2], lines[1].strip(b"x")) == (b'{"custom_id": "a"}', b'{"custom_id": "b"}', b"")


@pytest.mark.parametrize("how", ["bomb", "endless", "br", "cut"])
def test_a_call_that_is_answered_without_end_lands_as_invalid_and_is_not_repeated(vendor, connect, tmp_path, how):
    """It was answered, so most likely billed: one call a row, the limit in its error, the others' answers kept."""
    packed = {"bomb": padded(GOOD, 500), "cut": gzip.compress(json.dumps(GOOD).encode())[:-12]}.get(how, b"")
    vendor.encoding = {"endless": "", "br": "br"}.get(how, "gzip")
    vendor.chunks = vendor.zeros if how == "endless" else lambda: iter([packed])
    operator = CompletionOperator(
        task_id="t", conn_id=connect(vendor.url), rows=["a", "b"], request=ChatRequest("gpt-5-mini", max_tokens=9),
        storage=f"file://{tmp_path}/jobs", destination=f"file://{tmp_path}/out", fail_on="none", concurrency=1,
    )  # fmt: skip
    context = {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id="t", map_index=-1)}
    summary, most = peak(lambda: operator.execute(context))
    rows = [row for file in summary["files"] for row in read_jsonl(file)]
    assert [(row["status"], row["error_code"]) for row in rows] == [("invalid", "unreadable_answer")] * 2
    assert all("It may be billed, and was not asked for again." in row["error_message"] for row in rows)
    assert how not in ("bomb", "endless") or all("more than 64 MB" in row["error_message"] for row in rows)
    assert vendor.calls == 2
    assert most < MOST


def test_a_call_that_is_answered_compressed_is_answered(vendor, connect, tmp_path):
    """gzip that nobody asked for, from a server of one's own."""
    packed = gzip.compress(json.dumps(GOOD).encode())
    vendor.encoding, vendor.chunks = "gzip", lambda: iter([packed])
    operator = CompletionOperator(
        task_id="t", conn_id=connect(vendor.url), rows=["a"], request=ChatRequest("gpt-5-mini", max_tokens=9),
        storage=f"file://{tmp_path}/jobs", destination=f"file://{tmp_path}/out",
    )  # fmt: skip
    context = {"ti": SimpleNamespace(dag_id="dag", run_id="run", task_id="t", map_index=-1)}
    assert operator.execute(context)["counts"]["succeeded"] == 1


def test_pieces_are_small_whatever_is_unpacked():
    """No piece is larger than what is unpacked at once, however it is cut."""
    packed = bomb(50)
    for step in (1000, len(packed)):
        unpacking = Unpacking("gzip")
        sizes = []
        for at in range(0, len(packed), step):
            sizes += [len(piece) for piece in unpacking.pieces(packed[at : at + step])]
        assert sum(sizes) + len(unpacking.rest()) == 50 * MB
        assert max(sizes) <= bounded.PIECE
    with pytest.raises(httpx.DecodingError):
        list(Unpacking("gzip").pieces(b"nonsense"))
