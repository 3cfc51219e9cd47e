"""What Azure's own SDK does below a storage of ours: a create is one conditional request, and no log line."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from airflow_llm_batch import storage
from airflow_llm_batch.storage import AZURE_REQUESTS, create_exclusive, storage_path, write_whole

pytest.importorskip("adlfs")
pytest.importorskip("airflow.providers.microsoft.azure")


class Blobs(BaseHTTPRequestHandler):
    """Takes blobs, and refuses with 409 to create one twice."""

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked, blobs = self.server.asked, self.server.blobs
        key = self.path.partition("?")[0]
        asked.append(("PUT", key, self.headers.get("If-None-Match")))
        exists = self.headers.get("If-None-Match") == "*" and key in blobs
        if not exists:
            blobs[key] = body
        self.answer(409 if exists else 201, **({"x-ms-error-code": "BlobAlreadyExists"} if exists else {}))

    def do_GET(self):
        data = self.server.blobs.get(self.path.partition("?")[0])
        if data is None:
            return self.answer(404)
        span = f"bytes 0-{len(data) - 1}/{len(data)}"
        return self.answer(206, data, **{"x-ms-blob-type": "BlockBlob", "Content-Range": span})

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        headers |= {"ETag": '"0x1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Not to the tests' output."""


@pytest.fixture
def blobs(monkeypatch):
    """A storage and its server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Blobs)
    server.asked, server.blobs = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    conn_id = f"azure_{uuid.uuid4().hex[:8]}"
    text = (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=c2VjcmV0;"
        f"BlobEndpoint=http://127.0.0.1:{server.server_port}/devstoreaccount1;"
    )
    connection = {"conn_type": "wasb", "extra": {"connection_string": text}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    yield server, f"abfs://{conn_id}@box"
    server.shutdown()
    server.server_close()


@pytest.fixture
def quiet(caplog):
    """Airflow's level of a task, and the SDK's logger as nobody has touched it."""
    requests = logging.getLogger(AZURE_REQUESTS)
    before = requests.level
    # Whoever sets logging up anew, as Airflow does, switches off what was there.
    names = AZURE_REQUESTS.split(".")
    for depth in range(len(names)):
        above = logging.getLogger(".".join(names[: depth + 1]))
        above.setLevel(logging.NOTSET)
        above.disabled, above.propagate = False, True
    storage.quiet_azure.cache_clear()
    caplog.set_level(logging.INFO)
    yield requests
    requests.setLevel(before)
    storage.quiet_azure.cache_clear()


def lines(caplog):
    return [record for record in caplog.records if record.name == AZURE_REQUESTS]


def test_requests_are_no_lines_of_the_task_log(blobs, quiet, caplog):
    """The SDK tells of each, in several lines, at INFO."""
    write_whole(storage_path(f"{blobs[1]}/a"), b"x")
    assert len(blobs[0].asked) == 1
    assert lines(caplog) == []
    quiet.setLevel(logging.NOTSET)
    write_whole(storage_path(f"{blobs[1]}/a"), b"x")
    assert lines(caplog)


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_who_asks_for_them_has_them(blobs, quiet, caplog, level):
    """By a level of that logger, or by having everything at DEBUG."""
    if level == logging.DEBUG:
        caplog.set_level(level)
    else:
        quiet.setLevel(level)
    write_whole(storage_path(f"{blobs[1]}/a"), b"x")
    assert lines(caplog)


def test_a_create_is_one_request_with_a_condition(blobs):
    """Who comes second is refused by the store, and reads whose it is."""
    server, uri = blobs
    path = storage_path(f"{uri}/claim")
    assert create_exclusive(path, b"ours")
    assert server.asked == [("PUT", "/devstoreaccount1/box/claim", "*")]
    assert not create_exclusive(path, b"theirs")
    assert server.blobs == {"/devstoreaccount1/box/claim": b"ours"}
