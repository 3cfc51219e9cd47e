"""Flex: calls at a lower price, which take minutes, and are turned away while there is no room."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_llm_batch.jobs.money.budget import estimated_cost

if TYPE_CHECKING:
    import httpx

    from airflow_llm_batch.hooks import LLMBatchHook
    from airflow_llm_batch.jobs.online.endpoint import Calls
    from airflow_llm_batch.jobs.run import JobRun
    from airflow_llm_batch.models import Job
    from airflow_llm_batch.providers.base import Provider
    from airflow_llm_batch.providers.bodies import Call

log = logging.getLogger(__name__)
#: seconds that a call may take: Gemini aims at "1-15 min", OpenAI and Azure recommend a timeout of 15 minutes
CALL_TAKES = 900.0
#: seconds in which flex has had no room, and has answered nothing, after which the rest is called at the full price,
#: where nobody has asked for flex
PATIENCE = 300.0
#: what a request calls the tier that it asks for
TIER = re.compile(r"service_?tier", re.IGNORECASE)


def check(provider: Provider, job: Job) -> None:
    """:raises ConfigurationError: where a job's calls cannot be made at flex."""
    for shard in job.shards:
        provider.check_flex(shard.endpoint, shard.model)


def saves(hook: LLMBatchHook, job: Job) -> bool:
    """Whether flex is known to take all of a job's calls and to cost less, and the request names no tier itself."""
    provider = hook.provider
    known = all(provider.takes_flex(shard.endpoint, shard.model) for shard in job.shards)
    chosen = TIER.search(json.dumps(job.request, default=str))
    return known and provider.flex_discount is not None and chosen is None


def at_less(hook: LLMBatchHook, job: Job, calls: Calls) -> Calls:
    """The calls, at flex where that saves; back at the full price where flex has no room for long."""
    if not saves(hook, job):
        return calls
    return replace(calls, lane="flex", timeout=max(calls.timeout, CALL_TAKES), fallback=PATIENCE)


def leaves_time(rows: int, concurrency: int, allowed: float | None) -> bool:
    """Whether a deadline has time for all calls at flex, when each takes as long as it may.

    :param concurrency: calls at once.
    :param allowed: seconds, None for any time.
    """
    return allowed is None or allowed >= -(-rows // concurrency) * CALL_TAKES


def affords_more(runs: Sequence[JobRun]) -> bool:
    """Whether ``max_cost`` lets jobs be called at the full price after all."""
    costs = [estimated_cost(run.job, "online") for run in runs]
    limit = runs[0].choices.max_cost
    return limit is None or (None not in costs and sum(filter(None, costs)) <= limit)


class Tier:
    """The tier of one model's calls: flex, until it has had no room for too long where the full price was allowed.

    :param fallback: seconds; None to wait for flex as long as there is time.
    :ivar turned_away: answers that told of no room.
    """

    def __init__(
        self,
        provider: Provider,
        lane: str,
        fallback: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.provider, self.fallback, self.clock = provider, fallback, clock
        self.is_flex = lane == "flex"
        self.turned_away = 0
        self.full_since: float | None = None

    def of(self, call: Call) -> Call:
        """The call as it is to be made now."""
        return self.provider.flex_call(call) if self.is_flex else call

    def took(self) -> None:
        """A call was answered well."""
        self.full_since = None

    def turns_away(self, response: httpx.Response) -> bool:
        """Whether an answer to a flex call says that there is no room for it, which costs nothing."""
        if not self.provider.has_no_room(response):
            return False
        self.turned_away += 1
        if self.full_since is None:
            self.full_since = self.clock()
            log.info("%s has no room at flex now; what is turned away is not billed, and asked again.", self.name)
        if self.fallback is not None and self.clock() - self.full_since >= self.fallback:
            self.give_up("it has had no room for too long")
        return True

    def is_refused(self, response: httpx.Response) -> bool:
        """Whether an answer to a flex call refuses the tier, and the call is to be made at the full price instead."""
        if self.fallback is None or not self.provider.refuses_flex(response):
            return False
        self.give_up(self.provider.error_of(response)[1])
        return True

    def give_up(self, why: str) -> None:
        if self.is_flex:
            log.warning("Calling the rest at the full price, and not at flex of %s: %s", self.name, why)
        self.is_flex = False

    @property
    def name(self) -> str:
        return self.provider.title
