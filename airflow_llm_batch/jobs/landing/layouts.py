"""What a destination is told of a job: what its records look like, whose they are, and, before it is sent, its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from airflow_llm_batch.data.sinks import Layout
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.rows import Entry
from airflow_llm_batch.jobs.planning.keys import UniqueKeys
from airflow_llm_batch.storage import open_fact

if TYPE_CHECKING:
    from airflow_llm_batch.data.destinations import Destination
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.models import Job


def layout_of(job: Job) -> Layout:
    return Layout(job.output_schema, job.key_kind, job.columns, job.several_vectors, answers_of(job))


def answers_of(job: Job) -> tuple[str, ...]:
    """The fields, beside ``output``, where answers to a job's requests are."""
    asked = job.request or {}
    kind, params = asked.get("type"), asked.get("params") or {}
    if kind == "EmbeddingRequest":
        return ("embedding",)
    if kind == "ChatRequest":
        several = params.get("n") not in (None, 1)
        return ("text", *(["tool_calls"] if "tools" in params else []), *(["choices"] if several else []))
    return ("text", "tool_calls", "embedding")


def owner_of(store: JobStore, job: Job) -> str:
    """Whose records a landing's are: the job that its rounds and repairs, and those of changed input, began with."""
    first = history.chain(store)[0][0] if job.repairs is not None else store
    return owner_at(first)


def owner_at(store: JobStore) -> str:
    """The same of a job that repairs none: ``dag/run/task/-1``, and the model where there are several."""
    return "/".join(replace(store.address, generation=1, round=1).key)


def check_rows(store: JobStore, job: Job, destination: Destination, *, make: bool) -> None:
    """Before a job is sent: its destination can hold it, and each of its rows.

    :param make: make what is missing there.
    :raises NothingBilled: names what is wrong, or the first row that does not fit.
    """
    planned = destination.prepare(layout_of(job), make=make)
    if planned is None:
        return
    decode = msgspec.json.Decoder(Entry).decode
    with UniqueKeys(planned.name) as keys:
        for shard in job.shards:
            with open_fact(store.rows(shard.index, shard.token)) as lines:
                for entry in map(decode, lines):
                    key = planned.key(entry.row, entry.key, entry.columns)
                    if planned.keys:
                        keys.add(key, entry.row)
        keys.finish()
