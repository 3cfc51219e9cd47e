"""What makes two requests the same: a hash of all that decides their answer."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.data.values import to_stable_json
from airflow_llm_batch.request import Request

if TYPE_CHECKING:
    from airflow_llm_batch.providers.base import Provider

#: bytes of a hash
SIZE = 16


def content(request: Request, provider: Provider) -> bytes:
    """A request's identity as JSON: model, prompt, schema, tools, caps, all of its body; not its ``custom_id``, and not
    what is to be cached of it. Another provider's model of the same name may be another model.

    :param request: in the neutral format, so that it stays the same where a provider translates it otherwise one day.
    """
    return to_stable_json([provider.name, request.endpoint, request.api, request.body])


def request_of(content: bytes) -> Request:
    """What ``content`` was made of, without what is to be cached of it."""
    _, endpoint, api, body = msgspec.json.decode(content)
    return Request(endpoint, body, api)


def digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=SIZE).digest()


def again(digest: bytes, round_number: int) -> bytes:
    """Of what was answered, and not well: the same question is put once more, and that answer is another one."""
    return blake2b(digest + b" %d" % round_number, digest_size=SIZE).digest()


def digest_of(request: Request, provider: Provider) -> bytes:
    """``SIZE`` bytes, the same on every machine."""
    return digest(content(request, provider))
