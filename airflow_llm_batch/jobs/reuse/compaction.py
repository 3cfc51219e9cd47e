"""Many small files of answers made into few, without what is old, repeated or too much."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, product
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.jobs.reuse.answers import AnswerFiles, newest
from airflow_llm_batch.storage import whole_file

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath
    from duckdb import DuckDBPyConnection

    from airflow_llm_batch.jobs.reuse.stored import Stored

#: bytes of a file, about; a hash's first digits decide which it is
TARGET = 128 * 2**20
MOST_DIGITS = 3
HEX = "0123456789abcdef"
#: share of the bytes that there may be that is filled, since answers are not of one size
MARGIN = 0.9


class Compacted(NamedTuple):
    """:param before: files, and ``after``; ``answers`` that are left, ``bytes`` that they take."""

    before: int
    after: int
    answers: int
    bytes: int


def compact(files: AnswerFiles, now: datetime) -> Compacted:
    """Read every file there is, write what counts of it by hash prefix, and take them away.

    Files that jobs add meanwhile stay; a job that reads meanwhile looks again. Killed half-way, both old and new files
    are there, and nothing is lost.

    :raises SourceUnavailable: when the store does not answer; nothing was taken away.
    """
    with files.reading() as connection:
        found = files.files()
        held = files.readable(connection, found)
        size = sum(file.size for file in found)
        if not held:
            return Compacted(len(found), len(found), 0, size)
        connection.execute(f"create table places as {newest()}", [held])
        since = oldest(files, connection, size, now)
        connection.execute("delete from places where answered_at < ?", [since])
        # Named anew each time: what another compaction reads at this moment stays whole.
        token = uuid.uuid4().hex[:12]
        answers = 0
        for prefix in prefixes(size):
            with tempfile.TemporaryFile(prefix="llm-batch-answers-") as copied:
                files.hold(connection, copied, f"starts_with(digest, '{prefix}')")
                query = "select digest, start, size from held order by digest"
                rows = (stored for _, stored in files.held(connection, copied, query))
                answers += write_some(rows, files.root / f"{prefix or 'all'}/{token}.parquet")
    for one in found:
        # What is damaged stays, for somebody to look at.
        if files.address(one) not in files.damaged:
            files.remove(one)
    left = files.files()
    return Compacted(len(found), len(left), answers, sum(file.size for file in left))


def write_some(rows: Iterator[Stored], path: ObjectStoragePath) -> int:
    """Write answers, and no file where there are none; how many."""
    from airflow_llm_batch.jobs.reuse.parquet import write

    first = next(rows, None)
    if first is None:
        return 0
    with whole_file(path) as file:
        return write(chain([first], rows), file)


def prefixes(size: int) -> Iterator[str]:
    """First digits of hashes, so many that a file has about ``TARGET`` bytes."""
    digits = 0
    while size / 16**digits > TARGET and digits < MOST_DIGITS:
        digits += 1
    return ("".join(digits) for digits in product(HEX, repeat=digits))


def oldest(files: AnswerFiles, connection: DuckDBPyConnection, size: int, now: datetime) -> datetime:
    """The moment before which answers go: too old, or too many bytes with those that came later.

    :param size: of all files; an answer is taken for as large as all others.
    """
    since = (files.cache.since(now) or datetime(1970, 1, 1, tzinfo=UTC)).replace(tzinfo=None)
    most = files.cache.max_bytes
    if most is None or size <= most:
        return since
    (total,) = connection.execute("select count(*) from places").fetchall()[0]
    # What was added together goes together.
    query = (
        "select min(answered_at) from (select answered_at, sum(count(*)) over (order by answered_at desc) as kept "
        "from places group by answered_at) where kept <= ?"
    )
    found = connection.execute(query, [int(MARGIN * total * most / size)]).fetchall()[0][0]
    return max(since, found) if found is not None else now.replace(tzinfo=None)
