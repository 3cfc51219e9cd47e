"""Whether a prompt's static part will be cached at all: told before anything is sent, since no vendor says a word."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_llm_batch.data.requests import RequestTemplate
    from airflow_llm_batch.estimate import Estimate
    from airflow_llm_batch.providers.base import Provider

log = logging.getLogger(__name__)

#: characters behind the first column that are worth a word
MANY = 400


def caching(request: RequestTemplate | None, provider: Provider, use: Mapping[str, Estimate]) -> Mapping[str, Estimate]:
    """The expected use with the static parts that can be cached, and a warning for each that cannot.

    :param use: by model, its static part as it is marked.
    """
    static = request.static() if request is not None else None
    if request is None or static is None:
        return use
    if static.behind > MANY:
        log.warning(
            "%s characters of the prompt are the same in every row and stand behind {%s}, where the rows begin to "
            "differ: there they are not cached. Put them before it, or into the system prompt.",
            f"{static.behind:,}", static.column,
        )  # fmt: skip
    looked = {}
    for model, estimate in use.items():
        least = provider.least_cached(model, request.called)
        looked[model] = estimate
        if least is not None and estimate.static >= least:
            continue
        looked[model] = estimate.model_copy(update={"static": 0})
        if least is None:
            lane = "calls" if request.called else "batches"
            log.warning(
                "cache has no effect: %s is not known to cache prompts of %s in %s.", provider.title, model, lane
            )
            continue
        log.warning(
            "cache has no effect for %s: about %s tokens are the same in every row, and nothing below %s is cached. "
            "Give it more that all rows share (instructions, examples, a schema) before the first column, or leave "
            "cache out.",
            model, f"{estimate.static:,}", f"{least:,}",
        )  # fmt: skip
    return looked
