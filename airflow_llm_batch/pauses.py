"""How long to wait before a call is repeated: as the vendor says, or longer each time."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime

import httpx
from tenacity import RetryCallState, wait_random_exponential

#: a duration as Google writes one: "30s", "1.5s"
DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d+(?:\.\d+)?)s"')
#: seconds
LONGEST_PAUSE = 120.0


def drop_response(state: RetryCallState) -> None:
    """Free the connection of an answer that will be asked for again."""
    assert state.outcome is not None
    if not state.outcome.failed and not state.outcome.result().is_closed:
        state.outcome.result().close()


def pause(state: RetryCallState) -> float:
    """Seconds until the next try: what the vendor asks for, else a growing random pause."""
    assert state.outcome is not None
    asked = None if state.outcome.failed else retry_after(state.outcome.result())
    wait = wait_random_exponential(multiplier=0.5, max=20)(state) if asked is None else asked
    return min(max(wait, 0.0), LONGEST_PAUSE)


def retry_after(response: httpx.Response) -> float | None:
    """The vendor's wish in seconds: ``retry-after-ms``, ``retry-after`` as seconds or an HTTP date, or Google's
    ``RetryInfo`` in the body."""
    try:
        if ms := response.headers.get("retry-after-ms"):
            return float(ms) / 1000
        wait = response.headers.get("retry-after")
        if not wait:
            return google_delay(response)
        if wait.replace(".", "", 1).isdigit():
            return float(wait)
        return (email.utils.parsedate_to_datetime(wait) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None


def google_delay(response: httpx.Response) -> float | None:
    """Seconds that the details of a ``google.rpc.Status`` ask for, ``{"retryDelay": "30s"}``.

    :raises ValueError: for a delay that is no duration.
    """
    if response.is_success or not response.is_closed or b"retryDelay" not in response.content:
        return None
    found = DELAY.search(response.content)
    return float(found[1]) if found else None
