"""The wait, as Airflow sees it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, PokeReturnValue

from airflow_llm_batch.exceptions import ConfigurationError, SubmissionUnconfirmed, WaitEnded
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.operators.handle import JobHandle

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_llm_batch.jobs.wait import JobWait


#: seconds until shards are created again after trouble that passes
TROUBLE = 60.0


class BatchSensor(BaseSensorOperator):
    """Waits until every batch of a job has ended, whatever it ended as; results are for ``FetchResultsOperator``.

    Deferred by default: the wait takes no worker slot. Transient failures never end it. When watching ends early, at
    ``deadline`` or because the vendor refuses the key, the batches are left in place and the task fails saying so;
    clearing it waits on.

    :param job: a Submit task's output, or the URI of a job directory.
    :param batch_id: a vendor's batch id, to wait for a batch that no job of ours made; needs ``conn_id``.
    :param conn_id: the ``llmbatch`` connection; the job's own by default.
    :param deadline: how long after submission watching ends; None for never.
    :param on_deadline: ``leave`` what runs then and fail, or ``cancel`` it, wait for the cancellation and succeed with
        what was finished.
    :param deferrable: False to look from a worker, as ``mode`` and ``poke_interval`` say.
    :param max_poll_interval: seconds; a deferred wait looks every ``poke_interval`` seconds at first and less often
        the longer it lasts, down to this.
    :param cancel_on_kill: cancel what still runs when a user fails or clears the waiting task.
    :return: the job handle it was given (XCom), for ``FetchResultsOperator``.
    """

    template_fields: Sequence[str] = ("job", "batch_id", "conn_id", "deadline")
    ui_color = "#e4def5"

    def __init__(
        self,
        *,
        job: Mapping[str, Any] | str | None = None,
        batch_id: str | None = None,
        conn_id: str | None = None,
        deadline: timedelta | float | None = timedelta(hours=48),
        on_deadline: str = "leave",
        deferrable: bool = True,
        max_poll_interval: timedelta | float = 300.0,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("poke_interval", 15)
        super().__init__(**kwargs)
        self.job, self.batch_id, self.conn_id = job, batch_id, conn_id
        self.deadline = deadline
        if job is None and batch_id is None:
            raise ValueError("BatchSensor needs job, a Submit task's output, or batch_id, a batch made elsewhere.")
        if on_deadline not in ("leave", "cancel"):
            raise ValueError(f"on_deadline is {on_deadline!r}; give 'leave' or 'cancel'.")
        self.on_deadline = on_deadline
        self.deferrable = deferrable
        if isinstance(max_poll_interval, timedelta):
            max_poll_interval = max_poll_interval.total_seconds()
        if not max_poll_interval > 0:
            raise ValueError(f"max_poll_interval is {max_poll_interval!r}; give seconds, more than 0.")
        self.max_poll_interval = float(max_poll_interval)
        self.cancel_on_kill = cancel_on_kill
        self._wait: JobWait | None = None
        # Made when it is needed: Airflow copies operators, and an event cannot be copied.
        self._stop: Event | None = None
        self._not_before = 0.0

    def execute(self, context: Context) -> Any:
        return self._wait_on(context) if self.deferrable else super().execute(context)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        if event["status"] == "error":
            raise WaitEnded(event["message"])
        return self._wait_on(context)

    def poke(self, context: Context) -> PokeReturnValue:
        ended = self._advance()
        return PokeReturnValue(ended, self._told())

    def _wait_on(self, context: Context) -> Any:
        from airflow_llm_batch.triggers import BatchTrigger

        handle = self._handle()
        if self._advance():
            return self._told()
        self.defer(
            trigger=BatchTrigger(
                job=handle.job,
                conn_id=handle.conn_id,
                batch_id=handle.stranger,
                poll_interval=self.poke_interval,
                max_poll_interval=self.max_poll_interval,
                deadline=self._deadline(),
                on_deadline=self.on_deadline,
                cancel_on_kill=self.cancel_on_kill,
                not_before=self._not_before,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )
        return None

    def _advance(self) -> bool:
        """Look once, and create what has room; True when the job has ended."""
        wait = self._open()
        step = wait.look()
        if step.action == "create" and wait.store is not None:
            from airflow_llm_batch.jobs.polling import is_transient
            from airflow_llm_batch.jobs.submission import submit

            self._stop = Event()
            try:
                submit(wait.store, wait.hook, wait.store.job(), stop=self._stop)
            except Exception as error:
                if isinstance(error, SubmissionUnconfirmed) or not is_transient(error):
                    raise
                self.log.warning("Creating the next shards met trouble, trying again later: %s", error)
                self._not_before = time.time() + TROUBLE
            self._wait = None
        return step.action == "ended"

    def _told(self) -> dict[str, Any]:
        """The handle to pass on: as it was given, with the batches of later waves."""
        handle = self._handle()
        seen = self._open().wait.seen
        if handle.job is not None and len(seen) == handle.shards:
            handle.batches = [batch.id for _, batch in sorted(seen.items()) if batch.id]
        return handle.to_xcom()

    def on_kill(self) -> None:
        from airflow_llm_batch.jobs.settling import wait_for_creates

        if self._stop is not None:
            self._stop.set()
        if self._wait is not None and self.cancel_on_kill:
            # As the directory has it then: a wave may have created more than the last look knew of.
            wait_for_creates()
            self._wait = None
            self._open().cancel()

    def _handle(self) -> JobHandle:
        if self.batch_id:
            if not self.conn_id:
                raise ConfigurationError("BatchSensor(batch_id=...) needs conn_id as well. Nothing was sent.")
            return JobHandle(job=None, conn_id=self.conn_id, batches=[self.batch_id])
        return JobHandle.of(self.job, self.conn_id)

    def _open(self) -> JobWait:
        from airflow_llm_batch.jobs.store import JobStore
        from airflow_llm_batch.jobs.wait import JobWait

        if self._wait is None:
            handle = self._handle()
            store = JobStore(handle.job) if handle.job else None
            self._wait = JobWait(
                LLMBatchHook(handle.conn_id),
                store,
                self.log,
                batch_id=handle.stranger,
                deadline=self._deadline(),
                on_deadline=self.on_deadline,
            )
            self._wait.wait.not_before = self._not_before
        return self._wait

    def _deadline(self) -> float | None:
        if self.deadline is None or isinstance(self.deadline, timedelta):
            return self.deadline.total_seconds() if self.deadline is not None else None
        return float(self.deadline)
