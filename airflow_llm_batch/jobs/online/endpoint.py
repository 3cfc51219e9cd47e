"""Calls of one model's synchronous endpoint: their pace, their repetitions, and what is made of their answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import httpx
import msgspec

from airflow_llm_batch.bounded import TooLarge
from airflow_llm_batch.exceptions import RefusedForGood, VendorUnavailable
from airflow_llm_batch.jobs.directory.journal import UNANSWERED
from airflow_llm_batch.jobs.directory.rows import read_entry
from airflow_llm_batch.jobs.online.flex import CALL_TAKES, Tier
from airflow_llm_batch.jobs.online.lease import pace_of
from airflow_llm_batch.pauses import retry_after
from airflow_llm_batch.providers.json_lines import UNREADABLE, bare
from airflow_llm_batch.providers.troubles import is_empty_account, is_passing_code, is_refused_key, may_pass
from airflow_llm_batch.wire import Wire

if TYPE_CHECKING:
    from airflow_llm_batch.data.row_check import Check
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.models import Shard
    from airflow_llm_batch.providers.bodies import Call
    from airflow_llm_batch.results import Result

#: a 429 that no waiting ends: the request alone is above the limit of a minute
TOO_LARGE = re.compile(rb"request too large|must be reduced", re.IGNORECASE)
#: by how much longer a request waits while no other is answered well either
STORM = 6
#: answers of 403 in a row, none good before, that tell of the key and not of a row
MOST_FORBIDDEN = 3
#: seconds between two tries of a call, doubled with each, at most a minute
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: the code of an answer that cannot be read
UNREAD = "unreadable_answer"
#: seconds for a call
TIMEOUTS = {"online": 600.0, "flex": CALL_TAKES}
#: what no vendor answers: there was no answer
NO_ANSWER = 599


@dataclass
class Calls:
    """How calls are made.

    :param concurrency: at once.
    :param requests_per_minute: None for any number; likewise ``tokens_per_minute``, the prompt as we estimate it.
    :param timeout: seconds for one call, its repetitions and pauses included; 0 for the lane's own.
    :param retries: how often a call is repeated after trouble that passes, as the connection says by default; refusals
        for the rate are not counted.
    :param lane: ``online``, or ``flex``: slower, at a lower price, and turned away while there is no room.
    :param fallback: seconds without room at flex after which the rest is called ``online``; None to wait for room.
    """

    concurrency: int = 32
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 0.0
    retries: int | None = None
    lane: str = "online"
    fallback: float | None = None

    def __post_init__(self) -> None:
        self.timeout = self.timeout or TIMEOUTS[self.lane]


class Tried(NamedTuple):
    """One try of a call: its answer as one line of JSON, None for none; the pause in seconds that was asked for; the
    seconds that it took without the wait for its turn; and whether flex had no room for it, which is no try at all."""

    status: int
    body: bytes | None
    pause: float | None
    spent: float
    turned_away: bool = False

    @property
    def is_limited(self) -> bool:
        """Whether it was told to slow down."""
        return self.status == httpx.codes.TOO_MANY_REQUESTS


class Vendor:
    """One model's endpoint: its connections and its pace.

    :param check: what answers have to pass to be good.
    """

    def __init__(self, hook: LLMBatchHook, calls: Calls, check: Check | None = None) -> None:
        self.provider, self.calls, self.check = hook.provider, calls, check
        self.transport, self.auth = hook.transport, hook.transport.auth
        self.origin, self.connect_timeout = httpx.URL(hook.provider.call_url), hook.transport.connect_timeout
        own = {**(self.auth.fixed or {}), **self.auth.besides, **self.auth.also}
        self.headers = {**hook.transport.agent, **(own if self.auth.owns(self.origin) else {})}
        self.retries = hook.transport.retries if calls.retries is None else calls.retries
        self.pace = pace_of(hook, calls)
        self.tier = Tier(self.provider, calls.lane, calls.fallback)
        self.idle: list[Wire] = []
        #: good answers, and answers of 403 in a row
        self.good = self.forbidden = 0
        #: whether it has ever answered anything, and how many calls in a row it has not
        self.heard = False
        self.silent = 0

    @contextlib.asynccontextmanager
    async def wire(self, tokens: int) -> AsyncIterator[Wire]:
        """A connection for one call, when it is this call's turn."""
        await self.pace.enter(tokens)
        wire = self.idle.pop() if self.idle else Wire(self.origin, self.headers, self.connect_timeout)
        try:
            yield wire
        finally:
            self.idle.append(wire)
            self.pace.leave()

    async def ask(self, request: bytes, tokens: int, shard: Shard) -> bytes:
        """The answer to one request, as a batch would have answered: good, refused, or the trouble that did not pass.

        :raises RefusedForGood: when the vendor refuses the key, and has not answered anything well yet.
        :raises VendorUnavailable: when it cannot be reached, and was not before.
        """
        call = self.provider.call(request, shard)
        trouble = self._unanswered(call, "timeout", f"No answer within {self.calls.timeout:.0f} seconds.")
        left, tries = self.calls.timeout, 0
        limited = Limited(self.calls.timeout)
        while tries <= self.retries and left > 0:
            tried = await self._try(call, tokens, left)
            if tried.turned_away:
                continue
            status, body = tried.status, tried.body
            left -= tried.spent
            if body is None:
                if left > 0:
                    trouble = self._unanswered(call, "connection_error", "The connection failed.")
            else:
                self.silent = 0
                trouble = self.transport.clean_line(self.provider.answered(call.custom_id, status, body))
                if not self._may_pass(status, body, trouble):
                    return trouble
                if tried.is_limited and limited.is_hopeless(body, self.good):
                    return trouble
            # To be told to slow down is no failure, and the wait for one's turn is not the call's time.
            tries += not tried.is_limited
            if tries <= self.retries and not tried.is_limited:
                pause = backoff(tries) if tried.pause is None else tried.pause
                await asyncio.sleep(min(pause, max(left, 0)))
                left -= pause
        if UNANSWERED in trouble:
            self.silent += 1
            if (self.silent >= self.calls.concurrency or not self.heard) and tries > self.retries:
                raise VendorUnavailable(
                    f"{self.provider.name} at {self.origin} cannot be reached: {self.silent} calls in a row got no "
                    "answer in all their tries. What was answered is kept; retry when it can be."
                )
        return trouble

    def _may_pass(self, status: int, body: bytes, line: bytes) -> bool:
        """Whether an answer is trouble that may pass: some servers say so in the body alone, of a 200 too."""
        if may_pass(status) or (200 <= status < 300 and b'"error"' not in body):
            return may_pass(status)
        try:
            result = self.provider.read(line)
        except UNREADABLE:
            return False
        return result.status == "errored" and is_passing_code(result.error_code or "")

    def _unanswered(self, call: Call, code: str, message: str) -> bytes:
        error = {"error": {"type": code, "code": code, "message": message, "unanswered": True}}
        return self.provider.answered(call.custom_id, NO_ANSWER, msgspec.json.encode(error))

    async def _try(self, call: Call, tokens: int, seconds: float) -> Tried:
        async with self.wire(tokens) as wire:
            # While it waited for its turn, the tier may have become another.
            at_flex, asked = self.tier.is_flex, self.tier.of(call)
            began = time.monotonic()
            try:
                async with asyncio.timeout(seconds):
                    response = await self._post(wire, asked)
            except (TooLarge, httpx.DecodingError) as error:
                # It was answered, and so most likely billed: not asked once more.
                return Tried(httpx.codes.OK, unusable(error), None, time.monotonic() - began)
            except (httpx.RequestError, TimeoutError):
                return Tried(0, None, None, time.monotonic() - began)
            spent = time.monotonic() - began
        status, pause = response.status_code, retry_after(response)
        turned_away = self._look_at(response, at_flex)
        if at_flex and not self.tier.is_flex:
            self.pace.start_over()
        elif status == httpx.codes.TOO_MANY_REQUESTS or turned_away:
            self.pace.was_refused(pause)
        body = response.content
        if not (response.is_success and bare(body).startswith(b"{")):
            # It may be cut, and what is left of the key not be known for it.
            body = self.transport.redactor.data(body)
        elif self.provider.tells_beside:
            body = self.provider.body_of(response)
        return Tried(status, one_line(body, status), pause, spent, turned_away)

    def _look_at(self, response: httpx.Response, at_flex: bool) -> bool:
        """What an answer tells of all calls; whether flex has turned this one away.

        :raises RefusedForGood: when the key, the permission, the quota or the tier is refused.
        """
        status, error = response.status_code, ("", "")
        self.forbidden = self.forbidden + 1 if status == httpx.codes.FORBIDDEN else 0
        if response.is_success:
            self.good += 1
            self.pace.went_well()
            self.tier.took()
        else:
            error = self.provider.error_of(response)
            what = "the key, the permission or the quota" if is_fatal(status, error, self.good, self.forbidden) else ""
            if at_flex and not what and self.tier.is_refused(response):
                self.heard = True
                return True
            if at_flex and not self.good and self.provider.refuses_flex(response):
                what = "flex for these calls (give lane='online' or 'batch', or a model that takes it)"
            if what:
                raise self.transport.redacted(
                    RefusedForGood(
                        f"{self.provider.name} at {self.origin} refuses {what} (HTTP {status}): {error[1]} That call "
                        "was not billed; what was answered before is kept.",
                        status=status,
                    )
                )
        self.heard = True
        return at_flex and not TOO_LARGE.search(response.content) and self.tier.turns_away(response)

    async def _post(self, wire: Wire, call: Call) -> httpx.Response:
        """Send a call with its credentials; once more where a token was refused that has expired."""
        if self.auth.fixed is not None:
            return await wire.post(call.path, call.headers, call.body)
        url = self.origin.copy_with(raw_path=call.path)
        request = httpx.Request("POST", url, headers=call.headers, content=call.body)
        response = await wire.post(call.path, {**call.headers, **await self.auth.aheaders(request)}, call.body)
        if response.status_code == httpx.codes.UNAUTHORIZED and self.auth.forget():
            response = await wire.post(call.path, {**call.headers, **await self.auth.aheaders(request)}, call.body)
        return response

    def is_good(self, line: bytes, entry: bytes) -> bool:
        """Whether an answer is one to take: finished, not refused, and past what its row's answers have to pass."""
        try:
            result: Result = self.provider.read(line)
        except UNREADABLE:
            return False
        if self.check is not None:
            whose = read_entry(entry)
            self.check(result, whose.key, whose.columns)
        return result.status == "succeeded"

    async def close(self) -> None:
        await asyncio.gather(self.pace.close(), *(wire.close() for wire in self.idle))


class Limited:
    """How long one request is told to wait: a limit that others pass below is the request's own.

    :param patience: seconds.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.since: float | None = None
        self.good = 0

    def is_hopeless(self, body: bytes, good: int) -> bool:
        """Whether to give it up.

        :param good: calls that were answered well so far.
        """
        if TOO_LARGE.search(body):
            return True
        if self.since is None:
            self.since, self.good = time.monotonic(), good
        waited = time.monotonic() - self.since
        return waited > self.patience * (1 if good > self.good else STORM)


def is_fatal(status: int, error: tuple[str, str], good: int, forbidden: int) -> bool:
    """Whether an answer concerns every call: a refused key, an empty account, a permission that was never there.

    :param forbidden: answers of 403 in a row: one alone may be about what its row says.
    """
    empty = status == httpx.codes.PAYMENT_REQUIRED or (400 <= status < 500 and is_empty_account(*error, status))
    never = forbidden >= MOST_FORBIDDEN and not good and not is_passing_code(error[0])
    return is_refused_key(status, error[0]) or empty or never


def unusable(error: Exception) -> bytes:
    """The error of an answer that was not read to its end."""
    message = f"The answer was not read: {error}. It may be billed, and was not asked for again."
    return msgspec.json.encode({"error": {"type": UNREAD, "code": UNREAD, "message": message}})


def backoff(tries: int) -> float:
    pause: float = min(FIRST_PAUSE * 2 ** max(tries - 1, 0), LONGEST_PAUSE)
    return pause * random.uniform(0.5, 1.5)  # noqa: S311


def one_line(body: bytes, status: int) -> bytes:
    """A JSON body without newlines; anything else as an error that holds it, in a JSON object."""
    try:
        formatted: bytes = msgspec.json.format(bare(body), indent=-1)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        formatted = b""
    if formatted.startswith(b"{"):
        return formatted
    said = body[:500].decode("utf-8", "replace")
    code = UNREAD if 200 <= status < 300 else f"http_{status}"
    error = {"type": code, "message": f"The answer is not a JSON object: {said!r}"}
    return msgspec.json.encode({"error": error, "answer": msgspec.Raw(formatted) if formatted else said})
