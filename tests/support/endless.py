"""A server whose answers are small on the way and large in memory, or have no end."""

from __future__ import annotations

import json
import time
import zlib
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.servers import serving

MB = 2**20


def bomb(megabytes: int, filling: bytes = b" ", head: bytes = b"", tail: bytes = b"") -> bytes:
    """So much of one byte between two texts, gzip: a thousandth on the way, and made without packing all of it."""

    def block(text: bytes, how: int = zlib.Z_FULL_FLUSH) -> bytes:
        packer = zlib.compressobj(9, wbits=-15)
        return packer.compress(text) + packer.flush(how)

    crc = zlib.crc32(head)
    for _ in range(megabytes):
        crc = zlib.crc32(filling * MB, crc)
    size = (len(head) + megabytes * MB + len(tail)) % 2**32
    end = zlib.crc32(tail, crc).to_bytes(4, "little") + size.to_bytes(4, "little")
    start = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return start + block(head) + block(filling * MB) * megabytes + block(tail, zlib.Z_FINISH) + end


class Endless:
    """What it answers to every call.

    :ivar chunks: makes the body, sent as it comes.
    :ivar sent: bytes that were written before the caller hung up; ``hung_up`` how often it did.
    """

    def __init__(self) -> None:
        self.status, self.encoding = 200, ""
        self.chunks = lambda: iter([b"{}"])
        self.url = ""
        self.sent = self.calls = self.hung_up = 0

    def zeros(self):
        while True:
            yield b" " * 2**16

    def trickle(self):
        while True:
            yield b" "
            time.sleep(0.02)


@contextmanager
def endless():
    vendor = Endless()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            left = int(self.headers.get("content-length") or 0)
            while left:
                left -= len(self.rfile.read(min(left, MB)))
            vendor.calls += 1
            self.send_response(vendor.status)
            if vendor.encoding:
                self.send_header("content-encoding", vendor.encoding)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                for chunk in vendor.chunks():
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    vendor.sent += len(chunk)
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                vendor.hung_up += 1
                self.close_connection = True

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    class Site(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            """Callers hang up here."""

    with serving(Site(("127.0.0.1", 0), Handler)) as url:
        vendor.url = f"{url}/v1"
        yield vendor


def padded(value, megabytes):
    """JSON that is small but for the blanks in it."""
    text = json.dumps(value).encode()
    return bomb(megabytes, head=text[:1], tail=text[1:])


def peak(action):
    """What an action gives, and the most bytes that it held at once."""
    import tracemalloc

    tracemalloc.start()
    value = None
    with suppress(StopIteration):
        value = action()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return value, most
