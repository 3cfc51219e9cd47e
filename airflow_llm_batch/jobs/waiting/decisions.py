"""Pure decisions of a wait: what was seen and the clock in, what to do next out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from airflow_llm_batch.exceptions import LLMBatchError, RequestRejected
from airflow_llm_batch.jobs.submission.room import Room
from airflow_llm_batch.models import Batch, Progress, Shard, ShardProgress

#: a wait that has failed to read anything for this long is no blip; in seconds
PERSISTENT = 6 * 3600.0
#: reasons of one batch, and characters of each, that are kept for people
MOST_ERRORS, MOST_TOLD = 3, 300
#: for so long a batch that was made is looked for where the vendor says that there is none: the answer of one that has
#: not heard of it yet is the same as that of one that lost it (anthropic-sdk-python, 1432); in seconds
FORGOTTEN = 600.0
#: vendors take up to 10 minutes to cancel; in seconds
CANCELLING = 3600.0


class Next(NamedTuple):
    """What to do: ``wait`` and look again; ``create`` shards that have room, or are in doubt; take it as ``ended``;
    ``cancel`` what runs and wait on for what it has finished; ``give_up`` for ``reason``, batches left in place;
    ``interrupt``, likewise, where another try of the task may go on."""

    action: Literal["wait", "create", "ended", "cancel", "give_up", "interrupt"]
    reason: str = ""


@dataclass
class Wait:
    """One job's wait.

    :param pending: shard index -> batch id, of what has not ended.
    :param deadline: epoch seconds after which watching ends, None for never.
    :param on_deadline: ``leave`` the batches running, or ``cancel`` them and take what they have finished; to batches
        ``finish_online`` is the same.
    :param planned: shards that wait for ``room`` in the vendor's queue.
    :param not_before: epoch seconds before which nothing is created: the last attempt at it met trouble that passes.
    :param doubtful: a create of a shard was claimed and nothing is known of what came of it.
    :param news: readings that nobody was told of yet.
    """

    pending: dict[int, str]
    deadline: float | None = None
    on_deadline: str = "leave"
    planned: set[int] = field(default_factory=set)
    not_before: float = 0.0
    doubtful: bool = False
    shards: dict[int, Shard] = field(default_factory=dict)
    room: Room = field(default_factory=Room)
    seen: dict[int, Batch] = field(default_factory=dict)
    news: list[tuple[int, Batch | LLMBatchError]] = field(default_factory=list)
    failing_since: float | None = None
    #: shard -> epoch seconds since which the vendor says that its batch is not there
    missing: dict[int, float] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)

    def saw(self, index: int, batch: Batch) -> bool:
        """Take note of a reading; returns whether it tells anything new."""
        self.failing_since = None
        self.missing.pop(index, None)
        new = self.seen.get(index) != batch
        self.seen[index] = batch
        if batch.outcome is not None:
            self.pending.pop(index, None)
            if batch.full and self.shards:
                self.planned.add(index)
                del self.seen[index]
        return new

    def failed(self, index: int, error: Exception, now: float, *, is_ours: bool = False) -> None:
        """Take note of a failed reading.

        :param is_ours: we made the batch, so that it is there.
        :raises Exception: ``error`` itself when waiting cannot mend it.
        """
        if not is_transient(error):
            is_missing = is_ours and isinstance(error, RequestRejected) and error.is_missing
            if not is_missing or now - self.missing.setdefault(index, now) >= FORGOTTEN:
                raise error
        self.failing_since = self.failing_since or now

    def cancelled(self, now: float) -> None:
        """Take note that cancellation was asked for: what runs gets time to end."""
        self.deadline, self.on_deadline = now + CANCELLING, "leave"

    def decide(self, now: float) -> Next:
        if self.doubtful and now >= self.not_before:
            return Next("create")
        if not self.doubtful and not self.pending and not self.planned:
            return Next("ended")
        left = ", ".join([*self.pending.values(), *(f"shard {index} (not sent yet)" for index in sorted(self.planned))])
        if self.deadline is not None and now >= self.deadline:
            if self.on_deadline in ("cancel", "finish_online") and now < self.deadline + CANCELLING:
                return Next("cancel", f"The deadline has passed; cancelling {left}. What has finished is kept.")
            return Next(
                "give_up",
                f"The deadline has passed and these batches still run: {left}. They were left in place and are billed "
                "for what they finish; clear this task to wait on.",
            )
        if self.failing_since is not None and now - self.failing_since >= PERSISTENT:
            return Next(
                "interrupt",
                f"The vendor could not be read for {(now - self.failing_since) / 3600:.1f} hours. These batches were "
                f"left in place: {left}. Clear this task to wait on.",
            )
        planned = [self.shards[index] for index in sorted(self.planned)]
        running = [self.shards[index] for index in self.pending if index in self.shards]
        wave = now >= self.not_before and self.room.wave(planned, running, now)
        return Next("create" if wave else "wait")

    def progress(self, now: float) -> Progress:
        """How far the job is."""
        shards = {index: seen_of(batch) for index, batch in sorted(self.seen.items())}
        return Progress(at=now, shards=shards, planned=sorted(self.planned))


def seen_of(batch: Batch) -> ShardProgress:
    """A reading as ``progress.json`` keeps it."""
    errors = [(code[:MOST_TOLD], message[:MOST_TOLD]) for code, message in batch.errors[:MOST_ERRORS]]
    return ShardProgress(
        batch=batch.id, status=batch.status, total=batch.total, succeeded=batch.succeeded, failed=batch.failed,
        outcome=batch.outcome, errors=errors,
    )  # fmt: skip


def is_transient(error: Exception) -> bool:
    """Whether waiting may mend a failed reading: no answer, 5xx, 408, 429. A wrong key is not one, nor a lost batch."""
    return not isinstance(error, LLMBatchError) or error.retry_helps


def interval(elapsed: float, least: float, most: float) -> float:
    """Seconds until the next look: short at first, a twentieth of the time waited later."""
    return min(max(least, elapsed / 20), max(most, least))
