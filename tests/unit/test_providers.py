"""The contract every provider keeps, and what is particular to each."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_llm_batch.exceptions import ConfigurationError, InputError, VendorUnavailable
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.registry import OURS, provider_class
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def body_of(request):
    return b"".join(request.stream)


class TestOpenAI(ProviderContract):
    made = OpenAI("http://h/v1")
    running, ended = "in_progress", "completed"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counts = {"total": rows, "completed": rows, "failed": 0}
        return {"id": batch_id, "status": status, "created_at": int(at.timestamp()), "request_counts": counts, **more}

    def test_create_names_file_endpoint_and_owner(self):
        """The body of a create; metadata says whose it is."""
        shard = Shard(endpoint="/v1/embeddings", key="ab12-0", metadata={"team": "x"})
        requests, _ = drive(self.made.create(shard, "file-1", Payload(tuple, 0)), self.raw("b", "validating"))
        assert json.loads(body_of(requests[0])) == {
            "input_file_id": "file-1",
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
            "metadata": {"team": "x", "airflow_llm_batch": "ab12-0"},
        }

    def test_find_knows_its_own_by_metadata_or_input_file(self):
        """Other batches of the same size are not ours; older pages are not read."""
        shard = Shard(endpoint="/v1/x", key="ab12-0", rows=2)
        page = {
            "data": [
                self.raw("other", "validating"),
                self.raw("mine", "validating", metadata={"airflow_llm_batch": "ab12-0"}),
                self.raw("by-file", "validating", input_file_id="file-9"),
                self.raw("old", "completed", at=NOW - timedelta(hours=1)),
            ],
            "has_more": True,
        }
        assert [b.id for b in drive(self.made.find(shard, NOW, "file-9"), page)[1]] == ["mine", "by-file"]

    def test_batches_of_its_kin_are_read_leniently(self):
        """Capitals, nulls, empty error files, counts that disagree."""
        raw = {"id": "b", "status": "Completed", "request_counts": None, "output_file_id": "o", "error_file_id": ""}
        batch = drive(
            self.made.get("b"), {**raw, "endpoint": None, "metadata": None, "created_at": "2026-01-01T00:00:00Z"}
        )[1]
        assert (batch.outcome, batch.files, batch.total) == ("completed", ("o",), None)
        assert batch.created_at == datetime(2026, 1, 1, tzinfo=UTC)
        partly = self.raw("b", "completed") | {"request_counts": {"total": 2, "completed": 1, "failed": 1}}
        assert drive(self.made.get("b"), partly)[1].outcome == "partial"

    def test_metadata_over_the_limits_is_refused(self):
        """Too many entries, too long a value: before anything is sent."""
        with pytest.raises(InputError, match="16"):
            self.made.check_metadata({str(n): "x" for n in range(16)})
        with pytest.raises(InputError, match="600"):
            self.made.check_metadata({"a": "x" * 600})

    @pytest.mark.parametrize(
        ("typed", "used"),
        [
            ("http://h:1", "http://h:1/v1"),
            ("http://h:1/", "http://h:1/v1"),
            ("http://h:1/openai/v1/", "http://h:1/openai/v1"),
            ("http://h:1/v1/chat/completions", "http://h:1/v1"),
            ("http://h:1/batches/", "http://h:1/v1"),
            ("http://h:1/chatty/v1", "http://h:1/chatty/v1"),
            (None, "https://api.openai.com/v1"),
        ],
    )
    def test_base_urls_are_taken_as_people_type_them(self, typed, used):
        """A host alone means its /v1; the path of a call is no part of it."""
        assert OpenAI(typed).base_url == used

    def test_decode_reads_every_shape_of_answer(self):
        """Chat, tools, refusal, truncation, responses, embeddings, errors in both places, status_code 0."""

        def chat(message, finish="stop", **usage):
            return {"choices": [{"message": message, "finish_reason": finish}], "model": "m", "usage": usage}

        def read(body=None, status=200, error=None):
            response = None if body is None else {"status_code": status, "body": body}
            return self.made.decode({"custom_id": "a-1", "response": response, "error": error})

        result = read(
            chat({"content": "hi"}, prompt_tokens=9, completion_tokens=2, prompt_tokens_details={"cached_tokens": 4})
        )
        assert (result.status, result.text, result.input_tokens, result.cached_tokens, result.output_tokens) == (
            "succeeded", "hi", 9, 4, 2,
        )  # fmt: skip
        call = {"id": "c", "function": {"name": "f", "arguments": '{"x": 1}'}}
        assert read(chat({"content": None, "tool_calls": [call]}, "tool_calls")).tool_calls == [
            {"id": "c", "name": "f", "arguments": {"x": 1}}
        ]
        call["function"]["arguments"] = '{"x": '
        assert read(chat({"tool_calls": [call]})).tool_calls[0]["arguments"] == '{"x": '
        assert read(chat({"content": None, "refusal": "no"})).status == "refused"
        assert read(chat({"content": "x"}, "content_filter")).status == "refused"
        assert read(chat({"content": "x"}, "length")).status == "truncated"
        message = {"type": "message", "content": [{"type": "output_text", "text": "yes"}]}
        answer = {
            "object": "response",
            "status": "completed",
            "output": [message],
            "usage": {"input_tokens": 3, "output_tokens": 1},
        }
        assert (read(answer).text, read(answer).input_tokens) == ("yes", 3)
        cut = {**answer, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        assert (read(cut).status, read(cut).finish_reason) == ("truncated", "max_output_tokens")
        vector = {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 2, "total_tokens": 2}}
        assert (read(vector).embedding, read(vector).output_tokens) == ([0.5], 0)
        assert (read(error={"code": "batch_expired", "message": "late"}).status) == "expired"
        assert (read(error={"code": "batch_cancelled", "message": ""}).status) == "cancelled"
        bad = read({"error": {"message": "no such model", "type": "invalid", "code": "model_not_found"}}, 404)
        assert (bad.status, bad.error_code, bad.error_message) == ("errored", "model_not_found", "no such model")
        assert read({}, 0).error_code == "no_answer"
        for garbage in (
            {},
            {"custom_id": "a"},
        ):
            with pytest.raises((KeyError, IndexError, TypeError)):
                self.made.decode(garbage)

    def test_real_outputs_decode(self, shared):
        """Every line of real OpenAI, Groq and langbatch outputs, with its text and tokens."""
        lines = (shared / "samples" / "openai_gpt4o_batch_output.jsonl").read_bytes().split(b"\n")
        results = [self.made.decode(json.loads(line)) for line in lines if line]
        assert len(results) == 65
        assert {r.status for r in results} == {"succeeded"}
        assert all(r.text and r.input_tokens and r.output_tokens and r.model == "gpt-4o-2024-08-06" for r in results)
        groq = (shared / "samples" / "groq_batch_output.jsonl").read_bytes().split(b"\n")
        groq = [self.made.decode(json.loads(line)) for line in groq if line]
        assert [(r.status, bool(r.text)) for r in groq if r.custom_id != "request-3"] == [("succeeded", True)] * 2
        mixed = (shared / "samples" / "langbatch_chat_completion_batch_results.jsonl").read_bytes().split(b"\n")
        mixed = [self.made.decode(json.loads(line)) for line in mixed if line]
        assert [r.status for r in mixed].count("errored") == 2
        vectors = (shared / "samples" / "langbatch_embedding_batch_results.jsonl").read_bytes().split(b"\n")
        assert all(len(self.made.decode(json.loads(line)).embedding) > 100 for line in vectors if line)


class TestAnthropic(ProviderContract):
    made = Anthropic("http://h")
    running, ended = "in_progress", "ended"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counts = {"processing": 0, "succeeded": rows, "errored": 0, "canceled": 0, "expired": 0}
        return {
            "id": batch_id,
            "processing_status": status,
            "created_at": at.isoformat(),
            "request_counts": counts,
            **more,
        }

    @pytest.mark.parametrize(
        "chunks", [[b'{"a":1}\n{"b":2}\n'], [b'{"a":1}', b'\n{"b":2}', b"\n"], [b'{"a":1}\n', b'{"b":2}\n']]
    )
    def test_create_carries_the_lines_as_an_array(self, chunks):
        """Whatever the chunking: valid JSON, exactly as long as announced."""
        content = Payload(lambda: iter(chunks), sum(map(len, chunks)))
        requests, _ = drive(self.made.create(Shard(endpoint=""), None, content), self.raw("b", "in_progress"))
        body = body_of(requests[0])
        assert json.loads(body) == {"requests": [{"a": 1}, {"b": 2}]}
        assert len(body) == int(requests[0].headers["content-length"])

    def test_find_goes_by_time_and_count(self):
        """Batches of our size created since; the search stops at older ones."""
        shard = Shard(endpoint="", rows=2)
        page = {
            "data": [
                self.raw("b1", "in_progress"),
                self.raw("other-size", "in_progress", rows=3),
                self.raw("old", "ended", at=NOW - timedelta(hours=1)),
            ],
            "has_more": True,
        }
        assert [b.id for b in drive(self.made.find(shard, NOW), page)[1]] == ["b1"]

    @pytest.mark.parametrize(
        ("counts", "outcome"),
        [
            ({"succeeded": 2}, "completed"),
            ({"succeeded": 1, "errored": 1}, "partial"),
            ({"errored": 2}, "failed"),
            ({"succeeded": 1, "expired": 1}, "expired"),
            ({"succeeded": 1, "canceled": 1}, "cancelled"),
        ],
    )
    def test_how_a_batch_ended_follows_from_its_counters(self, counts, outcome):
        """``ended`` alone says nothing."""
        raw = self.raw("b", "ended") | {"request_counts": counts}
        assert drive(self.made.get("b"), raw)[1].outcome == outcome

    def test_results_are_asked_of_the_configured_host(self):
        """A results_url of another host (a gateway's upstream) is replaced: credentials stay."""
        for url in (
            "http://h/v1/messages/batches/b/results",
            "https://api.anthropic.com/v1/messages/batches/b/results",
        ):
            batch = drive(self.made.get("b"), self.raw("b", "ended", results_url=url))[1]
            assert str(self.made.results(batch)[0].url) == "http://h/v1/messages/batches/b/results"

    def test_decode_reads_every_kind_of_result(self):
        """Succeeded, tool use, truncated, refused, errored, expired, canceled; cached tokens count as input."""

        def read(stop="end_turn", content=({"type": "text", "text": "hi"},), **usage):
            message = {"content": list(content), "stop_reason": stop, "model": "m", "usage": usage}
            return self.made.decode({"custom_id": "a", "result": {"type": "succeeded", "message": message}})

        usage = {
            "input_tokens": 5,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 20,
            "output_tokens": 3,
        }
        result = read(**usage)
        assert (result.status, result.text, result.input_tokens, result.cached_tokens) == ("succeeded", "hi", 125, 100)
        assert read("max_tokens").status == "truncated"
        assert read("refusal").status == "refused"
        assert (
            read(content=[{"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}]).tool_calls[0]["name"] == "f"
        )
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
        errored = self.made.decode({"custom_id": "a", "result": {"type": "errored", "error": error}})
        assert (errored.status, errored.error_code, errored.error_message) == ("errored", "overloaded_error", "busy")
        assert self.made.decode({"custom_id": "a", "result": {"type": "canceled"}}).status == "cancelled"
        assert self.made.decode({"custom_id": "a", "result": {"type": "expired"}}).status == "expired"

    def encode(self, **body):
        request = Request("/v1/chat/completions", {"model": "m", "max_tokens": 9, **body})
        return self.made.encode(request, "a-1")["params"]

    def test_the_neutral_request_is_translated(self):
        """System, images, tools, tool results, stop, schema: nothing is lost on the way."""
        tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
        params = self.encode(
            messages=[
                {"role": "system", "content": "be brief"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "look"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
                        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                    ],
                },
                {"role": "assistant", "tool_calls": [{"id": "t1", "function": {"name": "f", "arguments": '{"x":1}'}}]},
                {"role": "tool", "tool_call_id": "t1", "content": "42"},
                {"role": "user", "content": "and?"},
            ],
            tools=[tool],
            tool_choice="required",
            parallel_tool_calls=False,
            stop="END",
            temperature=0.1,
            user="u1",
            n=1,
            response_format={"type": "json_schema", "json_schema": {"name": "o", "schema": CLOSED}},
        )
        assert params == {
            "model": "m",
            "max_tokens": 9,
            "system": "be brief",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "look"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                    ],
                },
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "42"},
                        {"type": "text", "text": "and?"},
                    ],
                },
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "stop_sequences": ["END"],
            "temperature": 0.1,
            "metadata": {"user_id": "u1"},
            "output_config": {"format": {"type": "json_schema", "schema": CLOSED}},
        }

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({"messages": [], "logit_bias": {"1": 5}}, "logit_bias"),
            ({"messages": [], "n": 2}, "'n'"),
            ({"messages": [], "response_format": {"type": "json_object"}}, "json_object"),
            ({"messages": [{"role": "critic", "content": "x"}]}, "critic"),
            ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
            ({"messages": [], "max_tokens": None}, "max_tokens"),
        ],
    )
    def test_what_has_no_counterpart_is_refused_by_name(self, body, named):
        """Nothing is dropped silently."""
        with pytest.raises(InputError, match=named):
            self.encode(**body)

    def test_versions_and_betas_are_settings(self):
        """Headers follow the connection's extra."""
        login = Login("c", "", "k")
        assert self.made.auth(login).fixed == {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        options = {"anthropic_version": "2026-10-21", "anthropic_beta": ["a", "b"]}
        chosen = Anthropic(None, options).auth(login).fixed
        assert (chosen["anthropic-version"], chosen["anthropic-beta"]) == ("2026-10-21", "a,b")
        for typed in ("/v1/", "/v1/messages", "/v1/messages/batches"):
            assert Anthropic(f"https://api.anthropic.com{typed}").base_url == "https://api.anthropic.com"


def test_an_unknown_provider_is_refused_with_the_known_ones():
    """The message lists what could be meant."""
    with pytest.raises(ConfigurationError, match=r"'opneai'.*anthropic, .*openai"):
        provider_class("opneai")
    assert {provider_class(name).name for name in OURS} == set(OURS)


def test_the_search_for_a_lost_create_ends_with_what_is_older():
    """Our own key proves a batch to be ours whatever its time says; an older one ends the search."""
    old = TestOpenAI().raw("old", "completed", at=NOW - timedelta(days=5), metadata={"airflow_llm_batch": "k"})
    theirs = TestOpenAI().raw("theirs", "completed", at=NOW - timedelta(days=5))
    shard = Shard(endpoint="", key="k", rows=2)
    requests, found = drive(OpenAI("http://h").find(shard, NOW), {"data": [old, theirs], "has_more": True})
    assert ([batch.id for batch in found], len(requests)) == (["old"], 1)


LISTED = {"object": "list", "data": [{"code": "invalid_json_line", "message": "line 3", "line": 3}]}
WHY = [
    (LISTED, [("invalid_json_line", "line 3")]),
    ([{"code": "x", "message": "bad"}, {"message": "worse"}], [("x", "bad"), ("", "worse")]),
    ({"code": "mismatched_model", "message": "m", "data": None}, [("mismatched_model", "m")]),
    ("all of it failed", [("", "all of it failed")]),
    ({"data": ["first", "second"]}, [("", "first"), ("", "second")]),
    ({"data": "one"}, [("", "one")]),
    (None, []),
    ({"object": "list", "data": []}, []),
]


@pytest.mark.parametrize(("errors", "why"), WHY)
def test_why_a_batch_failed_is_read_in_any_shape(errors, why):
    """A list as OpenAI has it, one alone, or texts."""
    batch = OpenAI("http://h").parse({"id": "b", "status": "failed", "errors": errors})
    assert list(batch.errors) == why


@pytest.mark.parametrize("spelled", ["cancelled", "canceled", "CANCELLED", "Canceled"])
def test_cancelled_has_two_spellings(spelled):
    """Of a batch, and of Anthropic's rows: what was done by then is landed, and not waited for."""
    batch = OpenAI("http://h").parse({"id": "b", "status": spelled, "output_file_id": "f"})
    assert (batch.outcome, batch.known, batch.files) == ("cancelled", True, ("f",))
    row = Anthropic("http://h").decode({"custom_id": "a", "result": {"type": spelled.lower()}})
    assert (row.status, row.error_code) == ("cancelled", "batch_cancelled")


@pytest.mark.parametrize("kind", [TestOpenAI, TestAnthropic])
def test_a_listing_that_does_not_go_on_proves_nothing(kind):
    """An empty page with more behind it goes on where it says, or is no answer; nor is one page again and again."""
    suite, shard = kind(), Shard(endpoint="", key="k", rows=2, token="t")
    ours = suite.raw("ours", suite.running, metadata={"airflow_llm_batch": "k"})
    theirs = suite.raw("theirs", suite.running, rows=3)
    empty, last = {"data": [], "has_more": True}, {"data": [ours], "has_more": False}
    requests, found = drive(suite.made.find(shard, NOW), {**empty, "last_id": "x"}, last)
    assert ([batch.id for batch in found], len(requests)) == (["ours"], 2)
    assert "x" in str(requests[1].url)
    with pytest.raises(VendorUnavailable, match=r"not where they are .* nothing was sent again"):
        drive(suite.made.find(shard, NOW), empty)
    again = {"data": [theirs], "has_more": True}
    with pytest.raises(VendorUnavailable, match="the same page again"):
        drive(suite.made.find(shard, NOW), again, again)
    again = {"data": [theirs, ours], "has_more": True}
    requests, found = drive(suite.made.find(shard, NOW), again, again)
    assert ({batch.id for batch in found}, len(requests)) == ({"ours"}, 2)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("kind", [TestOpenAI, TestAnthropic])
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_an_odd_batch_in_a_listing_hides_no_other(kind, data):
    """Any JSON value in any field of somebody else's batch: ours is found; of our own, what can be read is."""
    suite = kind()
    names = [*suite.raw("x", suite.running), "metadata", "request_counts", "results_url", "errors", "output_file_id"]
    changed = data.draw(st.dictionaries(st.sampled_from(names), ODD, max_size=4))
    ours = suite.raw("ours", suite.ended)
    odd = {**suite.raw("odd", suite.running), **changed}
    page = drive(suite.made.list(), suite.page([odd, "no batch at all", None, ours], more=False))[1]
    assert [batch.id for batch in page.items][-1] == "ours"
    mine = {**ours, **{name: value for name, value in changed.items() if name != "id"}}
    assert drive(suite.made.get("ours"), mine)[1].id == "ours"
    list(suite.made.results(drive(suite.made.get("ours"), mine)[1]))
