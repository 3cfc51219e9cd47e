"""Calls that ask for flex: which models take it, when there is no room, and at which tier a call was served.

Source: OpenAI's guide to flex processing, its price list of flex, and its error codes ("Invalid service_tier
argument"); Azure's how-to (flex processing, preview); ai.google.dev (flex inference, preview; UsageMetadata).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.emulator.batches import Vendor

FLEX = "flex"


def listed(names: str) -> frozenset[str]:
    return frozenset(names.split())


#: the models that take it, by dialect
MODELS: Mapping[str, frozenset[str]] = {
    "openai": listed(
        "o3 o4-mini gpt-5 gpt-5-mini gpt-5-nano gpt-5.1 gpt-5.2 gpt-5.4 gpt-5.4-mini gpt-5.4-nano gpt-5.4-pro gpt-5.5"
        " gpt-5.5-pro gpt-5.6-luna gpt-5.6-sol gpt-5.6-terra gpt-6-astra gpt-6-luna gpt-6-sol gpt-6.1-sol gpt-6.1-terra"
    ),
    "azure": listed("gpt-5.6-sol gpt-5.6-luna gpt-5.6-terra gpt-6-astra"),
    "gemini": listed(
        "gemini-3.8-flash gemini-3.7-flash gemini-3.6-flash gemini-3.5-flash-lite gemini-3.5-flash"
        " gemini-3.1-flash-lite gemini-3.1-pro-preview gemini-3-flash-preview gemini-2.5-pro gemini-2.5-flash"
        " gemini-2.5-flash-lite"
    ),
}
DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Full(Exception):
    """There is no room at flex: the vendor's own status is to be told, unless the faults have another."""

    def __init__(self, status: int | None, retry_after: str | None) -> None:
        self.status = status
        self.headers = {"retry-after": retry_after} if retry_after else {}


class NotTaken(Exception):
    """The model does not take flex."""


def served(vendor: Vendor, dialect: str, model: str, asked: Any, standard: str) -> str:
    """The tier at which a call is served, which is counted: it is billed.

    :param asked: what the request says of the tier.
    :param standard: what the vendor calls its usual tier.
    :raises Full: and ``NotTaken``; nothing is billed.
    """
    tier, faults, counts = standard, vendor.settings.faults.flex, vendor.tiers
    if asked == FLEX:
        known = MODELS[dialect] if faults.models is None else faults.models
        if DATE.sub("", model) not in known:
            raise NotTaken
        counts["asked"] += 1
        if counts["asked"] <= faults.full or falls(counts["asked"] - faults.full, faults.share):
            counts["turned away"] += 1
            raise Full(faults.status, faults.retry_after)
        counts["taken"] += 1
        tier = standard if falls(counts["taken"], faults.standard) else FLEX
    elif isinstance(asked, str) and asked and asked not in ("auto", "default", "standard", "unspecified"):
        tier = asked
    counts[tier] += 1
    return tier


def falls(number: int, share: float) -> bool:
    """Whether the so-and-so-many-th is one of an evenly spread share."""
    return int(number * share) > int((number - 1) * share)
