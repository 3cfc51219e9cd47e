"""Answers of one job, held until they are added to a cache."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO

import msgspec

from airflow_llm_batch.jobs.reuse.answers import AnswerFiles
from airflow_llm_batch.jobs.reuse.buckets import HashBuckets, whole_hash
from airflow_llm_batch.jobs.reuse.digests import SIZE
from airflow_llm_batch.jobs.reuse.stored import Stored, checksum_of
from airflow_llm_batch.results import Result
from airflow_llm_batch.storage import whole_file

NEW = "new"
#: digits of a hash
HEX = 2 * SIZE
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode


class NewAnswers:
    """In a temporary file."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(2**20)  # noqa: SIM115
        self.count = 0
        self.kept = 0, 0
        self.now = int(datetime.now(UTC).timestamp() * 1e6)

    def begin(self) -> None:
        """Forget what was added and not kept: a shard may be downloaded more than once."""
        self.count, end = self.kept
        self.file.seek(end)
        self.file.truncate()

    def keep(self) -> None:
        self.kept = self.count, self.file.tell()

    def add(self, digest: str, result: Result) -> None:
        """Keep an answer: what is the row's own is left out of it."""
        bare = msgspec.structs.replace(
            result, key=None, row=-1, shard=None, round=1, output=None, raw=None, answered_by=None
        )
        answer = encode(bare).decode()
        stored = Stored(
            digest, result.provider, result.model, self.now, result.custom_id, result.cost_usd, answer,
            checksum_of(digest, answer),
        )  # fmt: skip
        self.file.write(b"%b %b\n" % (digest.encode(), encode(stored)))
        self.count += 1

    def in_order(self) -> Iterator[Stored]:
        """All of them, in the order of their hashes."""
        with HashBuckets() as places:
            self.file.seek(0)
            start = 0
            for line in self.file:
                places.add_digest(bytes.fromhex(line[:HEX].decode()), start)
                start += len(line)
            # A bucket has what begins with one byte; they come in the order of it.
            for held in places:
                found = zip(held[::3], held[1::3], held[2::3], strict=True)
                for _, at in sorted((whole_hash(first, second), at) for first, second, at in found):
                    self.file.seek(at)
                    yield decode(self.file.readline()[HEX + 1 :])

    def publish(self, files: AnswerFiles, name: str) -> int:
        """Add them to a cache, under a name that is the same each time; their bytes.

        :raises ValueError: when they are more than all files of it may have together.
        """
        if not self.count:
            return 0
        from airflow_llm_batch.jobs.reuse.parquet import write

        place = f"{NEW}/{name}.parquet"
        with whole_file(files.root / place) as file:
            write(self.in_order(), file)
            files.make_room(file.size, place)
            return file.size

    def close(self) -> None:
        self.file.close()
