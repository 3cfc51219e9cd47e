"""Whole jobs on an emulated Bedrock: signed calls, objects in a real S3 server."""

from __future__ import annotations

import json
from collections import Counter

import boto3
import pytest
from botocore.exceptions import ClientError
from support.s3 import KEYS, REGION, s3_client, s3_server
from support.sigv4 import Verifying
from support.tasks import drive, explicit, landed, next_task, operator

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, InputError
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators import CompletionOperator, FetchResultsOperator
from airflow_llm_batch.sensors import BatchSensor

CLAUDE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
BEDROCK = {
    "region": REGION,
    "role_arn": "arn:aws:iam::123456789012:role/batch",
    "aws_conn_id": "aws_tests",
}
ROWS = 120


@pytest.fixture(scope="module")
def server():
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """An empty bucket, and the connection that opens it and signs."""
    connection = {
        "conn_type": "aws",
        "login": KEYS["aws_access_key_id"],
        "password": KEYS["aws_secret_access_key"],
        "extra": {"endpoint_url": server, "region_name": REGION},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_TESTS", json.dumps(connection))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "emulator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "emulator")
    name = f"bedrock-{abs(hash(str(tmp_path)))}"
    client = s3_client(server)
    client.create_bucket(Bucket=name)
    return Bucket(client, name)


class Bucket:
    def __init__(self, client, name):
        self.client, self.name = client, name

    @property
    def keys(self):
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", ())]

    def ending(self, suffix):
        return [key for key in self.keys if key.endswith(suffix)]


@pytest.fixture
def emulator(server):
    with Emulator(duration=0, s3_endpoint=server) as running:
        yield running


@pytest.fixture
def conn(emulator, connect, bucket):
    return connect(emulator.url, "bedrock", storage=f"s3://{bucket.name}/staged", **BEDROCK)


def rows(count=ROWS):
    return [{"id": f"k{n}", "text": f"text {n}"} for n in range(count)]


def asked(model=CLAUDE, **more):
    return {"rows": rows(), "key": "id", "request": ChatRequest(model, user="{text}", max_tokens=50), **more}


def in_bucket(summary, bucket):
    found = []
    for file in summary["files"]:
        key = file.partition(f"{bucket.name}/")[2]
        body = bucket.client.get_object(Bucket=bucket.name, Key=key)["Body"].read()
        found += [json.loads(line) for line in body.splitlines()]
    return found


MODELS = [
    CLAUDE,
    "us.amazon.nova-lite-v1:0",
    "meta.llama3-1-8b-instruct-v1:0",
    "mistral.mistral-7b-instruct-v0:2",
    "mistral.mistral-large-2402-v1:0",
    "openai.gpt-oss-20b-1:0",
    "qwen.qwen3-32b-v1:0",
]


@pytest.mark.parametrize("model", MODELS)
def test_a_job_of_every_family(conn, context, tmp_path, bucket, emulator, model):
    """From rows on a local disk: staged, signed, run, read; every row lands with its text."""
    summary = drive(operator(conn, tmp_path, **asked(model)), context)
    found = landed(summary)
    assert {row["key"]: row["text"] for row in found} == {row["id"]: row["text"] for row in rows()}
    assert {row["model"] for row in found} == {model}
    assert len(bucket.ending(".jsonl.out")) == len(emulator.vendor.batches) == 1
    assert all(key.startswith("staged/") for key in bucket.keys)


def test_the_job_directorys_own_file_is_read_where_it_lies(conn, context, bucket, emulator):
    """No second copy: the input of the job is the plan's own file, and the results lie beside it."""
    place = f"s3://aws_tests@{bucket.name}"
    task = operator(conn, "unused", **asked(destination=f"{place}/out", storage=f"{place}/jobs"))
    summary = drive(task, context)
    assert summary["counts"]["succeeded"] == ROWS
    assert len(in_bucket(summary, bucket)) == ROWS
    (job,) = emulator.vendor.batches.values()
    source = job.asked["inputDataConfig"]["s3InputDataConfig"]["s3Uri"]
    assert source.removeprefix(f"s3://{bucket.name}/") in bucket.ending(".jsonl")
    assert source.startswith(f"s3://{bucket.name}/jobs/dag/")
    assert not any(key.startswith("staged/") for key in bucket.keys)


def test_a_scheduled_runs_directory_is_no_address_that_bedrock_takes(conn, context, bucket, emulator):
    """Its colons and its plus: the requests are staged."""
    context["ti"].run_id = "scheduled__2026-01-01T00:00:00+00:00"
    place = f"s3://aws_tests@{bucket.name}"
    task = operator(conn, "unused", **asked(destination=f"{place}/out", storage=f"{place}/jobs"))
    assert drive(task, context)["counts"]["succeeded"] == ROWS
    (job,) = emulator.vendor.batches.values()
    assert job.asked["inputDataConfig"]["s3InputDataConfig"]["s3Uri"].startswith(f"s3://{bucket.name}/staged/")


def test_embeddings(conn, context, tmp_path):
    """A vector a row, and for Cohere what the texts are."""
    titan = EmbeddingRequest("amazon.titan-embed-text-v2:0", dimensions=256)
    summary = drive(operator(conn, tmp_path, **asked(request=titan)), context)
    assert {len(row["embedding"]) for row in landed(summary)} == {256}
    cohere = EmbeddingRequest("cohere.embed-english-v3", params={"input_type": "search_document"})
    other = next_task(context, "cohere")
    summary = drive(operator(conn, tmp_path / "2", **asked(request=cohere)), other)
    assert {len(row["embedding"]) for row in landed(summary)} == {1536}


def test_failed_rows_are_asked_again(connect, emulator, bucket, context, tmp_path):
    """A round of what failed, under its own token; the minimum is lowered for it here and at the vendor."""
    emulator.vendor.settings.bedrock_minimum = 1
    conn = connect(emulator.url, "bedrock", storage=f"s3://{bucket.name}/staged", limits={"minimum": 1}, **BEDROCK)
    emulator.faults(row_errors=0.2, heal=1)
    summary = drive(operator(conn, tmp_path, **asked()), context)
    assert summary["counts"]["succeeded"] == ROWS
    assert summary["rounds"] == 2
    tokens = {job.token for job in emulator.vendor.batches.values()}
    assert len(tokens) == 2 == len(emulator.vendor.batches)
    assert emulator.vendor.stats()["billed_rows"] == ROWS


def test_explicit_rounds(connect, emulator, bucket, context, tmp_path):
    """Submit, wait, fetch, and FailedRows as the next one's rows."""
    emulator.vendor.settings.bedrock_minimum = 1
    conn = connect(emulator.url, "bedrock", storage=f"s3://{bucket.name}/staged", limits={"minimum": 1}, **BEDROCK)
    emulator.faults(row_errors=0.2, heal=1)
    first = explicit(context, conn, tmp_path, **asked())
    assert first["counts"]["errored"] > 0
    again = explicit(next_task(context, "again"), conn, tmp_path, FailedRows(first))
    assert again["counts"]["succeeded"] == ROWS


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_create_that_is_cut_makes_one_job(conn, emulator, context, tmp_path, cut):
    """The connection ends before the answer: the job is found by its token, or made, and billed once."""
    emulator.faults(http=[{"on": "POST /model-invocation-job", "cut": cut}])
    summary = drive(operator(conn, tmp_path, **asked()), context)
    assert summary["counts"]["succeeded"] == ROWS
    assert len(emulator.vendor.batches) == 1
    assert emulator.vendor.stats()["billed_rows"] == ROWS


def test_a_job_that_ran_out_of_time_lands_what_it_did(conn, emulator, context, tmp_path):
    """PartiallyCompleted: half the rows; the others have expired, were not billed, and leave the cost known."""
    emulator.faults(expire=0.5)
    summary = drive(operator(conn, tmp_path, max_rounds=1, fail_on="none", **asked()), context)
    assert summary["counts"]["succeeded"] == summary["counts"]["expired"] == ROWS // 2
    assert summary["cost_usd"] > 0


def test_a_job_that_never_began_has_no_results(conn, emulator, context, tmp_path):
    """Expired: every row has a record that says so, and nothing was billed."""
    emulator.faults(expire=0)
    summary = drive(operator(conn, tmp_path, max_rounds=1, fail_on="none", **asked()), context)
    assert summary["counts"].get("succeeded", 0) == 0
    assert sum(summary["counts"].values()) == ROWS
    assert emulator.vendor.stats()["billed_rows"] == 0


def test_calls_are_signed_one_by_one(conn, emulator, context, tmp_path):
    """The online lane: InvokeModel for each row, and no job."""
    task = CompletionOperator(task_id="online", conn_id=conn, destination=f"file://{tmp_path}/out", **asked())
    summary = drive(task, context)
    assert summary["counts"]["succeeded"] == ROWS
    assert emulator.vendor.batches == {}
    calls = [call for call in emulator.vendor.calls if call.endswith("/invoke")]
    assert calls == [f"POST /model/{CLAUDE}/invoke"]


def test_an_api_key_needs_no_signature(emulator, connect, context, tmp_path, bucket):
    """As Bearer, where no aws connection is chosen; objects are opened with aws_default all the same."""
    emulator.vendor.settings.api_key = "bedrock-api-key"
    extra = {**BEDROCK, "aws_conn_id": None}
    conn = connect(emulator.url, "bedrock", key="bedrock-api-key", storage=f"s3://aws_tests@{bucket.name}/s", **extra)
    assert drive(operator(conn, tmp_path, **asked()), context)["counts"]["succeeded"] == ROWS
    other = connect(emulator.url, "bedrock", "other", key="wrong", **extra)
    tested = LLMBatchHook(other).test_connection()
    assert tested[0] is False
    assert "wrong" not in tested[1]


def test_the_connection_is_tested(conn):
    """A signed listing."""
    assert LLMBatchHook(conn).test_connection()[0]


def test_without_a_bucket_nothing_is_sent(emulator, connect, context, tmp_path, bucket):
    """Rows on a local disk, and no storage."""
    conn = connect(emulator.url, "bedrock", **BEDROCK)
    with pytest.raises(ConfigurationError, match=r"storage.*Nothing was sent"):
        drive(operator(conn, tmp_path, **asked()), context)
    assert emulator.vendor.batches == {}


OSS = "openai.gpt-oss-20b-1:0"


@pytest.fixture
def openai_conn(emulator, connect, bucket):
    emulator.vendor.settings.api_key = "bedrock-api-key"
    extra = {**BEDROCK, "aws_conn_id": None, "storage": f"s3://aws_tests@{bucket.name}/staged"}
    return connect(f"{emulator.url}/bedrock", "bedrock-openai", key="bedrock-api-key", **extra)


def test_openais_batches_on_bedrock(openai_conn, emulator, context, tmp_path, bucket):
    """An API key, headers for model and role, and objects in S3: nothing is uploaded."""
    emulator.faults(row_errors=0.2)
    summary = drive(operator(openai_conn, tmp_path, max_rounds=1, fail_on="none", **asked(OSS)), context)
    assert summary["counts"]["succeeded"] + summary["counts"]["errored"] == ROWS
    assert summary["counts"]["errored"] > 0
    assert {row["text"] for row in landed(summary) if row["status"] == "succeeded"} <= {row["text"] for row in rows()}
    (batch,) = emulator.vendor.batches.values()
    assert batch.input_file_id.startswith(f"s3://{bucket.name}/staged/")
    assert len(bucket.ending(".jsonl.out")) == len(bucket.ending(".jsonl.err")) == 1
    assert not emulator.vendor.calls["POST /v1/files"]


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_cut_create_of_openais_api_makes_one_batch(openai_conn, emulator, context, tmp_path, cut):
    """Found by its metadata."""
    emulator.faults(http=[{"on": "POST /bedrock/openai/v1/batches", "cut": cut}])
    assert drive(operator(openai_conn, tmp_path, **asked(OSS)), context)["counts"]["succeeded"] == ROWS
    assert len(emulator.vendor.batches) == 1


def test_calls_of_openais_api(openai_conn, emulator, context, tmp_path):
    """Chat completions of the runtime."""
    task = CompletionOperator(
        task_id="online", conn_id=openai_conn, destination=f"file://{tmp_path}/out", **asked(OSS, rows=rows(3))
    )
    assert drive(task, context)["counts"]["succeeded"] == 3
    assert emulator.vendor.calls["POST /bedrock/openai/v1/chat/completions"] == 3


@pytest.fixture
def verifying(server):
    """An emulator that checks every signature, and what it has counted."""
    counted = Counter()
    emulator = Emulator(duration=0, s3_endpoint=server)
    keys = {KEYS["aws_access_key_id"]: KEYS["aws_secret_access_key"]}
    emulator.app.add_middleware(Verifying, keys=keys, counted=counted)
    with emulator:
        yield emulator, counted


def test_every_signature_is_right(verifying, connect, context, tmp_path, bucket):
    """Of a job, of calls one by one, of a listing and a stop; boto3's are the measure of the measure."""
    emulator, counted = verifying
    with pytest.raises(ClientError):
        boto3.client("bedrock", endpoint_url=emulator.url, region_name=REGION, **KEYS).get_model_invocation_job(
            jobIdentifier="arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abcdefghijkl"
        )
    boto3.client("bedrock-runtime", endpoint_url=emulator.url, region_name=REGION, **KEYS).converse(
        modelId=CLAUDE, messages=[{"role": "user", "content": [{"text": "ä"}]}]
    )
    assert counted == {"good": 2}
    other = {**KEYS, "aws_secret_access_key": "wrong"}
    boto3.client("bedrock", endpoint_url=emulator.url, region_name=REGION, **other).list_model_invocation_jobs()
    assert counted.pop("GET /model-invocation-jobs") == 1
    conn = connect(emulator.url, "bedrock", storage=f"s3://{bucket.name}/staged", **BEDROCK)
    drive(operator(conn, tmp_path, **asked()), context)
    task = CompletionOperator(task_id="online", conn_id=conn, destination=f"file://{tmp_path}/2", **asked())
    drive(task, next_task(context, "online"))
    hook = LLMBatchHook(conn)
    batch = hook.list_batches(limit=1).items[0]
    assert hook.cancel_batch(batch.id).outcome == "completed"
    assert counted.pop("good") > ROWS
    assert counted == {}


def test_fewer_rows_than_a_job_takes_are_refused_with_the_remedy(conn, emulator, context, tmp_path):
    """Before anything is sent."""
    with pytest.raises(InputError, match=r"99 rows.*100.*small_batches.*Nothing was sent"):
        drive(operator(conn, tmp_path, **asked(rows=rows(99))), context)
    assert sum(emulator.vendor.calls.values()) == 0


def test_fewer_rows_are_called_by_choice(emulator, connect, context, tmp_path, bucket):
    """One by one, at the price of that; so is a round of what failed, and the job before it was a batch."""
    storage = f"s3://{bucket.name}/staged"
    conn = connect(emulator.url, "bedrock", storage=storage, small_batches="online", **BEDROCK)
    summary = drive(operator(conn, tmp_path, **asked(rows=rows(7))), context)
    assert (summary["counts"]["succeeded"], len(emulator.vendor.batches)) == (7, 0)
    emulator.faults(row_errors=0.2, heal=1)
    summary = drive(operator(conn, tmp_path / "2", **asked()), next_task(context, "second"))
    assert (summary["counts"]["succeeded"], summary["rounds"], len(emulator.vendor.batches)) == (ROWS, 2, 1)


@pytest.mark.parametrize("source", ["theirs/in.jsonl", "theirs"])
def test_a_job_that_was_made_elsewhere_is_landed(conn, emulator, context, tmp_path, bucket, source):
    """By boto3, of an object or of a whole folder; every record under its own id."""
    emulator.vendor.settings.bedrock_minimum = 2
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]}
    lines = b"".join(json.dumps({"recordId": f"CALL{n}", "modelInput": body}).encode() + b"\n" for n in range(2))
    bucket.client.put_object(Bucket=bucket.name, Key="theirs/in.jsonl", Body=lines)
    arn = boto3.client("bedrock", endpoint_url=emulator.url, region_name=REGION, **KEYS).create_model_invocation_job(
        jobName="theirs",
        roleArn=BEDROCK["role_arn"],
        modelId=CLAUDE,
        inputDataConfig={"s3InputDataConfig": {"s3Uri": f"s3://{bucket.name}/{source}"}},
        outputDataConfig={"s3OutputDataConfig": {"s3Uri": f"s3://{bucket.name}/theirs-out"}},
    )["jobArn"]
    handle = BatchSensor(task_id="w", batch_id=arn, conn_id=conn, deferrable=False).execute(context)
    fetch = FetchResultsOperator(task_id="f", job=handle, destination=f"file://{tmp_path}/out")
    assert {row["key"]: row["text"] for row in landed(fetch.execute(context))} == {"CALL0": "a", "CALL1": "a"}
