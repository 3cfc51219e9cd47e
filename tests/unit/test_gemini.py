"""Gemini's protocol: flows over canned answers, as its documentation and its SDK show them."""

from __future__ import annotations

import json
from datetime import timedelta

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_llm_batch.exceptions import ConfigurationError, InputError, RefusedForGood, VendorUnavailable
from airflow_llm_batch.jobs.online.endpoint import is_fatal
from airflow_llm_batch.jobs.waiting.poll_loop import is_refusal
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.bodies import PAUSE, Paged, Payload
from airflow_llm_batch.providers.gemini.protocol import Gemini
from airflow_llm_batch.providers.troubles import is_full
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

PAYLOAD = Payload(lambda: [b"12345\n"], 6)
SHARD = Shard(endpoint="generateContent", model="gemini-x", key="ab12-0", rows=2)
STARTED = {"x-goog-upload-url": "http://h/upload/v1beta/files?upload_id=1", "x-goog-upload-status": "active"}


def started(url=STARTED["x-goog-upload-url"]):
    """The vendor's answer to the start of an upload has no body."""
    return httpx.Response(200, headers={**STARTED, "x-goog-upload-url": url})


def file(state="ACTIVE", **more):
    return {"file": {"name": "files/in", "state": state, **more}}


class TestGemini(ProviderContract):
    made = Gemini("http://h")
    running, ended = "BATCH_STATE_RUNNING", "BATCH_STATE_SUCCEEDED"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        stats = {"requestCount": str(rows), "successfulRequestCount": str(rows)}
        metadata = {"state": status, "createTime": at.isoformat(), "batchStats": stats, "displayName": "theirs"}
        name = f"batches/{batch_id}"
        return {"name": name, "metadata": {"name": name, "model": "models/gemini-x", **metadata, **more}}

    def page(self, items, *, more):
        return {"operations": items, **({"nextPageToken": "b2"} if more else {})}

    def get(self, **raw):
        return drive(self.made.get("b"), {"name": "batches/b", **raw})[1]

    @pytest.mark.parametrize("prefix", ["BATCH_STATE_", "JOB_STATE_", ""])
    def test_states_have_two_prefixes(self, prefix):
        """The wire's, and the one that the documentation's samples compare with."""
        outcomes = {"SUCCEEDED": "completed", "FAILED": "failed", "CANCELLED": "cancelled", "EXPIRED": "expired"}
        for state, outcome in outcomes.items():
            assert self.get(metadata={"state": prefix + state}).outcome == outcome
        for state in ("PENDING", "RUNNING", "UNSPECIFIED", "QUEUED"):
            batch = self.get(metadata={"state": prefix + state})
            assert (batch.outcome, batch.known) == (None, True)

    @pytest.mark.parametrize("where", ["response", "metadata"])
    @pytest.mark.parametrize("spelling", ["responsesFile", "responses_file"])
    def test_output_stands_in_two_places_in_two_spellings(self, where, spelling):
        """``response`` in the REST documentation, ``metadata.output`` in the SDK."""
        output = {spelling: "files/batch-b"}
        ended = {"state": "BATCH_STATE_SUCCEEDED"}
        raw = {"response": output} if where == "response" else {}
        batch = self.get(metadata={**ended, **({} if raw else {"output": output})}, done=True, **raw)
        assert batch.files == ("files/batch-b",)
        url = self.made.results(batch)[0].url
        assert str(url) == "http://h/v1beta/files/batch-b:download?alt=media"

    def test_counters_are_texts_without_zeros(self):
        """int64 as JSON spells it; a failed row makes a success partial."""
        batch = self.get(metadata={"state": "BATCH_STATE_SUCCEEDED", "batchStats": {"requestCount": "3"}})
        assert (batch.total, batch.succeeded, batch.failed, batch.outcome) == (3, 0, 0, "completed")
        stats = {"requestCount": "3", "successful_request_count": 1, "failedRequestCount": "2"}
        batch = self.get(metadata={"state": "BATCH_STATE_SUCCEEDED", "batchStats": stats})
        assert (batch.succeeded, batch.failed, batch.outcome) == (1, 2, "partial")
        assert self.get(metadata={"state": "BATCH_STATE_RUNNING"}).total is None

    def test_an_operation_without_a_state_tells_by_its_error(self):
        """Done with a response, with an error, with code 1."""
        assert self.get(done=True, response={"responsesFile": "files/r"}).outcome == "completed"
        assert self.get(done=True, error={"code": 1, "message": "stopped"}).outcome == "cancelled"
        failed = self.get(
            done=True, error={"code": 3, "message": "bad line"}, metadata={"state": "BATCH_STATE_RUNNING"}
        )
        assert (failed.outcome, failed.errors) == ("failed", (("invalid_argument", "bad line"),))
        assert self.get(done=True, error={"code": 8, "message": "no room"}).full

    def test_an_expired_batch_delivers_nothing_whatever_it_counts(self):
        """As documented: its rows are lost, and asked again."""
        stats = {"requestCount": "3", "successfulRequestCount": "2"}
        batch = self.get(metadata={"state": "BATCH_STATE_EXPIRED", "batchStats": stats})
        assert (batch.outcome, batch.succeeded, batch.files) == ("expired", 0, ())

    def test_inline_responses_are_lines(self):
        """Nested twice, each with its request's key, or named by its place."""
        items = [{"response": {"candidates": []}, "metadata": {"key": "k"}}, {"error": {"code": 3}}]
        raw = {
            "metadata": {"state": "BATCH_STATE_SUCCEEDED"},
            "response": {"inlinedResponses": {"inlinedResponses": items}},
        }
        batch = self.get(**raw)
        (source,) = self.made.results(batch)
        assert isinstance(source, Paged)
        assert str(source.request.url) == "http://h/v1beta/batches/b"
        lines, after = source.read(httpx.Response(200, json={"name": "batches/b", **raw}))
        assert ([self.made.read(line).custom_id for line in lines], after) == (["k", "1"], None)

    def test_an_upload_is_started_sent_and_waited_for(self):
        """Start, content with ``upload, finalize``, looks with pauses until the file is active."""
        processing, active = file("PROCESSING")["file"], file()["file"]
        requests, ref = drive(self.made.upload("n", PAYLOAD), started(), file("PROCESSING"), processing, active)
        assert ref == "files/in"
        assert [r.method for r in requests] == ["POST", "POST", "GET", "GET"]
        start, content, *looks = requests
        assert str(start.url) == "http://h/upload/v1beta/files"
        assert start.headers["x-goog-upload-command"] == "start"
        assert start.headers["x-goog-upload-header-content-length"] == "6"
        assert content.headers["x-goog-upload-command"] == "upload, finalize"
        assert b"".join(content.stream) == b"12345\n"
        assert [look.extensions[PAUSE] > 0 for look in looks] == [True, True]
        assert {str(look.url) for look in looks} == {"http://h/v1beta/files/in"}

    @pytest.mark.parametrize(
        ("base", "given", "used"),
        [
            ("http://h", "http://h/upload/v1beta/files?upload_id=1", "http://h/upload/v1beta/files?upload_id=1"),
            ("http://h", "https://generativelanguage.googleapis.com/up?upload_id=1", "http://h/up?upload_id=1"),
            ("http://gate/gemini", "https://evil.test/up?a=b%2Fc", "http://gate/gemini/up?a=b%2Fc"),
            ("http://gate/gemini", "http://gate/gemini/up?upload_id=1", "http://gate/gemini/up?upload_id=1"),
        ],
    )
    def test_a_session_is_our_own_servers(self, base, given, used):
        """Whatever host it names: content and credentials go to the connection's address."""
        requests, _ = drive(Gemini(base).upload("n", PAYLOAD), started(given), file())
        assert str(requests[1].url) == used

    @pytest.mark.parametrize("given", ["", "no address", "ftp://h/x", "javascript:x"])
    def test_a_session_that_is_no_address_is_told(self, given):
        """Nothing is sent to nowhere."""
        with pytest.raises(VendorUnavailable, match="no place"):
            drive(self.made.upload("n", PAYLOAD), started(given))

    def test_a_session_that_was_cut_is_opened_anew(self):
        """What was sent again is refused, since some had arrived: another session takes it from the beginning."""
        refused = httpx.Response(400, json={"error": {"code": 400, "message": "offset"}})
        requests, ref = drive(self.made.upload("n", PAYLOAD), started(), refused, started(), file())
        assert (len(requests), ref) == (4, "files/in")
        gone = [started(), httpx.Response(404)] * 3
        with pytest.raises(RefusedForGood):
            drive(self.made.upload("n", PAYLOAD), *gone)

    def test_a_file_that_cannot_be_processed_is_told(self):
        """With the vendor's reason."""
        with pytest.raises(RefusedForGood, match="odd bytes"):
            drive(self.made.upload("n", PAYLOAD), started(), file("FAILED", error={"message": "odd bytes"}))

    @pytest.mark.parametrize(
        ("endpoint", "model", "path"),
        [
            ("generateContent", "gemini-x", "/v1beta/models/gemini-x:batchGenerateContent"),
            ("generateContent", "models/gemini-x", "/v1beta/models/gemini-x:batchGenerateContent"),
            ("generateContent", "tunedModels/mine", "/v1beta/tunedModels/mine:batchGenerateContent"),
            ("embedContent", "gemini-e", "/v1beta/models/gemini-e:asyncBatchEmbedContent"),
        ],
    )
    def test_create_names_file_model_and_owner(self, endpoint, model, path):
        """The model stands in the address, the shard's key is the name."""
        shard = SHARD.model_copy(update={"endpoint": endpoint, "model": model})
        made = Gemini("http://h", {"create": {"priority": "3"}})
        (request,), batch = drive(made.create(shard, "files/in", PAYLOAD), self.raw("b", "BATCH_STATE_PENDING"))
        assert request.url.path == path
        assert json.loads(request.read()) == {
            "batch": {"displayName": "ab12-0", "inputConfig": {"fileName": "files/in"}, "priority": "3"}
        }
        assert batch.id == "b"

    def test_a_batch_is_made_for_one_model(self):
        """By hand, without one."""
        with pytest.raises(ConfigurationError, match="one model"):
            drive(self.made.create(Shard(endpoint="generateContent"), "files/in", PAYLOAD))

    def test_a_full_queue_is_told_from_an_empty_account(self):
        """The words are the same; at a create they speak of the queue, except where nothing at all is allowed."""
        url = "http://h/v1beta/models/m:batchGenerateContent"
        said = "You exceeded your current quota, please check your plan and billing details."

        def refused(message, url=url):
            body = {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED"}}
            return self.made.error_of(httpx.Response(429, json=body, request=httpx.Request("POST", url)))

        assert is_full(*refused(said))
        assert not is_full(*refused(f"{said} * Quota exceeded, limit: 0"))
        assert not is_full(*refused(said, "http://h/v1beta/models/m:generateContent"))

    def test_find_knows_its_own_by_name_or_input_file(self):
        """The order of the listing is not documented: a time ends the search only where pages go back in time."""
        old = NOW - timedelta(days=3)
        mine = self.raw("mine", "BATCH_STATE_RUNNING", displayName="ab12-0")
        by_file = self.raw("by-file", "BATCH_STATE_RUNNING", inputConfig={"fileName": "files/in"})
        rising = self.page(
            [self.raw("a", "BATCH_STATE_SUCCEEDED", at=old), self.raw("b", "BATCH_STATE_RUNNING")], more=True
        )
        falling = self.page([mine, by_file, self.raw("c", "BATCH_STATE_SUCCEEDED", at=old)], more=True)
        requests, found = drive(self.made.find(SHARD, NOW, "files/in"), rising, falling)
        assert [b.id for b in found] == ["mine", "by-file"]
        assert "pageToken=b2" in str(requests[1].url)

    def test_cancelling_is_followed_by_a_look(self):
        """The answer to a cancel is empty."""
        requests, batch = drive(self.made.cancel("batches/b"), {}, self.raw("b", "BATCH_STATE_CANCELLED"))
        assert [str(r.url) for r in requests] == ["http://h/v1beta/batches/b:cancel", "http://h/v1beta/batches/b"]
        assert batch.outcome == "cancelled"

    def test_deleting_goes_by_scope(self):
        """The input; with it results and the batch. What is gone is gone."""
        batch = self.get(
            metadata={"state": "BATCH_STATE_SUCCEEDED", "inputConfig": {"fileName": "files/in"}},
            response={"responsesFile": "files/out"},
        )
        requests, count = drive(self.made.delete(batch, "inputs"), {})
        assert ([r.url.path for r in requests], count) == (["/v1beta/files/in"], 1)
        requests, count = drive(self.made.delete(batch, "all"), httpx.Response(403), httpx.Response(400), {})
        assert [r.url.path for r in requests][1:] == ["/v1beta/files/out", "/v1beta/batches/b"]
        assert count == 1

    def test_lines_and_calls(self):
        """A line's request has no model; a call has it in its path; what a line was made of comes back."""
        request = self.made.translate(
            Request("/v1/chat/completions", {"model": "gemini-x", "messages": [{"role": "user", "content": "hi"}]})
        )
        line = self.made.line(request, "a-1")
        assert line == {"key": "a-1", "request": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}}
        assert self.made.request_of(line, SHARD) == request
        call = self.made.call(json.dumps(line).encode(), SHARD)
        assert (call.custom_id, call.path) == ("a-1", b"/v1beta/models/gemini-x:generateContent")
        assert json.loads(call.body) == line["request"]
        vectors = self.made.translate(Request("/v1/embeddings", {"model": "gemini-e", "input": "hi", "dimensions": 8}))
        assert self.made.line(vectors, "a")["request"] == {
            "content": {"parts": [{"text": "hi"}]},
            "outputDimensionality": 8,
        }
        assert self.made.embeds(vectors)

    def test_an_answered_call_reads_like_a_line(self):
        """With its HTTP status where it failed."""
        good = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}]}
        read = self.made.read(self.made.answered("a", 200, json.dumps(good).encode()))
        assert (read.custom_id, read.status, read.text) == ("a", "succeeded", "x")
        bad = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
        read = self.made.read(self.made.answered("a", 503, json.dumps(bad).encode()))
        assert (read.status, read.error_code) == ("errored", "UNAVAILABLE")

    def test_a_request_in_geminis_words_goes_as_it_is(self):
        """RawRequest(endpoint="generateContent")."""
        request = Request("generateContent", {"model": "models/gemini-x", "contents": [], "any": 1})
        assert self.made.translate(request) is request
        with pytest.raises(InputError, match=r"generateContent"):
            self.made.translate(Request("/v1/responses", {}))

    def test_the_key_goes_to_the_configured_origin(self):
        """As a header, and nowhere else."""
        auth = self.made.auth(Login("c", "", "secret"))
        assert auth.headers(httpx.Request("GET", "http://h/v1beta/batches")) == {"x-goog-api-key": "secret"}
        assert auth.headers(httpx.Request("GET", "http://other/v1beta/batches")) == {}
        assert auth.secrets == ("secret",)
        with pytest.raises(ConfigurationError, match="no key"):
            Gemini().auth(Login("c"))

    def test_versions_and_download_paths_are_settings(self):
        """``api_version`` and ``download``; a version in the host is taken off."""
        made = Gemini("http://h/v1beta/", {"api_version": "v1", "download": "download", "query": {"a": "b"}})
        batch = self.get(metadata={"state": "BATCH_STATE_SUCCEEDED"}, response={"responsesFile": "files/r"})
        assert str(made.results(batch)[0].url) == "http://h/download/v1/files/r:download?a=b&alt=media"
        with pytest.raises(ConfigurationError, match="download"):
            Gemini("http://h", {"download": "odd"})


@pytest.mark.parametrize(
    ("reason", "by_key"), [("API_KEY_INVALID", True), ("API_KEY_EXPIRED", True), ("FIELD_INVALID", False)]
)
def test_a_refused_key_is_told_from_a_bad_request(reason, by_key):
    """Both come with 400 and INVALID_ARGUMENT; what waits looks the key up once more, and no further row is called."""
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}
    body = {"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT", "details": [detail]}}
    with pytest.raises(RefusedForGood) as caught:
        drive(Gemini("http://h").get("b"), httpx.Response(400, json=body))
    assert is_refusal(caught.value) is by_key
    # Google answers some calls with a list of one.
    for answer in (body, [body]):
        code = Gemini.error_of(httpx.Response(400, json=answer))
        assert is_fatal(400, code, 5, 0) is by_key
        assert code[1] == "no"


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["responsesFile", "inlinedResponses", "code", "fileName", "x"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_an_odd_operation_in_a_listing_hides_no_other(data):
    """Any JSON value in any field: ours is found; of our own, what can be read is."""
    suite = TestGemini()
    ours = suite.raw("ours", suite.ended)
    names = ["metadata", "response", "error", "done"]
    outer = data.draw(st.dictionaries(st.sampled_from(names), ODD, max_size=3))
    inner = data.draw(
        st.dictionaries(
            st.sampled_from([*ours["metadata"], "output", "inputConfig", "error", "endTime"]), ODD, max_size=4
        )
    )
    odd = {**ours, **outer} if outer else {**ours, "metadata": {**ours["metadata"], **inner}}
    page = drive(suite.made.list(), suite.page([odd, "no batch at all", None, ours], more=False))[1]
    assert [batch.id for batch in page.items][-1] == "ours"
    batch = drive(suite.made.get("ours"), odd)[1]
    assert batch.id == "ours"
    for source in suite.made.results(batch):
        if isinstance(source, Paged):
            source.read(httpx.Response(200, json=odd))
