"""Ctrl-C, heeded wherever it strikes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def heeded() -> Iterator[Callable[[], None]]:
    """A block at whose end KeyboardInterrupt is raised if Ctrl-C was pressed in it: what the signal itself raises is
    lost where it strikes a file's finalizer, or Python that native code calls (pydantic's serializer is one).

    Loops call what the block is given, to the same end. In threads other than the main one, which handles signals, and
    where Ctrl-C is not Python's, nothing is raised.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: None
        return
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()
        before(number, frame)

    def heed() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        yield heed
        heed()
    finally:
        signal.signal(signal.SIGINT, before)
