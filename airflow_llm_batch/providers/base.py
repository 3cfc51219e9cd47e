"""What a vendor must be able to say, and nothing of how it is sent.

A flow is a generator: it yields an ``httpx.Request``, is sent the ``httpx.Response`` (already read), and returns a
value. ``LLMBatchHook.run`` and ``.arun`` drive it; a test drives it with canned responses and no network.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property, lru_cache
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
from airflow_llm_batch.providers.auth import Credentials, Login
from airflow_llm_batch.providers.bodies import Call, Payload, Source
from airflow_llm_batch.providers.coerce import id_of
from airflow_llm_batch.providers.counting import Counting, counting_of
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.providers.options import Options, problems_of
from airflow_llm_batch.providers.troubles import (
    PASSING_STATUS,
    REFUSES_FLEX,
    UNCLEAR,
    is_empty_account,
    unquoted,
    words_of,
)
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

T = TypeVar("T")
Flow = Generator[httpx.Request, httpx.Response, T]
# Providers have a method called list, which hides the builtin in their annotations.
Batches = list[Batch]
Requests = list[httpx.Request]

EMBEDDINGS = "/v1/embeddings"
#: a call's own path, as people paste it from a vendor's example behind the address
PASTED = re.compile(r"(/(chat|completions|responses|embeddings|messages|batches|files))+$")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


class Facts(NamedTuple):
    """What people want to know of a vendor before they choose it; the README's table is made of it.

    :param schemas: what holds an answer to a schema; likewise ``tools`` and ``images``.
    :param kept: how long results can be fetched.
    """

    credentials: str
    schemas: str
    tools: str
    images: str
    kept: str


class Provider(ABC):
    """One vendor's batch protocol.

    :param base_url: overrides the vendor's own address.
    :param options: the connection's extra, for what a vendor lets a user choose.
    """

    name: ClassVar[str]
    #: for people
    title: ClassVar[str]
    Options: ClassVar[type[Options]] = Options
    #: the vendor's own address, "" where each customer has one
    default_base_url: ClassVar[str]
    default_limits: ClassVar[Limits]
    #: endpoints a request may name; "neutral" ones are translated, the rest is sent as it is
    endpoints: ClassVar[frozenset[str]]
    #: a batch may hold requests for one model only
    one_model_per_batch: ClassVar[bool] = True
    #: whether an empty text is taken in a prompt
    takes_empty_text: ClassVar[bool] = True
    #: there is a batch API; the connection's ``batch`` may say otherwise
    batch_api: ClassVar[bool] = True
    #: by what a lost create is found: ``metadata``, a ``client token``, a ``name``, a ``label``, the ``input file``, or
    #: ``time`` and size
    found_by: ClassVar[str] = "metadata"
    #: a running batch can be cancelled
    cancels: ClassVar[bool] = True
    #: creating a shard's batch twice makes one batch
    is_idempotent: ClassVar[bool] = False
    #: whether a call of a request tells what a batch would answer to it: it goes to the same model, by the same rights
    calls_tell: ClassVar[bool] = True
    #: where a request's body has its token cap
    caps: ClassVar[tuple[tuple[str, ...], ...]] = (("max_completion_tokens",), ("max_output_tokens",), ("max_tokens",))
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
    #: what a flex call costs relative to other calls, None where the vendor has no calls that are slower and cheaper
    flex_price_factor: ClassVar[str | None] = None
    #: headers of the answer to a call tell what its body does not: ``body_of`` adds it
    tells_beside: ClassVar[bool] = False
    #: whether any prompt may be written to a cache without being asked to
    caches_by_itself: ClassVar[bool] = False

    #: the vendor's id in genai-prices, "" where it has none
    price_id: ClassVar[str]
    facts: ClassVar[Facts]

    def __init__(self, base_url: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        self.options = self.Options.read(options or {})
        self.base_url = self.normalize(PASTED.sub("", (base_url or self.address()).rstrip("/")))
        try:
            self.limits = Limits.model_validate({**self.default_limits.model_dump(), **self.options.limits})
        except ValidationError as error:
            raise ConfigurationError(
                f"The connection's extra 'limits' is not usable: {problems_of(error)}. Give any of requests, bytes, "
                "embedding_inputs, tokens, minimum as whole numbers. Nothing was sent."
            ) from None

    def address(self) -> str:
        """The vendor's own address.

        :raises ConfigurationError: where the connection has to name one.
        """
        return self.default_base_url

    def normalize(self, base_url: str) -> str:
        """The base URL this protocol's paths hang on, from what people type as one."""
        return base_url

    @property
    def signing_keys(self) -> str:
        """The address of the public keys with which the vendor signs events of single batches, "" where it does not."""
        return ""

    @property
    def no_batches(self) -> str | None:
        """Why requests cannot be sent in batches, and are called one by one; None where they can."""
        if self.options.batch is False:
            return '"batch": false'
        return None if self.batch_api or self.options.batch else f"{self.title} has no batch API"

    @property
    def is_marked(self) -> bool:
        """Whether a batch carries something of ours that proves whose it is."""
        return self.found_by != "time"

    @property
    def is_own(self) -> bool:
        """Whether the address is the vendor's own."""
        return bool(self.default_base_url) and self.base_url == self.normalize(self.address())

    @cached_property
    def is_direct(self) -> bool:
        """Whether the vendor itself is asked, or its emulator on this machine: a gateway may have rules of its own."""
        return self.is_own or httpx.URL(self.base_url).host in LOOPBACK

    @property
    def batch_discount(self) -> str | None:
        """``batch_price_factor`` where the vendor itself is asked, or its emulator on this machine; None elsewhere: a
        gateway may hand a discount on or keep it."""
        return self.batch_price_factor if self.is_direct else None

    @property
    def flex_discount(self) -> str | None:
        """``flex_price_factor`` where the vendor itself is asked, as ``batch_discount``."""
        return self.flex_price_factor if self.is_direct else None

    @abstractmethod
    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        """Prompt tokens of an image, by the vendor's rule.

        :param size: width and height in pixels; None where they are not known: the most that an image may have.
        """

    def counting(self, model: str) -> Counting:
        """How a model's prompt tokens are counted: by the model's name, whoever serves it."""
        return counting_of(self.model_of(model))

    def cached(self, request: Request) -> Request:
        """A neutral conversation with what makes the vendor cache its static part (``request.cache``); as it is where
        the vendor does so by itself, or not at all."""
        return request

    def least_cached(self, model: str, called: bool) -> int | None:
        """The fewest tokens of a prompt's beginning that are cached, None where none are.

        :param called: outside of batches.
        """
        return None

    def console(self, batch_id: str) -> str:
        """The vendor's page of a batch, empty for an address that is not the vendor's own."""
        return self.console_url.format(id=quote(batch_id, safe="")) if self.is_own else ""

    @abstractmethod
    def auth(self, login: Login) -> Credentials:
        """What proves to the vendor who asks.

        :raises ConfigurationError: where something is missing.
        """

    def key_of(self, login: Login) -> str:
        """The connection's key; a server of one's own may want none.

        :raises ConfigurationError: when the vendor's own address is used without one.
        """
        if not login.key and self.is_own:
            raise ConfigurationError(
                f"Connection {login.conn_id!r} has no key for {self.base_url}; set it as the password. "
                "Nothing was sent."
            )
        return login.key or "none"

    def model_of(self, name: str) -> str:
        """The model behind a name that a request may use: a deployment, a profile. Prices and rules are the model's."""
        return name

    def discounts_stack(self, model: str) -> bool:
        """Whether a batch's discount holds for prompt tokens that are read from a cache too: they cost what they cost
        outside of batches where it does not."""
        return True

    def price_share(self, model: str) -> str:
        """What a model's tokens cost where the connection asks for them, relative to its list price."""
        return "1"

    @abstractmethod
    def translate(self, request: Request) -> Request:
        """A request in the vendor's own words; one that is so already comes back as it is.

        :raises InputError: names what the vendor cannot express, or would refuse; nothing was sent.
        """

    @abstractmethod
    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        """A translated request as the vendor's batch line."""

    @abstractmethod
    def request_of(self, line: Mapping[str, Any], shard: Shard) -> Request:
        """The translated request that a line was made of."""

    def encode(self, request: Request, custom_id: str) -> dict[str, Any]:
        """One request as the vendor's batch line.

        :raises InputError: as ``translate``.
        """
        return self.line(self.translate(request), custom_id)

    def place(self, name: str, source: str) -> str | None:
        """Where the vendor reads a shard by itself: ``source``, the job directory's file, where it can be read there,
        or a place of that ``name`` in the connection's own storage. None where a shard is uploaded, or sent along.

        :param source: URI, the storage's connection included; so is the one that is returned.
        :raises ConfigurationError: where there is no such place.
        """
        return None

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

    def probe(self) -> Flow[str]:
        """What proves address, key and the permission to use batches; returns what was seen, for people."""
        page = yield from self.list(limit=1)
        return f"newest batch: {page.items[0].id}" if page.items else "no batches yet"

    @abstractmethod
    def cancel(self, batch_id: str) -> Flow[Batch]:
        """Ask for cancellation; a batch that has already ended is returned as it is."""

    @property
    def call_url(self) -> str:
        """The address of the synchronous endpoints."""
        return self.base_url

    @abstractmethod
    def call(self, line: bytes, shard: Shard) -> Call:
        """A batch line as a call of the vendor's synchronous endpoint."""

    def body_of(self, response: httpx.Response) -> bytes:
        """The body of a call's good answer, and in it what headers alone tell of it."""
        return response.content

    @abstractmethod
    def answered(self, custom_id: str, status: int, body: bytes) -> bytes:
        """The answer to a call as the line that a batch would have answered, under ``custom_id`` for every vendor: a
        retry sees by it what was paid for.

        :param body: JSON, in one line.
        """

    def takes_flex(self, endpoint: str, model: str) -> bool | None:
        """Whether the vendor documents that it takes calls of a model at flex, or that it does not; None where neither
        is known.

        :param endpoint: as a shard has it; likewise ``model``, which may be a deployment.
        """
        return None if self.flex_price_factor else False

    def check_flex(self, endpoint: str, model: str) -> None:
        """:raises ConfigurationError: where calls cannot be made at flex; names what can be done instead."""
        if self.flex_price_factor is None:
            raise ConfigurationError(
                f"{self.title} has no flex tier that costs less; give lane='batch', 'online' or 'auto'. Nothing was "
                "sent."
            )
        if self.takes_flex(endpoint, model) is False:
            raise ConfigurationError(
                f"{self.title} takes no calls of {model or 'these requests'} ({endpoint}) at flex; choose a model that "
                "it lists for flex, or give lane='batch' or 'online'. Nothing was sent."
            )

    def flex_call(self, call: Call) -> Call:
        """A call as one at flex.

        :raises ConfigurationError: where there is no flex.
        """
        raise ConfigurationError(f"{self.title} has no flex tier. Nothing was sent.")

    def has_no_room(self, response: httpx.Response) -> bool:
        """Whether a flex call was turned away because there is no room at flex now: nothing was billed, and it is
        asked again for as long as there is time."""
        return False

    def refuses_flex(self, response: httpx.Response) -> bool:
        """Whether a call was refused because of its tier, which no waiting mends."""
        said = unquoted(self.error_of(response)[1])
        return response.status_code == httpx.codes.BAD_REQUEST and REFUSES_FLEX.search(said) is not None

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        """Delete a landed batch's files at the vendor, its input or all; returns how many were there.

        :raises LLMBatchError: when the vendor does not.
        """
        return 0
        yield

    def objects(self, batch: Batch, scope: str) -> Sequence[str]:
        """URIs of stored objects that a landed batch does not need any more, its input or all; never the job
        directory's own."""
        return ()

    @abstractmethod
    def results(self, batch: Batch) -> Sequence[Source]:
        """Where the batch's result lines lie, all of them together; empty when there are none."""

    def inputs(self, batch: Batch) -> Sequence[Source]:
        """Where the lines lie that a batch was made of; empty where the vendor does not give them back."""
        return ()

    def id_of(self, line: Mapping[str, Any]) -> str:
        """The ``custom_id`` of a parsed line, sent or answered.

        :raises KeyError: for a line that names no row.
        """
        return id_of(line)

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

    def embeds(self, request: Request) -> bool:
        """Whether a translated request asks for vectors: it has no token cap, and perhaps several inputs."""
        return request.endpoint == EMBEDDINGS

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

    def url(self, *parts: str, query: Mapping[str, Any] | None = None) -> httpx.URL:
        """An address under the base URL; parts are percent-encoded (gateways hand out ids with ``/`` and ``=``)."""
        url = address("/".join([self.base_url, *(quote(part, safe="") for part in parts)]))
        asked = {**self.options.query, **{k: v for k, v in (query or {}).items() if v is not None}}
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
            # Google answers some calls with a list of one.
            words, message = words_of(parse_line(response.content.strip().removeprefix(b"[").removesuffix(b"]")))
        except (ValueError, RecursionError):
            return "", response.text[:300]
        return next(iter(words), ""), message or ""


@lru_cache(64)
def address(text: str) -> httpx.URL:
    """A parsed address: calls, which go to one, parse it once."""
    return httpx.URL(text)
