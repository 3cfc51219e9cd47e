"""What a row asks, as the line that is sent. Each row is encoded once."""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_llm_batch.data.templates import text_of
from airflow_llm_batch.data.values import to_json
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.money.tokens import Kind, kind_of, prompt_tokens, static_tokens
from airflow_llm_batch.jobs.planning.lengths import row_tokens
from airflow_llm_batch.jobs.reuse.digests import SIZE, content
from airflow_llm_batch.jobs.reuse.digests import digest as digest_of

if TYPE_CHECKING:
    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.providers.base import Provider


class Keep(IntEnum):
    """What is kept of that which a row asks: its digest costs as much as all other work on a row of some length."""

    NOTHING = 0
    DIGEST = 1
    CONTENT = 2


#: a number as long as a digest
PADDED = struct.Struct(f"=q{SIZE - 8}x").pack


class Line(msgspec.Struct, gc=False):
    """One encoded row.

    :param request: its line of ``requests.jsonl``, newline included.
    :param tokens: of the prompt, estimated.
    :param row: its number.
    :param digest: of what is asked, ``SIZE`` bytes; equal for rows that ask the same. Where no stable one is wanted it
        is this process's alone, which costs next to nothing.
    :param content: what is asked as ``digests.content`` has it, "" where it is not kept.
    :param entry: its line of ``rows.jsonl``, newline included; the request alone has none.
    :param lane: that of its shard.
    """

    request: bytes
    tokens: int
    kind: Kind
    row: int
    digest: bytes
    content: bytes = b""
    entry: bytes = b""
    lane: str = "batch"


#: a row's number and the row to its line, without the entry
Encode = Callable[[int, Mapping[str, Any]], Line]


def encode_whole(template: RequestTemplate, provider: Provider, job_id: str, keep: Keep = Keep.DIGEST) -> Encode:
    """Renders, translates and encodes each row's request."""
    render = template.compile()
    static: int | None = None

    def encode(number: int, row: Mapping[str, Any]) -> Line:
        nonlocal static
        asked = render(row)
        request = provider.translate(provider.cached(asked))
        line = to_json(provider.line(request, f"{job_id}-{number}")) + b"\n"
        if static is None:
            static = static_tokens(asked, provider)
        tokens = prompt_tokens(line, request.body, provider, request.model)
        said = content(asked, provider)
        digest = digest_of(said) if keep else PADDED(hash(said))
        kept = said if keep is Keep.CONTENT else b""
        return Line(line, tokens, kind_of(request, provider, static), number, digest, kept)

    return encode


def encode_between(
    template: RequestTemplate, provider: Provider, job_id: str, keep: Keep = Keep.DIGEST
) -> Encode | None:
    """The same for a template whose rows differ in nothing but texts, several times as fast; None for any other.

    One request is rendered, translated and encoded with a mark in each column's place. What lies between the marks is
    the same for every row, since a provider carries text as it is.
    """
    columns = template.text_columns()
    if columns is None or len(columns) > 1000:
        return None
    mark = uuid.uuid4().hex
    rendered = template.compile()({column: f"{mark}{place:04}" for place, column in enumerate(columns)})
    try:
        request = provider.translate(provider.cached(rendered))
    except InputError:
        # What is refused of the fixed part is told by the first row's place; or the rows' texts mend it.
        return None
    line = to_json(provider.line(request, f"{mark}{len(columns):04}")) + b"\n"
    pieces = re.split(mark.encode() + rb"(\d{4})", line)
    values_of, pick = picker(columns), picker(map(int, pieces[1::2]))
    kind = kind_of(request, provider, static_tokens(rendered, provider))
    same = re.split(mark.encode() + rb"(\d{4})", content(rendered, provider))
    pick_same = picker(map(int, same[1::2]))
    prefix = f"{job_id}-".encode()
    tokens_of = row_tokens(request, line, provider, mark)
    # A text that is split for a cache's mark may leave nothing behind it.
    split = rendered.cache is not None
    whole = encode_whole(template, provider, job_id, keep) if split or not provider.takes_empty_text else None

    def encode(number: int, row: Mapping[str, Any]) -> Line:
        texts = [
            v if type(v) is str else str(v) if type(v) is int else text_of(c, v)
            for c, v in zip(columns, values_of(row), strict=True)
        ]
        if whole is not None and not all(map(str.strip, texts)):
            return whole(number, row)
        encoded = [to_json(text)[1:-1] for text in texts]
        asked = b""
        if keep:
            parts = same.copy()
            parts[1::2] = pick_same(encoded)
            asked = b"".join(parts)
        digest = digest_of(asked) if keep else PADDED(hash(tuple(texts)))
        encoded.append(b"%b%d" % (prefix, number))
        parts = pieces.copy()
        parts[1::2] = pick(encoded)
        line = b"".join(parts)
        return Line(line, tokens_of(texts, line), kind, number, digest, asked if keep is Keep.CONTENT else b"")

    return encode


def picker(places: Iterable[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that takes items out of a mapping or a list, in this order."""
    found = list(places)
    if len(found) > 1:
        return itemgetter(*found)
    if not found:
        return lambda held: ()
    [only] = found
    return lambda held: (held[only],)
