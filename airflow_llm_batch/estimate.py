"""What requests are expected to use and to cost, in each lane."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Lane = Literal["batch", "flex", "online"]
#: the lanes of which no batch is made
CALLED = frozenset({"flex", "online"})


class Estimate(BaseModel):
    """What one model's requests are expected to use, made before anything is sent.

    :param input_tokens: of all prompts; ``basis`` tells how they were found.
    :param output_tokens: the sum of the requests' token caps, None when one of them has none.
    :param largest: prompt tokens of the largest request.
    :param window: tokens that the model takes in one request, 0 where that is not known.
    :param static: tokens of each prompt that are the same in all of them and to be cached, 0 for none; ``shards``, how
        often that part is written if it is read ever after.
    :param cache: how long prompts may be cached at the customer's wish: ``""``, ``5m`` or ``1h``.
    :param unknown: what the prompts hold that cannot be estimated, "" for nothing.
    :param cost_usd: batch price of both, at most; None when it, the prompt or the output is not known; likewise
        ``sync_cost_usd`` outside of batches, and ``flex_cost_usd`` at flex, where the vendor says what that costs.
    :param likely_usd: batch price of what is likely, with the static part read wherever it may be; None when it, the
        prompt or the output is not known; likewise ``sync_likely_usd`` outside of batches.
    :param likely_output_tokens: as rows that were answered let one expect, None while none was.
    :param tried: rows that were answered and have corrected the estimate; ``ratio``, prompt tokens they had for one
        that was expected of them.
    """

    requests: int
    input_tokens: int
    output_tokens: int | None
    largest: int = 0
    window: int = 0
    cache: str = ""
    unknown: str = ""
    cost_usd: float | None = None
    sync_cost_usd: float | None = None
    flex_cost_usd: float | None = None
    likely_usd: float | None = None
    sync_likely_usd: float | None = None
    likely_output_tokens: int | None = None
    tried: int = 0
    ratio: float = 1.0
    basis: str = ""
    static: int = 0
    shards: int = 1

    @property
    def is_too_long(self) -> bool:
        """Whether some request will be refused for its length."""
        return 0 < self.window < self.largest

    def cost(self, lane: str = "batch") -> float | None:
        """Dollars in a lane, at most. Where a flex price is not known, no discount is assumed."""
        if lane == "flex" and self.flex_cost_usd is not None:
            return self.flex_cost_usd
        return self.sync_cost_usd if lane in CALLED else self.cost_usd
