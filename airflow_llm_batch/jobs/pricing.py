"""Usage to money, from genai-prices in its batch context. An unknown price is None, never 0.

Money is counted in whole picodollars (1e-12 $): exact like a decimal, and as fast as an integer. The cheapest token of
any vendor costs thousands of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.models import Result

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook

PICO = 10**12
MILLION = 10**6

#: picodollars as batched, and as the same work costs outside of batches
Cost = tuple[int, int]
NOTHING: Cost = (0, 0)
PriceOf = Callable[[Result], Cost | None]


def dollars(pico: int) -> float:
    return pico / PICO


def picodollars(usd: float | None) -> int:
    return round((usd or 0) * PICO)


class Negotiated(BaseModel):
    """A model's price as a customer has agreed on it: rates of one's own, or a share of the list price.

    :param input: dollars for a million prompt tokens outside of batches; likewise ``cached`` (read from a cache),
        ``cache_write`` (both as ``input`` by default) and ``output``.
    :param batch_factor: what a batch costs relative to that; the vendor's usual discount by default.
    :param factor: share of the list price instead of rates, 0.9 for ten percent off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None
    batch_factor: Decimal | None = None
    factor: Decimal | None = None

    def rates(self, usual: Decimal | None) -> Rates:
        """:param usual: the vendor's batch factor."""
        factor = self.batch_factor if self.batch_factor is not None else usual if usual is not None else Decimal(1)

        def million(rate: Decimal | None) -> Cost:
            sync = (rate if rate is not None else self.input or Decimal(0)) * PICO
            return round(sync * factor), round(sync)

        return Rates(million(self.input), million(self.cached), million(self.cache_write), million(self.output))


def negotiated(extra: Mapping[str, Any]) -> dict[str, Negotiated]:
    """A connection's ``prices``: model name, or ``*`` for every other model, to its price.

    :raises ConfigurationError: for anything that is not a price.
    """
    given = extra.get("prices") or {}
    prices = {}
    for model, price in given.items() if isinstance(given, Mapping) else [("prices", given)]:
        try:
            prices[model] = Negotiated.model_validate(price)
            rates = (prices[model].input, prices[model].output)
            if (prices[model].factor is None) == (None in rates) or any(v < 0 for _, v in prices[model] if v):
                raise ValueError("give input and output in dollars per million tokens, or factor; none below 0")
        except (ValidationError, ValueError) as error:
            errors = error.errors() if isinstance(error, ValidationError) else []
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in errors) or str(error)
            raise ConfigurationError(
                f"The connection's extra 'prices' is not usable for {model!r}: {told}. Example: "
                '{"gpt-5-mini": {"input": 0.25, "output": 2.0}, "*": {"factor": 0.9}}. Nothing was sent.'
            ) from None
    return prices


class Prices:
    """Prices of one provider's models, looked up once per model.

    :param provider: genai-prices' provider id.
    :param factor: batch price relative to the synchronous one, for models whose batch price the table does not have.
    :param agreed: prices that replace the table's.
    """

    def __init__(
        self, provider: str, factor: str | None = None, agreed: Mapping[str, Negotiated] | None = None
    ) -> None:
        self.provider = provider
        self.factor = Decimal(factor) if factor else None
        self.agreed = dict(agreed or {})
        self.models: dict[str, PriceOf] = {}

    @classmethod
    def of(cls, hook: LLMBatchHook) -> Prices:
        """The prices that hold on a connection."""
        return cls(hook.provider.name, hook.provider.batch_price_factor, negotiated(hook.connection.extra_dejson))

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
            price = self.models[name] = self._find(name, model)
        return price(result)

    def _find(self, name: str, model: str) -> PriceOf:
        """:param name: the model that answered, ``model`` the one that was asked."""
        agreed = self.agreed.get(name) or self.agreed.get(model) or self.agreed.get("*")
        if agreed is not None and agreed.factor is None:
            return linear(agreed.rates(self.factor))
        listed = self._price_of(name) or self._price_of(model) or (lambda result: None)
        return listed if agreed is None else scaled(listed, agreed.factor or Decimal(0))

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
            rates = Rates(
                probe(MILLION), probe(MILLION, cached=MILLION), probe(MILLION, written=MILLION), probe(output=MILLION)
            )
        except LookupError:
            return None
        tiered = any(getattr(value, "tiers", None) for value in vars(price).values())
        return calculate if tiered else linear(rates)


def scaled(price: PriceOf, factor: Decimal) -> PriceOf:
    def price_of(result: Result) -> Cost | None:
        cost = price(result)
        return cost and (round(cost[0] * factor), round(cost[1] * factor))

    return price_of


def is_consistent(result: Result) -> bool:
    """Whether token counts can be what they say: gateways have been seen to report more cached tokens than tokens."""
    read, wrote = result.cached_tokens or 0, result.cache_write_tokens or 0
    return min(read, wrote, result.output_tokens or 0, (result.input_tokens or 0) - read - wrote) >= 0


class Rates(NamedTuple):
    """What a million tokens of each kind cost; ``written`` to a cache, ``cached`` read from one."""

    fresh: Cost
    cached: Cost
    written: Cost
    output: Cost


def linear(rates: Rates) -> PriceOf:
    """The price function of a model whose tokens cost the same however many there are."""
    (fresh, sync_fresh), (cached, sync_cached), (written, sync_written), (output, sync_output) = rates

    def price(result: Result) -> Cost:
        read, wrote = result.cached_tokens or 0, result.cache_write_tokens or 0
        rest, out = (result.input_tokens or 0) - read - wrote, result.output_tokens or 0
        return (
            (rest * fresh + read * cached + wrote * written + out * output) // MILLION,
            (rest * sync_fresh + read * sync_cached + wrote * sync_written + out * sync_output) // MILLION,
        )

    return price
