"""The button that cancels a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import HTTPException

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.address import JobKey


def cancel_job(key: JobKey, uri: str) -> str:
    """Cancel what runs of a job; the waiting task sees it end, and lands what was finished.

    :param uri: of its last round.
    :raises HTTPException: 403 when the job is not what its task has made; 409 when there is nothing to cancel, or not
        yet; 502 when it cannot be cancelled.
    """
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.waiting.withdrawal import withdraw
    from airflow_llm_batch.plugin.authority import NotItsOwn, own_hook

    store = JobStore(uri)
    try:
        hook = own_hook(key, store.job())
        try:
            done = withdraw(store, hook)
        finally:
            hook.close()
    except NotItsOwn as error:
        raise HTTPException(403, str(error)) from None
    except Exception as error:
        raise HTTPException(502, f"The job could not be cancelled: {error}") from None
    if not done.taken:
        raise HTTPException(502, done.message)
    if not done.is_done:
        raise HTTPException(409, done.message)
    return done.message
