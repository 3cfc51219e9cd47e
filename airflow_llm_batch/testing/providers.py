"""What holds for every provider, with no network: flows are driven over canned answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
import pytest

from airflow_llm_batch.exceptions import ConfigurationError, InputError
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
    """

    made: Provider
    running: str
    ended: str

    def raw(self, batch_id: str, status: str, at: datetime = NOW, rows: int = 2, **more: Any) -> dict[str, Any]:
        """A batch as the vendor tells of it."""
        raise NotImplementedError

    def page(self, items: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
        """A page of the vendor's listing."""
        return {"data": items, "has_more": more}

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
        first = self.page([self.raw("b1", self.running), self.raw("b2", self.ended)], more=True)
        requests, page = drive(self.made.list(), first)
        assert ([b.id for b in page.items], page.after) == (["b1", "b2"], "b2")
        requests, page = drive(self.made.list("b2"), self.page([], more=False))
        assert "b2" in str(requests[0].url)
        assert (list(page.items), page.after) == ([], None)

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
