"""One thing measured in a process of its own: CPU time, and memory above what the process held before."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

MB = 2**20


class Measured:
    """CPU seconds of this process, all threads, and its peak memory while the block runs; Linux only.

    ``start`` and ``peak`` are megabytes of resident memory, the peak as the kernel saw it and not as sampled.
    """

    def __enter__(self) -> Measured:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        self.start = status("VmRSS")
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *raised: object) -> None:
        self.cpu, self.wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.peak = status("VmHWM")

    def figures(self, **more: Any) -> dict[str, Any]:
        return {"cpu": self.cpu, "wall": self.wall, "start": self.start, "peak": self.peak, **more}


class Operations:
    """Counts what this process asks of an S3 server while the block runs: every request, by its name."""

    def __enter__(self) -> Counter[str]:
        from aiobotocore.client import AioBaseClient

        asked: Counter[str] = Counter()
        self.call = AioBaseClient._make_api_call

        async def counted(client: Any, name: str, arguments: Any) -> Any:
            asked[name] += 1
            return await self.call(client, name, arguments)

        AioBaseClient._make_api_call = counted
        return asked

    def __exit__(self, *raised: object) -> None:
        from aiobotocore.client import AioBaseClient

        AioBaseClient._make_api_call = self.call


def status(name: str) -> float:
    """A size of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


def in_own_process(script: str, *args: str) -> dict[str, Any]:
    """Run ``script`` with ``args`` and read the JSON object it prints last."""
    done = subprocess.run([sys.executable, script, *args], stdout=subprocess.PIPE, env=quiet(), text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def quiet() -> dict[str, str]:
    return {**os.environ, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(command: Sequence[str], url: str) -> Iterator[int]:
    """A server in a process of its own, up when ``url`` answers anything; yields its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=quiet()
    )
    try:
        for _ in range(600):
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def emulator(duration: float = 0) -> Iterator[str]:
    """An emulator; yields its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with server(["airflow_llm_batch.emulator", "--port", str(port), "--duration", str(duration)], f"{url}/v1/models"):
        yield url


@contextmanager
def object_store() -> Iterator[str]:
    """An S3 server with a bucket; yields the bucket's URI, whose connection is set for child processes."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with server(["moto.server", "-H", "127.0.0.1", "-p", str(port)], url):
        extra = {"endpoint_url": url, "region_name": "us-east-1"}
        connection = {"conn_type": "aws", "login": "test", "password": "test-secret", "extra": extra}
        os.environ["AIRFLOW_CONN_S3"] = json.dumps(connection)
        httpx.put(f"{url}/bench", headers={"host": f"127.0.0.1:{port}"})
        yield "s3://s3@bench"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under a head, the first column to the left and the others to the right."""
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])
