"""Many small files of answers made into few, without what is old, repeated or too much."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.jobs.reuse.answers import COLUMNS, AnswerFiles

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: bytes of a file, about; a hash's first digits decide which it is
TARGET = 128 * 2**20
MOST_DIGITS = 3
HEX = "0123456789abcdef"


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
    """
    with files.reading() as connection:
        found = files.files()
        held = files.readable(connection, found)
        if not held:
            return Compacted(len(found), len(found), 0, sum(file.size for file in found))
        size = sum(file.size for file in found)
        since = oldest(files, connection, held, size, now)
        connection.execute(
            f"create view answers as select {', '.join(COLUMNS)} from read_parquet({held!r}, union_by_name=true) "  # noqa: S608
            f"where answered_at >= timestamp '{since}'"
        )
        # Named anew each time: what another compaction reads at this moment stays whole.
        token = uuid.uuid4().hex[:12]
        written: list[str] = []
        answers = 0
        for prefix in prefixes(size):
            name = f"{prefix or 'all'}/{token}.parquet"
            query = (
                f"select * from answers where digest >= '{prefix}' and digest < '{prefix}g' "  # noqa: S608
                "qualify row_number() over (partition by digest order by answered_at desc, answered_by) = 1"
            )
            if files.write(connection, query, name, replaces=True):
                written.append(name)
                answers += connection.execute(f"select count(*) from ({query})").fetchall()[0][0]  # noqa: S608
    replaced = [file for file in found if files.address(file) in held]
    for file in replaced:
        files.remove(file)
    left = files.files()
    return Compacted(len(found), len(left), answers, sum(file.size for file in left))


def prefixes(size: int) -> Iterator[str]:
    """First digits of hashes, so many that a file has about ``TARGET`` bytes."""
    digits = 0
    while size / 16**digits > TARGET and digits < MOST_DIGITS:
        digits += 1
    return ("".join(digits) for digits in product(HEX, repeat=digits))


def oldest(
    files: AnswerFiles, connection: DuckDBPyConnection, held: Sequence[str], size: int, now: datetime
) -> datetime:
    """The moment before which answers go: too old, or too many bytes with those that came later."""
    since = (files.cache.since(now) or datetime(1970, 1, 1, tzinfo=UTC)).replace(tzinfo=None)
    most = files.cache.max_bytes
    if most is None or size <= most:
        return since
    minutes = connection.execute(
        "select date_trunc('minute', answered_at) as minute, sum(strlen(answer)) "  # noqa: S608
        f"from read_parquet({held!r}, union_by_name=true) group by minute order by minute desc"
    ).fetchall()
    # Files are compressed; what they hold is not.
    room = most * sum(written for _, written in minutes) / size
    kept = list(fitting(minutes, room))
    return max(since, min(kept)) if kept else now.replace(tzinfo=None)


def fitting(minutes: Sequence[tuple[datetime, int]], room: float) -> Iterator[datetime]:
    """The newest minutes whose answers have room together."""
    for at, written in minutes:
        room -= written
        if room < 0:
            return
        yield at
