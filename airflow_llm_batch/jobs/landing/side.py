"""Files that a landing writes beside its records."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING

from airflow_llm_batch.storage import WholeFile

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


#: bytes that are added before they lie on the disk
HELD = 2**20


class SideFile:
    """Lines that are no records: unreadable answers, rows that failed.

    A shard may be downloaded more than once: what an attempt has added goes into the file when that attempt is the one
    that is landed (``keep``), and is forgotten when the next one begins.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        self.file = WholeFile(path)
        self.begin()

    @property
    def size(self) -> int:
        """Bytes that were kept."""
        return self.file.size

    def begin(self) -> None:
        """Forget what was added and not kept."""
        self.attempt: IO[bytes] = tempfile.SpooledTemporaryFile(HELD)  # noqa: SIM115  (lives until the next one)

    def add(self, line: bytes) -> None:
        self.attempt.write(line + b"\n")

    def keep(self, least: int = 0) -> None:
        """Take what was added into the file.

        :param least: bytes; fewer than that may wait.
        """
        if self.attempt.tell() < least:
            return
        self.attempt.seek(0)
        while chunk := self.attempt.read(HELD):
            self.file.write(chunk)
        self.begin()

    def commit(self) -> str:
        """Publish; returns the file's URI."""
        self.file.commit()
        return str(self.file.path)

    def discard(self) -> None:
        self.file.discard()
