"""Where results go. A file appears whole or not at all."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from airflow_llm_batch.blocks import CHUNK
from airflow_llm_batch.data.formats import check_format
from airflow_llm_batch.exceptions import ConfigurationError, Unwritable
from airflow_llm_batch.storage import WholeFile, open_blocks

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

    from airflow_llm_batch.results import Result


@dataclass
class Layout:
    """What is known of a job's records before the first of them.

    :param output_schema: JSON schema of ``output``, None for answers that are free text.
    :param key: kind of the keys, and ``columns`` of the pass-through columns, as ``data.kinds`` names them.
    :param several_vectors: a request may embed several texts.
    :param answers: the fields, beside ``output``, that hold what was answered.
    """

    output_schema: dict[str, Any] | None = None
    key: str = "json"
    columns: dict[str, str] = field(default_factory=dict)
    several_vectors: bool = False
    answers: tuple[str, ...] = ("text", "tool_calls", "embedding")


class Sink(Protocol):
    """One output file being written; a record is a result and, as a JSON object, the pass-through columns."""

    suffix: str
    uri: str

    def __init__(self, path: ObjectStoragePath, layout: Layout) -> None: ...

    @staticmethod
    def check_installed() -> None:
        """:raises ImportError: where a library that it needs is not there."""

    @property
    def size(self) -> int:
        """Bytes written so far, about."""

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        """Add a record.

        :raises Unwritable: when the format cannot hold it; nothing was added then.
        """

    def copy(self, landed: ObjectStoragePath, without: Container[int]) -> tuple[int, int]:
        """Take over the records of a landed file but for some rows; returns how many were taken and left out.

        :raises ConfigurationError: for a file in a format that cannot be taken over as it is.
        """

    def close(self) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...


class JsonlSink:
    """JSON lines, UTF-8, one record a line."""

    suffix = ".jsonl"

    def __init__(self, path: ObjectStoragePath, layout: Layout) -> None:
        self.uri = str(path)
        self.file = WholeFile(path)
        self.encode_into = msgspec.json.Encoder().encode_into
        self.compressor = self.make_compressor()
        self.buffer = bytearray()
        self.commit = self.file.commit
        self.discard = self.file.discard

    @property
    def size(self) -> int:
        return self.file.size

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        buffer = self.buffer
        start = len(buffer)
        try:
            self.encode_into(result, buffer, -1)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            del buffer[start:]
            raise Unwritable(f"it cannot be written as JSON: {error}") from None
        if len(columns) > len("{}"):
            # Both are JSON objects: the columns' members follow the result's.
            buffer[-1:] = b","
            buffer += memoryview(columns)[1:]
        buffer += b"\n"
        if len(buffer) >= CHUNK:
            self.flush()

    def copy(self, landed: ObjectStoragePath, without: Container[int]) -> tuple[int, int]:
        name = str(landed)
        source = next((sink for sink in (JsonlSink, GzipJsonlSink, ZstdJsonlSink) if name.endswith(sink.suffix)), None)
        if source is None:
            raise not_alike(name, self.suffix)
        row_of = msgspec.json.Decoder(LandedRow).decode
        taken = left = 0
        with source.open_lines(landed) as lines:
            for line in lines:
                if row_of(line).row in without:
                    left += 1
                    continue
                taken += 1
                self.buffer += line
                if len(self.buffer) >= CHUNK:
                    self.flush()
        return taken, left

    def flush(self) -> None:
        self.file.write(self.compressor.compress(self.buffer) if self.compressor else self.buffer)
        self.buffer.clear()

    def close(self) -> None:
        self.flush()
        if self.compressor:
            self.file.write(self.compressor.flush())
        self.file.finish()

    @staticmethod
    def check_installed() -> None:
        """JSON lines need nothing."""

    @staticmethod
    def make_compressor() -> Any:
        """An object with ``compress`` and ``flush``, None for plain text."""
        return None

    @staticmethod
    def open_lines(landed: ObjectStoragePath) -> Any:
        """A landed file's lines."""
        return open_blocks(landed)


class GzipJsonlSink(JsonlSink):
    """JSON lines, gzip."""

    suffix = ".jsonl.gz"

    @staticmethod
    def make_compressor() -> Any:
        return zlib.compressobj(6, wbits=31)

    @staticmethod
    def open_lines(landed: ObjectStoragePath) -> Any:
        return gzip.open(open_blocks(landed))


class ZstdJsonlSink(JsonlSink):
    """JSON lines, zstd; needs the extra ``zstd``."""

    suffix = ".jsonl.zst"

    @staticmethod
    def check_installed() -> None:
        import zstandard  # noqa: F401

    @staticmethod
    def make_compressor() -> Any:
        import zstandard

        return zstandard.ZstdCompressor().compressobj()

    @staticmethod
    def open_lines(landed: ObjectStoragePath) -> Any:
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(open_blocks(landed), read_across_frames=True)
        return io.BufferedReader(reader, CHUNK)


def not_alike(landed: str, suffix: str) -> ConfigurationError:
    return ConfigurationError(
        f"{landed} was landed in another format than {suffix!r}, and its rows cannot be taken over into this one. Give "
        "both tasks the same format. What the vendor has answered is not lost and not paid again."
    )


class LandedRow(msgspec.Struct):
    row: int


class Parts:
    """One shard's files: a new one is begun when the last has reached its size; all are published together.

    :param largest: bytes after which a file is ended, None for one file.
    """

    def __init__(self, begin: Callable[[str], Sink], stem: str, largest: int | None) -> None:
        self.begin, self.stem, self.largest = begin, stem, largest
        self.sinks: list[Sink] = []
        self.sink = self.next()

    def write(self, result: Result, columns: msgspec.Raw) -> None:
        if self.largest is not None and self.sink.size >= self.largest:
            self.sink.close()
            self.sink = self.next()
        self.sink.write(result, columns)

    def next(self) -> Sink:
        """Begin a file; in the order of their names the files hold the rows in theirs."""
        sink = self.begin(self.stem if self.largest is None else f"{self.stem}-{len(self.sinks):04d}")
        self.sinks.append(sink)
        return sink

    def commit(self) -> list[str]:
        """Publish; returns the files' URIs."""
        self.sink.close()
        for sink in self.sinks:
            sink.commit()
        return [sink.uri for sink in self.sinks]

    def discard(self) -> None:
        for sink in self.sinks:
            sink.discard()


def sink_class(name: str) -> type[Sink]:
    """The sink that writes a format.

    :raises ConfigurationError: for an unknown one, and for one whose library is not installed.
    """
    module, _, attribute = check_format(name).rpartition(".")
    try:
        found: type[Sink] = getattr(import_module(module), attribute)
        found.check_installed()
    except ImportError as error:
        extra = "zstd" if name.endswith("zst") else "parquet"
        raise ConfigurationError(
            f"format={name!r} needs a package that is not installed here ({error}); "
            f"pip install 'airflow-provider-llm-batch[{extra}]' where tasks run."
        ) from None
    return found
