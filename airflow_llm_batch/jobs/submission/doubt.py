"""What became of a create that got no clear answer: its batch, or the certainty that there is none.

Whoever finds an intent without an outcome asks the vendor before anything is sent again, and believes in "not there"
only when nobody can still be creating it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.downloads import shows_ids
from airflow_llm_batch.exceptions import SubmissionUnconfirmed, WaitEnded
from airflow_llm_batch.jobs.directory.owner import is_gone, this_process
from airflow_llm_batch.jobs.directory.rows import shard_rows
from airflow_llm_batch.jobs.directory.rowset import RowSet
from airflow_llm_batch.models import Batch, Created, Intent, Job, Shard, Void

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.attempts import Attempts
    from airflow_llm_batch.jobs.directory.store import JobStore

log = logging.getLogger(__name__)
#: bytes a second that an upload inside a create is granted, at the least
SLOWEST_UPLOAD = 500_000
#: bytes a second that a vendor takes in, at the least
SLOWEST_INTAKE = 2_000_000
#: seconds by which the vendor's clock may be ahead of ours
CLOCKS_DIFFER = 600
#: claims whose create this process is sending right now
IN_FLIGHT: Counter[str] = Counter()
LOCK = Lock()


@contextmanager
def in_flight(claim: str) -> Iterator[None]:
    """Other threads of this process can tell a create that is under way from one that is over."""
    with LOCK:
        IN_FLIGHT[claim] += 1
    try:
        yield
    finally:
        with LOCK:
            IN_FLIGHT[claim] -= 1
            if not IN_FLIGHT[claim]:
                del IN_FLIGHT[claim]


def wait_for_creates(seconds: float = 20.0) -> None:
    """Let the creates that this process is sending come to their end, and be recorded."""
    for _ in range(int(seconds * 10)):
        if not IN_FLIGHT:
            break
        time.sleep(0.1)


class Patience(NamedTuple):
    """How long to look before "not there" is believed; seconds.

    :param settle: a vendor's listing may lag behind a create by this much.
    :param create: a create by a process that cannot be seen from here is over after this much.
    """

    settle: float = 15.0
    create: float = 180.0

    @classmethod
    def of(cls, hook: LLMBatchHook) -> Patience:
        given = {name: getattr(hook.options, f"{name}_seconds") for name in cls._fields}
        return cls(**{name: value for name, value in given.items() if value})


class Doubt:
    """One shard's creates, seen from the vendor's side."""

    def __init__(self, store: JobStore, hook: LLMBatchHook, job: Job, shard: Shard, on_doubt: str = "fail") -> None:
        self.store, self.hook, self.job, self.shard, self.on_doubt = store, hook, job, shard, on_doubt
        self.index = shard.index
        self.attempts = store.attempts(self.index)
        self.patience = Patience.of(hook)

    def look(self) -> Batch | None:
        """What became of the newest create, asked at the vendor where it is not known; None where it certainly made
        nothing, and where nothing was ever created."""
        number = self.attempts.last()
        if not number or self.attempts.void(number) is not None:
            return None
        return self.settle(number)

    def settle(self, number: int) -> Batch | None:
        """What became of a try: its batch, or None when it certainly made none.

        :raises SubmissionUnconfirmed: when more than one batch may be the one, unless told to ``resubmit``.
        """
        intent = self.attempts.intent(number)
        # Where the requests travel inside the create, the vendor has all of them to take in before it lists the batch.
        inline = self.shard.bytes / SLOWEST_INTAKE if intent.input_ref is None else 0.0
        deadline = time.time() + self.patience.settle + inline
        last_word = self._latest_end(intent, number)
        if last_word > deadline:
            log.info(
                "An earlier try (%s) claimed shard %d at %s and may still be creating it; waiting up to %.0f s for it.",
                intent.owner, self.index, intent.at, last_word - time.time(),
            )  # fmt: skip
            deadline = last_word
        pause = min(1.0, self.patience.settle / 4)
        while True:
            if created := self.attempts.created():
                return self.hook.get_batch(created.batch_id)
            over = time.time() >= deadline or (last_word == deadline and is_gone(intent.owner))
            found = self.candidates(intent)
            if len(found) == 1 and self.attempts.own(found[0].id):
                return found[0]
            if len(found) > 1 and self.on_doubt == "fail":
                raise SubmissionUnconfirmed(
                    f"Shard {self.index} may be any of the batches {', '.join(b.id for b in found)}: each was created "
                    f"in the same minutes with {self.shard.rows:,} rows, and {self.hook.provider.name} keeps nothing "
                    "else to tell them apart before they end. Nothing was sent again. Say which with "
                    f"recovery=Recovery(batch_ids={{{self.name!r}: '...'}}), or send the shard once more and perhaps "
                    "pay twice with Recovery(on_doubt='resubmit')."
                )
            if len(found) > 1 or over:
                return None
            time.sleep(pause)
            pause = min(pause * 2, max(self.patience.settle / 4, 0.01))

    def candidates(self, intent: Intent) -> list[Batch]:
        """Batches that may be this shard's, without those that are known to be another's."""
        listing = self.store.listing()
        others = (listing.attempts(shard.index) for shard in self.job.shards if shard.index != self.index)
        taken = {created.batch_id for other in others if (created := other.created())}
        # An earlier try's batch, which failed for want of room, carries the same marks and is not this try's.
        own = listing.attempts(self.index)
        taken |= own.strangers() | own.batches().keys()
        # By either clock: a gateway's date need not be that of the times in its listing. Too much is found rather than
        # too little, for what is not found is paid again.
        moments = [intent.at, self._by_vendor(intent)]
        found = self._find(intent, min(moments))
        if (known := self._by_vendor(intent)) < min(moments):
            moments.append(known)
            found = self._find(intent, known)
        # Pages may overlap.
        found = list({batch.id: batch for batch in found if batch.id not in taken}.values())
        if self.hook.provider.is_marked:
            # What carries our own key needs no clock to be ours.
            return found
        latest = max(moments) + timedelta(seconds=self._allowance() + CLOCKS_DIFFER)
        found = [batch for batch in found if batch.created_at is None or batch.created_at <= latest]
        # Found by time and size alone. Of a batch that has ended, the results tell whose it is.
        return [b for b in found if b.outcome is None or shows_ids(self.hook, b, self.is_ours) is not False]

    def _by_vendor(self, intent: Intent) -> datetime:
        """The moment of a claim by the vendor's clock, by ours before the vendor has told."""
        return intent.vendor_at or self.hook.vendor_time(intent.at) or intent.at

    def _find(self, intent: Intent, since: datetime) -> list[Batch]:
        return self.hook.run(self.hook.provider.find(self.shard, since, intent.input_ref))

    def is_ours(self, custom_id: str) -> bool:
        """Whether an id is one of this shard's rows, and not only of its job's."""
        row = custom_id.removeprefix(f"{self.job.id}-")
        return custom_id != row and row.isdigit() and int(row) in self.rows

    @cached_property
    def rows(self) -> RowSet:
        return shard_rows(self.store, self.shard)

    @property
    def name(self) -> int | str:
        """The shard as ``Recovery.batch_ids`` names it."""
        return self.index if self.store.address.first.uri == self.store.uri else f"{self.job.round}/{self.index}"

    def claim(self, number: int) -> str:
        return str(self.attempts.path(number, "intent"))

    def _latest_end(self, intent: Intent, number: int) -> float:
        """Epoch seconds at which a create of this intent is certainly over."""
        over = self.claim(number) not in IN_FLIGHT if intent.owner == this_process() else is_gone(intent.owner)
        if over:
            return 0.0
        return (intent.at + timedelta(seconds=self._allowance())).timestamp()

    def _allowance(self) -> float:
        """Seconds that a create of this shard may take."""
        return self.patience.create + self.shard.bytes / SLOWEST_UPLOAD


def record(store: JobStore, hook: LLMBatchHook, index: int, number: int, batch: Batch, *, adopted: bool) -> Created:
    """Write down a shard's batch. One that was found by time and size alone has to show later that it is ours."""
    provisional = adopted and not hook.provider.is_marked
    created = Created(batch_id=batch.id, at=datetime.now(UTC), adopted=adopted, provisional=provisional)
    store.attempts(index).save_created(created, number)
    return created


def search_again(store: JobStore, hook: LLMBatchHook, job: Job, shard: Shard) -> Batch:
    """Look for a shard's batch after an adopted one turned out to be a stranger's; creates nothing.

    :raises SubmissionUnconfirmed: when none fits, or more than one does.
    """
    attempts = store.attempts(shard.index)
    number = attempts.last()
    intent = attempts.intent(number)
    found = Doubt(store, hook, job, shard).candidates(intent)
    if len(found) == 1 and attempts.own(found[0].id):
        attempts.begin(intent, number + 1)
        record(store, hook, shard.index, number + 1, found[0], adopted=True)
        return found[0]
    strangers = ", ".join(sorted(attempts.strangers()))
    others = f"may be any of {', '.join(b.id for b in found)}" if found else "fits no other batch at the vendor"
    raise SubmissionUnconfirmed(
        f"Shard {shard.index} was taken for batch {strangers}, whose results are not ours, and {others}. Nothing was "
        "sent again. Name its batch with recovery=Recovery(batch_ids=...) on the submitting task and clear it, or send "
        "it once more, and perhaps pay twice, with Recovery(on_doubt='resubmit')."
    )


def release(store: JobStore, index: int, batch_id: str) -> None:
    """Let an adopted batch go whose results are not ours."""
    attempts = store.attempts(index)
    known = attempts.strangers() | {batch_id}
    attempts.save_void(attempts.last(), Void(reason="stranger", at=datetime.now(UTC), strangers=sorted(known)))


def confirm(store: JobStore, hook: LLMBatchHook, job: Job, shard: Shard, batch: Batch, seen: Attempts) -> Batch:
    """The shard's ended batch for certain: one that was found by time and size has to show the shard's own ids.

    :param seen: the shard's tries as they were listed.
    :raises SubmissionUnconfirmed: when it is a stranger's and no other batch fits.
    """
    attempts, ours = store.attempts(shard.index), Doubt(store, hook, job, shard).is_ours
    created = seen.created()
    while created is not None and created.provisional and shows_ids(hook, batch, ours) is False:
        log.warning("Batch %s, taken for shard %d, is a stranger's; letting it go.", batch.id, shard.index)
        release(store, shard.index, batch.id)
        batch = search_again(store, hook, job, shard)
        if batch.outcome is None:
            raise WaitEnded(f"Shard {shard.index} is batch {batch.id}, which still runs; clear the waiting task.")
        attempts.save_ended(batch)
        created = attempts.created()
    return batch
