"""Google's own SDK drives the emulator of Gemini's Developer API."""

from __future__ import annotations

import io
import json

import httpx
import pytest
from support import SECRET
from support.sdks import until

from airflow_llm_batch.emulator import Emulator

genai = pytest.importorskip("google.genai")
types = genai.types
FLASH, EMBEDDING = "gemini-3.8-flash", "gemini-embedding-001"
ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED")


@pytest.fixture(params=["v1", "v1beta"])
def version(request):
    """Both versions of the API."""
    return request.param


def client_of(emulator, version="v1beta"):
    options = types.HttpOptions(base_url=emulator.url, api_version=version)
    return genai.Client(api_key=SECRET, http_options=options)


def line(key, text, **more):
    return {"key": key, "request": {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}}


def upload(client, *lines):
    content = b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)
    return client.files.upload(
        file=io.BytesIO(content), config={"mime_type": "application/jsonl", "display_name": "in"}
    )


def ended(client, job):
    return until(lambda: client.batches.get(name=job.name), lambda found: found.state.value in ENDED)


def results(client, job):
    lines = client.files.download(file=job.dest.file_name).splitlines()
    return {read["key"]: read for read in map(json.loads, lines)}


def test_a_file_batch_is_made_read_and_downloaded(emulator, version):
    """Upload, create, get, download; every line is answered under its key, in either version of the API."""
    client = client_of(emulator, version)
    file = upload(client, *(line(f"r{n}", f"text {n}") for n in range(20)))
    assert (file.state.value, file.mime_type, file.source.value) == ("ACTIVE", "application/jsonl", "UPLOADED")
    job = client.batches.create(model=FLASH, src=file.name, config={"display_name": "mine"})
    job = ended(client, job)
    assert (job.state.value, job.display_name, job.model) == ("JOB_STATE_SUCCEEDED", "mine", f"models/{FLASH}")
    said = {key: types.GenerateContentResponse(**read["response"]).text for key, read in results(client, job).items()}
    assert said == {f"r{n}": f"text {n}" for n in range(20)}


def test_a_large_upload_comes_in_parts(emulator):
    """The SDK sends 8 MiB at a time; the file is what was sent."""
    client, size = client_of(emulator), 9 * 2**20
    file = client.files.upload(file=io.BytesIO(b"x" * size), config={"mime_type": "application/jsonl"})
    assert file.size_bytes == size


def test_inline_requests_are_answered_inline(emulator):
    """Responses stand in the job, with their requests' metadata."""
    client = client_of(emulator)
    source = [{"contents": [{"role": "user", "parts": [{"text": t}]}], "metadata": {"key": t}} for t in ("a", "b")]
    job = ended(client, client.batches.create(model=FLASH, src=source))
    found = job.dest.inlined_responses
    assert [(one.metadata["key"], one.response.text) for one in found] == [("a", "a"), ("b", "b")]


def test_embeddings_are_batched_inline_and_by_file(emulator):
    """asyncBatchEmbedContent, both ways; one text makes one vector, of the size that was asked for."""
    client = client_of(emulator)
    source = {"inlined_requests": {"contents": ["a", "b"], "config": {"output_dimensionality": 8}}}
    job = ended(client, client.batches.create_embeddings(model=EMBEDDING, src=source))
    assert [len(one.response.embedding.values) for one in job.dest.inlined_embed_content_responses] == [8, 8]
    file = upload(client, {"key": "k", "request": {"content": {"parts": [{"text": "a"}]}, "output_dimensionality": 8}})
    job = ended(client, client.batches.create_embeddings(model=EMBEDDING, src={"file_name": file.name}))
    alone = client.models.embed_content(model=EMBEDDING, contents="a", config={"output_dimensionality": 8})
    assert results(client, job)["k"]["response"]["embedding"]["values"] == alone.embeddings[0].values


def test_listings_are_paged(emulator):
    """The SDK's pager walks every batch and every file once, newest first."""
    client = client_of(emulator)
    files = [upload(client, line("a", "x")).name for _ in range(5)]
    names = [client.batches.create(model=FLASH, src=files[0]).name for _ in range(5)]
    assert [job.name for job in client.batches.list(config={"page_size": 2})] == names[::-1]
    uploaded = [f.name for f in client.files.list(config={"page_size": 2}) if f.source.value == "UPLOADED"]
    assert uploaded == files[::-1]


def test_cancelling_and_deleting():
    """A cancelled batch keeps what was done; a deleted one is gone, and so is its input."""
    with Emulator(duration=1.0) as emulator:
        client = client_of(emulator)
        file = upload(client, *(line(f"r{n}", f"t{n}") for n in range(50)))
        job = client.batches.create(model=FLASH, src=file.name)
        stats = f"{emulator.url}/v1beta/{job.name}"
        until(
            lambda: httpx.get(stats, headers={"x-goog-api-key": SECRET}).json()["metadata"]["batchStats"],
            lambda counted: int(counted.get("successfulRequestCount", 0)) > 0,
        )
        client.batches.cancel(name=job.name)
        job = ended(client, job)
        assert job.state.value == "JOB_STATE_CANCELLED"
        codes = [read["error"]["code"] for read in results(client, job).values() if "error" in read]
        assert 0 < len(codes) < 50
        assert set(codes) == {1}
        client.batches.delete(name=job.name)
        client.files.delete(name=file.name)
        for gone in (lambda: client.batches.get(name=job.name), lambda: client.files.get(name=file.name)):
            with pytest.raises(genai.errors.ClientError):
                gone()


def test_an_expired_batch_has_no_results():
    """As documented: after 48 hours all of it is lost."""
    with Emulator(duration=0.2, faults={"expire": 0.5}) as emulator:
        client = client_of(emulator)
        job = ended(client, client.batches.create(model=FLASH, src=upload(client, line("a", "x"), line("b", "y")).name))
        assert job.state.value == "JOB_STATE_EXPIRED"
        assert not job.dest


def test_rows_fail_within_a_batch_that_succeeded(emulator):
    """What one request may not hold is told on its own line."""
    client = client_of(emulator)
    wrong = [line("w1", "x", generationConfig={"temperature": 9}), line("w2", "x", maxTokens=9), line("w3", "")]
    job = ended(client, client.batches.create(model=FLASH, src=upload(client, line("good", "x"), *wrong).name))
    read = results(client, job)
    assert job.state.value == "JOB_STATE_SUCCEEDED"
    assert {key: "response" in one for key, one in read.items()} == {
        "good": True,
        "w1": False,
        "w2": False,
        "w3": False,
    }
    assert {one["error"]["status"] for key, one in read.items() if key != "good"} == {"INVALID_ARGUMENT"}


def test_a_file_that_is_no_requests_fails_its_batch(emulator):
    """The create is taken; the batch fails and says why."""
    client = client_of(emulator)
    job = ended(client, client.batches.create(model=FLASH, src=upload(client, b"not json").name))
    assert job.state.value == "JOB_STATE_FAILED"


def test_what_is_refused_at_the_door(emulator):
    """No key, an unknown file, an upload's download, an unknown batch, an unknown page."""
    client = client_of(emulator)
    file = upload(client, line("a", "x"))
    assert httpx.get(f"{emulator.url}/v1beta/batches").status_code == 403
    refused = (
        lambda: client.batches.create(model=FLASH, src="files/none"),
        lambda: client.files.download(file=file.name),
        lambda: client.batches.get(name="batches/none"),
        lambda: list(client.batches.list(config={"page_token": "odd"})),
    )
    for attempt in refused:
        with pytest.raises(genai.errors.ClientError) as caught:
            attempt()
        assert caught.value.status in ("NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT")


def test_a_file_in_processing_is_not_taken(emulator):
    """It becomes active after some looks."""
    emulator.faults(processing=2)
    client = client_of(emulator)
    file = upload(client, line("a", "x"))
    assert file.state.value == "PROCESSING"
    with pytest.raises(genai.errors.ClientError, match="ACTIVE"):
        client.batches.create(model=FLASH, src=file.name)
    until(lambda: client.files.get(name=file.name), lambda found: found.state.value == "ACTIVE")
    assert client.batches.create(model=FLASH, src=file.name).name


def test_calls_answer_schemas_tools_thoughts_and_caps(emulator):
    """generateContent through the SDK: structured output, a function call and its result, thoughts, MAX_TOKENS."""
    client = client_of(emulator)

    def ask(contents, **config):
        return client.models.generate_content(model=FLASH, contents=contents, config=config)

    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    for way in ({"response_json_schema": schema}, {"response_schema": schema}):
        said = ask("x", response_mime_type="application/json", **way)
        assert isinstance(json.loads(said.text)["n"], int)
    tool = {"function_declarations": [{"name": "f", "parameters_json_schema": schema}]}
    called = ask("x", tools=[tool])
    assert called.function_calls[0].name == "f"
    turns = [
        {"role": "user", "parts": [{"text": "x"}]},
        {"role": "model", "parts": [{"function_call": {"name": "f", "args": {}}, "thought_signature": b"s"}]},
        {"role": "user", "parts": [{"function_response": {"name": "f", "response": {"output": "42"}}}]},
    ]
    assert "42" in ask(turns, tools=[tool]).text
    thought = ask("x", thinking_config={"include_thoughts": True, "thinking_level": "LOW"})
    assert thought.candidates[0].content.parts[0].thought
    assert thought.usage_metadata.thoughts_token_count
    assert ask("long " * 50, max_output_tokens=3).candidates[0].finish_reason.value == "MAX_TOKENS"
    assert ask("[[SAFETY]]").candidates[0].finish_reason.value == "SAFETY"
    assert ask("[[BLOCK SAFETY]]").prompt_feedback.block_reason.value == "SAFETY"
    assert len(ask("x", candidate_count=3).candidates) == 3


def test_a_full_queue_is_told_as_the_vendor_tells_it(emulator):
    """429 RESOURCE_EXHAUSTED on the create, in the words that users quote."""
    emulator.faults(enqueued_tokens=1, refuse_enqueued=429)
    client = client_of(emulator)
    with pytest.raises(genai.errors.ClientError, match="exceeded your current quota") as caught:
        client.batches.create(model=FLASH, src=upload(client, line("a", "x" * 100)).name)
    assert caught.value.status == "RESOURCE_EXHAUSTED"


def test_other_vendors_keep_their_paths(emulator):
    """/v1/batches and /v1/files are OpenAI's for whoever has no key of Google's."""
    headers = {"authorization": f"Bearer {SECRET}"}
    for path in ("batches", "files", "models"):
        assert httpx.get(f"{emulator.url}/v1/{path}", headers=headers).json()["object"] == "list"
