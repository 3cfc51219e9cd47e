"""Waiting for a job's batches: reads them, keeps what was read in the job directory, and lets ``polling`` decide."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import LLMBatchError, WaitEnded
from airflow_llm_batch.jobs.polling import Wait, describe, interval

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.store import JobStore
    from airflow_llm_batch.models import Batch


class Watch:
    """One job's batches, or one batch that no job of ours made.

    :param store: the job directory, None when only ``batch_id`` is known.
    :param deadline: seconds after submission, or the batch's creation, at which watching ends, None for never.
    """

    def __init__(
        self,
        hook: LLMBatchHook,
        store: JobStore | None,
        log: Logger,
        *,
        batch_id: str | None = None,
        deadline: float | None = None,
        on_deadline: str = "leave",
    ) -> None:
        self.hook, self.store, self.log = hook, store, log
        self.rows: int | None = None
        self.told = ""
        pending: dict[int, str] = {}
        ended: dict[int, Batch] = {}
        start = None
        self.allowed = deadline
        if store is None:
            pending[0] = batch_id or ""
        else:
            job = store.job()
            self.rows, start = job.rows, job.created_at.timestamp()
            for shard in job.shards:
                if batch := store.ended(shard.index):
                    ended[shard.index] = batch
                elif created := store.created(shard.index):
                    pending[shard.index] = created.batch_id
                else:
                    raise WaitEnded(
                        f"Shard {shard.index} of the job at {store.uri} was never submitted; clear the submitting "
                        "task first. What was submitted is left in place."
                    )
        self.wait = Wait(pending, None if deadline is None or start is None else start + deadline, on_deadline)
        self.wait.seen.update(ended)

    def look(self) -> bool:
        """Read every pending batch once; True when the job has ended.

        :raises WaitEnded: when watching is over before the job is.
        """
        provider = self.hook.provider
        for index, batch_id in list(self.wait.pending.items()):
            try:
                reading: Batch | LLMBatchError = self.hook.run(provider.get(batch_id))
            except LLMBatchError as error:
                reading = error
            self.note(index, batch_id, reading)
        return self.conclude()

    async def alook(self) -> bool:
        """``look`` on an event loop, inside ``hook.session``: the calls share the loop, files are written off it."""
        pending = list(self.wait.pending.items())
        flows = [self.hook.arun(self.hook.provider.get(batch_id)) for _, batch_id in pending]
        readings = await asyncio.gather(*flows, return_exceptions=True)
        for (index, batch_id), reading in zip(pending, readings, strict=True):
            if isinstance(reading, BaseException) and not isinstance(reading, LLMBatchError):
                raise reading
            await asyncio.to_thread(self.note, index, batch_id, reading)
        return await asyncio.to_thread(self.conclude)

    async def until_ended(self, least: float, most: float) -> None:
        """Look until the job has ended, every ``least`` seconds at first and every ``most`` at last."""
        began = time.time()
        while not await self.alook():
            await asyncio.sleep(interval(time.time() - began, least, most) * random.uniform(0.9, 1.1))  # noqa: S311

    def note(self, index: int, batch_id: str, reading: Batch | LLMBatchError) -> None:
        if isinstance(reading, LLMBatchError):
            self.wait.failed(reading, time.time())
            self.log.warning("Could not read batch %s, will look again: %s", batch_id, reading)
            return
        if self.store is None and self.allowed is not None and reading.created_at and self.wait.deadline is None:
            self.wait.deadline = reading.created_at.timestamp() + self.allowed
        if warning := self.wait.saw(index, reading):
            self.log.warning("%s", warning)
        if reading.outcome is not None:
            self._keep(lambda store: store.save_ended(index, reading))
            reasons = "; ".join(f"{code}: {message}" for code, message in reading.errors)
            self.log.info("Batch %s ended: %s%s", batch_id, reading.outcome, f" ({reasons})" if reasons else "")

    def conclude(self) -> bool:
        """Keep the progress and decide.

        :raises WaitEnded: as ``look``.
        """
        progress = self.wait.progress(time.time())
        told = describe(progress, self.rows)
        if told != self.told:
            self.told = told
            self.log.info("%s", told)
            self._keep(lambda store: store.save_progress(progress))
        step = self.wait.decide(time.time())
        if step.action == "cancel":
            self.log.warning("%s", step.reason)
            self.cancel()
        if step.action == "give_up":
            raise WaitEnded(step.reason)
        return step.action == "ended"

    def cancel(self) -> None:
        """Ask for the cancellation of what still runs and is certainly ours; a failure at one batch spares no other."""
        for index, batch_id in self.wait.pending.items():
            created = self.store.created(index) if self.store is not None else None
            if created is not None and created.provisional:
                self.log.warning("Batch %s is not cancelled: whether it is ours shows when it has ended.", batch_id)
                continue
            try:
                if self.hook.get_batch(batch_id).outcome is None:
                    self.hook.cancel_batch(batch_id)
                    self.log.info("Cancellation of batch %s was asked for; finished rows stay billed.", batch_id)
            except LLMBatchError as error:
                self.log.warning("Batch %s could not be cancelled: %s", batch_id, error)

    def _keep(self, write: Callable[[JobStore], None]) -> None:
        """Write to the job directory; what is lost here is read from the vendor again when it is needed."""
        if self.store is None:
            return
        try:
            write(self.store)
        except Exception as error:
            self.log.warning("Could not write to %s: %s: %s", self.store.uri, type(error).__name__, error)
