"""Gemini's Developer API: batches of requests in an uploaded file.

Source: ai.google.dev (Batch API, Files API, batch mode reference), google-genai's batches and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import httpx
import msgspec
from pydantic import Field

from airflow_llm_batch.exceptions import ConfigurationError, RefusedForGood, VendorUnavailable
from airflow_llm_batch.models import Batch, Limits, Page, Shard
from airflow_llm_batch.providers.auth import Credentials, Login, Static, same_origin
from airflow_llm_batch.providers.base import Batches, Facts, Flow, Provider, address
from airflow_llm_batch.providers.batches import identifier, readable
from airflow_llm_batch.providers.bodies import Call, Paged, Payload, Source, after, repeatable, streamed, with_members
from airflow_llm_batch.providers.caching import GEMINI, least
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.gemini.chat import embed_params, generate_params, model_name
from airflow_llm_batch.providers.gemini.lines import id_of, read_frequent, read_line
from airflow_llm_batch.providers.gemini.models import takes_flex
from airflow_llm_batch.providers.gemini.operations import inline_lines, parse_batch, short
from airflow_llm_batch.providers.gemini.words import check_vertex_words, get
from airflow_llm_batch.providers.images import gemini_tokens
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.providers.options import Options, Text
from airflow_llm_batch.providers.searching import older, search
from airflow_llm_batch.providers.troubles import is_refused_key, words_of
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
GENERATE, EMBED = "generateContent", "embedContent"
BATCH, BATCH_EMBED = "batchGenerateContent", "asyncBatchEmbedContent"
BATCHED = {GENERATE: BATCH, CHAT: BATCH, EMBED: BATCH_EMBED, EMBEDDINGS: BATCH_EMBED}
#: sessions of an upload that are opened at most, and looks at a file that is being processed
MOST_SESSIONS, MOST_LOOKS = 3, 60
#: the file that is not there, or not ours: the vendor does not tell which
GONE = (403, 404)


class GeminiOptions(Options):
    api_version: Text = Field(None, description="Of Gemini's API: v1beta (the documented one, by default) or v1.")
    download: Literal["files", "download"] = Field(
        "files",
        description='Where result files are read: "files" as the SDK does (/v1beta/files/...:download), "download" as '
        "the documentation's curl does (/download/v1beta/files/...).",
    )
    webhook_url: Text = Field(
        None,
        description="Where Gemini tells of each batch's end, signed with Google's own keys: this connection's "
        "/llm-batches/hooks/{connection}, as it is reached from outside. Needs no secret.",
    )

    @property
    def takes_events(self) -> bool:
        return bool(self.webhook_url) or super().takes_events


class Sent(msgspec.Struct):
    """A batch line."""

    key: str
    request: msgspec.Raw


decode_sent = msgspec.json.Decoder(Sent).decode


class Gemini(Provider):
    name = "gemini"
    title = "Gemini Developer API"
    Options = GeminiOptions
    options: GeminiOptions
    price_id = "google"
    default_base_url = "https://generativelanguage.googleapis.com"
    # Bytes as documented; no number of requests is. An expired batch gives back nothing, so batches are kept moderate.
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=2_000_000_000)
    endpoints = frozenset({CHAT, EMBEDDINGS, GENERATE, EMBED})
    found_by = "name"
    caps = (("generationConfig", "maxOutputTokens"), ("generation_config", "max_output_tokens"))
    takes_empty_text = False
    deletes = "inputs"
    batch_price_factor = flex_price_factor = "0.5"
    # Files are kept for two days, those of results too.
    facts = Facts("key", "JSON schema, fitted", "yes", "yes", "2 days")
    page_size = 100

    def normalize(self, base_url: str) -> str:
        return base_url.removesuffix("/v1beta").removesuffix("/v1")

    def auth(self, login: Login) -> Credentials:
        key = self.key_of(login)
        return Static([self.base_url], {"x-goog-api-key": key}, [key])

    @property
    def version(self) -> str:
        return self.options.api_version or "v1beta"

    def address_of(self, *parts: str, verb: str = "", query: Mapping[str, Any] | None = None) -> httpx.URL:
        """An address below the version; ``verb`` is what follows a colon, which must not be encoded."""
        url = address(f"{self.url(self.version, *parts).copy_with(query=None)}{verb}")
        asked = {**self.options.query, **(query or {})}
        return url.copy_merge_params(asked) if asked else url

    def discounts_stack(self, model: str) -> bool:
        # The batch guide: cached tokens "are priced the same as for non-batch API traffic".
        return False

    def model_parts(self, model: str) -> list[str]:
        """A model's name in an address: ``models/gemini-x``, ``tunedModels/x``."""
        return model.split("/") if "/" in model_name(model) else ["models", model_name(model)]

    def translate(self, request: Request) -> Request:
        self.check_endpoint(request.endpoint)
        if request.endpoint == CHAT:
            request = Request(GENERATE, generate_params(request.body))
        if request.endpoint == EMBEDDINGS:
            return Request(EMBED, embed_params(request.body))
        check_vertex_words(request.body)
        return request

    def embeds(self, request: Request) -> bool:
        return request.endpoint in (EMBED, EMBEDDINGS)

    def least_cached(self, model: str, called: bool) -> int | None:
        return least(model_name(model), GEMINI)

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        return gemini_tokens(model, size, detail)

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        # The model is in the address of the create.
        return {"key": custom_id, "request": {name: value for name, value in request.body.items() if name != "model"}}

    def request_of(self, line: Mapping[str, Any], shard: Shard) -> Request:
        return Request(shard.endpoint, {"model": shard.model, **line["request"]})

    def id_of(self, line: Mapping[str, Any]) -> str:
        return id_of(line)

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        for _ in range(MOST_SESSIONS):
            session = yield from self.session(filename, content.size)
            headers = {"x-goog-upload-offset": "0", "x-goog-upload-command": "upload, finalize"}
            response = yield repeatable(streamed("POST", session, headers, content))
            # A session that was cut takes nothing from the beginning again: another one does.
            if not response.is_client_error or response.status_code in (401, 403, 429):
                break
        file = self.expect(response, "the upload of an input file")
        return (yield from self.activated(members(file.get("file")) or file))

    def session(self, filename: str, size: int) -> Flow[httpx.URL]:
        """Open an upload; where its content goes."""
        headers = {
            "x-goog-upload-protocol": "resumable",
            "x-goog-upload-command": "start",
            "x-goog-upload-header-content-length": str(size),
            "x-goog-upload-header-content-type": "application/jsonl",
        }
        body = {"file": {"displayName": filename, "mimeType": "application/jsonl"}}
        request = httpx.Request("POST", self.url("upload", self.version, "files"), headers=headers, json=body)
        response = yield repeatable(request)
        if not response.is_success:
            self.expect(response, "the start of an upload")
        given = response.headers.get("x-goog-upload-url") or ""
        try:
            return self.ours(httpx.URL(given))
        except (httpx.InvalidURL, ValueError, TypeError):
            raise VendorUnavailable(
                f"{self.name} began an upload and named no place for it ({given[:80]!r})."
            ) from None

    def ours(self, session: httpx.URL) -> httpx.URL:
        """A session's address at our own server, whose credentials go nowhere else: behind a gateway the vendor names
        its own host, and the gateway's path has to lead there."""
        base = httpx.URL(self.base_url)
        if not session.host or session.scheme not in ("http", "https"):
            raise ValueError(session)
        if same_origin(session, base):
            return session
        path = session.raw_path.decode("ascii")
        return httpx.URL(f"{self.base_url}{path}")

    def activated(self, file: Mapping[str, Any]) -> Flow[str]:
        """A file's name, once it may be used."""
        name = identifier(file.get("name"))
        if name is None:
            raise VendorUnavailable(f"{self.name} took an upload and gave it no name.")
        for look in range(MOST_LOOKS):
            if file.get("state") == "FAILED":
                why = members(file.get("error")).get("message") or "no reason told"
                raise RefusedForGood(f"{self.name} could not process the input file {name}: {why}.", status=400)
            if file.get("state") != "PROCESSING":
                return name
            response = yield after(min(0.5 * 2**look, 10.0), httpx.Request("GET", self.address_of(*name.split("/"))))
            file = self.expect(response, f"a look at {name}")
        raise VendorUnavailable(f"{self.name} is still processing the input file {name}.")

    @property
    def signing_keys(self) -> str:
        return f"{self.base_url}/.well-known/jwks.json" if self.options.webhook_url else ""

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        if not shard.model:
            raise ConfigurationError("Gemini makes a batch for one model; name it. Nothing was sent.")
        named = {"displayName": shard.key} if shard.key else {}
        webhook = {"webhookConfig": {"uris": [self.options.webhook_url]}} if self.options.webhook_url else {}
        batch = {**named, "inputConfig": {"fileName": ref}, **webhook, **self.options.create}
        verb = f":{BATCHED[shard.endpoint]}"
        url = self.address_of(*self.model_parts(shard.model), verb=verb)
        response = yield httpx.Request("POST", url, json={"batch": batch})
        return parse_batch(self.expect(response, "the creation of a batch"))

    @staticmethod
    def error_of(response: httpx.Response) -> tuple[str, str]:
        """As everywhere; but a create is refused for want of room in words that elsewhere tell of an empty account."""
        code, message = Provider.error_of(response)
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS and is_create(response) and "limit: 0" not in message:
            return "batch_enqueued_token_limit", message
        if response.status_code == httpx.codes.BAD_REQUEST:
            # A key that is wrong or has expired is told by a reason among the details alone.
            code = next((said for said in codes_of(response) if is_refused_key(None, said)), code)
        return code, message

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        past = older(since - timedelta(minutes=10))
        return (yield from search(self, self.list, lambda batch: is_of(batch, shard, ref), past))

    def get(self, batch_id: str) -> Flow[Batch]:
        response = yield httpx.Request("GET", self.address_of("batches", short(batch_id)))
        return parse_batch(self.expect(response, f"a look at batch {batch_id}"))

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        query = {"pageSize": limit or self.page_size, **({"pageToken": after} if after else {})}
        response = yield httpx.Request("GET", self.address_of("batches", query=query))
        body = self.expect(response, "a listing of batches")
        items = readable(get(body, "operations") or get(body, "batches"), parse_batch)
        return Page(items, identifier(get(body, "nextPageToken")))

    def cancel(self, batch_id: str) -> Flow[Batch]:
        url = self.address_of("batches", short(batch_id), verb=":cancel")
        response = yield repeatable(httpx.Request("POST", url))
        if response.status_code not in (400, 409):
            self.expect(response, f"the cancellation of batch {batch_id}")
        return (yield from self.get(batch_id))

    def call(self, line: bytes, shard: Shard) -> Call:
        sent = decode_sent(line)
        verb = EMBED if shard.endpoint in (EMBED, EMBEDDINGS) else GENERATE
        url = self.address_of(*self.model_parts(shard.model), verb=f":{verb}")
        return Call(sent.key, url.raw_path, bytes(sent.request), {"content-type": "application/json"})

    def takes_flex(self, endpoint: str, model: str) -> bool | None:
        if endpoint in (EMBED, EMBEDDINGS):
            return False
        return takes_flex(model_name(model)) if self.is_direct else None

    def flex_call(self, call: Call) -> Call:
        return call._replace(body=with_members(call.body, {"serviceTier": "flex"}, ["service_tier"]))

    def has_no_room(self, response: httpx.Response) -> bool:
        # The guide's error codes: 503 when flex is at capacity, 429 for rates and exhausted resources.
        return response.status_code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)

    def answered(self, custom_id: str, status: int, body: bytes) -> bytes:
        kind = b"response" if 200 <= status < 300 else b"error"
        return b'{"custom_id":"%b","status_code":%d,"%b":%b}' % (custom_id.encode(), status, kind, body)

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        made = [file for file in batch.files if file.startswith("files/")] if scope == "all" else []
        names = [*([batch.input_ref] if batch.input_ref else []), *made]
        deleted = 0
        for name in [*names, *([f"batches/{batch.id}"] if scope == "all" else [])]:
            response = yield httpx.Request("DELETE", self.address_of(*name.split("/", 1)))
            # Result files may not be ours to delete: they go by themselves, as all files do.
            if response.status_code not in GONE and not (name in made and response.is_client_error):
                self.expect(response, f"the deletion of {name}")
                deleted += 1
        return deleted

    def results(self, batch: Batch) -> Sequence[Source]:
        return [self.source(name, batch) for name in batch.files]

    def source(self, name: str, batch: Batch) -> Source:
        if name.startswith("batches/"):
            request = httpx.Request("GET", self.address_of("batches", batch.id))
            return Paged(request, lambda response: (inline_lines(parse_line(response.content)), None))
        before = f"{self.base_url}/download" if self.options.download == "download" else self.base_url
        path = "/".join(quote(part, safe="") for part in name.split("/", 1))
        url = httpx.URL(f"{before}/{self.version}/{path}:download")
        return httpx.Request("GET", url.copy_merge_params({**self.options.query, "alt": "media"}))

    def read(self, line: bytes) -> Result:
        return read_frequent(line) or super().read(line)

    def decode(self, line: dict[str, Any]) -> Result:
        return read_line(line)


def codes_of(response: httpx.Response) -> Sequence[str]:
    """Every code of an error body."""
    try:
        return words_of(parse_line(response.content.strip().removeprefix(b"[").removesuffix(b"]")))[0]
    except (ValueError, RecursionError):
        return ()


def is_create(response: httpx.Response) -> bool:
    """Whether an answer is to the creation of a batch."""
    try:
        path = response.request.url.path
    except RuntimeError:
        return False
    return path.endswith((f":{BATCH}", f":{BATCH_EMBED}"))


def is_of(batch: Batch, shard: Shard, ref: str | None) -> bool:
    """Whether a batch is the shard's: by the name that we gave it, or by the file that it was made of."""
    named = bool(shard.key) and batch.metadata.get("displayName") == shard.key
    return named or bool(ref and batch.input_ref == ref)
