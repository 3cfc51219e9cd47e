"""Where results go. A file appears whole or not at all."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from airflow_llm_batch.data.formats import check_format
from airflow_llm_batch.storage import WholeFile

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


class Sink(Protocol):
    """One output file being written."""

    uri: str

    def write(self, record: dict[str, Any]) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...


class JsonlSink:
    """JSON lines, UTF-8, one record a line."""

    suffix = ".jsonl"

    def __init__(self, directory: ObjectStoragePath, stem: str) -> None:
        path = directory / f"{stem}{self.suffix}"
        self.uri = str(path)
        self.file = WholeFile(path)
        self.encode = msgspec.json.Encoder().encode
        self.commit = self.file.commit
        self.discard = self.file.discard

    def write(self, record: dict[str, Any]) -> None:
        self.file.write(self.encode(record) + b"\n")


def sink_class(name: str) -> type[JsonlSink]:
    """The sink that writes a format.

    :raises ConfigurationError: for an unknown one.
    """
    module, _, attribute = check_format(name).rpartition(".")
    found: type[JsonlSink] = getattr(import_module(module), attribute)
    return found
