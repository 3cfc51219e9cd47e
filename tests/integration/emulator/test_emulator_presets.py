"""Groq's, Together's and Perplexity's own SDKs, and openai's for vendors that have none, before the emulator."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from support import SECRET
from support.sdks import chat, line, until, upload

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.bodies import Payload

CHAT = "/v1/chat/completions"


def openai_client(emulator, path):
    return openai.OpenAI(base_url=f"{emulator.url}/{path}", api_key=SECRET, max_retries=0)


def texts(content):
    """What rows were answered, by their ids."""
    lines = [json.loads(text) for text in content.splitlines() if text]
    return {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in lines}


def bare(custom_id, **body):
    return json.dumps({"custom_id": custom_id, "body": chat(custom_id, **body)}).encode()


@pytest.fixture
def groq(emulator):
    sdk = pytest.importorskip("groq")
    return sdk.Groq(api_key=SECRET, base_url=f"{emulator.url}/groq", max_retries=0)


def test_groqs_sdk_takes_a_batch_from_upload_to_results(groq):
    """Its types read every answer; files have no status, a listing no pages."""
    rows = [line(f"r{n}", chat(f"text {n}")) for n in range(4)]
    file = groq.files.create(file=("in.jsonl", b"\n".join(rows)), purpose="batch")
    assert "status" not in (file.model_extra or {})
    asked = {"input_file_id": file.id, "endpoint": CHAT, "metadata": {"k": "v"}}
    made = [groq.batches.create(completion_window=window, **asked) for window in ("24h", "7d", "100h")]
    batch = groq.batches.retrieve(made[1].id)
    assert (batch.status, batch.completion_window, batch.metadata) == ("completed", "7d", {"k": "v"})
    assert batch.request_counts.completed == 4
    listed = groq.batches.list()
    assert [one.id for one in listed.data] == [one.id for one in made[::-1]]
    assert "has_more" not in (listed.model_extra or {})
    assert texts(groq.files.content(batch.output_file_id).text()) == {f"r{n}": f"text {n}" for n in range(4)}
    assert groq.files.delete(file.id).deleted


def test_groqs_sdk_is_refused_what_groq_refuses(groq):
    """Windows outside of a day to a week, another endpoint; rows with what its API has not."""
    sdk = pytest.importorskip("groq")
    odd = [chat("a", logprobs=True), chat("b", n=2), {**chat("c"), "messages": [{"role": "user", "name": "x"}]}]
    rows = [line(f"r{n}", body) for n, body in enumerate([*odd, chat("d")])]
    file = groq.files.create(file=("in.jsonl", b"\n".join(rows)), purpose="batch")
    for window, endpoint in (("12h", CHAT), ("8d", CHAT), ("24h", "/v1/embeddings")):
        with pytest.raises(sdk.BadRequestError):
            groq.batches.create(completion_window=window, endpoint=endpoint, input_file_id=file.id)
    batch = groq.batches.retrieve(groq.batches.create(completion_window="24h", endpoint=CHAT, input_file_id=file.id).id)
    assert texts(groq.files.content(batch.output_file_id).text()) == {"r3": "d"}
    failed = groq.files.content(batch.error_file_id).text().splitlines()
    assert [json.loads(text)["response"]["status_code"] for text in failed] == [400, 400, 400]
    with pytest.raises(sdk.BadRequestError, match="logit_bias"):
        groq.chat.completions.create(**chat("x"), logit_bias={"1": 1})
    assert groq.chat.completions.create(**chat("hello")).choices[0].message.content == "hello"


def test_groqs_sdk_cancels(tmp_path):
    """What has ended is a conflict."""
    sdk = pytest.importorskip("groq")
    with Emulator(duration=1) as emulator:
        client = sdk.Groq(api_key=SECRET, base_url=f"{emulator.url}/groq", max_retries=0)
        file = client.files.create(file=("in.jsonl", line("a", chat("x"))), purpose="batch")
        batch = client.batches.create(completion_window="24h", endpoint=CHAT, input_file_id=file.id)
        assert client.batches.cancel(batch.id).status == "cancelling"
        until(lambda: client.batches.retrieve(batch.id), lambda seen: seen.status == "cancelled")
        with pytest.raises(sdk.ConflictError):
            client.batches.cancel(batch.id)


@pytest.fixture
def together(emulator):
    """It wants older packages than others here: installed without them, for the slow tests."""
    sdk = pytest.importorskip("together")
    return sdk.Together(api_key=SECRET, base_url=f"{emulator.url}/together", max_retries=0)


@pytest.mark.slow
def test_togethers_sdk_takes_a_batch_from_upload_to_results(together, tmp_path):
    """An upload round the corner, a wrapped create, a bare listing, capitals, results without ids."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(bare(f"r{n}") for n in range(4)) + b"\n")
    file = together.files.upload(path, purpose="batch-api", check=False)
    assert (file.bytes, file.filename, file.purpose) == (path.stat().st_size, "in.jsonl", "batch-api")
    made = [together.batches.create(input_file_id=file.id, endpoint=CHAT) for _ in range(2)]
    assert [one.job.status for one in made] == ["COMPLETED", "COMPLETED"]
    batch = together.batches.retrieve(made[0].job.id)
    assert (batch.input_file_id, batch.progress, batch.error) == (file.id, 100, None)
    assert batch.created_at.tzinfo is not None
    assert [one.id for one in together.batches.list()] == [one.job.id for one in made[::-1]]
    content = together.files.content(batch.output_file_id).read()
    assert texts(content) == {f"r{n}": f"r{n}" for n in range(4)}
    assert json.loads(content.splitlines()[0]).keys() == {"custom_id", "response"}
    assert together.files.delete(file.id).deleted


@pytest.mark.slow
def test_togethers_sdk_finds_a_file_that_is_there(together, tmp_path, emulator):
    """The same bytes twice are one file: 409 names it, and the SDK takes it."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(bare("a"))
    first = together.files.upload(path, purpose="batch-api", check=False)
    again = together.files.upload(path, purpose="batch-api", check=False)
    assert first.id == again.id
    assert len(emulator.vendor.files) == 1
    with pytest.raises(pytest.importorskip("together").lib.resources.files.FileAlreadyExistsError):
        together.files.upload(path, purpose="batch-api", check=False, raise_if_already_exists=True)


@pytest.mark.slow
def test_togethers_sdk_reads_failures(tmp_path):
    """Failed rows have an error and no response; a file that cannot be read fails the job with a text."""
    sdk = pytest.importorskip("together")
    with Emulator(duration=0, faults={"row_errors": 1}) as emulator:
        client = sdk.Together(api_key=SECRET, base_url=f"{emulator.url}/together", max_retries=0)
        for content in (bare("a"), b"no json"):
            path = tmp_path / f"{len(content)}.jsonl"
            path.write_bytes(content)
            file = client.files.upload(path, purpose="batch-api", check=False)
            job = client.batches.create(input_file_id=file.id, endpoint=CHAT).job
            if content == b"no json":
                assert (job.status, job.output_file_id) == ("FAILED", None)
                assert "not parseable" in job.error
            else:
                (failed,) = client.files.content(job.error_file_id).read().splitlines()
                assert json.loads(failed).keys() == {"custom_id", "error"}
        with pytest.raises(sdk.BadRequestError):
            client.batches.create(input_file_id=file.id, endpoint="/v1/audio/translations")


def test_perplexitys_sdk_gets_one_batch_for_one_key(emulator):
    """The key of an earlier create is answered with its batch; another key makes another."""
    sdk = pytest.importorskip("perplexity")
    client = sdk.Perplexity(api_key=SECRET, base_url=f"{emulator.url}/perplexity", max_retries=0)
    row = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "hi"}}
    file = client.files.create(file=("in.jsonl", json.dumps(row).encode()), purpose="batch")
    asked = {"input_file_id": file.id, "endpoint": "/v1/responses", "metadata": {"k": "v"}}
    made = [client.batches.create(idempotency_key=key, **asked) for key in ("one", "one", "two")]
    assert made[0].id == made[1].id != made[2].id
    assert client.batches.create(**asked).id not in {one.id for one in made}
    batch = client.batches.retrieve(made[0].id)
    assert (batch.status, batch.metadata, batch.usage.total_tokens > 0) == ("completed", {"k": "v"}, True)
    assert [one.id for one in client.batches.list(limit=2).data][1] == made[2].id
    answered = client.responses.create(model="m", input="hello")
    assert answered.output_text == "hello"
    cost = answered.usage.cost
    assert cost.total_cost == pytest.approx(cost.input_cost + cost.output_cost)


@pytest.mark.parametrize(
    ("path", "windows", "refused", "keeps"),
    [
        ("deepinfra/v1/openai", ["24h"], ["48h"], True),
        ("doubleword/v1", ["1h", "24h"], ["2h"], True),
        ("dashscope/compatible-mode/v1", ["24h", "336h", "14d"], ["337h"], False),
        ("kimi/v1", ["12h", "7d"], ["11h", "8d"], True),
        ("parasail/v1", ["24h"], ["1h"], False),
        ("novita/openai/v1", ["48h"], ["24h"], False),
    ],
)
def test_openais_sdk_takes_a_batch_where_the_vendor_documents_it(emulator, path, windows, refused, keeps):
    """From upload to results, with the windows that there are, and metadata where it is kept."""
    client = openai_client(emulator, path)
    row = bare("a") if "novita" in path else line("a", chat("a"))
    file = upload(client, row)
    for window in windows:
        asked = {"input_file_id": file.id, "endpoint": CHAT, "metadata": {"k": "v"}}
        batch = client.batches.retrieve(client.batches.create(completion_window=window, **asked).id)
        assert (batch.status, batch.completion_window) == ("completed", window)
        assert bool(batch.metadata) == keeps
        assert texts(client.files.content(batch.output_file_id).text) == {"a": "a"}
    for window in refused:
        with pytest.raises(openai.BadRequestError):
            client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window=window)
    assert [len(page.data) for page in client.batches.list(limit=1).iter_pages()] == [1] * len(windows)


def test_expiry_of_results_is_taken_where_it_is_documented(emulator):
    """DeepInfra's; Perplexity answers it with 400."""
    expiry = {"anchor": "created_at", "seconds": 3600}
    for path, endpoint, good in (("deepinfra/v1/openai", CHAT, True), ("perplexity/v1", "/v1/responses", False)):
        client = openai_client(emulator, path)
        asked = {"input_file_id": upload(client, line("a", chat("a"))).id, "endpoint": endpoint}
        asked |= {"completion_window": "24h", "output_expires_after": expiry}
        if good:
            assert client.batches.create(**asked).id
        else:
            with pytest.raises(openai.BadRequestError, match="not supported"):
                client.batches.create(**asked)


def test_every_look_at_a_job_of_togethers_is_in_its_own_words(emulator, connect):
    """Its create, a look and a listing alike: capitals and a share of the work done."""
    hook = LLMBatchHook(connect(f"{emulator.url}/together/v1", "together"))
    content = bare("a") + b"\n"
    ref = hook.run(hook.provider.upload("in.jsonl", Payload(lambda: [content], len(content))))
    job = hook.run(hook.provider.create(Shard(endpoint=CHAT), ref, Payload(tuple, 0)))
    head = {"authorization": f"Bearer {SECRET}"}
    seen = httpx.get(f"{emulator.url}/together/v1/batches/{job.id}", headers=head).json()
    listed = httpx.get(f"{emulator.url}/together/v1/batches", headers=head).json()
    assert [(one["status"], one["progress"]) for one in (seen, *listed)] == [("COMPLETED", 100)] * 2
    hook.close()


def test_refusals_have_the_vendors_shape(emulator):
    """Novita's codes and reasons, DashScope's request ids."""
    head = {"authorization": f"Bearer {SECRET}"}
    refused = httpx.get(f"{emulator.url}/novita/openai/v1/batches/none", headers=head)
    assert (refused.status_code, refused.json()["code"], "No batch" in refused.json()["message"]) == (404, 404, True)
    refused = httpx.get(f"{emulator.url}/dashscope/compatible-mode/v1/batches/none", headers=head)
    assert refused.json().keys() == {"error", "request_id"}


def test_a_proxy_wants_a_route_and_is_not_asked_after_the_end(emulator):
    """Opaque ids; a batch whose end was told is answered with 500, as where its accounting fails."""
    client = openai_client(emulator, "litellm/v1")
    with pytest.raises(openai.InternalServerError, match="files_settings"):
        upload(client, line("a", chat("a")))
    routed = client.with_options(default_headers={"x-litellm-model": "small"})
    made = routed.batches.create(
        input_file_id=upload(routed, line("a", chat("a"))).id, endpoint=CHAT, completion_window="24h"
    )
    assert not made.id.startswith("batch_")
    assert routed.batches.retrieve(made.id).status == "completed"
    with pytest.raises(openai.InternalServerError):
        routed.batches.retrieve(made.id)
    assert routed.batches.list().data[0].id == made.id


@pytest.mark.parametrize("name", ["vllm", "ollama", "llamacpp", "compatible"])
def test_a_server_without_batches_answers_calls_alone(emulator, name):
    """Models, chats and vectors; no files, no batches."""
    client = openai_client(emulator, f"{name}/v1")
    assert client.chat.completions.create(**chat("hello")).choices[0].message.content == "hello"
    assert client.embeddings.create(model="m", input="x").data
    assert client.models.list().data
    for call in (client.batches.list, lambda: upload(client, line("a", chat("a")))):
        with pytest.raises(openai.NotFoundError):
            call()
