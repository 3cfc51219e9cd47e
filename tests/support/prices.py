"""What vendors charge, worked out by hand from their published price lists: no amount here comes out of a program.

Every row is a request that has this one kind of token in it, alone and short of any long-prompt tier. ``None`` says
that no amount is asserted. The comment
on a model is its price list in dollars per million tokens, sync and batch.

OpenAI has one kind of cache write (kept 30 minutes, models from GPT-5.6 on); it stands here as ``write_5m``.
``web_search`` counts calls: $10 per 1,000 at both vendors, and the same in a batch. The tokens of what was found are
billed on top of it as input.
"""

from typing import Literal, NamedTuple

Kind = Literal["fresh", "cached", "write_5m", "write_1h", "output", "web_search"]


class Price(NamedTuple):
    provider: str
    model: str
    kind: Kind
    amount: int
    batch_usd: str | None
    sync_usd: str | None


PRICES: tuple[Price, ...] = (
    # gpt-4o: input 2.50, cached 1.25, output 10. Batch: input 1.25, output 5. The batch list has no cached rate: billed
    # as sync 1.25, which is the batch input rate too, so the amount is the same with a cache discount and without one.
    Price("openai", "gpt-4o", "fresh", 2_000, "0.0025", "0.005"),
    Price("openai", "gpt-4o", "cached", 8_000, "0.01", "0.01"),
    Price("openai", "gpt-4o", "output", 700, "0.0035", "0.007"),
    Price("openai", "gpt-4o", "web_search", 3, "0.03", "0.03"),
    # gpt-4o-mini: input 0.15, cached 0.075, output 0.60. Batch: input 0.075, output 0.30. No cached rate in the batch
    # list: billed as sync 0.075, which is the batch input rate too. The three rows together are $0.00096 in a batch.
    # No web search here: OpenAI bills 8,000 input tokens a call on top, and a usage report need not show them.
    Price("openai", "gpt-4o-mini", "fresh", 2_000, "0.00015", "0.0003"),
    Price("openai", "gpt-4o-mini", "cached", 8_000, "0.0006", "0.0006"),
    Price("openai", "gpt-4o-mini", "output", 700, "0.00021", "0.00042"),
    # gpt-4.1: input 2, cached 0.50, output 8. Batch: input 1, output 4. No cached rate in the batch list: billed as
    # synchronous, 0.50, as users have seen it on their bills.
    Price("openai", "gpt-4.1", "fresh", 2_000, "0.002", "0.004"),
    Price("openai", "gpt-4.1", "cached", 8_000, "0.004", "0.004"),
    Price("openai", "gpt-4.1", "output", 700, "0.0028", "0.0056"),
    Price("openai", "gpt-4.1", "web_search", 3, "0.03", "0.03"),
    # gpt-4.1-mini: input 0.40, cached 0.10, output 1.60. Batch: input 0.20, output 0.80; cached as with gpt-4.1.
    # No web search here: 8,000 input tokens a call on top, as with gpt-4o-mini.
    Price("openai", "gpt-4.1-mini", "fresh", 2_000, "0.0004", "0.0008"),
    Price("openai", "gpt-4.1-mini", "cached", 8_000, "0.0008", "0.0008"),
    Price("openai", "gpt-4.1-mini", "output", 700, "0.00056", "0.00112"),
    # o4-mini: input 1.10, cached 0.275, output 4.40. Batch: input 0.55, output 2.20; cached as with gpt-4.1.
    Price("openai", "o4-mini", "fresh", 2_000, "0.0011", "0.0022"),
    Price("openai", "o4-mini", "cached", 8_000, "0.0022", "0.0022"),
    Price("openai", "o4-mini", "output", 700, "0.00154", "0.00308"),
    Price("openai", "o4-mini", "web_search", 3, "0.03", "0.03"),
    # gpt-5: input 1.25, cached 0.125, output 10. Batch: input 0.625, cached 0.0625, output 5: the cached rate falls.
    Price("openai", "gpt-5", "fresh", 2_000, "0.00125", "0.0025"),
    Price("openai", "gpt-5", "cached", 8_000, "0.0005", "0.001"),
    Price("openai", "gpt-5", "output", 700, "0.0035", "0.007"),
    Price("openai", "gpt-5", "web_search", 3, "0.03", "0.03"),
    # gpt-5-mini: input 0.25, cached 0.025, output 2. Batch: input 0.125, cached 0.0125, output 1: cached falls too.
    Price("openai", "gpt-5-mini", "fresh", 2_000, "0.00025", "0.0005"),
    Price("openai", "gpt-5-mini", "cached", 8_000, "0.0001", "0.0002"),
    Price("openai", "gpt-5-mini", "output", 700, "0.0007", "0.0014"),
    Price("openai", "gpt-5-mini", "web_search", 3, "0.03", "0.03"),
    # gpt-5.4: input 2.50, cached 0.25, output 15. Batch: input 1.25, cached 0.13, output 7.50: the cached rate falls,
    # and is published rounded up, so it is not half of 0.25.
    Price("openai", "gpt-5.4", "fresh", 2_000, "0.0025", "0.005"),
    Price("openai", "gpt-5.4", "cached", 8_000, "0.00104", "0.002"),
    Price("openai", "gpt-5.4", "output", 700, "0.00525", "0.0105"),
    Price("openai", "gpt-5.4", "web_search", 3, "0.03", "0.03"),
    # gpt-5.6-terra: input 2, cached 0.20, write 2.50, output 12. Batch: input 1, cached 0.10, write 1.25, output 6:
    # the cached rate and the write rate both fall.
    Price("openai", "gpt-5.6-terra", "fresh", 10_000, "0.01", "0.02"),
    Price("openai", "gpt-5.6-terra", "cached", 50_000, "0.005", "0.01"),
    Price("openai", "gpt-5.6-terra", "write_5m", 20_000, "0.025", "0.05"),
    Price("openai", "gpt-5.6-terra", "output", 4_000, "0.024", "0.048"),
    Price("openai", "gpt-5.6-terra", "web_search", 3, "0.03", "0.03"),
    # gpt-5.6-luna: input 0.20, cached 0.02, write 0.25, output 1.20. Batch: input 0.10, cached 0.01, write 0.125,
    # output 0.60: the cached rate and the write rate both fall.
    Price("openai", "gpt-5.6-luna", "fresh", 10_000, "0.001", "0.002"),
    Price("openai", "gpt-5.6-luna", "cached", 50_000, "0.0005", "0.001"),
    Price("openai", "gpt-5.6-luna", "write_5m", 20_000, "0.0025", "0.005"),
    Price("openai", "gpt-5.6-luna", "output", 4_000, "0.0024", "0.0048"),
    Price("openai", "gpt-5.6-luna", "web_search", 3, "0.03", "0.03"),
    # gpt-6-astra: input 10, cached 1, write 12.50, output 50. Batch: input 5, cached 0.50, write 6.25, output 25:
    # the cached rate and the write rate both fall.
    Price("openai", "gpt-6-astra", "fresh", 10_000, "0.05", "0.1"),
    Price("openai", "gpt-6-astra", "cached", 50_000, "0.025", "0.05"),
    Price("openai", "gpt-6-astra", "write_5m", 20_000, "0.125", "0.25"),
    Price("openai", "gpt-6-astra", "output", 4_000, "0.1", "0.2"),
    Price("openai", "gpt-6-astra", "web_search", 3, "0.03", "0.03"),
    # text-embedding-3-small: input 0.02, nothing else. Batch: 0.01 on the model's page, half as everywhere; the price
    # list has no batch row for it.
    Price("openai", "text-embedding-3-small", "fresh", 10_000, "0.0001", "0.0002"),
    # claude-sonnet-4-5: input 3, cached 0.30, write 3.75 (5 minutes) and 6 (one hour), output 15. Batch: input 1.50,
    # cached 0.15, writes 1.875 and 3, output 7.50: every kind of token falls by half, web searches do not.
    Price("anthropic", "claude-sonnet-4-5", "fresh", 10_000, "0.015", "0.03"),
    Price("anthropic", "claude-sonnet-4-5", "cached", 50_000, "0.0075", "0.015"),
    Price("anthropic", "claude-sonnet-4-5", "write_5m", 20_000, "0.0375", "0.075"),
    Price("anthropic", "claude-sonnet-4-5", "write_1h", 100_000, "0.3", "0.6"),
    Price("anthropic", "claude-sonnet-4-5", "output", 4_000, "0.03", "0.06"),
    Price("anthropic", "claude-sonnet-4-5", "web_search", 3, "0.03", "0.03"),
    # claude-haiku-4-5: input 1, cached 0.10, write 1.25 (5 minutes) and 2 (one hour), output 5. Batch: input 0.50,
    # cached 0.05, writes 0.625 and 1, output 2.50: every kind of token falls by half.
    Price("anthropic", "claude-haiku-4-5", "fresh", 10_000, "0.005", "0.01"),
    Price("anthropic", "claude-haiku-4-5", "cached", 50_000, "0.0025", "0.005"),
    Price("anthropic", "claude-haiku-4-5", "write_5m", 20_000, "0.0125", "0.025"),
    Price("anthropic", "claude-haiku-4-5", "write_1h", 100_000, "0.1", "0.2"),
    Price("anthropic", "claude-haiku-4-5", "output", 4_000, "0.01", "0.02"),
    Price("anthropic", "claude-haiku-4-5", "web_search", 3, "0.03", "0.03"),
    # claude-opus-4-5: input 5, cached 0.50, write 6.25 (5 minutes) and 10 (one hour), output 25. Batch: input 2.50,
    # cached 0.25, writes 3.125 and 5, output 12.50: every kind of token falls by half.
    Price("anthropic", "claude-opus-4-5", "fresh", 10_000, "0.025", "0.05"),
    Price("anthropic", "claude-opus-4-5", "cached", 50_000, "0.0125", "0.025"),
    Price("anthropic", "claude-opus-4-5", "write_5m", 20_000, "0.0625", "0.125"),
    Price("anthropic", "claude-opus-4-5", "write_1h", 100_000, "0.5", "1"),
    Price("anthropic", "claude-opus-4-5", "output", 4_000, "0.05", "0.1"),
    Price("anthropic", "claude-opus-4-5", "web_search", 3, "0.03", "0.03"),
    # claude-opus-5-5: input 4, cached 0.20 (0.05 of the input, not the usual tenth), write 5 (5 minutes) and 8 (one
    # hour), output 20. Batch: input 2, cached 0.10, writes 2.50 and 4, output 10: every kind of token falls by half.
    Price("anthropic", "claude-opus-5-5", "fresh", 10_000, "0.02", "0.04"),
    Price("anthropic", "claude-opus-5-5", "cached", 50_000, "0.005", "0.01"),
    Price("anthropic", "claude-opus-5-5", "write_5m", 20_000, "0.05", "0.1"),
    Price("anthropic", "claude-opus-5-5", "write_1h", 100_000, "0.4", "0.8"),
    Price("anthropic", "claude-opus-5-5", "output", 4_000, "0.04", "0.08"),
    Price("anthropic", "claude-opus-5-5", "web_search", 3, "0.03", "0.03"),
    # claude-fable-5-1: input 10, cached 0.25 (0.025 of the input), write 12.50 (5 minutes) and 20 (one hour), output
    # 50. Batch: input 5, cached 0.125, writes 6.25 and 10, output 25: every kind of token falls by half.
    Price("anthropic", "claude-fable-5-1", "fresh", 10_000, "0.05", "0.1"),
    Price("anthropic", "claude-fable-5-1", "cached", 50_000, "0.00625", "0.0125"),
    Price("anthropic", "claude-fable-5-1", "write_5m", 20_000, "0.125", "0.25"),
    Price("anthropic", "claude-fable-5-1", "write_1h", 100_000, "1", "2"),
    Price("anthropic", "claude-fable-5-1", "output", 4_000, "0.1", "0.2"),
    Price("anthropic", "claude-fable-5-1", "web_search", 3, "0.03", "0.03"),
)
