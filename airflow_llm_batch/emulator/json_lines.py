"""Lines of requests and of results, as the emulator keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec


def used_by(line: bytes) -> tuple[int, int]:
    """Tokens in and out that a result line reports."""
    try:
        body = msgspec.json.decode(line)["response"]["body"]
        usage = body["usage"]
    except (ValueError, KeyError, TypeError):
        return 0, 0
    read = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    return int(read), int(usage.get("completion_tokens", usage.get("output_tokens", 0)))


def read_lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield msgspec.json.decode(line)


def encode(line: Any) -> bytes:
    return msgspec.json.encode(line)
