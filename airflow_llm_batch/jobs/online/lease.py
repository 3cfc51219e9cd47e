"""What the calls of one connection may take together, whichever workers make them.

{storage}/_leases/{connection}/{holder}.{beat}   somebody who calls; beat by beat its name changes

Every holder writes its next beat and then lists the folder. Whoever shows a new beat now and then is alive, by the
looker's own clock, and each has an equal share of what the connection may take. A holder whose last look is two beats
old stops calling until it has looked again; so one that begins waits for as long after its first beat, and whoever
calls then has seen it: the shares of all who call are one together at most, however slow the store is.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.jobs.online.pace import Bucket, Pace
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import fresh, remove, storage_path, write_whole

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.online.endpoint import Calls

log = logging.getLogger(__name__)
NAME = re.compile(r"([0-9a-f]{32})\.(\d{8})")
#: seconds between two beats, and beats without a new one after which a holder is gone
BEAT, GONE = 5.0, 6
#: beats for which a look is good, and that a new holder waits
GOOD = 2
#: seconds until one that may not call looks whether it may
PAUSE = 0.2


class Lease:
    """One holder's share of a connection.

    :param storage: object storage URI that all workers reach.
    :param beat: seconds.
    """

    def __init__(
        self, storage: str, conn_id: str, beat: float = BEAT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = storage_path(storage) / "_leases" / conn_id
        self.beat_seconds, self.clock = beat, clock
        self.name, self.count = uuid.uuid4().hex, 0
        #: holder -> its newest beat, and when that was seen first
        self.seen: dict[str, tuple[int, float]] = {}
        self.holders = 0
        self.began = self.looked = float("-inf")
        self.stopped = threading.Event()
        self.thread: threading.Thread | None = None

    def share(self) -> float:
        """Of what the connection may take: this holder's part, from 0 to 1."""
        now, good = self.clock(), GOOD * self.beat_seconds
        if not self.holders or now - self.began <= good or now - self.looked > good:
            return 0.0
        return 1 / self.holders

    def beat(self) -> None:
        """Show that this holder is alive, and see who else is."""
        before = self.clock()
        self.count += 1
        write_whole(self.folder / f"{self.name}.{self.count:08d}", b"{}")
        now = self.clock()
        self.began = now if self.count == 1 else self.began
        beats: dict[str, int] = {}
        for path in patiently(fresh(self.folder).fs.ls, self.folder.path, detail=False):
            if found := NAME.fullmatch(str(path).rpartition("/")[2]):
                beats[found[1]] = max(beats.get(found[1], 0), int(found[2]))
        now = self.clock()
        for holder, count in beats.items():
            if self.seen.get(holder, (0,))[0] != count:
                self.seen[holder] = count, now
        gone = GONE * self.beat_seconds
        self.holders = sum(now - self.seen[holder][1] < gone for holder in beats if holder != self.name) + 1
        self.looked = before
        if self.count > 1:
            remove(self.folder / f"{self.name}.{self.count - 1:08d}")
        for holder, count in beats.items():
            # Long gone: nobody takes it for alive any more.
            if now - self.seen[holder][1] > 2 * gone and holder != self.name:
                remove(self.folder / f"{holder}.{count:08d}")

    def start(self) -> None:
        self.thread = threading.Thread(target=self._keep, name="llm-batch-lease", daemon=True)
        self.thread.start()

    def _keep(self) -> None:
        while True:
            try:
                self.beat()
            except Exception as error:
                log.warning("Could not renew the lease on %s; calls wait: %s", self.folder, error)
            if self.stopped.wait(self.beat_seconds):
                return

    def close(self) -> None:
        """Give it back: the others share it from their next look on."""
        self.stopped.set()
        if self.thread is not None:
            self.thread.join()
        with suppress(Exception):
            remove(self.folder / f"{self.name}.{self.count:08d}")


class Allowance:
    """What one holder may take of a connection's requests and tokens a minute.

    :param requests: a minute, of all holders together; None for any number. Likewise ``tokens``.
    """

    def __init__(
        self,
        lease: Lease,
        requests: float | None,
        tokens: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease = lease
        self.requests = Bucket(requests / 60, clock) if requests else None
        self.tokens = Bucket(tokens / 60, clock) if tokens else None
        self.rates = (requests or 0.0) / 60, (tokens or 0.0) / 60
        self.shared = 1.0

    @classmethod
    def of(cls, hook: LLMBatchHook) -> Allowance | None:
        """What a connection's extra says, None where it says nothing; the lease is kept from here on."""
        requests, tokens = hook.options.requests_per_minute, hook.options.tokens_per_minute
        if not (requests or tokens):
            return None
        lease = Lease(default_storage(), hook.conn_id, BEAT)
        lease.start()
        log.info("Connection %s: calls share its rate with other workers, and begin in %.0f s.", hook.conn_id, 2 * BEAT)
        return cls(lease, requests, tokens)

    def wait(self, tokens: float) -> float:
        """Seconds until a call of so many tokens may be made, or asked for again."""
        share = self.lease.share()
        if not share:
            return PAUSE
        if share != self.shared:
            self.shared = share
            for bucket, rate in ((self.requests, self.rates[0]), (self.tokens, self.rates[1])):
                if bucket is not None:
                    bucket.change(rate * share)
        waits = [bucket.wait(amount) for bucket, amount in ((self.requests, 1), (self.tokens, tokens)) if bucket]
        return max(waits, default=0.0)

    def take(self, tokens: float) -> None:
        if self.requests:
            self.requests.take(1)
        if self.tokens:
            self.tokens.take(tokens)

    def close(self) -> None:
        self.lease.close()


def pace_of(hook: LLMBatchHook, calls: Calls) -> Pace:
    """The pace of a model's calls: the task's own limits, and its share of the connection's."""
    limits = calls.requests_per_minute, calls.tokens_per_minute
    return Pace(calls.concurrency, *limits, shared=Allowance.of(hook))
