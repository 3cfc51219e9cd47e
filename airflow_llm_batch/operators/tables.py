"""A table as a task's destination: what the task's own arguments tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_llm_batch.data.table import Keyed
from airflow_llm_batch.exceptions import ConfigurationError

#: columns of a key that are the record's own, whatever the task's arguments
RECORD = ("row", "custom_id", "model", "provider")


def check_table(destination: Any, key: str | None, request: Any, passthrough: Any) -> None:
    """:raises ConfigurationError: where rows would be merged by their numbers, which mean other rows in another run."""
    if not isinstance(destination, Keyed):
        return
    destination.check()
    others = [name for name in destination.keys if name not in (passthrough or ()) and name not in (*RECORD, "key")]
    if others and not key and request is not None:
        raise ConfigurationError(
            f"The key of {destination.place} is {', '.join(destination.keys)}, and this task has neither a key nor a "
            f"pass-through column {others[0]}: rows would be merged by their numbers. Give the task "
            f"key={others[0]!r}. Nothing was sent."
        )


def check_models(destination: Any, models: Sequence[Any]) -> None:
    """:raises ConfigurationError: where one model's answer would take the place of another's."""
    if isinstance(destination, Keyed) and len(models) > 1 and "model" not in destination.keys:
        raise ConfigurationError(
            f"{len(models)} models answer each row, and the key of {destination.place} is "
            f"{', '.join(destination.keys)}: one answer would take the place of the other. Add 'model' to the table's "
            "key. Nothing was sent."
        )
