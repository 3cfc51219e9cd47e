"""What a connection says of where to ask and with what key, checked without ever being quoted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_llm_batch.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection


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
    """The connection's address: a whole URL in ``host``, or ``host`` with ``port`` and ``schema`` beside it."""
    host = (connection.host or "").strip()
    if not host:
        return None
    if "@" in host or "%40" in host:
        raise ConfigurationError(
            "The connection's host holds credentials; put the key into the password. Nothing was sent."
        )
    if "?" in host or "#" in host:
        raise ConfigurationError(
            "The connection's host holds parameters; put them into the extra's 'query', and a key into the password. "
            "Nothing was sent."
        )
    if "://" not in host:
        scheme = connection.schema or ("http" if host in ("localhost", "127.0.0.1") else "https")
        host = f"{scheme}://{host}:{connection.port}" if connection.port else f"{scheme}://{host}"
    if not is_address(host):
        raise ConfigurationError(
            "The connection's host is no address; give a name, with a port and a path where there are any, or a whole "
            "URL that begins with https:// or http://. Nothing was sent."
        )
    return host


def is_address(url: str) -> bool:
    """Whether a URL can be asked: what an HTTP client says of one that cannot quotes it."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 0) >= 0
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
