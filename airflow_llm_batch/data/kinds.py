"""What the keys and pass-through columns of a job hold, as words that its plan keeps.

``string``, ``integer``, ``number``, ``boolean``, ``date``, ``time``, ``timestamp`` (``timestamp_tz`` in UTC, ``_ns`` to
the nanosecond), ``decimal:2`` (digits after the point), ``binary``, ``list:`` before any of them, and ``json`` for
what has no one type.

While values go by, a kind says more than its column's type does, for a column has to hold all of them to the last
digit: ``integer:wide`` is none that a float holds, ``decimal:2:9`` has nine digits before the point,
``timestamp:far`` lies outside the years that 64 bits of nanoseconds reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from airflow_llm_batch.data.values import Nanoseconds, plain

SIMPLE: dict[type, str | None] = {
    str: "string", float: "number", bool: "boolean", date: "date", bytes: "binary", type(None): None,
}  # fmt: skip
#: digits of a decimal column, before and after the point, and of an integer beside decimals
DIGITS, WIDE_DIGITS, NARROW_DIGITS = 38, 19, 16
#: integers up to here are floats too
EXACT = 2**53
#: the years that a column of nanoseconds holds from end to end
NEAR = range(1678, 2262)
INTEGERS = frozenset({"integer", "integer:wide"})


class Kinds:
    """Takes note of what types of values a job's keys and pass-through columns hold while its rows are planned, so that
    Parquet can give each column one type when the results are landed.

    :ivar schemas: of the answers that batch input lines ask for, the different ones; None for one without.
    :ivar total: rows that there are in all, where these are a sample of them.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self.key: set[str | None] = set()
        self.schemas: list[Any] = []
        self.total: int | None = None
        self.columns: dict[str, set[str | None]] = {name: set() for name in columns}

    def add_schema(self, schema: Any) -> None:
        if schema not in self.schemas and len(self.schemas) < 2:
            self.schemas.append(schema)

    def seen(self) -> tuple[str, dict[str, str]]:
        """The keys' kind, and each column's."""
        return stated(merge(self.key)) or "integer", {
            name: stated(merge(seen)) or "json" for name, seen in self.columns.items()
        }


def kind_of(value: Any) -> str | None:
    """The kind of a plain value; None for null."""
    kind = type(value)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if kind is int:
        if not -(2**63) <= value < 2**63:
            # An integer that no column type holds is kept as JSON.
            return "json"
        return "integer" if -EXACT <= value <= EXACT else "integer:wide"
    if kind is datetime:
        return kind_of_moment(value)
    if kind is Nanoseconds:
        if not (value[:4].isdigit() and int(value[:4]) in NEAR):
            return "json"
        return "timestamp_ns_tz" if value[19:].lstrip(".0123456789") else "timestamp_ns"
    if kind is time:
        # No column of times has a zone.
        return "json" if value.tzinfo else "time"
    if isinstance(value, Decimal) and value.is_finite():
        digits, exponent = value.as_tuple().digits, int(value.as_tuple().exponent)
        return of_digits(max(0, -exponent), max(0, len(digits) + exponent))
    if kind is list:
        inner = merge({kind_of(plain(item)) for item in value})
        return "json" if inner == "json" or (inner or "").startswith("list:") else f"list:{inner or ''}"
    return "json"


def kind_of_moment(value: datetime) -> str:
    far = "" if value.year in NEAR else ":far"
    if value.tzinfo is None:
        return f"timestamp{far}"
    try:
        value.astimezone(UTC)
    except OverflowError:
        return "json"
    return f"timestamp_tz{far}"


def of_digits(scale: int, whole: int) -> str:
    """The kind of decimals with so many digits after the point, and before it, at most."""
    return f"decimal:{scale}:{whole}" if scale + whole <= DIGITS else "json"


def merge(kinds: Iterable[str | None]) -> str | None:
    """The one kind that holds all of these; None where there was nothing but nulls."""
    found = {kind for kind in kinds if kind is not None}
    if len(found) <= 1:
        only = next(iter(found), None)
        return "json" if only == "list:" else only
    if found <= INTEGERS:
        return "integer:wide"
    if found == {"integer", "number"}:
        return "number"
    if all(kind.startswith("list:") for kind in found):
        inner = merge({kind.removeprefix("list:") or None for kind in found})
        return "json" if inner == "json" else f"list:{inner or ''}"
    if all(kind.startswith("timestamp") for kind in found):
        return merged_moments(found)
    if all(kind.startswith("decimal:") or kind in INTEGERS for kind in found):
        sizes = [digits_of(kind) for kind in found]
        return of_digits(max(scale for scale, _ in sizes), max(whole for _, whole in sizes))
    return "json"


def digits_of(kind: str) -> tuple[int, int]:
    """Digits after the point and before it, at most."""
    if kind in INTEGERS:
        return 0, NARROW_DIGITS if kind == "integer" else WIDE_DIGITS
    _, scale, whole = kind.split(":")
    return int(scale), int(whole)


def merged_moments(found: set[str]) -> str:
    zoned = {"_tz" in kind for kind in found}
    fine, far = any("_ns" in kind for kind in found), any(kind.endswith(":far") for kind in found)
    if len(zoned) > 1 or (fine and far):
        return "json"
    return f"timestamp{'_ns' if fine else ''}{'_tz' if zoned == {True} else ''}{':far' if far else ''}"


def stated(kind: str | None) -> str | None:
    """The kind as a plan keeps it: what its column's type is."""
    if kind is None:
        return None
    if kind.startswith("list:"):
        return f"list:{stated(kind.removeprefix('list:'))}"
    parts = kind.split(":")
    return ":".join(parts[:2]) if parts[0] == "decimal" else parts[0]
