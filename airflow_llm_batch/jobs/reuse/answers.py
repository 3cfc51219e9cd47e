"""The answer cache: what was asked and answered before, in Parquet files that anybody may read.

new/{job}-{round}.parquet   what one job has added; written once
{prefix}/{token}.parquet    what a compaction has made of them: answers whose hash begins so

Every file has the columns of ``COLUMNS``, sorted by ``digest``; of several answers to one question the newest counts.
Files are only ever added, or taken away whole, so jobs at the same time lose nothing. A file that cannot be read costs
its answers: what they answered is asked again.
"""

from __future__ import annotations

import logging
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from airflow_llm_batch.exceptions import SourceUnavailable
from airflow_llm_batch.jobs.reuse.duck import session
from airflow_llm_batch.jobs.reuse.folder import Folder
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.results import Result
from airflow_llm_batch.storage import fresh, is_local, removed, storage_path, whole_file

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from airflow_llm_batch.data.answer_cache import AnswerCache

log = logging.getLogger(__name__)
#: name -> type; ``answer`` is the ``Result`` as JSON, ``checksum`` the CRC-32 of hash and answer
COLUMNS = {
    "digest": "VARCHAR",
    "provider": "VARCHAR",
    "model": "VARCHAR",
    "answered_at": "TIMESTAMP",
    "answered_by": "VARCHAR",
    "cost_usd": "DOUBLE",
    "answer": "VARCHAR",
    "checksum": "BIGINT",
}
NEW = "new"
#: rows that are handed to DuckDB at once, and taken from it
BATCH = 20_000
FETCHED = 500
#: bytes of answers that one row group holds; its rows are a multiple of 2,048
GROUP, VECTOR, MOST_ROWS = 16 * 2**20, 2048, 122_880
#: how often it is looked again, where files were taken away meanwhile
LOOKS = 5
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Result).decode


class StoredFile(msgspec.Struct, frozen=True, order=True):
    """:param name: below the cache's folder; ``modified`` in epoch seconds."""

    modified: float
    name: str
    size: int


class AnswerFiles:
    """A cache's files."""

    def __init__(self, cache: AnswerCache) -> None:
        self.cache = cache
        self.root = storage_path(cache.uri.rstrip("/"))
        #: of an object store
        self.folder: Folder | None = None

    def files(self) -> list[StoredFile]:
        """All of them as of now, those written first first."""
        root = fresh(self.root)
        try:
            found = patiently(root.fs.find, root.path, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self.unavailable(error) from error
        start = len(root.fs._strip_protocol(root.path).rstrip("/")) + 1
        return sorted(
            StoredFile(seconds_of(facts), path[start:], int(facts.get("size") or 0))
            for path, facts in found.items()
            if path.endswith(".parquet")
        )

    @contextmanager
    def reading(self) -> Iterator[DuckDBPyConnection]:
        """A session that can read the files by ``address``."""
        with session() as connection:
            if not is_local(self.root):
                self.folder = Folder(self.root.path, fresh(self.root).fs)
                connection.register_filesystem(self.folder)
            yield connection

    def address(self, file: StoredFile) -> str:
        return f"{self.root.path}/{file.name}" if is_local(self.root) else f"answers://{file.name}"

    def readable(self, connection: DuckDBPyConnection, files: Sequence[StoredFile]) -> list[str]:
        """The addresses of those files that can be read from one end to the other; the others are told."""
        good = []
        for file in files:
            try:
                connection.execute(
                    f"select bit_xor(hash({', '.join(COLUMNS)})) from read_parquet(?)",  # noqa: S608
                    [[self.address(file)]],
                ).fetchall()
            except Exception as error:
                self.check_store()
                log.warning(
                    "The answers in %s/%s cannot be used: %s. What they answered is asked again; remove the file.",
                    self.root, file.name, str(error).splitlines()[0][:300],
                )  # fmt: skip
            else:
                good.append(self.address(file))
        return good

    def find(self, wanted: Iterable[tuple[int, str]], now: datetime) -> Iterator[tuple[int, bytes]]:
        """The newest answer to each question that has one, as (row, ``Result`` as JSON), in the order of the rows.

        :param wanted: rows with their hashes, in hex.
        :raises SourceUnavailable: when the store does not answer.
        """
        with self.reading() as connection:
            files = self.files()
            if not files:
                return
            connection.execute("create table wanted (row_number bigint, digest varchar)")
            for rows, digests in batches(wanted):
                connection.execute("insert into wanted select unnest(?), unnest(?)", [rows, digests])
            spoiled = 0
            for row, digest, answer, checksum in self._joined(connection, files, now):
                if checksum == checksum_of(digest, answer):
                    yield row, answer.encode()
                else:
                    spoiled += 1
            if spoiled:
                log.warning("%d answers in %s were damaged and are asked again.", spoiled, self.root)

    def _joined(
        self, connection: DuckDBPyConnection, files: Sequence[StoredFile], now: datetime
    ) -> Iterator[tuple[int, str, str, int]]:
        """What is found, complete before the first of it is told: files may go meanwhile."""
        since = self.cache.since(now) or datetime(1970, 1, 1, tzinfo=UTC)
        query = (
            "create or replace table found as select w.row_number, a.digest, a.answer, a.checksum "
            "from read_parquet(?, union_by_name=true) a join wanted w on a.digest = w.digest "
            "where a.answered_at >= ? "
            "qualify row_number() over (partition by w.row_number order by a.answered_at desc, a.answered_by) = 1"
        )
        addresses = [self.address(file) for file in files]
        for look in range(LOOKS):
            try:
                connection.execute(query, [addresses, since.replace(tzinfo=None)])
                break
            except Exception as error:
                self.check_store()
                if look == LOOKS - 1:
                    raise self.unavailable(error) from error
                log.info("Looking for answers once more: %s", str(error).splitlines()[0][:300])
                addresses = self.readable(connection, self.files())
                if not addresses:
                    return
        found = connection.execute("select * from found order by row_number")
        while rows := found.fetchmany(FETCHED):
            yield from rows

    def check_store(self) -> None:
        """:raises SourceUnavailable: when the store has failed; not for a file that is gone, or cannot be read."""
        trouble = self.folder.trouble if self.folder is not None else None
        if trouble is not None and not isinstance(trouble, FileNotFoundError):
            raise self.unavailable(trouble) from trouble

    def unavailable(self, error: BaseException) -> SourceUnavailable:
        return SourceUnavailable(
            f"The answers in {self.root} cannot be read: {type(error).__name__}: {error}. Nothing was sent."
        )

    def write(self, connection: DuckDBPyConnection, query: str, name: str, *, replaces: bool = False) -> int:
        """Write a file of answers, sorted, and make room for it.

        :param query: gives them, without an order.
        :param replaces: others, which go when all of what replaces them is there.
        :return: its bytes, 0 when there are none.
        :raises ValueError: when it is larger than all files together may be.
        """
        rows, size = connection.execute(
            f"select count(*), coalesce(avg(strlen(answer)), 0) from ({query})"  # noqa: S608
        ).fetchall()[0]
        if not rows:
            return 0
        group = min(max(int(GROUP / (size + 100)) // VECTOR, 1) * VECTOR, MOST_ROWS)
        with tempfile.TemporaryDirectory(prefix="llm-batch-answers-") as folder:
            made = Path(folder) / "answers.parquet"
            connection.execute(
                f"copy (select {', '.join(COLUMNS)} from ({query}) order by digest) to '{made}' "  # noqa: S608
                f"(format parquet, compression zstd, row_group_size {group})"
            )
            size = made.stat().st_size
            if not replaces:
                self.make_room(size, name)
            with made.open("rb") as source, whole_file(self.root / name) as file:
                while block := source.read(2**20):
                    file.write(block)
        return size

    def make_room(self, size: int, name: str) -> None:
        """Take away what was written first, until so many bytes more are not too many.

        :param name: what they replace, if it is there.
        :raises ValueError: when they are too many alone.
        """
        most = self.cache.max_bytes
        if most is None:
            return
        if size > most:
            raise ValueError(f"they have {size:,} bytes, and the cache's max_bytes is {most:,}")
        files = [file for file in self.files() if file.name != name]
        held = sum(file.size for file in files)
        for file in files:
            if held + size <= most:
                break
            held -= file.size
            self.remove(file)

    def remove(self, file: StoredFile) -> None:
        with suppress(FileNotFoundError):
            removed(f"{self.root}/{file.name}")


class NewAnswers:
    """Answers of one job, held in a temporary file until they are added to the cache."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(2**20)  # noqa: SIM115
        self.count = 0
        self.kept = 0, 0

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
        self.file.write(b"%b %b\n" % (digest.encode(), encode(bare)))
        self.count += 1

    def rows(self) -> Iterator[tuple[str, str | None, str | None, str, float | None, str, int]]:
        """What each column but ``answered_at`` holds."""
        self.file.seek(0)
        for line in self.file:
            digest, _, answer = line.rstrip(b"\n").decode().partition(" ")
            result = decode(answer)
            yield (
                digest, result.provider, result.model, result.custom_id, result.cost_usd, answer,
                checksum_of(digest, answer),
            )  # fmt: skip

    def publish(self, files: AnswerFiles, name: str) -> int:
        """Add them to a cache, under a name that is the same each time; their bytes."""
        if not self.count:
            return 0
        with session() as connection:
            held = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            connection.execute(f"create table added ({held})")
            now = datetime.now(UTC).replace(tzinfo=None)
            for values in batches(self.rows()):
                digests, providers, models, by, costs, answers, checksums = values
                columns = [digests, providers, models, [now] * len(digests), by, costs, answers, checksums]
                places = ", ".join(f"unnest(?::{kind}[])" for kind in COLUMNS.values())
                connection.execute(f"insert into added select {places}", columns)
            return files.write(connection, "select * from added", f"{NEW}/{name}.parquet")

    def close(self) -> None:
        self.file.close()


def checksum_of(digest: str, answer: str) -> int:
    return zlib.crc32(answer.encode(), zlib.crc32(digest.encode()))


def batches(rows: Iterable[tuple[object, ...]]) -> Iterator[tuple[list[object], ...]]:
    """Rows as columns, ``BATCH`` of them at a time."""
    held: list[tuple[object, ...]] = []
    for row in rows:
        held.append(row)
        if len(held) == BATCH:
            yield tuple(map(list, zip(*held, strict=True)))
            held.clear()
    if held:
        yield tuple(map(list, zip(*held, strict=True)))


def seconds_of(facts: dict[str, object]) -> float:
    """When a store says that a file was written, 0 where it does not."""
    for name in ("mtime", "LastModified", "updated", "last_modified", "created"):
        value = facts.get(name)
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, str):
            with suppress(ValueError):
                return datetime.fromisoformat(value).timestamp()
    return 0.0
