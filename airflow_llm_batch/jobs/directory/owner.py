"""Who claimed something, and whether they are certainly gone."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """This process, told apart from any other that had or will have its pid."""
    return {"host": socket.gethostname(), "boot": boot_id(), "pid": os.getpid(), "started": started_at(os.getpid())}


def is_gone(owner: dict[str, Any] | None) -> bool:
    """True when the process certainly does not run any more; False when it does, or cannot be seen from here."""
    if not owner or owner.get("host") != socket.gethostname() or owner.get("boot") != boot_id():
        return False
    started = started_at(int(owner["pid"]))
    return started is None or started != owner.get("started")


def boot_id() -> str | None:
    """Tells this kernel, and inside a container this pid namespace, from others of the same host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def started_at(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None when there is no such process.

    A zombie, which has ended and waits to be reaped, is none. Where there is no /proc, a live pid is ``"unknown"``.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "unknown"
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name, in parentheses, may hold anything; what follows it has a fixed order.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
