"""The emulator as one ASGI app: every vendor, faults, and a window into its state."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from airflow_llm_batch.emulator import (
    anthropic,
    anthropic_clouds,
    azure,
    bedrock,
    bedrock_openai,
    fireworks,
    gcs,
    gemini,
    mistral,
    openai,
    openrouter,
    uploads,
    vertex,
    window,
    xai,
)
from airflow_llm_batch.emulator.batches import QueueFull, Vendor
from airflow_llm_batch.emulator.events import Keys, Sender
from airflow_llm_batch.emulator.presets import routes as presets
from airflow_llm_batch.emulator.settings import HttpFault, Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: each vendor's module: ``router``, ``owns(path)``, and ``Refusal(status, message)``, an exception with ``status`` and
#: ``body``; the first that owns a path answers for it. Where OpenAI's mechanisms serve one that has other errors, its
#: ``words(refusal)`` says them
DIALECTS: tuple[Any, ...] = (
    gemini, anthropic, anthropic_clouds, bedrock, bedrock_openai, azure, vertex, gcs, fireworks, mistral, openrouter,
    xai, presets, openai,
)  # fmt: skip


def dialect_of(path: str) -> Any:
    return next(dialect for dialect in DIALECTS if dialect.owns(path))


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app; ``app.state.vendor`` holds its files and batches."""
    app = FastAPI(title="LLM batch emulator", docs_url=None, redoc_url=None)
    app.state.vendor = Vendor(settings or Settings())
    app.state.keys = Keys()
    Sender(app.state.vendor, app.state.keys).start()
    app.state.store = gcs.Store(app.state.vendor.directory)
    # As they are: ``include_router`` makes each route anew, in far more time than most emulators serve.
    for room in (*DIALECTS, uploads, window):
        app.router.routes.extend(room.router.routes)
    app.add_middleware(FaultMiddleware, vendor=app.state.vendor)

    async def refuse(request: Request, error: Any) -> JSONResponse:
        words = getattr(dialect_of(request.url.path), "words", None)
        if words is not None and isinstance(error, openai.Refusal):
            error = words(error)
        return refused(error, error.status)

    for dialect in DIALECTS:
        app.add_exception_handler(dialect.Refusal, refuse)

    @app.exception_handler(QueueFull)
    async def no_room(request: Request, error: QueueFull) -> JSONResponse:
        status, message, code = error.args
        return refused(dialect_of(request.url.path).Refusal(status, message, code), status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
        return refused(dialect_of(request.url.path).Refusal(400, problems), 400)

    return app


def refused(refusal: Any, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A refusal whose header has the request id that its body tells, as Anthropic's do."""
    identified = {"request-id": refusal.body["request_id"]} if "request_id" in refusal.body else {}
    own = getattr(refusal, "headers", {})
    return JSONResponse(refusal.body, status, {**(headers or {}), **own, **identified})


class FaultMiddleware:
    """Counts calls and makes the chosen ones fail."""

    def __init__(self, app: ASGIApp, vendor: Vendor) -> None:
        self.app, self.vendor = app, vendor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_emulator"):
            await self.app(scope, receive, send)
            return
        call = f"{scope['method']} {scope['path']}"
        self.vendor.calls[call] += 1
        send = named(scope, send)
        fault = self.strike(call)
        if fault is None:
            await self.app(scope, receive, send)
            return
        await asyncio.sleep(fault.delay)
        if fault.cut == "before":
            await hang_up(send)
        elif fault.cut == "after":
            await self.app(scope, receive, swallow)
            await hang_up(send)
        elif fault.cut == "body":
            await self.app(scope, receive, Cut(send, fault.cut_bytes))
        elif fault.status is not None:
            headers = {"retry-after": fault.retry_after} if fault.retry_after else None
            refusal = dialect_of(scope["path"]).Refusal(fault.status, "Injected failure.")
            await refused(refusal, fault.status, headers)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def strike(self, call: str) -> HttpFault | None:
        for fault in self.vendor.settings.faults.http:
            if call == fault.on or (fault.on.endswith("*") and call.startswith(fault.on[:-1])):
                if fault.skip > 0:
                    fault.skip -= 1
                elif fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


def named(scope: Scope, send: Send) -> Send:
    """Answers with a request id, as either vendor's support wants to know it."""
    anthropics = any(name == b"anthropic-version" for name, _ in scope["headers"])
    header = b"request-id" if anthropics else b"x-request-id"

    async def identified(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = list(message.get("headers", ()))
            if not any(name == header for name, _ in known):
                known.append((header, f"req_{uuid.uuid4().hex}".encode()))
            message = {**message, "headers": known}
        await send(message)

    return identified


async def hang_up(send: Send) -> None:
    """Promise a body and leave: the server closes the connection in the middle of it."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})


async def swallow(message: Message) -> None:
    """A reader who has left."""


class Cut:
    """Lets so many bytes of a body through and then none."""

    def __init__(self, send: Send, left: int) -> None:
        self.send, self.left = send, left

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")[: max(self.left, 0)]
            self.left -= len(message.get("body", b""))
            if not body and self.left <= 0:
                return
            message = {**message, "body": body, "more_body": True}
        await self.send(message)
