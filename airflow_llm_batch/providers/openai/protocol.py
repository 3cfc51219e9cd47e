"""OpenAI's Files and Batches API, and any server that speaks it.

Source: wire facts of OpenAI's OpenAPI document and SDK (files, batches); limits of its batch guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar

import httpx
import msgspec
from pydantic import Field

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.models import Batch, Limits, Outcome, Page, Shard
from airflow_llm_batch.providers.auth import Credentials, Login, Static
from airflow_llm_batch.providers.base import Batches, Facts, Flow, Provider
from airflow_llm_batch.providers.batches import batch_id, errors_of, identifier, moment, next_page, readable
from airflow_llm_batch.providers.bodies import (
    Call,
    Payload,
    Source,
    encode_multipart,
    repeatable,
    streamed,
    with_members,
)
from airflow_llm_batch.providers.caching import OPENAI as LEAST_CACHED
from airflow_llm_batch.providers.caching import OPENAIS, for_openai
from airflow_llm_batch.providers.coerce import members, text_of, whole, word
from airflow_llm_batch.providers.images import openai_tokens
from airflow_llm_batch.providers.openai.chat import CAP, OLD_CAP, chat_body
from airflow_llm_batch.providers.openai.models import (
    REASONING,
    check_api,
    needs_responses,
    plain_name,
    refuse,
    takes_flex,
    traits,
)
from airflow_llm_batch.providers.openai.responses import checked_response, responses_body
from airflow_llm_batch.providers.openai.results import read_frequent, read_line
from airflow_llm_batch.providers.options import FORM, Options, Text
from airflow_llm_batch.providers.searching import older, search
from airflow_llm_batch.providers.troubles import NO_ROOM, is_full
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

OUTCOMES: dict[str, Outcome] = {
    "completed": "completed",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
    # As servers beside OpenAI spell it.
    "canceled": "cancelled",
}
RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"
#: the metadata entry that says whose batch this is
KEY = "airflow_llm_batch"
#: seconds after which an input file is deleted by the vendor: long enough for a shard that waits for room
INPUTS_EXPIRE = 14 * 86400


#: OpenAI's hosts in its regions, and the first version of GPT that costs more there
REGIONS, DEARER = re.compile(r"[a-z]{2}\.api\.openai\.com"), (5, 4)


class Sent(msgspec.Struct):
    """A batch line."""

    custom_id: str
    body: msgspec.Raw
    url: str = ""


decode_sent = msgspec.json.Decoder(Sent).decode


class FileOptions(Options):
    """Of every API that is OpenAI's."""

    completion_window: Text = Field(None, description='How long a batch may take ("24h"); see Vendors.')
    token_cap: Text = Field(
        None,
        description="What the server calls the cap of an answer, max_tokens or max_completion_tokens; by default the "
        "name that OpenAI's models want, and max_tokens for other models of other servers.",
    )


class OpenAIOptions(FileOptions):
    organization: Text = Field(None, description="Organization id, where the key has several.", json_schema_extra=FORM)
    project: Text = Field(None, description="Project id, where the key has several.", json_schema_extra=FORM)


class OpenAI(Provider):
    name = price_id = "openai"
    title = "OpenAI"
    Options: ClassVar[type[FileOptions]] = OpenAIOptions
    options: OpenAIOptions
    default_base_url = "https://api.openai.com/v1"
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=200_000_000, embedding_inputs=50_000)
    endpoints = frozenset(
        {"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions", "/v1/moderations"}
    )
    deletes = "inputs"
    console_url = "https://platform.openai.com/batches/{id}"
    batch_price_factor: ClassVar[str | None] = "0.5"
    flex_price_factor: ClassVar[str | None] = "0.5"
    caches_by_itself = True
    facts = Facts("key", "strict, fitted", "yes", "yes", "30 days")
    page_size = 100
    #: where batches are, below the base URL
    jobs: ClassVar[tuple[str, ...]] = ("batches",)
    #: metadata that a batch keeps: entries, characters of a name, characters of a value
    keeps: ClassVar[tuple[int, int, int]] = (16, 64, 512)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Whoever speaks OpenAI's protocol may know the tier's name, and bill it as it likes: flex has to be named.
        cls.flex_price_factor = cls.__dict__.get("flex_price_factor")

    @property
    def is_own(self) -> bool:
        return super().is_own or self.is_regional

    @cached_property
    def is_regional(self) -> bool:
        """Whether OpenAI is asked in a region."""
        return REGIONS.fullmatch(httpx.URL(self.base_url).host) is not None

    def price_share(self, model: str) -> str:
        # OpenAI's price list, regional processing: of the models since GPT-5.4.
        return "1.1" if self.is_regional and traits(model).version >= DEARER else "1"

    def normalize(self, base_url: str) -> str:
        return base_url if httpx.URL(base_url).path.strip("/") else f"{base_url}/v1"

    def auth(self, login: Login) -> Credentials:
        key = self.key_of(login)
        named = {"openai-organization": self.options.organization, "openai-project": self.options.project}
        headers = {"authorization": f"Bearer {key}", **{name: text for name, text in named.items() if text}}
        return Static([self.base_url], headers, [key])

    def translate(self, request: Request) -> Request:
        self.check_endpoint(request.endpoint)
        if request.body.get("stream") is True:
            refuse("stream is asked for, and a batch has no stream", "remove it")
        direct = self.has_openai_rules
        if request.endpoint == CHAT:
            body = chat_body(request.body, self.cap_name, direct)
            if request.api == "responses" or (request.api is None and needs_responses(body, direct)):
                return Request(RESPONSES, checked_response(responses_body(body), direct))
            if direct:
                check_api(request.model)
            return request if body is request.body else request._replace(body=body)
        if request.endpoint == RESPONSES:
            return request._replace(body=checked_response(request.body, direct))
        if request.endpoint == EMBEDDINGS:
            check_packing(request.body)
        return request

    @property
    def has_openai_rules(self) -> bool:
        """Whether what OpenAI's models and API refuse is refused here too."""
        return self.is_direct

    def cap_name(self, model: str) -> str:
        """What the server calls the token cap: servers beside OpenAI know the old name, OpenAI's newer models refuse
        it. The connection's ``token_cap`` says otherwise."""
        if self.options.token_cap:
            return self.options.token_cap
        return CAP if self.is_own or REASONING.search(model) else OLD_CAP

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        return openai_tokens(model, size, detail)

    def cached(self, request: Request) -> Request:
        # Other servers cache by themselves, and may refuse what they do not know.
        if request.cache is None or not self.is_direct:
            return request
        return for_openai(request, request.cache, plain_name(self.model_behind(request.model)))

    def least_cached(self, model: str, called: bool) -> int | None:
        return LEAST_CACHED if OPENAIS.match(plain_name(self.model_of(model))) else None

    def model_behind(self, name: str) -> str:
        """The model of a name, "" where that is not known."""
        return name

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        return {"custom_id": custom_id, "method": "POST", "url": request.endpoint, "body": request.body}

    def request_of(self, line: Mapping[str, Any], shard: Shard) -> Request:
        url = line.get("url") or shard.endpoint
        return Request("/v1/" + str(url).removeprefix("/v1").lstrip("/"), dict(line["body"]))

    def check_metadata(self, metadata: Mapping[str, str]) -> None:
        most, name_length, value_length = self.keeps
        if len(metadata) > most - 1:
            theirs = sum(not name.startswith("airflow_") for name in metadata)
            ours = len(metadata) - theirs + 1
            raise InputError(
                f"metadata has {theirs} entries; {self.name} keeps {most} of a batch, and {ours} are ours "
                f"(whose it is, DAG, run and task). Give at most {most - ours}. Nothing was sent."
            )
        for name, value in metadata.items():
            if len(name) > name_length or len(value) > value_length:
                raise InputError(
                    f"metadata {name[:80]!r} has {len(name)} characters and its value {len(value)}; {self.name} keeps "
                    f"{name_length} and {value_length}. Shorten it. Nothing was sent."
                )

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        fields = {"purpose": "batch", **self.input_expiry(), **self.options.form}
        headers, body = encode_multipart(fields, filename, content)
        response = yield repeatable(streamed("POST", self.url("files"), headers, body))
        return str(self.expect(response, "the upload of an input file")["id"])

    def input_expiry(self) -> dict[str, str]:
        """The fields of an upload that say when the file expires."""
        return {f"expires_after[{name}]": str(value) for name, value in self.expiry("input").items()}

    @property
    def window(self) -> str:
        """How long a batch may take."""
        return self.options.completion_window or "24h"

    def marks(self, shard: Shard) -> dict[str, Any]:
        """The members of a create that a batch keeps: whose it is, and what the user wants to see with it."""
        return {"metadata": {**shard.metadata, **({KEY: shard.key} if shard.key else {})}}

    def create_headers(self, shard: Shard) -> dict[str, str]:
        """Further headers of a create."""
        return {}

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        window = {"completion_window": self.window}
        body = {"input_file_id": ref, "endpoint": shard.endpoint, **window, **self.marks(shard)}
        if expiry := self.expiry("output"):
            body["output_expires_after"] = expiry
        body |= self.options.create
        headers = self.create_headers(shard)
        response = yield httpx.Request("POST", self.url(*self.jobs), json=body, headers=headers)
        return self.parse(self.expect(response, "the creation of a batch"))

    def expiry(self, what: str) -> dict[str, Any]:
        """When the vendor deletes a file by itself, as it spells that; empty to leave it to the vendor.

        :param what: ``input`` or ``output``; inputs at the vendor's own address expire after two weeks by default.
        """
        seconds = self.options.expire_seconds or (INPUTS_EXPIRE if self.is_own and what == "input" else None)
        return {"anchor": "created_at", "seconds": int(seconds)} if seconds else {}

    def call(self, line: bytes, shard: Shard) -> Call:
        sent = decode_sent(line)
        path = self.url(*self.called_at(sent, shard)).raw_path
        # Asked twice with the same key, a vendor that knows it answers once.
        headers = {"content-type": "application/json", "idempotency-key": sent.custom_id}
        return Call(sent.custom_id, path, bytes(sent.body), headers)

    def called_at(self, sent: Sent, shard: Shard) -> list[str]:
        """The parts of a synchronous endpoint's path, below the base URL."""
        return (sent.url or shard.endpoint).removeprefix("/v1/").split("/")

    def takes_flex(self, endpoint: str, model: str) -> bool | None:
        if self.flex_price_factor is None or endpoint not in (CHAT, RESPONSES):
            return False
        return takes_flex(model) if self.is_direct else None

    def flex_call(self, call: Call) -> Call:
        if self.flex_price_factor is None:
            return super().flex_call(call)
        # Another body wants another key: the row may be called at the full price after all.
        headers = {**call.headers, "idempotency-key": f"{call.custom_id}-flex"}
        return call._replace(body=with_members(call.body, {"service_tier": "flex"}), headers=headers)

    def has_no_room(self, response: httpx.Response) -> bool:
        # The guide to flex processing: "a 429 Resource Unavailable error code. You will not be charged".
        limited = response.status_code == httpx.codes.TOO_MANY_REQUESTS
        return limited and any(map(NO_ROOM.search, self.error_of(response)))

    def answered(self, custom_id: str, status: int, body: bytes) -> bytes:
        response = b'{"custom_id":"%b","response":{"status_code":%d,"body":%b},"error":null}'
        return response % (custom_id.encode(), status, body)

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        files = [batch.input_ref, *(batch.files if scope == "all" else ())]
        deleted = 0
        for file_id in filter(None, files):
            response = yield httpx.Request("DELETE", self.url("files", file_id))
            if response.status_code != httpx.codes.NOT_FOUND:
                self.expect(response, f"the deletion of file {file_id}")
                deleted += 1
        return deleted

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        # Our own key, or file, proves a batch to be ours whatever its time says: the time ends the search alone. It has
        # whole seconds, and the vendor's clock is not ours.
        def is_ours(batch: Batch) -> bool:
            return batch.metadata.get(KEY) == shard.key or bool(ref and batch.input_ref == ref)

        return (yield from search(self, self.list, is_ours, older(since - timedelta(minutes=10), ordered=True)))

    def get(self, batch_id: str) -> Flow[Batch]:
        response = yield httpx.Request("GET", self.url(*self.jobs, batch_id))
        return self.parse(self.expect(response, f"a look at batch {batch_id}"))

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        response = yield httpx.Request(
            "GET", self.url(*self.jobs, query={"after": after, "limit": limit or self.page_size})
        )
        body = self.expect(response, "a listing of batches")
        # Azure's documentation shows a listing as "value" as well.
        items = readable(body.get("data", body.get("value")), self.parse)
        return Page(items, next_page(body, items))

    def parse(self, raw: dict[str, Any]) -> Batch:
        batch = parse_batch(raw)
        if batch.outcome == "failed" and not batch.files and any(is_full(*error) for error in batch.errors):
            return batch.model_copy(update={"full": True})
        return batch

    def cancel(self, batch_id: str) -> Flow[Batch]:
        response = yield repeatable(httpx.Request("POST", self.url(*self.jobs, batch_id, "cancel")))
        if response.status_code in (400, 409):
            # It ended first; what it ended as is what the caller wants to know.
            return (yield from self.get(batch_id))
        return self.parse(self.expect(response, f"the cancellation of batch {batch_id}"))

    def results(self, batch: Batch) -> Sequence[Source]:
        return [self.download(file_id) for file_id in batch.files]

    def inputs(self, batch: Batch) -> Sequence[Source]:
        return [self.download(batch.input_ref)] if batch.input_ref else []

    def download(self, file_id: str) -> httpx.Request:
        """The request for one stored file's content."""
        return httpx.Request("GET", self.url("files", file_id, "content"))

    def read(self, line: bytes) -> Result:
        return read_frequent(line) or super().read(line)

    def decode(self, line: dict[str, Any]) -> Result:
        return read_line(line)


def check_packing(body: Mapping[str, Any]) -> None:
    """:raises InputError: for vectors of small numbers in base64, which does not say what its bytes are."""
    kind = body.get("output_dtype")
    if body.get("encoding_format") == "base64" and kind not in (None, "float"):
        refuse(f"encoding_format base64 with output_dtype {kind!r} cannot be read back", "leave encoding_format out")


def parse_batch(raw: dict[str, Any]) -> Batch:
    """A batch object as OpenAI and its kin spell it: capitals, nulls and missing fields are all met in the wild."""
    status = (word(raw.get("status")) or "").lower()
    counts = members(raw.get("request_counts"))
    outcome = OUTCOMES.get(status)
    if outcome == "completed" and whole(counts.get("failed")):
        outcome = "partial"
    files = (identifier(raw.get(name)) for name in ("output_file_id", "error_file_id"))
    return Batch(
        id=batch_id(raw),
        status=status,
        outcome=outcome,
        total=whole(counts.get("total")),
        succeeded=whole(counts.get("completed")),
        failed=whole(counts.get("failed")),
        created_at=moment(raw.get("created_at")),
        input_ref=identifier(raw.get("input_file_id")),
        files=tuple(file for file in files if file),
        errors=errors_of(raw.get("errors")),
        metadata={str(k): text_of(v) or "" for k, v in members(raw.get("metadata")).items()},
        known=status in OUTCOMES or status in RUNNING,
    )
