"""One try of one task, in a process of its own that may be killed."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
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
    child = os.fork()
    if child == 0:
        status = 1
        try:
            points.install()
            value = work()
            (directory / f"{name}.xcom").write_text(json.dumps(value))
            (directory / f"{name}.points").write_text(json.dumps(points.seen))
            status = 0
        except BaseException:
            (directory / f"{name}.error").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else "failed" if os.WEXITSTATUS(status) else "done"
