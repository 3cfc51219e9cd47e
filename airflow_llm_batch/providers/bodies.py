"""What flows yield: requests, bodies that can be sent again, and the marks that tell the driver what it may do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import httpx
import msgspec

#: request extension: True lets the driver send the request again after any transport failure or 5xx
REPEATABLE = "llm_batch.repeatable"
#: request extension: seconds that the driver waits before it sends the request
PAUSE = "llm_batch.pause"


class Payload(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request body of known size, read anew each time it is sent, so a retry sends the whole of it.

    :param chunks: opens the content; called once per sending.
    :param size: its length in bytes.
    """

    def __init__(self, chunks: Callable[[], Iterable[bytes]], size: int) -> None:
        self.chunks = chunks
        self.size = size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        iterator = iter(self)
        while (chunk := await asyncio.to_thread(next, iterator, None)) is not None:
            yield chunk

    def framed(self, head: bytes, tail: bytes, change: Callable[[bytes], bytes] = lambda b: b) -> Payload:
        """The same content between ``head`` and ``tail``, each chunk passed through a size-keeping ``change``."""

        def chunks() -> Iterator[bytes]:
            yield head
            yield from (change(chunk) for chunk in self)
            yield tail

        return Payload(chunks, len(head) + self.size + len(tail))


def as_array(lines: Payload, head: bytes, tail: bytes) -> Payload:
    """JSON lines as the members of an array, between ``head`` and ``tail``."""
    # The lines hold no raw newline, so each line end becomes a comma; the last one is covered by a space.
    last = lines.size - 1

    def chunks() -> Iterator[bytes]:
        position = 0
        for chunk in lines:
            joined = chunk.replace(b"\n", b",")
            if position <= last < position + len(chunk):
                joined = joined[: last - position] + b" "
            position += len(chunk)
            yield joined

    return Payload(chunks, lines.size).framed(head, tail)


def with_members(body: bytes, members: Mapping[str, str | float], instead_of: Iterable[str] = ()) -> bytes:
    """A JSON object with further members; the values of the others stay as they are written.

    :param instead_of: other spellings of their names, which are left out.
    """
    held = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    kept = {name: value for name, value in held.items() if name not in set(instead_of)}
    return msgspec.json.encode({**kept, **members})


class Call(NamedTuple):
    """A synchronous call.

    :param path: below the host, encoded.
    """

    custom_id: str
    path: bytes
    body: bytes
    headers: dict[str, str]


class Stored(NamedTuple):
    """Result lines in objects that the vendor has written.

    :param uri: the folder, with the connection that reads it: ``s3://aws_default@bucket/out/job-1``.
    :param pattern: of the objects' names anywhere below it, as ``fnmatch`` reads it.
    """

    uri: str
    pattern: str


class Paged(NamedTuple):
    """Result lines in pages, or in a batch itself.

    :param request: for the first page.
    :param read: turns an answer into its lines and the request for the next page, None after the last.
    """

    request: httpx.Request
    read: Callable[[httpx.Response], tuple[list[bytes], httpx.Request | None]]


class Located(NamedTuple):
    """Result lines at addresses that have to be asked for, and are good for a while.

    :param request: asks for them.
    :param read: turns the answer into requests for bodies of lines.
    """

    request: httpx.Request
    read: Callable[[httpx.Response], Sequence[httpx.Request]]


#: where lines lie: a body that is lines, stored objects, pages, or bodies whose addresses are told
Source = httpx.Request | Stored | Paged | Located


def repeatable(request: httpx.Request) -> httpx.Request:
    """Mark a POST that may be sent again after any failure without cost (an upload, a cancel)."""
    request.extensions[REPEATABLE] = True
    return request


def after(seconds: float, request: httpx.Request) -> httpx.Request:
    """The request, before which the driver waits."""
    request.extensions[PAUSE] = seconds
    return request


def streamed(method: str, url: httpx.URL, headers: Mapping[str, str], body: Payload) -> httpx.Request:
    """A request with a streamed body of known length; httpx adds no headers of its own to such a one."""
    fixed = {"host": url.netloc.decode("ascii"), "content-length": str(body.size)}
    return httpx.Request(method, url, headers={**fixed, **headers}, stream=body)


def encode_multipart(fields: Mapping[str, str], filename: str, content: Payload) -> tuple[dict[str, str], Payload]:
    """Content type and body of a ``multipart/form-data`` upload of one streamed file, fields first."""
    # Random: no row can be written so that its text ends the part.
    boundary = f"llm-batch-{secrets.token_hex(16)}"
    head = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    safe = filename.replace('"', "_").replace("\r", "_").replace("\n", "_")
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{safe}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    ).encode()
    body = content.framed(head, f"\r\n--{boundary}--\r\n".encode())
    return {"content-type": f"multipart/form-data; boundary={boundary}"}, body
