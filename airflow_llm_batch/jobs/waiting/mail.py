"""Events that vendors have pushed, as those who wait get to know of them: one listing every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.directory.address import default_storage
from airflow_llm_batch.webhooks import Event, Mailbox

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook

#: seconds between two listings
EVERY = 3.0

log = logging.getLogger(__name__)


class Mail:
    """The events of one connection since somebody began to wait.

    :ivar seen: names of those that were read, None before the first look.
    """

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self.box: Mailbox | None = None
        self.seen: set[str] | None = None

    def look(self) -> list[Event]:
        """What has come since the last look; nothing the first time, for a wait begins with a look of its own."""
        self.box = self.box or Mailbox(default_storage(), self.conn_id)
        names = self.box.names(datetime.now(UTC))
        # Where the store fails here, the same events are read by the next look.
        events = [] if self.seen is None else list(self.box.events(names - self.seen))
        self.seen = names
        return events

    async def deliver(self, wake: Callable[[set[str]], object]) -> None:
        """Look again and again, for ever.

        :param wake: told the ids of batches that events have come of.
        """
        is_down = False
        while True:
            try:
                if batches := named(await asyncio.to_thread(self.look)):
                    wake(batches)
                is_down = False
            except Exception as error:
                # Events are hints: without them a wait looks by itself. Told once, for this is asked every few seconds.
                tell = log.debug if is_down else log.warning
                tell("Events of %s could not be read: %s: %s", self.conn_id, type(error).__name__, error)
                is_down = True
            await asyncio.sleep(EVERY)


def named(events: Iterable[Event]) -> set[str]:
    """What the batches may be called that events tell of."""
    return {name for event in events for name in event.names}


def takes_events(hook: LLMBatchHook) -> bool:
    return hook.options.takes_events
