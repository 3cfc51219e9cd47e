"""Result lines as they come from a vendor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from airflow_llm_batch.bounded import split_lines
from airflow_llm_batch.providers.json_lines import UNREADABLE, parse_line

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.models import Batch
    from airflow_llm_batch.providers.bodies import Source

#: how many lines are looked at to tell whose batch it is
LOOK_AT = 100


def batch_lines(hook: LLMBatchHook, batch: Batch) -> Iterator[bytes]:
    """Every non-empty result line of a batch, errors included, but without the key that some vendors quote in one."""
    yield from map(hook.transport.clean_line, lines_of(hook, hook.provider.results(batch)))


def lines_of(hook: LLMBatchHook, sources: Iterable[Source]) -> Iterator[bytes]:
    """Every non-empty line of some sources."""
    for source in sources:
        for chunks in hook.bodies(source):
            yield from (line for line in split_lines(chunks) if line and not line.isspace())


def shows_ids(hook: LLMBatchHook, batch: Batch, is_ours: Callable[[str], bool]) -> bool | None:
    """Whether a batch's results carry ids of ours; None when it has no results that could tell."""
    ours = None
    for line in islice(batch_lines(hook, batch), LOOK_AT):
        try:
            ours = is_ours(hook.provider.id_of(parse_line(line)))
        except UNREADABLE:
            continue
        if ours:
            return True
    return ours
