"""One try of one task, in a process of its own that may be killed."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Protocol


class Strikes(Protocol):
    """Counts the points that a process passes, and acts at a chosen one."""

    seen: list[str]

    def install(self) -> None: ...


def one_try(name: str, directory: Path, points: Strikes, work: Callable[[], object]) -> str:
    """``done``, ``failed`` or ``killed``. What the task returned, its points and its error lie in the directory then.

    :param work: the task; only the new process does it.
    """
    known = frozenset(sys.modules)
    # Objects that the collector does not look at share their memory with the new process.
    gc.freeze()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            points.install()
            value = work()
            (directory / f"{name}.xcom").write_text(json.dumps(value))
            (directory / f"{name}.points").write_text(json.dumps(points.seen))
            (directory / f"{name}.modules").write_text(json.dumps([new for new in sys.modules if new not in known]))
            status = 0
        except BaseException:
            (directory / f"{name}.error").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status == 0:
        load(json.loads((directory / f"{name}.modules").read_text()))
    return "killed" if os.WIFSIGNALED(status) else "failed" if os.WEXITSTATUS(status) else "done"


def load(modules: list[str]) -> None:
    """Import what a try had to import, and read the certificates: once, and not in each of thousands of processes."""
    from airflow_llm_batch.transport import ssl_context

    ssl_context()
    for module in modules:
        # Some are made by others, and are nobody's to import.
        with suppress(ImportError):
            import_module(module)
