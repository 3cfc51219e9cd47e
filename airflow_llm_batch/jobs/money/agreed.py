"""Prices that a customer has agreed on with a vendor, as a connection's ``prices`` has them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.money.rates import PICO, Listed, Rates


class Negotiated(BaseModel):
    """A model's price as a customer has agreed on it: rates of one's own, or a share of the list price.

    :param input: dollars for a million prompt tokens outside of batches; likewise ``cached`` (read from a cache),
        ``cache_write`` (both as ``input`` by default), ``cache_write_1h`` (as ``cache_write``) and ``output``.
    :param batch_factor: what a batch costs relative to that; the vendor's usual discount by default.
    :param factor: share of the list price instead of rates, 0.9 for ten percent off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    output: Decimal | None = None
    batch_factor: Decimal | None = Field(None, le=1)
    factor: Decimal | None = None

    def rates(self, usual: Decimal | None, stacks: bool = True) -> Rates:
        """:param usual: the vendor's batch factor; ``stacks``: it holds for a cached rate too."""
        factor = self.batch_factor if self.batch_factor is not None else usual if usual is not None else Decimal(1)

        def million(*rates: Decimal | None) -> Listed:
            sync = next((rate for rate in rates if rate is not None), self.input or Decimal(0)) * PICO
            return round(sync * factor), round(sync)

        cached = million(self.cached)
        if not stacks and self.cached is not None:
            cached = cached[1], cached[1]
        written = million(self.cache_write)
        hour = million(self.cache_write_1h, self.cache_write)
        return Rates(million(self.input), cached, written, hour, million(self.output))


def negotiated(given: Any) -> dict[str, Negotiated]:
    """A connection's ``prices``: model name, or ``*`` for every other model, to its price.

    :raises ConfigurationError: for anything that is not a price.
    """
    given = given or {}
    prices = {}
    for model, price in given.items() if isinstance(given, Mapping) else [("prices", given)]:
        try:
            prices[model] = Negotiated.model_validate(price)
            rates = (prices[model].input, prices[model].output)
            if (prices[model].factor is None) == (None in rates) or any(v < 0 for _, v in prices[model] if v):
                raise ValueError("give input and output in dollars per million tokens, or factor; none below 0")
        except (ValidationError, ValueError) as error:
            errors = error.errors() if isinstance(error, ValidationError) else []
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors) or str(error)
            raise ConfigurationError(
                f"The connection's extra 'prices' is not usable for {model!r}: {problems}. Example: "
                '{"gpt-5-mini": {"input": 0.25, "output": 2.0}, "*": {"factor": 0.9}}. Nothing was sent.'
            ) from None
    return prices
