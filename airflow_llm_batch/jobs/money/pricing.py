"""Usage to money, from genai-prices in its batch context. An unknown price is None, never 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from airflow_llm_batch.jobs.money.agreed import Negotiated, negotiated
from airflow_llm_batch.jobs.money.rates import (
    KINDS,
    MILLION,
    PICO,
    Listed,
    PriceOf,
    Rates,
    linear,
    picodollars,
    scaled,
    with_odd_tokens,
    with_searches,
    with_tools,
)
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook

#: answers that were paid for, however little is told of it
ANSWERED = frozenset({"succeeded", "truncated", "refused", "invalid", "missing"})
#: the word for calls in another queue at another price; any other tier costs what the list says
FLEX = "flex"
TIERS = frozenset({FLEX, "priority", "fast", "scale", "provisioned_throughput"})
DRAWN = ("image_output_tokens", "video_output_tokens")


class Cost(NamedTuple):
    """Picodollars: what was paid, what the same work costs in a batch, and outside of one, not at flex.

    The last two are None where the vendor tells what it has charged, and nobody has its list.
    """

    paid: int
    batched: int | None
    sync: int | None


NOTHING = Cost(0, 0, 0)


class Prices:
    """Prices of one provider's models, looked up once per model.

    :param provider: genai-prices' provider id.
    :param factor: batch price relative to the synchronous one, for models whose batch price the table does not have;
        None where the server is not known to give a discount, and what batches cost is not known therefore.
    :param agreed: prices that replace the table's.
    :param declared: the factor holds for every model, whatever the table says.
    :param model_of: the table's name of a model that a customer has given another.
    :param stacks: whether the discounts of a batch and of a cache stack for a model.
    :param flex: price of a flex call relative to other calls, for models whose flex price the table does not have; None
        where the server is not known to have one.
    :param share: what a model's tokens cost where they are asked for, relative to the list.
    """

    def __init__(
        self,
        provider: str,
        factor: str | None = None,
        agreed: Mapping[str, Negotiated] | None = None,
        *,
        declared: bool = False,
        model_of: Callable[[str], str] = str,
        stacks: Callable[[str], bool] = lambda model: True,
        flex: str | None = None,
        share: Callable[[str], str] = lambda model: "1",
    ) -> None:
        self.provider, self.declared, self.model_of, self.stacks = provider, declared, model_of, stacks
        self.share = share
        self.factor = Decimal(factor) if factor else None
        self.flex = Decimal(flex) if flex else None
        self.agreed = dict(agreed or {})
        self.models: dict[tuple[str, str], PriceOf] = {}

    @classmethod
    def of(cls, hook: LLMBatchHook) -> Prices:
        """The prices that hold on a connection."""
        provider, options = hook.provider, hook.options
        declared = options.batch_factor
        factor = provider.batch_discount if declared is None else str(declared)
        agreed = negotiated(options.prices)
        return cls(
            provider.price_id, factor, agreed,
            declared=declared is not None, model_of=provider.model_of, stacks=provider.discounts_stack,
            flex=provider.flex_discount, share=provider.price_share,
        )  # fmt: skip

    def cost(self, result: Result, model: str, called: bool = False) -> Cost | None:
        """What a row cost; zero only for a row the vendor reports no usage for and did not answer.

        :param result: its ``cost_usd`` is what the vendor says that it has charged, which no list knows better.
        :param model: the model asked for, used when the result names none.
        :param called: it was called, and not sent in a batch.
        """
        if result.cost_usd is not None:
            listed = self.cost(msgspec.structs.replace(result, cost_usd=None), model, called)
            if self._agreed_on(result.model or model, model) is not None:
                return listed
            paid = picodollars(result.cost_usd)
            return Cost(paid, None, None) if listed is None else listed._replace(paid=paid)
        if result.input_tokens is None:
            # A row the vendor lost may have been worked on; one that it refused without a token was not.
            free = result.status not in ANSWERED or (result.status == "refused" and result.output_tokens == 0)
            return NOTHING if free else None
        if not is_consistent(result):
            return None
        tier = result.service_tier if called and result.service_tier in TIERS else ""
        # What flex saves is told beside the price of other calls; any other tier was chosen for what it is.
        by_list = self._listed(result, model, "" if tier == FLEX else tier)
        if by_list is None or (by_list[0] is None and not called):
            return None
        batched, sync = by_list
        paid = sync if called or batched is None else batched
        if tier == FLEX:
            flex = self._listed(result, model, FLEX)
            if flex is None:
                return None
            paid = flex[1]
        return Cost(paid, sync if batched is None else batched, sync)

    def expected(self, result: Result, model: str, called: bool = False) -> Cost | None:
        """As ``cost``, before there is an answer: of a model that draws it is a picture, which costs far more."""
        written = self.cost(result, model, called)
        drawn = [
            self.cost(msgspec.structs.replace(result, tool_uses={name: result.output_tokens or 0}), model, called)
            for name in DRAWN
        ]
        return written and max([written, *filter(None, drawn)])

    def window(self, model: str) -> int:
        """Tokens that the table says a model takes in one request, 0 where it does not say."""
        from genai_prices import data_snapshot

        try:
            _, found = data_snapshot.get_snapshot().find_provider_model(self.model_of(model), None, self.provider, None)
        except LookupError:
            return 0
        return found.context_window or 0

    def _listed(self, result: Result, model: str, tier: str) -> Listed | None:
        """What a row costs by the list, or by what was agreed on."""
        name = result.model or model
        price = self.models.get((name, tier))
        if price is None:
            price = self.models[name, tier] = self._find(name, model, tier)
        return price(result)

    def _agreed_on(self, name: str, model: str) -> Negotiated | None:
        """:param name: the model that answered, ``model`` the one that was asked."""
        return self.agreed.get(name) or self.agreed.get(model) or self.agreed.get("*")

    def _find(self, name: str, model: str, tier: str) -> PriceOf:
        agreed = self._agreed_on(name, model)
        listed = self._price_of(self.model_of(name), tier) or self._price_of(self.model_of(model), tier)
        if agreed is not None and agreed.factor is None:
            tokens = linear(agreed.rates(self.factor, self.stacks(model)))
            share = self.flex if tier == FLEX else None
            return with_tools(tokens if share is None else scaled(tokens, share), listed)
        if listed is None:
            return lambda result: None
        return listed if agreed is None else scaled(listed, agreed.factor or Decimal(0))

    def _price_of(self, model: str, tier: str) -> PriceOf | None:
        """The list price of a model; None for one that the table does not have, or not in this tier."""
        from genai_prices import Usage, calc_price

        try:
            price = calc_price(Usage(input_tokens=1), model, provider_id=self.provider).model_price
            variants = variants_of(self.provider, model)
        except LookupError:
            return None
        # The table tells tiers apart by their service_tier, Anthropic's fast one by its speed.
        context = next((when for when in variants if tier and tier in when.values()), None)
        if tier and context is None and (tier != FLEX or self.flex is None):
            return None
        share = self.flex if tier and context is None else None
        has_batch_price = any(when.get("processing") == "batch" for when in variants) and not self.declared
        sync_context, stacks = dict(context or {}), self.stacks(model)

        def calculate(result: Result) -> Listed:
            used = usage(result)
            sync = calc_price(used, model, provider_id=self.provider, price_context=sync_context).total_price
            sync *= share or 1
            if self.factor is None:
                return None, round(sync * PICO)
            if has_batch_price:
                context = {"processing": "batch"}
                batch = calc_price(used, model, provider_id=self.provider, price_context=context).total_price
            else:
                batch = sync * self.factor
            if not stacks and used.cache_read_tokens:
                batch += self._lost_discount(used, model, has_batch_price)
            return round(batch * PICO), round(sync * PICO)

        def probe(read: int = 0, cached: int = 0, written: int = 0, hour: int = 0, output: int = 0) -> Listed:
            used = Result(input_tokens=read, output_tokens=output)
            used.cached_tokens, used.cache_write_tokens, used.cache_write_1h_tokens = cached, written, hour
            return calculate(used)

        rates = Rates(
            probe(MILLION), probe(MILLION, cached=MILLION), probe(MILLION, written=MILLION),
            probe(MILLION, written=MILLION, hour=MILLION), probe(output=MILLION),
        )  # fmt: skip
        searches = calc_price(Usage(web_searches=1000), model, provider_id=self.provider).total_price
        tiered = any(getattr(value, "tiers", None) for value in vars(price).values())
        usual = calculate if tiered else linear(rates)
        priced = {name for name, (_, rate) in KINDS.items() if getattr(price, rate, None) is not None}
        tokens = with_odd_tokens(usual, calculate, priced)
        share_here = Decimal(self.share(model))
        return with_searches(tokens if share_here == 1 else scaled(tokens, share_here), round(searches * PICO))

    def _lost_discount(self, used: Any, model: str, has_batch_price: bool) -> Decimal:
        """What a batch's cached tokens cost more than its discount would have them cost: as much as outside of it."""
        from genai_prices import Usage, calc_price

        # All of the prompt, since its length decides on the tier.
        whole = Usage(input_tokens=used.input_tokens, cache_read_tokens=used.input_tokens)
        sync = calc_price(whole, model, provider_id=self.provider).total_price
        context = {"processing": "batch"}
        batch = sync * (self.factor or 1)
        if has_batch_price:
            batch = calc_price(whole, model, provider_id=self.provider, price_context=context).total_price
        return Decimal((sync - batch) * used.cache_read_tokens / used.input_tokens)


def usage(result: Result) -> Any:
    """What a row used, in the table's words; tools of the vendor's are counted apart."""
    from genai_prices import Usage

    used = result.tool_uses or {}
    return Usage(
        input_tokens=result.input_tokens,
        cache_read_tokens=result.cached_tokens or 0,
        cache_write_tokens=result.cache_write_tokens or 0,
        cache_write_1h_tokens=result.cache_write_1h_tokens or 0,
        output_tokens=result.output_tokens or 0,
        **{counted: used[name] for name, (counted, _) in KINDS.items() if name in used},
    )


def variants_of(provider: str, model: str) -> list[Mapping[str, Any]]:
    """When a model has other prices than the usual ones, today: in batches, in other tiers.

    :raises LookupError: for a model that the table does not have.
    """
    from genai_prices import data_snapshot

    now = datetime.now(UTC)
    whose, found = data_snapshot.get_snapshot().find_provider_model(model, None, provider, None)
    if not any(found is own for own in whose.models):
        # The table lends Azure the prices of OpenAI's models, and not what OpenAI does with them.
        return []
    return [v.when for v in found.price_variants or () if v.constraint is None or v.constraint.active(now)]


def is_consistent(result: Result) -> bool:
    """Whether token counts can be what they say: gateways have been seen to report more cached tokens than tokens."""
    read, wrote, hour = result.cached_tokens or 0, result.cache_write_tokens or 0, result.cache_write_1h_tokens or 0
    asked, answered = result.input_tokens or 0, result.output_tokens or 0
    return read >= 0 and 0 <= hour <= wrote and read + wrote <= asked and answered >= 0
