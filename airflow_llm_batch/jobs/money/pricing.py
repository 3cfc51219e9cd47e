"""Usage to money, from genai-prices in its batch context. An unknown price is None, never 0.

Money is counted in whole picodollars (1e-12 $): exact like a decimal, and as fast as an integer. The cheapest token of
any vendor costs thousands of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow_llm_batch.hooks import LLMBatchHook

PICO = 10**12
MILLION = 10**6

#: picodollars in a batch, None where the vendor is not known to give a discount, and outside of batches
Listed = tuple[int | None, int]
PriceOf = Callable[[Result], Listed | None]
#: answers that were paid for, however little is told of it
ANSWERED = frozenset({"succeeded", "truncated", "refused", "invalid", "missing"})
#: the word for calls in another queue at another price; any other tier costs what the list says
FLEX = "flex"
TIERS = frozenset({FLEX, "priority", "fast", "scale", "provisioned_throughput"})
#: tools of the vendor's whose use costs nothing beside tokens
FREE = frozenset({"web_fetch", "mcp", "computer", "local_shell", "shell", "apply_patch", "tool_search"})
SEARCH = "web_search"
#: kinds of tokens among those of input and output, what the table calls their number, and what it calls their price
KINDS = {
    f"{kind}_{way}_tokens": (f"{way}_{kind}_tokens", f"{way}_{kind}_mtok")
    for way in ("input", "output")
    for kind in ("audio", "image", "video")
}
DRAWN = ("image_output_tokens", "video_output_tokens")
#: where Anthropic computes at a tenth more, all kinds of tokens alike, in batches too, on every model that can be asked
#: for it (docs.claude.com, pricing: data residency pricing, Opus 4.6 and newer)
US, US_FACTOR = "us", Decimal("1.1")


class Cost(NamedTuple):
    """Picodollars: what was paid, what the same work costs in a batch, and outside of one, not at flex."""

    paid: int
    batched: int
    sync: int


NOTHING = Cost(0, 0, 0)


def dollars(pico: int) -> float:
    return pico / PICO


def picodollars(usd: float | None) -> int:
    return round((usd or 0) * PICO)


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

        :param model: the model asked for, used when the result names none.
        :param called: it was called, and not sent in a batch.
        """
        if result.input_tokens is None:
            # A row the vendor lost may have been worked on.
            return None if result.status in ANSWERED else NOTHING
        if not is_consistent(result):
            return None
        tier = result.service_tier if called and result.service_tier in TIERS else ""
        # What flex saves is told beside the price of other calls; any other tier was chosen for what it is.
        listed = self._listed(result, model, "" if tier == FLEX else tier)
        if listed is None or (listed[0] is None and not called):
            return None
        batched, sync = listed
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

    def _listed(self, result: Result, model: str, tier: str) -> Listed | None:
        """What a row costs by the list, or by what was agreed on."""
        name = result.model or model
        price = self.models.get((name, tier))
        if price is None:
            price = self.models[name, tier] = self._find(name, model, tier)
        return price(result)

    def _find(self, name: str, model: str, tier: str) -> PriceOf:
        """:param name: the model that answered, ``model`` the one that was asked."""
        agreed = self.agreed.get(name) or self.agreed.get(model) or self.agreed.get("*")
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


def with_odd_tokens(usual: PriceOf, exact: PriceOf, priced: Set[str]) -> PriceOf:
    """The price with tokens that cost other than text: sound, pictures, and those of an answer computed in the US.

    :param exact: the table's own reckoning, of every kind of token.
    :param priced: the kinds of tokens that the table has a price of.
    """

    def price_of(result: Result) -> Listed | None:
        if result.tool_uses is None and result.inference_geo != US:
            return usual(result)
        counted = {name: count for name, count in (result.tool_uses or {}).items() if name in KINDS}
        # None of a kind that has no price of its own need be counted: it is text, or a picture that code has drawn.
        odd = {name: count for name, count in counted.items() if count or name in priced}
        if not odd.keys() <= priced or any(count <= 0 for count in odd.values()):
            return None
        for way, whole in (("input", result.input_tokens or 0), ("output", result.output_tokens or 0)):
            if sum(count for name, count in odd.items() if f"_{way}_" in name) > whole:
                return None
        # Which of the cached tokens are of which kind is not told.
        if result.cached_tokens and any("_input_" in name for name in odd):
            return None
        price = exact if odd else usual
        return scaled(price, US_FACTOR)(result) if result.inference_geo == US else price(result)

    return price_of


def with_searches(price: PriceOf, thousand: int) -> PriceOf:
    """The price with web searches, which cost the same in batches.

    :param thousand: picodollars for so many, 0 where the table does not know.
    """

    def price_of(result: Result) -> Listed | None:
        listed = price(result)
        if not result.tool_uses or listed is None:
            return listed
        paid = {tool: uses for tool, uses in result.tool_uses.items() if tool not in FREE and tool not in KINDS}
        # Searches that nobody has counted have no known price.
        if paid.keys() - {SEARCH} or (paid and not (thousand and paid[SEARCH])):
            return None
        cost = paid.get(SEARCH, 0) * thousand // 1000
        return None if listed[0] is None else listed[0] + cost, listed[1] + cost

    return price_of


def with_tools(agreed: PriceOf, listed: PriceOf | None) -> PriceOf:
    """An agreed price of tokens, with tools at their list price."""

    def price_of(result: Result) -> Listed | None:
        price = agreed(result)
        if not result.tool_uses or price is None:
            return price
        if result.tool_uses.keys() & KINDS.keys():
            return None
        bare = msgspec.structs.replace(result, tool_uses=None)
        with_them, without = (listed(result), listed(bare)) if listed is not None else (None, None)
        if with_them is None or without is None:
            return None
        tools = with_them[1] - without[1]
        return None if price[0] is None else price[0] + tools, price[1] + tools

    return price_of


def scaled(price: PriceOf, factor: Decimal) -> PriceOf:
    def price_of(result: Result) -> Listed | None:
        cost = price(result)
        if cost is None:
            return None
        return None if cost[0] is None else round(cost[0] * factor), round(cost[1] * factor)

    return price_of


def is_consistent(result: Result) -> bool:
    """Whether token counts can be what they say: gateways have been seen to report more cached tokens than tokens."""
    read, wrote, hour = result.cached_tokens or 0, result.cache_write_tokens or 0, result.cache_write_1h_tokens or 0
    asked, answered = result.input_tokens or 0, result.output_tokens or 0
    return read >= 0 and 0 <= hour <= wrote and read + wrote <= asked and answered >= 0


class Rates(NamedTuple):
    """What a million tokens of each kind cost; ``cached`` read from a cache, ``written`` to one, ``hour`` to one that
    is kept for an hour."""

    fresh: Listed
    cached: Listed
    written: Listed
    hour: Listed
    output: Listed


def linear(rates: Rates) -> PriceOf:
    """The price function of a model whose tokens cost the same however many there are."""
    known = None not in [batch for batch, _ in rates]
    fresh, cached, written, hour, output = [(batch or 0, sync) for batch, sync in rates]

    def price_of(result: Result) -> Listed:
        rest, answered = result.input_tokens or 0, result.output_tokens or 0
        read, wrote = result.cached_tokens or 0, result.cache_write_tokens or 0
        batch, sync = answered * output[0], answered * output[1]
        if read or wrote:
            hours = result.cache_write_1h_tokens or 0
            rest -= read + wrote
            batch += read * cached[0] + (wrote - hours) * written[0] + hours * hour[0]
            sync += read * cached[1] + (wrote - hours) * written[1] + hours * hour[1]
        sync = (sync + rest * fresh[1]) // MILLION
        return ((batch + rest * fresh[0]) // MILLION if known else None), sync

    return price_of
