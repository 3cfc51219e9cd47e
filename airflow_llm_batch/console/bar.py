"""How far a job is, for whoever looks on: a bar on a terminal and in a notebook, lines anywhere else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from airflow_llm_batch.jobs.directory.store import JobStore

if TYPE_CHECKING:
    from airflow_llm_batch.models import Progress as Seen

#: seconds between looks at the job directory, and between two lines
TICK, EVERY = 1.0, 10.0


class Lines(logging.Handler):
    """Warnings as lines above the bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(record.getMessage(), style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def warnings_on(console: Console) -> Iterator[None]:
    """This package's warnings go to a console, and nothing of it to Airflow's log, which is on standard output here."""
    ours, handler = logging.getLogger("airflow_llm_batch"), Lines(console)
    before = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.WARNING)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before[0])
        ours.propagate = before[1]


class Bar:
    """Tells what goes on, on standard error.

    :param shown: False for nobody.
    """

    def __init__(self, *, shown: bool = True, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=not shown)
        self.is_live = shown and (self.console.is_terminal or self.console.is_jupyter)
        self.over = threading.Event()
        self.store: JobStore | None = None
        self.rows, self.step, self.printed, self.printed_at = 0, "", "", 0.0
        self.progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[state]}", style="dim"), console=self.console, disable=not self.is_live,
        )  # fmt: skip
        self.task = self.progress.add_task("", total=None, state="")
        self.thread = threading.Thread(target=self._follow, name="llm-batch-bar", daemon=True)

    def __enter__(self) -> Bar:
        self.progress.start()
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.over.set()
        self.thread.join(TICK)
        if kind is None and self.is_live:
            self._draw()
        self.progress.stop()

    def say(self, step: str) -> None:
        """What is done now."""
        self.step = step
        self.progress.update(self.task, description=step)
        if not self.is_live:
            self.console.print(f"{step} ...", style="dim", markup=False, highlight=False)

    def tell(self, text: str) -> None:
        """Something to keep on the screen."""
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def watch(self, store: JobStore, rows: int) -> None:
        """From now on it is this job's progress that is shown."""
        # A store of its own: what is read here is in nobody's way.
        self.store, self.rows = JobStore(store.uri), rows
        self.progress.reset(self.task, total=rows, description=self.step, state="", start=True)

    def _follow(self) -> None:
        while not self.over.wait(TICK):
            self._draw()

    def _draw(self) -> None:
        seen: Seen | None = None
        with suppress(Exception):  # what cannot be read now is shown later
            seen = self.store.progress() if self.store is not None else None
        if seen is None:
            return
        line = seen.describe(self.rows)
        self.progress.update(self.task, completed=min(seen.counts[0], self.rows), state=line.partition(";")[0])
        if not self.is_live and line != self.printed and time.monotonic() - self.printed_at >= EVERY:
            self.printed, self.printed_at = line, time.monotonic()
            self.console.print(line, style="dim", markup=False, highlight=False)
