"""What differs between the versions of Airflow that are supported, 3.1 to 3.3: all of it, and when each can go."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath


def connection_of(path: ObjectStoragePath) -> str | None:
    """The connection that a path's URI names.

    Until 3.1 is dropped: there it is among the options of the store, and an attribute from 3.2 on.
    """
    return getattr(path, "conn_id", None) or path.storage_options.get("conn_id")


def is_in_process() -> bool:
    """Whether the task runs in the process that asked for it (``dag.test()``, a test), and not in an executor's.

    For as long as the SDK has no public word for it.
    """
    from airflow.sdk.execution_time import task_runner

    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return comms is None or type(comms).__name__ == "InProcessSupervisorComms"
