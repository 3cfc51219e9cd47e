"""Numbers that people write into a connection's extra, or a template renders."""

from __future__ import annotations

import math
from typing import Any

from airflow_llm_batch.exceptions import ConfigurationError


def number(name: str, value: Any, default: float = 0.0, least: float = 0.0) -> float:
    """A finite number from ``least`` up; ``default`` where none is given.

    :param name: of the option, for the message.
    :raises ConfigurationError: for anything else.
    """
    if value is None or value == "":
        return default
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and found >= least):
        raise ConfigurationError(f"{name} is {value!r}; give a number from {least:g} up. Nothing was sent.")
    return found
