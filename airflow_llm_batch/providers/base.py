"""What a vendor must be able to say, and nothing of how it is sent.

A flow is a generator: it yields an ``httpx.Request``, is sent the ``httpx.Response`` (already read), and returns a
value. ``LLMBatchHook.run`` and ``.arun`` drive it; a test drives it with canned responses and no network.
"""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from airflow_llm_batch.exceptions import (
    ConfigurationError,
    InputError,
    RefusedForGood,
    RequestRejected,
    VendorUnavailable,
)
from airflow_llm_batch.models import Batch, Limits, Page, Shard
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.providers.troubles import PASSING_STATUS, UNCLEAR, is_empty_account, words_of
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

T = TypeVar("T")
Flow = Generator[httpx.Request, httpx.Response, T]
# Providers have a method called list, which hides the builtin in their annotations.
Batches = list[Batch]
Requests = list[httpx.Request]

#: Request extension: True lets the driver send the request again after any transport failure or 5xx.
REPEATABLE = "llm_batch.repeatable"


LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


class Payload(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request body of known size, read anew each time it is sent, so a retry sends the whole of it.

    :param chunks: opens the content; called once per sending.
    :param size: its length in bytes.
    """

    def __init__(self, chunks: Callable[[], Iterable[bytes]], size: int) -> None:
        self.chunks = chunks
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        iterator = iter(self)
        while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
            yield chunk

    def framed(self, head: bytes, tail: bytes, change: Callable[[bytes], bytes] = lambda b: b) -> Payload:
        """The same content between ``head`` and ``tail``, each chunk passed through a size-keeping ``change``."""

        def chunks() -> Iterator[bytes]:
            yield head
            yield from (change(chunk) for chunk in self)
            yield tail

        return Payload(chunks, len(head) + self.size + len(tail))


class Call(NamedTuple):
    """A synchronous call.

    :param path: below the host, encoded.
    """

    custom_id: str
    path: bytes
    body: bytes
    headers: dict[str, str]


class Provider(ABC):
    """One vendor's batch protocol.

    :param base_url: overrides the vendor's own address.
    :param options: the connection's extra, for what a vendor lets a user choose.
    """

    name: ClassVar[str]
    default_base_url: ClassVar[str]
    default_limits: ClassVar[Limits]
    #: endpoints a request may name; "neutral" ones are translated, the rest is sent as it is
    endpoints: ClassVar[frozenset[str]]
    #: a batch may hold requests for one model only
    one_model_per_batch: ClassVar[bool] = True
    #: whether an empty text is taken in a prompt
    takes_empty_text: ClassVar[bool] = True
    #: the vendor stores metadata with a batch and returns it in listings
    keeps_metadata: ClassVar[bool] = True
    #: pages of a listing that are searched for a lost create at most
    find_pages: ClassVar[int] = 500
    #: batches on one page of a listing, 0 where the vendor has none
    page_size: ClassVar[int] = 0
    #: which files of a landed batch are deleted unless the connection says otherwise: ``none``, ``inputs`` or ``all``
    deletes: ClassVar[str] = "none"
    #: the vendor's page of a batch, ``{id}``
    console_url: ClassVar[str] = ""
    #: what a batch costs relative to synchronous calls, where the price table has no batch price of its own
    batch_price_factor: ClassVar[str | None] = None
    #: whether any prompt may be written to a cache without being asked to
    caches_by_itself: ClassVar[bool] = False

    def __init__(self, base_url: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})
        #: what a gateway wants besides: headers and query of every call, form fields of an upload
        self.extra_headers, self.query, self.form = (words_in(self.options, n) for n in ("headers", "query", "form"))
        #: and members of the body that creates a batch
        self.create_with = members_in(self.options, "create")
        self.base_url = self.normalize((base_url or self.default_base_url).rstrip("/"))
        try:
            self.limits = self.default_limits.model_copy(
                update=Limits.model_validate(
                    {**self.default_limits.model_dump(), **members_in(self.options, "limits")}
                ).model_dump()
            )
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigurationError(
                f"The connection's extra 'limits' is not usable: {wrong}. Give any of requests, bytes, "
                "embedding_inputs as whole numbers. Nothing was sent."
            ) from None

    def normalize(self, base_url: str) -> str:
        """The base URL this protocol's paths hang on, from what people type as one."""
        return base_url

    @property
    def is_own(self) -> bool:
        """Whether the address is the vendor's own."""
        return self.base_url == self.normalize(self.default_base_url)

    @cached_property
    def is_direct(self) -> bool:
        """Whether the vendor itself is asked, or its emulator on this machine: a gateway may have rules of its own."""
        return self.is_own or httpx.URL(self.base_url).host in LOOPBACK

    @property
    def batch_discount(self) -> str | None:
        """``batch_price_factor`` where the vendor itself is asked, or its emulator on this machine; None elsewhere: a
        gateway may hand a discount on or keep it."""
        return self.batch_price_factor if self.is_direct else None

    @abstractmethod
    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        """Prompt tokens of an image, by the vendor's rule.

        :param size: width and height in pixels; None where they are not known: the most that an image may have.
        """

    def console(self, batch_id: str) -> str:
        """The vendor's page of a batch, empty for an address that is not the vendor's own."""
        return self.console_url.format(id=quote(batch_id, safe="")) if self.is_own else ""

    @abstractmethod
    def headers(self, key: str) -> dict[str, str]:
        """Credentials and fixed headers; the hook sends them to the configured host only."""

    @abstractmethod
    def translate(self, request: Request) -> Request:
        """A request in the vendor's own words; one that is so already comes back as it is.

        :raises InputError: names what the vendor cannot express, or would refuse; nothing was sent.
        """

    @abstractmethod
    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        """A translated request as the vendor's batch line."""

    def encode(self, request: Request, custom_id: str) -> dict[str, Any]:
        """One request as the vendor's batch line.

        :raises InputError: as ``translate``.
        """
        return self.line(self.translate(request), custom_id)

    @abstractmethod
    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        """Store an input file at the vendor; returns its reference, None where requests travel inside the create."""

    @abstractmethod
    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        """Create the batch. Never repeated by the driver once it may have arrived."""

    @abstractmethod
    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        """Batches created after ``since`` that may be the shard's, newest first."""

    @abstractmethod
    def get(self, batch_id: str) -> Flow[Batch]:
        """Read one batch."""

    @abstractmethod
    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        """One page of batches, newest first."""

    @abstractmethod
    def cancel(self, batch_id: str) -> Flow[Batch]:
        """Ask for cancellation; a batch that has already ended is returned as it is."""

    @abstractmethod
    def call(self, line: bytes) -> Call:
        """A batch line as a call of the vendor's synchronous endpoint."""

    @abstractmethod
    def answered(self, custom_id: str, status: int, body: bytes) -> bytes:
        """The answer to a call as the line that a batch would have answered.

        :param body: JSON, in one line.
        """

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        """Delete a landed batch's files at the vendor, its input or all; returns how many were there.

        :raises LLMBatchError: when the vendor does not.
        """
        return 0
        yield

    @abstractmethod
    def downloads(self, batch: Batch) -> Requests:
        """Requests whose streamed bodies together are the batch's result lines; empty when there are none."""

    def inputs(self, batch: Batch) -> Requests:
        """Requests for the lines a batch was made of; empty where the vendor does not give them back."""
        return []

    def read(self, line: bytes) -> Result:
        """One result line as it came; a provider may take a shorter way for lines of its most frequent shape.

        :raises Exception: one of ``UNREADABLE``, for a line that is not a result line at all.
        """
        return self.decode(parse_line(line))

    @abstractmethod
    def decode(self, line: dict[str, Any]) -> Result:
        """One parsed result line in the neutral shape.

        :raises Exception: as ``read``.
        """

    def group(self, request: Request) -> tuple[str, str]:
        """Requests of one group may share a batch: ``(endpoint, model)``."""
        return request.endpoint, request.model if self.one_model_per_batch else ""

    def check_endpoint(self, endpoint: str) -> None:
        """Refuse an endpoint this vendor cannot batch, by name."""
        if endpoint not in self.endpoints:
            raise InputError(
                f"{self.name} cannot batch requests for {endpoint!r}; it takes {', '.join(sorted(self.endpoints))}. "
                "Nothing was sent."
            )

    def check_metadata(self, metadata: Mapping[str, str]) -> None:
        """Refuse metadata the vendor would refuse; nothing to check where it keeps none.

        :raises InputError: names the limit and the value.
        """

    def too_many(self, pages: int) -> VendorUnavailable:
        """The error of a search that has not reached the time it looks for."""
        return VendorUnavailable(
            f"{self.name} lists more than {pages * self.page_size:,} batches that are newer than the create in doubt; "
            "whether it made one cannot be told. Nothing was sent again; retry when fewer are created."
        )

    def url(self, *parts: str, query: Mapping[str, Any] | None = None) -> httpx.URL:
        """An address under the base URL; parts are percent-encoded (gateways hand out ids with ``/`` and ``=``)."""
        url = httpx.URL("/".join([self.base_url, *(quote(part, safe="") for part in parts)]))
        asked = {**self.query, **{k: v for k, v in (query or {}).items() if v is not None}}
        return url.copy_merge_params(asked) if asked else url

    def expect(self, response: httpx.Response, doing: str) -> dict[str, Any]:
        """The JSON object of a 2xx response.

        :raises RequestRejected: on 4xx.
        :raises VendorUnavailable: on anything else, and on a body that is not a JSON object.
        """
        if response.is_success:
            with suppress(ValueError):
                return parse_line(response.content)
            raise VendorUnavailable(
                f"{self.name} answered {doing} with something other than a JSON object "
                f"({response.text[:80]!r}). Is the base URL {self.base_url} right?",
                status=response.status_code,
            )
        code, message = self.error_of(response)
        text = f"{self.name} answered {doing} with HTTP {response.status_code}" + (f" {code}" if code else "")
        text += f": {message}" if message else "."
        if response.is_client_error:
            text += "" if response.status_code in UNCLEAR else " That call was not billed."
            again = response.status_code in PASSING_STATUS and not is_empty_account(code, message, response.status_code)
            kind = RequestRejected if again else RefusedForGood
            raise kind(text, status=response.status_code, code=code)
        raise VendorUnavailable(text, status=response.status_code)

    @staticmethod
    def error_of(response: httpx.Response) -> tuple[str, str]:
        """``(code, message)`` of an error body in any of the usual shapes."""
        try:
            words, message = words_of(parse_line(response.content))
        except (ValueError, RecursionError):
            return "", response.text[:300]
        return next(iter(words), ""), message or ""


def words_in(options: Mapping[str, Any], name: str) -> dict[str, str]:
    """A connection's option that is an object of texts.

    :raises ConfigurationError: for anything else.
    """
    given = options.get(name) or {}
    if not isinstance(given, Mapping) or any(isinstance(value, dict | list | type(None)) for value in given.values()):
        raise ConfigurationError(
            f"The connection's extra {name!r} is no object of texts; give one, for example "
            f'"{name}": {{"x-litellm-model": "gpt-5-mini"}}. Nothing was sent.'
        )
    return {str(key): str(value) for key, value in given.items()}


def members_in(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A connection's option that is an object.

    :raises ConfigurationError: for anything else.
    """
    given = options.get(name) or {}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise ConfigurationError(f"The connection's extra {name!r} is a {kind}; give an object. Nothing was sent.")
    return dict(given)


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def repeatable(request: httpx.Request) -> httpx.Request:
    """Mark a POST that may be sent again after any failure without cost (an upload, a cancel)."""
    request.extensions[REPEATABLE] = True
    return request


def streamed(method: str, url: httpx.URL, headers: Mapping[str, str], body: Payload) -> httpx.Request:
    """A request with a streamed body of known length; httpx adds no headers of its own to such a one."""
    fixed = {"host": url.netloc.decode("ascii"), "content-length": str(body.size)}
    return httpx.Request(method, url, headers={**fixed, **headers}, stream=body)


def encode_multipart(fields: Mapping[str, str], filename: str, content: Payload) -> tuple[dict[str, str], Payload]:
    """Content type and body of a ``multipart/form-data`` upload of one streamed file, fields first."""
    # Random: no row can be written so that its text ends the part.
    boundary = f"llm-batch-{secrets.token_hex(16)}"
    head = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    safe = filename.replace('"', "_").replace("\r", "_").replace("\n", "_")
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    ).encode()
    body = content.framed(head, f"\r\n--{boundary}--\r\n".encode())
    return {"content-type": f"multipart/form-data; boundary={boundary}"}, body
