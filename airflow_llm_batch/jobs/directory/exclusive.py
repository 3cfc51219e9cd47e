"""Whether a storage lets one attempt alone create a file: what keeps two attempts of a task from sending a row twice.

S3, GCS and Azure do. Some servers that speak S3's protocol answer a create with a success whatever lies there, and say
nothing of it; so each storage is tried before the first job of a process is planned there. The file that it is tried
with stays, so that all but the first trial are one request, which an honest store refuses.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.outages import patiently
from airflow_llm_batch.storage import create, is_local, storage_path

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

log = logging.getLogger(__name__)

NAME = "_exclusive"
TEXT = b"Whether the store refuses to create this file once more is tried before jobs are planned. Leave it here.\n"
REQUIRED, WAIVED = "required", "waived"
#: the storages that this process has tried
tried: set[str] = set()


def check_exclusive(storage: str) -> None:
    """Try whether a storage creates exclusively, once per process. Local disks do.

    :param storage: object storage URI of the job directories.
    :raises ConfigurationError: where it does not, unless ``[llm_batch] exclusive_creation`` waives it.
    """
    wanted = choice()
    root = storage_path(storage)
    if storage in tried or is_local(root):
        return
    if not is_refused(root / NAME) and not is_refused(root / NAME):
        what = (
            f"The store of {storage} ignores preconditions: it let the same file be created twice. Retries and crashes "
            "pay nothing twice there, but two attempts of one task in the same instant (one that was taken for dead, "
            "and its retry) may both create a batch."
        )
        if wanted == REQUIRED:
            raise ConfigurationError(
                f"{what} Use a store that takes If-None-Match: * (S3, GCS and Azure do), or set [llm_batch] "
                f"exclusive_creation = {WAIVED} (AIRFLOW__LLM_BATCH__EXCLUSIVE_CREATION) where you see to it that two "
                "attempts never run at once. Nothing was sent."
            )
        log.warning("%s [llm_batch] exclusive_creation = %s: the job is sent all the same.", what, WAIVED)
    tried.add(storage)


def choice() -> str:
    """``[llm_batch] exclusive_creation``.

    :raises ConfigurationError: for a word that it does not know.
    """
    from airflow.providers.common.compat.sdk import conf

    given = str(conf.get("llm_batch", "exclusive_creation", fallback=REQUIRED) or REQUIRED).strip().lower()
    if given not in (REQUIRED, WAIVED):
        raise ConfigurationError(
            f"[llm_batch] exclusive_creation is {given!r}; give {REQUIRED} or {WAIVED}. Nothing was sent."
        )
    return given


def is_refused(path: ObjectStoragePath) -> bool:
    """Whether the store says that the file is there, and does not write it."""
    try:
        patiently(create, path, TEXT)
    except FileExistsError:
        return True
    return False
