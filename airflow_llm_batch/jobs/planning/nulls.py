"""Columns of a prompt that hold nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.data.values import plain
from airflow_llm_batch.exceptions import InputError

if TYPE_CHECKING:
    from airflow_llm_batch.data.requests import RequestTemplate

log = logging.getLogger(__name__)


class Nulls:
    """Columns of a prompt that hold nothing: refused, or told once.

    :ivar columns: those that are still looked at.
    """

    def __init__(self, template: RequestTemplate) -> None:
        self.fail = template.on_null == "fail"
        self.columns = sorted(template.columns() or ())

    def look(self, number: int, row: Mapping[str, Any]) -> None:
        """:raises InputError: for a null, where it is not to be empty."""
        for column in self.columns:
            value = row.get(column)
            if type(value) is str or plain(value) is not None or column not in row:
                continue
            if self.fail:
                raise InputError(f"its column {column!r} is null, which on_null='fail' refuses")
            log.warning(
                "Row %d has nothing in %r: such columns are empty in prompts (on_null='fail' refuses).", number, column
            )
            self.columns = [name for name in self.columns if name != column]
            return
