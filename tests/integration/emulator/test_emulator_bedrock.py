"""The emulated Bedrock, judged by AWS's own SDK over HTTP."""

from __future__ import annotations

import json
import re
import time

import boto3
import httpx
import openai
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from support.s3 import KEYS, REGION, s3_client, s3_server
from support.sdks import until

from airflow_llm_batch.emulator import Emulator

ROLE = "arn:aws:iam::123456789012:role/batch"
CLAUDE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
BUCKET = "bedrock-emulator"


@pytest.fixture(scope="module")
def s3():
    with s3_server() as url:
        client = s3_client(url)
        client.create_bucket(Bucket=BUCKET)
        yield url, client


@pytest.fixture
def emulator(s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with Emulator(duration=0, s3_endpoint=s3[0], bedrock_minimum=3) as running:
        yield running


def sdk(emulator, service="bedrock"):
    config = Config(retries={"total_max_attempts": 1})
    return boto3.client(service, endpoint_url=emulator.url, region_name=REGION, config=config, **KEYS)


def claude(text, **more):
    return {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 50,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


def put(s3, name, records):
    body = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    s3[1].put_object(Bucket=BUCKET, Key=f"in/{name}.jsonl", Body=body)
    return f"s3://{BUCKET}/in/{name}.jsonl"


def asked(uri, name, **more):
    return {
        "jobName": name,
        "roleArn": ROLE,
        "modelId": CLAUDE,
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": uri, "s3InputFormat": "JSONL"}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"s3://{BUCKET}/out/"}},
        **more,
    }


def records(count):
    return [{"recordId": f"r{n}", "modelInput": claude(f"text {n}")} for n in range(count)]


def ended(client, arn):
    running = ("Submitted", "Validating", "Scheduled", "InProgress", "Stopping")
    return until(lambda: client.get_model_invocation_job(jobIdentifier=arn), lambda job: job["status"] not in running)


def outputs(s3, arn):
    folder = f"out/{arn.rpartition('/')[2]}/"
    found = s3[1].list_objects_v2(Bucket=BUCKET, Prefix=folder).get("Contents", [])
    return {
        one["Key"].removeprefix(folder): s3[1].get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in found
    }


def test_a_job_from_create_to_its_objects(emulator, s3):
    """Create, get by ARN and by id, list with filters, and the two objects that come of it."""
    client = sdk(emulator)
    uri = put(s3, "whole", [*records(3), {"recordId": "bad", "modelInput": {"max_tokens": 5}}])
    arn = client.create_model_invocation_job(**asked(uri, "whole", timeoutDurationInHours=24))["jobArn"]
    job = ended(client, arn)
    assert (job["status"], job["totalRecordCount"], job["errorRecordCount"]) == ("Completed", 4, 0)
    assert job["inputDataConfig"]["s3InputDataConfig"]["s3Uri"] == uri
    assert client.get_model_invocation_job(jobIdentifier=arn[-12:])["jobArn"] == arn
    found = outputs(s3, arn)
    lines = [json.loads(line) for line in found["whole.jsonl.out"].splitlines()]
    assert {line["recordId"] for line in lines} == {"r0", "r1", "r2", "bad"}
    assert lines[0]["modelOutput"]["content"] == [{"type": "text", "text": "text 0"}]
    assert lines[0]["modelInput"] == claude("text 0")
    assert [line["error"]["errorCode"] for line in lines if "error" in line] == [400]
    manifest = json.loads(found["manifest.json.out"])
    assert (manifest["totalRecordCount"], manifest["errorRecordCount"]) == (4, 1)
    listed = client.list_model_invocation_jobs(nameContains="who", submitTimeAfter=job["submitTime"].replace(year=2020))
    assert [one["jobName"] for one in listed["invocationJobSummaries"]] == ["whole"]
    assert client.list_model_invocation_jobs(nameContains="nobody")["invocationJobSummaries"] == []
    assert client.list_model_invocation_jobs(statusEquals="Failed")["invocationJobSummaries"] == []


def test_pages_are_newest_first(emulator, s3):
    """The SDK's paginator sees each job once."""
    client, uri = sdk(emulator), put(s3, "pages", records(3))
    arns = [client.create_model_invocation_job(**asked(uri, f"page-{n}"))["jobArn"] for n in range(5)]
    pages = client.get_paginator("list_model_invocation_jobs").paginate(
        sortBy="CreationTime", sortOrder="Descending", PaginationConfig={"PageSize": 2}
    )
    assert [one["jobArn"] for page in pages for one in page["invocationJobSummaries"]] == arns[::-1]


def test_a_token_makes_one_job_and_a_name_is_used_once(emulator, s3):
    """The same token again is the same job; the same name with another is a conflict."""
    client, uri = sdk(emulator), put(s3, "once", records(3))
    first = client.create_model_invocation_job(**asked(uri, "once", clientRequestToken="a1"))
    assert (
        client.create_model_invocation_job(**asked(uri, "once", clientRequestToken="a1"))["jobArn"] == first["jobArn"]
    )
    with pytest.raises(client.exceptions.ConflictException):
        client.create_model_invocation_job(**asked(uri, "once", clientRequestToken="a2"))
    assert len(emulator.vendor.batches) == 1
    assert client.list_model_invocation_jobs()["invocationJobSummaries"][0]["clientRequestToken"] == "a1"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"jobName": "has space"}, "jobName"),
        ({"roleArn": "role/batch"}, "roleArn"),
        ({"clientRequestToken": "no_underscore"}, "clientRequestToken"),
        ({"timeoutDurationInHours": 169}, "timeoutDurationInHours"),
        ({"inputDataConfig": {"s3InputDataConfig": {"s3Uri": f"s3://{BUCKET}/a+b:c/in.jsonl"}}}, "inputDataConfig"),
        ({"outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "gs://bucket/out"}}}, "outputDataConfig"),
    ],
)
def test_a_create_is_refused_by_name(emulator, s3, change, named):
    """Patterns and ranges of the service's model hold at the door."""
    client = sdk(emulator)
    with pytest.raises(client.exceptions.ValidationException, match=named):
        client.create_model_invocation_job(**{**asked(put(s3, "refused", records(3)), "refused"), **change})
    assert not emulator.vendor.batches


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (2, "minimum number of records"),
        (0, "minimum number of records"),
        (50_001, "50,000"),
        (None, "could not access|No JSONL"),
    ],
)
def test_what_is_wrong_with_the_input_shows_after_the_create(emulator, s3, lines, named):
    """Too few records, too many in a file, and no file: the job fails with a message."""
    client = sdk(emulator)
    if lines is None:
        uri = f"s3://{BUCKET}/in/nothing.jsonl"
    elif lines > 10:
        uri = f"s3://{BUCKET}/in/many.jsonl"
        s3[1].put_object(Bucket=BUCKET, Key="in/many.jsonl", Body=b'{"modelInput": {}}\n' * lines)
    else:
        uri = put(s3, f"few-{lines}", records(lines))
    job = ended(client, client.create_model_invocation_job(**asked(uri, "wrong"))["jobArn"])
    assert job["status"] == "Failed"
    assert re.search(named, job["message"])


def test_a_stop_ends_a_job_once(emulator, s3):
    """Stopping; then Stopped; and a conflict for what has ended."""
    emulator.vendor.settings.duration = 60
    client = sdk(emulator)
    arn = client.create_model_invocation_job(**asked(put(s3, "stop", records(3)), "stop"))["jobArn"]
    client.stop_model_invocation_job(jobIdentifier=arn)
    assert client.get_model_invocation_job(jobIdentifier=arn)["status"] == "Stopping"
    emulator.vendor.batches[arn].cancelled_at = time.time() - 60
    assert client.get_model_invocation_job(jobIdentifier=arn)["status"] == "Stopped"
    with pytest.raises(client.exceptions.ConflictException):
        client.stop_model_invocation_job(jobIdentifier=arn)
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.get_model_invocation_job(jobIdentifier="abcdefghijkl")


def test_out_of_time(emulator, s3):
    """A job that ran out of time has lines for what it did; one that never began has no objects."""
    client, uri = sdk(emulator), put(s3, "late", records(10))
    emulator.faults(expire=0.5)
    arn = client.create_model_invocation_job(**asked(uri, "late"))["jobArn"]
    assert ended(client, arn)["status"] == "PartiallyCompleted"
    assert len(outputs(s3, arn)["late.jsonl.out"].splitlines()) == 5
    emulator.faults(expire=0)
    arn = client.create_model_invocation_job(**asked(uri, "later"))["jobArn"]
    assert ended(client, arn)["status"] == "Expired"
    assert outputs(s3, arn) == {}


def test_troubles_have_aws_names(emulator, s3):
    """A full queue, throttling and an outage, as the SDK's exceptions."""
    client, uri = sdk(emulator), put(s3, "trouble", records(3))
    emulator.faults(enqueued_tokens=1, refuse_enqueued=400)
    with pytest.raises(client.exceptions.ServiceQuotaExceededException):
        client.create_model_invocation_job(**asked(uri, "full"))
    on = "POST /model-invocation-job"
    emulator.faults(http=[{"on": on, "status": 429}, {"on": on, "status": 500}])
    with pytest.raises(client.exceptions.ThrottlingException):
        client.create_model_invocation_job(**asked(uri, "full"))
    with pytest.raises(client.exceptions.InternalServerException):
        client.create_model_invocation_job(**asked(uri, "full"))


def test_the_door_wants_a_signature_for_bedrock_or_a_key(emulator):
    """No credentials, and a signature for another service."""
    assert httpx.get(f"{emulator.url}/model-invocation-jobs").status_code == 403
    other = "AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    assert httpx.get(f"{emulator.url}/model-invocation-jobs", headers={"authorization": other}).status_code == 403
    bearer = httpx.get(f"{emulator.url}/model-invocation-jobs", headers={"authorization": "Bearer key"})
    assert bearer.json() == {"invocationJobSummaries": []}
    assert (
        "MissingAuthenticationToken" in httpx.get(f"{emulator.url}/model-invocation-jobs").headers["x-amzn-errortype"]
    )


MODELS = [
    (CLAUDE, claude("hello"), lambda a: a["content"][0]["text"]),
    ("us.amazon.nova-lite-v1:0", {"messages": [{"role": "user", "content": [{"text": "hello"}]}]},
     lambda a: a["output"]["message"]["content"][0]["text"]),
    ("meta.llama3-1-8b-instruct-v1:0",
     {"prompt": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|>", "max_gen_len": 9},
     lambda a: a["generation"]),
    ("mistral.mistral-7b-instruct-v0:2", {"prompt": "<s>[INST] hello [/INST]"}, lambda a: a["outputs"][0]["text"]),
    ("mistral.mistral-large-2402-v1:0", {"messages": [{"role": "user", "content": "hello"}]},
     lambda a: a["choices"][0]["message"]["content"]),
    ("openai.gpt-oss-20b-1:0", {"messages": [{"role": "user", "content": "hello"}]},
     lambda a: a["choices"][0]["message"]["content"].partition("</reasoning>")[2]),
]  # fmt: skip


@pytest.mark.parametrize(("model", "body", "read"), MODELS, ids=[model for model, _, _ in MODELS])
def test_models_answer_in_their_own_words(emulator, model, body, read):
    """InvokeModel of every family with a conversation."""
    answer = sdk(emulator, "bedrock-runtime").invoke_model(modelId=model, body=json.dumps(body))
    assert read(json.loads(answer["body"].read())) == "hello"


def test_embeddings(emulator):
    """Titan's one vector, and Cohere's one for each text."""
    runtime = sdk(emulator, "bedrock-runtime")

    def ask(model, **body):
        return json.loads(runtime.invoke_model(modelId=model, body=json.dumps(body))["body"].read())

    titan = ask("amazon.titan-embed-text-v2:0", inputText="a", dimensions=256)
    assert len(titan["embedding"]) == 256 == len(titan["embeddingsByType"]["float"])
    cohere = ask("cohere.embed-english-v3", texts=["a", "b"], input_type="search_document")
    assert len(cohere["embeddings"]) == 2
    with pytest.raises(runtime.exceptions.ValidationException):
        ask("cohere.embed-english-v3", texts=["a"])


def test_converse_is_parsed_by_the_sdk(emulator):
    """Text, tools, a schema and a refusal."""
    runtime = sdk(emulator, "bedrock-runtime")
    turn = {"role": "user", "content": [{"text": "hello"}]}
    said = runtime.converse(modelId=CLAUDE, messages=[turn], inferenceConfig={"maxTokens": 50})
    assert said["output"]["message"]["content"] == [{"text": "hello"}]
    assert (said["stopReason"], said["usage"]["totalTokens"]) == ("end_turn", said["usage"]["inputTokens"] + 2)
    schema = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    spec = {"name": "f", "inputSchema": {"json": schema}}
    called = runtime.converse(modelId=CLAUDE, messages=[turn], toolConfig={"tools": [{"toolSpec": spec}]})
    assert called["stopReason"] == "tool_use"
    assert called["output"]["message"]["content"][0]["toolUse"]["name"] == "f"
    wanted = {"schema": json.dumps({**schema, "additionalProperties": False})}
    text_format = {"type": "json_schema", "structure": {"jsonSchema": wanted}}
    fitted = runtime.converse(modelId=CLAUDE, messages=[turn], outputConfig={"textFormat": text_format})
    assert "x" in json.loads(fitted["output"]["message"]["content"][0]["text"])
    with pytest.raises(ClientError, match="blank"):
        runtime.converse(modelId=CLAUDE, messages=[{"role": "user", "content": [{"text": " "}]}])


def test_openais_sdk_makes_batches_with_headers_and_s3(emulator, s3):
    """Create, retrieve, list and cancel; results in a folder named after the batch, beside the input."""
    emulator.vendor.settings.api_key = "key"
    headers = {"X-Amzn-Bedrock-RoleArn": ROLE, "X-Amzn-Bedrock-ModelId": "openai.gpt-oss-20b-1:0"}
    base = f"{emulator.url}/bedrock/openai/v1"
    client = openai.OpenAI(base_url=base, api_key="key", max_retries=0, default_headers=headers)
    body = {"model": "openai.gpt-oss-20b-1:0", "messages": [{"role": "user", "content": "hello"}]}
    lines = [{"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
    asked = {
        "input_file_id": put(s3, "openai", lines),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"a": "b"},
    }
    batch = client.batches.create(**asked)
    ended = until(lambda: client.batches.retrieve(batch.id), lambda one: one.status == "completed")
    assert (ended.request_counts.completed, ended.output_file_id) == (3, "openai.jsonl.out")
    stored = s3[1].get_object(Bucket=BUCKET, Key=f"in/{batch.id}/openai.jsonl.out")["Body"].read()
    assert [json.loads(line)["custom_id"] for line in stored.splitlines()] == ["c0", "c1", "c2"]
    assert [one.id for one in client.batches.list(limit=1)] == [batch.id]
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    with pytest.raises(openai.BadRequestError, match="X-Amzn"):
        client.with_options(default_headers={**headers, "X-Amzn-Bedrock-RoleArn": ""}).batches.create(**asked)
    with pytest.raises(openai.BadRequestError, match="S3 URI"):
        client.batches.create(**{**asked, "input_file_id": "file-1"})
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="other").batches.list()
    assert client.chat.completions.create(**body).choices[0].message.content == "hello"
