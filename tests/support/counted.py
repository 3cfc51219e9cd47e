"""What is asked of a store while a block runs, counted where it leaves the process."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager

#: events of Python's auditing by which files are opened and directories listed
FILES = ("open", "os.listdir", "os.scandir")
watching: list[tuple[str, Counter[str]]] = []


def hear(event, given):
    if event in FILES and watching:
        for folder, asked in watching:
            if str(given[0]).startswith(folder):
                asked[event] += 1


sys.addaudithook(hear)


@contextmanager
def local_operations(folder):
    """Files that are opened and directories that are listed below a folder, by kind."""
    asked: Counter[str] = Counter()
    watching.append((str(folder), asked))
    try:
        yield asked
    finally:
        watching.remove((str(folder), asked))


@contextmanager
def http_requests():
    """Requests that s3fs sends, by method."""
    from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]

    asked: Counter[str] = Counter()
    send = AIOHTTPSession.send

    async def counted(session, request):
        asked[request.method] += 1
        return await send(session, request)

    AIOHTTPSession.send = counted
    try:
        yield asked
    finally:
        AIOHTTPSession.send = send


@contextmanager
def bucket_requests(bucket):
    """Requests to a ``stores.Bucket``, by kind."""
    before = bucket.kinds
    asked: Counter[str] = Counter()
    yield asked
    asked.update(bucket.kinds - before)
