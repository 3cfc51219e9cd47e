"""The answer cache: what was asked and answered before, in Parquet files that anybody may read.

new/{job}.parquet           what one job has added; written once
{prefix}/{token}.parquet    what a compaction has made of them: answers whose hash begins so

Every file has the columns of ``COLUMNS``, sorted by ``digest``; of several answers to one question the newest counts.
Files are only ever added, or taken away whole, so jobs at the same time lose nothing. A file that cannot be read costs
its answers: what they answered is asked again. DuckDB joins hashes and places, which are small and which it keeps on
disk; answers, which may be large, are read and written a row group at a time.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.exceptions import SourceUnavailable
from airflow_llm_batch.jobs.reuse.duck import session
from airflow_llm_batch.jobs.reuse.folder import Anywhere, Folder
from airflow_llm_batch.jobs.reuse.stored import Stored
from airflow_llm_batch.outages import is_outage, patiently
from airflow_llm_batch.storage import fresh, removed, storage_path

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from airflow_llm_batch.data.answer_cache import AnswerCache

log = logging.getLogger(__name__)
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Stored).decode
#: rows that are handed to DuckDB at once, and taken from it
BATCH, FETCHED = 20_000, 2_000
#: how often it is looked again, where files were taken away meanwhile
LOOKS = 5
#: files whose addresses are given, with the places of their rows; and what DuckDB reads of them
FILES = "read_parquet(?, union_by_name=true, filename=true, file_row_number=true)"
PLACES = "digest, answered_at, filename, file_row_number"


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
        self.folder = Folder(self.root.path, self.root.fs)
        #: addresses of files that cannot be read from one end to the other
        self.damaged: set[str] = set()

    def files(self) -> list[StoredFile]:
        """All of them as of now, those written first first.

        :raises SourceUnavailable: when the store does not answer.
        """
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
            connection.register_filesystem(self.folder)
            yield connection

    def address(self, file: StoredFile) -> str:
        return f"{self.folder.protocol}://{file.name}"

    def open(self, address: str) -> Anywhere:
        return self.folder.open(address.partition("://")[2])

    def readable(self, connection: DuckDBPyConnection, files: Sequence[StoredFile]) -> list[str]:
        """The addresses of those files whose hashes can be read; the others are told."""
        good = []
        for file in files:
            try:
                connection.execute(
                    f"select bit_xor(hash({PLACES})) from {FILES}",  # noqa: S608
                    [[self.address(file)]],
                ).fetchall()
            except Exception as error:
                self.check_store()
                self.tell_damaged(self.address(file), error)
            else:
                good.append(self.address(file))
        return good

    def tell_damaged(self, address: str, error: BaseException) -> None:
        self.damaged.add(address)
        log.warning(
            "The answers in %s/%s cannot be used: %s. What they answered is asked again; remove the file.",
            self.root, address.partition("://")[2], str(error).splitlines()[0][:300] if str(error) else repr(error),
        )  # fmt: skip

    def find(self, wanted: Iterable[tuple[int, str]], now: datetime) -> Iterator[tuple[int, bytes]]:
        """The newest answer to each question that has one, as (row, ``Result`` as JSON), in the order of the rows.

        :param wanted: rows with their hashes, in hex.
        :raises SourceUnavailable: when the store does not answer.
        """
        with self.reading() as connection, tempfile.TemporaryFile(prefix="llm-batch-answers-") as held:
            files = self.files()
            if not files:
                return
            connection.execute("create table wanted (row_number bigint, digest varchar)")
            for rows, digests in batches(wanted):
                connection.execute("insert into wanted select unnest(?), unnest(?)", [rows, digests])
            for look in range(LOOKS):
                if not self._locate(connection, files, now):
                    return
                try:
                    self.hold(connection, held)
                    break
                except FileNotFoundError as error:
                    # A compaction has put others in their place.
                    if look == LOOKS - 1:
                        raise self.unavailable(error) from error
                    files = self.files()
            query = "select row_number, start, size from wanted join held using (digest) order by row_number"
            for row, stored in self.held(connection, held, query):
                yield row, stored.answer.encode()

    def _locate(self, connection: DuckDBPyConnection, files: Sequence[StoredFile], now: datetime) -> bool:
        """Find where the newest answer to each question lies; False where there are no files any more."""
        since = self.cache.since(now) or datetime(1970, 1, 1, tzinfo=UTC)
        asked = "answered_at >= ? and digest in (select digest from wanted)"
        query = f"create or replace table places as {newest(asked)}"
        addresses = [self.address(file) for file in files]
        for look in range(LOOKS):
            try:
                connection.execute(query, [addresses, since.replace(tzinfo=None)])
                return True
            except Exception as error:
                self.check_store()
                if look == LOOKS - 1:
                    raise self.unavailable(error) from error
                log.info("Looking for answers once more: %s", str(error).splitlines()[0][:300])
                addresses = self.readable(connection, self.files())
                if not addresses:
                    return False
        return False

    def hold(self, connection: DuckDBPyConnection, held: IO[bytes], where: str = "true") -> None:
        """Copy answers into a temporary file, and note where there in ``held``.

        :param where: a condition on ``places``.
        """
        connection.execute("create or replace table held (digest varchar, start bigint, size bigint)")

        def copied() -> Iterator[tuple[str, int, int]]:
            for stored in self.stored(connection.cursor(), where):
                line = encode(stored)
                yield stored.digest, held.tell(), len(line)
                held.write(line)

        inserting = connection.cursor()
        for digests, starts, sizes in batches(copied()):
            inserting.execute("insert into held select unnest(?), unnest(?), unnest(?)", [digests, starts, sizes])

    def stored(self, connection: DuckDBPyConnection, where: str = "true") -> Iterator[Stored]:
        """The answers at ``places``, file by file; those that are damaged are told and left out.

        :raises FileNotFoundError: for a file that is gone.
        """
        from airflow_llm_batch.jobs.reuse.parquet import at_places

        names = connection.execute(f"select distinct filename from places where {where} order by 1").fetchall()  # noqa: S608
        for (address,) in names:
            found = connection.execute(
                f"select file_row_number from places where filename = ? and {where} order by 1", [address]  # noqa: S608
            )  # fmt: skip
            spoiled = 0
            try:
                with self.open(address) as file:
                    for stored in at_places(file, numbers(found)):
                        if stored.is_whole:
                            yield stored
                        else:
                            spoiled += 1
            except FileNotFoundError:
                raise
            except Exception as error:
                if is_outage(error):
                    raise self.unavailable(error) from error
                self.tell_damaged(address, error)
            if spoiled:
                self.damaged.add(address)
                log.warning("%d answers in %s were damaged and are asked again.", spoiled, address)

    def held(self, connection: DuckDBPyConnection, held: IO[bytes], query: str) -> Iterator[tuple[Any, Stored]]:
        """What was held, as (whatever the query has first, ``Stored``).

        :param query: selects it, ``start`` and ``size``.
        """
        found = connection.execute(query)
        while rows := found.fetchmany(FETCHED):
            for first, start, size in rows:
                held.seek(start)
                yield first, decode(held.read(size))

    def check_store(self) -> None:
        """:raises SourceUnavailable: when the store has failed; not for a file that is gone, or cannot be read."""
        trouble = self.folder.trouble
        if trouble is not None and not isinstance(trouble, FileNotFoundError):
            raise self.unavailable(trouble) from trouble

    def unavailable(self, error: BaseException) -> SourceUnavailable:
        return SourceUnavailable(
            f"The answers in {self.root} cannot be read: {type(error).__name__}: {error}. Nothing was sent."
        )

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


def newest(where: str = "true") -> str:
    """A query for where the newest answer to each question lies."""
    return (
        f"select {PLACES} from {FILES} where {where} "  # noqa: S608
        "qualify row_number() over (partition by digest order by answered_at desc, filename, file_row_number) = 1"
    )


def numbers(found: DuckDBPyConnection) -> Iterator[int]:
    while rows := found.fetchmany(FETCHED):
        for (number,) in rows:
            yield number


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
