"""A job's wait as an Airflow task has it: looks, a trigger, a cancellation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from threading import Thread
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import ConfigurationError, Interrupted, WaitEnded
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.links import addresses
from airflow_llm_batch.models import is_call

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.jobs.looks import Looks
    from airflow_llm_batch.jobs.options import Deadline
    from airflow_llm_batch.jobs.run import JobRun
    from airflow_llm_batch.operators.handle import JobHandle
    from airflow_llm_batch.triggers import BatchTrigger

#: seconds between two looks of a deferred wait, at most
LONGEST_PAUSE = 300.0
#: seconds for Airflow to say what became of a task; it is killed for good five seconds after the first signal
LONGEST_QUESTION = 2.0


class Waiting:
    """One job, or one batch that no job of ours made."""

    def __init__(self, handle: JobHandle, log: Logger, deadline: Deadline) -> None:
        from airflow_llm_batch.jobs.directory.store import JobStore
        from airflow_llm_batch.jobs.looks import Looks

        self.handle, self.deadline = handle, deadline
        store = JobStore(handle.job) if handle.job else None
        hook = LLMBatchHook(handle.conn_id)
        self.looks: Looks = Looks(hook, store, log, deadline, batch_id=handle.external)

    def advance(self) -> bool:
        """Look once, and create what has room; True when the job has ended."""
        return self.looks.look()

    @property
    def links(self) -> dict[str, str]:
        """Where the waiting task's links lead."""
        return addresses(self.handle.job, self.looks.hook.provider, self.handle.batches)

    def to_xcom(self) -> dict[str, Any]:
        """The handle to pass on: as it was given, with the batches of later waves."""
        seen = self.looks.wait.wait.seen
        if self.handle.job is None and seen:
            self.handle.rows = next(iter(seen.values())).total or self.handle.rows
        known = [batch.id for _, batch in sorted(seen.items()) if batch.id]
        batches = [batch_id for batch_id in known if not is_call(batch_id)] or known
        if self.handle.job is not None and len(batches) >= (self.handle.shards or 0):
            self.handle.batches = batches
        return self.handle.to_xcom()

    def trigger(
        self, poll_interval: float, max_poll_interval: float, cancel_on_kill: bool, late_at: float | None = None
    ) -> BatchTrigger:
        """What goes on looking while the task is deferred."""
        from airflow_llm_batch.triggers import BatchTrigger

        return BatchTrigger(
            job=self.handle.job,
            conn_id=self.handle.conn_id,
            batch_id=self.handle.external,
            poll_interval=poll_interval,
            max_poll_interval=max_poll_interval,
            deadline=self.deadline.allowed,
            on_deadline=self.deadline.action,
            cancel_on_kill=cancel_on_kill,
            not_before=self.looks.not_before,
            late_at=late_at,
        )

    def kill(self, *, cancel: bool) -> None:
        """The task is killed: nothing further is created, and with ``cancel`` what runs is cancelled."""
        self.looks.stop.set()
        if cancel:
            self.looks.kill()


def trigger_of(
    run: JobRun,
    deadline: Deadline,
    poll_interval: float = 15.0,
    *,
    cancel_on_kill: bool = True,
    late_at: float | None = None,
) -> BatchTrigger:
    """What looks at one job while its task is deferred."""
    from airflow_llm_batch.triggers import BatchTrigger

    return BatchTrigger(
        job=run.store.uri,
        conn_id=run.hook.conn_id,
        poll_interval=poll_interval,
        max_poll_interval=LONGEST_PAUSE,
        deadline=deadline.allowed,
        on_deadline=deadline.action,
        cancel_on_kill=cancel_on_kill,
        not_before=run.not_before,
        late_at=late_at,
    )


def check_event(event: Mapping[str, Any]) -> None:
    """What a trigger tells of a wait that is over.

    :raises WaitEnded: when it ended for good, and ``Interrupted`` when another try may go on.
    """
    if event["status"] == "error":
        raise (Interrupted if event.get("retry") else WaitEnded)(event["message"])


def is_late(event: Mapping[str, Any], job: str | None) -> bool:
    """Whether a trigger has fired since a job takes longer than it usually does; it is to be waited for on."""
    return bool(event["status"] == "late" and event["job"] == job)


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


def is_left_alone(ti: Any) -> bool:
    """Whether a task that is being killed was neither failed nor cleared: its worker is shut down or moved, or its
    ``execution_timeout`` has passed, and what it waits for is for its next try. So too where Airflow does not say.

    :param ti: the running task instance, None, or anything that cannot be asked, where no Airflow runs it.
    """
    ask = getattr(ti, "get_task_states", None)
    if ask is None:
        return False
    found: list[Mapping[str, Mapping[str, Any]]] = []

    def look() -> None:
        with suppress(Exception):
            found.append(ask(dag_id=ti.dag_id, run_ids=[ti.run_id], task_ids=[ti.task_id], map_index=ti.map_index))

    # A signal may have come amid another question to Airflow, which holds the line: never in this thread.
    asking = Thread(target=look, daemon=True)
    asking.start()
    asking.join(LONGEST_QUESTION)
    return not found or "running" in found[0].get(ti.run_id, {}).values()


def pause(name: str, given: timedelta | float | str | None) -> float:
    """Seconds between two looks.

    :param name: of the argument.
    :raises ConfigurationError: for what is no time above 0.
    """
    found = seconds(given)
    if found is None or not 0 < found < math.inf:
        raise ConfigurationError(f"{name} is {given!r}; give a timedelta or a number of seconds, more than 0.")
    return found
