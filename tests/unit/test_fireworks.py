"""Fireworks' batch inference jobs: the contract, and what they have of their own."""

from __future__ import annotations

import json

import httpx
import pytest

from airflow_llm_batch.exceptions import ConfigurationError, InputError, RefusedForGood, VendorUnavailable
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.fireworks import protocol
from airflow_llm_batch.providers.fireworks.protocol import OURS, Fireworks
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

CHAT = "/v1/chat/completions"
MODEL = "accounts/fireworks/models/llama-v3p1-8b-instruct"
SHARD = Shard(endpoint=CHAT, model=MODEL, key="ab12-0", token="t1", rows=2)
HERE = "accounts/acc"


def made(host=None, **extra):
    return Fireworks(host, {"account": "acc", **extra})


def job(name="b", state="JOB_STATE_RUNNING", **more):
    return {"name": f"{HERE}/batchInferenceJobs/{name}", "state": state, "createTime": NOW.isoformat(), **more}


class TestFireworks(ProviderContract):
    """States with a prefix, progress that may be null, names of resources."""

    made = made("http://h")
    running, ended = "JOB_STATE_RUNNING", "JOB_STATE_COMPLETED"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        done = {"successfullyProcessedRequests": rows, "failedRequests": 0, "totalProcessedRequests": rows}
        return job(batch_id, status, jobProgress=done, outputDatasetId=f"{HERE}/datasets/bij-1", **more)

    def page(self, items, *, more):
        return {"batchInferenceJobs": items, "nextPageToken": "b2" if more else ""}

    def test_cancelling_what_has_ended_returns_it_as_it_is(self):
        """A job is cancelled by its deletion, which takes its results along: one that has ended is left alone."""
        requests, batch = drive(self.made.cancel("b"), self.raw("b", self.ended))
        assert ([r.method for r in requests], batch.outcome) == (["GET"], "completed")

    @pytest.mark.parametrize(
        ("state", "outcome", "files"),
        [
            ("JOB_STATE_PAUSED", None, ()),
            ("JOB_STATE_WRITING_RESULTS", None, ()),
            ("JOB_STATE_COMPLETED", "completed", ("bij-1",)),
            ("JOB_STATE_EXPIRED", "expired", ("bij-1",)),
            ("JOB_STATE_EARLY_STOPPED", "expired", ("bij-1",)),
            ("JOB_STATE_FAILED", "failed", ()),
            ("JOB_STATE_DELETING_CLEANING_UP", "cancelled", ()),
        ],
    )
    def test_states_are_told_apart(self, state, outcome, files):
        """What ran out of time keeps what was done; a failed job has no results to ask for."""
        batch = drive(self.made.get("b"), self.raw("b", state))[1]
        assert (batch.outcome, batch.files, batch.known) == (outcome, files, True)


def test_a_job_that_was_cancelled_is_gone():
    """Where it had an id of ours; what was never there is an error still."""
    name = OURS + "0" * 32
    gone, running = httpx.Response(404, json={"code": 5, "message": "resource not found"}), job(name)
    requests, batch = drive(made().cancel(name), running, {}, gone)
    assert ([r.method for r in requests], batch.id, batch.outcome) == (["GET", "DELETE", "GET"], name, "cancelled")
    with pytest.raises(RefusedForGood, match="resource not found"):
        drive(made().get("somebody-elses"), gone)


def test_a_dataset_is_made_filled_and_waited_for():
    """Under an id of ours, with the count of its rows; a creation whose answer was lost is there."""
    content = Payload(lambda: [b"{}\n{}\n", b"{}\n"], 9)
    ready, uploading = {"state": "READY"}, {"state": "UPLOADING"}
    for first in ({}, httpx.Response(409, json={"code": 6})):
        requests, ref = drive(made().upload("in.jsonl", content), first, {"bytes": 9}, uploading, ready)
        about = json.loads(requests[0].content)
        assert ref.startswith(OURS)
        assert about == {"datasetId": ref, "dataset": {"userUploaded": {}, "exampleCount": "3", "format": "CHAT"}}
        assert [r.url.raw_path.decode() for r in requests[1:]] == [
            f"/v1/accounts/acc/datasets/{ref}:upload",
            *[f"/v1/accounts/acc/datasets/{ref}"] * 2,
        ]


PLACE = (
    "https://storage.test/ds?X-Goog-SignedHeaders=content-type%3Bhost%3Bx-goog-content-length-range&X-Goog-Signature=s"
)


def test_a_large_dataset_is_put_where_the_vendor_says(monkeypatch):
    """With the headers that its address was signed for, and no other; then it is looked through."""
    monkeypatch.setattr(protocol, "MOST_AT_ONCE", 8)
    content = Payload(lambda: [b"{}\n{}", b"\n{}\n"], 9)
    address, ready = {"filenameToSignedUrls": {"in.jsonl": PLACE}}, {"state": "READY"}
    requests, ref = drive(made().upload("in.jsonl", content), {}, address, httpx.Response(200), {}, ready)
    _, asked, put, checked, look = requests
    assert json.loads(asked.content) == {"filenameToSize": {"in.jsonl": "9"}}
    assert [r.url.path.rpartition("/")[2].rpartition(":")[2] for r in (asked, checked)] == [
        "getUploadEndpoint", "validateUpload",
    ]  # fmt: skip
    assert (put.method, str(put.url), dict(put.headers)) == (
        "PUT", PLACE,
        {
            "host": "storage.test", "content-length": "9", "content-type": "application/octet-stream",
            "x-goog-content-length-range": "9,9",
        },
    )  # fmt: skip
    assert not made("http://h").auth(Login("c", "", "k")).owns(put.url)
    assert look.url.path.endswith(ref)
    plain = {"filenameToSignedUrls": {"in.jsonl": "https://storage.test/ds?X-Amz-Signature=s"}}
    requests, _ = drive(made().upload("in.jsonl", content), {}, plain, httpx.Response(200), {}, ready)
    assert set(requests[2].headers) == {"host", "content-length"}


def test_an_upload_without_an_address_is_tried_anew(monkeypatch):
    """Nothing can have been made of it."""
    monkeypatch.setattr(protocol, "MOST_AT_ONCE", 8)
    content = Payload(lambda: [b"{}\n{}\n{}\n"], 9)
    with pytest.raises(VendorUnavailable, match="named no place"):
        drive(made().upload("in.jsonl", content), {}, {"filenameToSignedUrls": {}})
    refused = httpx.Response(403, text="<Error><Code>SignatureDoesNotMatch</Code></Error>")
    with pytest.raises(RefusedForGood, match="SignatureDoesNotMatch"):
        drive(made().upload("in.jsonl", content), {}, {"filenameToSignedUrls": {"in.jsonl": PLACE}}, refused)


def test_a_job_has_an_id_of_ours_and_is_made_once():
    """The same planning of a shard has the same id: the second create is told of the first one's job."""
    requests, batch = drive(made().create(SHARD, "ds1", None), job("x", "JOB_STATE_VALIDATING"))
    chosen = requests[0].url.params["batchInferenceJobId"]
    assert json.loads(requests[0].content) == {"model": MODEL, "inputDatasetId": f"{HERE}/datasets/ds1"}
    assert (len(chosen), chosen == made().job_id(SHARD), batch.outcome) == (42, True, None)
    assert made().job_id(SHARD.model_copy(update={"token": "t2"})) != chosen
    requests, batch = drive(made().create(SHARD, "ds1", None), httpx.Response(409, json={"code": 6}), job(chosen))
    assert ([r.method for r in requests], batch.id) == (["POST", "GET"], chosen)


def test_a_lost_create_is_looked_for_by_its_id():
    """One call, whatever else there is."""
    assert drive(made().find(SHARD, NOW), httpx.Response(404, json={"code": 5}))[1] == []
    requests, found = drive(made().find(SHARD, NOW), job("x"))
    assert ([b.id for b in found], requests[0].url.path.rpartition("/")[2]) == (["x"], made().job_id(SHARD))


def test_results_lie_behind_signed_addresses():
    """Every file of the dataset; addresses below another host get no key of ours."""
    batch = drive(made().get("b"), job(state="JOB_STATE_COMPLETED", outputDatasetId=f"{HERE}/datasets/o"))[1]
    (source,) = made().results(batch)
    assert source.request.url.path == "/v1/accounts/acc/datasets/o:getDownloadEndpoint"
    urls = {
        "d/BIJOutputSet.jsonl": "https://store.test/a?X-Goog-Signature=s",
        "d/error-data": "https://store.test/b?s=1",
    }
    requests = source.read(httpx.Response(200, json={"filenameToSignedUrls": urls}))
    assert [str(request.url) for request in requests] == list(urls.values())
    with pytest.raises(RefusedForGood):
        source.read(httpx.Response(404, json={"code": 5, "message": "resource not found"}))


def test_counts_and_reasons_are_read():
    """What was declared may be less than what there is; why a job failed is said."""
    progress = {"totalInputRequests": 1, "totalProcessedRequests": 3}
    progress |= {"successfullyProcessedRequests": 2, "failedRequests": 1}
    batch = drive(made().get("b"), job(state="JOB_STATE_COMPLETED", jobProgress=progress))[1]
    assert (batch.total, batch.succeeded, batch.failed, batch.outcome) == (3, 2, 1, "partial")
    status = {"code": "INVALID_ARGUMENT", "message": "Dataset has a syntax error"}
    failed = drive(made().get("b"), job(state="JOB_STATE_FAILED", status=status, jobProgress=None))[1]
    assert failed.errors == (("INVALID_ARGUMENT", "Dataset has a syntax error"),)


def test_a_line_has_no_model_and_a_call_has_one():
    """The job's stands for all of its rows."""
    request = made().translate(Request(CHAT, {"model": MODEL, "messages": [], "max_completion_tokens": 5}))
    line = made().line(request, "a-1")
    assert line == {"custom_id": "a-1", "body": {"messages": [], "max_tokens": 5}}
    call = made().call(json.dumps(line).encode(), SHARD)
    assert call.path == b"/inference/v1/chat/completions"
    assert json.loads(call.body) == {"messages": [], "max_tokens": 5, "model": MODEL}


def test_lines_are_read():
    """Answers as they are, errors that name their row, calls as they were answered."""
    body = {
        "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}], "model": MODEL,
        "usage": {"prompt_tokens": 47, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 29}},
    }  # fmt: skip
    result = made().read(json.dumps({"custom_id": "a", "response": body}).encode())
    assert (result.status, result.text, result.cached_tokens, result.model) == ("succeeded", "4", 29, MODEL)
    failed = made().read(b'{"custom_id":"a","error":{"code":"INTERNAL","message":"no"}}')
    assert (failed.status, failed.error_message) == ("errored", "no")
    assert made().read(made().answered("a", 200, json.dumps(body).encode())).text == "4"


def test_roles_that_would_fail_the_job_are_refused():
    """One bad row fails all of them: a developer's message is the system's, any other role is named."""
    messages = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "hi"}]
    body = made().translate(Request(CHAT, {"model": "m", "messages": messages})).body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    with pytest.raises(InputError, match=r"role 'function'.*Nothing was sent"):
        made().translate(Request(CHAT, {"model": "m", "messages": [{"role": "function", "content": "x"}]}))


def test_an_account_is_needed_and_addresses_are_what_people_type():
    """Half of the price there, cached tokens included; none at a gateway."""
    with pytest.raises(ConfigurationError, match=r"account.*Nothing was sent"):
        next(Fireworks(None).list())
    for typed in ("https://api.fireworks.ai", "https://api.fireworks.ai/inference/v1", "https://api.fireworks.ai/v1/"):
        assert (made(typed).base_url, made(typed).batch_discount) == ("https://api.fireworks.ai", "0.5")
    assert (made("https://gateway.test").batch_discount, made().discounts_stack("m")) == (None, True)


@pytest.mark.parametrize(("scope", "names"), [("inputs", ["ds1"]), ("all", ["ds1", "o"])])
def test_datasets_are_deleted(scope, names):
    """What is gone already is not counted."""
    raw = job(state="JOB_STATE_COMPLETED", inputDatasetId=f"{HERE}/datasets/ds1", outputDatasetId=f"{HERE}/datasets/o")
    batch = drive(made().get("b"), raw)[1]
    requests, deleted = drive(made().delete(batch, scope), *[httpx.Response(200, json={})] * len(names))
    assert ([r.url.path.rpartition("/")[2] for r in requests], deleted) == (names, len(names))
    assert drive(made().delete(batch, "inputs"), httpx.Response(404))[1] == 0
