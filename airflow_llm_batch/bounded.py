"""Bodies of answers, read with a bound: what a server sends may be compressed unasked, or have no end."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator, Mapping

import httpx

#: bytes of an answer that is read whole. The largest that a vendor gives is a page of a thousand batches, each with all
#: the metadata it may have, about 20 MB
LARGEST = 64 * 2**20
#: and of one that is an error, whose rest tells nothing
LARGEST_ERROR = 2**20
#: bytes of a line that is read whole; the longest that a vendor writes is a few pictures in base64
LONGEST_LINE = 64 * 2**20
#: and what is kept of a longer one, for people to look at: it counts as one that cannot be read
KEPT = 2**20
#: seconds that a vendor may take from the first byte of one to its last
SLOWEST = 600.0
#: bytes that are unpacked at once
PIECE = 2**16
#: zlib's word for "gzip or zlib, as the first bytes say", and for deflate without a head
EITHER, BARE = 47, -15
GZIP = b"\x1f\x8b"
KNOWN = frozenset({"gzip", "x-gzip", "deflate"})
#: headers that speak of a body as it travelled
OF_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})


class TooLarge(Exception):
    """An answer is larger than any that was asked for.

    :ivar size: bytes so far, unpacked; ``came`` as they travelled.
    """

    def __init__(self, size: int, came: int) -> None:
        super().__init__(f"more than {LARGEST / 2**20:.0f} MB ({size:,} bytes so far, of {came:,} that came)")
        self.size, self.came = size, came


class Unpacking:
    """A body's bytes as they were before they were compressed, a small piece at a time.

    :param encoding: of the answer's ``content-encoding``.
    :raises httpx.DecodingError: for one that nobody asked for and that has no bound here.
    """

    def __init__(self, encoding: str) -> None:
        names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
        if len(names) > 1 or not KNOWN.issuperset(names):
            raise httpx.DecodingError(
                f"the answer is compressed as {encoding[:80]!r}, which was not asked for (accept-encoding: identity) "
                "and is not read. Have the server, or the proxy before it, send it plain or as gzip"
            )
        self.is_packed = bool(names)
        self.unpack = zlib.decompressobj(EITHER)
        self.begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What some bytes of it unpack to.

        :raises httpx.DecodingError: when they are not what the encoding says.
        """
        if not self.is_packed:
            yield data
            return
        while data:
            if self.unpack.eof:
                # A further member; anything else is padding.
                if not data.startswith(GZIP):
                    return
                self.unpack = zlib.decompressobj(EITHER)
            piece = self._step(data)
            data = self.unpack.unused_data if self.unpack.eof else self.unpack.unconsumed_tail
            if piece:
                yield piece

    def _step(self, data: bytes) -> bytes:
        try:
            try:
                return self.unpack.decompress(data, PIECE)
            except zlib.error:
                if self.begun:
                    raise
                self.unpack = zlib.decompressobj(BARE)
                return self.unpack.decompress(data, PIECE)
            finally:
                self.begun = True
        except zlib.error as error:
            raise httpx.DecodingError(f"the answer is not compressed as it says: {error}") from None

    def rest(self) -> bytes:
        """What was held back at the end.

        :raises httpx.DecodingError: when it is not the end.
        """
        if not (self.is_packed and self.begun):
            return b""
        rest = self.unpack.flush()
        if not self.unpack.eof:
            raise httpx.DecodingError("the compressed answer breaks off before its end")
        return rest


class Body:
    """An answer that is read whole, as far as it may be.

    :param is_error: its beginning is enough, and it counts as an error however it is written.
    """

    def __init__(self, headers: Mapping[str, str], *, is_error: bool = False) -> None:
        self.is_error = is_error
        self.most = LARGEST_ERROR if is_error else LARGEST
        self.parts: list[bytes] = []
        self.size = self.came = 0
        self.is_cut = False
        try:
            self.unpacking = Unpacking(headers.get("content-encoding", ""))
        except httpx.DecodingError:
            if not is_error:
                raise
            self.is_cut = True

    def add(self, data: bytes) -> bool:
        """Take what came; False when no more is wanted.

        :raises TooLarge: when it is more than may be.
        """
        self.came += len(data)
        try:
            if not self.is_cut:
                self._unpack(data)
        except (TooLarge, httpx.DecodingError):
            if not self.is_error:
                raise
            self.is_cut = True
        return not self.is_cut

    def _unpack(self, data: bytes) -> None:
        for piece in self.unpacking.pieces(data):
            self.size += len(piece)
            if self.size > self.most:
                raise TooLarge(self.size, self.came)
            self.parts.append(piece)

    def end(self) -> bytes:
        """The whole of it, or of an error the beginning."""
        try:
            if not self.is_cut:
                self.parts.append(self.unpacking.rest())
        except httpx.DecodingError:
            if not self.is_error:
                raise
        return b"".join(self.parts)


def read(response: httpx.Response, slowest: float = SLOWEST) -> bytes:
    """The body of an answer that has just begun.

    :raises TooLarge: when it is more than may be; ``httpx.RequestError`` when it breaks off or cannot be unpacked.
    """
    if response.is_stream_consumed:
        return response.content
    try:
        body, began = Body(response.headers, is_error=not response.is_success), time.monotonic()
        for chunk in response.iter_raw():
            if not body.add(chunk):
                break
            check_pace(began, slowest)
        return body.end()
    finally:
        response.close()


async def aread(response: httpx.Response, slowest: float = SLOWEST) -> bytes:
    """``read`` on an event loop."""
    if response.is_stream_consumed:
        return response.content
    try:
        body, began = Body(response.headers, is_error=not response.is_success), time.monotonic()
        async for chunk in response.aiter_raw():
            if not body.add(chunk):
                break
            check_pace(began, slowest)
        return body.end()
    finally:
        await response.aclose()


def check_pace(began: float, slowest: float) -> None:
    """:raises httpx.ReadTimeout: for an answer that goes on coming and does not end."""
    if time.monotonic() - began > slowest:
        raise httpx.ReadTimeout(f"the answer is still coming after {slowest:.0f} seconds")


def plain(response: httpx.Response, content: bytes) -> httpx.Response:
    """The same answer with a body that was read and unpacked."""
    # What was asked comes along: some answers mean one thing to a create and another to a call.
    asked: httpx.Request | None = getattr(response, "_request", None)
    headers = plain_headers(response.headers)
    return httpx.Response(response.status_code, headers=headers, content=content, request=asked)


def plain_headers(headers: httpx.Headers) -> list[tuple[str, str]]:
    """An answer's headers without those of the body as it travelled."""
    return [(name, value) for name, value in headers.multi_items() if name not in OF_THE_WIRE]


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines split at ``\\n`` and nothing else: results contain raw U+2028 and U+0085."""
    for lines in line_blocks(chunks):
        yield from lines


def line_blocks(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The same lines, together those that end in the same chunk."""
    begun: list[bytes] = []
    size = 0
    for chunk in chunks:
        first, *lines = chunk.split(b"\n")
        size += len(first)
        if size <= LONGEST_LINE:
            begun.append(first)
        elif len(begun) > 1:
            begun = [b"".join(begun)[:KEPT]]
        if lines:
            # Joined once a line, however many chunks it came in.
            yield [b"".join(begun), *lines[:-1]]
            begun, size = [lines[-1]], len(lines[-1])
    yield [b"".join(begun)]
