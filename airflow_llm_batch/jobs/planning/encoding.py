"""Rows to encoded lines, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_llm_batch.data.checks import rules_for
from airflow_llm_batch.data.files import named
from airflow_llm_batch.data.kinds import Kinds
from airflow_llm_batch.data.kinds import kind_of as column_kind
from airflow_llm_batch.data.output_schema import schema_of
from airflow_llm_batch.data.outputs import validator
from airflow_llm_batch.data.requests import BatchLines, RequestTemplate, is_batch_line
from airflow_llm_batch.data.sources import read_rows, sources_of
from airflow_llm_batch.data.values import plain, to_stable_json
from airflow_llm_batch.exceptions import InputError, NoRows
from airflow_llm_batch.jobs.planning.braces import check_meaning, check_template, needs_columns
from airflow_llm_batch.jobs.planning.keys import UniqueKeys
from airflow_llm_batch.jobs.planning.lines import Keep, Line, encode_between, encode_whole
from airflow_llm_batch.jobs.planning.nulls import Nulls
from airflow_llm_batch.jobs.planning.sampling import spread
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

    def lines(self, provider: Provider, job_id: str, kinds: Kinds, stable: bool = True) -> Iterator[Line]:
        return encode_rows(self, provider, job_id, kinds, stable)

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


def usable(schema: Any) -> bool:
    """Whether answers can be checked against a schema that came with a batch input line."""
    try:
        return schema is not None and validator(schema) is not None
    except InputError:
        return False


def passthrough_map(columns: Any) -> dict[str, str]:
    """The ``passthrough`` argument, a list of columns or a mapping of new names to columns, as a mapping.

    :raises InputError: for a name that result rows already use, or another column does but for its case.
    """
    if isinstance(columns, str):
        raise InputError(f"passthrough is the text {columns!r}; give a list: [{columns!r}]. Nothing was sent.")
    named = dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns or ()}
    # DuckDB, Spark, BigQuery and Snowflake know no case in names.
    taken: dict[str, Any] = {}
    for name, column in named.items():
        folded = str(name).casefold()
        if folded in Result.__struct_fields__:
            raise InputError(
                f"passthrough column {name!r} would overwrite the result's own field of that name; rename it: "
                f"passthrough={{'input_{name}': '{column}'}}. Nothing was sent."
            )
        if (other := taken.setdefault(folded, name)) != name:
            raise InputError(
                f"passthrough columns {other!r} and {name!r} differ in case alone, and most readers tell no such names "
                f"apart; rename one: passthrough={{'{other}': '{named[other]}', '{name}_2': '{column}'}}. Nothing was "
                "sent."
            )
    return named


def encode_rows(
    spec: RowSpec, provider: Provider, job_id: str, kinds: Kinds | None = None, stable: bool = True
) -> Iterator[Line]:
    """Encode every row once.

    :param kinds: takes note of what keys and pass-through columns hold.
    :param stable: whether a line's digest is looked up elsewhere, and has to be the same there.

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
                encode_row = row_encoder(spec, provider, job_id, kinds or Kinds(spec.passthrough), stable)
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
    spec: RowSpec, provider: Provider, job_id: str, kinds: Kinds, stable: bool
) -> Callable[[int, Mapping[str, Any]], tuple[Line, bytes | None]]:
    """A function from a row to its line and its key as JSON, None for a key that is the row number."""
    template = spec.request or BatchLines()
    keep = Keep.CONTENT if spec.portable else Keep.DIGEST if stable else Keep.NOTHING
    encode = encode_between(template, provider, job_id, keep) or encode_whole(template, provider, job_id, keep)
    key_column, columns = spec.key, list(spec.passthrough.items())
    are_lines = key_column is None and spec.request is None
    limit, nulls, key_kinds = provider.limits.bytes, Nulls(template), kinds.key

    def encode_row(number: int, row: Mapping[str, Any]) -> tuple[Line, bytes | None]:
        key = None
        if key_column is not None:
            key = plain(row[key_column])
            if key is None or key == "":
                raise InputError(f"its key {key_column!r} is {row[key_column]!r}; every row needs a key of its own")
        elif are_lines and is_batch_line(row):
            key = row["custom_id"]
            kinds.add_schema(schema_of(row.get("body") or row.get("params")))
        if nulls.columns:
            nulls.look(number, row)
        line = encode(number, row)
        if len(line.request) > limit:
            raise InputError(
                f"its request has {len(line.request):,} bytes, over {provider.name}'s limit of {limit:,} for a whole "
                "batch; shorten or split the row"
            )
        named = None
        if key is not None:
            named = to_stable_json(key)
            key_kinds.add(column_kind(key))
        line.entry = b'{"row":%d,"key":%b}\n' % (number, named or b"%d" % number)
        if columns:
            values = {name: plain(row[column]) for name, column in columns}
            for name, value in values.items():
                kinds.columns[name].add(column_kind(value))
            line.entry = b'%b,"columns":%b}\n' % (line.entry[:-2], to_stable_json(values))
        return line, named

    return encode_row
