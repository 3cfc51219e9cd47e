"""Whole jobs at Gemini's Developer API: what is its own, from the upload to the landed rows."""

from __future__ import annotations

import json

import pytest
from support import MODELS, SECRET
from support.jobs import chat, creates, land, spec, submit, texts
from support.tasks import drive, landed, operator

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import RefusedForGood
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators import FetchResultsOperator
from airflow_llm_batch.sensors import BatchSensor

FLASH = MODELS["gemini"]
UPLOAD = "POST /upload/v1beta/files"


@pytest.fixture
def gemini(emulator, connect):
    """A hook on the emulator."""
    made = LLMBatchHook(connect(emulator.url, "gemini"))
    yield made
    made.close()


def test_embeddings_are_a_job_like_any_other(gemini, store, emulator, tmp_path):
    """asyncBatchEmbedContent: one vector a row, of the size that was asked for, at the batch price."""
    request = EmbeddingRequest("gemini-embedding-001", input="{text}", dimensions=8)
    job, _ = submit(store, gemini, spec(texts(5), request, "id"))
    manifest, rows = land(store, gemini, job, tmp_path / "out")
    assert "POST /v1beta/models/gemini-embedding-001:asyncBatchEmbedContent" in emulator.vendor.calls
    assert [len(row["embedding"]) for row in rows] == [8] * 5
    tokens = sum(row["input_tokens"] for row in rows)
    assert manifest.cost_usd == pytest.approx(tokens * 0.15 / 1e6 / 2)


@pytest.mark.parametrize("option", [{}, {"api_version": "v1"}, {"download": "download"}])
def test_either_version_and_either_download_path_will_do(emulator, connect, store, tmp_path, option):
    """``api_version`` and ``download`` of the connection."""
    hook = LLMBatchHook(connect(emulator.url, "gemini", **option))
    job, _ = submit(store, hook, spec(texts(3), chat("gemini"), "id"))
    _, rows = land(store, hook, job, tmp_path / "out")
    assert sorted(row["text"] for row in rows) == ["text 0", "text 1", "text 2"]
    used = {call.partition("/v1")[2].partition("/")[0] for call in emulator.vendor.calls}
    assert used == {"" if option.get("api_version") == "v1" else "beta"}


@pytest.mark.parametrize("fault", [{"cut": "before"}, {"cut": "after"}, {"status": 503}])
@pytest.mark.parametrize("place", [0, 1])
def test_an_upload_that_breaks_off_is_made_whole(gemini, store, emulator, tmp_path, fault, place):
    """At its start, or in the midst of its content: one batch of all rows comes of it."""
    emulator.faults(http=[{"on": UPLOAD, "skip": place, **fault}])
    job, _ = submit(store, gemini, spec(texts(20), chat("gemini"), "id"))
    _, rows = land(store, gemini, job, tmp_path / "out")
    assert len(emulator.vendor.batches) == 1
    assert sorted(row["row"] for row in rows if row["status"] == "succeeded") == list(range(20))


@pytest.mark.parametrize(("times", "status"), [(1, 404), (1000, 404), (1, 403)])
def test_results_that_are_not_heard_of_yet_are_asked_for_again(gemini, store, emulator, tmp_path, times, status):
    """404 for a file that the batch names, for as long as results are waited for; what is forbidden is told at once."""
    job, _ = submit(store, gemini, spec(texts(3), chat("gemini"), "id"))
    emulator.faults(http=[{"on": "GET /v1beta/files/*", "status": status, "times": times}])
    if (times, status) == (1, 404):
        _, rows = land(store, gemini, job, tmp_path / "out")
        assert [row["status"] for row in rows] == ["succeeded"] * 3
    else:
        with pytest.raises(RefusedForGood, match=f"HTTP {status}"):
            land(store, gemini, job, tmp_path / "out")
        assert not list((tmp_path / "out").rglob("*.jsonl"))
    assert emulator.vendor.stats()["billed_rows"] == 3


def test_a_file_in_processing_is_waited_for(gemini, store, emulator, tmp_path):
    """The batch is created when its file is active."""
    emulator.faults(processing=2)
    job, _ = submit(store, gemini, spec(texts(2), chat("gemini"), "id"))
    assert land(store, gemini, job, tmp_path / "out")[0].counts["succeeded"] == 2


def test_a_lost_create_is_found_by_its_name_among_others(gemini, store, emulator, tmp_path):
    """Among other people's batches, over several pages; nothing is sent or billed twice."""
    gemini.provider.__class__.page_size, usual = 2, gemini.provider.page_size
    try:
        for n in range(3):
            submit(type(store)(f"{store.uri}-other-{n}"), gemini, spec(texts(2), chat("gemini")))
        emulator.faults(http=[{"on": creates("gemini"), "cut": "after"}])
        job, (batch,) = submit(store, gemini, spec(texts(2), chat("gemini")))
    finally:
        gemini.provider.__class__.page_size = usual
    assert emulator.vendor.calls[creates("gemini")] == len(emulator.vendor.batches) == 4
    assert emulator.vendor.batches[batch].metadata == {"displayName": job.shards[0].key}
    land(store, gemini, job, tmp_path / "out")
    assert emulator.vendor.stats()["billed_rows"] == 8


def test_a_full_queue_is_waited_for(connect, context, tmp_path):
    """429 on a create, in the words of an empty account: the shard is planned still, and created when there is room."""
    with Emulator(duration=0.2) as emulator:
        conn_id = connect(emulator.url, "gemini", limits={"requests": 2}, room_seconds=0.05, retries=0)
        emulator.faults(enqueued_tokens=60, refuse_enqueued=429)
        rows = [f"text {n}" for n in range(6)]
        summary = drive(operator(conn_id, tmp_path, "gemini", rows=rows, key=None, passthrough=None), context)
        assert summary["counts"]["succeeded"] == 6
        assert len(emulator.vendor.batches) == 3
        assert emulator.vendor.calls[creates("gemini")] > 3


def test_an_expired_batch_is_asked_again(connect, context, tmp_path):
    """It gives back nothing; all of its rows go into the next round."""
    with Emulator(duration=0.2, faults={"expire": 0.5, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, "gemini")
        summary = drive(
            operator(conn_id, tmp_path, "gemini", rows=["a", "b", "c"], key=None, passthrough=None), context
        )
        assert summary["counts"]["succeeded"] == 3
        assert summary["rounds"] == 2
        assert [batch.total for batch in emulator.vendor.batches.values()] == [3, 3]


def test_only_failed_rows_of_a_batch_that_succeeded_are_asked_again(connect, context, tmp_path):
    """Failed lines among good ones; blocks are refusals, which no second asking mends."""
    with Emulator(duration=0, faults={"row_errors": 0.4, "heal": 1}) as emulator:
        conn_id = connect(emulator.url, "gemini")
        rows = [f"row {n}" for n in range(20)]
        blocked = ["[[SAFETY]]", "[[BLOCK PROHIBITED_CONTENT]]"]
        task = operator(conn_id, tmp_path, "gemini", rows=[*rows, *blocked], key=None, passthrough=None)
        summary = drive(task, context)
        first, second = (batch.total for batch in emulator.vendor.batches.values())
        assert (first, 0 < second < 20) == (22, True)
        found = landed(summary)
        assert [row["text"] for row in found[:20]] == rows
        assert [(row["status"], row["error_code"]) for row in found[20:]] == [
            ("refused", "SAFETY"),
            ("refused", "PROHIBITED_CONTENT"),
        ]


def test_answers_are_structured_thought_and_many(gemini, store, tmp_path):
    """A schema, thoughts, several candidates: in output, reasoning and choices, with their tokens."""
    schema = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
    params = {"n": 2, "reasoning_effort": "low", "include_thoughts": True}
    request = ChatRequest(FLASH, user="{text}", output=schema, max_tokens=100, params=params)
    job, _ = submit(store, gemini, spec(texts(2), request, "id"))
    _, rows = land(store, gemini, job, tmp_path / "out")
    for row in rows:
        assert row["output"]["label"] in ("a", "b")
        assert (row["reasoning"], row["reasoning_tokens"], len(row["choices"])) == ("Thinking it over.", 16, 2)
        assert row["output_tokens"] > 16


def test_an_inline_batch_made_elsewhere_is_landed(emulator, connect, context, tmp_path):
    """By Google's SDK, without a file: its rows are named by their keys."""
    genai = pytest.importorskip("google.genai")
    client = genai.Client(api_key=SECRET, http_options={"base_url": emulator.url, "api_version": "v1beta"})
    source = [{"contents": [{"role": "user", "parts": [{"text": t}]}], "metadata": {"key": f"key-{t}"}} for t in "ab"]
    name = client.batches.create(model=FLASH, src=source).name
    conn_id = connect(emulator.url, "gemini")
    handle = BatchSensor(task_id="w", batch_id=name, conn_id=conn_id, deferrable=False).execute(context)
    summary = FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out").execute(context)
    assert [(row["key"], row["text"]) for row in landed(summary)] == [("key-a", "a"), ("key-b", "b")]


def test_the_key_is_in_no_file_and_goes_to_one_host(gemini, store, emulator, tmp_path):
    """Neither in the job directory nor in results."""
    job, _ = submit(store, gemini, spec(texts(2), chat("gemini"), "id"))
    land(store, gemini, job, tmp_path / "out")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


def test_lines_are_what_googles_own_types_read(gemini, store):
    """Every line that is sent, by the SDK's ``InlinedRequest`` parts."""
    types = pytest.importorskip("google.genai").types
    request = chat("gemini", params={"temperature": 0.1, "tools": [{"type": "function", "function": {"name": "f"}}]})
    job, _ = submit(store, gemini, spec(texts(2), request, "id"))
    lines = store.requests(0, job.shards[0].token).read_bytes().splitlines()
    assert [json.loads(line)["key"] for line in lines] == [f"{job.id}-0", f"{job.id}-1"]
    for line in lines:
        sent = json.loads(line)["request"]
        types.GenerationConfig.model_validate(sent["generationConfig"])
        [types.Content.model_validate(content) for content in sent["contents"]]
        [types.Tool.model_validate(tool) for tool in sent["tools"]]
