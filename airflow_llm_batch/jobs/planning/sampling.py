"""Which rows a sample has."""

from __future__ import annotations

import random
from typing import Any

from airflow_llm_batch.data.sources import read_rows


def spread(rows: Any, columns: set[str] | None, size: int) -> tuple[set[int], int]:
    """The numbers of so many rows from all over, the same each time, and how many there are in all. The source is read
    once for it.

    :param columns: those to read, None for all.
    """
    draw = random.Random(size)  # noqa: S311
    chosen: list[int] = []
    total = 0
    for total, _ in enumerate(read_rows(rows, columns), 1):
        if len(chosen) < size:
            chosen.append(total - 1)
        elif (place := draw.randrange(total)) < size:
            chosen[place] = total - 1
    return set(chosen), total
