"""An answer as a cache keeps it."""

from __future__ import annotations

import zlib

import msgspec


class Stored(msgspec.Struct):
    """A row of such a file; ``answered_at`` in microseconds since 1970, UTC."""

    digest: str
    provider: str | None
    model: str | None
    answered_at: int
    answered_by: str | None
    cost_usd: float | None
    answer: str
    checksum: int

    @property
    def is_whole(self) -> bool:
        return self.checksum == checksum_of(self.digest, self.answer)


def checksum_of(digest: str, answer: str) -> int:
    return zlib.crc32(answer.encode(), zlib.crc32(digest.encode()))
