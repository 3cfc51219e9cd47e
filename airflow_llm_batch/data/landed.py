"""Landed answers, read back one by one from the files of any format."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from airflow_llm_batch.data.sinks import GzipJsonlSink, JsonlSink, ZstdJsonlSink
from airflow_llm_batch.data.values import as_text, plain, to_stable_json
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.storage import storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

#: what stands around a short answer and is no part of it
AROUND = " \t\r\n.!?,;:'\"`*\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb\u2026"
JSONL = (JsonlSink, GzipJsonlSink, ZstdJsonlSink)
PARQUET = ".parquet"


class Landed(msgspec.Struct):
    """What of a landed record is compared; ``columns`` of it are the pass-through columns that were asked for."""

    row: int
    status: str
    key: Any = None
    text: str | None = None
    output: Any = None
    tool_calls: list[dict[str, Any]] | None = None

    def columns(self) -> list[Any]:
        return [getattr(self, name) for name in self.__struct_fields__[len(Landed.__struct_fields__) :]]


def is_readable(place: str) -> bool:
    """Whether landed records can be read back from there."""
    return place.endswith((PARQUET, *(sink.suffix for sink in JSONL)))


def landed(place: str, columns: Sequence[str] = ()) -> Iterator[Landed]:
    """The records of a landed file, in the order in which they lie there.

    :param columns: pass-through columns to read as well.
    :raises ConfigurationError: when the file is damaged.
    :raises FileNotFoundError: when it is gone.
    """
    names = {f"column_{number}": column for number, column in enumerate(columns)}
    made = msgspec.defstruct(
        "LandedRow", [(name, Any, None) for name in names], bases=(Landed,), rename=lambda name: names.get(name, name)
    )
    path = storage_path(place)
    if place.endswith(PARQUET):
        yield from of_parquet(path, cast("Callable[..., Landed]", made), columns)
        return
    sink = next(sink for sink in JSONL if place.endswith(sink.suffix))
    decode = msgspec.json.Decoder(made).decode
    with sink.open_lines(path) as lines:
        try:
            yield from map(decode, lines)
        except msgspec.MsgspecError as error:
            raise ConfigurationError(f"{place} is damaged: {error}. Clear the task: nothing is paid again.") from None


def of_parquet(path: ObjectStoragePath, made: Callable[..., Landed], columns: Sequence[str]) -> Iterator[Landed]:
    from airflow_llm_batch.data.parquet_rows import read_parquet

    fields = Landed.__struct_fields__
    for row in read_parquet(path, [*fields, *columns]):
        yield made(*(row[name] for name in (*fields, *columns)))


def said(answer: Landed) -> Any:
    """What was answered, where no schema gives it a form: the text, or the tools that are called and what with."""
    if answer.text is None and answer.tool_calls:
        return [[call.get("name"), call.get("arguments")] for call in answer.tool_calls]
    return normal(answer.text or "")


def normal(text: str) -> str:
    """A text without what does not make it another answer: case, width, blanks, marks around it."""
    if text.isascii() and text.isalnum():
        return text.lower()
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(AROUND)


def member(output: Any, field: str) -> Any:
    """A field of an output. Parquet has what is of no one type as JSON text."""
    output = from_text(output)
    return output.get(field) if isinstance(output, dict) else None


def from_text(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return msgspec.json.decode(value)
        except msgspec.MsgspecError:
            return value
    return value


def canonical(value: Any) -> bytes:
    """A value as bytes that are equal for equal values: 1.0 is 1, and members have no order."""
    return to_stable_json(even(from_text(value)))


def even(value: Any) -> Any:
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: even(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [even(inner) for inner in value]
    return plain(value) if type(value) is not str else value


def is_right(answer: Any, truth: Any) -> bool:
    """Whether an answer is what a column says: a text is compared as ``normal`` has it, a number also with its text."""
    if type(answer) is str and type(truth) is str:
        return answer == truth or normal(answer) == normal(truth)
    truth = plain(truth)
    if isinstance(answer, int | float) and not isinstance(answer, bool) and isinstance(truth, str):
        try:
            return float(truth) == answer
        except ValueError:
            return False
    if isinstance(answer, str) or isinstance(truth, str):
        return normal(as_text(answer)) == normal(as_text(truth))
    return canonical(answer) == canonical(truth)
