"""Where vendors push their events: no user, no login, the signature is the credential."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.directory.awaited import AwaitedJobs
from airflow_llm_batch.metrics import count_event
from airflow_llm_batch.plugin.assets import make_asset_events
from airflow_llm_batch.signing_keys import SigningKeys
from airflow_llm_batch.webhooks import Event, Mailbox, NotAuthentic, verified

log = logging.getLogger(__name__)
PATH = "/hooks/"
MOST_BYTES = 64 * 1024
#: requests of one connection at once, and how many more each second
BURST, RATE = 100.0, 10.0
#: connections that are remembered
MOST_KNOWN = 1000
REFUSED = "Not signed with this connection's secret, or not lately."


class Rate:
    """So many requests of each connection, and no more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.left: dict[str, tuple[float, float]] = defaultdict(lambda: (BURST, self.clock()))

    def allows(self, conn_id: str) -> bool:
        if len(self.left) > MOST_KNOWN:
            # Whoever has been quiet longest is known no more, and begins anew.
            del self.left[min(self.left, key=lambda known: self.left[known][1])]
        now = self.clock()
        left, at = self.left[conn_id]
        left = min(BURST, left + (now - at) * RATE)
        self.left[conn_id] = (max(left - 1, 0.0), now)
        return left >= 1


async def whole(request: Request) -> bytes:
    """A body of bounded size.

    :raises HTTPException: 413.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"Events have at most {MOST_BYTES:,} bytes.")
    return body


#: one for each address, for as long as the API server runs
keys_at = lru_cache(maxsize=64)(SigningKeys)


def tell_of_end(jobs: AwaitedJobs, conn_id: str, event: Event) -> None:
    """A batch has ended: when it was the last of a job that is awaited, whoever awaits it is told.

    :raises Exception: when that is not possible now. The vendor sends the event again then.
    """
    awaited = jobs.end(event.batch)
    if awaited is None or not jobs.begin_telling(awaited):
        return
    try:
        make_asset_events(awaited, conn_id)
    except BaseException:
        jobs.leave(awaited)
        raise
    jobs.forget(awaited)


def make_hooks(storage: str | None = None, clock: Callable[[], float] = time.monotonic) -> FastAPI:
    """:param storage: another one than Airflow's own, for tests; likewise the ``clock``, in seconds."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    rate = Rate(clock)

    def keep(conn_id: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        try:
            provider = LLMBatchHook(conn_id).provider
            keys = keys_at(provider.signing_keys) if provider.signing_keys else None
            secret, url = provider.options.webhook_secret or "", getattr(provider.options, "webhook_url", None) or ""
            event = verified(secret, headers, body, datetime.now(UTC), keys, url)
        except NotAuthentic:
            raise HTTPException(401, REFUSED) from None
        except Exception as error:
            # A connection that does not exist is not told from one that exists.
            log.warning("An event for connection %r was refused: %s", conn_id[:100], type(error).__name__)
            raise HTTPException(401, REFUSED) from None
        place = storage or default_storage()
        try:
            new = Mailbox(place, conn_id).keep(event)
            if event.is_end:
                tell_of_end(AwaitedJobs(place, conn_id), conn_id, event)
        except Exception as error:
            log.warning("An event for connection %r could not be kept: %s", conn_id, type(error).__name__)
            raise HTTPException(503, "The event could not be kept; send it again.") from None
        count_event(conn_id, new=new)
        log.info("Event %s for connection %r%s.", event.kind[:60], conn_id, "" if new else ", once more")
        return {"kept": new}

    @app.post(PATH + "{conn_id}")
    async def receive(conn_id: str, request: Request) -> JSONResponse:
        if not rate.allows(conn_id):
            return JSONResponse({"detail": "Too many events at once."}, 429, {"retry-after": "10"})
        body = await whole(request)
        return JSONResponse(await run_in_threadpool(keep, conn_id, dict(request.headers), body))

    return app
