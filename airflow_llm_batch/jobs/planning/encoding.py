"""Rows to encoded lines, streamed. Each row is encoded once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.data.checks import rules_for
from airflow_llm_batch.data.files import named
from airflow_llm_batch.data.kinds import Kinds
from airflow_llm_batch.data.kinds import kind_of as column_kind
from airflow_llm_batch.data.outputs import validator
from airflow_llm_batch.data.requests import BatchLines, RequestTemplate, is_batch_line, schema_of
from airflow_llm_batch.data.sources import read_rows, sources_of
from airflow_llm_batch.data.values import as_text, plain, to_json, to_stable_json
from airflow_llm_batch.exceptions import InputError, NoRows
from airflow_llm_batch.jobs.money.tokens import Kind, kind_of, prompt_tokens, static_tokens
from airflow_llm_batch.jobs.planning.braces import check_meaning, check_template, needs_columns
from airflow_llm_batch.jobs.planning.keys import UniqueKeys
from airflow_llm_batch.jobs.planning.lengths import RowTokens
from airflow_llm_batch.jobs.planning.nulls import Nulls
from airflow_llm_batch.jobs.planning.sampling import spread
from airflow_llm_batch.jobs.reuse.digests import SIZE, content
from airflow_llm_batch.models import Rules
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow_llm_batch.data.partitions import Partition
    from airflow_llm_batch.jobs.planning.shared_keys import SharedKeys
    from airflow_llm_batch.providers.base import Provider


class RowSpec(NamedTuple):
    """What to do with each row.

    :param rows: anything ``data.sources.read_rows`` takes.
    :param request: None for rows that are batch input lines already.
    :param key: the column that names a row in the results; None uses a batch line's own ``custom_id``, and the row
        number otherwise.
    :param passthrough: name in the results -> column of the row.
    :param sample: how many of the rows, spread over all of them; 0 for every one.
    :param portable: whether what is asked is kept in the neutral format too.
    :param partition: which of all rows they are: their numbers are those that no other partition has.
    :param shared: where its keys are compared with those of the others.
    """

    rows: Any
    request: RequestTemplate | None
    key: str | None
    passthrough: Mapping[str, str]
    sample: int = 0
    portable: bool = False
    partition: Partition | None = None
    shared: SharedKeys | None = None

    @property
    def identity(self) -> str:
        return ""

    def check(self, provider: Provider) -> None:
        """:raises InputError: for an output schema that is none."""
        if self.request is not None and (schema := self.request.schema()) is not None:
            validator(schema)

    def rules(self, checks: Sequence[str] | None) -> Rules:
        """:raises NothingBilled: for checks that no answer to these rows could pass."""
        return rules_for(self.request, self.passthrough, checks or ())

    def lines(self, provider: Provider, job_id: str, kinds: Kinds) -> Iterator[Line]:
        return encode_rows(self, provider, job_id, kinds)

    def check_keys(self) -> None:
        """:raises InputError: for a key that another partition has too."""
        if self.shared is not None:
            self.shared.check()

    def facts(self, kinds: Kinds) -> dict[str, Any]:
        """The job's fields that the rows and the request tell."""
        key_kind, columns = kinds.seen()
        # Batch input lines bring a schema each; where it is one, answers are checked against it.
        one = kinds.schemas[0] if len(kinds.schemas) == 1 else None
        asked = {"output_schema": one if usable(one) else None}
        if self.request is not None:
            asked = {"request": self.request.serialize(), "output_schema": self.request.schema()}
        asked |= {"sampled_from": kinds.total, "portable": self.portable}
        return {**asked, "key_kind": key_kind, "columns": columns, "sources": sources_of(self.rows)}


class Line(msgspec.Struct, gc=False):
    """One encoded row: its lines of ``requests.jsonl`` and ``rows.jsonl``, newlines included.

    :param tokens: of the prompt, estimated.
    :param row: its number.
    :param digest: of what is asked; equal for rows that ask the same.
    :param lane: that of its shard.
    :param content: what is asked as ``digests.content`` has it, "" where it is not kept.
    """

    request: bytes
    entry: bytes
    tokens: int
    kind: Kind
    row: int
    digest: bytes
    lane: str = "batch"
    content: bytes = b""


class Encoded(NamedTuple):
    """A row's request line, newline included; ``tokens`` of its prompt, estimated; ``content``, what is asked."""

    line: bytes
    kind: Kind
    tokens: int
    content: bytes


Encode = Callable[[int, Mapping[str, Any]], Encoded]


def usable(schema: Any) -> bool:
    """Whether answers can be checked against a schema that came with a batch input line."""
    try:
        return schema is not None and validator(schema) is not None
    except InputError:
        return False


def passthrough_map(columns: Any) -> dict[str, str]:
    """The ``passthrough`` argument, a list of columns or a mapping of new names to columns, as a mapping.

    :raises InputError: for a name that result rows already use.
    """
    if isinstance(columns, str):
        raise InputError(f"passthrough is the text {columns!r}; give a list: [{columns!r}]. Nothing was sent.")
    named = dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns or ()}
    for name, column in named.items():
        # DuckDB, Spark, BigQuery and Snowflake know no case in names.
        if str(name).casefold() in Result.__struct_fields__:
            raise InputError(
                f"passthrough column {name!r} would overwrite the result's own field of that name; rename it: "
                f"passthrough={{'input_{name}': '{column}'}}. Nothing was sent."
            )
    return named


def encode_rows(spec: RowSpec, provider: Provider, job_id: str, kinds: Kinds | None = None) -> Iterator[Line]:
    """Encode every row once.

    :param kinds: takes note of what keys and pass-through columns hold.

    :raises InputError: for no rows, an unusable row (by its place), a duplicate key, a request over the limits or one
        the provider cannot express.
    """
    if spec.key is not None and not isinstance(spec.key, str):
        raise InputError(f"key is {spec.key!r}; give the name of one column. Nothing was sent.")
    encode_row, met, odd = None, None, False
    number = -1
    numbered = spec.partition.row if spec.partition is not None else int
    chosen, total = spread(spec.rows, needed_columns(spec), spec.sample) if spec.sample else (None, None)
    if kinds is not None:
        kinds.total = total
    with UniqueKeys(spec.key or "custom_id", spec.shared) as keys:
        for number, (place, row) in enumerate(read_rows(spec.rows, needed_columns(spec))):
            if chosen is not None and number not in chosen:
                continue
            if number < 2:
                check_template(spec.request, row, number)
            if encode_row is None:
                # The first row tells what the columns are.
                if spec.request is not None and spec.request.columns() is not None:
                    spec = spec._replace(request=spec.request.met(row))
                encode_row = row_encoder(spec, provider, job_id, kinds or Kinds(spec.passthrough))
                met, odd = row.keys(), needs_columns(spec.request)
            try:
                if odd and row.keys() != met:
                    check_meaning(spec.request, row)
                line, key = encode_row(numbered(number), row)
            except KeyError as error:
                raise InputError(
                    f"{named(place)} has no column {error.args[0]!r}, which the request template, the key or "
                    f"passthrough names; it has {', '.join(map(repr, row)) or 'no columns'}. Nothing was sent."
                ) from None
            except InputError as error:
                text = str(error)
                raise InputError(
                    f"{named(place)}: {text}" + ("" if text.endswith("sent.") else ". Nothing was sent.")
                ) from None
            except (TypeError, ValueError) as error:  # what the JSON encoder raises for values JSON has no form for
                raise InputError(
                    f"{named(place)} cannot be written as JSON: {error}. Clean or convert the value. Nothing was sent."
                ) from None
            if key is not None:
                keys.add(key, line.row)
            yield line
        keys.finish()
    if number < 0:
        raise NoRows("There are no rows: the input is empty. Nothing was sent. (on_empty='skip' skips the task then.)")


def needed_columns(spec: RowSpec) -> set[str] | None:
    """The columns that the request, the key and the pass-through list name; None when the request may use any."""
    named = spec.request.columns() if spec.request is not None else None
    if named is None or needs_columns(spec.request):
        return None
    return named | set(spec.passthrough.values()) | ({spec.key} if spec.key is not None else set())


def row_encoder(
    spec: RowSpec, provider: Provider, job_id: str, kinds: Kinds
) -> Callable[[int, Mapping[str, Any]], tuple[Line, bytes | None]]:
    """A function from a row to its line and its key as JSON, None for a key that is the row number."""
    template = spec.request or BatchLines()
    encode = encode_between(template, provider, job_id) or encode_whole(template, provider, job_id)
    columns = list(spec.passthrough.items())
    limit = provider.limits.bytes
    nulls = Nulls(template)

    def encode_row(number: int, row: Mapping[str, Any]) -> tuple[Line, bytes | None]:
        key = None
        if spec.key is not None:
            key = plain(row[spec.key])
            if key is None:
                raise InputError(f"its key {spec.key!r} is {row[spec.key]!r}; every row needs a key of its own")
        elif spec.request is None and is_batch_line(row):
            key = row["custom_id"]
            kinds.add_schema(schema_of(row.get("body") or row.get("params")))
        if nulls.columns:
            nulls.look(number, row)
        request, kind, tokens, asked = encode(number, row)
        if len(request) > limit:
            raise InputError(
                f"its request has {len(request):,} bytes, over {provider.name}'s limit of {limit:,} for a whole "
                "batch; shorten or split the row"
            )
        named = None
        if key is not None:
            named = to_stable_json(key)
            kinds.key.add(column_kind(key))
        entry = b'{"row":%d,"key":%b}\n' % (number, named or b"%d" % number)
        if columns:
            values = {name: plain(row[column]) for name, column in columns}
            for name, value in values.items():
                kinds.columns[name].add(column_kind(value))
            entry = b'%b,"columns":%b}\n' % (entry[:-2], to_stable_json(values))
        digest = blake2b(asked, digest_size=SIZE).digest()
        return Line(request, entry, tokens, kind, number, digest, content=asked if spec.portable else b""), named

    return encode_row


def encode_whole(template: RequestTemplate, provider: Provider, job_id: str) -> Encode:
    """Renders, translates and encodes each row's request."""
    render = template.compile()
    static: int | None = None

    def encode(number: int, row: Mapping[str, Any]) -> Encoded:
        nonlocal static
        asked = render(row)
        request = provider.translate(provider.cached(asked))
        line = to_json(provider.line(request, f"{job_id}-{number}")) + b"\n"
        if static is None:
            static = static_tokens(asked, provider)
        tokens = prompt_tokens(line, request.body, provider, request.model)
        return Encoded(line, kind_of(request, provider, static), tokens, content(asked, provider))

    return encode


def encode_between(template: RequestTemplate, provider: Provider, job_id: str) -> Encode | None:
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
    order = [int(place) for place in pieces[1::2]]
    kind = kind_of(request, provider, static_tokens(rendered, provider))
    same = re.split(mark.encode() + rb"(\d{4})", content(rendered, provider))
    places = list(map(int, same[1::2]))
    prefix = f"{job_id}-".encode()
    tokens = RowTokens(request, line, provider, mark)
    # A text that is split for a cache's mark may leave nothing behind it.
    split = rendered.cache is not None
    whole = encode_whole(template, provider, job_id) if split or not provider.takes_empty_text else None

    def encode(number: int, row: Mapping[str, Any]) -> Encoded:
        values = [row[column] for column in columns]
        texts = [value if type(value) is str else as_text(value) for value in values]
        if whole is not None and not all(map(str.strip, texts)):
            return whole(number, row)
        encoded = [to_json(text)[1:-1] for text in texts]
        asked = same.copy()
        asked[1::2] = [encoded[place] for place in places]
        encoded.append(b"%b%d" % (prefix, number))
        parts = pieces.copy()
        parts[1::2] = [encoded[place] for place in order]
        line = b"".join(parts)
        return Encoded(line, kind, tokens.of(texts, line), b"".join(asked))

    return encode
