"""Where a job lies: the one place that knows how a job directory's address is made up.

{storage}/{DAG}/{run}/{task}/{map index}          the first job of a task instance
.../-1~gpt-5-mini_llm_batch_default               the job of one of several models
.../-1.2  .../-1~gpt-5-mini_llm_batch_default.2   the job that replaces it when the task's input has changed
.../-1/round-2                                    the job that asks again what failed in it
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

ROUND = "round-"


class JobKey(NamedTuple):
    """A job's names below the storage; ``place`` is its map index, and what tells jobs of one task instance apart."""

    dag_id: str
    run_id: str
    task_id: str
    place: str


@dataclass(frozen=True)
class JobAddress:
    """A job directory's address, taken apart.

    :param folder: URI of the directory that holds all jobs of a task.
    :param map_index: of the task instance, -1 for a task that is not mapped. A directory that no task has made has its
        name here.
    :param model: name of one of several models, None for the only one.
    :param generation: 1, and more for jobs that took the place of one with other input.
    :param round: 1, and more for jobs of what failed before.
    """

    folder: str
    map_index: str
    model: str | None = None
    generation: int = 1
    round: int = 1

    @classmethod
    def of_task(cls, storage: str | None, dag_id: str, run_id: str, task_id: str, map_index: int | None) -> JobAddress:
        """The same for every try of one task instance."""
        folder = "/".join([str(storage or default_storage()).rstrip("/"), dag_id, run_id, task_id])
        return cls(folder, str(-1 if map_index is None else map_index))

    @classmethod
    def parse(cls, uri: str) -> JobAddress:
        folder, _, name = uri.rstrip("/").rpartition("/")
        number = 1
        if name.startswith(ROUND) and name.removeprefix(ROUND).isdigit():
            number = int(name.removeprefix(ROUND))
            folder, _, name = folder.rpartition("/")
        place, dot, generation = name.rpartition(".")
        if not (dot and generation.isdigit() and int(generation) > 1):
            place, generation = name, "1"
        map_index, tilde, model = place.partition("~")
        return cls(folder, map_index, model if tilde else None, int(generation), number)

    @property
    def place(self) -> str:
        """The directory's name, further rounds not told apart: ``-1~gpt-5-mini_llm_batch_default.2``."""
        model = "" if self.model is None else f"~{self.model}"
        return f"{self.map_index}{model}" + (f".{self.generation}" if self.generation > 1 else "")

    @property
    def uri(self) -> str:
        return f"{self.folder}/{self.place}" + (f"/{ROUND}{self.round}" if self.round > 1 else "")

    @property
    def key(self) -> JobKey:
        dag_id, run_id, task_id = ["", "", "", *self.folder.split("/")][-3:]
        return JobKey(dag_id, run_id, task_id, self.place)

    @property
    def first(self) -> JobAddress:
        """The job that a task's further rounds began with."""
        return replace(self, round=1)

    @property
    def next_generation(self) -> JobAddress:
        """Where the job goes that takes this one's place."""
        return replace(self, generation=self.generation + 1, round=1)

    @property
    def previous_generations(self) -> list[JobAddress]:
        """The jobs whose place this one has taken, oldest first."""
        return [replace(self, generation=number, round=1) for number in range(1, self.generation)]

    @property
    def storage(self) -> str:
        """URI of what holds the jobs of all DAGs."""
        scheme, mark, path = self.folder.partition("://")
        parts = path.split("/")
        return scheme + mark + "/".join(parts[:-3] or parts[:1])

    @property
    def landed(self) -> str:
        """URI of the directory for its result files, where nobody names another."""
        return f"{self.first.uri}/landed"

    def of_round(self, number: int) -> JobAddress:
        return replace(self, round=number)

    def of_model(self, name: str | None) -> JobAddress:
        """Where a task that asks several models keeps the job of one."""
        return self if name is None else replace(self, model=name)

    def is_of_task(self, other: JobAddress) -> bool:
        """Whether another job is one of the same task instance."""
        return (self.folder, self.map_index) == (other.folder, other.map_index)


def default_storage() -> str:
    """``[llm_batch] storage``, or a directory below AIRFLOW_HOME, which only suits a single machine."""
    home = os.environ.get("AIRFLOW_HOME") or os.path.expanduser("~/airflow")
    return configured_storage() or f"file://{home}/llm_batch"


def configured_storage() -> str | None:
    """``[llm_batch] storage``, None where it is not set."""
    from airflow.providers.common.compat.sdk import conf

    return conf.get("llm_batch", "storage", fallback=None) or None
