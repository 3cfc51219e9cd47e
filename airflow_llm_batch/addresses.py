"""What a connection says of where to ask and with what key, checked without ever being quoted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

SCHEMES = ("https", "http")
PORTS = {"https": 443, "http": 80}
#: names of this machine, where nobody expects TLS
HERE = ("localhost", "127.0.0.1")
NO_ADDRESS = (
    "The connection's host is no address; give a name, with a port and a path where there are any, or a whole URL that "
    "begins with https:// or http://. Nothing was sent."
)


def key_of(connection: Connection) -> str:
    """The key, without what was copied along with it.

    :raises ConfigurationError: for one that no header can carry; the key is not in the message.
    """
    key = (connection.password or "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError(
            f"The key of connection {connection.conn_id!r} has a blank, a line break or an odd letter in it. "
            "Copy it anew into the password. Nothing was sent."
        )
    return key


def base_url(connection: Connection) -> str | None:
    """The connection's address: a whole URL in ``host``, or a name there; ``port`` and ``schema`` beside it complete
    either, where it has none of its own. ``schema`` is a scheme, as Airflow's HTTP connections have it, or the path of
    a connection written as a URI.

    :raises ConfigurationError: for what is none, and where two ports are named: a key goes to one place.
    """
    host = (connection.host or "").strip()
    if not host:
        return None
    schema = (connection.schema or "").strip().removesuffix("://").strip("/")
    if any(mark in host + schema for mark in ("@", "%40")):
        raise ConfigurationError(
            "The connection's host holds credentials; put the key into the password. Nothing was sent."
        )
    if any(mark in host + schema for mark in "?#"):
        raise ConfigurationError(
            "The connection's host holds parameters; put them into the extra's 'query', and a key into the password. "
            "Nothing was sent."
        )
    scheme, path = (schema.lower(), "") if schema.lower() in SCHEMES else ("", schema)
    if "://" not in host:
        name = re.split("[:/]", host)[0]
        host = f"{scheme or ('http' if name in HERE else 'https')}://{host}"
    if not is_address(host):
        raise ConfigurationError(NO_ADDRESS)
    parts = urlsplit(host)
    port = int(connection.port or parts.port or 0)
    if parts.port and port != parts.port:
        raise ConfigurationError(
            f"The connection's host names port {parts.port}, and its port is {port}; leave one of them out. "
            "Nothing was sent."
        )
    bare = parts.netloc.removesuffix(f":{parts.port}").rstrip(":")
    netloc = bare if port in (0, PORTS[parts.scheme]) else f"{bare}:{port}"
    # A URL with a path of its own is whole: what is left in another field is no part of it.
    own = parts.path.rstrip("/")
    url = parts._replace(netloc=netloc, path=parts.path if own or not path else f"/{path}").geturl()
    if not is_address(url):
        raise ConfigurationError(NO_ADDRESS)
    return url


def is_address(url: str) -> bool:
    """Whether a URL can be asked: what an HTTP client says of one that cannot quotes it."""
    try:
        parts = urlsplit(url)
        return parts.scheme in SCHEMES and bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        return False


def check_headers(headers: Mapping[str, str]) -> None:
    """:raises ConfigurationError: for one that cannot be sent; its value is not in the message."""
    for name, value in headers.items():
        if not (f"{name}{value}".isascii() and f"{name}{value}".isprintable()):
            raise ConfigurationError(
                f"The header {name!r} of the connection's extra has a line break or an odd letter in it. "
                "Nothing was sent."
            )
