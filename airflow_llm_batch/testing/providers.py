"""What holds for every provider, with no network: flows are driven over canned answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
import msgspec
import pytest

from airflow_llm_batch.exceptions import ConfigurationError, InputError, VendorUnavailable
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.base import Flow, Provider
from airflow_llm_batch.request import Request

T = TypeVar("T")
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def drive(flow: Flow[T], *answers: Any) -> tuple[list[httpx.Request], T]:
    """Run a flow over canned answers.

    :param answers: each an ``httpx.Response``, or the JSON body of one with status 200.
    :return: the flow's requests, and its value.
    :raises AssertionError: when it asks for more than there is.
    """
    requests = []
    try:
        request = next(flow)
        for answer in answers:
            requests.append(request)
            request = flow.send(answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer))
    except StopIteration as stop:
        return requests, stop.value
    raise AssertionError(f"the flow wants more: {request.method} {request.url}")


class ProviderContract:
    """Inherit from it in a test class, and say how the vendor spells things.

    :cvar made: a provider.
    :cvar running: a status of a batch that is worked on; ``ended`` of one that was worked on whole.
    :cvar paged: its listing comes in pages.
    """

    made: Provider
    running: str
    ended: str
    paged: bool = True

    def raw(self, batch_id: str, status: str, at: datetime = NOW, rows: int = 2, **more: Any) -> dict[str, Any]:
        """A batch as the vendor tells of it."""
        raise NotImplementedError

    def page(self, items: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
        """A page of the vendor's listing."""
        return {"data": items, "has_more": more}

    @property
    def asked(self) -> Request:
        """A request that the vendor can batch."""
        body = {"model": "model-1", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
        return Request("/v1/chat/completions", body)

    def test_it_says_what_it_is(self) -> None:
        """What the README, the form and the pages show."""
        made = self.made
        assert made.name == made.name.lower()
        assert all((made.title, *made.facts))
        assert made.found_by in ("metadata", "client token", "name", "label", "input file", "time")
        assert isinstance(made.price_id, str)
        for name, field in type(made).Options.model_fields.items():
            assert field.description, name
            assert not field.is_required(), name

    def test_credentials_stay_with_their_origins(self) -> None:
        """Another host, port or scheme gets none of them."""
        auth = self.made.auth(Login("conn", "user", "planted-key"))
        url = httpx.URL(self.made.base_url)
        for other in (url.copy_with(host="elsewhere.test"), url.copy_with(port=1), url.copy_with(scheme="ftp")):
            request = httpx.Request("GET", other)
            before = dict(request.headers)
            next(auth.sync_auth_flow(request))
            assert dict(request.headers) == before

    def test_a_line_can_be_asked_again(self) -> None:
        """``request_of`` undoes ``line``: what failed is asked once more as it was."""
        request = self.made.translate(self.asked)
        line = json.loads(msgspec.json.encode(self.made.line(request, "abcd1234-7")))
        endpoint, model = self.made.group(request)
        again = self.made.request_of(line, Shard(endpoint=endpoint, model=model))
        assert (again.endpoint, again.body) == (request.endpoint, json.loads(msgspec.json.encode(request.body)))
        assert self.made.translate(again).body == again.body
        assert self.made.id_of(line) == "abcd1234-7"

    def test_an_answer_to_a_call_is_a_line(self) -> None:
        """Whatever a call is answered with, the row it belongs to can be told, and an error is none but an error."""
        line = msgspec.json.encode(self.made.line(self.made.translate(self.asked), "abcd1234-7"))
        call = self.made.call(line, Shard(endpoint="", model="model-1"))
        assert call.custom_id == "abcd1234-7"
        assert call.path.startswith(b"/")
        for status, body in ((429, b'{"error":{"message":"slow down"}}'), (500, b'{"message":"broken"}')):
            answer = self.made.answered(call.custom_id, status, body)
            assert json.loads(answer)["custom_id"] == call.custom_id
            assert self.made.id_of(json.loads(answer)) == call.custom_id
            result = self.made.read(answer)
            assert (result.custom_id, result.status) == ("abcd1234-7", "errored")

    def test_flex_is_there_or_is_refused(self) -> None:
        """A flex call is the same call that asks for another tier; a vendor without one refuses it with a remedy."""
        request = self.made.translate(self.asked)
        endpoint, model = self.made.group(request)
        line = msgspec.json.encode(self.made.line(request, "abcd1234-7"))
        call = self.made.call(line, Shard(endpoint=endpoint, model=model or "model-1"))
        if self.made.flex_price_factor is None:
            with pytest.raises(ConfigurationError, match="lane="):
                self.made.check_flex(endpoint, model)
            with pytest.raises(ConfigurationError, match="Nothing was sent"):
                self.made.flex_call(call)
            return
        assert 0 < float(self.made.flex_price_factor) < 1
        at_flex = self.made.flex_call(call)
        assert (at_flex.custom_id, at_flex.path) == (call.custom_id, call.path)
        assert (at_flex.body, at_flex.headers) != (call.body, call.headers)
        sent = json.loads(at_flex.body)
        assert all(sent[name] == value for name, value in json.loads(call.body).items())

    def test_a_batch_is_read(self) -> None:
        """get() knows running from ended."""
        requests, batch = drive(self.made.get("id/with=odd&chars"), self.raw("b", self.running))
        assert "id%2Fwith%3Dodd%26chars" in str(requests[0].url)
        assert (batch.id, batch.outcome, batch.known) == ("b", None, True)
        assert drive(self.made.get("b"), self.raw("b", self.ended))[1].outcome == "completed"

    def test_an_unknown_status_is_not_taken_for_an_end(self) -> None:
        """Vendors add states; a new one is running and marked unknown."""
        batch = drive(self.made.get("b"), self.raw("b", "thinking_it_over"))[1]
        assert (batch.outcome, batch.known, batch.status) == (None, False, "thinking_it_over")

    def test_listings_are_paged(self) -> None:
        """list() returns the mark of the next page until there is none."""
        first = self.page([self.raw("b1", self.running), self.raw("b2", self.ended)], more=self.paged)
        requests, page = drive(self.made.list(), first)
        assert ([b.id for b in page.items], page.after) == (["b1", "b2"], "b2" if self.paged else None)
        if not self.paged:
            return
        requests, page = drive(self.made.list("b2"), self.page([], more=False))
        assert "b2" in str(requests[0].url)
        assert (list(page.items), page.after) == ([], None)

    def test_a_listing_in_circles_proves_nothing(self) -> None:
        """One page again and again, as gateways answer that do not hand on where it goes on: the search for a lost
        create is given up in doubt, and not after hundreds of requests."""
        if not self.paged:
            return
        page = self.page([self.raw("theirs", self.running, rows=7)], more=True)
        with pytest.raises(VendorUnavailable):
            drive(self.made.find(Shard(endpoint="", key="nobodys-0", rows=2), NOW), page, page)

    def test_cancelling_what_has_ended_returns_it_as_it_is(self) -> None:
        """A refusal to cancel is answered by a look at the batch."""
        requests, batch = drive(self.made.cancel("b"), httpx.Response(409, json={}), self.raw("b", self.ended))
        assert [r.method for r in requests] == ["POST", "GET"]
        assert batch.outcome == "completed"

    def test_an_unbatchable_endpoint_is_refused_by_name(self) -> None:
        """encode() names the endpoint and those that work."""
        with pytest.raises(InputError, match=r"/v1/audio/speech.*/v1/chat/completions"):
            self.made.encode(Request("/v1/audio/speech", {}), "x-1")

    def test_odd_limits_are_refused(self) -> None:
        """A limits entry that does not exist or is no number."""
        for limits in ({"rows": 5}, {"requests": "many"}):
            with pytest.raises(ConfigurationError, match="limits"):
                type(self.made)(self.made.base_url, {"limits": limits})
        assert type(self.made)(self.made.base_url, {"limits": {"requests": 7}}).limits.requests == 7
