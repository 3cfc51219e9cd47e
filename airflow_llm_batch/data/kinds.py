"""What the keys and pass-through columns of a job hold, as words that its plan keeps.

``string``, ``integer``, ``number``, ``boolean``, ``date``, ``time``, ``timestamp`` (``timestamp_tz`` in UTC, ``_ns`` to
the nanosecond), ``decimal:2`` (digits after the point), ``binary``, ``list:`` before any of them, and ``json`` for
what has no one type.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from airflow_llm_batch.data.values import Nanoseconds, plain

SIMPLE: dict[type, str | None] = {
    str: "string", float: "number", bool: "boolean", date: "date", time: "time", bytes: "binary", type(None): None,
}  # fmt: skip
#: digits of a decimal column, before and after the point
DIGITS = 38


class Kinds:
    """What keys and pass-through columns hold, as they go by.

    :ivar schemas: of the answers that batch input lines ask for, the different ones; None for one without.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self.key: set[str | None] = set()
        self.schemas: list[Any] = []
        self.columns: dict[str, set[str | None]] = {name: set() for name in columns}

    def add_schema(self, schema: Any) -> None:
        if schema not in self.schemas and len(self.schemas) < 2:
            self.schemas.append(schema)

    def seen(self) -> tuple[str, dict[str, str]]:
        """The keys' kind, and each column's."""
        return merge(self.key) or "integer", {name: merge(seen) or "json" for name, seen in self.columns.items()}


def kind_of(value: Any) -> str | None:
    """The kind of a plain value; None for null."""
    kind = type(value)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if kind is int:
        # An integer that no column type holds is kept as JSON.
        return "integer" if -(2**63) <= value < 2**63 else "json"
    if kind is datetime:
        return "timestamp_tz" if value.tzinfo else "timestamp"
    if kind is Nanoseconds:
        return "timestamp_ns_tz" if value[19:].lstrip(".0123456789") else "timestamp_ns"
    if isinstance(value, Decimal) and value.is_finite():
        digits, exponent = value.as_tuple().digits, value.as_tuple().exponent
        scale = max(0, -int(exponent))
        return f"decimal:{scale}" if len(digits) + max(0, int(exponent)) <= DIGITS and scale <= DIGITS else "json"
    if kind is list:
        inner = merge({kind_of(plain(item)) for item in value})
        return "json" if inner == "json" or (inner or "").startswith("list:") else f"list:{inner or ''}"
    return "json"


def merge(kinds: Iterable[str | None]) -> str | None:
    """The one kind that holds all of these; None where there was nothing but nulls."""
    found = {kind for kind in kinds if kind is not None}
    if len(found) <= 1:
        only = next(iter(found), None)
        return "json" if only == "list:" else only
    if found == {"integer", "number"}:
        return "number"
    if all(kind.startswith("list:") for kind in found):
        inner = merge({kind.removeprefix("list:") or None for kind in found})
        return "json" if inner == "json" else f"list:{inner or ''}"
    if {kind.replace("_ns", "") for kind in found} in ({"timestamp"}, {"timestamp_tz"}):
        return max(found, key=len)
    if all(kind.startswith("decimal:") or kind == "integer" for kind in found):
        scale = max(int(kind.partition(":")[2] or 0) for kind in found)
        return f"decimal:{scale}" if scale <= DIGITS - 19 else "json"
    return "json"
