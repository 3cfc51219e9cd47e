"""What a process takes of its machine while it runs: memory, and what it writes where."""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import psutil

#: seconds between two looks
PAUSE = 0.005
#: looks between two at memory, which takes the kernel longer
RARELY = 20


class Footprint:
    """Looks at a process and all below it, in a thread; a context manager. Of this process, only at itself.

    Temporary files have no name any more while they are written, but ``/proc/PID/fd`` shows them.

    :param pid: None for this process.
    :param tmp: its ``TMPDIR``.
    :param allowed: where else it may write; files that it writes to in other places are in ``elsewhere``.
    :ivar temporary: the most bytes that open files below ``tmp`` had together.
    :ivar memory: the most bytes of memory, what processes share counted once (PSS).
    """

    def __init__(self, tmp: Path, pid: int | None = None, allowed: tuple[Path, ...] = ()) -> None:
        self.tmp, self.pid, self.allowed = str(tmp), pid or os.getpid(), tuple(map(str, allowed))
        self.temporary = self.memory = 0
        self.elsewhere: set[str] = set()
        self.over = threading.Event()
        self.known = set(self._written(self.pid)) if pid is None else set()

    def __enter__(self) -> Footprint:
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        count = 0
        while not self.over.wait(PAUSE):
            with suppress(psutil.Error):
                self.look(with_memory=count % RARELY == 0)
            count += 1

    def look(self, *, with_memory: bool) -> None:
        process = psutil.Process(self.pid)
        tree = [process] if self.pid == os.getpid() else [process, *process.children(recursive=True)]
        files: dict[tuple[int, int], int] = {}
        for one in tree:
            for (path, device, inode), size in self._written(one.pid).items():
                if path.startswith(self.tmp):
                    files[device, inode] = size
                elif (path, device, inode) not in self.known and not path.startswith(self.allowed):
                    self.elsewhere.add(path)
        self.temporary = max(self.temporary, sum(files.values()))
        if with_memory:
            self.memory = max(self.memory, sum(map(pss, tree)))

    @staticmethod
    def _written(pid: int) -> dict[tuple[str, int, int], int]:
        """Regular files that a process has open for writing: path, device and inode -> bytes."""
        found = {}
        with suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    place = f"/proc/{pid}/fd/{number}"
                    # A link that may be written through is of a file that is open for writing.
                    if not os.lstat(place).st_mode & stat.S_IWUSR:
                        continue
                    seen = os.stat(place)
                    if stat.S_ISREG(seen.st_mode):
                        found[os.readlink(place), seen.st_dev, seen.st_ino] = seen.st_size
        return found


def pss(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0
