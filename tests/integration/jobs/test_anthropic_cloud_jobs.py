"""Whole jobs at Anthropic's API behind AWS's and Google's accounts."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from support.google import google_connection
from support.jobs import chat, land, spec, submit, texts
from support.s3 import KEYS, REGION
from support.sigv4 import Verifying

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators import CompletionOperator

WORKSPACE = {"workspace_id": "wrkspc_1"}
AWS = {"region": REGION, "aws_conn_id": "aws_tests", **WORKSPACE}


@pytest.fixture
def aws(monkeypatch):
    """An aws connection."""
    login = {"login": KEYS["aws_access_key_id"], "password": KEYS["aws_secret_access_key"]}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_TESTS", json.dumps({"conn_type": "aws", **login}))


@pytest.fixture(params=["key", "signature", "google"])
def hook(request, emulator, connect, aws, monkeypatch):
    """Batches of three rows, by each kind of credentials."""
    more = {"limits": {"requests": 3}, "conn_id": "clouds"}
    if request.param == "google":
        monkeypatch.setenv("AIRFLOW_CONN_GCP_TESTS", google_connection(emulator.url))
        url = f"{emulator.url}/anthropic-google/v1/projects/p1/locations/global/workspaces/wrkspc_1/invoke"
        extra = {"project": "p1", "gcp_conn_id": "gcp_tests", **WORKSPACE}
        made = LLMBatchHook(connect(url, "anthropic-google", key=None, **more, **extra))
    else:
        extra = {"region": REGION, **WORKSPACE} if request.param == "key" else AWS
        made = LLMBatchHook(connect(f"{emulator.url}/anthropic-aws", "anthropic-aws", **more, **extra))
    yield made
    made.close()


@pytest.mark.parametrize("cut", [None, "after"])
def test_a_job_goes_from_plan_to_landed(hook, store, emulator, tmp_path, cut):
    """Each row once, at Anthropic's batch price, though an answer of a create was lost."""
    creates = next(f"POST {path}" for path in [f"{hook.provider.url('v1', 'messages', 'batches').path}"])
    emulator.faults(http=[{"on": creates, "cut": cut}] if cut else [])
    job, ids = submit(store, hook, spec(texts(5), chat("anthropic"), "id"))
    manifest, rows = land(store, hook, job, tmp_path / "out")
    assert {row["key"]: row["text"] for row in rows} == {f"k{n}": f"text {n}" for n in range(5)}
    assert (len(ids), emulator.vendor.stats()["billed_rows"], emulator.vendor.calls[creates]) == (2, 5, 2)
    assert manifest.cost_usd == pytest.approx(0.5 * manifest.sync_cost_usd)


def test_every_signature_is_right(aws, connect, context, store, tmp_path):
    """Of a job whose requests are streamed inside the create, of its results, of calls one by one."""
    counted = Counter()
    emulator = Emulator(duration=0)
    keys = {KEYS["aws_access_key_id"]: KEYS["aws_secret_access_key"]}
    emulator.app.add_middleware(Verifying, keys=keys, counted=counted)
    with emulator:
        conn_id = connect(f"{emulator.url}/anthropic-aws", "anthropic-aws", key=None, **AWS)
        hook = LLMBatchHook(conn_id)
        job, _ = submit(store, hook, spec(texts(5), chat("anthropic"), "id"))
        assert land(store, hook, job, tmp_path / "out")[0].counts["succeeded"] == 5
        called = CompletionOperator(
            task_id="online", conn_id=conn_id, rows=["a", "b"], lane="online", destination=f"file://{tmp_path}/2",
            request=chat("anthropic", user="{text}"),
        )  # fmt: skip
        assert called.execute(context)["counts"]["succeeded"] == 2
        assert counted.pop("good") >= 5
        assert counted == {}
        hook.close()
