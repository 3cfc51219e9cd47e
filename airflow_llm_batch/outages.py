"""Troubles of a store, or of a database, that pass: how they are told from those that stay, and trying again."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

#: errors that tell what will be so tomorrow
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, UnicodeError)
#: how drivers of stores and databases call troubles of the moment, and what they say when they are none
OUTAGE = re.compile(
    "Timeout|Connect|Disconnected|Endpoint|Unavailable|ServerError|Throttl|SlowDown|Operational|TooManyRequests|"
    "ServiceRe(quest|sponse)Error|IncompleteRead|ResponseStreaming|ClientPayload"
)
LASTING = re.compile(
    r"no such|syntax|does not exist|unable to open|authentication|password|denied|not a database", re.I
)
#: ``EREMOTEIO`` is what s3fs makes of a 500, ``EBUSY`` of a 503
ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBUSY", "EIO", "EINTR", "ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "ENETRESET", "ECONNABORTED",
        "ECONNRESET", "EPIPE", "ETIMEDOUT", "EREMOTEIO", "ESTALE",
    )
    if hasattr(errno, name)
)  # fmt: skip
#: answers of HTTP by which a store says that it may do so later
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507, 509, 529})
#: and that it may not be done; gcsfs keeps nothing of it but the word
FORBIDDEN, REFUSED = frozenset({401, 403}), "Forbidden:"
#: how often an operation of a store is tried, and seconds of the first and of the longest pause between
TRIES, FIRST, LONGEST = 5, 0.2, 5.0
P = ParamSpec("P")
R = TypeVar("R")


def pause(seconds: float) -> None:
    """Between two tries; tests do not wait."""
    time.sleep(seconds)


def is_outage(error: BaseException) -> bool:
    """Whether a store, or a database, failed for a reason of the moment: it could not be reached, or had too much to
    do. What is not there, not allowed or not readable stays so."""
    if isinstance(error, FINAL):
        return False
    if (status := status_of(error)) is not None:
        return status in BUSY
    named = OUTAGE.search(type(error).__name__) and not LASTING.search(str(error))
    return isinstance(error, ConnectionError | TimeoutError) or bool(named) or getattr(error, "errno", None) in ERRNOS


def is_forbidden(error: BaseException) -> bool:
    """Whether a store has refused, in whatever words its driver tells it."""
    refused = status_of(error) in FORBIDDEN or str(error).startswith(REFUSED)
    return isinstance(error, PermissionError) or refused


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, as botocore, gcsfs and azure-core keep it; None where there is none."""
    for one in filter(None, (error, error.__cause__)):
        response = getattr(one, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        found = (metadata.get("HTTPStatusCode"), getattr(one, "status_code", None), getattr(one, "code", None))
        for status in found:
            if isinstance(status, int | str) and str(status).isdigit() and 400 <= int(status) < 600:
                return int(status)
    return None


def patiently(operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Do what does no harm when it is done twice, and do it again while the trouble is one that passes.

    :raises Exception: the last one, as the store raised it. ``PermissionError`` for what may not be done, and where.
    """
    trying = Retrying(
        retry=retry_if_exception(is_outage),
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential_jitter(initial=FIRST, max=LONGEST, jitter=FIRST),
        sleep=lambda seconds: pause(seconds),
        reraise=True,
    )
    try:
        return trying(operation, *args, **kwargs)
    except Exception as error:
        if not is_forbidden(error):
            raise
        # Stores say no more than that they refuse.
        place = next((str(arg) for arg in args if isinstance(arg, str) or hasattr(arg, "parent")), "the storage")
        said = " ".join(str(error).split()).rstrip(".")
        raise PermissionError(
            f"{place}: {said}. The connection in the URI, or whoever runs the task, may not do that there; for the "
            "rights that tasks need see 'Storage and its rights' in the README."
        ) from error
