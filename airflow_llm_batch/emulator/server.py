"""An emulator that runs beside the program that started it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Any

import uvicorn

from airflow_llm_batch.emulator.app import create_app
from airflow_llm_batch.emulator.batches import Vendor
from airflow_llm_batch.emulator.settings import Faults, Settings

#: seconds in which calls under way may end; the event loop's end cancels the others
GRACE = 2.0


class Server(uvicorn.Server):
    """uvicorn's, that ends when it is told: uvicorn itself looks ten times a second and pauses once more."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """From any thread."""
        self.should_exit = True
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.ending.set)

    async def main_loop(self) -> None:
        self.loop = asyncio.get_running_loop()
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if under_way := set(self.server_state.tasks):
            await asyncio.wait(under_way, timeout=GRACE)


class Emulator:
    """A running emulator on 127.0.0.1, in a thread of this process.

        with Emulator(duration=1) as emulator:
            client = openai.OpenAI(base_url=emulator.openai_url, api_key="any")

    :param port: 0 takes a free one.
    :param settings: fields of ``Settings``.
    """

    def __init__(self, port: int = 0, **settings: Any) -> None:
        self.app = create_app(Settings(**settings))
        self.vendor: Vendor = self.app.state.vendor
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))
        config = uvicorn.Config(self.app, log_level="critical", lifespan="off")
        self.server = Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/v1"

    def faults(self, **faults: Any) -> None:
        """From now on, do these things wrong; no arguments mend everything."""
        self.vendor.settings.faults = Faults(**faults)

    def __enter__(self) -> Emulator:
        self.thread.start()
        for _ in range(1000):
            if self.server.started:
                return self
            time.sleep(0.01)
        raise RuntimeError("the emulator did not start within 10 seconds")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.server.stop()
        self.thread.join(10)
        self.socket.close()
        self.vendor.close()
