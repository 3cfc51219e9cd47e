"""One keep-alive connection per worker: what the online lane calls over.

A pool that many workers share looks through all of its connections for each call, which at a hundred at once costs ten
milliseconds of CPU a call. Here a worker has a connection to itself, through a proxy where the environment names one;
httpx keeps its words for it: responses and errors.
"""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Mapping
from typing import Any

import httpcore
import httpx

from airflow_llm_batch.bounded import Body, plain_headers
from airflow_llm_batch.transport import ssl_context

#: that the server closed a connection which was kept open, as far as one can tell
CLOSED = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)


class Wire:
    """A connection to one origin, opened when it is needed and again after trouble.

    :param headers: sent with every request: credentials go to this origin only, since there is no other.
    :param connect_timeout: seconds allowed for connecting.
    """

    def __init__(self, origin: httpx.URL, headers: Mapping[str, str], connect_timeout: float = 15.0) -> None:
        self.origin = origin
        self.headers = [(b"host", origin.netloc), *((k.encode(), v.encode()) for k, v in headers.items())]
        self.proxy = proxy_for(origin)
        self.connection: httpcore.AsyncHTTPConnection | httpcore.AsyncConnectionPool | None = None
        timeout = {"connect": connect_timeout, "read": None, "write": None, "pool": None}
        self.extensions: dict[str, Any] = {"timeout": timeout, "trace": self._trace}
        #: of the call under way: whether it opened a connection, and whether anything of an answer has come
        self.opened = self.heard = False

    async def _trace(self, event: str, details: Mapping[str, Any]) -> None:
        self.opened = self.opened or event.startswith("connection.connect")
        self.heard = self.heard or event.endswith("receive_response_headers.complete")

    async def post(self, path: bytes, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        """Send a POST and read the whole answer, of an error its beginning.

        A connection that was kept open may have been closed by the server meanwhile: it is opened again, once, as long
        as nothing of an answer has come.

        :raises httpx.RequestError: when the connection fails or the answer cannot be unpacked; the request may have
            arrived. ``TooLarge`` when the answer is more than any that is read whole.
        """
        own = [(name.encode(), value.encode()) for name, value in headers.items()]
        sizes = [(b"content-length", b"%d" % len(body))]
        url = httpcore.URL(scheme=self.origin.raw_scheme, host=self.origin.raw_host, port=self.origin.port, target=path)
        request = httpcore.Request(
            b"POST", url, headers=[*self.headers, *own, *sizes], content=body, extensions=self.extensions
        )
        try:
            try:
                return await self._send(request)
            except CLOSED:
                if self.opened or self.heard:
                    raise
                return await self._send(request)
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.ProxyError) as error:
            raise httpx.ConnectError(f"{self.origin.host}: {error or type(error).__name__}") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise httpx.ReadError(f"{type(error).__name__}: {error}") from None

    async def _send(self, request: httpcore.Request) -> httpx.Response:
        self.opened = self.heard = False
        connection = self._ready()
        try:
            response = await connection.handle_async_request(request)
            try:
                headers = httpx.Headers(response.headers)
                body = Body(headers, is_error=not 200 <= response.status < 300)
                async for chunk in response.aiter_stream():
                    if not body.add(chunk):
                        break
            finally:
                await response.aclose()
            content = body.end()
        except BaseException:
            # A call that was given up leaves half an answer on the line.
            self.connection = None
            with contextlib.suppress(Exception):
                await connection.aclose()
            raise
        return httpx.Response(response.status, headers=plain_headers(headers), content=content)

    def _ready(self) -> httpcore.AsyncHTTPConnection | httpcore.AsyncConnectionPool:
        kept = self.connection
        if isinstance(kept, httpcore.AsyncHTTPConnection) and (kept.is_closed() or kept.has_expired()):
            kept = None
        if kept is None and self.proxy is None:
            scheme, host, port = self.origin.raw_scheme, self.origin.raw_host, self.origin.port
            origin = httpcore.URL(scheme=scheme, host=host, port=port, target="/").origin
            kept = httpcore.AsyncHTTPConnection(origin, ssl_context())
        elif kept is None:
            # A pool of one knows how to speak to a proxy.
            kept = httpcore.AsyncConnectionPool(ssl_context(), proxy=self.proxy, max_connections=1)
        self.connection = kept
        return kept

    async def close(self) -> None:
        if self.connection is not None:
            await self.connection.aclose()


def proxy_for(origin: httpx.URL) -> httpcore.Proxy | None:
    """The environment's proxy for an origin, None where there is none."""
    proxy = urllib.request.getproxies().get(origin.scheme)
    if not proxy or urllib.request.proxy_bypass(origin.host):
        return None
    url = httpx.URL(proxy if "://" in proxy else f"http://{proxy}")
    auth = (url.username.encode(), url.password.encode()) if url.username or url.password else None
    return httpcore.Proxy(str(url.copy_with(username=None, password=None)), auth=auth)
