"""The own SDKs of vendors with a wire of their own, before the emulator."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import anthropic
import httpx
import openai
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
        ended = until(read, lambda job: job.status == "CANCELLED")
        assert (ended.completed_requests, ended.failed_requests, ended.error_file) == (2, 0, None)
        assert texts(client.files.download(file_id=ended.output_file).read()) == {"r0": "r0", "r1": "r1"}
        emulator.faults(expire=0.75)
        late = client.batch.jobs.create(**make)
        emulator.vendor.batches[late.id].created_at -= 600
        job = client.batch.jobs.get(job_id=late.id)
        assert (job.status, job.succeeded_requests) == ("TIMEOUT_EXCEEDED", 3)
        assert client.batch.jobs.delete(job_id=late.id).deleted


def openrouter_client(emulator):
    sdk = pytest.importorskip("openrouter")
    return sdk.OpenRouter(api_key=SECRET, server_url=f"{emulator.url}/openrouter/api/v1", timeout_ms=10_000)


def test_openrouters_sdk_takes_a_batch_from_its_requests_to_its_results(emulator):
    """Its types read every answer: what was accepted, listings without results, results inside the batch."""
    client = openrouter_client(emulator)
    make = {"endpoint": CHAT, "model": "openai/gpt-5-mini"}
    made = [client.batch.create_batches(**make, requests=[asked(f"r{n}") for n in range(3)]) for _ in range(3)]
    batch = client.batch.get_batches(id=made[0].id)
    assert (made[0].object, batch.status, batch.request_counts.completed, batch.error) == (
        "batch",
        "completed",
        3,
        None,
    )
    said = {one.custom_id: one.response.body.choices[0].message.content for one in batch.results}
    assert said == {"r0": "r0", "r1": "r1", "r2": "r2"}
    called = client.chat.send(model="openai/gpt-5-mini", messages=asked("r0")["body"]["messages"]).usage
    # A batch tells what all of it has cost, and no row of it does.
    assert (called.cost, batch.usage.cost) == (
        pytest.approx(called.cost_details.upstream_inference_cost),
        called.cost * 1.5,
    )
    page = client.batch.list(limit=2)
    assert [one.id for one in page.result.data] == [made[2].id, made[1].id]
    assert [one.results for one in page.result.data] == [None, None]
    assert [one.id for one in page.next().result.data] == [made[0].id]
    messages = [{"custom_id": "m", "body": {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}}]
    claude = {"endpoint": "/v1/messages", "model": "anthropic/claude-haiku-4.5", "requests": messages}
    answered = client.batch.get_batches(id=client.batch.create_batches(**claude).id)
    assert answered.results[0].response.body.content[0].text == "hi"
    assert client.batch.delete(id=made[0].id).id == made[0].id


def test_openrouters_sdk_is_refused_what_openrouter_refuses(emulator):
    """Two of one id, another model in a row, too many; one bad request fails the whole batch, and says which."""
    sdk = pytest.importorskip("openrouter")
    client = openrouter_client(emulator)
    make = {"endpoint": CHAT, "model": "openai/gpt-5-mini", "requests": [asked("a")]}
    many = [asked(str(n)) for n in range(5001)]
    for requests in ([asked("a"), asked("a")], [asked("a", model="other")], many, []):
        with pytest.raises(sdk.errors.OpenRouterError):
            client.batch.create_batches(**{**make, "requests": requests})
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    odd = {"custom_id": "odd", "body": {"messages": [{"role": "user", "content": picture}]}}
    failed = client.batch.get_batches(id=client.batch.create_batches(**{**make, "requests": [asked("a"), odd]}).id)
    assert (failed.status, failed.results, failed.error.message) == ("failed", None, "odd: media must be given by URL")
    with pytest.raises(sdk.errors.OpenRouterError):
        client.batch.get_batches(id="nobodys")


def test_openrouter_wants_endpoint_and_model_before_the_requests(emulator):
    """Its SDK's order is taken, any other is not: the server reads as it comes."""
    url, headers = f"{emulator.url}/openrouter/api/v1/batches", {"authorization": f"Bearer {SECRET}"}
    good = {"endpoint": CHAT, "model": "m", "requests": [asked("a")]}
    assert httpx.post(url, json=good, headers=headers).status_code == 202
    for order in (["requests", "endpoint", "model"], ["endpoint", "requests", "model"]):
        response = httpx.post(url, json={name: good[name] for name in order}, headers=headers)
        assert (response.status_code, "before 'requests'" in response.text) == (400, True)


def xai_calls(emulator):
    return httpx.Client(base_url=f"{emulator.url}/xai/v1", headers={"authorization": f"Bearer {SECRET}"})


def whole(name, **body):
    body = {"model": "grok-4.3", "messages": [{"role": "user", "content": name}], **body}
    return {"custom_id": name, "method": "POST", "url": CHAT, "body": body}


@pytest.mark.slow
def test_xais_batches_have_the_fields_of_its_sdk(emulator):
    """Its SDK speaks gRPC alone: its messages judge the names, and OpenAI's SDK, which xAI offers, files and calls. It
    wants older packages than others here: installed without them, for the slow tests."""
    proto = pytest.importorskip("xai_sdk.proto").batch_pb2
    client = openai.OpenAI(base_url=f"{emulator.url}/xai/v1", api_key=SECRET, max_retries=0)
    rows = [whole("b"), whole("a"), {**whole("c"), "url": "/v1/responses", "body": {"model": "grok-4.3", "input": "c"}}]
    file = client.files.create(file=("in.jsonl", lines(*rows)), purpose="batch")
    assert client.chat.completions.create(**whole("hello")["body"]).choices[0].message.content == "hello"
    with xai_calls(emulator) as calls:
        batch = calls.post("/batches", json={"name": "run-1", "input_file_id": file.id}).json()
        shown = calls.get(f"/batches/{batch['batch_id']}").json()
        assert shown.keys() <= {*proto.Batch.DESCRIPTOR.fields_by_name}
        assert shown["state"].keys() == {*proto.BatchState.DESCRIPTOR.fields_by_name}
        assert (shown["name"], shown["state"]["num_success"], "status" in shown) == ("run-1", 3, False)
        first = calls.get(f"/batches/{batch['batch_id']}/results?limit=2").json()
        assert first.keys() == {*proto.ListBatchResultsResponse.DESCRIPTOR.fields_by_name}
        token = first["pagination_token"]
        rest = calls.get(f"/batches/{batch['batch_id']}/results?limit=2&pagination_token={token}").json()
        read = [(row["batch_request_id"], completion(row)) for row in first["results"] + rest["results"]]
        assert read == [("a", "a"), ("b", "b"), ("c", "c")]
        assert rest["pagination_token"] is None
        used = first["results"][0]["batch_result"]["response"]["chat_get_completion"]["usage"]
        usage = pytest.importorskip("xai_sdk.proto").usage_pb2.SamplingUsage
        assert (used["cost_in_usd_ticks"] > 0, "cost_in_usd_ticks" in usage.DESCRIPTOR.fields_by_name) == (True, True)
        listed = calls.get("/batches?limit=1").json()
        assert listed.keys() == {*proto.ListBatchesResponse.DESCRIPTOR.fields_by_name}
        assert calls.post(f"/batches/{batch['batch_id']}/requests", json={}).status_code == 412
    assert client.files.delete(file.id).deleted


def completion(row):
    return row["batch_result"]["response"]["chat_get_completion"]["choices"][0]["message"]["content"]


def test_xai_cancels_a_batch_of_a_bad_file_for_good(emulator):
    """One line is enough; nothing is counted ever. A bad key is a bad request."""
    with xai_calls(emulator) as calls:
        file = calls.post("/files", files={"file": ("in.jsonl", lines(whole("a")) + b"no json\n")}).json()
        batch = calls.post("/batches", json={"name": "n", "input_file_id": file["id"]}).json()
        shown = calls.get(f"/batches/{batch['batch_id']}").json()
        assert "JSONL file validation failed" in shown["cancel_by_xai_message"]
        assert set(shown["state"].values()) == {0}
        assert httpx.get(calls.base_url.join("/xai/v1/batches")).status_code == 400
        late = {"file": ("in.jsonl", b"x"), "expires_after": (None, "3600")}
        assert calls.post("/files", files=late).status_code == 400


def test_xais_counters_go_back_after_a_cancellation():
    """What was on its way lands, and is counted as answered then."""
    with Emulator(duration=600, cancel_seconds=0.3) as emulator, xai_calls(emulator) as calls:
        file = calls.post("/files", files={"file": ("in.jsonl", lines(*map(whole, "abcd")))}).json()
        batch = calls.post("/batches", json={"name": "n", "input_file_id": file["id"]}).json()
        emulator.vendor.batches[batch["batch_id"]].created_at -= 300
        first = calls.post(f"/batches/{batch['batch_id']}:cancel").json()["state"]
        assert (first["num_success"], first["num_cancelled"]) == (0, 4)
        read = lambda: calls.get(f"/batches/{batch['batch_id']}").json()["state"]  # noqa: E731
        assert until(read, lambda state: state["num_success"])["num_cancelled"] == 2
        results = calls.get(f"/batches/{batch['batch_id']}/results").json()["results"]
        assert [row["batch_result"].get("error") for row in results] == [
            None,
            None,
            "Batch cancelled",
            "Batch cancelled",
        ]


def claude(custom_id):
    body = {"model": "claude-haiku-4-5", "max_tokens": 20, "messages": [{"role": "user", "content": custom_id}]}
    return {"custom_id": custom_id, "params": body}


@pytest.mark.parametrize("kind", ["key", "signature", "google"])
def test_anthropics_sdk_batches_behind_a_clouds_account(emulator, kind):
    """By key, by AWS's signature and by Google's token: a batch from its requests to its results."""
    if kind == "google":
        client = anthropic.AnthropicGoogleCloud(
            project="p1", workspace_id="wrkspc_1", token_provider=lambda: "ya29.x", max_retries=0,
            base_url=f"{emulator.url}/anthropic-google/v1/projects/p1/locations/global/workspaces/wrkspc_1/invoke",
        )  # fmt: skip
    else:
        keys = {"api_key": SECRET} if kind == "key" else {"aws_access_key": "AKID", "aws_secret_key": "secret"}
        client = anthropic.AnthropicAWS(
            base_url=f"{emulator.url}/anthropic-aws",
            aws_region="us-east-1",
            workspace_id="wrkspc_1",
            max_retries=0,
            **keys,
        )
    made = client.messages.batches.create(requests=[claude("a"), claude("b")])
    assert client.messages.batches.retrieve(made.id).request_counts.succeeded == 2
    assert [batch.id for batch in client.messages.batches.list()] == [made.id]
    said = {one.custom_id: one.result.message.content[0].text for one in client.messages.batches.results(made.id)}
    assert said == {"a": "a", "b": "b"}
    assert client.messages.create(**claude("hi")["params"]).content[0].text == "hi"


def test_claude_on_aws_wants_a_workspace_and_its_own_signature(emulator):
    """As its user guide says."""
    url = f"{emulator.url}/anthropic-aws/v1/messages/batches"
    headers = {"x-api-key": SECRET, "anthropic-version": "2023-06-01"}
    assert httpx.get(url, headers=headers).status_code == 400
    named = {**headers, "anthropic-workspace-id": "wrkspc_1"}
    assert httpx.get(url, headers=named).status_code == 200
    foreign = {"authorization": "AWS4-HMAC-SHA256 Credential=AK/20261121/us-east-1/bedrock/aws4_request, ..."}
    assert httpx.get(url, headers={**named, **foreign}).status_code == 403


@pytest.mark.slow
def test_the_sdk_of_fireworks_takes_a_job_from_its_dataset_to_its_results(emulator, monkeypatch):
    """Its types read every answer; a second job of the same id is a conflict, a bad row fails all, a deletion cancels.
    It wants newer packages than others here: installed without them, for the slow tests."""
    sdk = pytest.importorskip("fireworks")
    client = sdk.Fireworks(api_key=SECRET, account_id="acc", base_url=f"{emulator.url}/fireworks", max_retries=0)
    about = {"example_count": "3", "format": "CHAT", "user_uploaded": {}}
    for name, rows in (("good", [asked("b"), asked("a")]), ("bad", [asked("a"), banana()])):
        assert client.datasets.create(dataset_id=name, dataset=about).state == "UPLOADING"
        client.datasets.upload(name, file=("in.jsonl", lines(*rows)))
        assert client.datasets.get(name).state == "READY"
    make = {"input_dataset_id": "accounts/acc/datasets/good", "model": "accounts/fireworks/models/m"}
    client.batch_inference_jobs.create(batch_inference_job_id="job-1", **make)
    with pytest.raises(sdk.ConflictError):
        client.batch_inference_jobs.create(batch_inference_job_id="job-1", **make)
    job = client.batch_inference_jobs.get("job-1")
    assert (job.state, job.job_progress.successfully_processed_requests) == ("JOB_STATE_COMPLETED", 2)
    urls = client.datasets.get_download_endpoint(job.output_dataset_id.rpartition("/")[2]).filename_to_signed_urls
    (url,) = urls.values()
    read = [json.loads(line) for line in httpx.get(url).content.splitlines()]
    said = {one["custom_id"]: one["response"]["choices"][0]["message"]["content"] for one in read}
    assert said == {"a": "a", "b": "b"}
    assert httpx.get(url, headers={"authorization": "Bearer x"}).status_code == 400
    client.batch_inference_jobs.create(batch_inference_job_id="job-2", **{**make, "input_dataset_id": "bad"})
    failed = client.batch_inference_jobs.get("job-2")
    assert (failed.state, "invalid role bananas" in failed.status.message) == ("JOB_STATE_FAILED", True)
    with pytest.raises(sdk.NotFoundError):
        client.datasets.get_download_endpoint(failed.output_dataset_id.rpartition("/")[2])
    assert [one.name.rpartition("/")[2] for one in client.batch_inference_jobs.list()] == ["job-2", "job-1"]
    with pytest.raises(sdk.BadRequestError, match="example_count"):
        client.datasets.create(dataset_id="none", dataset={"user_uploaded": {}})
    client.datasets.create(dataset_id="large", dataset=about)
    size = len(lines(asked("a")))
    (place,) = client.datasets.get_upload_endpoint(
        "large", filename_to_size={"in.jsonl": str(size)}
    ).filename_to_signed_urls.values()
    put = {"content-type": "application/octet-stream", "x-goog-content-length-range": f"{size},{size}"}
    assert httpx.put(place, content=lines(asked("a")), headers={**put, "authorization": "Bearer x"}).status_code == 400
    assert httpx.put(place, content=lines(asked("a"))).status_code == 403
    assert httpx.put(place, content=lines(asked("a")), headers=put).status_code == 200
    assert client.datasets.get("large").state == "UPLOADING"
    client.datasets.validate_upload("large", body={})
    assert client.datasets.get("large").state == "READY"
    client.datasets.delete("good")
    monkeypatch.setattr(emulator.vendor.settings, "duration", 600)
    client.datasets.create(dataset_id="more", dataset=about)
    client.datasets.upload("more", file=("in.jsonl", lines(asked("a"))))
    client.batch_inference_jobs.create(batch_inference_job_id="job-3", **{**make, "input_dataset_id": "more"})
    client.batch_inference_jobs.delete("job-3")
    assert client.batch_inference_jobs.get("job-3").state == "JOB_STATE_DELETING_CLEANING_UP"


def banana():
    return {"custom_id": "odd", "body": {"messages": [{"role": "bananas", "content": "x"}]}}
