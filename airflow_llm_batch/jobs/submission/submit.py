"""planned -> creating -> running, exactly once.

The order of facts decides: the input file's id, then the intent, then the create, then the batch's id, each in the job
directory before the next step is taken. A create that got no clear answer is settled with the vendor (``settling``)
before the shard is created again, under the next try's intent.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property, partial
from threading import Event, Lock
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import (
    ConfigurationError,
    RequestRejected,
    SubmissionUnconfirmed,
    VendorUnavailable,
)
from airflow_llm_batch.jobs.directory.attempts import NEVER_SENT, Attempts
from airflow_llm_batch.jobs.directory.owner import this_process
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.submission.doubt import Doubt, in_flight, record
from airflow_llm_batch.jobs.submission.room import Refusal, Room, never_fits
from airflow_llm_batch.jobs.submission.stage import stage
from airflow_llm_batch.jobs.submission.summed import Summed, planned_payload
from airflow_llm_batch.models import Batch, Created, Intent, Job, Shard, Void
from airflow_llm_batch.providers.troubles import UNCLEAR, is_empty_account, is_full
from airflow_llm_batch.step_log import StepLog

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.attempts import Listing

log = logging.getLogger(__name__)
#: a shard's create is claimed at most this often in one run of the task
TOO_MANY = 429
MOST_CLAIMS = 4
#: how a vendor says that it has not, or not yet, the file that a batch is to be made of (OpenAI, Voyage, Azure)
NO_FILE = re.compile(
    r"invalid[ _]file[ _]id(?!.*purpose)|no such file|cannot find file"
    r"|\bfile\b(?!.{0,60}\b(model|deployment|profile|line)\b).{0,60}(not (be )?found|(does not|doesn't) exist)",
    re.IGNORECASE,
)
#: shards that are uploaded at once: enough to fill a connection, few enough to stay small in memory
UPLOADS_AT_ONCE = 3


def submit(
    store: JobStore, hook: LLMBatchHook, job: Job, on_doubt: str = "fail", stop: Event | None = None
) -> list[str]:
    """Create every planned shard that has room; returns the vendor's ids of all that were created, in shard order.

    :param on_doubt: what to do when it cannot be decided whether a batch exists: ``fail``, or ``resubmit`` and perhaps
        pay twice.
    :param stop: set by another thread, ends it before the next create.
    :raises SubmissionUnconfirmed: see ``on_doubt``.
    :raises RequestRejected: when the vendor refuses a shard, after all others; it is tried anew by the next run of
        the task.
    """
    listing = store.listing()
    states = listing.states(job)
    wave = Wave(store, hook, job, on_doubt, stop)
    wave.running = list(states.values()).count("running")
    # What an earlier try left in doubt is settled before anything new can be mistaken for it.
    for shard in job.shards:
        if states[shard.index] == "creating":
            states[shard.index] = "planned" if wave.settle(shard) is None else "running"
    running = [shard for shard in job.shards if states[shard.index] == "running"]
    planned = [shard for shard in job.shards if states[shard.index] == "planned"]
    room = Room.of(job, Refusal.latest(listing, (shard.index for shard in planned)), hook.options)
    wave.create(room.wave(planned, running, time.time()), listing)
    listing = store.listing()
    created = [listing.attempts(shard.index).created() for shard in job.shards]
    if waiting := created.count(None):
        log.info(
            "%d of %d shards wait for room in the vendor's queue; BatchSensor creates them when others have ended.",
            waiting, len(job.shards),
        )  # fmt: skip
    return [one.batch_id for one in created if one is not None]


class Wave:
    """Shards on their way to the vendor, a few at a time.

    :ivar running: shards of the job that are in the vendor's queue.
    :ivar full: the vendor had no room for one; no further one is sent.
    """

    def __init__(self, store: JobStore, hook: LLMBatchHook, job: Job, on_doubt: str, stop: Event | None = None) -> None:
        self.store, self.hook, self.job, self.on_doubt = store, hook, job, on_doubt
        self.running = 0
        self.full = False
        self.stop = stop or Event()
        self.lock = Lock()

    @property
    def over(self) -> bool:
        """Nothing more is created."""
        return self.full or self.stop.is_set()

    def create(self, shards: Sequence[Shard], listing: Listing) -> None:
        """Create ``shards``; one that fails leaves the others alone.

        :param listing: where they were seen to be planned.
        """
        if not shards:
            return
        self.hook.transport  # noqa: B018  (Airflow is asked for the connection here, and not in a thread)
        progress = StepLog(log, "shards created", len(shards))
        # Batches that carry nothing of ours are told apart by there never being two in doubt: one at a time, each
        # settled before the next.
        marked = self.hook.provider.is_marked
        pool = ThreadPoolExecutor(min(UPLOADS_AT_ONCE if marked else 1, len(shards)), "llm-batch-upload")
        outcomes: list[tuple[Shard, Future[Created | None]]] = []
        try:
            for shard in shards:
                submission = Submission(self, shard)
                once = partial(submission.once, listing.attempts(shard.index))
                outcomes.append((shard, pool.submit(once if marked else submission.run)))
            for _, outcome in outcomes:
                outcome.exception()
                progress.add(1)
        finally:
            pool.shutdown(cancel_futures=True)
        for shard, outcome in outcomes:
            if outcome.exception() is None and outcome.result() is None:
                self.settle(shard)
        if errors := [error for _, outcome in outcomes if (error := outcome.exception())]:
            for error in errors[1:]:
                log.error("%s", error)
            raise errors[0]

    def settle(self, shard: Shard) -> Created | None:
        """A shard whose create is in doubt: its batch, created anew where there is none; None without room for it."""
        return Submission(self, shard).run()

    def tell(self, shard: Shard, created: Created) -> None:
        found = " (found at the vendor)" if created.adopted else ""
        log.info(
            "Shard %d of %d: %s rows, %s bytes -> batch %s%s",
            shard.index + 1, len(self.job.shards), f"{shard.rows:,}", f"{shard.bytes:,}", created.batch_id, found,
        )  # fmt: skip


class Submission:
    """One shard on its way to the vendor."""

    def __init__(self, wave: Wave, shard: Shard) -> None:
        self.wave, self.shard = wave, shard
        self.store, self.hook = wave.store, wave.hook
        self.index = shard.index
        self.attempts = wave.store.attempts(shard.index)
        self.doubt = Doubt(wave.store, wave.hook, wave.job, shard, wave.on_doubt)
        #: why the last create was refused, where another may be taken
        self.refused: RequestRejected | None = None

    @cached_property
    def content(self) -> Summed:
        planned = planned_payload(self.store.requests(self.index, self.shard.token), self.shard.bytes)
        return Summed(planned, f"shard {self.index + 1}")

    def run(self) -> Created | None:
        """The shard's batch: recorded already, found at the vendor, or created now; None when there is no room."""
        for _ in range(MOST_CLAIMS):
            seen = self.attempts.now()
            number = seen.last()
            if created := seen.created():
                return created
            if is_closed(seen) or (self.wave.over and not seen.is_creating()):
                return None
            if number and not self._is_void(number):
                if batch := self.doubt.settle(number):
                    return self._record(number, batch, adopted=True)
                self._void(number, "never created")
            if created := self._create(number + 1, seen):
                return created
        if self.refused is not None:
            raise self.refused
        raise SubmissionUnconfirmed(
            f"Shard {self.index} could not be created: {MOST_CLAIMS} creates in a row got no answer and left no batch "
            "at the vendor. Nothing was billed as far as the vendor tells; retry later."
        )

    def once(self, seen: Attempts) -> Created | None:
        """One create of a planned shard, with others of the wave beside it. None where it made no batch, or where that
        is not certain: then ``run`` settles it when the others are through.

        :param seen: the shard's tries when the wave began. What has happened since shows in the claim of the next try,
            which is exclusive: whoever has created or closed the shard meanwhile has claimed that one.
        """
        number = seen.last()
        if self.wave.over or is_closed(seen) or (number and not self._is_void(number)):
            return None
        return self._create(number + 1, seen)

    def _create(self, number: int, seen: Attempts) -> Created | None:
        """Claim a try and create; None when somebody else holds the claim, or when nothing came of it.

        :param seen: the tries before it.
        """
        self.refused = None
        ref = stage(self.store, self.hook, self.shard, self.content, seen)
        now = datetime.now(UTC)
        intent = Intent(at=now, input_ref=ref, owner=this_process(), vendor_at=self.hook.vendor_time(now))
        with in_flight(self.doubt.claim(number)):
            if self.wave.over or not self.attempts.begin(intent, number):
                return None
            seen.clear(number)
            try:
                batch = self.hook.run(self.hook.provider.create(self.shard, ref, self.content))
            except RequestRejected as error:
                if error.status in UNCLEAR:
                    log.warning("Creating shard %d got no clear answer (%s); asking the vendor.", self.index, error)
                    return None
                said = error.code, str(error)
                if is_full(*said) or (error.status == TOO_MANY and not is_empty_account(*said, error.status)):
                    self._wait_for_room(number, error)
                    return None
                self._void(number, "rejected")
                if "file" not in f"{error.code} {error}".lower():
                    raise
                # Deleted, expired, or uploaded with another key.
                self.attempts.forget_uploaded()
                if ref is None or not NO_FILE.search(str(error)):
                    raise
                # Or not known yet where batches are made: uploaded once more, after a while.
                log.warning("The vendor does not find the file of shard %d (%s); uploading it anew.", self.index, error)
                self.refused = error
                time.sleep(self.doubt.patience.settle / 4)
                return None
            except VendorUnavailable as error:
                log.warning("Creating shard %d got no clear answer (%s); asking the vendor.", self.index, error)
                return None
            if self.attempts.void(number) is not None:
                # This create took longer than any should; another attempt has given it up and sends the shard itself.
                if self.hook.provider.is_idempotent:
                    # And gets the same batch.
                    return None
                log.warning(
                    "Batch %s came too late and is cancelled; another attempt holds shard %d.", batch.id, self.index
                )
                self.hook.cancel_batch(batch.id)
                return None
            if not self.attempts.own(batch.id):
                raise SubmissionUnconfirmed(
                    f"The vendor answered the create of shard {self.index} with the id {batch.id}, which is another "
                    "shard's batch. Whether it made one cannot be told; nothing was sent again. Look at the vendor's "
                    "console, and name the batch with recovery=Recovery(batch_ids=...)."
                )
            return self._record(number, batch, adopted=False)

    def _wait_for_room(self, number: int, error: RequestRejected) -> None:
        with self.wave.lock:
            self.wave.full = True
            running = self.wave.running
        self.attempts.save_void(number, Void(reason="no room", at=datetime.now(UTC), running=running))
        log.warning("The vendor has no room for shard %d (about %s tokens) now, with %d of ours in its queue: %s",
            self.index, f"{self.shard.tokens:,}", running, error)  # fmt: skip
        if (why := never_fits(self.shard, str(error))) is not None:
            raise ConfigurationError(why)

    def _is_void(self, number: int) -> bool:
        """Whether a try is known to have made nothing.

        :raises SubmissionUnconfirmed: when what it made turned out to be a stranger's, unless told to ``resubmit``.
        """
        void = self.attempts.void(number)
        if void is not None and void.reason == "stranger" and self.wave.on_doubt == "fail":
            raise SubmissionUnconfirmed(
                f"Shard {self.index} was taken for batch {', '.join(void.strangers)}, whose results are not ours, and "
                "no other batch fits. Nothing was sent again. If the vendor's console shows none of "
                f"{self.shard.rows:,} rows either, send it once more with recovery=Recovery(on_doubt='resubmit')."
            )
        return void is not None

    def _void(self, number: int, reason: str) -> None:
        self.attempts.save_void(number, Void(reason=reason, at=datetime.now(UTC)))

    def _record(self, number: int, batch: Batch, *, adopted: bool) -> Created:
        created = record(self.store, self.hook, self.index, number, batch, adopted=adopted)
        with self.wave.lock:
            self.wave.running += 1
        self.wave.tell(self.shard, created)
        return created


def is_closed(attempts: Attempts) -> bool:
    """Whether a shard was given up unsent, at the deadline or because somebody has cancelled the job."""
    ended = attempts.ended()
    return ended is not None and ended.status == NEVER_SENT.status
