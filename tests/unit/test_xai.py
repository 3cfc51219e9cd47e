"""xAI's batches: the contract, and what they have of their own."""

from __future__ import annotations

import json

import httpx
import pytest

from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.bodies import PAUSE, Payload
from airflow_llm_batch.providers.xai.protocol import STILL, XAI
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

CHAT = "/v1/chat/completions"
SHARD = Shard(endpoint=CHAT, model="grok-4.3", key="ab12-0", rows=2)


def batch_of(batch_id="b", requests=2, pending=0, success=0, error=0, cancelled=0, **more):
    names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
    state = dict(zip(names, (requests, pending, success, error, cancelled), strict=True))
    return {"batch_id": batch_id, "name": "n", "create_time": "2026-11-21", "state": state, **more}


class TestXAI(ProviderContract):
    """No status: counters alone."""

    made = XAI("http://h")
    running, ended = "pending", "done"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counted = {"pending": rows} if status == self.running else {"success": rows}
        return {**batch_of(batch_id, rows, **counted), "create_time": at.date().isoformat(), **more}

    def page(self, items, *, more):
        return {"batches": items, "pagination_token": items[-1]["batch_id"] if more and items else None}

    def test_an_unknown_status_is_not_taken_for_an_end(self):
        """There is none; a batch without its counters is running, and marked unknown."""
        batch = drive(self.made.get("b"), {"batch_id": "b"})[1]
        assert (batch.outcome, batch.known) == (None, False)

    def test_listings_are_paged(self):
        """By tokens."""
        requests, page = drive(self.made.list("t1"), self.page([self.raw("b1", self.ended)], more=True))
        assert ([b.id for b in page.items], page.after) == (["b1"], "b1")
        assert dict(requests[0].url.params) == {"limit": "100", "pagination_token": "t1"}
        assert drive(self.made.list(), self.page([], more=False))[1].after is None

    def test_cancelling_uses_a_verb(self):
        """Its colon is not encoded."""
        requests, batch = drive(self.made.cancel("b"), self.raw("b", self.ended), self.raw("b", self.ended))
        assert (requests[0].method, requests[0].url.raw_path, batch.outcome) == (
            "POST",
            b"/v1/batches/b:cancel",
            "completed",
        )


@pytest.mark.parametrize(
    ("raw", "status", "outcome"),
    [
        (batch_of(requests=0), "validating", None),
        (batch_of(pending=1, success=1), "in_progress", None),
        (batch_of(success=2), "completed", "completed"),
        (batch_of(success=1, error=1), "completed", "partial"),
        # A cancellation that lost the race: everything was done, and is billed.
        (batch_of(success=2, cancel_time="2026-11-21"), "completed", "completed"),
        (batch_of(requests=0, cancel_time="2026-11-21"), "cancelled", "cancelled"),
        (batch_of(requests=0, cancel_time="2026-11-21", cancel_by_xai_message="line 2"), "cancelled by xAI", "failed"),
        # Counts as texts, as protobuf's JSON spells 64 bits.
        (batch_of(requests="2", success="2"), "completed", "completed"),
    ],
)
def test_an_end_is_what_counters_tell(raw, status, outcome):
    """Nothing else is told."""
    batch = drive(XAI(None).get("b"), raw)[1]
    assert (batch.status, batch.outcome) == (status, outcome)
    assert batch.files == (("results",) if outcome in ("completed", "partial") else ())
    assert batch.errors == ((("", "line 2"),) if outcome == "failed" else ())


def test_a_cancelled_batch_has_ended_when_its_counters_stand_still():
    """They were seen to go back from cancelled to answered within seconds: such rows are billed, and landed."""
    provider, cancelled = XAI(None), batch_of(cancelled=2, cancel_time="2026-11-21")
    requests, batch = drive(provider.get("b"), cancelled, batch_of(success=2, cancel_time="2026-11-21"))
    assert (requests[1].extensions[PAUSE], batch.outcome, batch.files) == (STILL, "completed", ("results",))
    moving = batch_of(success=1, cancelled=1, cancel_time="2026-11-21")
    assert drive(provider.get("b"), cancelled, moving)[1].outcome is None
    batch = drive(provider.get("b"), moving, moving)[1]
    assert (batch.status, batch.outcome, batch.succeeded, batch.files) == ("cancelled", "cancelled", 1, ("results",))
    late = batch_of(success=1, cancelled=1)
    assert drive(provider.get("b"), late, late)[1].outcome == "expired"
    # One that is only seen in a listing is not known to have ended.
    listed = drive(provider.list(), {"batches": [moving], "pagination_token": None})[1]
    assert listed.items[0].outcome is None


def test_a_batch_is_made_of_a_file_and_a_name():
    """The name marks it; the expiry goes before the file, and is asked for at xAI itself, which bills storage."""
    requests, _ = drive(XAI(None).upload("in.jsonl", Payload(lambda: [b"{}\n"], 3)), {"id": "file_1"})
    body = b"".join(requests[0].stream)
    assert 0 < body.index(b'name="expires_after"\r\n\r\n2592000') < body.index(b'name="file"')
    requests, _ = drive(XAI("http://h").upload("in.jsonl", Payload(lambda: [b"{}\n"], 3)), {"id": "file_1"})
    assert b"expires_after" not in b"".join(requests[0].stream)
    requests, batch = drive(XAI(None).create(SHARD, "file_1", None), batch_of(requests=0))
    assert json.loads(requests[0].content) == {"name": "ab12-0", "input_file_id": "file_1"}
    assert (batch.id, batch.outcome, XAI(None).is_marked) == ("b", None, True)


def test_a_lost_create_is_found_by_its_name_or_its_file():
    """Dates have no time: what ends the search is a day that is long past, in a listing that goes back."""
    ours = batch_of("ours") | {"name": "ab12-0"}
    by_file, old = batch_of("file", input_file_id="file_1"), batch_of("old") | {"create_time": "2026-11-01"}
    pages = (
        {"batches": [batch_of("x"), ours], "pagination_token": "t"},
        {"batches": [by_file, old], "pagination_token": "u"},
    )
    requests, found = drive(XAI(None).find(SHARD, NOW, "file_1"), *pages)
    assert ([b.id for b in found], len(requests)) == (["ours", "file"], 2)


def test_results_come_in_pages():
    """Until there is no token."""
    (source,) = XAI(None).results(drive(XAI(None).get("b"), batch_of(success=2))[1])
    lines, following = source.read(
        httpx.Response(200, json={"results": [{"batch_request_id": "a"}], "pagination_token": "t"})
    )
    assert (lines, dict(following.url.params)) == (
        [b'{"batch_request_id":"a"}'],
        {"limit": "1000", "pagination_token": "t"},
    )
    assert (
        source.read(httpx.Response(200, json={"results": [{"batch_request_id": "b"}], "pagination_token": ""}))[1]
        is None
    )
    assert source.read(httpx.Response(200, json={"results": [], "pagination_token": "t"}))[1] is None


def line(**outcome):
    return json.dumps({"batch_request_id": "ab12-7", "batch_result": outcome}).encode()


def answered(**body):
    return line(response={"chat_get_completion": body})


def choice(content, **more):
    return {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop", **more}


def test_lines_are_read():
    """Answers, errors that are texts, errors that are objects, what was cancelled."""
    read = XAI(None).read
    usage = {
        "prompt_tokens": 198, "completion_tokens": 1, "total_tokens": 317,
        "completion_tokens_details": {"reasoning_tokens": 118},
    }  # fmt: skip
    result = read(answered(choices=[choice("4")], usage=usage, model="grok-4.3"))
    assert (result.custom_id, result.status, result.text) == ("ab12-7", "succeeded", "4")
    # What was thought is counted beside the answer, and billed like it.
    assert (result.output_tokens, result.reasoning_tokens) == (119, 118)
    refused = read(line(error="Maximum number of tokens max_tokens must be positive but max_tokens = -5"))
    assert (refused.status, "must be positive" in refused.error_message) == ("errored", True)
    assert read(line(error={"code": 8, "message": "busy"})).status == "errored"
    cancelled = read(line(error="Batch cancelled"))
    assert (cancelled.status, cancelled.error_code) == ("cancelled", "batch_cancelled")
    with pytest.raises(KeyError):
        read(b'{"batch_result":{"error":"whose?"}}')


def test_the_last_turn_is_the_answer_where_tools_were_called():
    """A search's turns stand as choices before it, and nobody has asked for several."""
    tool = {"index": 1, "message": {"role": "tool", "content": "found"}, "finish_reason": ""}
    turns = [choice(None, finish_reason=""), tool, choice("the answer", index=2)]
    result = XAI(None).read(answered(choices=turns, citations=["https://a.test"], usage={}))
    assert (result.text, result.citations, result.choices) == ("the answer", ["https://a.test"], None)


def test_a_fifth_is_off_of_cached_tokens_too():
    """Of the models that take batches; not at a gateway."""
    assert (XAI(None).batch_discount, XAI(None).discounts_stack("grok-4.3")) == ("0.8", True)
    assert XAI("https://gateway.test/v1").batch_discount is None
    body = {"model": "grok-4.3", "messages": [], "max_completion_tokens": 5}
    assert XAI(None).translate(Request(CHAT, body)).body == body
