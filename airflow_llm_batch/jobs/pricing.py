"""Usage to money, from genai-prices in its batch context. An unknown price is None, never 0.

Money is counted in whole picodollars (1e-12 $): exact like a decimal, and as fast as an integer. The cheapest token of
any vendor costs thousands of them.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from airflow_llm_batch.models import Result

PICO = 10**12


#: picodollars as batched, and as the same work costs outside of batches
Cost = tuple[int, int]
NOTHING: Cost = (0, 0)
PriceOf = Callable[[Result], Cost | None]


def dollars(picodollars: int) -> float:
    return picodollars / PICO


class Prices:
    """Prices of one provider's models, looked up once per model.

    :param provider: genai-prices' provider id.
    :param factor: batch price relative to the synchronous one, for models whose batch price the table does not have.
    """

    def __init__(self, provider: str, factor: str | None = None) -> None:
        self.provider = provider
        self.factor = Decimal(factor) if factor else None
        self.models: dict[str, PriceOf] = {}

    def cost(self, result: Result, model: str) -> Cost | None:
        """What a row cost; zero only for a row the vendor reports no usage for and did not answer.

        :param model: the model asked for, used when the result names none.
        """
        if result.input_tokens is None:
            # A row the vendor lost may have been worked on.
            return None if result.status in ("succeeded", "truncated", "missing") else NOTHING
        if not is_consistent(result):
            return None
        name = result.model or model
        price = self.models.get(name)
        if price is None:
            price = self.models[name] = self._price_of(name) or self._price_of(model) or (lambda result: None)
        return price(result)

    def _price_of(self, model: str) -> PriceOf | None:
        from genai_prices import calc_price
        from genai_prices.types import Usage

        def usage(result: Result) -> Any:
            return Usage(
                input_tokens=result.input_tokens,
                cache_read_tokens=result.cached_tokens or 0,
                cache_write_tokens=result.cache_write_tokens or 0,
                output_tokens=result.output_tokens or 0,
            )

        def calculate(result: Result) -> Cost:
            used = usage(result)
            sync = calc_price(used, model, provider_id=self.provider).total_price
            batch = calc_price(
                used, model, provider_id=self.provider, price_context={"processing": "batch"}
            ).total_price
            if batch == sync and self.factor is not None:
                batch = sync * self.factor
            return round(batch * PICO), round(sync * PICO)

        def probe(read: int = 0, cached: int = 0, written: int = 0, output: int = 0) -> Cost:
            used = Result(input_tokens=read, output_tokens=output)
            used.cached_tokens, used.cache_write_tokens = cached, written
            return calculate(used)

        try:
            price = calc_price(Usage(input_tokens=1), model, provider_id=self.provider).model_price
            rates = Rates(probe(1000), probe(1000, cached=1000), probe(1000, written=1000), probe(output=1000))
        except LookupError:
            return None
        tiered = any(getattr(value, "tiers", None) for value in vars(price).values())
        return calculate if tiered else linear(rates)


def is_consistent(result: Result) -> bool:
    """Whether token counts can be what they say: gateways have been seen to report more cached tokens than tokens."""
    read, wrote = result.cached_tokens or 0, result.cache_write_tokens or 0
    return min(read, wrote, result.output_tokens or 0, (result.input_tokens or 0) - read - wrote) >= 0


class Rates(NamedTuple):
    """What a thousand tokens of each kind cost; ``written`` to a cache, ``cached`` read from one."""

    fresh: Cost
    cached: Cost
    written: Cost
    output: Cost


def linear(rates: Rates) -> PriceOf:
    """The price function of a model whose tokens cost the same however many there are."""
    per_token = [(batch // 1000, sync // 1000) for batch, sync in rates]
    (fresh, sync_fresh), (cached, sync_cached), (written, sync_written), (output, sync_output) = per_token

    def price(result: Result) -> Cost:
        read, wrote = result.cached_tokens or 0, result.cache_write_tokens or 0
        rest, out = (result.input_tokens or 0) - read - wrote, result.output_tokens or 0
        return (
            rest * fresh + read * cached + wrote * written + out * output,
            rest * sync_fresh + read * sync_cached + wrote * sync_written + out * sync_output,
        )

    return price
