"""What a run that is stopped leaves at the vendor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_llm_batch.console.places import PROGRAM
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.models import is_call

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.run import JobRun


def left_behind(run: JobRun, name: str, storage: str | None) -> Iterator[str]:
    """Lines that say what still runs, and what can be done about it."""
    at = f" --storage {storage}" if storage else ""
    rounds = history.rounds(run.store)
    if not rounds:
        yield "Stopped while the rows were read. Nothing was sent."
        return
    # A further round may have been sent before it was this run's.
    store, job = rounds[-1]
    listing = store.listing()
    states = listing.states(job)
    made = {index: listing.attempts(index).created() for index, state in states.items() if state != "planned"}
    called = {index for index, created in made.items() if created is not None and is_call(created.batch_id)}
    running = [index for index in made if states[index] in ("running", "creating") and index not in called]
    batches = [created.batch_id for index in running if (created := made[index]) is not None]
    rows = sum(shard.rows for shard in job.shards if shard.index in running)
    if running:
        ids = ", ".join(batches[:10]) + (f" and {len(batches) - 10} more" if len(batches) > 10 else "")
        yield (
            f"Stopped watching. Still running at {job.provider}: {rows:,} rows in {len(running)} batch(es)"
            f"{f' ({ids})' if ids else ''}, billed for what they finish."
        )
        yield f"Cancel them: {PROGRAM} cancel {name}{at}"
    elif set(states.values()) == {"planned"}:
        yield "Stopped. Nothing runs at the vendor."
    else:
        yield "Stopped. Nothing runs at the vendor; what it has answered is kept."
    yield f"Go on: run the same again. Look: {PROGRAM} show {name}{at}"
