"""A shard's way to where the vendor reads it: uploaded, copied, left where it lies, or sent inside the create."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.storage import storage_path, whole_file

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.directory.attempts import Attempts
    from airflow_llm_batch.jobs.directory.store import JobStore
    from airflow_llm_batch.jobs.submission.summed import Summed
    from airflow_llm_batch.models import Shard


def stage(store: JobStore, hook: LLMBatchHook, shard: Shard, content: Summed, seen: Attempts) -> str | None:
    """The reference that a create names, recorded before it is used; None where the requests travel inside it.

    :param seen: the shard's tries when the wave began.
    :raises ConfigurationError: when the shard's file is not what was planned, or there is no place for it.
    """
    # An upload that was made since is made once more, which costs nothing.
    if ref := seen.uploaded():
        return ref
    name, own = f"{shard.key}.jsonl", str(store.requests(shard.index, shard.token))
    place = hook.provider.place(name, own)
    if place is None:
        ref = hook.run(hook.provider.upload(name, content))
    elif place != own:
        with whole_file(storage_path(place)) as file:
            for chunk in content:
                file.write(chunk)
    if ref is None and place in (None, own):
        # The requests are sent inside the create, or read by the vendor: too late then to look at them.
        for _ in content:
            pass
    if content.crc32 != shard.crc32:
        raise ConfigurationError(
            f"{own} is not what was planned (CRC-32 differs). No batch was made of it and nothing billed. Remove the "
            "job directory to plan anew."
        )
    ref = ref or place
    if ref is not None:
        store.attempts(shard.index).save_uploaded(ref)
    return ref
