"""The wait, as Airflow sees it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseSensorOperator, PokeReturnValue

from airflow_llm_batch.alerts import SendsAlerts
from airflow_llm_batch.exceptions import ConfigurationError, plainly
from airflow_llm_batch.jobs.options import DEADLINES, Deadline
from airflow_llm_batch.links import LINKS
from airflow_llm_batch.operators.handle import JobHandle
from airflow_llm_batch.operators.rendering import RendersArguments
from airflow_llm_batch.operators.waiting import Waiting, check_event, is_late, is_left_alone, seconds

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class BatchSensor(RendersArguments, SendsAlerts, BaseSensorOperator):
    """Waits until every batch of a job has ended, whatever it ended as; results are for ``FetchResultsOperator``.

    Deferred by default: the wait takes no worker slot. Transient failures never end it. When watching ends early, at
    ``deadline`` or because the vendor refuses the key, the batches are left in place and the task fails saying so;
    clearing it waits on.

    :param job: a Submit task's output, or the URI of a job directory.
    :param batch_id: a vendor's batch id, to wait for a batch that no job of ours made; needs ``conn_id``.
    :param conn_id: the ``llmbatch`` connection; the job's own by default.
    :param deadline: how long after submission watching ends; None for never.
    :param on_deadline: ``leave`` what runs then and fail, or ``cancel`` it, wait for the cancellation and succeed with
        what was finished, or ``finish_online``: cancel it, and call the rows that were not finished one by one, so
        that the job is complete and each row paid once: at flex where that saves, and at the synchronous price where it
        does not, or has no room for five minutes (``max_cost`` is held to that price).
    :param poll_interval: seconds between looks at first; another name of ``poke_interval``.
    :param deferrable: False to look from a worker, as ``mode`` and ``poke_interval`` say.
    :param max_poll_interval: seconds; a deferred wait looks every ``poke_interval`` seconds at first and less often
        the longer it lasts, down to this.
    :param cancel_on_kill: cancel what still runs when a user fails or clears the waiting task. A worker that is shut
        down or moved and an ``execution_timeout`` leave it, for the next try.
    :param alerts: who is told when the job is late: ``Alerts(notify=[...])``.
    :return: the job handle it was given (XCom), for ``FetchResultsOperator``.
    """

    template_fields: Sequence[str] = ("job", "batch_id", "conn_id", "deadline")
    operator_extra_links = LINKS
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
        poll_interval: timedelta | float | None = None,
        max_poll_interval: timedelta | float = 300.0,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("poke_interval", 15 if poll_interval is None else poll_interval)
        super().__init__(**kwargs)
        self.job, self.batch_id, self.conn_id = job, batch_id, conn_id
        self.deadline = deadline
        if job is None and batch_id is None:
            raise ValueError("BatchSensor needs job, a Submit task's output, or batch_id, a batch made elsewhere.")
        if on_deadline not in DEADLINES:
            raise ValueError(f"on_deadline is {on_deadline!r}; give one of {', '.join(DEADLINES)}.")
        self.on_deadline = on_deadline
        self.deferrable = deferrable
        if isinstance(max_poll_interval, timedelta):
            max_poll_interval = max_poll_interval.total_seconds()
        if not max_poll_interval > 0:
            raise ValueError(f"max_poll_interval is {max_poll_interval!r}; give seconds, more than 0.")
        self.max_poll_interval = float(max_poll_interval)
        self.cancel_on_kill = cancel_on_kill
        self.link_addresses: dict[str, str] = {}
        self._waiting: Waiting | None = None
        #: the running task instance, which Airflow can be asked about
        self._ti: Any = None
        #: what the task's earlier jobs tell, once they were read
        self._late: tuple[float | None] | None = None

    @plainly
    def execute(self, context: Context) -> Any:
        self._ti = context.get("ti")
        if (handle := self._handle()).is_empty:
            return handle.to_xcom()
        return self._wait_on() if self.deferrable else super().execute(context)

    @plainly
    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        self._ti = context.get("ti")
        check_event(event)
        if is_late(event, self._handle().job):
            self._tell_of_delay(context)
        return self._wait_on()

    def poke(self, context: Context) -> PokeReturnValue:
        waiting = self._wait()
        ended = waiting.advance()
        late_at = None if ended else self._late_at()
        if late_at is not None and time.time() >= late_at:
            self._tell_of_delay(context)
        return PokeReturnValue(ended, waiting.to_xcom())

    def _wait_on(self) -> Any:
        waiting = self._wait()
        if waiting.advance():
            return waiting.to_xcom()
        self.defer(
            trigger=waiting.trigger(self.poke_interval, self.max_poll_interval, self.cancel_on_kill, self._late_at()),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )
        return None

    def _late_at(self) -> float | None:
        """Epoch seconds from which somebody wants to be told that the job is late."""
        from airflow_llm_batch.jobs.directory.store import JobStore

        job = self._handle().job
        if self._late is None:
            self._late = (self.alerts.late_after(JobStore(job)) if job and self.alerts.late else None,)
        return self._late[0]

    def _tell_of_delay(self, context: Context) -> None:
        from airflow_llm_batch.jobs.directory.store import JobStore

        self._late = (None,)
        if job := self._handle().job:
            self.alerts.tell_of_delay(context, self.log, JobStore(job))

    def on_kill(self) -> None:
        if self._waiting is None:
            return
        cancel = self.cancel_on_kill and not is_left_alone(self._ti)
        if self.cancel_on_kill and not cancel:
            self.log.info("Killed by neither a user nor a clear: the batches are left in place, for the next try.")
        self._waiting.kill(cancel=cancel)

    def _wait(self) -> Waiting:
        """Made when it is needed: Airflow copies operators, and an event cannot be copied."""
        if self._waiting is None:
            self._waiting = Waiting(self._handle(), self.log, Deadline(seconds(self.deadline), self.on_deadline))
            self.link_addresses = self._waiting.links
        return self._waiting

    def _handle(self) -> JobHandle:
        if self.batch_id:
            if not self.conn_id:
                raise ConfigurationError("BatchSensor(batch_id=...) needs conn_id as well. Nothing was sent.")
            return JobHandle(job=None, conn_id=self.conn_id, batches=[str(self.batch_id)])
        return JobHandle.of(self.job, self.conn_id)
