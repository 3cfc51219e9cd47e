"""Whole files in object storage: read in big blocks, written all or nothing, or created by exactly one writer.

What holds where: a small file is one request, which S3, GCS and Azure take whole or not at all. A larger one S3 and GCS
write atomically (``autocommit=False``); adlfs (Azure) ignores that, so it is written beside its place and moved, as
local files are. ``create_exclusive`` lets one of many writers win on local files, S3, GCS and Azure: to a store it is
one request with a condition, for there are servers that forget the condition where an upload takes several. A store
that ignores preconditions lets all of them win; ``jobs.directory.exclusive`` finds it out. What fails for a moment is
tried again (``outages``); the parts of a large file that is being written are left to the store's driver, which does so
by itself.
"""

from __future__ import annotations

import io
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_llm_batch.blocks import CHUNK, FETCH, BlockWriter, Opened, Ranges, read_range
from airflow_llm_batch.exceptions import ConfigurationError, InputError, SourceUnavailable
from airflow_llm_batch.outages import is_outage, patiently, status_of

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: bytes of a part that is uploaded; S3 takes none smaller
PART = 5 * 2**20
#: bytes of a finished file that wait in memory for being published; a landing may have a thousand such files
HELD = 2**16
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
#: what a store answers to a create of what is there
EXISTS = 412
LOCAL = frozenset({"", "file", "local"})
#: these ignore autocommit=False and publish what was written when an exception closed the file
COMMIT_ALWAYS = frozenset({"abfs", "abfss", "az", "adl", "wasb", "wasbs"})
#: the logger by which Azure's SDK tells of requests
AZURE_REQUESTS = "azure.core.pipeline.policies.http_logging_policy"
#: these publish what comes in one request whole or not at all
AT_ONCE = frozenset(EXTRAS)


def storage_path(uri: str | os.PathLike[str] | ObjectStoragePath) -> ObjectStoragePath:
    """An ``ObjectStoragePath`` from a URI (``s3://conn@bucket/key``) or a local path.

    :raises ConfigurationError: when the scheme's file system is not installed.
    """
    from airflow.sdk import ObjectStoragePath

    if isinstance(uri, ObjectStoragePath):
        return uri
    text = os.fspath(uri)
    scheme = urlsplit(text).scheme
    if not scheme and not os.path.isabs(text):
        raise ConfigurationError(
            f"{text!r} is a relative path, which means another place on every worker; give a URI (s3://..., "
            "file:///...) or an absolute path. Nothing was sent."
        )
    if scheme in LOCAL:
        attach_local(scheme or "file")
    elif scheme in COMMIT_ALWAYS:
        quiet_azure()
    try:
        path = ObjectStoragePath(text if scheme else f"file://{text}")
        path.fs  # noqa: B018  (a file system that is not installed shows here)
    except (ValueError, ImportError) as error:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'airflow-provider-llm-batch[{extra}]'" if extra else "use file, s3, gs or abfs"
        raise ConfigurationError(f"Cannot use {text!r}: {error}. Remedy: {remedy}. Nothing was sent.") from None
    return path


@cache
def attach_local(scheme: str) -> None:
    """Tell Airflow the local file system it would find by itself, after importing those of all installed providers."""
    from airflow.sdk.io import attach
    from fsspec.implementations.local import LocalFileSystem

    attach(scheme, fs=LocalFileSystem())


@cache
def quiet_azure() -> None:
    """Keep each request's headers out of the task log: Azure's SDK tells two lines of INFO for every request.

    Whoever wants them gives that logger a level, or has everything at DEBUG; neither is changed here.
    """
    requests = logging.getLogger(AZURE_REQUESTS)
    if requests.level == logging.NOTSET and requests.getEffectiveLevel() > logging.DEBUG:
        requests.setLevel(logging.WARNING)


class WholeFile:
    """A file that appears at ``path`` when ``commit`` is called, and not at all otherwise.

    Local files are written beside their place and renamed. To an object store a small file is one request; a larger one
    is published on commit by S3 and GCS, and on Azure, which publishes whatever was written, uploaded beside its place
    and moved.
    """

    def __init__(self, path: ObjectStoragePath) -> None:
        self.path = path
        self.fs = path.fs
        make_parent(path)
        self.local = is_local(path)
        self.beside = self.local or path.protocol in COMMIT_ALWAYS
        folder, _, name = path.path.rpartition("/")
        self.at = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.part" if self.beside else path.path
        self.at_once = path.protocol in AT_ONCE
        self.writer = BlockWriter(self._begin, PART if self.at_once else CHUNK)
        self.write = self.writer.write
        if not self.at_once:
            self.writer.file = self._begin()

    def _begin(self) -> Any:
        if self.local:
            return open(self.at, "wb")
        return self.fs.open(self.at, "wb", block_size=PART, **({} if self.beside else {"autocommit": False}))

    @property
    def size(self) -> int:
        return self.writer.size

    @property
    def is_held(self) -> bool:
        """Whether all of it is still here, and nothing at the store."""
        return self.writer.file is None

    def finish(self, most_held: int = HELD) -> None:
        """Write the last of it and let go of the open file; it is not published yet.

        :param most_held: bytes that may wait here until they are published.
        """
        if (self.is_held and self.size <= most_held) or (not self.is_held and self.writer.file.closed):
            return
        self.writer.flush()
        file = self.writer.file
        if self.local:
            file.flush()
            os.fsync(file.fileno())
        file.close()

    def commit(self) -> None:
        self.finish(PART)
        if self.is_held:
            patiently(self.fs.pipe_file, self.path.path, bytes(self.writer.buffer))
        elif self.local:
            os.replace(self.at, self.path.path)
        elif self.beside:
            self.fs.mv(self.at, self.path.path)
        else:
            self.writer.file.commit()

    def discard(self) -> None:
        if self.is_held:
            return
        with suppress(Exception):
            self.writer.file.close()
        with suppress(Exception):
            if self.local:
                os.unlink(self.at)
            elif self.beside:
                self.fs.rm_file(self.at)
            else:
                self.writer.file.discard()


@contextmanager
def whole_file(path: ObjectStoragePath) -> Iterator[WholeFile]:
    """A file that is published when the block ends well, and leaves no trace when it raises."""
    file = WholeFile(path)
    try:
        yield file
    except BaseException:
        file.discard()
        raise
    file.commit()


def write_whole(path: ObjectStoragePath, data: bytes) -> None:
    """Write a small file, whole or not at all; an existing one is replaced."""
    with whole_file(path) as file:
        file.write(data)


def create_exclusive(path: ObjectStoragePath, data: bytes) -> bool:
    """Create a small file unless it exists; True for the one writer who did.

    A create whose answer was lost is made again, by us or by the store's driver, and finds the file that it has made
    itself: what lies there tells whose it is.

    :param data: no other writer has the same, unless it makes no difference which of them has won.
    """
    make_parent(path)
    try:
        patiently(create, path, data)
    except FileExistsError:
        return read_small(path) == data
    return True


def create(path: ObjectStoragePath, data: bytes) -> None:
    """:raises FileExistsError: when there is one already."""
    if is_local(path):
        create_linked(path.path, data)
        return
    try:
        if path.protocol in AT_ONCE:
            path.fs.pipe_file(path.path, data, mode="create")
        else:
            with path.fs.open(path.path, "xb") as file:
                file.write(data)
    except Exception as error:
        # Some servers do not say which condition it was; there is one only.
        if status_of(error) == EXISTS:
            raise FileExistsError(path.path) from error
        raise


def create_linked(path: str, data: bytes) -> None:
    """Exclusive and whole at once on a local disk: a link to a finished file.

    :raises FileExistsError: when there is one already.
    """
    part = f"{path}.{uuid.uuid4().hex[:8]}.part"
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a mount without hard links: exclusive still, whole but for a crash in this very moment
        with open(path, "xb") as file:
            file.write(data)
    finally:
        os.unlink(part)


def read_small(path: ObjectStoragePath) -> bytes | None:
    """A small file's content, None when there is no such file."""
    try:
        if is_local(path):
            return patiently(read_local, path.path)
        return patiently(read_range, path.fs, path.path, 0)
    except FileNotFoundError:
        return None


def read_local(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def refuse(error: OSError) -> None:
    """:raises OSError: of a directory that cannot be read; one that is gone is no trouble."""
    if not isinstance(error, FileNotFoundError):
        raise error


def find_files(folder: ObjectStoragePath) -> list[str]:
    """The paths of all files below a directory, as of now; none when there is no such directory."""
    if is_local(folder):
        return [f"{above}/{name}" for above, _, names in os.walk(folder.path, onerror=refuse) for name in names]
    try:
        found: list[str] = patiently(fresh(folder).fs.find, folder.path)
    except FileNotFoundError:
        return []
    return found


def unreadable(what: str, error: BaseException) -> InputError | SourceUnavailable:
    """The error of a source that cannot be read: for now, or as it is."""
    kind = SourceUnavailable if is_outage(error) else InputError
    return kind(f"{what}: {type(error).__name__}: {error}. Nothing was sent.")


def open_blocks(path: ObjectStoragePath) -> io.BufferedReader:
    """Open for reading in big blocks; iterating over it yields lines split at ``\\n`` only."""
    if is_local(path):
        return io.BufferedReader(io.FileIO(path.path), CHUNK)
    return io.BufferedReader(Opened(patiently(fresh(path).fs.open, path.path, "rb", cache_type="none")), FETCH)


def open_fact(path: ObjectStoragePath) -> io.BufferedReader:
    """``open_blocks`` for a file that never changes once it is there; one that is missing shows with the first read."""
    return open_blocks(path) if is_local(path) else io.BufferedReader(Ranges(path.fs, path.path), FETCH)


def open_random(path: ObjectStoragePath) -> Any:
    """Open for reading here and there; nothing is read ahead."""
    if is_local(path):
        return open(path.path, "rb")
    return patiently(fresh(path).fs.open, path.path, "rb", cache_type="none")


def below(uri: str, pattern: str) -> list[ObjectStoragePath]:
    """The files anywhere below a folder whose names match, in order; none where there is no such folder.

    :param pattern: of the name, as ``fnmatch`` reads it.
    """
    folder = storage_path(uri)
    start = folder.path.rstrip("/") + "/"
    names = sorted(path.removeprefix(start) for path in find_files(folder))
    return [folder / name for name in names if fnmatchcase(name.rpartition("/")[2], pattern)]


def removed(uri: str) -> int:
    """Remove a file, or all below a folder where the URI ends with a slash; how many were there."""
    path = storage_path(uri)
    if uri.endswith("/"):
        return sum(removed(str(file)) for file in below(uri, "*"))
    if not exists(path):
        return 0
    remove(path)
    return 1


def read_chunks(path: ObjectStoragePath) -> Iterator[bytes]:
    """The bytes of a file that never changes, in chunks of about 1 MB."""
    with open_fact(path) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def make_parent(path: ObjectStoragePath) -> None:
    """Object stores have no directories; only a local file needs its own."""
    if is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def is_local(path: ObjectStoragePath) -> bool:
    return path.protocol in LOCAL


def fresh(path: ObjectStoragePath) -> ObjectStoragePath:
    """The path, with what its file system remembers of it forgotten: another process may have written since."""
    path.fs.invalidate_cache()
    return path


def file_size(path: ObjectStoragePath) -> int:
    """Bytes in a file, as of now."""
    return int(patiently(fresh(path).fs.size, path.path))


def check_writable(directory: ObjectStoragePath) -> None:
    """Prove that files can be written below ``directory`` by writing one and removing it.

    :raises ConfigurationError: names the directory and the store's own message; ``SourceUnavailable`` in an outage.
    """
    probe = directory / "_llm_batch_write_check"
    try:
        write_whole(probe, b"")
    except Exception as error:
        kind = SourceUnavailable if is_outage(error) else ConfigurationError
        raise kind(
            f"Cannot write to {directory}: {type(error).__name__}: {error}. Check that it is a directory or bucket "
            "that exists and that the connection in the URI may write there. Nothing was sent."
        ) from None
    with suppress(Exception):  # a store may allow writing and not deleting; the empty file does no harm
        probe.fs.rm_file(probe.path)


def exists(path: ObjectStoragePath) -> bool:
    """Whether a file is there now, whatever was known of it."""
    # Not the file system's own ``exists``: some take any trouble for a no.
    try:
        patiently(fresh(path).fs.info, path.path)
    except FileNotFoundError:
        return False
    return True


def remove(path: ObjectStoragePath) -> None:
    """Take a file away; one that is gone already is no trouble."""
    with suppress(FileNotFoundError):
        patiently(path.fs.rm_file, path.path)


def remove_all(directory: ObjectStoragePath) -> None:
    """Take a directory away, with all that is in it."""
    with suppress(FileNotFoundError):
        patiently(directory.fs.rm, directory.path, recursive=True)
