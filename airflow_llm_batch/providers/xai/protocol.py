"""xAI's batches: files of OpenAI's lines, counters instead of a status, and results in pages.

Source: docs.x.ai (guide and REST reference of batches, files, pricing), the messages of ``xai-sdk`` 1.21, and what
OpenRouter has seen of it (github.com/OpenRouterTeam/docs, batch research): dates without a time, answers as chat
completions whatever was asked, and counters of a cancelled batch that go back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

import httpx
import msgspec

from airflow_llm_batch.models import Batch, Limits, Outcome, Page, Shard
from airflow_llm_batch.providers.base import Batches, Facts, Flow, address
from airflow_llm_batch.providers.batches import batch_id, identifier, moment, readable
from airflow_llm_batch.providers.bodies import Paged, Payload, Source, after, repeatable
from airflow_llm_batch.providers.coerce import amount, id_of, members, objects, text_of, whole, word
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.providers.openai.chat import CAP
from airflow_llm_batch.providers.openai.protocol import CHAT, RESPONSES
from airflow_llm_batch.providers.presets.charging import Charging
from airflow_llm_batch.providers.searching import older, search
from airflow_llm_batch.results import Result

#: batches on a page of a listing, and results on a page
PAGE, RESULTS_PAGE = 100, 1000
#: seconds that a cancelled batch's counters have to stand still: they were seen to go back within 20
STILL = 30.0
#: seconds after which an input file is deleted by the vendor, which bills its storage; as long as a batch is kept
INPUTS_EXPIRE = 30 * 86400
CANCELLED = "batch cancelled"
#: of a dollar
TICKS = 10**10
#: what a cancellation is refused with where there is nothing left to cancel; a look tells
ENDED = (400, 409, 412)


class XAI(Charging):
    name = "xai"
    price_id = "x-ai"
    title = "xAI"
    documented = "https://docs.x.ai/docs/guides/batch-api"
    default_base_url = "https://api.x.ai/v1"
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=200_000_000)
    endpoints = frozenset({CHAT, RESPONSES})
    found_by = "name"
    # In a listing a cancelled batch is seen once, and not whether its counters stand still.
    page_size = 0
    # Of the models that take batches, cached tokens too; no other has a discount.
    batch_price_factor = "0.8"
    cap = CAP
    expires = frozenset({"input"})
    facts = Facts("key", "strict, fitted", "yes", "yes", "30 days")

    def discounts_stack(self, model: str) -> bool:
        return True

    def input_expiry(self) -> dict[str, str]:
        seconds = self.options.expire_seconds or (INPUTS_EXPIRE if self.is_own else None)
        return {"expires_after": str(int(seconds))} if seconds else {}

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        body = {"name": shard.key or "airflow_llm_batch", "input_file_id": ref, **self.options.create}
        response = yield httpx.Request("POST", self.url(*self.jobs), json=body)
        return self.parse(self.expect(response, "the creation of a batch"))

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        # Dates have no time, and may be those of another zone.
        past = older(since - timedelta(days=2))
        return (yield from search(self, self.list, lambda batch: is_of(batch, shard, ref), past))

    def get(self, batch_id: str) -> Flow[Batch]:
        batch, counted = yield from self.look(batch_id)
        if batch.status != "cancelling":
            return batch
        # What was on its way may have landed after all, and be billed: its rows outrank the cancellation.
        again, after_a_while = yield from self.look(batch_id, self.options.settle_seconds or STILL)
        return again.model_copy(update=settled(after_a_while)) if counted == after_a_while else again

    def look(self, batch_id: str, pause: float = 0.0) -> Flow[tuple[Batch, Mapping[str, Any]]]:
        """A batch, and its counters."""
        request = httpx.Request("GET", self.url(*self.jobs, batch_id))
        response = yield after(pause, request) if pause else request
        raw = self.expect(response, f"a look at batch {batch_id}")
        return self.parse(raw), {"cancel_time": raw.get("cancel_time"), **members(raw.get("state"))}

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        query = {"limit": limit or PAGE, "pagination_token": after}
        response = yield httpx.Request("GET", self.url(*self.jobs, query=query))
        body = self.expect(response, "a listing of batches")
        return Page(readable(body.get("batches"), self.parse), identifier(body.get("pagination_token")))

    def cancel(self, batch_id: str) -> Flow[Batch]:
        url = address(f"{self.url(*self.jobs, batch_id).copy_with(query=None)}:cancel")
        response = yield repeatable(httpx.Request("POST", url.copy_merge_params(self.options.query)))
        if response.status_code not in ENDED:
            self.expect(response, f"the cancellation of batch {batch_id}")
        return (yield from self.get(batch_id))

    def parse(self, raw: dict[str, Any]) -> Batch:
        """A batch as its counters tell: what they do not tell for certain is still running."""
        state = members(raw.get("state"))
        names = ("num_requests", "num_pending", "num_success", "num_error", "num_cancelled")
        total, pending, succeeded, failed, cancelled = (whole(state.get(name)) for name in names)
        why = text_of(raw.get("cancel_by_xai_message"))
        status, outcome = "in_progress", None
        if why:
            status, outcome = "cancelled by xAI", "failed"
        elif not total:
            # Nothing can move any more where nothing was taken in.
            status, outcome = ("cancelled", "cancelled") if raw.get("cancel_time") else ("validating", None)
        elif pending == 0:
            status, outcome = ("cancelling", None) if cancelled else ("completed", "partial" if failed else "completed")
        read_outcome: Outcome | None = outcome  # type: ignore[assignment]  # one of its words
        return Batch(
            id=batch_id({"id": raw.get("batch_id")}),
            status=status,
            outcome=read_outcome,
            total=total,
            succeeded=succeeded,
            failed=failed,
            created_at=moment(raw.get("create_time")),
            input_ref=identifier(raw.get("input_file_id")),
            files=("results",) if total and outcome else (),
            errors=(("", why),) if why else (),
            metadata={"name": word(raw.get("name")) or ""},
            known=bool(state) or why is not None,
        )

    def results(self, batch: Batch) -> Sequence[Source]:
        if not batch.files:
            return ()

        def page(token: str | None) -> httpx.Request:
            query = {"limit": RESULTS_PAGE, "pagination_token": token}
            return httpx.Request("GET", self.url(*self.jobs, batch.id, "results", query=query))

        def read(response: httpx.Response) -> tuple[list[bytes], httpx.Request | None]:
            body = parse_line(response.content)
            token = identifier(body.get("pagination_token"))
            lines = [msgspec.json.encode(one) for one in objects(body.get("results"))]
            return lines, page(token) if token and lines else None

        return [Paged(page(None), read)]

    def charged(self, usage: Mapping[str, Any]) -> float | None:
        # "The actual amount billed", after all discounts and with all tools (docs.x.ai, cost tracking).
        ticks = amount(usage.get("cost_in_usd_ticks"))
        return ticks and ticks / TICKS

    def id_of(self, line: Mapping[str, Any]) -> str:
        return id_of({"custom_id": line["batch_request_id"]} if "batch_request_id" in line else line)

    def decode(self, line: dict[str, Any]) -> Result:
        if "batch_request_id" not in line:
            return super().decode(line)
        outcome = members(line.get("batch_result"))
        error = outcome.get("error") or line.get("error_message")
        answered = members(outcome.get("response"))
        # Named after the endpoint, of which there is one.
        body: Any = next(iter(answered.values()), None)
        response = {"status_code": 200, "body": final_turn(body)} if answered else None
        result = super().decode({"custom_id": self.id_of(line), "response": response, "error": error})
        result.cost_usd = self.charged(members(members(body).get("usage")))
        if isinstance(error, str) and error.strip().lower() == CANCELLED:
            result.status, result.error_code = "cancelled", "batch_cancelled"
        return result


def final_turn(body: Any) -> Any:
    """An answer without the turns before it, in which the vendor's own tools were called: they stand as choices too."""
    choices = objects(members(body).get("choices"))
    if any(members(choice.get("message")).get("role") == "tool" for choice in choices):
        return {**body, "choices": choices[-1:]}
    return body


def settled(state: Mapping[str, Any]) -> dict[str, Any]:
    """How a batch has ended that has cancelled rows, whose counters stand still."""
    # Nobody has asked for it: its time was up.
    outcome = "cancelled" if state.get("cancel_time") else "expired"
    return {"status": outcome, "outcome": outcome, "files": ("results",)}


def is_of(batch: Batch, shard: Shard, ref: str | None) -> bool:
    """Whether a batch is the shard's: by the name that we gave it, or by the file that it was made of."""
    return bool(shard.key and batch.metadata.get("name") == shard.key) or bool(ref and batch.input_ref == ref)
