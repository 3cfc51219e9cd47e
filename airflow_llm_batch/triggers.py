"""The wait, in the triggerer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, BaseTrigger, TriggerEvent

from airflow_llm_batch.exceptions import LLMBatchError
from airflow_llm_batch.hooks import LLMBatchHook

if TYPE_CHECKING:
    from airflow.sdk import Asset

    from airflow_llm_batch.jobs.waiting.wait import JobWait


#: how often a job directory is read that cannot be read
OPEN_TRIES = 6


class BatchTrigger(BaseTrigger):
    """Fires once every batch of a job has ended, when shards have room that waited for it, or when watching is over.

    The event is ``{"status": "ended" | "create" | "late" | "error", "message": str, "job": URI or None}``. Its
    arguments, which Airflow stores in plain text, are identifiers only.

    :param job: URI of the job directory; None to watch ``batch_id`` alone.
    :param conn_id: the ``llmbatch`` connection.
    :param batch_id: a batch that no job of ours made.
    :param poll_interval: seconds between looks at first; they grow to ``max_poll_interval``.
    :param deadline: seconds after submission at which watching ends.
    :param on_deadline: ``leave`` what runs then and fail, or ``cancel`` it and take what it has finished.
    :param not_before: epoch seconds before which no shard is to be created.
    :param cancel_on_kill: cancel what still runs when a user fails or clears the waiting task.
    :param late_at: epoch seconds at which it fires with ``late``, for the task to tell and to wait on; None for never.
    """

    def __init__(
        self,
        job: str | None,
        conn_id: str,
        batch_id: str | None = None,
        poll_interval: float = 10.0,
        max_poll_interval: float = 300.0,
        deadline: float | None = None,
        on_deadline: str = "leave",
        cancel_on_kill: bool = True,
        not_before: float = 0.0,
        late_at: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job, self.conn_id, self.batch_id = job, conn_id, batch_id
        self.poll_interval, self.max_poll_interval = poll_interval, max_poll_interval
        self.deadline, self.on_deadline = deadline, on_deadline
        self.cancel_on_kill = cancel_on_kill
        self.not_before, self.late_at = not_before, late_at

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = (
            "job", "conn_id", "batch_id", "poll_interval", "max_poll_interval", "deadline", "on_deadline",
            "cancel_on_kill", "not_before", "late_at",
        )  # fmt: skip
        return "airflow_llm_batch.triggers.BatchTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from airflow_llm_batch.jobs.waiting.poll_loop import watching

        left = None if self.late_at is None else max(self.late_at - time.time(), 0.0)
        until_late = asyncio.timeout(None)
        try:
            async with watching(self.conn_id, LLMBatchHook) as watch:
                job = await self._open(watch.hook)
                async with (until_late := asyncio.timeout(left)):
                    step = await watch.state(job, self.poll_interval, self.max_poll_interval)
            event: dict[str, Any] = {"status": step.action, "message": step.reason, "job": self.job}
        except TimeoutError:
            if not until_late.expired():
                raise
            event = {"status": "late", "message": "The job takes longer than usual.", "job": self.job}
        except LLMBatchError as error:
            event = {"status": "error", "message": str(error), "job": self.job, "retry": error.retry_helps}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """A user failed or cleared the waiting task: cancel what still runs. A triggerer restart does not get here."""
        if self.cancel_on_kill:
            async with LLMBatchHook(self.conn_id).session() as hook:
                await asyncio.to_thread((await self._open(hook)).kill)

    async def _open(self, hook: LLMBatchHook) -> JobWait:
        from airflow_llm_batch.jobs.waiting.wait import wait_of

        def open_wait() -> JobWait:
            wait = wait_of(hook, self.job, self.batch_id, self.log, self.deadline, self.on_deadline)
            wait.wait.not_before = self.not_before
            return wait

        # Object storage is synchronous and looks its connection up by itself: never on the event loop. It has moments
        # of its own, too.
        for attempt in range(OPEN_TRIES):
            try:
                return await asyncio.to_thread(open_wait)
            except LLMBatchError:
                raise
            except Exception as error:
                if attempt == OPEN_TRIES - 1:
                    raise
                self.log.warning("Could not read %s, trying again: %s: %s", self.job, type(error).__name__, error)
                await asyncio.sleep(2.0**attempt)
        raise AssertionError("unreachable")


class BatchCompletionTrigger(BaseEventTrigger):
    """Fires for each job that names an asset as its ``completion``, when the job has ended; for an ``AssetWatcher``.

    The event is the job handle. Every awaited job of a connection shares the connection's poll loop, which the vendor's
    events wake where it takes them. A job is told at least once, also when the triggerer is killed.

    :param conn_id: the ``llmbatch`` connection.
    :param completion: name of the asset, as ``SubmitBatchOperator(completion=...)`` has it.
    :param poll_interval: seconds between looks at a job at first; they grow to ``max_poll_interval``.
    :param storage: object storage URI, ``[llm_batch] storage`` by default.
    """

    def __init__(
        self,
        conn_id: str,
        completion: str,
        poll_interval: float = 30.0,
        max_poll_interval: float = 300.0,
        storage: str | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id, self.completion, self.storage = conn_id, completion, storage
        self.poll_interval, self.max_poll_interval = poll_interval, max_poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("conn_id", "completion", "poll_interval", "max_poll_interval", "storage")
        return "airflow_llm_batch.triggers.BatchCompletionTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from airflow_llm_batch.jobs.waiting.endings import Endings

        endings = Endings(self.conn_id, self.completion, self.poll_interval, self.max_poll_interval, self.storage)
        try:
            async for handle in endings.handles(LLMBatchHook, self.log):
                yield TriggerEvent(handle)  # type: ignore[no-untyped-call]
        finally:
            endings.close()


def completion_asset(name: str, conn_id: str, **kwargs: Any) -> Asset:
    """An asset whose watcher tells it of the end of jobs that name it as their ``completion``.

    :param name: of the asset.
    :param conn_id: the ``llmbatch`` connection that the jobs are on.
    :param kwargs: as ``BatchCompletionTrigger``.
    """
    from airflow.sdk import Asset, AssetWatcher

    trigger = BatchCompletionTrigger(conn_id=conn_id, completion=name, **kwargs)
    return Asset(name, watchers=[AssetWatcher(name=f"{name} of {conn_id}", trigger=trigger)])
