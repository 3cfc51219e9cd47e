"""Where Bedrock's jobs read and write: S3 addresses with an Airflow connection in them, and without.

Source: Bedrock's service model, whose S3Uri takes few characters: a run id with ``:`` or ``+`` in it is not among them.
"""

from __future__ import annotations

import re
from typing import NoReturn

from airflow_llm_batch.exceptions import ConfigurationError

READABLE = re.compile(r"s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](?:/[-!_*'().a-z0-9A-Z]+(?:/[-!_*'().a-z0-9A-Z]+)*)?/?")
LONGEST = 1024
NOT_IN_NAMES = re.compile(r"[^-_.a-zA-Z0-9]+")
INPUT = ".jsonl"


def plain(uri: str) -> str:
    """An address as AWS knows it: without a connection."""
    scheme, _, rest = uri.partition("://")
    authority, slash, key = rest.partition("/")
    return f"s3://{authority.rpartition('@')[2]}{slash}{key}" if scheme in ("s3", "s3a") else ""


def connection_in(uri: str) -> str | None:
    return uri.partition("://")[2].partition("/")[0].rpartition("@")[0] or None


def with_connection(uri: str, conn_id: str) -> str:
    """A plain address for Airflow's object storage."""
    return f"s3://{conn_id}@{uri.removeprefix('s3://')}"


def is_readable(uri: str) -> bool:
    """Whether a plain address can be told to Bedrock as a job's input."""
    return bool(READABLE.fullmatch(uri)) and len(uri) <= LONGEST and uri.endswith(INPUT)


def folder_of(uri: str) -> str:
    return uri.rpartition("/")[0]


def is_below(uri: str | None, storage: str) -> bool:
    """:param storage: plain, as ``uri``; empty where there is none."""
    return bool(uri and storage) and str(uri).startswith(storage.rstrip("/") + "/")


def staged(name: str, storage: str, source: str) -> str:
    """Where a shard is put that Bedrock cannot read where it is.

    :raises ConfigurationError: without a storage, or with one that Bedrock cannot be told.
    """
    if not storage:
        no_storage(source)
    if not READABLE.fullmatch(plain(storage)):
        raise ConfigurationError(
            f"The connection's extra 'storage' is {storage!r}, which Bedrock does not take: s3://bucket/prefix of "
            "letters, digits and - _ . ! * ' ( ). Nothing was sent."
        )
    return f"{storage.rstrip('/')}/{NOT_IN_NAMES.sub('-', name.removesuffix(INPUT))}{INPUT}"


def no_storage(source: str) -> NoReturn:
    why = "is not in S3"
    if plain(source):
        why = "has characters in its path that Bedrock does not take (a run id's : and +)"
    raise ConfigurationError(
        f"Bedrock reads its input from S3, and {source} {why}. Set 'storage' in the connection's extra, for example "
        '"storage": "s3://my-bucket/llm-batch": the requests are copied there. Nothing was sent.'
    )
