"""Usage to dollars, from genai-prices in its batch context. An unknown price is None, never 0."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from airflow_llm_batch.models import Result

MILLION = Decimal(1_000_000)


class Cost(NamedTuple):
    """Dollars as batched, and as the same work costs outside of batches."""

    batch: Decimal
    sync: Decimal


PriceOf = Callable[[Result], Cost | None]


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
            return None if result.status in ("succeeded", "truncated", "missing") else Cost(Decimal(0), Decimal(0))
        name = result.model or model
        if name not in self.models:
            self.models[name] = self._price_of(name) or self._price_of(model) or (lambda result: None)
        return self.models[name](result)

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
            return Cost(batch if batch != sync or self.factor is None else sync * self.factor, sync)

        probe = {
            kind: Result("", "succeeded", input_tokens=0, output_tokens=0)
            for kind in ("input", "cached", "write", "output")
        }
        probe["input"].input_tokens = probe["cached"].input_tokens = probe["write"].input_tokens = 1000
        probe["cached"].cached_tokens = probe["write"].cache_write_tokens = probe["output"].output_tokens = 1000
        try:
            price = calc_price(usage(probe["input"]), model, provider_id=self.provider).model_price
            rates = {kind: calculate(result) for kind, result in probe.items()}
        except LookupError:
            return None
        if any(getattr(value, "tiers", None) for value in vars(price).values()):
            return calculate
        return linear({kind: Cost(rate.batch / 1000, rate.sync / 1000) for kind, rate in rates.items()})


def linear(rates: dict[str, Cost]) -> PriceOf:
    """The price function of a model whose tokens cost the same however many there are; ten times as fast."""

    def price(result: Result) -> Cost:
        cached, written = result.cached_tokens or 0, result.cache_write_tokens or 0
        amounts = (
            ("input", (result.input_tokens or 0) - cached - written),
            ("cached", cached),
            ("write", written),
            ("output", result.output_tokens or 0),
        )
        return Cost(
            sum((rates[kind].batch * n for kind, n in amounts if n), Decimal(0)),
            sum((rates[kind].sync * n for kind, n in amounts if n), Decimal(0)),
        )

    return price
