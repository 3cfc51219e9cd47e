"""One job's wait: keeps in the job directory what was read of its batches, and lets ``polling`` decide."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError, Interrupted, LLMBatchError, VendorUnavailable, WaitEnded
from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT
from airflow_llm_batch.jobs.directory.owner import this_process
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.submission.room import Refusal, Room, never_fits
from airflow_llm_batch.jobs.waiting.decisions import Next, Wait
from airflow_llm_batch.models import Intent, Shard, Void, is_call

if TYPE_CHECKING:
    import logging

    from airflow.sdk.types import Logger

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.models import Batch, Created


class JobWait:
    """A job's batches, or one batch that no job of ours made.

    :param store: the job directory, None when only ``batch_id`` is known.
    :param deadline: seconds after submission, or the batch's creation, at which watching ends, None for never.
    """

    def __init__(
        self,
        hook: LLMBatchHook,
        store: JobStore | None,
        log: Logger | logging.Logger,
        *,
        batch_id: str | None = None,
        deadline: float | None = None,
        on_deadline: str = "leave",
    ) -> None:
        self.hook, self.store, self.log = hook, store, log
        self.rows: int | None = None
        self.last_line = ""
        #: shard -> the try whose batch is waited for
        self.tries: dict[int, int] = {}
        #: batches whose cancellation was asked for
        self.cancelled = 0
        #: and those that may be somebody else's
        self.uncertain = 0
        self.allowed, self.on_deadline = deadline, on_deadline
        #: why a shard can never find room
        self.too_large: str | None = None
        if store is None:
            self.wait = Wait({0: batch_id or ""}, on_deadline=on_deadline)
        else:
            self.wait = self._read(store, on_deadline)
        #: epoch seconds of the deadline; a cancellation moves the one of ``wait``
        self.due = self.wait.deadline

    def _read(self, store: JobStore, on_deadline: str) -> Wait:
        """The wait as the job directory has it.

        :raises WaitEnded: when nothing was ever submitted.
        """
        job = store.job_now()
        self.rows = job.rows_asked
        deadline = None if self.allowed is None else job.created_at.timestamp() + self.allowed
        wait = Wait({}, deadline, on_deadline)
        listing = store.listing()
        states = listing.states(job)
        # Only what a decision needs is kept of a shard; thousands of waits may share a process.
        wait.shards = {shard.index: Shard(index=shard.index, endpoint="", tokens=shard.tokens) for shard in job.shards}
        for index, state in states.items():
            attempts = listing.attempts(index)
            if state in ("ended", "planned") and (batch := attempts.ended()):
                wait.seen[index] = batch
            elif state != "planned" and (created := attempts.created()) and is_call(created.batch_id):
                continue  # calls of rows that were tried first: whoever lands the job brings them to their end
            elif state != "planned" and (created := attempts.created()):
                wait.pending[index] = created.batch_id
                self.tries[index] = attempts.last()
            elif state != "creating":
                wait.planned.add(index)
        # A wave of this wait that was killed half-way; settling it is part of creating.
        wait.doubtful = "creating" in states.values()
        refusal = Refusal.latest(listing, wait.planned)
        sent = {shard.index for shard in job.shards if not shard.is_tried} - wait.planned
        if wait.planned and not sent and not wait.pending and refusal is None:
            raise WaitEnded(f"Nothing of the job at {store.uri} was submitted; clear the submitting task first.")
        # Of a job that is all with the vendor too: what was created may turn out to have found no room.
        wait.room = Room.of(job, refusal, self.hook.options)
        return wait

    def look(self) -> Next:
        """Read every pending batch once and decide.

        :raises WaitEnded: when watching is over before the job is.
        """
        provider = self.hook.provider
        for index, batch_id in list(self.wait.pending.items()):
            try:
                reading: Batch | LLMBatchError = self.hook.run(provider.get(batch_id))
            except LLMBatchError as error:
                reading = error
            except Exception as error:
                reading = unreadable(error)
            self.note(index, reading)
        return self.conclude()

    def note(self, index: int, reading: Batch | LLMBatchError) -> bool:
        """Take note of a reading, without writing anything; True when there is something to tell or to keep."""
        wait = self.wait
        if isinstance(reading, LLMBatchError):
            wait.failed(index, reading, time.time(), is_ours=self.store is not None)
            wait.news.append((index, reading))
            return True
        if self.store is None and self.allowed is not None and reading.created_at and wait.deadline is None:
            wait.deadline = reading.created_at.timestamp() + self.allowed
        if not wait.saw(index, reading):
            return False
        wait.news.append((index, reading))
        return True

    def conclude(self) -> Next:
        """Keep and tell what is new, and decide.

        :raises WaitEnded: as ``look``.
        """
        news, self.wait.news = self.wait.news, []
        for index, reading in news:
            if isinstance(reading, LLMBatchError):
                self.log.warning("Could not read batch %s, will look again: %s", self.wait.pending.get(index), reading)
            else:
                self._tell(index, reading)
        if self.too_large:
            raise ConfigurationError(self.too_large)
        now = time.time()
        progress = self.wait.progress(now)
        line = progress.describe(self.rows)
        if line != self.last_line:
            self.last_line = line
            self.log.info("%s", line)
            self._keep(lambda store: store.save_progress(progress))
        step = self.wait.decide(now)
        if step.action == "cancel":
            self.log.warning("%s", step.reason)
            self._give_up()
            if self.cancel():
                self.wait.cancelled(now)
        if step.action == "give_up":
            raise WaitEnded(step.reason)
        if step.action == "interrupt":
            raise Interrupted(step.reason)
        if step.action == "ended" and self.on_deadline != "finish_online" and self.was_never_sent:
            raise WaitEnded(
                "The deadline has passed and the vendor's queue had no room until then: nothing of the job was ever "
                "sent, and nothing billed. Clear the submitting task to try again."
            )
        return step

    def _tell(self, index: int, reading: Batch) -> None:
        if not reading.known and reading.status not in self.wait.unknown:
            self.wait.unknown.add(reading.status)
            self.log.warning("Batch %s has the unknown status %r; it is taken for running.", reading.id, reading.status)
        if reading.outcome is None:
            return
        reasons = "; ".join(f"{code}: {message}" for code, message in reading.errors)
        if reading.full and self.store is not None:
            self._put_back(self.store, index, reading.id)
            self.log.warning("Batch %s found no room and shard %d waits for it: %s", reading.id, index, reasons)
            self.too_large = self.too_large or never_fits(self.wait.shards[index], reasons)
            return
        self._keep(lambda store: store.attempts(index).save_ended(reading, self.tries.get(index)))
        self.log.info("Batch %s ended: %s%s", reading.id, reading.outcome, f" ({reasons})" if reasons else "")

    def _put_back(self, store: JobStore, index: int, batch_id: str) -> None:
        """A batch that failed for want of room did nothing; its shard is planned again.

        Another wait on the job may have done so before, and have created the shard anew: only the try of this very
        batch is closed.
        """
        wait, now = self.wait, datetime.now(UTC)
        try:
            number = store.attempts(index).batches().get(batch_id, 0)
            if number == store.attempts(index).last():
                store.attempts(index).save_void(number, Void(reason="no room", at=now, running=len(wait.pending)))
            elif created := store.attempts(index).created():
                self._follow(index, created)
                return
        except Exception as error:
            self.log.warning("Could not write to %s: %s: %s", store.uri, type(error).__name__, error)
            wait.planned.discard(index)
            wait.pending[index] = batch_id
            return
        times = wait.room.refusal.times if wait.room.refusal else 1
        wait.room.refusal = Refusal(now.timestamp(), len(wait.pending), times)

    def _follow(self, index: int, created: Created) -> None:
        """Another process has created a shard that was planned here."""
        self.wait.pending[index] = created.batch_id
        self.wait.planned.discard(index)
        self.tries.pop(index, None)

    def _give_up(self) -> None:
        """Shards that never found room are closed unsent: their rows will be landed as cancelled."""
        now = datetime.now(UTC)
        for index in sorted(self.wait.planned):
            assert self.store is not None
            number = self.store.attempts(index).last()
            planned = not number or self.store.attempts(index).void(number) is not None
            # The claim is exclusive: whoever creates the shard at this moment keeps it.
            if planned and self.store.attempts(index).begin(Intent(at=now, owner=this_process()), number + 1):
                self.store.attempts(index).save_void(number + 1, Void(reason="given up", at=now))
                self.wait.seen[index] = NEVER_SENT
                self.wait.planned.discard(index)
            elif created := self.store.attempts(index).created():
                self._follow(index, created)

    @property
    def was_never_sent(self) -> bool:
        """Whether every shard was closed unsent."""
        seen = self.wait.seen.values()
        return bool(seen) and all(batch.status == NEVER_SENT.status for batch in seen)

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return self.due is not None and time.time() >= self.due

    def withdraw(self) -> bool:
        """Somebody does not want the job any more: close what was not sent, cancel what runs.

        :return: whether the vendor took every cancellation.
        """
        self._give_up()
        taken = self.cancel()
        if not self.wait.pending:
            self._keep(lambda store: store.notes.save_cancelling(()))
        self._keep(lambda store: store.save_progress(self.wait.progress(time.time())))
        return taken

    def kill(self) -> None:
        """The waiting task was failed or cleared: cancel, and leave a note of it for a task that is run again."""
        self.cancel()
        if self.cancelled:
            self._keep(lambda store: store.notes.save_killed())

    def cancel(self) -> bool:
        """Ask for the cancellation of what still runs and is certainly ours; a failure at one batch spares no other.

        :return: whether the vendor took every one.
        """
        taken, asked = True, []
        listing = self.store.listing() if self.store is not None else None
        for index, batch_id in list(self.wait.pending.items()):
            created = listing.attempts(index).created() if listing is not None else None
            if created is not None and created.provisional:
                self.log.warning("Batch %s is not cancelled: whether it is ours shows when it has ended.", batch_id)
                self.uncertain += 1
                continue
            try:
                if self.hook.get_batch(batch_id).outcome is None:
                    self.hook.cancel_batch(batch_id)
                    self.cancelled += 1
                    asked.append(batch_id)
                    self.log.info("Cancellation of batch %s was asked for; finished rows stay billed.", batch_id)
            except LLMBatchError as error:
                taken = False
                self.log.warning("Batch %s could not be cancelled: %s", batch_id, error)
        if asked:
            self._keep(lambda store: store.notes.save_cancelling(asked))
        return taken

    def _keep(self, write: Callable[[JobStore], None]) -> None:
        """Write to the job directory; what is lost here is read from the vendor again when it is needed."""
        if self.store is None:
            return
        try:
            write(self.store)
        except Exception as error:
            self.log.warning("Could not write to %s: %s: %s", self.store.uri, type(error).__name__, error)


def wait_of(
    hook: LLMBatchHook,
    job: str | None,
    batch_id: str | None,
    log: Logger | logging.Logger,
    deadline: float | None = None,
    on_deadline: str = "leave",
) -> JobWait:
    """A wait as a triggerer has it, where thousands share the process.

    :param job: URI of the job directory, None for a batch alone.
    """
    store = JobStore(job) if job else None
    wait = JobWait(hook, store, log, batch_id=batch_id, deadline=deadline, on_deadline=on_deadline)
    if store is not None:
        # What a wait needs of its job it has.
        store.forget()
    return wait


def unreadable(error: Exception) -> VendorUnavailable:
    """An answer of a shape nobody has met: perhaps the next one is better."""
    return VendorUnavailable(f"unreadable: {type(error).__name__}: {error}")
