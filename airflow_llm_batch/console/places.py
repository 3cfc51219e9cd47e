"""Where jobs lie that no task has made, and how people name any job."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.address import JobKey, default_storage
from airflow_llm_batch.jobs.options import Origin

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.view.files import RoundFiles
    from airflow_llm_batch.jobs.view.job import JobView
    from airflow_llm_batch.jobs.view.overview import Overview

#: stands in the place of a DAG's id, and is none that Airflow would take: nobody's right to a DAG reaches these jobs
OUTSIDE = "~outside"
TASK = "run"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PROGRAM = "python -m airflow_llm_batch"


class Found(NamedTuple):
    """A job of a storage, with its rounds, oldest first."""

    key: JobKey
    rounds: list[RoundFiles]


def origin_of(name: str) -> Origin:
    """What stands in the place of a task instance.

    :raises ConfigurationError: for a name that no directory should have.
    """
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"name is {name!r}; give letters, digits, '.', '_' and '-', at most 100, the first a letter or a digit. "
            "Nothing was sent."
        )
    return Origin(OUTSIDE, name, TASK)


def results_of(storage: str | None, name: str) -> str:
    """Where the answers are landed by default: beside the job, so that the job's removal leaves them."""
    return f"{(storage or default_storage()).rstrip('/')}/{OUTSIDE}/{name}/results"


def label(key: JobKey) -> str:
    """A job as people name it: ``reviews``, or ``dag/run/task/-1`` of a task's."""
    if key.dag_id == OUTSIDE:
        return key.run_id if key.place == "-1" else f"{key.run_id}/{key.place}"
    return "/".join(key)


def find(overview: Overview, text: str) -> Found:
    """The job that somebody names: its name, ``dag/run/task``, with or without map index, or its directory's URI. It is
    looked for at its address, then among the last days' jobs, then among all.

    :raises ConfigurationError: when there is none, or more than one.
    """
    wanted = text.strip().rstrip("/")
    parts = wanted.removeprefix(f"{overview.uri}/").split("/")
    if len(parts) == len(JobKey._fields) and (rounds := overview.rounds(JobKey(*parts))):
        return Found(JobKey(*parts), rounds)
    for look in (overview.refresh, overview.refresh_all):
        jobs = {key_of(job): job for job in look()}
        exact = [key for key in jobs if wanted in (label(key), "/".join(key), jobs[key].uri)]
        # Of a job whose input has changed the newest is meant.
        begun = [key for key in jobs if f"{label(key)}/".startswith(f"{wanted}/")]
        newest = sorted(begun, key=lambda key: jobs[key].created_at)[-1:]
        found = exact or (newest if len({key[:3] for key in begun}) == 1 else begun)
        if len(found) == 1:
            return Found(found[0], overview.rounds(found[0]))
        if found:
            raise ConfigurationError(f"{text!r} may be any of {', '.join(map(label, found[:10]))}: name one of them.")
    raise ConfigurationError(
        f"There is no job {text!r} in {overview.uri}; `{PROGRAM} list` shows those that are there, and --storage names "
        "another place."
    )


def key_of(job: JobView) -> JobKey:
    return JobKey(job.dag_id, job.run_id, job.task_id, job.map_index)
