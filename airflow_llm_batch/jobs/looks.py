"""A wait that does what it waits for: looks, creates what has room, and finishes what the deadline has cut off."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import BudgetExceeded, SubmissionUnconfirmed
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.submission.doubt import wait_for_creates
from airflow_llm_batch.jobs.submission.orphans import look_for_orphans
from airflow_llm_batch.jobs.submission.submit import submit
from airflow_llm_batch.jobs.waiting.decisions import is_transient
from airflow_llm_batch.jobs.waiting.wait import JobWait
from airflow_llm_batch.metrics import time_wait

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.options import Deadline
    from airflow_llm_batch.models import Job

#: seconds until shards are created again after trouble that passes
TROUBLE = 60.0


class Looks:
    """The looks at one job, or at one batch that no job of ours made.

    :param store: the job's directory, None for a batch alone.
    :ivar stop: set by another thread, ends it before the next create.
    :ivar not_before: epoch seconds before which no shard is to be created.
    """

    def __init__(
        self,
        hook: LLMBatchHook,
        store: JobStore | None,
        log: Logger,
        deadline: Deadline,
        *,
        batch_id: str | None = None,
        stop: Event | None = None,
    ) -> None:
        self.hook, self.store, self.log, self.deadline, self.batch_id = hook, store, log, deadline, batch_id
        self.stop = stop or Event()
        self.not_before = 0.0
        self._wait: JobWait | None = None

    @property
    def wait(self) -> JobWait:
        """The wait as the job directory had it when it was first asked for."""
        if self._wait is None:
            self._wait = JobWait(
                self.hook,
                self.store,
                self.log,
                batch_id=self.batch_id,
                deadline=self.deadline.allowed,
                on_deadline=self.deadline.action,
            )
            self._wait.wait.not_before = self.not_before
        return self._wait

    def look(self) -> bool:
        """Look once, and create what has room; True when the job has ended."""
        wait = self.wait
        step = wait.look()
        if self.store is not None:
            if step.action == "create":
                self._create(self.store)
            if step.action == "ended":
                job = self.store.job()
                time_wait(job)
                self._look_for_orphans(self.store, job)
                if self.deadline.action == "finish_online" and wait.is_late and not is_followed(self.store):
                    self._finish_online(self.store)
        return step.action == "ended"

    def _create(self, store: JobStore) -> None:
        try:
            submit(store, self.hook, store.job_now(), stop=self.stop)
        except Exception as error:
            if isinstance(error, SubmissionUnconfirmed) or not is_transient(error):
                raise
            self.log.warning("Creating the next shards met trouble, trying again later: %s", error)
            self.not_before = time.time() + TROUBLE
        self._wait = None

    def _look_for_orphans(self, store: JobStore, job: Job) -> None:
        try:
            look_for_orphans(store, self.hook, job)
        except Exception as error:
            self.log.warning("Lost creates could not be looked for once more: %s: %s", type(error).__name__, error)

    def _finish_online(self, store: JobStore) -> None:
        """The rows that the deadline has cut off are called one by one, at flex where that costs less; none that a
        batch has finished."""
        from airflow_llm_batch.jobs.online.endpoint import Calls
        from airflow_llm_batch.jobs.online.finish import finish
        from airflow_llm_batch.jobs.online.flex import at_less

        job = store.job()
        calls = at_less(self.hook, job, Calls())
        self.log.info("The deadline has passed: calling what the batches have not finished (%s).", calls.lane)
        try:
            called = finish(store, self.hook, job, calls, self.stop)
        except BudgetExceeded as error:
            self.log.warning("%s They are landed as the batch has left them.", error)
            return
        self.log.info("Called %s rows; they are landed together with the others.", f"{called:,}")

    def kill(self) -> None:
        """The waiting task was failed or cleared: what runs is cancelled, as the directory has it then: a wave may have
        created more than the last look knew of."""
        if self._wait is not None:
            wait_for_creates()
            self._wait = None
            self.wait.kill()


def is_followed(store: JobStore) -> bool:
    """Whether a job is landed already, or a further round of it has begun."""
    return store.manifest() is not None or history.following(store, store.job().round + 1).load_job() is not None
