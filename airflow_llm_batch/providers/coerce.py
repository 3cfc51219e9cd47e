"""Fields of vendors' answers, as what they should be: any JSON value may stand anywhere in an answer that was paid."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

import msgspec

#: what a column of 64-bit integers holds
LARGEST = 2**63 - 1
#: characters of a code, a model's name or an ending
LONGEST_WORD = 200
#: the same, where a line is read to the letter
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST // 8)]
Some = Annotated[int, msgspec.Meta(ge=1, le=LARGEST // 8)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_WORD)]
#: every byte of a JSON array of numbers but its brackets
OF_NUMBERS = b"0123456789+-.eE, \t"


def word(value: Any) -> str | None:
    """A code, a name, an ending: a short text, None for null and for an empty one."""
    if value is None or value == "":
        return None
    return (value if isinstance(value, str) else as_json(value))[:LONGEST_WORD]


def whole(count: Any) -> int | None:
    """A token count as vendors and gateways spell it; None for anything that is not one."""
    try:
        number = None if count is None or isinstance(count, bool) else int(count)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and -LARGEST <= number <= LARGEST else None


def amount(value: Any) -> float | None:
    """Dollars, or parts of them; None for anything that is no amount above 0."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
    return float(number) if 0 < number < LARGEST else None


def decimal(text: str) -> float | None:
    """A number in a header; None for anything else."""
    try:
        return float(text)
    except ValueError:
        return None


def members(value: Any) -> Mapping[str, Any]:
    """An object's members; none for anything else."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, or an object alone."""
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def text_of(value: Any) -> str | None:
    """A text, whatever it came as; None for null. What is no text is kept as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("value"), str):
        return str(value["value"])
    return as_json(value)


def id_of(line: Mapping[str, Any]) -> str:
    """:raises KeyError: for a line without one."""
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str | int) or isinstance(custom_id, bool):
        raise KeyError("custom_id")
    return str(custom_id)


def tool_call(call_id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    """Arguments arrive as JSON text a model wrote; what does not parse stays text."""
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = msgspec.json.decode(arguments)
    return {"id": word(call_id), "name": word(name), "arguments": arguments}


def cut_call(calls: list[dict[str, Any]]) -> str | None:
    """The function among some ``tool_call``s whose arguments are no JSON, where a server broke off in their midst."""
    for call in calls:
        text = call["arguments"]
        if isinstance(text, str) and text.strip():
            try:
                msgspec.json.decode(text)
            except (ValueError, RecursionError):
                return call["name"] or "a tool"
    return None


#: kinds of parts that hold what a model thought, and where it stands in them
THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text")
THOUGHT = ("thinking", "reasoning", "text", "summary")


class Said(NamedTuple):
    """What a message's content holds; None for what it does not."""

    text: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


def read_content(content: Any) -> Said:
    """Content as servers write it: a text, null, or parts of text, of thinking and of refusal."""
    if content is None or isinstance(content, str):
        return Said(content)
    if not isinstance(content, list | dict):
        return Said(as_json(content))
    found: dict[str, list[str]] = {"text": [], "reasoning": [], "refusal": []}
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict):
            found["text"].append(text_of(part) or "")
            continue
        kind = part.get("type")
        # OpenRouter's reasoning.text, reasoning.summary and reasoning.encrypted; the last has nothing to read.
        if kind in THOUGHTS or (isinstance(kind, str) and kind.startswith("reasoning.")):
            inner = read_content(next((part[name] for name in THOUGHT if part.get(name)), None))
            found["reasoning"].append(inner.text or inner.reasoning or "")
        elif kind == "refusal":
            found["refusal"].append(text_of(part.get("refusal")) or "")
        elif "text" in part:
            found["text"].append(text_of(part["text"]) or "")
        else:
            found["text"].append(as_json(part))
    return Said(*("".join(found[name]) if found[name] else None for name in ("text", "reasoning", "refusal")))


def vector_of(value: Any) -> list[float] | msgspec.Raw | None:
    """An embedding: numbers, or base64 of little-endian float32; None for anything else, nulls among numbers too."""
    if isinstance(value, msgspec.Raw):
        raw = bytes(value)
        if raw.translate(None, OF_NUMBERS) == b"[]" and len(raw) > 2:
            return value
        value = msgspec.json.decode(raw)
    if isinstance(value, str):
        try:
            packed = base64.b64decode(value, validate=True)
            value = list(struct.unpack(f"<{len(packed) // 4}f", packed))
        except (ValueError, struct.error):
            return None
        if not are_floats(value):
            return None
    if not isinstance(value, list) or not value:
        return None
    good = all(isinstance(n, int | float) and not isinstance(n, bool) and in_range(n) for n in value)
    return value if good else None


def are_floats(numbers: list[float]) -> bool:
    """Whether bytes that were read as float32 were meant so: those of int8 and of bits (Voyage's and Mistral's
    ``output_dtype``) make numbers of any magnitude, and an embedding's are near 1."""
    strange = sum(not (number == 0 or 1e-20 < abs(number) < 1e9) for number in numbers)
    return strange * 10 <= len(numbers)


def in_range(number: float) -> bool:
    """Whether a float32 holds it, about."""
    return abs(number) < 3.4e38 if isinstance(number, int) else math.isfinite(number) and abs(number) < 3.4e38
