"""A folder of an object store, as DuckDB reads it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec.implementations.dirfs import DirFileSystem

from airflow_llm_batch.blocks import read_range
from airflow_llm_batch.outages import patiently

T = TypeVar("T")


class Folder(DirFileSystem):  # type: ignore[misc]
    """Trouble of the moment is lived through; what lasts is kept, since DuckDB passes on nothing but its text.

    :ivar trouble: the store's last error, None for none.
    """

    protocol = "answers"
    cachable = False

    def __init__(self, path: str, fs: Any) -> None:
        super().__init__(path=path, fs=fs)
        self.trouble: Exception | None = None

    def asked(self, operation: Callable[..., T], *arguments: Any, **named: Any) -> T:
        """:raises Exception: the store's, once it has lasted."""
        try:
            return patiently(operation, *arguments, **named)
        except Exception as error:
            self.trouble = error
            raise

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Anywhere:
        return Anywhere(self, self._join(path))

    def size(self, path: str) -> Any:
        return self.asked(self.fs.size, self._join(path))

    def modified(self, path: str) -> Any:
        return self.asked(self.fs.modified, self._join(path))

    def exists(self, path: str, **kwargs: Any) -> Any:
        return self.asked(self.fs.exists, self._join(path))


class Anywhere(io.RawIOBase):
    """A stored file, read here and there: a request for each read."""

    def __init__(self, folder: Folder, path: str) -> None:
        self.folder, self.path = folder, path
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += int(self.folder.asked(self.folder.fs.size, self.path))
        self.at = offset + (self.at if whence == io.SEEK_CUR else 0)
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, into: Any) -> int:
        if not len(into):
            return 0
        data = self.folder.asked(read_range, self.folder.fs, self.path, self.at, self.at + len(into))
        into[: len(data)] = data
        self.at += len(data)
        return len(data)
