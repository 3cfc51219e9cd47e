"""One keep-alive connection per worker: what the online lane calls over.

A pool that many workers share looks through all of its connections for each call, which at a hundred at once costs ten
milliseconds of CPU a call. Here a worker has a connection to itself and h11 reads the protocol; through a proxy, where
the environment names one, it is httpx's transport. httpx keeps its words for both: responses and errors.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from typing import Any, cast

import h11
import httpx

from airflow_llm_batch.bounded import Body, aread, plain, plain_headers
from airflow_llm_batch.transport import ssl_context

Fields = list[tuple[bytes, bytes]]
#: bytes of an answer's headers; vendors and those before them write long cookies and policies
LONGEST_HEAD = 100 * 2**10
#: seconds after which a host's next address is tried beside one that does not answer
NEXT_ADDRESS = 0.25
#: that the server closed a connection which was kept open, as far as one can tell
CLOSED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


class Link(asyncio.Protocol):
    """An open connection.

    :ivar heard: whether anything has come since the last request.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self.came = asyncio.Event()
        self.heard = False
        self.lost: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.http.receive_data(data)
        self.came.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = error
        if error is None:
            # An orderly end: some answers have no other.
            self.http.receive_data(b"")
        self.came.set()

    @property
    def is_idle(self) -> bool:
        """Whether a request may be sent: the server has not closed it, nor said anything unasked."""
        return not self.transport.is_closing() and self.http.trailing_data == (b"", False)

    def send(self, path: bytes, headers: Fields, body: bytes) -> None:
        self.heard = False
        request = h11.Request(method=b"POST", target=path, headers=headers)
        sent = [self.http.send(part) for part in (request, h11.Data(data=body), h11.EndOfMessage())]
        self.transport.write(b"".join(filter(None, sent)))

    async def answer(self) -> httpx.Response:
        """The whole answer, of an error its beginning."""
        head = await self._next()
        while isinstance(head, h11.InformationalResponse):
            head = await self._next()
        headers = httpx.Headers(list(head.headers))
        body = Body(headers, is_error=not 200 <= head.status_code < 300)
        while isinstance(part := await self._next(), h11.Data) and body.add(bytes(part.data)):
            pass
        content = body.end()
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        else:
            self.transport.abort()
        return httpx.Response(head.status_code, headers=plain_headers(headers), content=content)

    async def _next(self) -> Any:
        """The next of h11's events."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            if self.lost is not None:
                raise self.lost
            self.came.clear()
            await self.came.wait()
        return event


class Wire:
    """A connection to one origin, opened when it is needed and again after trouble.

    :param headers: sent with every request: credentials go to this origin only, since there is no other.
    :param connect_timeout: seconds allowed for connecting.
    """

    def __init__(self, origin: httpx.URL, headers: Mapping[str, str], connect_timeout: float = 15.0) -> None:
        self.origin, self.connect_timeout = origin, connect_timeout
        self.headers = [(b"host", origin.netloc), *fields(headers)]
        self.link: Link | None = None

    async def post(self, path: bytes, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        """Send a POST and read the whole answer, of an error its beginning.

        A connection that was kept open may have been closed by the server meanwhile: it is opened again, once, as long
        as nothing of an answer has come.

        :raises httpx.RequestError: when the connection fails or the answer cannot be unpacked; the request may have
            arrived. ``TooLarge`` when the answer is more than any that is read whole.
        """
        head = [*self.headers, *fields(headers), (b"content-length", b"%d" % len(body))]
        kept = self.link
        if kept is not None and kept.is_idle:
            try:
                return await self._call(kept, path, head, body)
            except httpx.ReadError:
                if kept.heard:
                    raise
        await self.close()
        self.link = await self._open()
        return await self._call(self.link, path, head, body)

    async def _call(self, link: Link, path: bytes, head: Fields, body: bytes) -> httpx.Response:
        try:
            link.send(path, head, body)
            return await link.answer()
        except BaseException as error:
            # A call that was given up leaves half an answer on the line.
            await self.close()
            if isinstance(error, OSError | h11.ProtocolError):
                raise httpx.ReadError(f"{type(error).__name__}: {error}") from None
            raise

    async def _open(self) -> Link:
        secure = self.origin.scheme == "https"
        options: dict[str, Any] = {"ssl": ssl_context(), "server_hostname": self.origin.host} if secure else {}
        port = self.origin.port or (443 if secure else 80)
        connect = asyncio.get_running_loop().create_connection
        try:
            async with asyncio.timeout(self.connect_timeout):
                _, link = await connect(Link, self.origin.host, port, happy_eyeballs_delay=NEXT_ADDRESS, **options)
        except (OSError, TimeoutError) as error:
            raise httpx.ConnectError(f"{self.origin.host}: {error or type(error).__name__}") from None
        return link

    async def close(self) -> None:
        if self.link is not None:
            self.link.transport.abort()
            self.link = None


class ProxiedWire(Wire):
    """The same through a proxy."""

    def __init__(
        self, proxy: httpx.Proxy, origin: httpx.URL, headers: Mapping[str, str], connect_timeout: float = 15.0
    ) -> None:
        super().__init__(origin, headers, connect_timeout)
        self.transport = httpx.AsyncHTTPTransport(ssl_context(), proxy=proxy, limits=httpx.Limits(max_connections=1))
        timeout = httpx.Timeout(None, connect=connect_timeout).as_dict()
        self.extensions: dict[str, Any] = {"timeout": timeout, "trace": self._trace}
        #: of the call under way: whether it opened a connection, and whether anything of an answer has come
        self.opened = self.heard = False

    async def _trace(self, event: str, details: Mapping[str, Any]) -> None:
        self.opened = self.opened or event.startswith("connection.connect")
        self.heard = self.heard or event.endswith("receive_response_headers.complete")

    async def post(self, path: bytes, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        url = self.origin.copy_with(raw_path=path)
        head = [*self.headers, *fields(headers)]
        request = httpx.Request("POST", url, headers=head, content=body, extensions=self.extensions)
        try:
            return await self._through(request)
        except CLOSED:
            if self.opened or self.heard:
                raise
            return await self._through(request)

    async def _through(self, request: httpx.Request) -> httpx.Response:
        self.opened = self.heard = False
        response = await self.transport.handle_async_request(request)
        return plain(response, await aread(response))

    async def close(self) -> None:
        await self.transport.aclose()


def fields(headers: Mapping[str, str]) -> Fields:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def open_wire(origin: httpx.URL, headers: Mapping[str, str], connect_timeout: float = 15.0) -> Wire:
    """A connection to an origin, through the environment's proxy where there is one for it."""
    proxy = urllib.request.getproxies().get(origin.scheme)
    if not proxy or urllib.request.proxy_bypass(origin.host):
        return Wire(origin, headers, connect_timeout)
    given = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
    return ProxiedWire(given, origin, headers, connect_timeout)
