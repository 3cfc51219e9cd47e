"""Azure OpenAI: OpenAI's files and batches under Azure's addresses, keys and manners.

Source: Microsoft's how-to and REST reference of Azure OpenAI batches (statuses, samples, limits, error codes), its
v1 API guide, and openai-python's ``AzureOpenAI``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar

import httpx
import msgspec
from pydantic import BeforeValidator, Field

from airflow_llm_batch.exceptions import ConfigurationError, InputError, RequestRejected
from airflow_llm_batch.models import Batch, Limits, Shard
from airflow_llm_batch.providers.auth import Credentials, Login, Static
from airflow_llm_batch.providers.azure.credentials import (
    Entra,
    TokenCredential,
    of_client,
    of_connection,
    of_machine,
)
from airflow_llm_batch.providers.base import Facts, Flow
from airflow_llm_batch.providers.bodies import Payload, after
from airflow_llm_batch.providers.coerce import text_of, word
from airflow_llm_batch.providers.images import openai_tokens
from airflow_llm_batch.providers.openai.chat import CAP, OLD_CAP
from airflow_llm_batch.providers.openai.models import REASONING
from airflow_llm_batch.providers.openai.protocol import INPUTS_EXPIRE, FileOptions, OpenAI, Sent
from airflow_llm_batch.providers.options import FORM, Number, Text, Texts
from airflow_llm_batch.providers.troubles import is_full
from airflow_llm_batch.request import Request

#: Azure's own hosts: what is before the first dot is the resource
HOST = re.compile(
    r"\.(openai|cognitiveservices|services\.ai)\.azure\.(com|us|cn)$|\.api\.cognitive\.microsoft\.(com|us)$"
)
#: what people paste after the resource's address
PASTED = re.compile(r"/openai(/.*)?$")
#: words for a batch's state that some versions spell their own way
STATES = {"inprogress": "in_progress", "canceled": "cancelled", "canceling": "cancelling"}
#: seconds between looks at a file that is not processed yet; the last one again and again
LOOKS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
#: seconds until a file has to be processed: after its upload, and where it is found not to be when its batch is created
PROCESSED, LATER = 1800.0, 120.0
#: how a create is refused whose file is not processed yet
UNPROCESSED = re.compile(r"\b(pending|running|uploaded)\b.{0,20}\bstate\b|only .?processed.? files", re.IGNORECASE)
#: states of a file that never will be
LOST = frozenset({"error", "failed", "deleting", "deleted"})
#: how long Azure can be asked to keep a file
DAY = 86400
FEWEST_DAYS, MOST_DAYS = 14, 30
#: the first version whose calls know the new name of the token cap, whatever the model
NEW_CAP = "2024-12-01"
#: the models that take flex (preview), from its how-to
FLEX = re.compile(r"gpt-5\.6-(sol|luna|terra)|gpt-6-astra")
#: how a version begins that is a date
DATED = re.compile(r"\d{4}-")


class Named(msgspec.Struct):
    """A body, as far as an address needs it."""

    model: str


def an_identity(value: Any) -> Any:
    """Whether, or whose: forms have texts alone."""
    known = {"true": True, "yes": True, "1": True, "false": None, "no": None, "0": None, "": None}
    return known.get(str(value).strip().lower(), value)


class AzureOptions(FileOptions):
    api_version: Text = Field(
        None,
        description="The dated API (/openai/...?api-version=2025-04-01-preview) instead of the v1 API, which has no "
        "version, or preview.",
        json_schema_extra=FORM,
    )
    deployments: Texts = Field(
        {},
        description='The model behind each deployment, {"batch-mini": "gpt-4o-mini"}, for prices, images and what a '
        "model refuses; a deployment that is not here is taken for a model of that name in prices, and no more.",
    )
    azure_conn_id: Text = Field(
        None, description="An Airflow connection of type azure that gives Entra tokens.", json_schema_extra=FORM
    )
    tenant_id: Text = Field(
        None,
        description="Entra's tenant, with a client id as the connection's login and its secret as the password.",
        json_schema_extra=FORM,
    )
    managed_identity: Annotated[str | bool | None, BeforeValidator(an_identity)] = Field(
        None,
        description="true for tokens of the machine's own identity (workload identity, managed identity, environment), "
        "or a managed identity's client id.",
        json_schema_extra=FORM,
    )
    authority: Text = Field(None, description="Entra's address, where it is not the public cloud's; https.")
    scope: Text = Field(None, description="What Entra's tokens are for; follows from the address.")
    file_seconds: Number = Field(None, description="How long Azure may take to process an uploaded file (1800).")


class Azure(OpenAI):
    name = price_id = "azure"
    title = "Azure OpenAI"
    Options: ClassVar[type[AzureOptions]] = AzureOptions
    options: AzureOptions  # type: ignore[assignment]  # OpenAI's own are not its own
    # A deployment of the batch kind answers no calls.
    calls_tell = False
    default_base_url = ""
    default_limits: ClassVar[Limits] = Limits(requests=100_000, bytes=200_000_000)
    endpoints = frozenset({"/v1/chat/completions", "/v1/responses", "/v1/embeddings"})
    flex_price_factor = "0.5"
    facts = Facts("key, Entra", "strict, fitted", "yes", "yes", "until deleted, or 14 to 30 days")
    console_url = ""

    def __init__(self, base_url: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(base_url, options)
        seconds = self.options.expire_seconds
        if seconds is not None and not FEWEST_DAYS * DAY <= seconds <= MOST_DAYS * DAY:
            raise ConfigurationError(
                f"expire_seconds is {seconds:g}; Azure keeps files {FEWEST_DAYS} to {MOST_DAYS} days: give "
                f"{FEWEST_DAYS * DAY} to {MOST_DAYS * DAY}, or leave it out. Nothing was sent."
            )

    def address(self) -> str:
        raise ConfigurationError(
            "Azure OpenAI has an address for each resource: set the connection's host, for example "
            "https://my-resource.openai.azure.com. Nothing was sent."
        )

    def normalize(self, base_url: str) -> str:
        url = httpx.URL(base_url)
        prefix = "" if HOST.search(url.host) else PASTED.sub("", url.path.rstrip("/"))
        surface = "/openai" if self.is_dated else "/openai/v1"
        return str(url.copy_with(path=f"{prefix}{surface}", query=None))

    @cached_property
    def is_dated(self) -> bool:
        """Whether the API with versions is asked, and not the v1 API, whose api-version is v1 or preview."""
        return DATED.match(self.options.api_version or "") is not None

    @property
    def is_own(self) -> bool:
        return HOST.search(httpx.URL(self.base_url).host) is not None

    def url(self, *parts: str, query: Mapping[str, Any] | None = None) -> httpx.URL:
        return super().url(*parts, query={"api-version": self.options.api_version, **(query or {})})

    def model_of(self, name: str) -> str:
        return self.options.deployments.get(name, name)

    def auth(self, login: Login) -> Credentials:
        make = self.identity(login)
        if make is not None:
            return Entra([self.base_url], make, self.options.scope or self.scope)
        key = self.key_of(login)
        return Static([self.base_url], {"api-key": key}, [key])

    @property
    def scope(self) -> str:
        """What tokens have to be for, in the cloud that the address belongs to."""
        cloud = re.search(r"\.azure\.(com|us|cn)$", httpx.URL(self.base_url).host)
        return f"https://cognitiveservices.azure.{cloud[1] if cloud else 'com'}/.default"

    def identity(self, login: Login) -> Callable[[], TokenCredential] | None:
        """What makes a credential for Entra's tokens; None where a key is used.

        :raises ConfigurationError: where something of it is missing.
        """
        options, authority = self.options, self.options.authority
        if authority and not authority.startswith("https://"):
            raise ConfigurationError(f"authority is {authority!r}; give an https address. Nothing was sent.")
        if conn_id := options.azure_conn_id:
            return lambda: of_connection(conn_id)
        if (tenant := options.tenant_id) and not options.managed_identity:
            if not login.user or not login.key:
                raise ConfigurationError(
                    f"Connection {login.conn_id!r} has a tenant_id and no {'password' if login.user else 'login'}; "
                    "set the client id as its login and the client secret as its password. Nothing was sent."
                )
            return lambda: of_client(tenant, login.user, login.key, authority)
        if chosen := options.managed_identity:
            return lambda: of_machine(chosen if isinstance(chosen, str) else None, tenant, authority)
        return None

    def translate(self, request: Request) -> Request:
        # The rules are those of the model behind the deployment; where that is not known, no model's.
        deployment = request.model
        endpoint = endpoint_of(request.endpoint)
        if not isinstance(request.body.get("model"), str):
            return super().translate(request._replace(endpoint=endpoint))
        known = self.options.deployments.get(deployment, "")
        made = super().translate(request._replace(endpoint=endpoint, body={**request.body, "model": known}))
        return made._replace(body={**made.body, "model": deployment})

    def cached(self, request: Request) -> Request:
        # Versions with a date may be older than the key.
        return request if self.is_dated else super().cached(request)

    def model_behind(self, name: str) -> str:
        return self.options.deployments.get(name, "")

    def cap_name(self, model: str) -> str:
        if self.options.token_cap:
            return self.options.token_cap
        version = self.options.api_version or ""
        if not self.is_dated or REASONING.search(model):
            return CAP
        return CAP if not model and version >= NEW_CAP else OLD_CAP

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        return openai_tokens(self.model_of(model), size, detail)

    def spelled(self, endpoint: str) -> str:
        """An endpoint as the documentation of either API writes it; Azure takes both."""
        return endpoint.removeprefix("/v1") if self.is_dated and endpoint != "/v1/responses" else endpoint

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        return super().line(request._replace(endpoint=self.spelled(request.endpoint)), custom_id)

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        ref = yield from super().upload(filename, content)
        if ref is not None:
            seconds = self.options.file_seconds
            yield from self.processed(ref, PROCESSED if seconds is None else seconds)
        return ref

    def processed(self, file_id: str, seconds: float) -> Flow[None]:
        """Look at a file until no more than that stands between it and its batch.

        :raises InputError: when Azure cannot use it; ``RequestRejected`` when it takes longer than ``seconds``.
        """
        waited, looks = 0.0, 0
        while True:
            pause = min(LOOKS[min(looks, len(LOOKS) - 1)], max(seconds - waited, 0.0))
            response = yield after(pause, httpx.Request("GET", self.url("files", file_id)))
            file = self.expect(response, f"a look at file {file_id}")
            waited, looks = waited + pause, looks + 1
            status = (word(file.get("status")) or "processed").lower()
            if status == "processed":
                return
            if status in LOST:
                why = text_of(file.get("status_details")) or text_of(file.get("error")) or "it does not say why"
                raise InputError(
                    f"Azure cannot use the uploaded file {file_id}, whose state is {status!r}: {why}. No batch was "
                    "made of it and nothing billed."
                )
            if waited >= seconds and looks > 1:
                raise RequestRejected(
                    f"Azure has not processed the uploaded file {file_id} within {seconds:g} s; its state is "
                    f"{status!r}. No batch was made of it and nothing billed; retry later, or raise file_seconds.",
                    status=response.status_code,
                )

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        asked = shard.model_copy(update={"endpoint": self.spelled(endpoint_of(shard.endpoint))})
        try:
            return (yield from super().create(asked, ref, content))
        except RequestRejected as error:
            if ref is None or error.status != httpx.codes.BAD_REQUEST or not UNPROCESSED.search(str(error)):
                raise
        # Refused at the door: no batch was made, so it may be asked for again.
        yield from self.processed(ref, LATER)
        return (yield from super().create(asked, ref, content))

    def expiry(self, what: str) -> dict[str, Any]:
        # A resource holds 500 files that do not expire. First versions do not know of expiry.
        by_default = INPUTS_EXPIRE if self.is_own and not self.is_dated and what == "input" else None
        seconds = self.options.expire_seconds or by_default
        return {"anchor": "created_at", "seconds": int(seconds)} if seconds else {}

    def parse(self, raw: dict[str, Any]) -> Batch:
        status = (word(raw.get("status")) or "").lower()
        batch = super().parse({**raw, "status": STATES.get(re.sub(r"[^a-z]", "", status), status)})
        nothing_done = batch.outcome == "failed" and not batch.succeeded and not batch.failed
        if nothing_done and any(is_full(*error) for error in batch.errors):
            # Its files are there all the same, and hold nothing.
            return batch.model_copy(update={"full": True, "files": ()})
        return batch

    def takes_flex(self, endpoint: str, model: str) -> bool | None:
        if self.is_dated or endpoint_of(endpoint) not in ("/v1/chat/completions", "/v1/responses"):
            return False
        # More models are to come, and which one is behind a deployment is known where the connection says so.
        behind = self.options.deployments.get(model, "")
        return True if self.is_direct and FLEX.fullmatch(behind) else None

    def check_flex(self, endpoint: str, model: str) -> None:
        if self.is_dated:
            raise ConfigurationError(
                "Azure documents flex for its v1 API alone, and the connection's api_version is "
                f"{self.options.api_version!r}; leave it out, or give lane='online' or 'batch'. Nothing was sent."
            )
        super().check_flex(endpoint, model)

    def has_no_room(self, response: httpx.Response) -> bool:
        # Azure's table of flex errors has one 429, for want of room and for the rate, and one remedy: to wait.
        return response.status_code == httpx.codes.TOO_MANY_REQUESTS

    def called_at(self, sent: Sent, shard: Shard) -> list[str]:
        parts = endpoint_of(sent.url).removeprefix("/v1/").split("/")
        if self.is_dated and parts != ["responses"]:
            parts = ["deployments", msgspec.json.decode(sent.body, type=Named).model, *parts]
        return parts


def endpoint_of(url: str) -> str:
    """An endpoint as OpenAI spells it, from either spelling of Azure's."""
    return url if url.startswith("/v1/") else f"/v1/{url.lstrip('/')}"
