"""Rows to encoded lines to shard files cut at the provider's limits; encoded once, streamed."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.data.requests import BatchLines, RequestTemplate, is_batch_line
from airflow_llm_batch.data.sources import read_rows
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.keys import UniqueKeys
from airflow_llm_batch.models import Estimate, Request, Shard
from airflow_llm_batch.storage import WholeFile

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.store import JobStore
    from airflow_llm_batch.providers.base import Provider

#: fields of a result row; pass-through columns may not take these names
RESULT_FIELDS = (
    "key", "row", "custom_id", "status", "text", "output", "tool_calls", "embedding", "finish_reason", "error_code",
    "error_message", "model", "provider", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens",
    "cost_usd", "shard",
)  # fmt: skip


class RowSpec(NamedTuple):
    """What to do with each row.

    :param rows: anything ``data.sources.read_rows`` takes.
    :param request: None for rows that are batch input lines already.
    :param key: the column that names a row in the results; None uses a batch line's own ``custom_id``, and the row
        number otherwise.
    :param passthrough: name in the results -> column of the row.
    """

    rows: Any
    request: RequestTemplate | None
    key: str | None
    passthrough: Mapping[str, str]


class Line(NamedTuple):
    """One encoded row.

    :param entry: its line of ``rows.jsonl``.
    :param group: what may share a batch.
    :param inputs: texts to embed, 1 for other requests.
    :param cap: the most tokens the answer may have, None for any number.
    """

    request: bytes
    entry: bytes
    group: tuple[str, str]
    inputs: int
    model: str
    cap: int | None


class Written(NamedTuple):
    """The shard files of a job: the shards in order, the fingerprint of all that would be sent, the expected use."""

    shards: list[Shard]
    fingerprint: str
    use: dict[str, Estimate]


def passthrough_map(columns: Any) -> dict[str, str]:
    """The ``passthrough`` argument, a list of columns or a mapping of new names to columns, as a mapping.

    :raises InputError: for a name that result rows already use.
    """
    if isinstance(columns, str):
        raise InputError(f"passthrough is the text {columns!r}; give a list: [{columns!r}]. Nothing was sent.")
    named = dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns or ()}
    for name, column in named.items():
        if name in RESULT_FIELDS:
            raise InputError(
                f"passthrough column {name!r} would overwrite the result's own field of that name; rename it: "
                f"passthrough={{'input_{name}': '{column}'}}. Nothing was sent."
            )
    return named


def encode_rows(spec: RowSpec, provider: Provider, job_id: str) -> Iterator[Line]:
    """Encode every row once.

    :raises InputError: for no rows, an unusable row (by its place), a duplicate key, a request over the limits or one
        the provider cannot express.
    """
    encode_row = row_encoder(spec, provider, job_id)
    number = -1
    with UniqueKeys(spec.key or "custom_id") as keys:
        for number, (where, row) in enumerate(read_rows(spec.rows)):
            try:
                line, key = encode_row(number, row)
            except KeyError as error:
                raise InputError(
                    f"{where} has no column {error.args[0]!r}, which the request template, the key or passthrough "
                    f"names; it has {', '.join(map(repr, row)) or 'no columns'}. Nothing was sent."
                ) from None
            except InputError as error:
                text = str(error)
                raise InputError(
                    f"{where}: {text}" + ("" if text.endswith("sent.") else ". Nothing was sent.")
                ) from None
            except (TypeError, ValueError) as error:  # what the JSON encoder raises for values JSON has no form for
                raise InputError(
                    f"{where} cannot be written as JSON: {error}. Clean or convert the value. Nothing was sent."
                ) from None
            if key is not None:
                keys.add(key, number)
            yield line
        keys.finish()
    if number < 0:
        raise InputError("There are no rows: the input is empty. Nothing was sent.")


def row_encoder(spec: RowSpec, provider: Provider, job_id: str) -> Callable[[int, Mapping[str, Any]], tuple[Line, Any]]:
    """A function from a row to its line and its key, None for a key that is the row number."""
    render = (spec.request or BatchLines()).compile()
    encode = msgspec.json.Encoder().encode
    encode_entry = msgspec.json.Encoder(order="deterministic").encode
    columns = list(spec.passthrough.items())

    def encode_row(number: int, row: Mapping[str, Any]) -> tuple[Line, Any]:
        key = None
        if spec.key is not None:
            key = row[spec.key]
            if key is None or key != key:
                raise InputError(f"its key {spec.key!r} is {key!r}; every row needs a key of its own")
        elif spec.request is None and is_batch_line(row):
            key = row["custom_id"]
        request = render(row)
        line = encode(provider.encode(request, f"{job_id}-{number}"))
        if len(line) + 1 > provider.limits.bytes:
            raise InputError(
                f"its request has {len(line):,} bytes, over {provider.name}'s limit of {provider.limits.bytes:,} for a "
                "whole batch; shorten or split the row"
            )
        entry: dict[str, Any] = {"row": number, "key": number if key is None else key}
        if columns:
            entry["columns"] = {name: row[column] for name, column in columns}
        inputs, cap = count_inputs(request), token_cap(request)
        return Line(line, encode_entry(entry), provider.group(request), inputs, request.model, cap), key

    return encode_row


def count_inputs(request: Request) -> int:
    value = request.body.get("input")
    return len(value) if isinstance(value, list) else 1


def token_cap(request: Request) -> int | None:
    if request.endpoint == "/v1/embeddings":
        return 0
    body = request.body
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        if isinstance(body.get(name), int):
            return int(body[name]) * (body["n"] if isinstance(body.get("n"), int) else 1)
    return None


def count_tokens(line: bytes) -> int:
    """Prompt tokens of a request line: four ASCII characters a token, one of any other script."""
    if line.isascii():
        return -(-len(line) // 4)
    characters = len(line.decode("utf-8", "replace"))
    other = (len(line) - characters) // 2  # the others take two to four bytes each, mostly three
    return -(-(characters - other) // 4) + other


class Use:
    """What is expected to be used, summed by model."""

    def __init__(self) -> None:
        self.models: dict[str, Estimate] = {}

    def add(self, line: Line) -> None:
        use = self.models.get(line.model)
        if use is None:
            use = self.models[line.model] = Estimate(requests=0, input_tokens=0, output_tokens=0)
        use.requests += 1
        use.input_tokens += count_tokens(line.request)
        use.output_tokens = None if use.output_tokens is None or line.cap is None else use.output_tokens + line.cap


class ShardFile:
    """A shard while it is being written."""

    def __init__(self, store: JobStore, index: int, group: tuple[str, str], token: str) -> None:
        self.index, self.group, self.token = index, group, token
        self.requests = WholeFile(store.requests(index, token))
        self.entries = WholeFile(store.rows(index, token))
        self.sha = hashlib.sha256()
        self.rows = self.inputs = 0

    def fits(self, line: Line, provider: Provider) -> bool:
        limits = provider.limits
        return (
            self.rows < limits.requests
            and self.requests.size + len(line.request) + 1 <= limits.bytes
            and not (
                limits.embedding_inputs
                and self.group[0] == "/v1/embeddings"
                and self.inputs + line.inputs > limits.embedding_inputs
            )
        )

    def add(self, line: Line) -> None:
        data = line.request + b"\n"
        self.requests.write(data)
        self.entries.write(line.entry + b"\n")
        self.sha.update(data)
        self.rows += 1
        self.inputs += line.inputs

    def finish(self, job_id: str, metadata: Mapping[str, str]) -> Shard:
        self.requests.commit()
        self.entries.commit()
        return Shard(
            index=self.index,
            key=f"{job_id}-{self.index}-{self.sha.hexdigest()[:8]}",
            token=self.token,
            endpoint=self.group[0],
            model=self.group[1],
            rows=self.rows,
            bytes=self.requests.size,
            sha256=self.sha.hexdigest(),
            metadata=dict(metadata),
        )

    def discard(self) -> None:
        self.requests.discard()
        self.entries.discard()


def write_shards(
    spec: RowSpec,
    provider: Provider,
    store: JobStore,
    metadata: Mapping[str, str],
    report: Callable[[int], None] = lambda rows: None,
) -> Written:
    """Write the job's shard files.

    :param metadata: what the vendor is to keep with every batch.
    :param report: told the number of rows after each.
    """
    finished: list[Shard] = []
    opened: dict[tuple[str, str], ShardFile] = {}
    token = uuid.uuid4().hex[:8]
    fingerprint = hashlib.sha256(provider.name.encode())
    use = Use()
    try:
        for count, line in enumerate(encode_rows(spec, provider, store.job_id), 1):
            file = opened.get(line.group)
            if file is not None and not file.fits(line, provider):
                finished.append(opened.pop(line.group).finish(store.job_id, metadata))
                file = None
            if file is None:
                file = opened[line.group] = ShardFile(store, len(finished) + len(opened), line.group, token)
            file.add(line)
            use.add(line)
            fingerprint.update(line.request)
            fingerprint.update(line.entry)
            report(count)
        while opened:
            finished.append(opened.pop(next(iter(opened))).finish(store.job_id, metadata))
    except BaseException:
        for file in opened.values():
            file.discard()
        remove_files(store, finished)
        raise
    shards = sorted(finished, key=lambda shard: shard.index)
    return Written(shards, fingerprint.hexdigest(), use.models)


def remove_files(store: JobStore, shards: list[Shard]) -> None:
    """Take away the files of a plan that was not published."""
    for shard in shards:
        for path in (store.requests(shard.index, shard.token), store.rows(shard.index, shard.token)):
            with suppress(OSError):
                path.unlink()


def fingerprint_of(spec: RowSpec, provider: Provider, job_id: str) -> str:
    """The fingerprint ``write_shards`` would return, without writing anything."""
    fingerprint = hashlib.sha256(provider.name.encode())
    for line in encode_rows(spec, provider, job_id):
        fingerprint.update(line.request)
        fingerprint.update(line.entry)
    return fingerprint.hexdigest()
