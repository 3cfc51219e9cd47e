"""Arrow's types in a database: what a column is made as, and what a column that is there takes without loss."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import sqlalchemy as sa

from airflow_llm_batch.data.tables.columns import Column
from airflow_llm_batch.data.tables.rows import Convert, Unfit

#: bits of integers, by the name of their type; 64 for others
BITS = {"SMALLINT": 16, "INTEGER": 32, "MEDIUMINT": 24, "TINYINT": 8}
#: integers up to here are floats too
EXACT = 2**53
#: types that hold a float to 7 digits, but in SQLite
NARROW = ("REAL", "FLOAT")


def made_as(column: Column, dialect: str) -> sa.types.TypeEngine[Any]:
    """The type of a column of a table that is made."""
    kind, types = column.kind, pa.types
    plain: list[tuple[Callable[[pa.DataType], bool], sa.types.TypeEngine[Any]]] = [
        (types.is_int64, sa.BigInteger()),
        (types.is_float64, sa.Float(53)),
        (types.is_boolean, sa.Boolean()),
        (types.is_date, sa.Date()),
        (types.is_time, sa.Time()),
        (types.is_binary, sa.LargeBinary()),
    ]
    for is_one, made in plain:
        if is_one(kind):
            return made
    if types.is_timestamp(kind) and kind.unit == "us" and (kind.tz is None or dialect == "postgresql"):
        return sa.DateTime(timezone=kind.tz is not None)
    if types.is_decimal(kind) and dialect != "sqlite":
        return sa.Numeric(38, kind.scale)
    if dialect == "postgresql" and (column.is_json or is_nested(kind)) and not is_vector(kind):
        from sqlalchemy.dialects.postgresql import JSONB

        return JSONB()
    # Nanoseconds, and in SQLite zones and decimals too, are whole as a text alone. Some databases' keys want a length.
    return sa.String(255) if column.is_key and dialect not in ("postgresql", "sqlite") else sa.Text()


def is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_struct(kind))


def is_vector(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_float32(kind))


def conversion(column: Column, there: sa.types.TypeEngine[Any], dialect: str) -> Convert | None:
    """What makes a column's values, as Arrow gives them, those that the database's type takes; None where the types do
    not go together. It raises ``Unfit`` for a value that does not fit.

    Values of the row itself are looked at one by one before anything is sent, so that their column may have another
    type as long as it holds them: what is null in every row tonight has no type at all.
    """
    kind, is_own = column.kind, column.is_own
    if isinstance(there, sa.Boolean):
        return only(bool) if pa.types.is_boolean(kind) or is_own else None
    if isinstance(there, sa.Integer):
        return integer(there, dialect) if pa.types.is_int64(kind) or is_own else None
    if isinstance(there, sa.Float):
        wide = dialect == "sqlite" or type(there).__name__ not in NARROW or (there.precision or 0) > 24
        return floating if wide and (pa.types.is_float64(kind) or pa.types.is_int64(kind) or is_own) else None
    if isinstance(there, sa.Numeric):
        free = there.precision is None
        takes = pa.types.is_int64(kind) or pa.types.is_decimal(kind) or (pa.types.is_float64(kind) and free)
        return numeric(there, dialect) if takes or is_own else None
    if type(there).__name__.upper() == "UUID":
        return as_uuid if pa.types.is_string(kind) else None
    if isinstance(there, sa.JSON):
        return json_text(column, dialect) if column.is_json or is_own or is_nested(kind) else None
    if isinstance(there, sa.String):
        return text(column, there, dialect)
    if isinstance(there, sa.LargeBinary):
        return only(bytes) if pa.types.is_binary(kind) or is_own else None
    if isinstance(there, sa.DateTime):
        same = pa.types.is_timestamp(kind) and bool(there.timezone) == (kind.tz is not None)
        return moment(bool(there.timezone)) if same or is_own else None
    if isinstance(there, sa.Date):
        return only(dt.date) if pa.types.is_date(kind) or is_own else None
    if isinstance(there, sa.Time):
        return only(dt.time) if pa.types.is_time(kind) or is_own else None
    return text(column, sa.Text(), dialect) if dialect == "sqlite" and isinstance(there, sa.types.NullType) else None


def only(kind: type) -> Convert:
    def convert(value: Any) -> Any:
        if type(value) is not kind:
            raise Unfit(f"{value!r:.80} is no {kind.__name__}")
        return value

    return convert


def integer(there: sa.types.TypeEngine[Any], dialect: str) -> Convert:
    most = 2 ** ((64 if dialect == "sqlite" else BITS.get(type(there).__name__, 64)) - 1)

    def convert(value: Any) -> int:
        number = int(value) if isinstance(value, float | Decimal) and value == value // 1 else value
        if type(number) is not int or not -most <= number < most:
            raise Unfit(f"{value!r:.80} is no integer that the column holds")
        return number

    return convert


def floating(value: Any) -> float:
    if type(value) is float or (type(value) is int and -EXACT <= value <= EXACT):
        return float(value)
    raise Unfit(f"{value!r:.80} is no number that the column holds to the last digit")


def numeric(there: sa.Numeric[Any], dialect: str) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise Unfit(f"{value!r:.80} is no number")
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        if not number.is_finite():
            raise Unfit(f"{value!r} is no number that the column holds")
        if there.precision is not None:
            scale, (_, digits, exponent) = there.scale or 0, number.normalize().as_tuple()
            if -int(exponent) > scale or len(digits) + int(exponent) > there.precision - scale:
                raise Unfit(f"{value!r:.80} has more digits than the column")
        return str(number) if dialect == "sqlite" else number

    return convert


def as_uuid(value: Any) -> uuid.UUID:
    try:
        return uuid.UUID(value)
    except ValueError:
        raise Unfit(f"{value!r:.80} is no UUID") from None


def moment(zoned: bool) -> Convert:
    def convert(value: Any) -> dt.datetime:
        try:
            made = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            made = None
        if type(made) is not dt.datetime or (made.tzinfo is not None) != zoned:
            raise Unfit(f"{value!r:.80} is no moment {'with' if zoned else 'without'} a zone")
        return made

    return convert


def json_text(column: Column, dialect: str) -> Convert:
    def convert(value: Any) -> str:
        is_one = is_json(value) if column.is_json else isinstance(value, str) and value[:1] in "{[" and is_json(value)
        return legal(value if is_one else msgspec.json.encode(value).decode(), dialect)

    return convert


def is_json(value: str) -> bool:
    try:
        json.loads(value, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def refuse(name: str) -> None:
    raise ValueError(name)


def text(column: Column, there: sa.String, dialect: str) -> Convert | None:
    kind, most = column.kind, there.length
    if not (pa.types.is_string(kind) or is_nested(kind) or column.is_own or pa.types.is_timestamp(kind)):
        return None
    write = vector_text if is_vector(kind) else as_text
    known = set(there.enums) if isinstance(there, sa.Enum) else None

    def convert(value: Any) -> str:
        made = plain_text(value if type(value) is str else write(value), dialect)
        if most is not None and len(made) > most:
            raise Unfit(f"it has {len(made):,} characters, and the column {most:,}")
        if known is not None and made not in known:
            raise Unfit(f"{made!r:.80} is none of the column's values")
        return made

    return convert


def as_text(value: Any) -> str:
    if isinstance(value, bytes):
        raise Unfit("it is binary, and the column a text")
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value) if isinstance(value, Decimal) else msgspec.json.encode(value).decode()


def vector_text(value: Any) -> str:
    """A vector, or a list of them, with the digits that 32 bits have."""
    return f"[{','.join(vector_text(one) if isinstance(one, list) else f'{one:.9g}' for one in value)}]"


def plain_text(made: str, dialect: str) -> str:
    """PostgreSQL knows no NUL in a text: it becomes U+FFFD there."""
    return made.replace("\0", "\ufffd") if dialect == "postgresql" and "\0" in made else made


def legal(made: str, dialect: str) -> str:
    r"""The same of JSON, where it is written ``\u0000``; and what a lone surrogate is written as."""
    if dialect == "postgresql" and "\\u" in made:
        made = json.dumps(mended(json.loads(made)), ensure_ascii=False)
    return plain_text(made, dialect)


def mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [mended(inner) for inner in value]
    return {mended(name): mended(inner) for name, inner in value.items()} if isinstance(value, dict) else value
