"""Every error this package raises, in one tree, and whether a retry of the task may help.

LLMBatchError
├── NothingBilled                   refused before anything was sent, or by the vendor at the door
│   ├── InputError            (!)   a row, a source line or a request is unusable
│   │   └── NoRows            (!)   there is nothing to ask
│   ├── ConfigurationError    (!)   a connection, an argument, a package or a storage location is unusable
│   ├── BudgetExceeded        (!)   the estimate is above max_cost, or cannot be made
│   ├── SourceUnavailable           rows, or a place for results, cannot be reached now
│   ├── Busy                        another attempt of this very task is at it
│   └── RequestRejected             the vendor answered 4xx: status, code and its own message
│       └── RefusedForGood    (!)   for a reason that is not of the moment: the key, the path, the request, no money
├── SomethingBilled                 a batch exists or may exist at the vendor
│   ├── SubmissionUnconfirmed       a create was sent and its fate is not known
│   ├── Interrupted                 we stopped half-way; what was done is kept, and the next try goes on
│   ├── WaitEnded             (!)   we stopped watching; the batch was left in place or cancelled, as it says
│   ├── ResultsUnusable       (!)   what came back cannot be landed, or too much of it failed
│   ├── FirstRowsFailed       (!)   the rows that were tried first failed, and nothing else was sent
│   └── Unwritable                  one row's answer does not fit the format
└── VendorUnavailable               the vendor could not be reached or answered 5xx, for longer than we retry

Those marked (!) are ``AirflowFailException``s: a retry cannot mend them, and Airflow fails the task at once, whatever
retries it has left.
"""

from __future__ import annotations

import errno
import functools
import tempfile
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar, cast

from airflow.providers.common.compat.sdk import AirflowFailException

F = TypeVar("F", bound=Callable[..., Any])
#: no room on the disk, or no more for this user
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class LLMBatchError(Exception):
    """Base of every error of this package."""

    @property
    def retry_helps(self) -> bool:
        """Whether the same may succeed when it is tried again, nothing else changed."""
        return not isinstance(self, AirflowFailException)


class NothingBilled(LLMBatchError):
    """No vendor work was paid for by the step that failed."""


class InputError(NothingBilled, AirflowFailException):
    """A row, a source line or a request cannot be used."""


class NoRows(InputError):
    """There is nothing to ask: no rows, or no files."""


class ConfigurationError(NothingBilled, AirflowFailException):
    """A connection, an argument, a package or a storage location cannot be used."""


class BudgetExceeded(NothingBilled, AirflowFailException):
    """The job is estimated to cost more than it may, or its cost cannot be estimated."""


class SourceUnavailable(NothingBilled):
    """Rows, or a place for results, cannot be reached now."""


class Busy(NothingBilled):
    """Another attempt is at what this one wants to do."""


class RequestRejected(NothingBilled):
    """The vendor refused a call with an HTTP 4xx.

    :param status: the HTTP status.
    :param code: the vendor's error code or type, "" where it gave none.
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def is_missing(self) -> bool:
        """Whether the vendor has not what was asked for, or has not heard of it yet: it says the same of both."""
        return self.status == HTTPStatus.NOT_FOUND


class RefusedForGood(RequestRejected, AirflowFailException):
    """The vendor refused a call and will again: the key, the permission, the path, the request, an empty account."""


class SomethingBilled(LLMBatchError):
    """Vendor work exists, or may exist, that is paid for."""


class SubmissionUnconfirmed(SomethingBilled):
    """A batch may or may not have been created; the message names what was found."""


class Interrupted(SomethingBilled):
    """The task was stopped half-way, or could not watch on; what was done is kept, and the next try goes on from it."""


class WaitEnded(SomethingBilled, AirflowFailException):
    """The wait is over before the job is; the message says what became of the batches."""


class ResultsUnusable(SomethingBilled, AirflowFailException):
    """Results were harvested and they, or too many of them, cannot be used."""


class FirstRowsFailed(SomethingBilled, AirflowFailException):
    """The rows that were tried before the others failed: a few calls were billed at most, and no batch was made.

    :param cost_usd: of these calls, as far as it is known.
    """

    def __init__(self, message: str, cost_usd: float = 0.0) -> None:
        super().__init__(message)
        self.cost_usd = cost_usd


class Unwritable(SomethingBilled):
    """A format cannot hold a row's answer; the row is landed as ``invalid``, with the whole answer in ``raw``."""


class VendorUnavailable(LLMBatchError):
    """The vendor did not answer, or answered 5xx; ``status`` is its last HTTP status or None."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def plainly(method: F) -> F:
    """A task's method whose failures of ours are told in their one sentence, without the way that led there."""

    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except LLMBatchError as error:
            raise error.with_traceback(None) from None
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise Interrupted(
                f"The disk is full: no room is left for {error.filename or 'temporary files'} ({error.strerror}). Make "
                f"room, or set TMPDIR (temporary files lie in {tempfile.gettempdir()}), and clear the task: what was "
                "sent before is in the job directory, and is neither sent nor billed again."
            ) from error

    return cast("F", guarded)
