"""A server whose downloads break off."""

from __future__ import annotations

import re
from collections import deque
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.servers import serving


class Breaking:
    """One file, and how it is sent.

    :ivar versions: the file as each request finds it; the last one stays.
    :ivar breaks: the byte of the file before which each answer breaks off, None for one that does not.
    :ivar ranges: ``yes`` answers 206, ``no`` ignores what was asked for, ``wrong`` sends less than it says is left,
        ``refused`` answers 416.
    :ivar headers: sent with every answer; ``encoding`` is what the file is packed with.
    :ivar sized: with a length; in chunks otherwise.
    :ivar asked: the headers of every request, and ``sent`` the bytes of every answer.
    """

    def __init__(self, data: bytes) -> None:
        self.versions = deque([data])
        self.breaks: deque[int | None] = deque()
        self.ranges, self.sized = "yes", True
        self.headers: dict[str, str] = {}
        self.asked: list[dict[str, str]] = []
        self.sent: list[int] = []
        self.url = ""

    def answer(self, asked: dict[str, str]) -> tuple[int, dict[str, str], int, bytes]:
        """Status, headers, first byte and the bytes from it on."""
        data = self.versions.popleft() if len(self.versions) > 1 else self.versions[0]
        span = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        marks = [self.headers.get(name) for name in ("etag", "last-modified")]
        if span is None or self.ranges == "no" or asked.get("if-range", marks[0]) not in marks:
            return 200, {}, 0, data
        begin = int(span[1])
        if self.ranges == "refused" or begin >= len(data):
            return 416, {}, 0, b""
        end = len(data) - (5 if self.ranges == "wrong" else 0)
        return 206, {"content-range": f"bytes {begin}-{end - 1}/{len(data)}"}, begin, data[begin:end]


@contextmanager
def breaking(data: bytes):
    """A ``Breaking`` on 127.0.0.1."""
    vendor = Breaking(data)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            vendor.asked.append({name.lower(): value for name, value in self.headers.items()})
            status, headers, begin, body = vendor.answer(vendor.asked[-1])
            stop = vendor.breaks.popleft() if vendor.breaks else None
            sent = body if stop is None else body[: max(stop - begin, 0)]
            self.send_response(status)
            length = {"content-length": str(len(body))} if vendor.sized else {"transfer-encoding": "chunked"}
            for name, value in {**vendor.headers, **headers, **length}.items():
                self.send_header(name, value)
            self.end_headers()
            vendor.sent.append(len(sent))
            if not vendor.sized:
                sent = (b"%x\r\n%b\r\n" % (len(sent), sent) if sent else b"") + b"0\r\n\r\n" * (len(sent) == len(body))
            with suppress(ConnectionError):
                self.wfile.write(sent)
            # Nothing is left out of a whole answer: only then does the connection stay.
            self.close_connection = not vendor.sized or len(sent) < len(body)

        def log_message(self, *args):
            """Not to the tests' output."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        vendor.url = url
        yield vendor
