"""OpenRouter's batches: the contract, and what they have of their own."""

from __future__ import annotations

import json

import httpx
import pytest

from airflow_llm_batch.exceptions import ConfigurationError, RefusedForGood
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.openrouter.protocol import OpenRouter
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

CHAT = "/v1/chat/completions"
SHARD = Shard(endpoint=CHAT, model="openai/gpt-5-mini", key="ab12-0", rows=2)


class TestOpenRouter(ProviderContract):
    """OpenAI's words, without metadata."""

    made = OpenRouter("http://h")
    running, ended = "in_progress", "completed"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counts = {"total": rows, "completed": rows, "failed": 0}
        return {"id": batch_id, "status": status, "created_at": int(at.timestamp()), "request_counts": counts, **more}

    def test_cancelling_what_has_ended_returns_it_as_it_is(self):
        """There is no call that cancels: what runs goes on, and this is said."""
        requests, batch = drive(self.made.cancel("b"), self.raw("b", self.ended))
        assert ([r.method for r in requests], batch.outcome) == (["GET"], "completed")
        with pytest.raises(RefusedForGood, match=r"no call that cancels.*is billed"):
            drive(self.made.cancel("b"), self.raw("b", self.running))
        assert self.made.cancels is False

    def test_a_lost_create_is_found_by_time_and_size(self):
        """Others' batches of the same size may be among them; their results tell."""
        early = NOW.replace(hour=1)
        pages = [self.raw("b3", "validating"), self.raw("b2", "completed", rows=3), self.raw("b1", "completed", early)]
        _, found = drive(self.made.find(SHARD, NOW), self.page(pages, more=True))
        assert [batch.id for batch in found] == ["b3"]
        assert self.made.is_marked is False

    @pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
    def test_what_ended_otherwise_gives_nothing_back(self, status):
        """No results are waited for that are documented to be null, whatever is counted; what is there is taken."""
        batch = drive(self.made.get("b"), self.raw("b", status, error={"message": "req-3: too long"}, results=None))[1]
        assert (batch.outcome, batch.files, batch.succeeded) == (status, ("results",), None)
        (source,) = self.made.results(batch)
        assert source.read(httpx.Response(200, json={"results": None})) == ([], None)
        assert batch.errors == (("", "req-3: too long"),)

    def test_results_are_in_the_batch(self):
        """One line each, as they stand; a listing, which has none, knows where they are."""
        listed = drive(self.made.list(), self.page([self.raw("b", "completed", results=None)], more=False))[1]
        (source,) = self.made.results(listed.items[0])
        assert (source.request.method, source.request.url.path) == ("GET", "/api/v1/batches/b")
        lines, after = source.read(httpx.Response(200, json={"results": [{"custom_id": "a"}, {"custom_id": "b"}]}))
        assert (lines, after) == ([b'{"custom_id":"a"}', b'{"custom_id":"b"}'], None)
        assert self.made.results(drive(self.made.get("b"), self.raw("b", "in_progress"))[1]) == ()


def test_endpoint_and_model_come_before_the_requests():
    """And so does what the connection adds; lines are the members of an array, streamed."""
    provider = OpenRouter(None, {"create": {"provider": {"only": ["openai"]}}})
    content = b'{"custom_id":"a","body":{}}\n{"custom_id":"b","body":{}}\n'
    flow = provider.create(SHARD, None, Payload(lambda: [content[:20], content[20:]], len(content)))
    requests, batch = drive(flow, httpx.Response(202, json={"id": "b", "status": "validating"}))
    body = b"".join(requests[0].stream)
    assert len(body) == int(requests[0].headers["content-length"])
    sent = json.loads(body)
    assert list(sent) == ["endpoint", "model", "provider", "requests"]
    assert sent["requests"] == [{"custom_id": "a", "body": {}}, {"custom_id": "b", "body": {}}]
    assert (batch.id, batch.outcome) == ("b", None)


def test_a_batch_has_5000_requests_and_no_price_that_is_assumed():
    """Half of the price is typical there, and documented for no model: the connection may say it."""
    provider = OpenRouter(None)
    assert (provider.limits.requests, provider.is_own, provider.batch_discount) == (5000, True, None)
    assert OpenRouter("https://openrouter.ai").base_url == "https://openrouter.ai/api/v1"
    with pytest.raises(ConfigurationError, match="24h"):
        OpenRouter(None, {"completion_window": "48h"})


@pytest.mark.parametrize(
    ("cost", "details", "tokens", "rates"),
    [
        (3, (1, 2), (100, 10), (0.01, 0.2)),
        # half of it, as batches typically are, whatever the parts say
        (1.5, (1, 2), (100, 10), (0.005, 0.1)),
        (1, (1, 0), (100, 0), (0.01, 0)),
        (0, (0, 0), (100, 10), None),
        (3, (0, 0), (100, 10), None),
        (3, (1, 2), (100, 0), None),
        (None, (1, 2), (100, 10), None),
        ("3", ("1", None), (None, []), None),
    ],
)
def test_a_batch_tells_what_its_tokens_have_cost(cost, details, tokens, rates):
    """All of them come to what was charged; where that cannot be, nothing is told."""
    names = ("upstream_inference_prompt_cost", "upstream_inference_completions_cost")
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": 1, "cost": cost}
    usage["cost_details"] = dict(zip(names, details, strict=True))
    raw = {"id": "b", "status": "completed", "usage": usage}
    found = drive(OpenRouter(None).get("b"), raw)[1].rates
    assert found == (rates and pytest.approx(rates))
    assert drive(OpenRouter(None).get("b"), {**raw, "status": "in_progress"})[1].rates is None
    assert drive(OpenRouter(None).get("b"), {**raw, "usage": None})[1].rates is None


def test_claudes_own_messages_are_read():
    """Of the endpoint /v1/messages, beside chat completions and errors of either shape."""
    provider = OpenRouter(None)
    message = {
        "type": "message", "model": "anthropic/claude-haiku-4.5", "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 2, "cost": 0.25},
    }  # fmt: skip
    line = {"custom_id": "a", "response": {"status_code": 200, "body": message}, "error": None}
    result = provider.read(json.dumps(line).encode())
    assert (result.status, result.text, result.input_tokens, result.output_tokens) == ("succeeded", "hi", 3, 2)
    assert result.cost_usd == 0.25
    failed = {"custom_id": "a", "response": None, "error": {"message": "no", "type": "server_error", "param": None}}
    assert provider.read(json.dumps(failed).encode()).status == "errored"
    request = Request("/v1/messages", {"model": "m", "max_tokens": 5, "messages": []})
    assert provider.translate(request).body is request.body


@pytest.mark.parametrize(("scope", "calls"), [("inputs", 0), ("all", 1)])
def test_a_batch_is_deleted_whole_or_not_at_all(scope, calls):
    """Requests and results are one thing there."""
    batch = drive(OpenRouter(None).get("b"), {"id": "b", "status": "completed"})[1]
    answers = [httpx.Response(200, json={"id": "b"})] * calls
    requests, deleted = drive(OpenRouter(None).delete(batch, scope), *answers)
    assert ([r.method for r in requests], deleted) == (["DELETE"] * calls, calls)
    if calls:
        assert drive(OpenRouter(None).delete(batch, scope), httpx.Response(404))[1] == 0
