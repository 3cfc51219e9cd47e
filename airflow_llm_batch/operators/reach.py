"""Whether the next try of a task may run on another machine, and then finds what this one has written down."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow_llm_batch.airflow_versions import is_in_process
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.directory.address import configured_storage, default_storage

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.run import JobRun

#: executors whose tasks all run on the scheduler's machine
ON_ONE_MACHINE = frozenset({"LocalExecutor", "SequentialExecutor"})
#: the environment variable by which a pod of KubernetesExecutor knows itself; its configuration may name another one
POD = "AIRFLOW_IS_K8S_EXECUTOR_POD"


def check_reach(run: JobRun, executor: str | None, *, own: bool, shares: bool) -> None:
    """Refuse a job that would be sent from one machine and be looked for on another. One that lies here goes on.

    :param executor: the task's own, None for the configured one.
    :param own: the task names a storage for its job directory.
    :param shares: the job needs what others keep in ``[llm_batch] storage``.
    :raises ConfigurationError: where that is not set and the executor is not local.
    """
    if configured_storage() or (own and not shares):
        return
    found = remote_executor(executor)
    if found is None or run.store.load_job() is not None:
        return
    lost = (
        "budgets and awaited jobs would be kept there by each machine for itself"
        if own
        else "a retry elsewhere would not find the job, and send and pay all of it again"
    )
    raise ConfigurationError(
        f"[llm_batch] storage is not set, and with {found} the next try of a task may run on another machine. The "
        f"default, {default_storage()}, lies on this one alone: {lost}. Set [llm_batch] storage "
        "(AIRFLOW__LLM_BATCH__STORAGE) to a URI that all workers, triggerers and API servers reach, such as "
        "s3://aws_default@bucket/llm-batch, or file:///... of a disk that all of them share. Nothing was sent."
    )


def remote_executor(own: str | None) -> str | None:
    """The executor that may run a task's tries on several machines, None where all run on one.

    :param own: the task's own, None for the configured one.
    """
    from airflow.providers.common.compat.sdk import conf

    if is_in_process():
        return None
    if os.environ.get(POD):
        return "KubernetesExecutor"
    # The first one is the default; each team may have its own: "A,B;team=C,D".
    teams = [part.rpartition("=")[2].split(",") for part in str(conf.get("core", "executor")).split(";")]
    if own:
        named = [one for team in teams for one in team if own in (one.strip(), name_of(one), one.rpartition(":")[2])]
        chosen = named[:1] or [own]
    else:
        chosen = [team[0] for team in teams]
    others = [name for name in map(name_of, chosen) if name not in ON_ONE_MACHINE]
    return others[0] if others else None


def name_of(executor: str) -> str:
    """The class: of ``CeleryExecutor``, ``package.module.Class`` or ``package.module.Class:alias``."""
    return executor.partition(":")[0].rpartition(".")[2].strip()
