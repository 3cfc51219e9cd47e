"""Credentials: what proves who asks, and to whom it is shown."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from typing import NamedTuple

import httpx


class Login(NamedTuple):
    """What an Airflow connection says of its user.

    :param user: the login, empty where there is none; likewise ``key``, the password.
    """

    conn_id: str
    user: str = ""
    key: str = ""


def same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


class Credentials(httpx.Auth):
    """Adds headers to requests for its own origins (scheme, host, port), and to no other.

    :param origins: addresses of the servers that may see them.
    :ivar besides: headers that the vendor wants with every call beside those that prove who asks.
    :ivar also: further headers for the same origins, as gateways want them.
    """

    #: headers that are the same for every call, None where each call is signed or a token may have expired
    fixed: Mapping[str, str] | None = None

    def __init__(self, origins: Iterable[str]) -> None:
        self.origins = tuple(httpx.URL(origin) for origin in origins)
        self.besides: Mapping[str, str] = {}
        self.also: Mapping[str, str] = {}

    @abstractmethod
    def sign(self, request: httpx.Request) -> Mapping[str, str]:
        """The headers for a request whose body is known. May ask for a token: on an event loop it runs in a thread."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be told."""
        return ()

    def forget(self) -> bool:
        """Drop a token that was refused; whether there can be another."""
        return False

    def owns(self, url: httpx.URL) -> bool:
        return any(same_origin(url, origin) for origin in self.origins)

    def headers(self, request: httpx.Request) -> dict[str, str]:
        return {**self.sign(request), **self.besides, **self.also} if self.owns(request.url) else {}

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self.requires_request_body:
            request.read()
        request.headers.update(self.headers(request))
        response = yield request
        if self._is_refused(response) and self.forget():
            request.headers.update(self.headers(request))
            yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if self.requires_request_body:
            await request.aread()
        request.headers.update(await self.aheaders(request))
        response = yield request
        if self._is_refused(response) and self.forget():
            request.headers.update(await self.aheaders(request))
            yield request

    async def aheaders(self, request: httpx.Request) -> dict[str, str]:
        if self.fixed is not None:
            return self.headers(request)
        return await asyncio.to_thread(self.headers, request)

    def _is_refused(self, response: httpx.Response) -> bool:
        return response.status_code == httpx.codes.UNAUTHORIZED and self.owns(response.request.url)


class Static(Credentials):
    """Headers that never change.

    :param secrets: of them, what must not be told.
    """

    def __init__(self, origins: Iterable[str], headers: Mapping[str, str], secrets: Iterable[str] = ()) -> None:
        super().__init__(origins)
        self.fixed = dict(headers)
        self._secrets = tuple(secrets)

    def sign(self, request: httpx.Request) -> Mapping[str, str]:
        return self.fixed or {}

    @property
    def secrets(self) -> tuple[str, ...]:
        return self._secrets
