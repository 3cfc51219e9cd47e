"""Every error this package raises, in one tree.

LLMBatchError
├── NothingBilled                   refused before anything was sent, or by the vendor at the door
│   ├── InputError                  a row, a source line or a request is unusable
│   ├── ConfigurationError          a connection, an argument or a storage location is unusable
│   ├── BudgetExceeded              the estimate is above max_cost, or cannot be made
│   └── RequestRejected             the vendor answered 4xx: status, code and its own message
├── SomethingBilled                 a batch exists or may exist at the vendor
│   ├── SubmissionUnconfirmed       a create was sent and its fate is not known
│   ├── WaitEnded                   we stopped watching; the batch was left in place or cancelled, as it says
│   ├── ResultsUnusable             what came back cannot be landed, or too much of it failed
│   └── Unwritable                  one row's answer does not fit the format
└── VendorUnavailable               the vendor could not be reached or answered 5xx, for longer than we retry
"""

from __future__ import annotations


class LLMBatchError(Exception):
    """Base of every error of this package."""


class NothingBilled(LLMBatchError):
    """No vendor work was paid for by the step that failed."""


class InputError(NothingBilled):
    """A row, a source line or a request cannot be used."""


class ConfigurationError(NothingBilled):
    """A connection, an argument or a storage location cannot be used."""


class BudgetExceeded(NothingBilled):
    """The job is estimated to cost more than it may, or its cost cannot be estimated."""


class RequestRejected(NothingBilled):
    """The vendor refused a call with an HTTP 4xx.

    :param status: the HTTP status.
    :param code: the vendor's error code or type, "" where it gave none.
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class SomethingBilled(LLMBatchError):
    """Vendor work exists, or may exist, that is paid for."""


class SubmissionUnconfirmed(SomethingBilled):
    """A batch may or may not have been created; the message names what was found."""


class WaitEnded(SomethingBilled):
    """The wait is over before the job is; the message says what became of the batches."""


class ResultsUnusable(SomethingBilled):
    """Results were harvested and they, or too many of them, cannot be used."""


class Unwritable(SomethingBilled):
    """A format cannot hold a row's answer; the row is landed as ``invalid``, with the whole answer in ``raw``."""


class VendorUnavailable(LLMBatchError):
    """The vendor did not answer, or answered 5xx; ``status`` is its last HTTP status or None."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
