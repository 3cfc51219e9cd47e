"""What the endpoints of Google's Gemini API share: the key, errors as ``google.rpc.Status``, two spellings, times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from airflow_llm_batch.emulator.batches import Vendor
from airflow_llm_batch.providers.gemini.words import camel_members

#: google.rpc.Code by HTTP status, and its number
CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
    413: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
NUMBERS = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 413: 3, 429: 8, 500: 13, 503: 14, 504: 4}
#: paths that no other vendor has, and all of this API's
ONLY = re.compile(r"/(upload|download)/v1|/v1(beta|alpha)/|/v1/(models|batches|files)/[^/]+:")
MOST_ON_PAGE = 100
ALL = re.compile(r"/((upload|download)/)?v1(beta|alpha)?/(models|batches|files)(/|$)")


class Refusal(Exception):
    """An error answer in Google's shape."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self.body = {"error": {"code": status, "message": message, "status": code or CODES.get(status, "UNKNOWN")}}


class Route(APIRoute):
    """A route that leaves to others the paths that they have too, unless a key of Google's comes along."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        keyed = any(name == b"x-goog-api-key" for name, _ in scope.get("headers", ()))
        ours = ONLY.match(scope["path"]) or (keyed and ALL.match(scope["path"]))
        return super().matches(scope) if ours else (Match.NONE, {})


def vendor_of(request: Request) -> Vendor:
    """Checks the key; every route but an upload's session asks for it."""
    vendor: Vendor = request.app.state.vendor
    key = request.headers.get("x-goog-api-key") or request.query_params.get("key") or ""
    if not key.strip():
        raise Refusal(
            403, "Method doesn't allow unregistered callers (callers without established identity). Please use API Key."
        )
    if vendor.settings.api_key not in (None, key.strip()):
        raise Refusal(400, "API key not valid. Please pass a valid API key.")
    return vendor


Held = Annotated[Vendor, Depends(vendor_of)]


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.body() or b"{}")
    except ValueError as error:
        raise Refusal(400, f"Invalid JSON payload received. {error}") from None
    if not isinstance(body, dict):
        raise Refusal(400, "Invalid JSON payload received. Expected an object.")
    return camel_members(body)


def members(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object within another, its names in camelCase; empty where there is none."""
    found = body.get(name)
    return camel_members(found) if isinstance(found, dict) else {}


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def paged(request: Request, names: list[str], usual: int) -> tuple[list[str], str | None]:
    """The page of names that a listing asks for, and the token of the next one.

    :param usual: names on a page by default; a hundred at most.
    :raises Refusal: for a token that nobody has given, and a size that is no number.
    """
    size, token = request.query_params.get("pageSize", "0"), request.query_params.get("pageToken")
    if not size.isdigit():
        raise Refusal(400, f"Invalid value at 'page_size' (TYPE_INT32), {size}")
    if token and token not in names:
        raise Refusal(400, "The page token is invalid.")
    left, most = names[names.index(token) :] if token else names, min(int(size) or usual, MOST_ON_PAGE)
    return left[:most], left[most] if len(left) > most else None
