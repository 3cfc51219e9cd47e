"""Downloads that break off and go on where they did.

A GET whose body breaks off is asked for again with ``Range`` (RFC 9110, 14), from a little before the place where it
did, and with ``If-Range`` where the first answer had a validator. A server that answers 206 sends the rest. One that
answers 200 sends all of it once more, of which what is known is read past. Either way what is sent twice has to be the
same twice, or the download ends: its bytes are handed on once each, in their order.
"""

from __future__ import annotations

import logging
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import httpx
from tenacity import RetryCallState

from airflow_llm_batch.bounded import Unpacking
from airflow_llm_batch.exceptions import VendorUnavailable

log = logging.getLogger(__name__)

#: bytes that are asked for twice, to see that they are the same
OVERLAP = 1024
#: bytes after which a break counts as the first one again
PROGRESS = 2**20
#: places that a download is sent on to, one by the other
MOST_HOPS = 5
#: first and last byte of a part, and how many there are
SPAN = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def followed(
    request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]
) -> tuple[httpx.Request, httpx.Response]:
    """A download from where its answer sends us, as servers do that keep files in a store and sign its address.

    Credentials go to their own origins, there too. From a place that is encrypted to one that is not nothing goes.
    """
    response = send(request)
    for _ in range(MOST_HOPS):
        if not response.has_redirect_location:
            break
        place = request.url.join(response.headers["location"])
        if place.scheme != "https" and request.url.scheme == "https":
            break
        request = httpx.Request("GET", place)
        response = send(request)
    return request, response


def no_page(pieces: Iterable[bytes], host: str) -> Iterator[bytes]:
    """A download as it comes.

    :raises VendorUnavailable: for a page, which is no line of JSON: that of a sign-in or a proxy, whatever its status.
    """
    begun = False
    for piece in pieces:
        if not begun and (begun := bool(piece.strip())) and piece.lstrip().startswith(b"<"):
            raise VendorUnavailable(
                f"A download of results from {host} is a page, as those of a sign-in or of a proxy are. Nothing of it "
                "was landed, and nothing is asked again; look at what lies between, and clear this task."
            )
        yield piece


class Changed(httpx.RemoteProtocolError):
    """What is sent now is not what was sent before."""


class Download:
    """The body of an answer that has just begun.

    :param send: asks for the rest; it tries again by itself.
    :param tries: how often in a row the body may break off within ``PROGRESS`` bytes.
    :param pause: seconds before the rest is asked for.
    """

    def __init__(
        self,
        request: httpx.Request,
        response: httpx.Response,
        send: Callable[[httpx.Request], httpx.Response],
        *,
        tries: int,
        pause: Callable[[RetryCallState], float],
    ) -> None:
        self.request, self.response, self.first = request, response, response.headers
        self.send, self.tries, self.pause = send, tries, pause
        #: of the body as it travels, so far: its length, checksum and last bytes
        self.size = self.crc32 = 0
        self.tail = b""

    def close(self) -> None:
        self.response.close()

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes, unpacked.

        :raises httpx.RequestError: when it breaks off, and cannot go on.
        """
        if self.response.is_stream_consumed:
            yield self.response.content
            return
        unpacking = Unpacking(self.first.get("content-encoding", ""))
        for chunk in self.chunks():
            yield from unpacking.pieces(chunk)
        yield unpacking.rest()

    def chunks(self) -> Iterator[bytes]:
        """The body as it travels."""
        rest, breaks, place = self.response.iter_raw(), 0, 0
        while True:
            try:
                for chunk in rest:
                    self.crc32 = zlib.crc32(chunk, self.crc32)
                    self.size += len(chunk)
                    self.tail = (chunk if len(chunk) >= OVERLAP else self.tail + chunk)[-OVERLAP:]
                    yield chunk
                return
            except Changed:
                raise
            except httpx.RequestError as error:
                breaks, place = (breaks + 1 if self.size - place < PROGRESS else 1), self.size
                if self.request.method != "GET" or breaks > self.tries:
                    raise
                self.wait(breaks, error)
                rest = self.go_on(error)

    def wait(self, breaks: int, error: httpx.RequestError) -> None:
        state = RetryCallState(cast("Any", None), None, (), {})
        state.attempt_number = breaks
        state.set_exception((type(error), error, error.__traceback__))
        time.sleep(self.pause(state))

    def go_on(self, error: httpx.RequestError) -> Iterator[bytes]:
        """What has not come yet.

        :raises httpx.RequestError: the break itself, where that cannot be had; ``Changed``.
        """
        self.response.close()
        begin = self.size - len(self.tail)
        self.response = self.send(self.asked_from(begin))
        status, headers = self.response.status_code, self.response.headers
        if not self.is_same(headers):
            raise Changed(f"it broke off after {self.size:,} bytes, and is another file now")
        broke = f"A download broke off after {self.size:,} bytes ({type(error).__name__})"
        if status == httpx.codes.OK:
            log.info("%s; beginning anew.", broke)
            return self.behind(self.size, self.crc32)
        if status == httpx.codes.PARTIAL_CONTENT and self.is_rest(headers.get("content-range", ""), begin):
            log.info("%s; going on there.", broke)
            return self.behind(len(self.tail), zlib.crc32(self.tail))
        raise error

    def is_same(self, headers: httpx.Headers) -> bool:
        """Whether an answer does not say that it is of another file."""
        names = ["etag"] + ["content-length"] * ("content-range" not in headers)
        both = [(self.first[name], headers[name]) for name in names if name in self.first and name in headers]
        packed = [one.get("content-encoding", "") for one in (self.first, headers)]
        return packed[0] == packed[1] and all(before == now for before, now in both)

    def is_rest(self, content_range: str, begin: int) -> bool:
        """Whether a ``Content-Range`` is all of the file from a byte on."""
        span = SPAN.fullmatch(content_range)
        if span is None or int(span[1]) != begin:
            return False
        total = self.first.get("content-length", span[3])
        return total == str(int(span[2]) + 1) and span[3] in ("*", total)

    def asked_from(self, begin: int) -> httpx.Request:
        headers = httpx.Headers(self.request.headers)
        if begin or self.tail:
            headers["range"] = f"bytes={begin}-"
            etag = self.first.get("etag", "")
            # A weak one promises the same meaning, not the same bytes.
            mark = etag if etag.startswith('"') else self.first.get("last-modified")
            if mark:
                headers["if-range"] = mark
        return httpx.Request("GET", self.request.url, headers=headers, extensions=self.kept())

    def kept(self) -> dict[str, Any]:
        return {name: value for name, value in self.request.extensions.items() if not name.startswith("llm_batch.")}

    def behind(self, known: int, crc32: int) -> Iterator[bytes]:
        """The body of the answer of now, behind its first bytes.

        :param known: how many have come before, ``crc32`` what they were.
        :raises Changed: when they are others now.
        """
        left, seen = known, 0
        for chunk in self.response.iter_raw():
            seen = zlib.crc32(chunk[:left], seen) if left else seen
            left, new = max(left - len(chunk), 0), chunk[left:]
            if not left and seen != crc32:
                break
            if new:
                yield new
        if left or seen != crc32:
            raise Changed(f"it broke off after {self.size:,} bytes, and what is sent now does not begin with them")
