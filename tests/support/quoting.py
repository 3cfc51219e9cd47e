"""A vendor that quotes the caller's key wherever it can."""

from __future__ import annotations

import base64
import html
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, quote_plus

from support.servers import GOOD, serving


def spellings(key: str) -> list[str]:
    """Every way in which a key may be written."""
    packed = [base64.b64encode(text.encode()).decode() for text in (key, f":{key}", f"user:{key}", f"me@team:{key}")]
    return [
        key, repr(key), json.dumps(key), json.dumps(json.dumps(key)), repr(f"'\"{key}"), str(key.encode()),
        quote(key, safe=""), quote_plus(key), quote(quote(key, safe=""), safe=""), quote(key, safe="").lower(),
        html.escape(key), json.dumps(key).replace("&", "\\u0026").replace("/", "\\/"), *packed,
    ]  # fmt: skip


def traces(key: str) -> list[str]:
    """What must be nowhere: each spelling without its quotes, of base64 the part that every user's has in common, and
    half the key."""
    inner = [text[3 if text.startswith('"\\"') else 1 :].rstrip("\"'\\").lstrip("'\"") for text in spellings(key)[:5]]
    packed = [base64.b64encode(b"\0" * n + key.encode()).decode()[4:-4] for n in range(3)]
    return [*inner, *spellings(key)[6:12], *packed, key[: len(key) // 2]]


class Quoting:
    """What it does: ``faults`` maps the beginning of ``METHOD /path`` to how such calls are answered: an HTTP status
    with an error body, or ``text``, ``cut`` (the key at the edge of what is shown), ``error`` (in a 200), ``header``.
    """

    def __init__(self) -> None:
        self.faults: dict[str, int | str] = {}
        self.ids: list[str] = []
        self.said = self.url = ""

    def error(self):
        return {"error": {"message": f"Bad key: {self.said}", "type": "odd", "code": f"odd {self.said}"}}

    def batch(self):
        counts = {"total": len(self.ids), "completed": 1, "failed": len(self.ids) - 1}
        return {
            "id": "b1", "object": "batch", "status": "completed", "request_counts": counts, "output_file_id": "out",
            "error_file_id": "err", "created_at": 1_700_000_000, "metadata": {},
            "errors": {"data": [{"code": f"code {self.said}", "message": self.error()["error"]["message"]}]},
        }  # fmt: skip

    def lines(self, name):
        if name == "out":
            good = {"custom_id": self.ids[0], "response": {"status_code": 200, "body": GOOD}, "error": None}
            return [json.dumps(good), f"no JSON: {self.said}", *[json.dumps(self.error())]]
        rows = []
        for number, custom_id in enumerate(self.ids[1:]):
            response = {"status_code": 400 + number, "request_id": "r", "body": self.error()}
            rows.append(json.dumps({"custom_id": custom_id, "response": response, "error": None}))
        return rows

    def answer(self, call, body):
        """Status and body."""
        fault = next((fault for on, fault in self.faults.items() if call.startswith(on)), None)
        if isinstance(fault, int):
            return fault, self.error()
        if fault == "text":
            return 200, f"<html>{self.said}</html>".encode()
        if fault == "cut":
            return 200, f"{'x' * 60}{self.said}".encode()
        if fault == "error":
            return 200, self.error()
        if call == "POST /v1/files":
            lines = (line for line in body.splitlines() if line.startswith(b'{"custom_id"'))
            self.ids = [json.loads(line)["custom_id"] for line in lines]
            return 200, {"id": "file-1"}
        if call.endswith("/content"):
            return 200, "\n".join(self.lines(call.split("/")[3])).encode()
        if call == "GET /v1/batches":
            return 200, {"data": [], "has_more": False}
        if call == "POST /v1/chat/completions":
            return 200, GOOD
        return 200, self.batch()


@contextmanager
def quoting(key: str):
    """A running one, which quotes ``key`` in every spelling."""
    vendor = Quoting()
    vendor.said = " ".join(spellings(key))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            call = f"{self.command} {self.path.partition('?')[0]}"
            status, said = vendor.answer(call, body)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            if "header" in (fault for on, fault in vendor.faults.items() if call.startswith(on)):
                self.wfile.write(f"HTTP/1.1 200 OK\r\nno header {vendor.said}\r\n\r\n".encode())
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.send_header("x-echo", vendor.said)
            self.send_header("www-authenticate", self.headers.get("authorization") or "")
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        vendor.url = f"{url}/v1"
        yield vendor
