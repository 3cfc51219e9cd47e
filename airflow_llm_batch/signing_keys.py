"""Public keys with which a vendor's signatures are checked: fetched once, and again when an unknown one is named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import jwt

#: seconds for which fetched keys are good, and below which they are not fetched anew whatever key is named
GOOD_FOR, AT_MOST_EVERY = 3600.0, 60.0
TIMEOUT = 10.0


class SigningKeys:
    """The keys at one address (JWKS).

    :param clock: seconds.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url, self.clock = url, clock
        self.lock = threading.Lock()
        self.keys: dict[str, jwt.PyJWK] = {}
        self.fetched: float | None = None

    def claims(self, token: str) -> dict[str, Any]:
        """What a token says that one of the keys has signed, and that has not expired.

        :raises jwt.PyJWTError: for any other, and while the keys cannot be fetched.
        """
        name = str(jwt.get_unverified_header(token).get("kid") or "")
        options: Any = {"require": ["exp"], "verify_aud": False}
        claims: dict[str, Any] = jwt.decode(token, self.key(name), algorithms=["RS256"], options=options)
        return claims

    def key(self, name: str) -> jwt.PyJWK:
        """:raises jwt.PyJWTError: when there is none of this name."""
        with self.lock:
            age = None if self.fetched is None else self.clock() - self.fetched
            if age is None or age > GOOD_FOR or (name not in self.keys and age > AT_MOST_EVERY):
                # Whether or not it succeeds: what cannot be fetched is not asked for by each request.
                self.fetched = self.clock()
                with suppress(httpx.HTTPError, ValueError, jwt.PyJWTError):
                    response = httpx.get(self.url, timeout=TIMEOUT)
                    response.raise_for_status()
                    self.keys = {str(key.key_id): key for key in jwt.PyJWKSet.from_dict(response.json()).keys}
            if name not in self.keys:
                raise jwt.InvalidKeyError(f"{self.url} has no key of this name.")
            return self.keys[name]
