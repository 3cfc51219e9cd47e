"""The button that cancels a job."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import HTTPException

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.address import JobKey

log = logging.getLogger(__name__)


def cancel_job(key: JobKey, uri: str) -> str:
    """Cancel what runs of a job; the waiting task sees it end, and lands what was finished.

    :param uri: of its last round.
    :raises HTTPException: 403 when the job is not what its task has made; 409 when there is nothing to cancel, or not
        yet; 502 when it cannot be cancelled.
    """
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.waiting.wait import JobWait
    from airflow_llm_batch.plugin.authority import NotItsOwn, own_hook

    store = JobStore(uri)
    try:
        hook = own_hook(key, store.job())
        try:
            wait = JobWait(hook, store, log)
            # What has ended meanwhile is written down, and not cancelled.
            wait.look()
            planned, creating = len(wait.wait.planned), wait.wait.doubtful
            if not (wait.wait.pending or planned or creating):
                raise HTTPException(409, "Nothing of this job runs any more.")
            taken = wait.withdraw()
        finally:
            hook.close()
    except HTTPException:
        raise
    except NotItsOwn as error:
        raise HTTPException(403, str(error)) from None
    except Exception as error:
        raise HTTPException(502, f"The job could not be cancelled: {error}") from None
    done = [f"Cancellation of {wait.cancelled} batch(es) was asked for"] if wait.cancelled else []
    done += [f"{planned} that waited for room will not be sent"] if planned else []
    done += [f"{wait.uncertain} may be somebody else's and cannot be cancelled"] if wait.uncertain else []
    done += ["one is being created at this moment; cancel once more when it is there"] if creating else []
    if not taken:
        raise HTTPException(502, "; ".join([*done, "the vendor did not take every cancellation: try again"]) + ".")
    if not (wait.cancelled or planned):
        raise HTTPException(409, "; ".join(done).capitalize() + ".")
    return "; ".join(done) + ". Vendors take up to ten minutes; finished rows stay billed."
