"""A PostgreSQL server of our own."""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> str | None:
    """The directory of the server's programs, None where it is not installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [os.path.dirname(shutil.which("initdb") or "")]
    return found[-1] or None


@contextmanager
def postgres_server(place: str) -> Iterator[str]:
    """A server on a free port; yields its connection as JSON.

    :param place: see ``binaries``.
    """
    home = Path(tempfile.mkdtemp(prefix="llm-batch-pg-"))
    # PostgreSQL refuses to run as root.
    runner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if runner:
        shutil.chown(home, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(name, *args):
        done = subprocess.run([*runner, f"{place}/{name}", *args], cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("initdb", "-D", f"{home}/data", "-U", "llm", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home} -c fsync=off"
    run("pg_ctl", "-D", f"{home}/data", "-w", "-l", f"{home}/log", "-o", options, "start")
    try:
        server = {"conn_type": "postgres", "host": "127.0.0.1", "port": port, "login": "llm", "schema": "postgres"}
        yield json.dumps({**server, "password": "not-asked-for"})
    finally:
        run("pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop")
        shutil.rmtree(home)
