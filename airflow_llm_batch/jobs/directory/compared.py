"""What the answers of several models to the same rows have in common."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from airflow_llm_batch.models import Fact

#: in the directory of each of the models' jobs
NAME = "comparison.json"


class Agreement(BaseModel):
    """How far models agree on one field of their answers.

    :param field: empty for the whole answer.
    :param rows: that all of them have answered.
    :param share: of these rows, those in which all gave the same, 0 to 1; None without rows.
    :param kappa: how much of what chance would not have given: Cohen's of two models, Fleiss' of more; None where
        answers are too various to be categories, or all the same.
    """

    field: str
    rows: int
    share: float | None = None
    kappa: float | None = None


class Pair(BaseModel):
    """Two of more models."""

    models: tuple[str, str]
    fields: list[Agreement]


class Accuracy(BaseModel):
    """How often a model is right.

    :param rows: that it has answered, and whose ``column`` holds something; ``right`` of them.
    """

    field: str
    column: str
    rows: int
    right: int
    share: float | None = None


class ComparedModel(BaseModel):
    """One of the models.

    :param name: the model's, with its connection where it is asked on several.
    :param job: URI of its job.
    :param seconds: from the planning until its last answers were there.
    :param shares: of its rows, by status, 0 to 1.
    """

    name: str
    model: str
    conn_id: str
    provider: str
    job: str
    rows: int
    counts: dict[str, int]
    shares: dict[str, float]
    cost_usd: float | None
    seconds: float | None
    accuracy: list[Accuracy] = Field(default_factory=list)


class Comparison(Fact):
    """Models compared: ``comparison.json``.

    :param fields: agreement of all of them, field by field; none where answers cannot be equal (vectors).
    :param pairs: of each two, where there are more.
    :param answered: rows that at least two of them have answered.
    :param disagreed: of these, those that two of them answer differently.
    :param disagreements: URI of the file that holds these rows, None where it was not asked for.
    """

    at: datetime
    rows: int
    models: list[ComparedModel]
    fields: list[Agreement] = Field(default_factory=list)
    pairs: list[Pair] = Field(default_factory=list)
    answered: int = 0
    disagreed: int = 0
    disagreements: str | None = None
