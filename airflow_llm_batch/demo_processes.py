"""The demo's child processes, which end with it, however it ends.

Each child has a process group of its own; a reaper that holds the other end of a pipe sees the demo go, also when it
was killed, and ends what is left: the groups, and whatever was started out of them in the same Airflow home.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

#: seconds for a child to end by itself
POLITE = 25.0


class Children:
    """What the demo has started.

    :param home: the AIRFLOW_HOME of all of them, the demo's own and nobody else's.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.started: list[subprocess.Popen[bytes]] = []
        self.reaper = subprocess.Popen(
            [sys.executable, "-m", __name__, str(home)], stdin=subprocess.PIPE, start_new_session=True
        )
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, leave)

    def start(self, command: list[str], environment: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.started.append(process)
        assert self.reaper.stdin is not None
        self.reaper.stdin.write(f"{process.pid}\n".encode())
        self.reaper.stdin.flush()
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End one, with what it has started."""
        end([process.pid], process)

    def close(self) -> None:
        for process in reversed(self.started):
            self.stop(process)
        assert self.reaper.stdin is not None
        self.reaper.stdin.close()
        self.reaper.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"A server of the demo ended: {log.read_text(errors='replace')[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"A server of the demo did not start within 60 seconds; see {log}.")


def leave(number: int, frame: FrameType | None) -> None:
    """Told to end: the way out is the usual one."""
    raise SystemExit(128 + number)


def end(groups: list[int], process: subprocess.Popen[bytes] | None = None) -> None:
    """End process groups, politely first."""
    for sign, seconds in ((signal.SIGINT, POLITE), (signal.SIGKILL, 5.0)):
        for group in groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, sign)
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(map(is_there, groups)):
            if process is not None:
                process.poll()
            time.sleep(0.1)


def is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def left_over(home: str) -> list[psutil.Process]:
    """Processes that live in this Airflow home, but for this one and the demo itself."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get("AIRFLOW_HOME") == home:
                found.append(process)
    return found


def reap(home: str) -> None:
    """Wait for the demo to be gone, then end what it has left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = [int(line) for line in sys.stdin if line.strip()]
    end([group for group in groups if is_there(group)])
    left = left_over(home)
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(left, 5)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    reap(sys.argv[1])
