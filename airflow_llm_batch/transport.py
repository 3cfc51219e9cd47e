"""Drives provider flows over HTTP: what is safe to repeat is repeated, what may cost money twice is not."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import httpx
from tenacity import AsyncRetrying, RetryCallState, Retrying, stop_after_attempt

from airflow_llm_batch import __version__
from airflow_llm_batch.addresses import check_headers
from airflow_llm_batch.bounded import SLOWEST, TooLarge, aread, plain, read
from airflow_llm_batch.exceptions import LLMBatchError, RequestRejected, VendorUnavailable
from airflow_llm_batch.models import Batch, Page
from airflow_llm_batch.pauses import drop_response, pause
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.bodies import PAUSE, REPEATABLE, Payload
from airflow_llm_batch.providers.json_lines import UNREADABLE
from airflow_llm_batch.providers.troubles import is_empty_account, is_full, may_pass
from airflow_llm_batch.redaction import Redactor, secrets_in
from airflow_llm_batch.resuming import Download, followed, no_page
from airflow_llm_batch.storage import file_size, open_blocks, read_chunks

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.providers.base import Flow, Provider

T = TypeVar("T")
#: failures before the request left this machine
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
#: bytes of an answer that takes too long to parse on an event loop
LARGE = 2**15
#: sets of tokens that are remembered besides those of now
MOST_REDACTORS = 4

# httpx tells of every call at INFO: a day's wait would fill the task log with them.
if logging.getLogger("httpx").level == logging.NOTSET:
    logging.getLogger("httpx").setLevel(logging.WARNING)


@cache
def ssl_context() -> ssl.SSLContext:
    """One for all clients of the process: it takes a while to read the certificates, and a megabyte to hold them."""
    return httpx.create_ssl_context()


class Transport:
    """An HTTP connection to one vendor.

    :param login: whose it is; the key alone will do.
    :param retries: how often a safe call is repeated.
    :param timeout: seconds of silence allowed while reading or writing.
    :param connect_timeout: seconds allowed for connecting.
    :param slowest: seconds that an answer may take from its first byte to its last; ``pause`` those before another try.
    """

    def __init__(
        self,
        provider: Provider,
        login: Login | str,
        *,
        retries: float = 5,
        timeout: float = 120,
        connect_timeout: float = 15,
        slowest: float = SLOWEST,
        pause: Callable[[RetryCallState], float] = pause,
    ) -> None:
        self.provider, self.retries, self.pause = provider, int(retries), pause
        self.connect_timeout, self.slowest = connect_timeout, slowest
        #: seconds by which the vendor's clock is ahead of ours, None before it has told
        self.clock_ahead: float | None = None
        check_headers(provider.options.headers)
        # Nothing compressed is asked for: a small answer may be a large one in memory.
        self.agent = {"user-agent": f"airflow-provider-llm-batch/{__version__}", "accept-encoding": "identity"}
        login = Login("", "", login) if isinstance(login, str) else login
        self.auth = provider.auth(login)
        options = provider.options
        self.auth.also = {name.lower(): text for name, text in options.headers.items()}
        #: what must not be told: the key, and headers that hold another
        self._secrets = (login.key, *secrets_in([options.query, options.form, options.headers, options.create]))
        self._redactors: dict[tuple[str, ...], Redactor] = {}
        self.redactor  # noqa: B018  (what is logged from here on is looked through)
        self.options: dict[str, Any] = {
            "verify": ssl_context(),
            "auth": self.auth,
            "timeout": httpx.Timeout(timeout, connect=connect_timeout),
            "follow_redirects": False,
            "headers": self.agent,
        }

    @property
    def redactor(self) -> Redactor:
        """Knows the key, headers and parameters that hold another, and the tokens of now."""
        secrets = (*self._secrets, *self.auth.secrets)
        if secrets not in self._redactors:
            # Those before it know tokens that an answer under way may quote.
            kept = list(self._redactors.items())[-MOST_REDACTORS:]
            self._redactors = {**dict(kept), secrets: Redactor(secrets)}
        return self._redactors[secrets]

    @cached_property
    def client(self) -> httpx.Client:
        return httpx.Client(**self.options)

    def close(self) -> None:
        if client := self.__dict__.pop("client", None):
            client.close()

    def run(self, flow: Flow[T]) -> T:
        """Drive a flow to its value.

        :raises VendorUnavailable: when a request failed in transit, as often as it may be repeated.
        """
        try:
            request = next(flow)
            while True:
                request = flow.send(self.send(request))
        except StopIteration as stop:
            value: T = stop.value
            return self.cleaned(value)
        except LLMBatchError as error:
            raise self.redacted(error) from None

    def redact(self, text: str) -> str:
        """A text without the key, which some vendors quote."""
        return self.redactor.text(text)

    def cleaned(self, value: T) -> T:
        """What a vendor has told, without the key where it tells of errors."""
        if isinstance(value, Page):
            return cast("T", Page([self.cleaned(batch) for batch in value.items], value.after))
        if isinstance(value, Batch) and value.errors:
            errors = tuple((self.redact(code), self.redact(message)) for code, message in value.errors)
            return cast("T", value.model_copy(update={"errors": errors}))
        return value

    def clean_line(self, line: bytes) -> bytes:
        """A result line without the key where it tells of an error; what a model has answered stays as it is."""
        if not self.redactor.is_in(line):
            return line
        with suppress(*UNREADABLE):
            if self.provider.read(line).status in ("succeeded", "truncated"):
                return line
        return self.redactor.data(line)

    def heard(self, response: httpx.Response) -> None:
        """Compare clocks, by the answer's own date."""
        with suppress(KeyError, ValueError, TypeError):
            date = email.utils.parsedate_to_datetime(response.headers["date"])
            self.clock_ahead = (date - datetime.now(UTC)).total_seconds()

    def redacted(self, error: LLMBatchError, *causes: BaseException) -> LLMBatchError:
        """The error without the key, and all that led to it: what an HTTP client says may quote what it has read."""
        self.redactor.errors(error, *causes)
        if isinstance(error, RequestRejected):
            error.code = self.redact(error.code)
        return error

    async def arun(self, flow: Flow[T], client: httpx.AsyncClient) -> T:
        """``run`` on an event loop, over ``client`` (see ``session``)."""

        def proceed(response: httpx.Response | None) -> tuple[httpx.Request | None, Any]:
            """The flow's next request, or none and its value."""
            try:
                return (next(flow) if response is None else flow.send(response)), None
            except StopIteration as stop:
                return None, stop.value

        try:
            request, value = proceed(None)
            while request is not None:
                await asyncio.sleep(request.extensions.get(PAUSE, 0))
                try:
                    response: httpx.Response = await AsyncRetrying(**self.policy(request))(
                        self.aexchange, request, client
                    )
                except (httpx.RequestError, TooLarge) as error:
                    raise self.redacted(unavailable(request, error), error) from None
                self.heard(response)
                if len(response.content) > LARGE:
                    request, value = await asyncio.to_thread(proceed, response)
                else:
                    request, value = proceed(response)
        except LLMBatchError as error:
            raise self.redacted(error) from None
        result: T = value
        return self.cleaned(result)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[httpx.AsyncClient]:
        async with await asyncio.to_thread(httpx.AsyncClient, **self.options) as client:
            yield client

    def send(self, request: httpx.Request, stream: bool = False) -> httpx.Response:
        """:param stream: leave the body of a good answer to be read as it comes."""
        time.sleep(request.extensions.get(PAUSE, 0))
        try:
            response: httpx.Response = Retrying(**self.policy(request))(self.exchange, request, stream)
        except (httpx.RequestError, TooLarge) as error:
            raise self.redacted(unavailable(request, error), error) from None
        self.heard(response)
        return response

    def get(self, request: httpx.Request) -> httpx.Response:
        """The whole answer to a request that costs nothing.

        :raises VendorUnavailable: when there is none, or none that is well; likewise ``RequestRejected``.
        """
        response = self.send(request)
        if not response.is_success:
            try:
                self.provider.expect(response, "a page of results")
            except LLMBatchError as error:
                raise self.redacted(error) from None
        return response

    def exchange(self, request: httpx.Request, stream: bool) -> httpx.Response:
        """One request and its answer."""
        response = self.client.send(request, stream=True)
        return response if stream and response.is_success else self.checked(response, read(response, self.slowest))

    async def aexchange(self, request: httpx.Request, client: httpx.AsyncClient) -> httpx.Response:
        response = await client.send(request, stream=True)
        return self.checked(response, await aread(response, self.slowest))

    def checked(self, response: httpx.Response, content: bytes) -> httpx.Response:
        """An answer as a flow gets to see it: one that is no JSON object may be quoted, and by halves."""
        if not (response.is_success and content.lstrip().startswith(b"{")):
            content = self.redactor.data(content)
        return plain(response, content)

    @contextmanager
    def stream(self, request: httpx.Request) -> Iterator[Iterator[bytes]]:
        """The body of a download in chunks.

        :raises VendorUnavailable: when it breaks off before its end, and does not go on.
        """
        send = partial(self.send, stream=True)
        download = Download(*followed(request, send), send, tries=self.retries, pause=self.pause)
        try:
            if not download.response.is_success:
                self.provider.expect(download.response, "a download of results")
            yield self.whole(download.request, download)
        except LLMBatchError as error:
            raise self.redacted(error) from None
        finally:
            download.close()

    def whole(self, request: httpx.Request, download: Download) -> Iterator[bytes]:
        """:raises VendorUnavailable: when it breaks off, or is a page and no lines of JSON."""
        try:
            yield from no_page(download.pieces(), request.url.host)
        except httpx.RequestError as error:
            raise self.redacted(unavailable(request, error), error) from None

    def policy(self, request: httpx.Request) -> dict[str, Any]:
        """tenacity's settings for one request."""

        def again(state: RetryCallState) -> bool:
            outcome = state.outcome
            assert outcome is not None
            if outcome.failed:
                error = outcome.exception()
                return isinstance(error, httpx.RequestError if is_repeatable(request) else NEVER_SENT)
            response = outcome.result()
            if is_repeatable(request):
                # A conflict is an answer: what was to be cancelled has ended.
                return may_pass(response.status_code) and response.status_code != httpx.codes.CONFLICT
            # A full queue empties in hours, an empty account never. Sentences of the latter some say of rates, too.
            said = self.provider.error_of(response)
            return response.status_code == 429 and not (is_full(*said) or is_empty_account(said[0]))

        return {
            "retry": again,
            "stop": stop_after_attempt(self.retries + 1),
            "wait": self.pause,
            "before_sleep": drop_response,
            "retry_error_callback": lambda state: state.outcome.result(),
        }


def stored_payload(path: ObjectStoragePath) -> Payload:
    """A stored file as a request body, streamed in chunks of about 1 MB."""
    return Payload(lambda: read_chunks(path), file_size(path))


def line_payload(path: ObjectStoragePath) -> Payload:
    """A stored file of lines as a request body: blank lines left out, the last one ended. Read twice."""

    def lines() -> Iterator[bytes]:
        with open_blocks(path) as file:
            yield from (line.rstrip(b"\r\n") + b"\n" for line in file if line.strip())

    return Payload(lines, sum(map(len, lines())))


def is_repeatable(request: httpx.Request) -> bool:
    return request.method in ("GET", "HEAD") or bool(request.extensions.get(REPEATABLE))


def unavailable(request: httpx.Request, error: httpx.RequestError | TooLarge) -> VendorUnavailable:
    called = f"{request.method} {request.url.copy_with(query=None)}"
    if isinstance(error, TooLarge):
        unsure = "" if is_repeatable(request) else " Whether it was carried out, and is billed, is not known."
        return VendorUnavailable(
            f"{called} was answered with {error}, where a few kilobytes were asked for; the rest was not read.{unsure} "
            "Look at what answers at the connection's address: the vendor, or a proxy or gateway before it."
        )
    kind = type(error).__name__
    return VendorUnavailable(f"{called} failed: {kind}: {error}")
