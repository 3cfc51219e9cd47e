"""LLM work in bulk from Apache Airflow, at the batch price."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_llm_batch.console.run import run

__version__ = "0.1.0"
__all__ = ["run"]


def __getattr__(name: str) -> Any:
    """``run`` is imported when it is asked for: DAG files and Airflow's processes do without."""
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("airflow_llm_batch.console.run").run
