"""Result files as Azure's documents show them, and in every shape that they leave free; from a server of our own."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import read_jsonl
from support.jobs import land, spec, submit, texts
from support.servers import serving

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.hooks import LLMBatchHook

REQUEST = ChatRequest("batch-mini", user="{text}", max_tokens=100)


def answered(line, **more):
    """A line of the how-to's sample output: no ``id``, results of the filters beside the answer."""
    said = {"role": "assistant", "content": f"{line['body']['messages'][0]['content']}\u2028\u0085fine"}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": said, "content_filter_results": {}}
    body = {
        "object": "chat.completion",
        "model": "gpt-5-mini-2025-08-07",
        "choices": [choice],
        "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    return {
        "custom_id": line["custom_id"],
        "response": {"body": body, "request_id": "r", "status_code": 200},
        "error": None,
        **more,
    }


def refused(line):
    error = {"code": "429", "message": "Requests have exceeded call rate limit."}
    response = {"body": {"error": error}, "request_id": "r", "status_code": 429}
    return {"custom_id": line["custom_id"], "response": response, "error": None}


def as_bytes(line):
    return json.dumps(line, ensure_ascii=False).encode()


#: sent lines -> the bytes of the file of results and of that of errors; None for an id that is empty
SHAPES = {
    "as sent": lambda lines: (b"".join(as_bytes(answered(line)) + b"\n" for line in lines), b""),
    "reversed, not ended": lambda lines: (b"\n".join(as_bytes(answered(line)) for line in lines[::-1]), b""),
    "windows": lambda lines: (b"".join(as_bytes(answered(line)) + b"\r\n" for line in lines), None),
    "blank lines": lambda lines: (b"\n\n \r\n".join(as_bytes(answered(line)) for line in lines) + b"\n\n", b"\n"),
    "byte order mark": lambda lines: (
        b"\xef\xbb\xbf" + b"".join(as_bytes(answered(line)) + b"\n" for line in lines), None
    ),
    "unknown members": lambda lines: (
        b"".join(as_bytes(answered(line, id=None, region={"name": "x"}, seen=[None])) + b"\n" for line in lines), b""
    ),
    "errors apart": lambda lines: (
        b"\n".join(as_bytes(answered(line)) for line in lines[:4]),
        b"\n".join(as_bytes(refused(line)) for line in lines[4:]),
    ),
    "errors alone": lambda lines: (None, b"\n".join(as_bytes(refused(line)) for line in lines)),
    "a huge line": lambda lines: (
        b"\n".join(as_bytes(answered(line, padding="x" * (n and 3 * 2**20 // n))) for n, line in enumerate(lines)), b""
    ),
}  # fmt: skip


@contextmanager
def documented(shape):
    """Azure's files and batches, as far as one job needs them."""
    files = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def tell(self, body):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path.endswith("/files"):
                files["file-in"] = body.partition(b"application/jsonl\r\n\r\n")[2].rpartition(b"\r\n--llm-batch-")[0]
                self.tell({"id": "file-in", "object": "file", "status": "pending", "purpose": "batch"})
                return
            files["file-out"], files["file-err"] = shape([json.loads(line) for line in files["file-in"].splitlines()])
            self.tell(self.batch("validating"))

        def do_GET(self):
            name = self.path.removesuffix("/content").rpartition("/")[2]
            if self.path.endswith("/content"):
                self.tell(files[name])
            else:
                self.tell({"id": name, "status": "processed"} if "/files/" in self.path else self.batch("completed"))

        def batch(self, status):
            kinds = {"output": "file-out", "error": "file-err"}
            made = {f"{kind}_file_id": name if files[name] is not None else "" for kind, name in kinds.items()}
            ended = status == "completed"
            return {
                "id": "batch_1", "object": "batch", "status": status, "created_at": 1, "errors": None, "metadata": None,
                "input_file_id": "file-in", "request_counts": {"total": 6, "completed": None, "failed": None},
                **(made if ended else {"output_file_id": "", "error_file_id": ""}),
            }  # fmt: skip

        def log_message(self, *args):
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


@pytest.mark.parametrize("shape", SHAPES)
def test_every_row_is_landed_from_files_of_any_shape(connect, store, tmp_path, shape):
    """Order, ends of lines, blank ones, members that nobody knows, files that are empty or not there."""
    with documented(SHAPES[shape]) as url:
        hook = LLMBatchHook(connect(url, "azure", deployments={"batch-mini": "gpt-5-mini"}))
        job, _ = submit(store, hook, spec(texts(6), REQUEST, "id"))
        manifest, rows = land(store, hook, job, tmp_path / "out")
        failed = {"errors apart": 2, "errors alone": 6}.get(shape, 0)
        assert manifest.dropped == {} or not any(manifest.dropped.values())
        assert {status: count for status, count in manifest.counts.items() if count} == {
            status: count for status, count in (("succeeded", 6 - failed), ("errored", failed)) if count
        }
        good = {row["key"]: row["text"] for row in rows if row["status"] == "succeeded"}
        assert good == {key: f"text {key[1:]}\u2028\u0085fine" for key in good}
        assert {row["error_code"] for row in rows if row["status"] == "errored"} <= {"http_429"}
        hook.download("batch_1", tmp_path / "raw.jsonl")
        assert sorted(line["custom_id"] for line in read_jsonl(tmp_path / "raw.jsonl")) == sorted(
            row["custom_id"] for row in rows
        )
