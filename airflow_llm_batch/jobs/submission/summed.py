"""What is sent, summed while it is."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.step_log import StepLog
from airflow_llm_batch.storage import read_chunks

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)


class Summed(Payload):
    """A body that tells how much of it was sent, and knows the CRC-32 of what was."""

    def __init__(self, content: Payload, what: str) -> None:
        super().__init__(content.chunks, content.size)
        self.what = what
        self.crc32 = -1

    def __iter__(self) -> Iterator[bytes]:
        crc32 = 0
        progress = StepLog(log, f"bytes of {self.what} sent", self.size)
        for chunk in self.chunks():
            crc32 = zlib.crc32(chunk, crc32)
            yield chunk
            progress.add(len(chunk))
        self.crc32 = crc32


def planned_payload(path: ObjectStoragePath, size: int) -> Payload:
    """A shard's requests as a request body; the plan knows their size, and the store is not asked for it."""

    def chunks() -> Iterator[bytes]:
        count = 0
        for chunk in read_chunks(path):
            count += len(chunk)
            if count > size:
                break
            yield chunk
        if count != size:
            raise ConfigurationError(
                f"{path} is not what was planned ({size:,} bytes). No batch was made of it and nothing billed. Remove "
                "the job directory to plan anew."
            )

    return Payload(chunks, size)
