"""Where results go. A file appears whole or not at all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import msgspec

from airflow_llm_batch.data.formats import check_format
from airflow_llm_batch.storage import CHUNK, WholeFile

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.models import Result


class Sink(Protocol):
    """One output file being written; a record is a result and, as a JSON object, the pass-through columns."""

    uri: str

    def write(self, result: Result, columns: msgspec.Raw) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...


class JsonlSink:
    """JSON lines, UTF-8, one record a line."""

    suffix = ".jsonl"

    def __init__(self, directory: ObjectStoragePath, stem: str) -> None:
        path = directory / f"{stem}{self.suffix}"
        self.uri = str(path)
        self.file = WholeFile(path)
        self.encode_into = msgspec.json.Encoder().encode_into
        self.buffer = bytearray()
        self.discard = self.file.discard

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        buffer = self.buffer
        self.encode_into(result, buffer, -1)
        if len(columns) > len("{}"):
            # Both are JSON objects: the columns' members follow the result's.
            buffer[-1:] = b","
            buffer += memoryview(columns)[1:]
        buffer += b"\n"
        if len(buffer) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        self.file.write(self.buffer)
        self.buffer.clear()

    def commit(self) -> None:
        self.flush()
        self.file.commit()


def sink_class(name: str) -> type[JsonlSink]:
    """The sink that writes a format.

    :raises ConfigurationError: for an unknown one.
    """
    module, _, attribute = check_format(name).rpartition(".")
    found: type[JsonlSink] = getattr(import_module(module), attribute)
    return found
