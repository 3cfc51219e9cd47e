"""What killed processes have left unfinished in a store, and taking it away.

Local disks and Azure have it as files beside their places. S3 keeps the parts of an upload that was neither completed
nor aborted, shows them in no listing of files, and bills them until they are aborted: by the landing of the job that
they were of, by the removal of its directory, or by a lifecycle rule of the bucket with
``AbortIncompleteMultipartUpload``. GCS and Azure forget what was uploaded and not committed after a week.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import COMMIT_ALWAYS, find_files, fresh, is_local, remove_all

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

S3 = frozenset({"s3", "s3a"})


def sweep(directory: ObjectStoragePath, names: Collection[str]) -> list[str]:
    """Take away what killed processes have left unfinished of the files with these names; returns what it was."""
    if not has_parts_beside(directory):
        return abort_uploads(directory, names)
    return take_parts(directory, patiently(fresh(directory).fs.ls, directory.path, detail=False), names)


def sweep_all(directory: ObjectStoragePath) -> list[str]:
    """Take away what was left unfinished of any file below a directory where nobody writes any more."""
    if not has_parts_beside(directory):
        return abort_uploads(directory)
    return take_parts(directory, find_files(directory))


def remove_directory(directory: ObjectStoragePath) -> None:
    """Take a directory away, with all that is in it, unfinished uploads too."""
    remove_all(directory)
    if not has_parts_beside(directory):
        abort_uploads(directory)


def has_parts_beside(path: ObjectStoragePath) -> bool:
    return is_local(path) or path.protocol in COMMIT_ALWAYS


def take_parts(directory: ObjectStoragePath, paths: Collection[str], names: Collection[str] | None = None) -> list[str]:
    """:param names: of the files that the parts would have been; any by default."""
    left = []
    for path in paths:
        name = path.rpartition("/")[2]
        if not (name.startswith(".") and name.endswith(".part")):
            continue
        if names is None or name[1:].rsplit(".", 2)[0] in names:
            with suppress(FileNotFoundError):
                directory.fs.rm_file(path)
                left.append(name)
    return left


def abort_uploads(directory: ObjectStoragePath, names: Collection[str] | None = None) -> list[str]:
    """Abort the uploads to S3 that were begun below a directory, and tell which those were.

    :param names: of files in the directory itself; all below it by default.
    """
    fs = directory.fs
    if directory.protocol not in S3 or not hasattr(fs, "call_s3"):
        return []
    bucket, _, folder = directory.path.strip("/").partition("/")
    start, left = f"{folder}/" if folder else "", []
    try:
        for key, upload in open_uploads(fs, bucket, start):
            if names is None or key.removeprefix(start) in names:
                patiently(fs.abort_mpu, bucket, key, upload)
                left.append(key)
    except Exception as error:
        # It takes a permission of its own, and what is left costs little: nothing fails for that.
        log.info("Unfinished uploads below %s could not be aborted: %s", directory, error)
    return left


def open_uploads(fs: Any, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Key and id of the uploads that were begun under a prefix, and neither completed nor aborted."""
    place: dict[str, str] = {}
    while True:
        page = patiently(fs.call_s3, "list_multipart_uploads", Bucket=bucket, Prefix=prefix, **place)
        yield from ((upload["Key"], upload["UploadId"]) for upload in page.get("Uploads", []))
        if not page.get("IsTruncated"):
            return
        place = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
