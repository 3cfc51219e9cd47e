"""planned -> creating -> running, exactly once.

The order of facts decides: the input file's id, then the intent, then the create, then the batch's id, each in the job
directory before the next step is taken. Whoever finds an intent without an outcome asks the vendor what became of it,
and creates again, under the next try's intent, only when it is certain that nothing was created and nobody still may.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.exceptions import (
    ConfigurationError,
    RequestRejected,
    SubmissionUnconfirmed,
    VendorUnavailable,
)
from airflow_llm_batch.jobs.lines import shows_ids
from airflow_llm_batch.jobs.owner import is_gone, this_process
from airflow_llm_batch.jobs.store import JobStore
from airflow_llm_batch.models import Batch, Created, Intent, Job, Shard, Void
from airflow_llm_batch.transport import stored_payload

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook

log = logging.getLogger(__name__)
#: a shard's create is claimed at most this often in one run of the task
MOST_CLAIMS = 4
#: bytes a second that an upload inside a create is granted, at the least
SLOWEST_UPLOAD = 500_000
#: bytes a second that a vendor takes in, at the least
SLOWEST_INTAKE = 2_000_000
#: seconds by which the vendor's clock may be ahead of ours
CLOCKS_DIFFER = 600


class Patience(NamedTuple):
    """How long to look before "not there" is believed; seconds.

    :param settle: a vendor's listing may lag behind a create by this much.
    :param create: a create by a process that cannot be seen from here is over after this much.
    """

    settle: float = 15.0
    create: float = 180.0

    @classmethod
    def of(cls, hook: LLMBatchHook) -> Patience:
        extra = hook.connection.extra_dejson
        return cls(**{name: float(extra[f"{name}_seconds"]) for name in cls._fields if extra.get(f"{name}_seconds")})


def submit(store: JobStore, hook: LLMBatchHook, job: Job, on_doubt: str = "fail") -> list[str]:
    """Bring every shard to ``running``; returns the vendor's batch ids in shard order.

    :param on_doubt: what to do when it cannot be decided whether a batch exists: ``fail``, or ``resubmit`` and perhaps
        pay twice.
    :raises SubmissionUnconfirmed: see ``on_doubt``.
    :raises RequestRejected: when the vendor refuses a shard; it is tried anew by the next run of the task.
    """
    ids = []
    for shard in job.shards:
        created = Submission(store, hook, job, shard, on_doubt).run()
        ids.append(created.batch_id)
        log.info(
            "Shard %d of %d: %s rows, %s bytes -> batch %s%s",
            shard.index + 1,
            len(job.shards),
            f"{shard.rows:,}",
            f"{shard.bytes:,}",
            created.batch_id,
            " (found at the vendor)" if created.adopted else "",
        )
    return ids


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


class Submission:
    """One shard on its way to the vendor."""

    def __init__(self, store: JobStore, hook: LLMBatchHook, job: Job, shard: Shard, on_doubt: str) -> None:
        self.store, self.hook, self.job, self.shard, self.on_doubt = store, hook, job, shard, on_doubt
        self.index = shard.index
        self.patience = Patience.of(hook)
        self.content = stored_payload(store.requests(shard.index, shard.token))

    def run(self) -> Created:
        """The shard's batch: recorded already, found at the vendor, or created now."""
        for _ in range(MOST_CLAIMS):
            number = self.store.last_try(self.index)
            if number and (created := self.store.created(self.index)):
                return created
            if number and not self._is_void(number):
                if batch := self.settle(number):
                    return self._record(number, batch, adopted=True)
                self._void(number, "never created")
            if created := self._create(number + 1):
                return created
        raise SubmissionUnconfirmed(
            f"Shard {self.index} could not be created: {MOST_CLAIMS} creates in a row got no answer and left no batch "
            "at the vendor. Nothing was billed as far as the vendor tells; retry later."
        )

    def look(self) -> Batch | None:
        """The batch of a create that is in doubt, None when there is neither doubt nor batch; creates nothing."""
        number = self.store.last_try(self.index)
        if not number or self.store.void(self.index, number) is not None:
            return None
        return self.settle(number)

    def _create(self, number: int) -> Created | None:
        """Claim a try and create; None when somebody else holds the claim, or when nothing came of it."""
        ref = self._upload()
        intent = Intent(at=datetime.now(UTC), input_ref=ref, owner=this_process())
        with in_flight(self._claim(number)):
            if not self.store.begin(self.index, intent, number):
                return None
            try:
                batch = self.hook.run(self.hook.provider.create(self.shard, ref, self.content))
            except RequestRejected:
                self._void(number, "rejected")
                raise
            except VendorUnavailable as error:
                log.warning("Creating shard %d got no clear answer (%s); asking the vendor.", self.index, error)
                return None
        if self.store.void(self.index, number) is not None:
            # This create took longer than any should, and another attempt has given it up and sends the shard itself.
            log.warning(
                "Batch %s came too late and is cancelled; another attempt holds shard %d.", batch.id, self.index
            )
            self.hook.cancel_batch(batch.id)
            return None
        return self._record(number, batch, adopted=False)

    def _upload(self) -> str | None:
        ref = self.store.uploaded(self.index)
        if ref is None:
            verify(self.store, self.shard)
            ref = self.hook.run(self.hook.provider.upload(f"{self.shard.key}.jsonl", self.content))
            if ref is not None:
                self.store.save_uploaded(self.index, ref)
        return ref

    def settle(self, number: int) -> Batch | None:
        """What became of a try: its batch, or None when it certainly made none.

        :raises SubmissionUnconfirmed: when more than one batch may be the one, unless told to ``resubmit``.
        """
        intent = self.store.intent(self.index, number)
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
            if created := self.store.created(self.index):
                return self.hook.get_batch(created.batch_id)
            over = time.time() >= deadline or (last_word == deadline and is_gone(intent.owner))
            found = self._candidates(intent)
            if len(found) == 1:
                return found[0]
            if found and self.on_doubt == "fail":
                raise SubmissionUnconfirmed(
                    f"Shard {self.index} may be any of the batches {', '.join(b.id for b in found)}: each was created "
                    f"in the same minutes with {self.shard.rows:,} rows, and {self.hook.provider.name} keeps nothing "
                    "else to tell them apart before they end. Nothing was sent again. Say which with "
                    f"recovery=Recovery(batch_ids={{{self.index}: '...'}}), or send the shard once more and perhaps "
                    "pay twice with Recovery(on_doubt='resubmit')."
                )
            if found or over:
                return None
            time.sleep(pause)
            pause = min(pause * 2, max(self.patience.settle / 4, 0.01))

    def _latest_end(self, intent: Intent, number: int) -> float:
        """Epoch seconds at which a create of this intent is certainly over."""
        over = self._claim(number) not in IN_FLIGHT if intent.owner == this_process() else is_gone(intent.owner)
        if over:
            return 0.0
        return (intent.at + timedelta(seconds=self._allowance())).timestamp()

    def _claim(self, number: int) -> str:
        return str(self.store.attempt(self.index, number, "intent.json"))

    def _allowance(self) -> float:
        """Seconds that a create of this shard may take."""
        return self.patience.create + self.shard.bytes / SLOWEST_UPLOAD

    def _candidates(self, intent: Intent) -> list[Batch]:
        """Batches that may be this shard's, without those that are known to be another's."""
        taken = {c.batch_id for s in self.job.shards if s.index != self.index and (c := self.store.created(s.index))}
        taken |= self.store.strangers(self.index)
        found = self.hook.run(self.hook.provider.find(self.shard, intent.at, intent.input_ref))
        latest = intent.at + timedelta(seconds=self._allowance() + CLOCKS_DIFFER)
        found = [b for b in found if b.id not in taken and (b.created_at is None or b.created_at <= latest)]
        if self.hook.provider.keeps_metadata:
            return found
        # Found by time and size alone. Of a batch that has ended, the results tell whose it is.
        prefix = f"{self.job.id}-"
        return [b for b in found if b.outcome is None or shows_ids(self.hook, b, prefix) is not False]

    def _is_void(self, number: int) -> bool:
        """Whether a try is known to have made nothing.

        :raises SubmissionUnconfirmed: when what it made turned out to be a stranger's, unless told to ``resubmit``.
        """
        void = self.store.void(self.index, number)
        if void is not None and void.reason == "stranger" and self.on_doubt == "fail":
            raise SubmissionUnconfirmed(
                f"Shard {self.index} was taken for batch {', '.join(void.strangers)}, whose results are not ours, and "
                "no other batch fits. Nothing was sent again. If the vendor's console shows none of "
                f"{self.shard.rows:,} rows either, send it once more with recovery=Recovery(on_doubt='resubmit')."
            )
        return void is not None

    def _void(self, number: int, reason: str) -> None:
        self.store.save_void(self.index, number, Void(reason=reason, at=datetime.now(UTC)))

    def _record(self, number: int, batch: Batch, *, adopted: bool) -> Created:
        provisional = adopted and not self.hook.provider.keeps_metadata
        created = Created(batch_id=batch.id, at=datetime.now(UTC), adopted=adopted, provisional=provisional)
        self.store.save_created(self.index, created, number)
        return created


def verify(store: JobStore, shard: Shard) -> None:
    """Refuse to send a shard file that is not what was planned.

    :raises ConfigurationError: when its bytes have changed.
    """
    sha = hashlib.sha256()
    for chunk in stored_payload(store.requests(shard.index, shard.token)):
        sha.update(chunk)
    if sha.hexdigest() != shard.sha256:
        raise ConfigurationError(
            f"{store.requests(shard.index, shard.token)} is not what was planned (sha256 differs). Nothing of this "
            "shard was sent. Remove the job directory to plan anew."
        )


def adopt(store: JobStore, hook: LLMBatchHook, job: Job, batch_ids: dict[int, str]) -> None:
    """Take batches that a user names for shards; each is read first, and its results must show that they are ours.

    :raises ConfigurationError: for a shard that does not exist, or that has another batch already.
    """
    for index, batch_id in batch_ids.items():
        if index not in range(len(job.shards)):
            raise ConfigurationError(f"batch_ids names shard {index}; the job has {len(job.shards)}. Nothing was sent.")
        created = store.created(index)
        if created is not None and created.batch_id != batch_id:
            raise ConfigurationError(
                f"batch_ids gives {batch_id} for shard {index}, which is batch {created.batch_id} already. "
                "Nothing was sent."
            )
        if created is None:
            batch = hook.get_batch(batch_id)
            number = store.last_try(index)
            if not number or store.void(index, number) is not None:
                number += 1
            taken = Created(batch_id=batch.id, at=datetime.now(UTC), adopted=True, provisional=True)
            store.begin(index, Intent(at=datetime.now(UTC), owner=this_process()), number)
            store.save_created(index, taken, number)


def search_again(store: JobStore, hook: LLMBatchHook, job: Job, shard: Shard) -> Batch:
    """Look for a shard's batch after an adopted one turned out to be a stranger's; creates nothing.

    :raises SubmissionUnconfirmed: when none fits, or more than one does.
    """
    submission = Submission(store, hook, job, shard, "fail")
    number = store.last_try(shard.index)
    intent = store.intent(shard.index, number)
    found = submission._candidates(intent)
    if len(found) == 1:
        store.begin(shard.index, intent, number + 1)
        submission._record(number + 1, found[0], adopted=True)
        return found[0]
    strangers = ", ".join(sorted(store.strangers(shard.index)))
    others = f"may be any of {', '.join(b.id for b in found)}" if found else "fits no other batch at the vendor"
    raise SubmissionUnconfirmed(
        f"Shard {shard.index} was taken for batch {strangers}, whose results are not ours, and {others}. Nothing was "
        "sent again. Name its batch with recovery=Recovery(batch_ids=...) on the submitting task and clear it, or send "
        "it once more, and perhaps pay twice, with Recovery(on_doubt='resubmit')."
    )


def release(store: JobStore, index: int, batch_id: str) -> None:
    """Let an adopted batch go whose results are not ours."""
    number = store.last_try(index)
    known = store.strangers(index) | {batch_id}
    store.save_void(index, number, Void(reason="stranger", at=datetime.now(UTC), strangers=sorted(known)))
