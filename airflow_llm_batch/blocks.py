"""Stored files a few megabytes at a time: many small reads and writes become few large ones, and reads are patient."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from airflow_llm_batch.outages import patiently, status_of

CHUNK = 2**20
#: bytes asked of a remote store at once
FETCH = 4 * 2**20
#: what a store answers when a range begins where the file ends
BEYOND = 416


class BlockWriter:
    """Gathers small writes into blocks: the store's own file object is slow per call.

    :param begin: opens a binary file object; called with the first block, and not at all for a file that is smaller.
    :param block: bytes of the first block; the others are of ``CHUNK`` at most.
    """

    def __init__(self, begin: Callable[[], Any], block: int = CHUNK) -> None:
        self.begin, self.block = begin, block
        self.file: Any = None
        self.buffer = bytearray()
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        self.size += len(data)
        if not self.buffer and len(data) >= self.block:
            self._put(data)
            return
        self.buffer += data
        if len(self.buffer) >= self.block:
            self.flush()

    def flush(self) -> None:
        # A store's file gathers a part of its own: while that one grows this one shrinks.
        while len(self.buffer) >= 2 * CHUNK:
            self._put(self.buffer[:CHUNK])
            del self.buffer[:CHUNK]
        if self.buffer:
            self._put(self.buffer)
            self.buffer.clear()

    def _put(self, data: bytes | bytearray) -> None:
        if self.file is None:
            self.file, self.block = self.begin(), min(self.block, CHUNK)
        self.file.write(data)


class FrontToBack(io.RawIOBase):
    """A stored file that is read once, from its beginning to its end."""

    def readable(self) -> bool:
        return True

    def readall(self) -> bytes:
        # The default asks for 8 KB at a time, each a request.
        return b"".join(iter(lambda: self.read(FETCH) or b"", b""))


class Opened(FrontToBack):
    """A file that its store has opened; a read that fails for now is made again."""

    def __init__(self, file: Any) -> None:
        self.file, self.place = file, 0

    def readinto(self, into: Any) -> int:
        data = patiently(self._read, len(into))
        into[: len(data)] = data
        self.place += len(data)
        return len(data)

    def _read(self, count: int) -> bytes:
        self.file.seek(self.place)
        data: bytes = self.file.read(count)
        return data

    def close(self) -> None:
        if not self.closed:
            self.file.close()
        super().close()


class Ranges(FrontToBack):
    """A file that never changes, asked for nothing but its bytes: its end shows where it ends.

    Opening it costs nothing, so one that is not there shows with the first read.
    """

    def __init__(self, fs: Any, path: str) -> None:
        self.fs, self.path = fs, path
        self.place, self.over = 0, False

    def readinto(self, into: Any) -> int:
        if self.over:
            return 0
        data = patiently(read_range, self.fs, self.path, self.place, self.place + len(into))
        into[: len(data)] = data
        self.place += len(data)
        self.over = len(data) < len(into)
        return len(data)


def read_range(fs: Any, path: str, start: int, end: int | None = None) -> bytes:
    """Some bytes of a stored file in one request, fewer where it ends before; a whole file has s3fs ask its size first.

    :raises FileNotFoundError: when there is none.
    """
    try:
        data: bytes = fs.cat_file(path, start=start, end=end)
    except FileNotFoundError:
        raise
    except Exception as error:
        if status_of(error) == BEYOND:
            return b""
        raise
    return data
