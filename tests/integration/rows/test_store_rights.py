"""The rights on an S3 bucket that the README says tasks need: with these a whole job runs where they are checked."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from support import ROOT
from support.s3 import KEYS, REGION, s3_client, s3_server

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

pytest.importorskip("moto")
#: rows of one shard, and bytes of a column that makes its files larger than one request takes
ROWS, WIDE = 2000, 3000


def documented() -> dict:
    """The policy as the README has it."""
    [found] = re.findall(r'```json\n(\{"Version": "2012-10-17".*?)```', (ROOT / "README.md").read_text(), re.DOTALL)
    return json.loads(found)


@pytest.fixture
def bucket(monkeypatch):
    """A bucket, and who may do with it what a policy says: ``bucket(policy)`` is its URI."""
    import boto3

    with s3_server() as url:

        def allow(policy: dict) -> str:
            s3_client(url).create_bucket(Bucket="bucket")
            iam = boto3.client("iam", endpoint_url=url, region_name=REGION, **KEYS)
            iam.create_user(UserName="worker")
            iam.put_user_policy(UserName="worker", PolicyName="llm-batch", PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName="worker")["AccessKey"]
            # From now on the server looks at who asks.
            httpx.post(f"{url}/moto-api/reset-auth", content=b"0").raise_for_status()
            connection = {
                "conn_type": "aws", "login": key["AccessKeyId"], "password": key["SecretAccessKey"],
                "extra": {"endpoint_url": url, "region_name": REGION},
            }  # fmt: skip
            # File systems are kept for as long as the process runs, by the connection's name.
            name = f"worker_{key['AccessKeyId'].lower()}"
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
            return f"s3://{name}@bucket"

        yield allow


def run_job(conn_id: str, context, uri: str) -> dict:
    """Submitted, waited for, and landed twice: once more to another place, which the first one makes room for."""
    rows = [{"id": n, "text": f"text {n}", "page": "p" * WIDE} for n in range(ROWS)]
    submit = SubmitBatchOperator(
        task_id="s", conn_id=conn_id, rows=rows, key="id", passthrough=["page"],
        request=ChatRequest("gpt-5-mini", user="{text}", max_tokens=20), storage=f"{uri}/jobs",
    )  # fmt: skip
    waited = BatchSensor(task_id="w", job=submit.execute(context), deferrable=False).execute(context)
    for place in ("out", "elsewhere"):
        summary = FetchResultsOperator(task_id="f", job=waited, destination=f"{uri}/{place}").execute(context)
    return summary


def test_the_documented_rights_are_enough(emulator, connect, context, bucket):
    assert run_job(connect(emulator.url), context, bucket(documented()))["rows"] == ROWS


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:PutObject", "s3:ListBucket"])
def test_without_one_of_them_nothing_is_sent(emulator, connect, context, bucket, action):
    """The refusal comes before the first batch, and names the place."""
    policy = documented()
    for statement in policy["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each != action] or ["s3:GetBucketTagging"]
    with pytest.raises(PermissionError, match=r"bucket/jobs/.*Denied.*'Executors and pods'"):
        run_job(connect(emulator.url), context, bucket(policy))
    assert emulator.vendor.batches == {}
