"""What trying some rows before the others has shown."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.models import Fact


class TriedRow(BaseModel):
    """A row that was called before the others were sent.

    :param sent: its request line, and ``answer`` what came back; long ones are cut.
    """

    row: int
    sent: str
    status: str
    answer: str = ""
    error_code: str | None = None
    error_message: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


class Tried(Fact):
    """What trying some rows first has shown: ``tried.json``.

    :param estimate: of the whole job, corrected by what they used; by model.
    """

    at: datetime
    rows: list[TriedRow]
    estimate: dict[str, Estimate] = Field(default_factory=dict)
