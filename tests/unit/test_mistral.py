"""Mistral's batch jobs: the contract, and what they have of their own."""

from __future__ import annotations

import json

import httpx
import pytest

from airflow_llm_batch.exceptions import ConfigurationError, InputError
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.mistral.protocol import Mistral
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
SHARD = Shard(endpoint=CHAT, model="mistral-small-latest", key="ab12-0", rows=2, metadata={"team": "x"})


def chat(*messages, **more):
    return Request(CHAT, {"model": "m", "messages": [*messages] or [{"role": "user", "content": "hi"}], **more})


def translated(request):
    return Mistral("http://h").translate(request).body


class TestMistral(ProviderContract):
    """Capitals, counts of requests, pages by number."""

    made = Mistral("http://h")
    running, ended = "RUNNING", "SUCCESS"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counts = {"total_requests": rows, "succeeded_requests": rows, "failed_requests": 0}
        return {
            "id": batch_id,
            "status": status,
            "created_at": int(at.timestamp()),
            "input_files": ["f"],
            **counts,
            **more,
        }

    def page(self, items, *, more):
        return {"data": items, "total": 1000 if more else len(items)}

    def test_listings_are_paged(self):
        """The total says whether there is another page."""
        first = {"data": [self.raw("b1", self.running)], "total": 101}
        requests, page = drive(self.made.list(), first)
        assert ([b.id for b in page.items], page.after) == (["b1"], "1")
        assert dict(requests[0].url.params) == {"page": "0", "page_size": "100", "order_by": "-created"}
        requests, page = drive(self.made.list("1"), first)
        assert (requests[0].url.params["page"], page.after) == ("1", None)
        assert drive(self.made.list(), {"data": [], "total": 500})[1].after is None

    @pytest.mark.parametrize(
        ("given", "outcome", "known"),
        [
            ({"status": "QUEUED"}, None, True),
            ({"status": "CANCELLATION_REQUESTED"}, None, True),
            ({"status": "SUCCESS", "failed_requests": 1}, "partial", True),
            ({"status": "TIMEOUT_EXCEEDED", "output_file": "o"}, "expired", True),
            ({"status": "CANCELLED"}, "cancelled", True),
            ({"status": "FAILED", "errors": [{"message": "bad line", "count": 3}]}, "failed", True),
            ({"status": None}, None, False),
        ],
    )
    def test_ends_are_told_apart(self, given, outcome, known):
        """What ran out of time is expired, and what it has done is fetched."""
        batch = drive(self.made.get("b"), {**self.raw("b", ""), **given})[1]
        assert (batch.outcome, batch.known) == (outcome, known)
        assert batch.files == ((given["output_file"],) if "output_file" in given else ())
        assert batch.errors == ((("", "bad line"),) if "errors" in given else ())

    def test_a_lost_create_is_found_by_its_mark_or_its_file(self):
        """On any page; others' jobs are left alone."""
        others = [self.raw(f"x{n}", "SUCCESS", metadata={"airflow_llm_batch": "cd34-0"}) for n in range(2)]
        ours = self.raw("ours", "QUEUED", metadata={"airflow_llm_batch": "ab12-0"})
        by_file = self.raw("file", "QUEUED", input_files=["in-1"])
        pages = ({"data": others, "total": 150}, {"data": [ours, by_file], "total": 150})
        requests, found = drive(self.made.find(SHARD, NOW, "in-1"), *pages)
        assert [b.id for b in found] == ["ours", "file"]
        assert [r.url.params["page"] for r in requests] == ["0", "1"]


def test_a_job_is_created_of_one_file():
    """Model and hours are the job's; lines have neither method nor address."""
    provider = Mistral("http://h", {"completion_window": "3d", "create": {"agent_id": "a"}})
    requests, batch = drive(provider.create(SHARD, "file-1", None), {"id": "b", "status": "QUEUED"})
    assert (requests[0].method, requests[0].url.path, batch.id) == ("POST", "/v1/batch/jobs", "b")
    assert json.loads(requests[0].content) == {
        "input_files": ["file-1"],
        "endpoint": CHAT,
        "model": "mistral-small-latest",
        "timeout_hours": 72,
        "metadata": {"team": "x", "airflow_llm_batch": "ab12-0"},
        "agent_id": "a",
    }
    assert provider.line(chat(), "a-1").keys() == {"custom_id", "body"}


@pytest.mark.parametrize(("seconds", "hours"), [(None, None), (1, b"1"), (3600, b"1"), (3601, b"2")])
def test_a_file_expires_in_whole_hours(seconds, hours):
    """None unless it is asked for: results do not expire either."""
    provider = Mistral(None, {"expire_seconds": seconds} if seconds else {})
    requests, _ = drive(provider.upload("in.jsonl", Payload(lambda: [b"{}\n"], 3)), {"id": "f"})
    body = b"".join(requests[0].stream)
    assert (b'name="expiry"\r\n\r\n' + hours in body) if hours else b"expiry" not in body
    assert b"expires_after" not in body


@pytest.mark.parametrize("window", ["0h", "169h", "8d", "week"])
def test_a_window_is_a_week_at_most(window):
    assert Mistral(None, {"completion_window": "7d"}).window == "7d"
    with pytest.raises(ConfigurationError, match="1h to 168h"):
        Mistral(None, {"completion_window": window})


def test_metadata_has_mistrals_lengths():
    """32 characters of a name: refused with both numbers."""
    provider = Mistral(None)
    provider.check_metadata({"x" * 32: "y" * 512})
    for metadata in ({"x" * 33: "y"}, {"x": "y" * 513}):
        with pytest.raises(InputError, match="32 and 512"):
            provider.check_metadata(metadata)


def test_words_are_mistrals():
    """The cap, the seed, a developer's message, members that say nothing."""
    body = translated(
        chat(
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": "hi", "name": None},
            {"role": "assistant", "content": "ho", "refusal": None, "annotations": []},
            {"role": "user", "content": "again"},
            max_completion_tokens=5,
            seed=7,
            store=False,
            user=None,
            stream=False,
        )
    )
    assert (body["max_tokens"], body["random_seed"]) == (5, 7)
    assert body.keys() == {"model", "messages", "max_tokens", "random_seed"}
    assert [set(m) for m in body["messages"]] == [{"role", "content"}] * 4
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    embedded = Mistral(None).translate(Request(EMBEDDINGS, {"model": "mistral-embed", "input": "a", "dimensions": 256}))
    assert embedded.body == {"model": "mistral-embed", "input": "a", "output_dimension": 256}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (chat(logit_bias={"1": 1}), "no logit_bias"),
        (chat(user="u"), "no user"),
        (chat(temperature=1.6), "0 to 1.5"),
        (chat(stream=True), "no stream"),
        (chat({"role": "user", "name": "Ann", "content": "hi"}), "role 'user' with name"),
        (chat({"role": "assistant", "content": "x", "reasoning_content": "y"}), "with reasoning_content"),
        (chat({"role": "function", "content": "x"}), "role 'function'"),
        (Request(EMBEDDINGS, {"model": "m", "input": "a", "user": "u"}), "no user"),
    ],
)
def test_what_mistral_has_no_member_for_is_refused(request_, said):
    """By name, before it fails with 422 row by row."""
    with pytest.raises(InputError, match=f"{said}.*Nothing was sent"):
        translated(request_)


def test_a_body_that_is_mistrals_already_is_sent_as_it_is():
    request = chat(random_seed=1, safe_prompt=True, max_tokens=3)
    assert Mistral(None).translate(request).body is request.body


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ({"response": {"status_code": 422, "body": {"object": "error", "message": {"detail": [{"msg": "Extra", "type": "extra_forbidden"}]}}}, "error": None}, "errored", "extra_forbidden"),  # noqa: E501
        ({"response": {"status_code": 429, "body": {"message": "slow", "type": "x", "code": "1300"}}, "error": None}, "errored", "http_429"),  # noqa: E501
        ({"response": {"status_code": 400, "body": '{"object":"error","message":"File could not be fetched","type":"invalid_request_file","code":"3310"}'}, "error": None}, "errored", "3310"),  # noqa: E501
        ({"response": None, "error": {"message": "timeout"}}, "errored", None),
        ({"response": {"status_code": 200, "body": {"choices": [{"message": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "42"}]}, "finish_reason": "stop"}]}}}, "succeeded", None),  # noqa: E501
        ({"response": {"status_code": 200, "body": {"choices": [{"message": {"content": "4"}, "finish_reason": "model_length"}]}}}, "truncated", None),  # noqa: E501
    ],
)  # fmt: skip
def test_lines_are_read(line, status, code):
    """Errors of either kind in either file; what a model has thought stands beside what it says."""
    result = Mistral(None).read(json.dumps({"custom_id": "a-1", **line}).encode())
    assert (result.custom_id, result.status) == ("a-1", status)
    assert code is None or result.error_code == code
    assert status != "succeeded" or (result.text, result.reasoning) == ("42", "hm")


def test_a_line_without_its_id_is_nobodys():
    """It is set aside, and the row is known to have no answer."""
    with pytest.raises(KeyError):
        Mistral(None).read(b'{"custom_id":null,"response":{"status_code":500,"body":{}},"error":null}')


@pytest.mark.parametrize("host", ["https://api.mistral.ai", "https://api.eu.mistral.ai/v1"])
def test_the_vendors_hosts_are_its_own(host):
    assert (Mistral(host).is_own, Mistral(host).batch_discount) == (True, "0.5")
    assert Mistral("https://gateway.test/v1").batch_discount is None
    assert httpx.URL(Mistral(host).base_url).path == "/v1"
