"""The emulator's Vertex AI, judged by Google's own SDK over HTTP, and by Anthropic's for Claude."""

from __future__ import annotations

import json

import anthropic
import httpx
import pytest
from support.google import genai_client, put, results, vertex_line
from support.sdks import until

from airflow_llm_batch.emulator import Emulator

pytest.importorskip("google.genai")
from google.genai import errors, types

GEMINI = "gemini-2.5-flash"


def submit(client, emulator, *lines, model=GEMINI, **config):
    put(emulator, "gs://b/in.jsonl", *lines)
    wanted = types.CreateBatchJobConfig(dest="gs://b/out", display_name="d1", **config)
    return client.batches.create(model=model, src="gs://b/in.jsonl", config=wanted)


def test_a_batch_from_the_store_into_it(emulator):
    """The SDK creates a job, finds it, and its results parse as the SDK's types."""
    client = genai_client(emulator)
    job = submit(client, emulator, vertex_line("r-0", "hello"), vertex_line("r-1", "there"))
    assert job.name.startswith("projects/p1/locations/us-central1/batchPredictionJobs/")
    assert job.model == f"publishers/google/models/{GEMINI}"
    job = until(lambda: client.batches.get(name=job.name), lambda j: j.done)
    assert job.state == types.JobState.JOB_STATE_SUCCEEDED
    assert job.completion_stats.successful_count == 2
    lines = results(emulator, job.output_info.gcs_output_directory)
    answers = {
        line["request"]["labels"]["llm_batch_row"]: types.GenerateContentResponse.model_validate(line["response"])
        for line in lines
    }
    assert {row: answer.text for row, answer in answers.items()} == {"r-0": "hello", "r-1": "there"}
    assert all(line["status"] == "" for line in lines)
    assert [j.name for j in client.batches.list(config={"filter": 'displayName="d1"'})] == [job.name]
    assert [j.name for j in client.batches.list(config={"filter": 'displayName="d2"'})] == []


def test_listings_are_paged(emulator):
    """Newest first; the SDK walks over the pages."""
    client = genai_client(emulator)
    names = [submit(client, emulator, vertex_line("r-0", "x")).name for _ in range(5)]
    assert [job.name for job in client.batches.list(config={"page_size": 2})] == names[::-1]


def test_cancelling_and_deleting():
    """A running job is cancelled, an ended one deleted; neither the other way about."""
    with Emulator(duration=30) as emulator:
        client = genai_client(emulator)
        job = submit(client, emulator, vertex_line("r-0", "x"))
        with pytest.raises(errors.ClientError):
            client.batches.delete(name=job.name)
        client.batches.cancel(name=job.name)
        assert client.batches.get(name=job.name).state == types.JobState.JOB_STATE_CANCELLING
        emulator.vendor.batches[job.name.rpartition("/")[2]].duration = 0
        assert client.batches.get(name=job.name).state == types.JobState.JOB_STATE_CANCELLED
        with pytest.raises(errors.ClientError):
            client.batches.cancel(name=job.name)
        client.batches.delete(name=job.name)
        with pytest.raises(errors.ClientError) as gone:
            client.batches.get(name=job.name)
        assert gone.value.code == 404


def test_what_is_wrong_with_a_job_is_refused_at_once(emulator):
    """Fields and labels as documented, in Google's own error shape."""
    good = {
        "displayName": "d",
        "model": f"publishers/google/models/{GEMINI}",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["gs://b/in"]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "gs://b/out"}},
    }
    jobs = f"{emulator.url}/v1/projects/p1/locations/us-central1/batchPredictionJobs"
    for change in (
        {"displayName": ""},
        {"model": "gemini"},
        {"inputConfig": {"instancesFormat": "csv"}},
        {"outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "s3://b"}}},
        {"labels": {"Team": "a"}},
        {"labels": {"team": "A b"}},
        {"labels": {f"l{n}": "" for n in range(65)}},
    ):
        response = httpx.post(jobs, json={**good, **change})
        assert (response.status_code, response.json()["error"]["status"]) == (400, "INVALID_ARGUMENT"), change
    assert httpx.post(jobs, content=b"[").status_code == 400
    assert httpx.get(jobs, params={"filter": "nonsense"}).status_code == 400


def test_what_is_wrong_with_the_input_fails_the_job(emulator):
    """A missing file, an empty one, and one that is no JSONL; with an error and no counts."""
    client = genai_client(emulator)
    put(emulator, "gs://b/empty")
    put(emulator, "gs://b/odd", b"{]")
    for source in ("gs://b/none", "gs://b/empty", "gs://b/odd"):
        job = client.batches.create(model=GEMINI, src=source, config={"dest": "gs://b/out"})
        job = until(lambda job=job: client.batches.get(name=job.name), lambda j: j.done)
        assert job.state == types.JobState.JOB_STATE_FAILED
        assert job.error.message
        assert job.completion_stats.incomplete_count == -1
        assert job.output_info is None


def test_a_row_that_is_refused_has_its_error_in_a_text(emulator):
    """Beside a good one; the job succeeds with a count of failures."""
    client = genai_client(emulator)
    bad = {"request": {"contents": [], "labels": {"llm_batch_row": "r-1"}}}
    job = submit(client, emulator, vertex_line("r-0", "hello"), json.dumps(bad).encode())
    job = until(lambda: client.batches.get(name=job.name), lambda j: j.done)
    assert (job.completion_stats.successful_count, job.completion_stats.failed_count) == (1, 1)
    failed = [line for line in results(emulator, job.output_info.gcs_output_directory) if line["status"]]
    assert failed[0]["status"].startswith("Bad Request: {")
    assert (failed[0]["response"], failed[0]["request"]) == ({}, bad["request"])


def test_claude_in_a_batch(emulator):
    """Lines by custom_id; the answers parse as Anthropic's types."""
    client = genai_client(emulator)
    body = {"anthropic_version": "vertex-2023-10-16", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    lines = [json.dumps({"custom_id": f"r-{n}", "request": body}).encode() for n in range(2)]
    put(emulator, "gs://b/in.jsonl", *lines)
    config = types.CreateBatchJobConfig(dest="gs://b/out")
    model = "publishers/anthropic/models/claude-haiku-4-5@20251001"
    job = client.batches.create(model=model, src="gs://b/in.jsonl", config=config)
    job = until(lambda: client.batches.get(name=job.name), lambda j: j.done)
    found = results(emulator, job.output_info.gcs_output_directory)
    assert [line["custom_id"] for line in found] == ["r-0", "r-1"]
    assert [anthropic.types.Message.model_validate(line["response"]).content[0].text for line in found] == ["hi"] * 2


def test_embeddings_in_a_batch(emulator):
    """Lines by key, with as many numbers as asked for."""
    client = genai_client(emulator)
    asked = {"content": {"parts": [{"text": "hi"}]}, "embed_content_config": {"output_dimensionality": 16}}
    job = submit(client, emulator, json.dumps({"key": "r-0", "request": asked}).encode(), model="gemini-embedding-001")
    job = until(lambda: client.batches.get(name=job.name), lambda j: j.done)
    (line,) = results(emulator, job.output_info.gcs_output_directory)
    assert (line["key"], line["response"]["tokenCount"]) == ("r-0", "1")
    assert len(types.ContentEmbedding.model_validate(line["response"]["embedding"]).values) == 16


def test_calls(emulator):
    """generateContent and embedContent by Google's SDK, rawPredict by Anthropic's."""
    client = genai_client(emulator)
    assert client.models.generate_content(model=GEMINI, contents="hello").text == "hello"
    with pytest.raises(errors.ClientError):
        client.models.generate_content(model=GEMINI, contents="x", config={"temperature": 7})
    claude = anthropic.AnthropicVertex(
        region="us-central1", project_id="p1", access_token="x", base_url=f"{emulator.url}/v1", max_retries=0
    )
    said = claude.messages.create(
        model="claude-haiku-4-5@20251001", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
    )
    assert said.content[0].text == "hi"
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model="claude-haiku-4-5@20251001", max_tokens=9, messages=[])


def test_a_token_is_asked_for_where_one_was_settled_on():
    """Any caller may come to an emulator without one, as with an anonymous connection."""
    with Emulator(duration=0, api_key="right") as emulator:
        for token, good in (("right", True), ("wrong", False)):
            client = genai_client(emulator, token=token)
            if good:
                assert list(client.batches.list()) == []
                continue
            with pytest.raises(errors.ClientError) as refused:
                list(client.batches.list())
            assert refused.value.code == 401
