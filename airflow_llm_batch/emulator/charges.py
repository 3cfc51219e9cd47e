"""What an answer costs where its vendor tells: by rates of the emulator's own, which no price list has."""

from __future__ import annotations

from typing import Any, NamedTuple

#: dollars of a million tokens
ASKED, ANSWERED = 0.3, 2.5


class Charge(NamedTuple):
    """Dollars, for the prompt and for the answer."""

    asked: float
    answered: float

    @property
    def total(self) -> float:
        return self.asked + self.answered


def charge(usage: dict[str, Any], share: float) -> Charge:
    """:param share: what is paid of a call's price, less than 1 in batches."""
    asked = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    answered = usage.get("completion_tokens", usage.get("output_tokens", 0))
    return Charge(asked * ASKED * share / 1e6, answered * ANSWERED * share / 1e6)
