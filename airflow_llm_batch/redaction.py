"""Secrets in what others write: found however they are spelled, and left out."""

from __future__ import annotations

import base64
import html
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakSet

#: names of headers and parameters whose values are nobody's business
SECRET = re.compile(r"auth|key|token|secret|cookie|passw", re.IGNORECASE)
#: characters below which a key is a stand-in, and found in any text
SHORTEST = 4
#: characters below which a part of one, or one in base64, may stand in a text by chance
TELLING = 8
STARS = "***"
#: loggers that tell at DEBUG what a server has answered, headers and all, and at INFO whole addresses
TALKATIVE = ("httpx", *(f"httpcore.{name}" for name in ("connection", "http11", "http2", "proxy", "socks")))


class Redactor:
    """Takes some secrets out of texts.

    :param secrets: keys, and values of headers that hold one; what is too short to tell is left out.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        words = {word for secret in secrets for word in (secret, *secret.split(), *unpacked(secret))}
        self.secrets = sorted((word for word in words if len(word) >= SHORTEST), key=len, reverse=True)
        cores = [core for secret in self.secrets for core in packed(secret)]
        #: what has to be in a text that holds one of them: a look for it costs next to nothing
        self.probes = [probe(text).encode() for text in (*self.secrets, *cores)]
        patterns = [spelled(secret) for secret in self.secrets]
        patterns += [f"{spelled(core)}[A-Za-z0-9+/_=-]*" for core in cores]
        self.pattern = re.compile("|".join(patterns)) if patterns else None
        with LOCK:
            KNOWN.add(self)

    def is_in(self, data: bytes) -> bool:
        """Whether a closer look is worth it."""
        return any(probe in data for probe in self.probes)

    def text(self, text: str) -> str:
        """A text without the secrets, and without the beginning of one at which it was cut off."""
        if self.pattern is None:
            return text
        text = self.pattern.sub(STARS, text)
        for secret in self.secrets:
            for length in range(len(secret) - 1, TELLING - 1, -1):
                if text.endswith(secret[:length]):
                    text = text[:-length] + STARS
                    break
        return text

    def errors(self, *errors: BaseException) -> None:
        """Take the secrets out of errors and out of all that led to them."""
        for error in led_to(*errors):
            redacted = [(arg, self.text(str(arg))) for arg in error.args]
            error.args = tuple(arg if text == str(arg) else text for arg, text in redacted)

    def data(self, data: bytes) -> bytes:
        if not self.is_in(data):
            return data
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def led_to(*errors: BaseException | None) -> set[BaseException]:
    """Errors with their causes, and with what was being handled when they were raised."""
    found: set[BaseException] = set()
    left = list(errors)
    while left:
        error = left.pop()
        if error is not None and error not in found:
            found.add(error)
            left += [error.__cause__, error.__context__]
    return found


def probe(text: str) -> str:
    """The longest part of a secret that is spelled alike everywhere."""
    return max(re.findall(r"[A-Za-z0-9]+", text), key=len, default="")


def spelled(text: str) -> str:
    """A pattern for a text as it is, quoted, in JSON, in HTML, in an address, and in several of them at once."""
    return "".join(map(spelled_character, text))


def spelled_character(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    code = ord(character)
    utf8 = "".join(rf"(?:%(?:25)*|\\+x)(?:{byte:02x}|{byte:02X})" for byte in character.encode("utf-8", "replace"))
    ways = [
        rf"\\*{re.escape(character)}",
        rf"\\*{re.escape(repr(character)[1:-1])}",
        utf8,
        rf"\\+u(?:{code:04x}|{code:04X})",
        re.escape(html.escape(character)),
        f"&#(?:0*{code}|[xX]0*(?:{code:x}|{code:X}));",
        *({"+": ["-"], "/": ["_"]}.get(character, [])),
    ]
    return f"(?:{'|'.join(dict.fromkeys(ways))})"


def packed(secret: str) -> Iterator[str]:
    """What base64 makes of a secret, alone and behind any user's name, without the edges that depend on what is
    beside it."""
    data = secret.encode("utf-8", "replace")
    for before in range(3):
        whole = base64.b64encode(bytes(before) + data).decode()
        core = whole[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        if len(core) >= TELLING:
            yield core


def unpacked(value: str) -> Iterator[str]:
    """The password in a header of basic auth."""
    if value[:6].lower() == "basic ":
        try:
            yield base64.b64decode(value[6:], validate=True).decode().partition(":")[2]
        except ValueError:
            return


def secrets_in(value: Any, name: str = "") -> Iterator[str]:
    """Texts below names that tell of a secret, however deep."""
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from secrets_in(item, str(inner) if SECRET.search(str(inner)) else name)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secrets_in(item, name)
    elif isinstance(value, str) and SECRET.search(name):
        yield value


#: those of every connection that is open in this process
KNOWN: WeakSet[Redactor] = WeakSet()
LOCK = threading.Lock()


def quiet(record: logging.LogRecord) -> bool:
    """Take every known secret out of a record, before any handler sees it."""
    with LOCK:
        known = list(KNOWN)
    said = record.getMessage()
    clean = said
    for redactor in known:
        clean = redactor.text(clean)
    if clean != said:
        record.msg, record.args = clean, ()
    return True


for name in TALKATIVE:
    logging.getLogger(name).addFilter(quiet)
