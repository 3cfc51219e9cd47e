"""Somebody does not want a job any more, and says so by hand: on its page, or at the command line."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.jobs.waiting.wait import JobWait

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.store import JobStore

log = logging.getLogger(__name__)


class Withdrawn(NamedTuple):
    """What came of it.

    :param runs: whether anything of the job was not over.
    :param taken: whether the vendor took every cancellation.
    :param cancelled: batches whose cancellation was asked for; ``planned`` shards that will not be sent, and
        ``uncertain`` batches that may be somebody else's.
    :param creating: a batch is being created at this moment.
    """

    runs: bool
    taken: bool = True
    cancelled: int = 0
    planned: int = 0
    uncertain: int = 0
    creating: bool = False

    @property
    def is_done(self) -> bool:
        """Whether anything was cancelled, and nothing refused."""
        return self.taken and bool(self.cancelled or self.planned)

    @property
    def message(self) -> str:
        """The same for people."""
        if not self.runs:
            return "Nothing of this job runs any more."
        done = [f"Cancellation of {self.cancelled} batch(es) was asked for"] if self.cancelled else []
        done += [f"{self.planned} that waited for room will not be sent"] if self.planned else []
        done += [f"{self.uncertain} may be somebody else's and cannot be cancelled"] if self.uncertain else []
        done += ["one is being created at this moment; cancel once more when it is there"] if self.creating else []
        if not self.taken:
            return "; ".join([*done, "the vendor did not take every cancellation: try again"]) + "."
        deeds = "; ".join(done)
        if not self.is_done:
            return deeds.capitalize() + "."
        return f"{deeds}. Vendors take up to ten minutes; finished rows stay billed."


def withdraw(store: JobStore, hook: LLMBatchHook) -> Withdrawn:
    """Cancel what runs of a job, and close what was not sent; whoever waits sees it end, and lands what was finished.

    :param store: of its last round.
    """
    wait = JobWait(hook, store, log)
    # What has ended meanwhile is written down, and not cancelled.
    wait.look()
    planned, creating = len(wait.wait.planned), wait.wait.doubtful
    if not (wait.wait.pending or planned or creating):
        return Withdrawn(runs=False)
    taken = wait.withdraw()
    return Withdrawn(True, taken, wait.cancelled, planned, wait.uncertain, creating)
