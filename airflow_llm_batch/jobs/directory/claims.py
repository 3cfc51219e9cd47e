"""The right of one try to spend on a job, or to write its results: exclusive, kept alive by a heartbeat, lost when that
lapses.

claims/{what}/00001.json   who holds it: created by exactly one writer
claims/{what}/00001.beat   written again and again while the holder is at work
claims/{what}/00001.over   it was given back

Whoever wants a claim that is held watches the heartbeat by its own clock: one that changes belongs to a holder who is
at work, one that does not for as long as the claim lasts belongs to nobody any more, and the next number is taken. A
holder that comes back after that, from a frozen machine say, sees the next number and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import Busy, Interrupted
from airflow_llm_batch.jobs.directory.owner import is_gone, this_process
from airflow_llm_batch.models import Holder
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import create_exclusive, fresh, is_local, read_small, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.providers.options import Options

log = logging.getLogger(__name__)
#: seconds without a heartbeat after which a claim is nobody's; the connection's ``lapse_seconds`` says otherwise
LAPSE = 60.0
#: seconds below which a heartbeat could not keep up
SHORTEST = 0.1
#: heartbeats in that time
BEATS = 4
#: seconds for which an answer about a claim in an object store is good; on a local disk it is asked each time
CHECKED = 1.0
#: claims that threads of this process hold
HELD: set[str] = set()
LOCK = threading.Lock()


class Claim:
    """One try's claim; a context manager.

    :param what: ``calls`` or ``landing-...``.
    :param lapse: seconds.
    :ivar lost: another try has taken it, or may have: it could not be kept alive.
    """

    def __init__(self, store: JobStore, what: str, lapse: float = LAPSE) -> None:
        self.store, self.what, self.lapse = store, what, lapse
        self.number = 0
        self.lost = False
        self.stopped = threading.Event()
        self.beaten = self.checked = 0.0
        self.local = is_local(store.root)

    @classmethod
    def of(cls, store: JobStore, what: str, options: Options) -> Claim:
        """:param options: the connection's."""
        return cls(store, what, LAPSE if options.lapse_seconds is None else max(options.lapse_seconds, SHORTEST))

    def path(self, number: int, kind: str) -> ObjectStoragePath:
        return self.store.path("claims", self.what, f"{number:05d}.{kind}")

    def __enter__(self) -> Claim:
        """Take it.

        :raises Busy: when another try is at work; it says who.
        """
        number = 1  # where nobody ever held it, this is all that it takes
        while not create_exclusive(self.path(number, "json"), self._holding()):
            number = self._next()
        self.number, self.beaten = number, time.monotonic()
        self.key, self.successor = str(self.path(number, "json")), self.path(number + 1, "json")
        with LOCK:
            HELD.add(self.key)
        self._beat(0)
        self.thread = threading.Thread(target=self._keep_alive, name=f"llm-batch-claim-{self.what}", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stopped.set()
        self.thread.join()
        with LOCK:
            HELD.discard(self.key)
        # One that cannot be given back lapses.
        with contextlib.suppress(Exception):
            write_whole(self.path(self.number, "over"), b"{}")

    def _holding(self) -> bytes:
        return Holder(owner=this_process(), at=datetime.now(UTC), token=uuid.uuid4().hex).dump()

    def _next(self) -> int:
        """The number to take, once nobody holds the newest one."""
        watched: tuple[int, bytes | None] | None = None
        since = time.monotonic()
        while True:
            number = self._newest()
            if not number or self._is_nobodys(number):
                return number + 1
            seen = number, read_small(self.path(number, "beat"))
            if watched is None:
                log.info("Another try holds %s of %s; seeing whether it is at work.", self.what, self.store.uri)
            if watched is not None and seen != watched:
                raise Busy(
                    f"Another try of this task is at work on {self.store.uri} ({self._holder(number)}). Nothing was "
                    "sent twice; what it does is kept, and the next try goes on from there."
                )
            if watched is not None and time.monotonic() - since > self.lapse:
                log.warning("The try that held %s has shown no sign of life for %.0f s.", self.what, self.lapse)
                return number + 1
            watched = seen
            time.sleep(min(self.lapse / (2 * BEATS), 2.0))

    def _newest(self) -> int:
        folder = self.store.path("claims", self.what)
        try:
            names = patiently(fresh(folder).fs.ls, folder.path, detail=False)
        except FileNotFoundError:
            return 0
        stems = (name.rpartition("/")[2].partition(".") for name in names)
        return max((int(stem) for stem, _, kind in stems if kind == "json" and stem.isdigit()), default=0)

    def _is_nobodys(self, number: int) -> bool:
        """Whether a claim was given back, or its holder has certainly ended."""
        if read_small(self.path(number, "over")) is not None:
            return True
        owner = self._holder(number)
        if owner == this_process():
            with LOCK:
                return str(self.path(number, "json")) not in HELD
        return is_gone(owner)

    def _holder(self, number: int) -> dict[str, Any]:
        data = read_small(self.path(number, "json"))
        try:
            return Holder.model_validate_json(data or b"").owner
        except ValueError:
            return {}

    def _keep_alive(self) -> None:
        count = 0
        while not self.stopped.wait(self.lapse / BEATS):
            count += 1
            self._beat(count)
            if not self.holds():
                return

    def _beat(self, count: int) -> None:
        began = time.monotonic()
        try:
            write_whole(self.path(self.number, "beat"), b"%d" % count)
            self.beaten = began
        except Exception as error:
            log.warning("Could not keep the claim on %s alive, trying again: %s", self.store.uri, error)

    def holds(self) -> bool:
        """Whether it is still this try's: asked before anything is spent or written."""
        now = time.monotonic()
        if self.lost or (now - self.checked < CHECKED and not self.local):
            return not self.lost
        if self._is_stale:
            self.lost = True
            return False
        try:
            self.lost = read_small(self.successor) is not None
            self.checked = now
        except Exception as error:
            log.warning("Could not look at the claim on %s: %s", self.store.uri, error)
        # A store in trouble takes its time.
        self.lost = self.lost or self._is_stale
        return not self.lost

    @property
    def _is_stale(self) -> bool:
        """What could not be kept alive for nearly as long as it lasts may be another's at any moment."""
        return time.monotonic() - self.beaten > self.lapse * (1 - 1 / (2 * BEATS))

    async def held(self) -> bool:
        """``holds`` for an event loop: an object store is asked off the loop, and rarely: ``refresh`` keeps it known.

        A process that was frozen finds that nothing is known, and asks.
        """
        if self.local:
            return self.holds()
        if time.monotonic() - self.checked > 3 * CHECKED:
            await asyncio.to_thread(self.holds)
        return not self.lost

    async def refresh(self) -> None:
        """Keep known whether it is still this try's."""
        if not self.lost and time.monotonic() - self.checked > CHECKED:
            await asyncio.to_thread(self.holds)

    def check(self) -> None:
        """:raises Interrupted: when it is not this try's any more."""
        if not self.holds():
            raise Interrupted(
                f"Another try has taken over {self.store.uri} while this one gave no sign of life; this one stops. "
                "What it has done is kept."
            )
