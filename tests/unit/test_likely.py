"""Rows that were answered correct the estimate. Amounts are worked out by hand from the vendors' price lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.jobs.money.agreed import Negotiated
from airflow_llm_batch.jobs.money.likely import Seen, corrected, likely
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.results import Result

#: gpt-5-mini in a batch: input $0.125, output $1 for a million tokens; twice that outside of one
PRICES = Prices("openai", "0.5")
#: 10,000 requests of 100 tokens each, answers of 1,000 at most: 1 M tokens in, 10 M out
PLANNED = Estimate(
    requests=10_000, input_tokens=10**6, output_tokens=10**7, largest=200, cost_usd=10.125, sync_cost_usd=20.25
)


def answered(read, wrote, expected):
    return Seen(Result(status="succeeded", model="gpt-5-mini", input_tokens=read, output_tokens=wrote), expected)


def test_answers_seen_stand_for_those_to_come():
    """Prompts 10 % longer than expected, answers of 50 tokens: 1.1 M in at $0.125, 0.5 M out at $1."""
    rows = [answered(110, 40, 100), answered(220, 60, 200)]
    found = corrected("gpt-5-mini", PLANNED, rows, PRICES)
    assert (found.input_tokens, found.likely_output_tokens, found.tried) == (1_100_000, 500_000, 2)
    assert found.ratio == pytest.approx(1.1)
    assert found.likely_usd == pytest.approx(0.1375 + 0.5)
    assert found.sync_likely_usd == pytest.approx(0.275 + 1.0)
    # The most it may cost knows the longer prompts, and the caps as before.
    assert found.output_tokens == PLANNED.output_tokens
    assert found.cost_usd == pytest.approx(0.1375 + 10)


def test_the_most_is_never_lowered_by_a_few_rows():
    """Three short rows are no promise of the others."""
    found = corrected("gpt-5-mini", PLANNED, [answered(50, 10, 100)], PRICES)
    assert found.input_tokens == 500_000
    assert found.likely_usd == pytest.approx(0.0625 + 0.1)
    assert (found.cost_usd, found.sync_cost_usd) == (10.125, 20.25)


def test_rows_that_tell_no_usage_correct_nothing():
    """Refused and failed rows say nothing of the others."""
    rows = [Seen(Result(status="errored"), 100), Seen(Result(status="succeeded"), 100)]
    assert corrected("gpt-5-mini", PLANNED, rows, PRICES) is PLANNED
    assert corrected("gpt-5-mini", PLANNED, [], PRICES) is PLANNED
    mixed = corrected("gpt-5-mini", PLANNED, [*rows, answered(100, 50, 100)], PRICES)
    assert (mixed.tried, mixed.ratio, mixed.likely_output_tokens) == (1, 1.0, 500_000)


def test_what_has_no_upper_bound_gets_a_likely_price():
    """Requests without a cap, and files that nobody can count: the rows seen tell what they came to."""
    open_ended = PLANNED.model_copy(
        update={"output_tokens": None, "unknown": "a file", "cost_usd": None, "sync_cost_usd": None}
    )
    found = corrected("gpt-5-mini", open_ended, [answered(1000, 50, 100)], PRICES)
    assert found.likely_usd == pytest.approx(1.25 + 0.5)
    assert (found.cost_usd, found.sync_cost_usd) == (None, None)


def test_a_price_that_nobody_knows_stays_unknown():
    """Never zero."""
    found = corrected("no-such-model", PLANNED, [answered(100, 50, 100)], PRICES)
    assert found.likely_output_tokens == 500_000
    assert (found.likely_usd, found.sync_likely_usd) == (None, None)


@given(st.lists(st.tuples(st.integers(1, 10**5), st.integers(0, 10**4), st.integers(1, 10**5)), min_size=1, max_size=9))
def test_likely_is_the_price_of_the_mean_row(rows):
    """Linear prices: the dollars of the mean row, as often as there are rows, whatever was seen."""
    rates = Negotiated.model_validate({"input": 2, "output": 8, "batch_factor": 0.5})
    plan = Estimate(requests=1000, input_tokens=10**8, output_tokens=10**7, largest=10**6)
    found = corrected("m", plan, [answered(*row) for row in rows], Prices("", None, {"*": rates}))
    ratio = sum(read for read, _, _ in rows) / sum(expected for _, _, expected in rows)
    mean = sum(wrote for _, wrote, _ in rows) / len(rows)
    # Tokens are whole: half a token of each kind may be lost or won.
    assert found.likely_usd == pytest.approx(10**8 * ratio * 1e-6 + mean * 1000 * 4e-6, rel=1e-4, abs=(1e-6 + 4e-6) / 2)
    assert found.sync_likely_usd == pytest.approx(2 * found.likely_usd)


def test_a_static_part_is_written_once_a_shard_and_read_after():
    """claude-sonnet-4-5 in a batch: fresh $1.50, written for an hour $3, read $0.15, out $7.50 for a million tokens."""
    plan = Estimate(
        requests=1000, input_tokens=5_000_000, output_tokens=100_000, largest=5000,
        cache="1h", static=4000, shards=4, cost_usd=99.0, sync_cost_usd=198.0,
    )  # fmt: skip
    planned = likely("claude-sonnet-4-5", plan, Prices("anthropic", "0.5"))
    # 4 x 4,000 written, 996 x 4,000 read, 1,000 x 1,000 fresh, 100,000 out
    assert planned.likely_usd == pytest.approx(0.048 + 0.5976 + 1.5 + 0.75)
    assert planned.sync_likely_usd == pytest.approx(2 * planned.likely_usd)
    # Prompts and their static part turn out a tenth longer, answers a tenth of their cap.
    seen = [Seen(Result(input_tokens=5500, cached_tokens=4400, output_tokens=10), 5000)]
    found = corrected("claude-sonnet-4-5", planned, seen, Prices("anthropic", "0.5"))
    assert found.static == 4400
    assert found.likely_usd == pytest.approx(1.1 * (0.048 + 0.5976 + 1.5) + 0.075)
