"""The index of a storage: what has happened to its jobs, by day, so that whoever lists them opens no job directory.

{storage}/_index/2026-11-29/13/1764424800123-{mark}-{token}.json   an entry: a job is about to be planned, or was landed
{storage}/_index/packs/2026-11-29-1764424800123-{token}.gz         the entries of a day, the newest of each job
{storage}/_index/packs/checked-1764424800123-{token}               the whole storage was listed, and the packs hold all

Everything is written once, under a name of its own; days and hours are UTC, by the writer's clock. Of several entries
of a job the newest counts, and of several packs of a day. The index holds no truth: an entry that is lost, torn or
early costs a look at the job's directory, and nothing that is sent, paid or landed depends on one.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.jobs.directory.address import JobKey
from airflow_llm_batch.storage import remove, storage_path, write_whole

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.jobs.directory.address import JobAddress

log = logging.getLogger(__name__)
FOLDER, PACKS = "_index", "packs"
ENTRY = re.compile(r"(?P<at>\d{13})-(?P<mark>[0-9a-f]{16})-[0-9a-f]{8}\.json")
PACK = re.compile(r"(?P<day>\d{4}-\d\d-\d\d)-(?P<at>\d{13})-[0-9a-f]{8}\.gz")
CHECKED = re.compile(r"checked-(?P<at>\d{13})-[0-9a-f]{8}")
#: milliseconds after a day's end until which its entries may still come: slow stores, and clocks that differ
SETTLES = 3 * 3600 * 1000


UNKNOWN = msgspec.Raw(b"null")


class IndexEntry(msgspec.Struct, omit_defaults=True):
    """What is known of a job since a moment.

    :param job: its place below the storage, ``dag/run/task/-1``, further rounds not told apart.
    :param at: epoch milliseconds.
    :param raw: the job as listings show it, as JSON; ``null`` where its directory has to be read for that.
    :param gone: its directory was taken away.
    """

    job: str
    at: int
    raw: msgspec.Raw = msgspec.field(default=UNKNOWN, name="view")
    gone: bool = False

    @property
    def view(self) -> bytes | None:
        return None if self.raw == UNKNOWN else bytes(self.raw)

    @property
    def key(self) -> JobKey:
        return JobKey(*self.job.split("/"))

    @property
    def mark(self) -> str:
        return mark_of(self.job)

    def counts_over(self, other: IndexEntry | None) -> bool:
        """Whether it is the newer one, or says more of the same moment."""
        if other is None or self.at != other.at:
            return other is None or self.at > other.at
        return self.view is not None or self.gone


encode = msgspec.json.encode
decode = msgspec.json.Decoder(IndexEntry).decode


def mark_of(job: str) -> str:
    return hashlib.sha256(job.encode()).hexdigest()[:16]


def moment() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 10**6


def day_of(at: int) -> date:
    """The UTC day of epoch milliseconds."""
    return datetime.fromtimestamp(at / 1000, UTC).date()


def end_of(day: date) -> int:
    """Epoch milliseconds of a UTC day's end."""
    return int(datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC).timestamp() * 1000)


def hour_folder(at: int) -> str:
    """Where entries of a moment lie, below the index."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d/%H")


def index_root(storage: str) -> ObjectStoragePath:
    return storage_path(storage.rstrip("/")) / FOLDER


def job_of(address: JobAddress) -> str:
    """A job as entries name it."""
    return "/".join(address.key)


def announce(address: JobAddress, view: bytes | None = None) -> bool:
    """Write an entry: one small file. What fails is told in the log and harms nobody; the next check finds the job.

    :param view: the job as listings show it, as JSON; None before it is planned: its directory is looked at then.
    :return: whether it could be written.
    """
    entry = IndexEntry(job_of(address), moment(), UNKNOWN if view is None else msgspec.Raw(view))
    try:
        # Of the same moment the one that says more is the last by name.
        token = f"{0 if view is None else 1}{uuid.uuid4().hex[:7]}"
        name = f"{entry.at:013d}-{entry.mark}-{token}.json"
        write_whole(index_root(address.storage) / hour_folder(entry.at) / name, encode(entry))
    except Exception as error:
        log.warning(
            "The job at %s could not be entered into the index of its storage, and is on the pages within a day: %s",
            address.uri, f"{type(error).__name__}: {error}",
        )  # fmt: skip
        return False
    return True


def write_pack(root: ObjectStoragePath, day: date, entries: Iterable[IndexEntry], older: Iterable[str] = ()) -> str:
    """Put the newest entries of a day together in one file, and take older packs of it away.

    :param older: names of packs whose content is in this one.
    :return: its name.
    """
    name = f"{day.isoformat()}-{moment():013d}-{uuid.uuid4().hex[:8]}.gz"
    lines = b"\n".join(encode(entry) for entry in entries)
    write_whole(root / PACKS / name, gzip.compress(lines, compresslevel=3))
    for old in older:
        remove(root / PACKS / old)
    return name


def read_pack(data: bytes) -> dict[str, IndexEntry]:
    """Job -> its entry.

    :raises ValueError: for what is no pack.
    """
    try:
        lines = gzip.decompress(data).splitlines()
    except (OSError, EOFError) as error:
        raise ValueError(f"no pack: {error}") from None
    return {entry.job: entry for entry in map(decode, lines)}


def note_checked(root: ObjectStoragePath, at: int, older: Iterable[str] = ()) -> None:
    """:param at: epoch milliseconds of when the storage was listed; ``older`` names of earlier such notes."""
    write_whole(root / PACKS / f"checked-{at:013d}-{uuid.uuid4().hex[:8]}", b"")
    for old in older:
        remove(root / PACKS / old)
