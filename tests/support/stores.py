"""An object store in memory that counts what it is asked, and fails when it is told to."""

from __future__ import annotations

import errno
import io
import random
import threading
from collections import Counter
from datetime import UTC, datetime
from itertools import count
from typing import Any

from airflow.sdk.io import attach
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

NUMBERS = count()


class Bucket(AbstractFileSystem):
    """Costs what S3 does through s3fs: an operation is a request.

    :ivar asked: (kind, key) -> how often, one for every request.
    :ivar failing: share of requests that fail, half of them after they took effect.
    """

    protocol = "s3"
    cachable = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.files: dict[str, tuple[bytes, datetime]] = {}
        self.lock = threading.RLock()
        self.asked: Counter[tuple[str, str]] = Counter()
        self.failing, self.failed = 0.0, 0
        self.draw = random.Random(seed)
        conn_id = f"bucket{next(NUMBERS)}"
        attach("s3", conn_id=conn_id, fs=self)
        self.uri = f"s3://{conn_id}@bucket"

    @property
    def kinds(self) -> Counter[str]:
        """Requests by kind."""
        counts: Counter[str] = Counter()
        for (kind, _), times in self.asked.items():
            counts[kind] += times
        return counts

    def request(self, kind: str, key: str, effect):
        with self.lock:
            self.asked[kind, key] += 1
            fails = self.draw.random() < self.failing
            if fails:
                self.failed += 1
                error = self.draw.choice(TROUBLES)()
                if self.draw.random() < 0.5:
                    # The answer is lost; what was asked for has happened.
                    effect()
                raise error
            return effect()

    def read(self, key, start=None, end=None):
        def effect():
            if key not in self.files:
                raise FileNotFoundError(key)
            data = self.files[key][0]
            if start is not None and start >= len(data):
                error = OSError(errno.EINVAL, "The requested range is not satisfiable")
                error.__cause__ = Refused(416)
                raise error
            return data[start:end]

        return self.request("GET", key, effect)

    def write(self, kind, key, data, exclusive=False):
        def effect():
            if exclusive and key in self.files:
                raise FileExistsError(key)
            self.files[key] = (bytes(data), datetime.now(UTC))

        return self.request(kind, key, effect)

    def details(self, key):
        data, written_at = self.files[key]
        return {"name": key, "size": len(data), "type": "file", "LastModified": written_at}

    def info(self, path, **kwargs):
        key = self._strip_protocol(path)

        def effect():
            if key not in self.files:
                raise FileNotFoundError(key)
            return self.details(key)

        return self.request("HEAD", key, effect)

    def find(self, path, detail=False, **kwargs):
        prefix = self._strip_protocol(path) + "/"
        found = self.request("LIST", prefix, lambda: sorted(key for key in self.files if key.startswith(prefix)))
        # A listing has a thousand keys a page.
        self.asked["LIST", prefix] += max(len(found) - 1, 0) // 1000
        return {key: self.details(key) for key in found} if detail else found

    def ls(self, path, detail=True, **kwargs):
        prefix = self._strip_protocol(path) + "/"
        names: dict[str, dict[str, Any]] = {}
        for key in self.request("LIST", prefix, lambda: sorted(self.files)):
            if key.startswith(prefix):
                name, below, _ = key.removeprefix(prefix).partition("/")
                directory = {"name": prefix + name, "size": 0, "type": "directory"}
                names[prefix + name] = directory if below else self.details(key)
        if not names:
            raise FileNotFoundError(path)
        return list(names.values()) if detail else list(names)

    def cat_file(self, path, start=None, end=None, **kwargs):
        if start is None and end is None:
            self.info(path)
        return self.read(self._strip_protocol(path), start, end)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self.write("PUT", self._strip_protocol(path), value, exclusive=mode == "create")

    def rm_file(self, path):
        key = self._strip_protocol(path)
        self.request("DELETE", key, lambda: self.files.pop(key, None))

    def rm(self, path, recursive=False, maxdepth=None):
        for key in self.find(path) if recursive else [path]:
            self.rm_file(key)

    def modified(self, path):
        key = self._strip_protocol(path)
        self.info(path)
        return self.files[key][1]

    def _open(self, path, mode="rb", block_size=None, autocommit=True, **kwargs):
        if mode == "rb":
            return Reading(self, path, mode, cache_type="none", size=self.info(path)["size"])
        return Writing(self, path, exclusive=mode == "xb", autocommit=autocommit)


class Reading(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        return self.fs.read(self.path, start, end)


class Writing(io.BytesIO):
    """In one request, or in three where it is published later than it is closed."""

    def __init__(self, bucket: Bucket, key: str, *, exclusive: bool, autocommit: bool) -> None:
        super().__init__()
        self.bucket, self.key, self.exclusive, self.autocommit = bucket, key, exclusive, autocommit

    def close(self):
        if self.closed:
            return
        self.data = self.getvalue()
        super().close()
        if self.autocommit:
            self.bucket.write("PUT", self.key, self.data, self.exclusive)
        else:
            for kind in ("BEGIN", "PART"):
                self.bucket.request(kind, self.key, lambda: None)

    def commit(self):
        self.bucket.write("COMPLETE", self.key, self.data)

    def discard(self):
        self.bucket.request("ABORT", self.key, lambda: None)


class Refused(Exception):
    """As botocore tells what a store has answered."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


def answered(status: int, number: int) -> OSError:
    error = OSError(number, f"The store answered {status}")
    error.__cause__ = Refused(status)
    return error


#: as s3fs, botocore, aiohttp, gcsfs and adlfs tell them
TROUBLES = (
    ConnectionResetError,
    TimeoutError,
    lambda: OSError(errno.EIO, "input/output error"),
    lambda: answered(503, errno.EBUSY),
    lambda: answered(500, errno.EREMOTEIO),
    lambda: answered(429, errno.EIO),
    lambda: type("ReadTimeoutError", (Exception,), {})("read timed out"),
    lambda: type("ServerDisconnectedError", (Exception,), {})("server disconnected"),
    lambda: type("ServiceResponseError", (Exception,), {"status_code": None})("cut off"),
)
