"""Anthropic's Message Batches API.

Source: wire facts of Anthropic's SDK and platform documentation; the whole batch travels inside the create call.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar

import httpx
import msgspec
from pydantic import BeforeValidator, Field

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.models import Batch, Limits, Outcome, Page, Shard
from airflow_llm_batch.providers.anthropic.chat import fitted_params, message_params
from airflow_llm_batch.providers.anthropic.models import check_params
from airflow_llm_batch.providers.anthropic.results import read_frequent, read_line
from airflow_llm_batch.providers.auth import Credentials, Login, Static, same_origin
from airflow_llm_batch.providers.base import Batches, Facts, Flow, Provider, Requests
from airflow_llm_batch.providers.batches import batch_id, identifier, moment, next_page, readable
from airflow_llm_batch.providers.bodies import Call, Payload, as_array, repeatable, streamed
from airflow_llm_batch.providers.caching import CLAUDE, claudes_mark, least, marked
from airflow_llm_batch.providers.coerce import members, whole, word
from airflow_llm_batch.providers.images import anthropic_tokens
from airflow_llm_batch.providers.options import FORM, Options, Text
from airflow_llm_batch.providers.searching import by_time_and_size
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

HEAD, TAIL = b'{"requests":[', b"]}"


class Sent(msgspec.Struct):
    """A batch line."""

    custom_id: str
    params: msgspec.Raw


decode_sent = msgspec.json.Decoder(Sent).decode


def betas(value: Any) -> Any:
    """A list of beta features, as the header spells it."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


class AnthropicOptions(Options):
    anthropic_version: Text = Field(
        None,
        description="API version date, 2023-06-01 if empty: temperature is legal there.",
        json_schema_extra=FORM,
    )
    anthropic_beta: Annotated[Text, BeforeValidator(betas)] = Field(None, description="Beta features, one or a list.")


class Anthropic(Provider):
    name = price_id = "anthropic"
    title = "Anthropic"
    Options: ClassVar[type[AnthropicOptions]] = AnthropicOptions
    options: AnthropicOptions
    default_base_url = "https://api.anthropic.com"
    default_limits: ClassVar[Limits] = Limits(requests=100_000, bytes=256_000_000 - len(HEAD + TAIL))
    endpoints = frozenset({"/v1/chat/completions", "/v1/messages"})
    one_model_per_batch = False
    found_by = "time"
    takes_empty_text = False
    console_url = "https://platform.claude.com/workspaces/default/batches"
    batch_price_factor = "0.5"
    facts = Facts("key", "strict, fitted", "yes", "yes", "29 days")
    page_size = 1000
    find_pages = 100

    def normalize(self, base_url: str) -> str:
        return base_url.removesuffix("/v1")

    def auth(self, login: Login) -> Credentials:
        key = self.key_of(login)
        return Static([self.base_url], {"x-api-key": key, **self.headers}, [key])

    @property
    def headers(self) -> dict[str, str]:
        """Of every call, beside the key."""
        beta = {"anthropic-beta": self.options.anthropic_beta} if self.options.anthropic_beta else {}
        return {"anthropic-version": self.version, **beta}

    def translate(self, request: Request) -> Request:
        self.check_endpoint(request.endpoint)
        params = message_params(request.body) if request.endpoint == "/v1/chat/completions" else request.body
        cap = params.get("max_tokens")
        if not cap or (isinstance(cap, int) and cap < 0):
            given = "this one has none" if cap is None else f"this one has {cap!r}"
            raise InputError(
                f"Anthropic requires max_tokens of 1 or more with every request and {given}; set max_tokens. "
                "Nothing was sent."
            )
        if params.get("stream"):
            raise InputError("Anthropic cannot stream inside a batch; remove stream. Nothing was sent.")
        check_params(params, self.version, self.is_direct)
        return Request("/v1/messages", fitted_params(params))

    def cached(self, request: Request) -> Request:
        if request.cache is None:
            return request
        mark = claudes_mark(request.cache)
        return request._replace(body=marked(request.body, request.cache, "cache_control", mark))

    def least_cached(self, model: str, called: bool) -> int | None:
        return least(model, CLAUDE)

    @property
    def version(self) -> str:
        """Of the API. 2023-06-01 keeps temperature and its kin legal in batches; newer ones refuse them row by row."""
        return self.options.anthropic_version or "2023-06-01"

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        return anthropic_tokens(model, size)

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        return {"custom_id": custom_id, "params": request.body}

    def request_of(self, line: Mapping[str, Any], shard: Shard) -> Request:
        return Request("/v1/messages", dict(line["params"]))

    def group(self, request: Request) -> tuple[str, str]:
        return "/v1/messages", ""

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        return None
        yield

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        body = as_array(content, HEAD, TAIL)
        url = self.url("v1", "messages", "batches")
        response = yield streamed("POST", url, {"content-type": "application/json"}, body)
        return parse_batch(self.expect(response, "the creation of a batch"))

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        return (yield from by_time_and_size(self, shard, since))

    def get(self, batch_id: str) -> Flow[Batch]:
        response = yield httpx.Request("GET", self.url("v1", "messages", "batches", batch_id))
        return parse_batch(self.expect(response, f"a look at batch {batch_id}"))

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        query = {"after_id": after, "limit": limit or self.page_size}
        response = yield httpx.Request("GET", self.url("v1", "messages", "batches", query=query))
        body = self.expect(response, "a listing of batches")
        items = readable(body.get("data"), parse_batch)
        return Page(items, next_page(body, items))

    def cancel(self, batch_id: str) -> Flow[Batch]:
        response = yield repeatable(httpx.Request("POST", self.url("v1", "messages", "batches", batch_id, "cancel")))
        if response.status_code in (400, 409):
            return (yield from self.get(batch_id))
        return parse_batch(self.expect(response, f"the cancellation of batch {batch_id}"))

    def call(self, line: bytes, shard: Shard) -> Call:
        sent = decode_sent(line)
        headers = {"content-type": "application/json"}
        return Call(sent.custom_id, self.url("v1", "messages").raw_path, bytes(sent.params), headers)

    def answered(self, custom_id: str, status: int, body: bytes) -> bytes:
        # A gateway's page is no message, whatever its status says.
        good = 200 <= status < 300 and b'"type":"message"' in body
        kind = b'"succeeded","message"' if good else b'"errored","error"'
        line = b'{"custom_id":"%b","result":{"status_code":%d,"type":%b:%b}}'
        return line % (custom_id.encode(), status, kind, body)

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        if scope != "all":
            return 0
        response = yield httpx.Request("DELETE", self.url("v1", "messages", "batches", batch.id))
        if response.status_code == httpx.codes.NOT_FOUND:
            return 0
        self.expect(response, f"the deletion of batch {batch.id}")
        return 1

    def results(self, batch: Batch) -> Requests:
        # Behind a gateway results_url names a host that our credentials must not go to; its path is documented.
        ours = httpx.URL(self.base_url)
        own = self.url("v1", "messages", "batches", batch.id, "results")
        return [httpx.Request("GET", url if is_of(url, ours) else own) for url in batch.files]

    def read(self, line: bytes) -> Result:
        return read_frequent(line) or super().read(line)

    def decode(self, line: dict[str, Any]) -> Result:
        return read_line(line)


def is_of(address: str, origin: httpx.URL) -> bool:
    """Whether an address can be read, and is below an origin."""
    try:
        return same_origin(httpx.URL(address), origin)
    except (httpx.InvalidURL, ValueError, TypeError):
        return False


def parse_batch(raw: dict[str, Any]) -> Batch:
    counts = members(raw.get("request_counts"))
    status = word(raw.get("processing_status")) or ""
    names = ("processing", "succeeded", "errored", "canceled", "expired")
    counted = {name: max(whole(counts.get(name)) or 0, 0) for name in names}
    total = sum(counted.values())
    ended = status == "ended"
    url = identifier(raw.get("results_url"))
    return Batch(
        id=batch_id(raw),
        status=status,
        outcome=outcome_of(counted, total) if ended else None,
        total=total,
        # The counters stay 0 until the whole batch has ended: no progress to tell before.
        succeeded=counted["succeeded"] if ended else None,
        failed=counted["errored"] if ended else None,
        created_at=moment(raw.get("created_at")),
        files=(url,) if url else (),
        known=ended or status in ("in_progress", "canceling"),
    )


def outcome_of(counts: dict[str, int], total: int) -> Outcome:
    """Anthropic only says ``ended``; the counters say how."""
    if counts["canceled"]:
        return "cancelled"
    if counts["expired"]:
        return "expired"
    if counts["errored"]:
        return "failed" if counts["errored"] == total else "partial"
    return "completed"
