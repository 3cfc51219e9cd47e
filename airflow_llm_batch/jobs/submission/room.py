"""Which planned shards may be created now: pure decisions.

A vendor's queue holds so many prompt tokens of a customer; what does not fit is refused, or fails before any row is
worked on. Such a shard is planned again, and created when there is room.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_llm_batch.models import Job, Shard

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.attempts import Listing
    from airflow_llm_batch.providers.options import Options

#: a number of tokens: ``90,000``, or ``30K`` as Azure writes it
NUMBER = r"(\d[\d,._]*(?:[KMB]\b)?)"
#: how refusals quote the queue's limit, and what was asked of it
LIMIT = re.compile(rf"limit\s*(?:of|is|:|=)+\s*{NUMBER}(?:\s+enqueued)?(?:\s+(?:token|request)s?\b)?", re.IGNORECASE)
REQUESTED = re.compile(rf"(?:requested|requires|contains|batch has|this batch:)\D{{0,20}}{NUMBER}", re.IGNORECASE)
TIMES = {"K": 10**3, "M": 10**6, "B": 10**9}
#: by how much an estimate has to be above a limit to be sure of it
MARGIN = 1.25
#: seconds that a full queue is left alone at most, when nothing of ours has ended meanwhile
LONGEST_PAUSE = 900.0


def never_fits(shard: Shard, message: str) -> str | None:
    """Why a shard can never find room, where the vendor's refusal quotes a limit that is below it; None otherwise.

    :param message: the vendor's: ``Enqueued token limit reached ... Limit: 90,000 enqueued tokens.``
    """
    quoted = LIMIT.search(message)
    if quoted is None:
        return None
    limit, requests = digits(quoted[1]), "request" in quoted[0].lower()
    asked = REQUESTED.search(message)
    size = shard.rows if requests else shard.tokens
    # Our count of tokens is an estimate; the vendor's own is not.
    too_large = digits(asked[1]) > limit if asked and not requests else size > limit * (1 if requests else MARGIN)
    if not limit or not too_large:
        return None
    unit, name = ("requests", "limits") if requests else ("tokens", "max_enqueued_tokens")
    value = f'{{"requests": {limit}}}' if requests else str(limit)
    return (
        f"Shard {shard.index} has {'' if requests else 'about '}{size:,} {unit}, the vendor's queue holds {limit:,} "
        f"at most: it can never fit. Set {name}={value} or less, in the connection's extra or as the operator's "
        "argument, and clear the submitting task: it is cut smaller then. Nothing was billed for it. The vendor says: "
        f"{message[:300]}"
    )


def digits(text: str) -> int:
    """The number that a text spells, 0 for none; dots part thousands, but in ``2.5K``."""
    times = TIMES.get(text[-1:].upper())
    if times is None:
        return int(re.sub(r"\D", "", text) or 0)
    with suppress(ValueError):
        return int(float(re.sub(r"[,_]", "", text[:-1])) * times)
    return 0


@dataclass(frozen=True)
class Refusal:
    """The vendor had no room for a shard.

    :param at: epoch seconds.
    :param running: shards of the job that were in the queue then.
    :param times: how often in a row.
    """

    at: float
    running: int
    times: int = 1

    @classmethod
    def latest(cls, listing: Listing, indices: Iterable[int]) -> Refusal | None:
        """When the vendor last had no room for one of these planned shards."""
        refusals = [listing.attempts(index).refusals() for index in indices]
        newest = max((voids[0] for voids in refusals if voids), key=lambda void: void.at, default=None)
        return None if newest is None else cls(newest.at.timestamp(), newest.running, max(map(len, refusals)))


@dataclass
class Room:
    """How much of a job may be in the vendor's queue.

    :param tokens: prompt tokens at once, as we estimate them; None for any number. Likewise ``shards``.
    :param refusal: the latest one, None when the vendor has taken everything so far.
    :param pause: seconds to leave a full queue alone after one refusal; doubled with each further one.
    """

    tokens: int | None = None
    shards: int | None = None
    refusal: Refusal | None = None
    pause: float = 60.0

    @classmethod
    def of(cls, job: Job, refusal: Refusal | None, options: Options) -> Room:
        """A job's room; the connection's ``room_seconds`` says how long to pause."""
        pause = cls.pause if options.room_seconds is None else options.room_seconds
        return cls(job.max_enqueued_tokens, job.max_running_shards, refusal, pause)

    def wave(self, planned: Sequence[Shard], running: Sequence[Shard], now: float) -> list[Shard]:
        """The shards to create now, in order."""
        wave: list[Shard] = []
        count, tokens = len(running), sum(shard.tokens for shard in running)
        for shard in planned:
            # Planning cuts shards no larger than ``tokens``; one that is goes alone.
            if self.tokens is not None and count and tokens + shard.tokens > self.tokens:
                break
            if self.shards is not None and count >= self.shards:
                break
            if self.refusal is not None and count >= self.refusal.running and (wave or not self._rested(now)):
                break
            wave.append(shard)
            count, tokens = count + 1, tokens + shard.tokens
        return wave

    def _rested(self, now: float) -> bool:
        """Whether a full queue was left alone for long enough to try one more shard: others fill and empty it too."""
        assert self.refusal is not None
        pause: float = min(self.pause * 2 ** min(self.refusal.times - 1, 20), max(LONGEST_PAUSE, self.pause))
        return self.refusal.at + pause <= now
