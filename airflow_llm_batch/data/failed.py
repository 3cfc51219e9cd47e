"""Rows that are asked again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import XComArg

from airflow_llm_batch.data.values import written
from airflow_llm_batch.exceptions import ConfigurationError, NoRows

#: rows that failed since the account had no money
QUOTA = "quota"
#: rows that the vendor counts as finished, and does not deliver
UNDELIVERED = "undelivered"
#: rows that nobody was asked, since no earlier job was answered to them
NOT_IN_CACHE = "not_in_cache"
#: what is asked again by choice only: it was, or may have been, paid for or wanted, or fails again at once
BY_CHOICE = ("truncated", "invalid", "refused", "cancelled", QUOTA, UNDELIVERED, NOT_IN_CACHE)


#: what Airflow asks for the tasks that an argument depends on, and for its value when the task runs
ResolveMixin: Any = next(base for base in XComArg.__mro__ if base.__name__ == "ResolveMixin")


@dataclass
class FailedRows(ResolveMixin):  # type: ignore[misc]
    """The rows of a landed job that did not succeed and may when they are asked again, as ``rows`` of another job.

    Always asked again: rate limits, server errors, time-outs, expired and missing rows. Never: what the vendor refused
    for good. Rows that failed since the account had no money are asked again by default here, for one who has filled it
    and would else send, and pay, all rows once more.

    The requests are those that were sent, kept in the job directory; the source of the rows is not read again. When
    there is nothing to ask again the job has no rows, and fetching it passes on what was landed before.

    :param fetched: a Fetch task's output, or the URI of its manifest or of the job directory.
    :param also: what to ask again too, of ``truncated``, ``invalid``, ``refused``, ``cancelled``, ``quota`` and
        ``undelivered``.
    :param token_factor: rows that were cut at their token cap are asked with it times this.
    :param show_error: rows that were ``invalid`` are asked with their answer, and why it was not accepted, in the
        conversation.
    :param model: asked instead of the one that has failed, of the same provider.
    """

    fetched: Any
    also: Sequence[str] = (QUOTA,)
    token_factor: float = 2.0
    show_error: bool = False
    model: str | None = None

    template_fields: ClassVar[tuple[str, ...]] = ("fetched", "model")

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """The tasks whose output it is, as Airflow wants to know them."""
        return XComArg.iter_xcom_references(self.fetched)

    def resolve(self, context: Any, **kwargs: Any) -> FailedRows:
        """The same with the upstream task's output in place of the reference to it."""
        if isinstance(self.fetched, ResolveMixin):
            return replace(self, fetched=self.fetched.resolve(context, **kwargs))
        return self

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.also) - set(BY_CHOICE)) if not isinstance(self.also, str) else [self.also]:
            raise ConfigurationError(
                f"FailedRows cannot ask {', '.join(unknown)} rows again; also is a list of {', '.join(BY_CHOICE)}."
            )
        if not self.token_factor >= 1:
            raise ConfigurationError(f"token_factor is {self.token_factor!r}; give 1 or more.")

    @property
    def job(self) -> str:
        """URI of the landed job's directory.

        :raises ConfigurationError: when ``fetched`` is not what a Fetch task returns.
        """
        fetched = written(self.fetched)
        if isinstance(fetched, dict):
            if fetched.get("manifest") is None and fetched.get("rows") == 0:
                raise NoRows("There are no failed rows: nothing was asked. Nothing was sent.")
            fetched = fetched.get("manifest")
        if not isinstance(fetched, str) or "://" not in fetched:
            raise ConfigurationError(
                f"FailedRows was given {self.fetched!r}; pass a FetchResultsOperator's output. Nothing was sent."
            )
        return fetched.removesuffix("/manifest.json")
