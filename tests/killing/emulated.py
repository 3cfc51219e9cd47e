"""An emulator in a process of its own, for harnesses that kill theirs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import httpx


def start_emulator(
    connections: dict[str, dict], *arguments: str, paths: dict[str, str] | None = None
) -> tuple[subprocess.Popen, httpx.Client]:
    """Its process, and a client of it.

    :param connections: id -> extra, each defined in the environment.
    :param arguments: further ones of its command.
    :param paths: id -> where its vendor is, if not at the emulator's root.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "airflow_llm_batch.emulator", "--port", str(port), "--duration", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
    # What runs beside a whole Airflow starts slowly.
    for _ in range(1200):
        try:
            client.get("/_emulator/stats")
            break
        except httpx.TransportError:
            time.sleep(0.1)
    else:
        process.kill()
        raise SystemExit("the emulator did not start within 120 seconds")
    for conn_id, extra in connections.items():
        host = str(client.base_url.join((paths or {}).get(conn_id, "")))
        connection = {"conn_type": "llmbatch", "host": host, "password": "k", "extra": extra}
        os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(connection)
    return process, client
