"""What differs between the versions of Airflow that are supported, 3.1 to 3.3: all of it, and when each can go.

What only newer ones do, and needs no line here: ``BaseTrigger.on_kill`` is called from 3.3 on; before, a deferred wait
that is failed or cleared leaves its batches running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowNotFoundException

if TYPE_CHECKING:
    from airflow.sdk import Connection, ObjectStoragePath


#: how the asynchronous lookup of a connection fails where another way may find it; ``ImportError`` until 3.1.0 is
#: dropped, which cannot do without a supervisor, as nothing has outside of tasks
NOT_FOUND = (AirflowNotFoundException, ImportError)


def get_connection(conn_id: str) -> Connection:
    """A connection, wherever Airflow keeps it.

    :raises AirflowNotFoundException: when there is none. Until 3.1.0 is dropped it is raised here: without a
        supervisor, that one cannot even say so.
    """
    from airflow.providers.common.compat.sdk import BaseHook

    try:
        return BaseHook.get_connection(conn_id)
    except ImportError as error:
        if "SUPERVISOR_COMMS" not in str(error):
            raise
        raise AirflowNotFoundException(f"The conn_id {conn_id!r} is not defined.") from None


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
