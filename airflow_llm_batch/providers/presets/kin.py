"""What can be different about an API that follows OpenAI's, as class attributes.

What a vendor does not document is taken for the worse: no discount, no metadata, smaller limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import httpx

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.models import Batch, Limits, Page, Shard
from airflow_llm_batch.providers.auth import Credentials, Login, Static
from airflow_llm_batch.providers.base import Facts, Flow
from airflow_llm_batch.providers.batches import identifier, readable
from airflow_llm_batch.providers.coerce import members, objects, text_of
from airflow_llm_batch.providers.openai.chat import OLD_CAP
from airflow_llm_batch.providers.openai.models import refuse
from airflow_llm_batch.providers.openai.protocol import CHAT, FileOptions, OpenAI
from airflow_llm_batch.request import Request

#: tokens of the largest image, and pixels of a token, by the greediest rule of open models (Qwen2.5-VL's)
LARGEST_IMAGE, PIXELS = 16_384, 28 * 28
#: a completion window in whole hours or days
WINDOW = re.compile(r"([1-9]\d{0,3})([hd])")
EVERYTHING = re.compile("")


def facts(kept: str) -> Facts:
    """What holds of a host of many models."""
    model = "as the model can"
    return Facts("key", model, model, model, kept)


class Kin(OpenAI):
    """An API that follows OpenAI's."""

    Options: ClassVar[type[FileOptions]] = FileOptions
    options: FileOptions  # type: ignore[assignment]  # OpenAI's own are not its own
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=100_000_000)
    endpoints = frozenset({CHAT})
    found_by = "input file"
    price_id = ""
    batch_price_factor: ClassVar[str | None] = None
    caches_by_itself = False
    console_url = ""

    #: the page that says so
    documented: ClassVar[str] = ""
    #: the vendor's own hosts, where there are several
    hosts: ClassVar[re.Pattern[str] | None] = None
    #: how long a batch may take: a range of hours, or words
    windows: ClassVar[range | tuple[str, ...]] = ("24h",)
    #: and what is asked for by default
    usual_window: ClassVar[str] = "24h"
    #: what the server calls the token cap
    cap: ClassVar[str] = OLD_CAP
    #: whose expiry can be asked for: ``input`` and ``output`` files
    expires: ClassVar[frozenset[str]] = frozenset()
    #: its listing comes in pages
    pages: ClassVar[bool] = True
    #: a batch line has an id and a body, and no method and address
    bare_lines: ClassVar[bool] = False
    #: the header by which a create that is repeated makes one batch
    idempotency_header: ClassVar[str] = ""
    #: parameters of a chat that are refused, and the value that asks for nothing
    refused: ClassVar[Mapping[str, Any]] = {}
    #: members of a message that are refused
    refused_in_messages: ClassVar[frozenset[str]] = frozenset()
    #: the models that refuse such parameters
    refused_by: ClassVar[re.Pattern[str]] = EVERYTHING
    #: the models that hold an answer to a schema to the letter
    strict: ClassVar[re.Pattern[str]] = EVERYTHING

    def __init__(self, base_url: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(base_url, options)
        check_window(self.window, self.windows, self.title)
        if self.options.expire_seconds and not self.expires:
            raise ConfigurationError(
                f"expire_seconds is {self.options.expire_seconds:g}, and {self.title} takes no expiry of files; leave "
                "it out. Nothing was sent."
            )

    def address(self) -> str:
        if not self.default_base_url:
            raise ConfigurationError(
                f"{self.title} has no address of its own; set the connection's host to its base URL, for example "
                "http://litellm:4000/v1. Nothing was sent."
            )
        return self.default_base_url

    def normalize(self, base_url: str) -> str:
        if httpx.URL(base_url).path.strip("/"):
            return base_url
        return base_url + (httpx.URL(self.default_base_url).path if self.default_base_url else "/v1")

    @property
    def is_own(self) -> bool:
        if self.hosts is None:
            return super().is_own
        return self.hosts.fullmatch(httpx.URL(self.base_url).host) is not None

    @property
    def has_openai_rules(self) -> bool:
        return False

    @property
    def window(self) -> str:
        return self.options.completion_window or self.usual_window

    def auth(self, login: Login) -> Credentials:
        key = self.key_of(login)
        return Static([self.base_url], {"authorization": f"Bearer {key}"}, [key])

    def cap_name(self, model: str) -> str:
        return self.options.token_cap or self.cap

    def discounts_stack(self, model: str) -> bool:
        # Nobody documents that they do.
        return False

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        return LARGEST_IMAGE if size is None else min(size[0] * size[1] // PIXELS + 1, LARGEST_IMAGE)

    def translate(self, request: Request) -> Request:
        if request.endpoint == CHAT:
            request = request._replace(body=self.fitted(request.body))
        made = super().translate(request)
        self.check_endpoint(made.endpoint)
        return made

    def fitted(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat without what its model refuses and nobody misses; the same object where there is none.

        :raises InputError: names the parameter that the model refuses.
        """
        model = str(body.get("model") or "")
        useless = [name for name in self.refused if name in body] if self.refused_by.search(model) else []
        for name in useless:
            if body[name] is not None and body[name] != self.refused[name]:
                refuse(f"{self.title} refuses {name}={body[name]!r} with {model}", "remove it")
        if useless:
            body = {name: value for name, value in body.items() if name not in useless}
        for name in self.refused_in_messages:
            if any(message.get(name) for message in objects(body.get("messages"))):
                refuse(f"{self.title} refuses messages with a {name!r}", "remove it")
        wanted = members(body.get("response_format"))
        asked = members(wanted.get("json_schema"))
        if asked and asked.get("strict") is None and not self.strict.search(model):
            body = {**body, "response_format": {**wanted, "json_schema": {**asked, "strict": False}}}
        return body

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        return {"custom_id": custom_id, "body": request.body} if self.bare_lines else super().line(request, custom_id)

    def marks(self, shard: Shard) -> dict[str, Any]:
        return super().marks(shard) if self.found_by == "metadata" else {}

    def check_metadata(self, metadata: Mapping[str, str]) -> None:
        if self.found_by == "metadata":
            super().check_metadata(metadata)

    def create_headers(self, shard: Shard) -> dict[str, str]:
        # Of another planning of the same rows it is another.
        key = f"{shard.key}-{shard.token}"
        return {self.idempotency_header: key} if self.idempotency_header and shard.key else {}

    def expiry(self, what: str) -> dict[str, Any]:
        seconds = self.options.expire_seconds if what in self.expires else None
        return {"anchor": "created_at", "seconds": int(seconds)} if seconds else {}

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        if self.pages:
            return (yield from super().list(after, limit))
        response = yield httpx.Request("GET", self.url("batches"))
        return Page(readable(self.expect(response, "a listing of batches").get("data"), self.parse), None)

    def parse(self, raw: dict[str, Any]) -> Batch:
        # Some say in a text why a batch failed.
        said = raw.get("errors") if isinstance(raw.get("errors"), str) else raw.get("error")
        batch = super().parse({**raw, "errors": [{"message": text_of(said)}]} if said else raw)
        if batch.outcome == "completed" and batch.failed is None and identifier(raw.get("error_file_id")):
            return batch.model_copy(update={"outcome": "partial"})
        return batch


def hours_of(window: str) -> int | None:
    """A completion window in hours; None where it is none."""
    number = WINDOW.fullmatch(window)
    return int(number[1]) * (24 if number[2] == "d" else 1) if number else None


def check_window(asked: str, windows: range | tuple[str, ...], title: str) -> None:
    """:raises ConfigurationError: for a completion window that a vendor does not have."""
    if isinstance(windows, range):
        good = hours_of(asked) in windows
        known = f"{windows[0]}h to {windows[-1]}h, in whole hours or days (7d)"
    else:
        good, known = asked in windows, " or ".join(windows)
    if not good:
        raise ConfigurationError(f"completion_window is {asked!r}; {title} takes {known}. Nothing was sent.")
