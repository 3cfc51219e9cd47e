"""PostgreSQL's COPY, by psycopg 3 or psycopg2, whichever Airflow's hook has connected with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

#: bytes that are handed over at once
BLOCK = 2**16
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_rows(connection: Connection, table: str, names: Sequence[str], rows: Iterable[list[tuple[Any, ...]]]) -> None:
    """Append rows to a table.

    :param names: of the columns, in the order of a row's values.
    """
    listed = ", ".join('"{}"'.format(name.replace('"', '""')) for name in names)
    statement = f"COPY {table} ({listed}) FROM STDIN"
    cursor: Any = connection.connection.cursor()
    try:
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(statement, Blocks(copy_blocks(rows)))
            return
        with cursor.copy(statement) as copy:
            for block in copy_blocks(rows):
                copy.write(block)
    finally:
        cursor.close()


def copy_blocks(rows: Iterable[list[tuple[Any, ...]]]) -> Iterator[bytes]:
    """Rows in the text format of COPY."""
    block = bytearray()
    for some in rows:
        for row in some:
            block += "\t".join(map(copy_text, row)).encode()
            block += b"\n"
            if len(block) >= BLOCK:
                yield bytes(block)
                block.clear()
    if block:
        yield bytes(block)


def copy_text(value: Any) -> str:
    if type(value) is str:
        return value.translate(ESCAPES)
    if value is None:
        return "\\N"
    if isinstance(value, bytes):
        return f"\\\\x{value.hex()}"
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


class Blocks:
    """Blocks as the file that psycopg2 reads."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks, self.rest = blocks, bytearray()

    def read(self, size: int) -> bytes:
        while len(self.rest) < size and (more := next(self.blocks, b"")):
            self.rest += more
        given = bytes(self.rest[:size])
        del self.rest[:size]
        return given
