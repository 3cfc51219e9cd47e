"""The files of an answer cache, tidied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.data.answer_cache import AnswerCache
from airflow_llm_batch.exceptions import ConfigurationError, plainly
from airflow_llm_batch.operators.rendering import RendersArguments

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class CompactAnswersOperator(RendersArguments):
    """Makes the many files that jobs have added to an answer cache into few, by what their hashes begin with, and
    leaves out what is older than its ``max_age``, what was bought again since, and what is above its ``max_bytes``.

    Jobs may use the cache meanwhile. Needs room for one file (about 128 MB) below ``TMPDIR``.

    :param cache: an ``AnswerCache``, or its URI.
    :return: ``{"before": files, "after": files, "answers": n, "bytes": n}``.
    """

    template_fields: Sequence[str] = ("cache",)
    ui_color = "#e6e6e6"

    def __init__(self, *, cache: AnswerCache | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cache = cache

    @plainly
    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_llm_batch.jobs.reuse.answers import AnswerFiles
        from airflow_llm_batch.jobs.reuse.compaction import compact

        cache = AnswerCache.of(self.cache)
        if cache is None:
            raise ConfigurationError("cache is empty; give the URI of an answer cache.")
        done = compact(AnswerFiles(cache), datetime.now(UTC))
        self.log.info(
            "%s files were made into %s: %s answers, %s bytes, at %s.",
            f"{done.before:,}", f"{done.after:,}", f"{done.answers:,}", f"{done.bytes:,}", cache.uri,
        )  # fmt: skip
        return done._asdict()
