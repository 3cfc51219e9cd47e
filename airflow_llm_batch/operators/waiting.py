"""A job's wait as an Airflow task has it: looks, shards created when there is room, a trigger, a cancellation."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import (
    BudgetExceeded,
    ConfigurationError,
    Interrupted,
    SubmissionUnconfirmed,
    WaitEnded,
)
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.links import addresses
from airflow_llm_batch.metrics import time_wait

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.waiting.wait import JobWait
    from airflow_llm_batch.operators.handle import JobHandle
    from airflow_llm_batch.triggers import BatchTrigger

#: seconds until shards are created again after trouble that passes
TROUBLE = 60.0
#: what may happen at the deadline
DEADLINES = ("leave", "cancel", "finish_online")


class Waiting:
    """One job, or one batch that no job of ours made.

    :param deadline: seconds after submission at which watching ends, None for never.
    :param on_deadline: ``leave``, ``cancel`` or ``finish_online``.
    """

    def __init__(self, handle: JobHandle, log: Logger, deadline: float | None, on_deadline: str) -> None:
        self.handle, self.log = handle, log
        self.deadline, self.on_deadline = deadline, on_deadline
        self.not_before = 0.0
        self.stop = Event()
        self._wait: JobWait | None = None

    @property
    def wait(self) -> JobWait:
        """The wait as the job directory had it when it was first asked for."""
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.waiting.wait import JobWait

        if self._wait is None:
            self._wait = JobWait(
                LLMBatchHook(self.handle.conn_id),
                JobStore(self.handle.job) if self.handle.job else None,
                self.log,
                batch_id=self.handle.stranger,
                deadline=self.deadline,
                on_deadline=self.on_deadline,
            )
            self._wait.wait.not_before = self.not_before
        return self._wait

    def advance(self) -> bool:
        """Look once, and create what has room; True when the job has ended."""
        wait = self.wait
        step = wait.look()
        if step.action == "create" and wait.store is not None:
            from airflow_llm_batch.jobs.submission.submit import submit
            from airflow_llm_batch.jobs.waiting.decisions import is_transient

            try:
                submit(wait.store, wait.hook, wait.store.job(), stop=self.stop)
            except Exception as error:
                if isinstance(error, SubmissionUnconfirmed) or not is_transient(error):
                    raise
                self.log.warning("Creating the next shards met trouble, trying again later: %s", error)
                self.not_before = time.time() + TROUBLE
            self._wait = None
        if step.action == "ended" and wait.store is not None:
            time_wait(wait.store.job())
            if self.on_deadline == "finish_online" and wait.is_late and not is_further(wait.store):
                self._finish_online(wait, wait.store)
        return step.action == "ended"

    def _finish_online(self, wait: JobWait, store: JobStore) -> None:
        """The rows that the deadline has cut off are called one by one; none that a batch has finished."""
        from airflow_llm_batch.jobs.online.endpoint import Calls
        from airflow_llm_batch.jobs.online.online import finish

        self.log.info("The deadline has passed: calling what the batches have not finished.")
        try:
            called = finish(store, wait.hook, store.job(), Calls(), self.stop)
        except BudgetExceeded as error:
            self.log.warning("%s They are landed as the batch has left them.", error)
            return
        self.log.info("Called %s rows online; they are landed together with the others.", f"{called:,}")

    @property
    def links(self) -> dict[str, str]:
        """Where the waiting task's links lead."""
        batches = self.handle.batches
        return addresses(self.handle.job, self.wait.hook.provider, batches)

    def told(self) -> dict[str, Any]:
        """The handle to pass on: as it was given, with the batches of later waves."""
        seen = self.wait.wait.seen
        if self.handle.job is None and seen:
            self.handle.rows = next(iter(seen.values())).total or self.handle.rows
        if self.handle.job is not None and len(seen) == self.handle.shards:
            self.handle.batches = [batch.id for _, batch in sorted(seen.items()) if batch.id]
        return self.handle.to_xcom()

    def trigger(self, poll_interval: float, max_poll_interval: float, cancel_on_kill: bool) -> BatchTrigger:
        """What goes on looking while the task is deferred."""
        from airflow_llm_batch.triggers import BatchTrigger

        return BatchTrigger(
            job=self.handle.job,
            conn_id=self.handle.conn_id,
            batch_id=self.handle.stranger,
            poll_interval=poll_interval,
            max_poll_interval=max_poll_interval,
            deadline=self.deadline,
            on_deadline=self.on_deadline,
            cancel_on_kill=cancel_on_kill,
            not_before=self.not_before,
        )

    def kill(self, *, cancel: bool) -> None:
        """The task is killed: nothing further is created, and with ``cancel`` what runs is cancelled."""
        from airflow_llm_batch.jobs.submission.doubt import wait_for_creates

        self.stop.set()
        if cancel and self._wait is not None:
            # As the directory has it then: a wave may have created more than the last look knew of.
            wait_for_creates()
            self._wait = None
            self.wait.kill()


def check_event(event: Mapping[str, Any]) -> None:
    """What a trigger tells of a wait that is over.

    :raises WaitEnded: when it ended for good, and ``Interrupted`` when another try may go on.
    """
    if event["status"] == "error":
        raise (Interrupted if event.get("retry") else WaitEnded)(event["message"])


def is_further(store: JobStore) -> bool:
    """Whether a job is landed already, or a further round of it has begun."""
    return store.manifest() is not None or store.following(store.job().round + 1).load_job() is not None


def seconds(duration: timedelta | float | str | None) -> float | None:
    """A duration as seconds, None for never.

    :raises ConfigurationError: for anything that is not one.
    """
    if duration is None or isinstance(duration, timedelta):
        return duration.total_seconds() if duration is not None else None
    try:
        return float(duration)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{duration!r} is no duration; give a timedelta or a number of seconds.") from None
