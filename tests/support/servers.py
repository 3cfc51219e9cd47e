"""Servers that answer as somebody else's do."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GOOD = {
    "object": "chat.completion",
    "model": "gpt-5-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}


@contextmanager
def serving(httpd):
    """One of the standard library's servers in a thread; by itself it looks every half second whether it is to end."""
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()


@contextmanager
def server(answer, retry_after_ms=None):
    """A model server: ``answer(times asked before, body) -> (status, body)``, by prompt.

    :param retry_after_ms: how long it wants callers to wait, told with every answer.
    """
    asked: Counter[str] = Counter()
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt = json.dumps(body.get("messages") or body.get("input"))
            bodies.append(body)
            status, said = answer(asked[prompt], body)
            asked[prompt] += 1
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            if retry_after_ms is not None:
                self.send_header("retry-after-ms", str(retry_after_ms))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    class Site(ThreadingHTTPServer):
        request_queue_size = 128

    with serving(Site(("127.0.0.1", 0), Handler)) as url:
        yield f"{url}/v1", asked, bodies
