"""Result lines as they come from a vendor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from airflow_llm_batch.bounded import line_blocks
from airflow_llm_batch.exceptions import RequestRejected
from airflow_llm_batch.providers.json_lines import UNREADABLE, parse_line

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.models import Batch
    from airflow_llm_batch.providers.bodies import Source

#: how many lines are looked at to tell whose batch it is
LOOK_AT = 100


def batch_lines(hook: LLMBatchHook, batch: Batch) -> Iterator[bytes]:
    """Every non-empty result line of a batch, errors included, but without the key that some vendors quote in one."""
    transport = hook.transport
    for lines in blocks_of(hook, hook.provider.results(batch)):
        # Looked through together: next to no line quotes a key.
        if transport.redactor.is_in(b"\n".join(lines)):
            lines = map(transport.clean_line, lines)
        yield from filter(bytes.strip, lines)


def lines_of(hook: LLMBatchHook, sources: Iterable[Source]) -> Iterator[bytes]:
    """Every non-empty line of some sources."""
    for lines in blocks_of(hook, sources):
        yield from filter(bytes.strip, lines)


def blocks_of(hook: LLMBatchHook, sources: Iterable[Source]) -> Iterator[Iterable[bytes]]:
    """The lines of some sources as they come, empty ones too.

    :raises RequestRejected: for a source that is not there, when all others are read: servers name files of errors that
        they never write, and the answers lie in another.
    """
    missing = None
    for source in sources:
        try:
            for chunks in hook.bodies(source):
                yield from line_blocks(chunks)
        except RequestRejected as error:
            if not error.is_missing:
                raise
            missing = error
    if missing is not None:
        raise missing


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
