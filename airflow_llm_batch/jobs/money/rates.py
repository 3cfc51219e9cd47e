"""What a row costs, as functions of what it used: a model's rates, and what is charged beside plain tokens.

Money is counted in whole picodollars (1e-12 $): exact like a decimal, and as fast as an integer. The cheapest token of
any vendor costs thousands of them.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from decimal import Decimal
from typing import NamedTuple

import msgspec

from airflow_llm_batch.results import Result

PICO = 10**12
MILLION = 10**6

#: picodollars in a batch, None where the vendor is not known to give a discount, and outside of batches
Listed = tuple[int | None, int]
PriceOf = Callable[[Result], Listed | None]
#: tools of the vendor's whose use costs nothing beside tokens
FREE = frozenset({"web_fetch", "mcp", "computer", "local_shell", "shell", "apply_patch", "tool_search"})
SEARCH = "web_search"
#: kinds of tokens among those of input and output, what the table calls their number, and what it calls their price
KINDS = {
    f"{kind}_{way}_tokens": (f"{way}_{kind}_tokens", f"{way}_{kind}_mtok")
    for way in ("input", "output")
    for kind in ("audio", "image", "video")
}
#: where Anthropic computes at a tenth more, all kinds of tokens alike, in batches too, on every model that can be asked
#: for it (docs.claude.com, pricing: data residency pricing, Opus 4.6 and newer)
US, US_FACTOR = "us", Decimal("1.1")


def dollars(pico: int) -> float:
    return pico / PICO


def picodollars(usd: float | None) -> int:
    return round((usd or 0) * PICO)


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
