"""The own SDKs of vendors with a wire of their own, before the emulator."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from support import SECRET
from support.sdks import until

from airflow_llm_batch.emulator import Emulator

CHAT = "/v1/chat/completions"


def texts(content):
    """What rows were answered, by their ids."""
    lines = [json.loads(text) for text in content.splitlines() if text]
    return {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in lines}


def asked(custom_id, **more):
    return {"custom_id": custom_id, "body": {"messages": [{"role": "user", "content": custom_id}], **more}}


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def mistral_client(emulator):
    sdk = pytest.importorskip("mistralai.client")
    return sdk.Mistral(api_key=SECRET, server_url=f"{emulator.url}/mistral", timeout_ms=10_000)


def mistral_file(client, *rows):
    return client.files.upload(file={"file_name": "in.jsonl", "content": lines(*rows)}, purpose="batch")


def test_mistrals_sdk_takes_a_job_from_upload_to_results(emulator):
    """Its types read every answer: files, jobs, listings by page and status, results."""
    client = mistral_client(emulator)
    file = mistral_file(client, *(asked(f"r{n}", max_tokens=50) for n in range(4)))
    assert (file.sample_type, file.source, client.files.retrieve(file_id=file.id).size_bytes) == (
        "batch_request", "upload", file.size_bytes,
    )  # fmt: skip
    make = {"input_files": [file.id], "endpoint": CHAT, "model": "mistral-small-latest"}
    made = [client.batch.jobs.create(**make, metadata={"k": str(n)}, timeout_hours=5 + n) for n in range(3)]
    job = client.batch.jobs.get(job_id=made[0].id)
    assert (job.status, job.succeeded_requests, job.failed_requests, job.metadata) == ("SUCCESS", 4, 0, {"k": "0"})
    assert (job.model, job.input_files, job.error_file, job.errors) == ("mistral-small-latest", [file.id], None, [])
    page = client.batch.jobs.list(page=1, page_size=2, status=["SUCCESS"])
    assert ([one.id for one in page.data], page.total) == ([made[0].id], 3)
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert client.batch.jobs.list(created_after=soon).total == 0
    content = client.files.download(file_id=job.output_file).read()
    assert texts(content) == {f"r{n}": f"r{n}" for n in range(4)}
    assert client.files.delete(file_id=file.id).deleted


def test_mistrals_own_batch_client_reads_every_outcome(emulator):
    """``mistralai.extra.batch`` runs a job from its rows to its result: answers by id, and what the API refuses."""
    sdk, batch = pytest.importorskip("mistralai.client"), pytest.importorskip("mistralai.extra.batch")
    client = batch.BatchClient(
        mistral_client(emulator), endpoint=CHAT, response_body_type=sdk.models.ChatCompletionResponse
    )
    odd = {"custom_id": "name", "body": {"messages": [{"role": "user", "name": "Ann", "content": "x"}]}}
    rows = batch.BatchInput.from_jsonl_bytes(lines(asked("a"), asked("b"), asked("odd", logit_bias={"1": 1}), odd))
    result = asyncio.run(client.run(rows, model="mistral-small-latest", poll_interval_seconds=0.05))
    said = {custom_id: body.choices[0].message.content for custom_id, body in result.by_id().items()}
    assert said == {"a": "a", "b": "b"}
    assert {error.custom_id: error.status_code for error in result.errors()} == {"odd": 422, "name": 422}
    assert (result.response_errors(), result.status, result.failed) == ([], "SUCCESS", 2)


def test_mistrals_sdk_is_refused_what_mistral_refuses(emulator):
    """A week's hours, long names in metadata, a file that is not there; a bad line fails the job as a whole."""
    sdk = pytest.importorskip("mistralai.client")
    client = mistral_client(emulator)
    file = mistral_file(client, asked("a"), asked("a"))
    make = {"input_files": [file.id], "endpoint": CHAT, "model": "mistral-small-latest"}
    for wrong in (
        {"timeout_hours": 169}, {"metadata": {"x" * 33: "y"}}, {"input_files": ["nobodys"]}, {"model": None},
        {"requests": [asked("a")]},
    ):  # fmt: skip
        with pytest.raises((sdk.errors.SDKError, sdk.errors.HTTPValidationError)):
            client.batch.jobs.create(**{**make, **wrong})
    for odd in (asked("a", temperature=1.6), asked("a", max_tokens=-5), {"custom_id": "a"}):
        with pytest.raises((sdk.errors.SDKError, sdk.errors.HTTPValidationError), match="Invalid file format"):
            mistral_file(client, odd)
    failed = client.batch.jobs.get(job_id=client.batch.jobs.create(**make).id)
    assert (failed.status, failed.errors[0].count, failed.output_file) == ("FAILED", 1, None)
    with pytest.raises((sdk.errors.SDKError, sdk.errors.HTTPValidationError)):
        mistral_client(emulator).batch.jobs.get(job_id="nobodys")
    said = client.chat.complete(model="m", messages=[{"role": "user", "content": "hello"}], random_seed=3)
    assert said.choices[0].message.content == "hello"
    assert (
        len(client.embeddings.create(model="mistral-embed", inputs=["a"], output_dimension=16).data[0].embedding) == 16
    )


def test_mistrals_sdk_cancels_and_sees_time_run_out():
    """What was done by then is counted and in the file; the rest has no line."""
    pytest.importorskip("mistralai.client")
    with Emulator(duration=600, cancel_seconds=0.2) as emulator:
        client = mistral_client(emulator)
        file = mistral_file(client, *(asked(f"r{n}") for n in range(4)))
        make = {"input_files": [file.id], "endpoint": CHAT, "model": "mistral-small-latest"}
        job = client.batch.jobs.create(**make)
        assert job.status == "QUEUED"
        emulator.vendor.batches[job.id].created_at -= 300
        assert client.batch.jobs.cancel(job_id=job.id).status == "CANCELLATION_REQUESTED"
        read = lambda: client.batch.jobs.get(job_id=job.id)  # noqa: E731
        ended = until(read, lambda told: told.status == "CANCELLED")
        assert (ended.completed_requests, ended.failed_requests, ended.error_file) == (2, 0, None)
        assert texts(client.files.download(file_id=ended.output_file).read()) == {"r0": "r0", "r1": "r1"}
        emulator.faults(expire=0.75)
        late = client.batch.jobs.create(**make)
        emulator.vendor.batches[late.id].created_at -= 600
        told = client.batch.jobs.get(job_id=late.id)
        assert (told.status, told.succeeded_requests) == ("TIMEOUT_EXCEEDED", 3)
        assert client.batch.jobs.delete(job_id=late.id).deleted
