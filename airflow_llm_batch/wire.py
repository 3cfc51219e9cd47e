"""One keep-alive HTTP/1.1 connection per worker: what the online lane calls over.

httpx's pool looks through all of its connections for each call, which at a hundred at once costs ten milliseconds of
CPU a call. Here a worker has a connection to itself, h11 reads the protocol, and httpx keeps its words for it:
responses and errors.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from typing import Any

import h11
import httpx

from airflow_llm_batch.transport import ssl_context

BLOCK = 2**16


class Wire:
    """A connection to one origin, opened when it is needed and again after trouble.

    :param headers: sent with every request: credentials go to this origin only, since there is no other.
    :param connect_timeout: seconds allowed for connecting.
    """

    def __init__(self, origin: httpx.URL, headers: Mapping[str, str], connect_timeout: float = 15.0) -> None:
        self.origin, self.connect_timeout = origin, connect_timeout
        self.headers = [(b"host", origin.netloc), *((k.encode(), v.encode()) for k, v in headers.items())]
        #: whether anything of the answer has come
        self.heard = False
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.protocol = h11.Connection(h11.CLIENT)

    async def post(self, path: bytes, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        """Send a POST and read the whole answer.

        A connection that was kept open may have been closed by the server meanwhile: it is opened again, once, as long
        as nothing of an answer has come.

        :raises httpx.TransportError: when the connection fails; the request may have arrived.
        """
        kept = self.writer is not None
        try:
            return await self._post(path, headers, body)
        except httpx.ReadError:
            if not kept or self.heard:
                raise
        return await self._post(path, headers, body)

    async def _post(self, path: bytes, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        self.heard = False
        try:
            if self.writer is None:
                await self._open()
            own = [(name.encode(), value.encode()) for name, value in headers.items()]
            sizes = [(b"content-length", b"%d" % len(body))]
            request = h11.Request(method=b"POST", target=path, headers=[*self.headers, *own, *sizes])
            sent = [self.protocol.send(part) for part in (request, h11.Data(data=body), h11.EndOfMessage())]
            assert self.writer is not None
            self.writer.write(b"".join(filter(None, sent)))
            return await self._answer()
        except (OSError, h11.ProtocolError, EOFError) as error:
            self.close()
            raise httpx.ReadError(f"{type(error).__name__}: {error}") from None
        except BaseException:
            # A call that was given up has left half an answer on the line.
            self.close()
            raise

    async def _open(self) -> None:
        secure = self.origin.scheme == "https"
        options: dict[str, Any] = {"ssl": ssl_context(), "server_hostname": self.origin.host} if secure else {}
        port = self.origin.port or (443 if secure else 80)
        try:
            opening = asyncio.open_connection(self.origin.host, port, **options)
            self.reader, self.writer = await asyncio.wait_for(opening, self.connect_timeout)
        except (OSError, TimeoutError) as error:
            raise httpx.ConnectError(f"{self.origin.host}:{port}: {error or type(error).__name__}") from None
        self.protocol = h11.Connection(h11.CLIENT)

    async def _answer(self) -> httpx.Response:
        head: h11.Response | None = None
        parts: list[bytes] = []
        assert self.reader is not None
        while True:
            event = self.protocol.next_event()
            if event is h11.NEED_DATA:
                data = await self.reader.read(BLOCK)
                self.heard = self.heard or bool(data)
                self.protocol.receive_data(data)
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.InformationalResponse):
                raise EOFError("the connection was closed in the middle of an answer")
        assert head is not None
        if self.protocol.our_state is h11.DONE and self.protocol.their_state is h11.DONE:
            self.protocol.start_next_cycle()
        else:
            self.close()
        return httpx.Response(head.status_code, headers=list(head.headers), content=b"".join(parts))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


class ProxiedWire:
    """The same over an httpx client, where the environment names a proxy to go through."""

    def __init__(self, origin: httpx.URL, headers: Mapping[str, str], connect_timeout: float = 15.0) -> None:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        timeout = httpx.Timeout(None, connect=connect_timeout)
        self.client = httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout, verify=ssl_context())
        self.origin = origin

    async def post(self, path: bytes, headers: Mapping[str, str], body: bytes) -> httpx.Response:
        return await self.client.post(self.origin.copy_with(raw_path=path), headers=headers, content=body)

    def close(self) -> None:
        """Its one connection goes with the event loop."""


def open_wire(origin: httpx.URL, headers: Mapping[str, str], connect_timeout: float = 15.0) -> Wire | ProxiedWire:
    """A connection to an origin, through the environment's proxy where there is one for it."""
    proxied = urllib.request.getproxies().get(origin.scheme) and not urllib.request.proxy_bypass(origin.host)
    return (ProxiedWire if proxied else Wire)(origin, headers, connect_timeout)
