"""What a store tells of a file beside its content: each in words of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import fresh

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


def file_info(path: ObjectStoragePath) -> dict[str, Any]:
    """What a store tells of a file, as of now: its ``size``, and what ``modified`` and ``version_of`` read.

    :raises FileNotFoundError: when it is not there.
    """
    info: dict[str, Any] = patiently(fresh(path).fs.info, path.path)
    return info


def modified(info: Mapping[str, Any]) -> datetime | None:
    """When a file was last written, as far as its store tells."""
    names = ("mtime", "LastModified", "updated", "last_modified")
    moment = next((info[name] for name in names if info.get(name)), None)
    if isinstance(moment, int | float):
        return datetime.fromtimestamp(moment, UTC)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def modified_at(path: ObjectStoragePath) -> datetime | None:
    """When a file was last written; None for one that is gone too."""
    try:
        return modified(file_info(path))
    except OSError:
        return None


def version_of(info: Mapping[str, Any]) -> str:
    """What is another when a file was written anew, though it has the same size: GCS's generation, the ETag of S3 and
    Azure, and else the time of writing; "" where a store tells none.

    A local file's inode says nothing: on a mount it may be another for every worker.
    """
    # GCS has an ETag too, which changes with a label.
    mark = info.get("generation") or info.get("ETag") or info.get("etag")
    if mark:
        # A listing has it without the quotes at some.
        return str(mark).strip('"')
    moment = modified(info)
    return moment.isoformat() if moment is not None else ""
