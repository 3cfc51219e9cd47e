"""Bedrock's jobs as flows over canned answers, its addresses and its signatures."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import unquote

import botocore.session
import httpx
import msgspec
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Keys
from botocore.exceptions import ClientError, CredentialRetrievalError, EndpointConnectionError, ProfileNotFound

from airflow_llm_batch.exceptions import ConfigurationError, InputError, RefusedForGood, VendorUnavailable
from airflow_llm_batch.models import Batch, Shard
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.base import Payload
from airflow_llm_batch.providers.bedrock import jobs
from airflow_llm_batch.providers.bedrock.credentials import Signed
from airflow_llm_batch.providers.bedrock.openai import BedrockOpenAI
from airflow_llm_batch.providers.bedrock.protocol import Bedrock
from airflow_llm_batch.providers.bodies import Stored
from airflow_llm_batch.providers.troubles import is_full
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing import ProviderContract
from airflow_llm_batch.testing.providers import NOW, drive

ROLE = "arn:aws:iam::123456789012:role/batch"
EXTRA = {"region": "us-west-2", "role_arn": ROLE, "storage": "s3://bucket/llm"}
MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
ARN = "arn:aws:bedrock:us-west-2:123456789012:model-invocation-job/abcdefghijkl"
SHARD = Shard(key="0a1b2c3d-0-deadbeef", token="t1", endpoint="invoke", model=MODEL, rows=100)
EMPTY = Payload(tuple, 0)


def bedrock(base_url=None, **extra):
    return Bedrock(base_url, {**EXTRA, **extra})


class TestBedrock(ProviderContract):
    made = bedrock()
    running, ended = "InProgress", "Completed"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        return {
            "jobArn": batch_id,
            "jobName": "llm-batch-x",
            "status": status,
            "submitTime": at.isoformat(),
            "totalRecordCount": rows,
            "successRecordCount": rows,
            "errorRecordCount": 0,
            "inputDataConfig": {"s3InputDataConfig": {"s3Uri": "s3://bucket/llm/in.jsonl"}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://bucket/llm/out/"}},
            **more,
        }

    def page(self, items, *, more):
        return {"invocationJobSummaries": items, **({"nextToken": items[-1]["jobArn"]} if more else {})}

    @pytest.mark.parametrize(
        ("status", "outcome"),
        [
            ("Completed", "completed"),
            ("PartiallyCompleted", "expired"),
            ("Failed", "failed"),
            ("Stopped", "cancelled"),
            ("Expired", "expired"),
            *((status, None) for status in ("Submitted", "Validating", "Scheduled", "InProgress", "Stopping")),
        ],
    )
    def test_every_status_of_the_service_model_is_known(self, status, outcome):
        """What botocore's model lists, and what each means."""
        batch = jobs.parse_job(self.raw(ARN, status, message="Why."))
        assert (batch.outcome, batch.known) == (outcome, True)
        assert batch.errors == ((("", "Why."),) if status == "Failed" else ())
        assert batch.files == ("s3://bucket/llm/out/abcdefghijkl/",)

    def test_a_completed_job_with_failed_records_is_partial(self):
        """As OpenAI's are."""
        assert jobs.parse_job(self.raw(ARN, "Completed", errorRecordCount=1)).outcome == "partial"


def create(made, *answers, shard=SHARD, ref="s3://aws_default@bucket/llm/x.jsonl"):
    return drive(made.create(shard, ref, EMPTY), *answers)


def conflict(message="The provided job name is currently in use."):
    return httpx.Response(400, json={"message": message}, headers={"x-amzn-errortype": "ConflictException:http://x/"})


def test_a_create_names_everything():
    """The body, as the API reference has it; ``create`` adds to it."""
    made = bedrock(
        timeout_hours=48, kms_key="alias/k", bucket_owner="123456789012", create={"tags": [{"key": "a", "value": "b"}]}
    )
    (request,), batch = create(made, {"jobArn": ARN})
    body = json.loads(request.content)
    assert (request.method, str(request.url)) == (
        "POST",
        "https://bedrock.us-west-2.amazonaws.com/model-invocation-job",
    )
    assert body == {
        "jobName": body["jobName"],
        "clientRequestToken": body["clientRequestToken"],
        "roleArn": ROLE,
        "modelId": MODEL,
        "modelInvocationType": "InvokeModel",
        "inputDataConfig": {
            "s3InputDataConfig": {
                "s3InputFormat": "JSONL",
                "s3Uri": "s3://bucket/llm/x.jsonl",
                "s3BucketOwner": "123456789012",
            }
        },
        "outputDataConfig": {
            "s3OutputDataConfig": {
                "s3Uri": "s3://bucket/llm/out/",
                "s3BucketOwner": "123456789012",
                "s3EncryptionKeyId": "alias/k",
            }
        },
        "timeoutDurationInHours": 48,
        "tags": [{"key": "a", "value": "b"}],
    }
    assert body["jobName"].startswith("llm-batch-0a1b2c3d-0-deadbeef")
    assert len(body["jobName"]) <= 63
    assert (batch.id, batch.outcome, batch.known) == (ARN, None, True)
    converse = SHARD.model_copy(update={"endpoint": "converse"})
    (request,), _ = create(bedrock(), {"jobArn": ARN}, shard=converse)
    assert json.loads(request.content)["modelInvocationType"] == "Converse"


def asked_of(shard):
    (request,), _ = create(bedrock(), {"jobArn": ARN}, shard=shard)
    return json.loads(request.content)


def test_a_shard_is_one_job_and_another_planning_another():
    """Token and name follow from the shard; what has no key of ours is never taken for another's."""
    first, again = asked_of(SHARD), asked_of(SHARD)
    planned_anew = asked_of(SHARD.model_copy(update={"token": "t2"}))
    assert first == again
    assert first["clientRequestToken"] != planned_anew["clientRequestToken"]
    assert first["jobName"] != planned_anew["jobName"]
    bare = Shard(endpoint="invoke", model=MODEL)
    assert asked_of(bare)["clientRequestToken"] != asked_of(bare)["clientRequestToken"]
    odd = SHARD.model_copy(update={"key": "ä/" * 60 + "-0-00000000"})
    assert len(asked_of(odd)["jobName"]) <= 63


def test_a_name_that_is_taken_by_our_own_create_is_our_job():
    """A conflict is settled by the token; a stranger's job of that name stays one."""
    body = asked_of(SHARD)
    ours = TestBedrock().raw(ARN, "InProgress", jobName=body["jobName"], clientRequestToken=body["clientRequestToken"])
    requests, batch = create(bedrock(), conflict(), {"invocationJobSummaries": [ours]})
    assert batch.id == ARN
    assert requests[1].url.params["nameContains"] == body["jobName"]
    stranger = {**ours, "clientRequestToken": "other"}
    with pytest.raises(RefusedForGood, match="ConflictException"):
        create(bedrock(), conflict(), {"invocationJobSummaries": [stranger]})


def test_a_lost_create_is_found_by_its_token():
    """Wherever it stands in the listing, and whatever its time says; others of a like name are not it."""
    body = asked_of(SHARD)
    ours = TestBedrock().raw(
        ARN,
        "Submitted",
        NOW - timedelta(days=9),
        jobName=body["jobName"],
        clientRequestToken=body["clientRequestToken"],
    )
    longer = {**ours, "jobArn": "b", "jobName": body["jobName"] + "-2"}
    odd = {"jobName": body["jobName"], "jobArn": {}}
    pages = {"invocationJobSummaries": [longer, odd], "nextToken": "n1"}, {"invocationJobSummaries": [ours]}
    requests, found = drive(bedrock().find(SHARD, NOW), *pages)
    assert [batch.id for batch in found] == [ARN]
    assert requests[1].url.params["nextToken"] == "n1"
    assert drive(bedrock().find(SHARD, NOW), {"invocationJobSummaries": []})[1] == []


def test_a_search_without_end_is_told():
    """A server that pages for ever."""
    flow = bedrock().find(SHARD, NOW)
    with pytest.raises(VendorUnavailable, match="Nothing was sent again"):
        drive(flow, *[{"nextToken": "n"}] * Bedrock.find_pages)


def test_a_full_queue_is_no_refusal():
    """ServiceQuotaExceededException is room that others take; a validation is final."""
    full = httpx.Response(
        400, json={"message": "Too many jobs."}, headers={"x-amzn-errortype": "ServiceQuotaExceededException"}
    )
    with pytest.raises(RefusedForGood) as raised:
        create(bedrock(), full)
    assert is_full(raised.value.code, str(raised.value))
    wrong = httpx.Response(400, json={"Message": "Bad.", "__type": "com.amazon#ValidationException"})
    with pytest.raises(RefusedForGood, match=r"ValidationException: Bad\.") as raised:
        create(bedrock(), wrong)
    assert not is_full(raised.value.code, str(raised.value))


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("s3://conn@bucket/jobs/dag/run/task/-1/shards/00000/requests-a1.jsonl", None),
        ("s3://jobs/shards/requests-a1.jsonl", None),
        ("s3://conn@bucket/scheduled__2026-01-01T00:00:00+00:00/requests.jsonl", "s3://aws_default@bucket/llm/{}"),
        ("s3://conn@bucket/t/-1~gpt/requests-a1.jsonl", "s3://aws_default@bucket/llm/{}"),
        ("file:///jobs/requests-a1.jsonl", "s3://aws_default@bucket/llm/{}"),
        ("gs://bucket/requests-a1.jsonl", "s3://aws_default@bucket/llm/{}"),
    ],
)
def test_a_shard_is_read_where_it_lies_or_staged(source, place):
    """In the job directory where its address is one that Bedrock takes, else below the storage."""
    expected = source if place is None else place.format("a-0-b.jsonl")
    assert bedrock().place("a-0-b.jsonl", source) == expected
    named = bedrock(storage="s3://mine@bucket/llm/", aws_conn_id="other").place("a:0.jsonl", "file:///x.jsonl")
    assert named == "s3://mine@bucket/llm/a-0.jsonl"


@pytest.mark.parametrize(
    ("extra", "source", "named"),
    [
        ({"storage": None}, "file:///x.jsonl", "storage.*Nothing was sent"),
        ({"storage": None}, "s3://b@bucket/a+b/x.jsonl", "run id's : and"),
        ({"storage": "gs://bucket/x"}, "file:///x.jsonl", "storage"),
        ({"storage": "s3://bucket/with space"}, "file:///x.jsonl", "storage"),
        ({"role_arn": None}, "file:///x.jsonl", "role_arn"),
    ],
)
def test_where_there_is_no_place_the_remedy_is_named(extra, source, named):
    """Nothing is sent without a bucket, or without a role."""
    with pytest.raises(ConfigurationError, match=named):
        bedrock(**extra).place("x.jsonl", source)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"region": "us east"}, "region"),
        ({"role_arn": "batch"}, "role_arn"),
        ({"timeout_hours": 12}, "timeout_hours"),
        ({"invocation_type": "Chat"}, "invocation_type"),
        ({"anthropic_beta": 5}, "anthropic_beta"),
    ],
)
def test_odd_options_are_refused_by_name(extra, named):
    """Before anything is sent."""
    with pytest.raises(ConfigurationError, match=named):
        bedrock(**extra)


def test_objects_and_results_lie_where_the_connection_opens_them():
    """Results by folder; what was staged may go, and the job directory's own never."""
    made = bedrock()
    batch = jobs.parse_job(TestBedrock().raw(ARN, "Completed"))
    assert made.results(batch) == [Stored("s3://aws_default@bucket/llm/out/abcdefghijkl/", "*.jsonl.out")]
    assert made.inputs(batch) == [Stored("s3://aws_default@bucket/llm", "in.jsonl")]
    assert made.objects(batch, "inputs") == ["s3://aws_default@bucket/llm/in.jsonl"]
    assert made.objects(batch, "all")[1:] == [
        "s3://aws_default@bucket/llm/out/abcdefghijkl/in.jsonl.out",
        "s3://aws_default@bucket/llm/out/abcdefghijkl/manifest.json.out",
    ]
    assert bedrock(storage="s3://bucket/llm2").objects(batch, "all") == ()
    assert bedrock(storage=None).objects(batch, "all") == ()
    assert made.results(Batch(id="x", status="Failed")) == []


def test_every_region_has_the_address_that_botocore_knows():
    """The sovereign and the secret partitions too, whose domains are their own."""
    session = botocore.session.get_session()
    endpoints = session._get_internal_component("endpoint_resolver")
    known = 0
    for partition in session.get_available_partitions():
        for region in session.get_available_regions("s3", partition):
            found = endpoints.construct_endpoint("bedrock", region, partition)
            known += 1
            assert bedrock(region=region).base_url == f"https://{found['hostname']}"
    assert known > 30


def test_calls_go_to_the_runtime():
    """Its own host, unless a host is given; a model's id is one part of the path."""
    made, line = bedrock(), json.dumps({"recordId": "j-1", "modelInput": {"prompt": "a"}}).encode()
    assert made.call_url == "https://bedrock-runtime.us-west-2.amazonaws.com"
    call = made.call(line, SHARD.model_copy(update={"model": "arn:aws:bedrock:us-west-2:1:inference-profile/x"}))
    assert call.path == b"/model/arn%3Aaws%3Abedrock%3Aus-west-2%3A1%3Ainference-profile%2Fx/invoke"
    assert (call.custom_id, json.loads(call.body)) == ("j-1", {"prompt": "a"})
    assert bedrock("http://127.0.0.1:1").call_url == "http://127.0.0.1:1"
    assert bedrock(runtime_host="https://vpce-1/").call_url == "https://vpce-1"
    assert bedrock(region="cn-north-1").call_url == "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"
    good = made.answered("j-1", 200, b'{"generation": "a", "stop_reason": "stop"}')
    assert made.read(good).text == "a"
    bad = made.read(made.answered("j-1", 429, b'{"message": "Too many requests"}'))
    assert (bad.status, bad.error_code, bad.error_message) == ("errored", "http_429", "Too many requests")
    assert b'"unanswered":true' in made.answered("j-1", 599, b'{"error":{"unanswered":true}}')


def test_lines_and_requests_are_each_others_reverse():
    """A row that is asked again is what was sent, under its model."""

    made = bedrock()
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 5}
    request = made.translate(Request("/v1/chat/completions", asked))
    line = made.line(request, "j-1")
    assert "model" not in line["modelInput"]
    again = made.request_of(msgspec.json.decode(msgspec.json.encode(line)), SHARD)
    assert again == request
    assert made.translate(again) == request
    assert (made.id_of(line), made.group(request)) == ("j-1", ("invoke", MODEL))


def assuming(code, status):
    """How STS refuses a role."""
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "AssumeRole")


class TestCredentials:
    def test_a_key_is_a_bearer_unless_an_aws_connection_is_chosen(self):
        """And nothing is shown to other hosts."""
        auth = bedrock().auth(Login("c", "", "bedrock-key"))
        assert auth.fixed == {"authorization": "Bearer bedrock-key"}
        assert auth.secrets == ("bedrock-key",)
        assert not auth.owns(httpx.URL("https://bucket.s3.amazonaws.com/x"))
        chosen = bedrock(aws_conn_id="mine").auth(Login("c", "", "bedrock-key"))
        assert isinstance(chosen, Signed)
        assert (chosen.conn_id, chosen.region) == ("mine", "us-west-2")
        assert bedrock().auth(Login("c")).conn_id == "aws_default"

    def test_a_region_is_needed_for_aws_itself(self, monkeypatch):
        """From the extra, or from the environment."""
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ConfigurationError, match="region"):
            Bedrock(None, {}).auth(Login("c", "", "k"))
        Bedrock("http://127.0.0.1:1", {}).auth(Login("c", "", "k"))
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        assert Bedrock(None, {}).base_url == "https://bedrock.eu-west-1.amazonaws.com"

    @pytest.mark.parametrize(
        "request_",
        [
            lambda made: next(made.get(ARN)),
            lambda made: next(made.list("next/token==", name="a:b+c/d=")),
            lambda made: next(made.cancel(ARN)),
            lambda made: next(made.create(SHARD, "s3://bucket/x.jsonl", EMPTY)),
        ],
        ids=["get", "list", "cancel", "create"],
    )
    def test_a_signature_is_the_one_that_aws_reckons(self, request_):
        """Reckoned once more from what is sent: method, path and query as they are on the wire, headers, body."""
        made = bedrock("http://127.0.0.1:9")
        auth = made.auth(Login("c"))
        auth.__dict__["source"] = Keys("AKID", "wJalrXUtnFEMI", "the-session-token")
        request = request_(made)
        next(auth.sync_auth_flow(request))
        sent = request.headers
        assert sent["x-amz-security-token"] == "the-session-token"
        assert auth.secrets == ("wJalrXUtnFEMI", "the-session-token")
        path, _, query = request.url.raw_path.decode().partition("?")
        # AWS decodes the query and encodes it again, each name and value alone.
        params = {unquote(name): unquote(value) for name, _, value in (p.partition("=") for p in query.split("&") if p)}
        signed = AWSRequest(
            request.method,
            f"http://127.0.0.1:9{path}",
            headers={"content-type": sent["content-type"]} if "content-type" in sent else {},
            params=params,
            data=request.content or None,
        )
        signed.context["timestamp"] = sent["x-amz-date"]
        signer = SigV4Auth(auth.source, "bedrock", "us-west-2")
        signed.headers["X-Amz-Date"] = sent["x-amz-date"]
        signed.headers["X-Amz-Security-Token"] = "the-session-token"
        canonical = signer.canonical_request(signed)
        expected = signer.signature(signer.string_to_sign(signed, canonical), signed)
        assert sent["authorization"].endswith(f"Signature={expected}")
        assert "/us-west-2/bedrock/aws4_request" in sent["authorization"]

    def test_credentials_that_expire_are_asked_for_with_each_call(self):
        """The secret of each of them is known for one that must not be told."""
        auth = bedrock().auth(Login("c"))
        held = iter(range(9))
        auth.__dict__["source"] = SimpleNamespace(
            get_frozen_credentials=lambda: Keys("AKID", f"secret-{next(held)}").get_frozen_credentials()
        )
        made = {
            auth.sign(httpx.Request("GET", "https://bedrock.us-west-2.amazonaws.com/x"))["authorization"] for _ in "ab"
        }
        assert len(made) == 2
        assert auth.secrets == ("secret-0", "secret-1")

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (assuming("AccessDenied", 403), ConfigurationError),
            (ProfileNotFound(profile="x"), ConfigurationError),
            (CredentialRetrievalError(provider="sso", error_msg="expired"), ConfigurationError),
            (EndpointConnectionError(endpoint_url="https://sts.amazonaws.com"), httpx.ConnectError),
            (assuming("Throttling", 429), httpx.ConnectError),
            (assuming("ServiceUnavailable", 503), httpx.ConnectError),
        ],
    )
    def test_a_connection_that_gives_no_credentials_is_told(self, error, kind):
        """By its name, and as something that was never sent: what passes is asked again, what stays is final."""
        auth = bedrock(aws_conn_id="mine").auth(Login("c"))

        def refuse():
            raise error

        auth.__dict__["source"] = SimpleNamespace(get_frozen_credentials=refuse)
        with pytest.raises(kind, match=r"'mine'.*Nothing was sent" if kind is ConfigurationError else "No credentials"):
            auth.sign(httpx.Request("GET", "https://bedrock.us-west-2.amazonaws.com/x"))

    def test_no_other_origin_sees_a_signature(self):
        """A request to elsewhere is left as it is, and no credentials are asked for."""
        auth = bedrock().auth(Login("c"))
        request = httpx.Request("GET", "https://bedrock.us-west-2.amazonaws.com.evil.example/x")
        next(auth.sync_auth_flow(request))
        assert "authorization" not in request.headers
        assert "source" not in auth.__dict__

    def test_airflows_connection_gives_the_keys(self, monkeypatch):
        """Of type aws, in Airflow's own words."""
        connection = {"conn_type": "aws", "login": "AKID", "password": "top-secret", "extra": {"region_name": "x"}}
        monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(connection))
        auth = bedrock(aws_conn_id="mine").auth(Login("c"))
        header = auth.sign(httpx.Request("GET", "https://bedrock.us-west-2.amazonaws.com/x"))["authorization"]
        assert header.startswith("AWS4-HMAC-SHA256 Credential=AKID/")
        assert "top-secret" in auth.secrets
        assert "top-secret" not in header


class TestBedrockOpenAI(ProviderContract):
    made = BedrockOpenAI(None, EXTRA)
    running, ended = "in_progress", "completed"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        return {
            "id": batch_id,
            "status": status,
            "created_at": int(at.timestamp()),
            "input_file_id": "s3://bucket/llm/in.jsonl",
            "request_counts": {"total": rows, "completed": rows, "failed": 0},
            **more,
        }

    def test_model_and_role_are_headers(self):
        """And the input is an address in S3."""
        (request,), batch = create(
            BedrockOpenAI(None, {**EXTRA, "kms_key": "k"}),
            self.raw("batch_1", "validating"),
            shard=SHARD.model_copy(update={"endpoint": "/v1/chat/completions", "model": "openai.gpt-oss-20b-1:0"}),
        )
        assert str(request.url) == "https://bedrock-runtime.us-west-2.amazonaws.com/openai/v1/batches"
        assert request.headers["X-Amzn-Bedrock-RoleArn"] == ROLE
        assert request.headers["X-Amzn-Bedrock-ModelId"] == "openai.gpt-oss-20b-1:0"
        assert request.headers["X-Amzn-Bedrock-OutputEncryptionKeyId"] == "k"
        body = json.loads(request.content)
        assert (body["input_file_id"], body["endpoint"]) == ("s3://bucket/llm/x.jsonl", "/v1/chat/completions")
        assert batch.id == "batch_1"

    def test_results_lie_beside_the_input(self):
        """Answers and errors, in a folder named after the batch."""
        _, batch = drive(self.made.get("batch_1"), self.raw("batch_1", "completed"))
        assert self.made.results(batch) == [
            Stored("s3://aws_default@bucket/llm/batch_1/", "*.jsonl.out"),
            Stored("s3://aws_default@bucket/llm/batch_1/", "*.jsonl.err"),
        ]
        assert self.made.inputs(batch) == [Stored("s3://aws_default@bucket/llm", "in.jsonl")]
        assert self.made.objects(batch, "inputs") == ["s3://aws_default@bucket/llm/in.jsonl"]
        assert self.made.objects(batch, "all")[1:] == [
            "s3://aws_default@bucket/llm/batch_1/in.jsonl.out",
            "s3://aws_default@bucket/llm/batch_1/in.jsonl.err",
        ]
        assert self.made.results(Batch(id="x", status="failed")) == ()

    def test_a_lost_create_is_found_by_its_file_too(self):
        """The address without our connection in it."""
        raw = self.raw("batch_1", "in_progress")
        flow = self.made.find(SHARD, NOW, "s3://aws_default@bucket/llm/in.jsonl")
        assert [batch.id for batch in drive(flow, {"data": [raw], "has_more": False})[1]] == ["batch_1"]

    @pytest.mark.parametrize(
        ("more", "named"),
        [
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
        ],
    )
    def test_what_this_api_does_not_take(self, more, named):
        """And which other provider does."""
        body = {"model": "m", "messages": [{"role": "user", "content": "JSON"}], **more}
        with pytest.raises(InputError, match=f"{named}.*'bedrock'"):
            self.made.translate(Request("/v1/chat/completions", body))
