"""What a job cost, to the cent, against figures worked out by hand."""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import read_jsonl
from support.prices import PRICES
from support.servers import serving

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, RawRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import (
    BudgetExceeded,
    ConfigurationError,
)
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.money.agreed import negotiated
from airflow_llm_batch.jobs.money.budget import priced
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import PICO
from airflow_llm_batch.jobs.planning.encoding import RowSpec, encode_rows
from airflow_llm_batch.jobs.planning.shards import Use
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.results import Result
from airflow_llm_batch.sensors import BatchSensor

#: what each request uses: model, prompt tokens, of them cached, answer tokens, finish reason
USED = [
    ("gpt-5-mini", 1_000_000, 0, 100_000, "stop"),
    ("gpt-5-mini", 400_000, 400_000, 50_000, "stop"),
    ("gpt-5-mini", 200_000, 0, 300_000, "length"),
    ("gpt-4.1", 10_000, 0, 20_000, "stop"),
    ("nobody-knows-this-model", 7, 0, 7, "stop"),
]
#: dollars by hand from the vendors' price lists, per million tokens: gpt-5-mini 0.25 in, 0.025 cached, 2.00 out;
#: gpt-4.1 2.00 in, 8.00 out; half of it in batches
BY_HAND = {
    ("gpt-5-mini", "succeeded"): (0.125 + 0.10 + 0.005 + 0.05, 0.25 + 0.20 + 0.01 + 0.10),
    ("gpt-5-mini", "truncated"): (0.025 + 0.30, 0.05 + 0.60),
    ("gpt-4.1", "succeeded"): (0.01 + 0.08, 0.02 + 0.16),
    ("nobody-knows-this-model", "succeeded"): (None, None),
}


@contextmanager
def vendor_that_used():
    """A model server whose answers report the usage that the prompt asks for."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            read, cached, wrote, finish = json.loads(body["messages"][-1]["content"])
            usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
            choice = {"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": finish}
            answer = {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def run(context, conn_id, tmp_path, used):
    rows = [{"model": model, "use": json.dumps(use)} for model, *use in used]
    request = ChatRequest("{model}", user="{use}", max_tokens=300_000)
    handle = SubmitBatchOperator(task_id="submit", conn_id=conn_id, rows=rows, request=request).execute(context)
    waited = BatchSensor(task_id="wait", job=handle, deferrable=False, poke_interval=0.05).execute(context)
    summary = FetchResultsOperator(task_id="fetch", job=waited, destination=f"file://{tmp_path}/out").execute(context)
    store = JobStore(handle["job"])
    return summary, store.manifest(), [row for file in summary["files"] for row in read_jsonl(file)]


def test_the_manifest_tells_tokens_and_dollars_by_model_and_status(connect, context, tmp_path):
    """Every line of the table as worked out by hand; an unknown price is null, and so is every sum with it."""
    with vendor_that_used() as upstream, Emulator(duration=0, upstream=upstream) as emulator:
        summary, manifest, rows = run(context, connect(emulator.url), tmp_path, USED)
    costs = {(line.model, line.status): (line.cost_usd, line.sync_cost_usd) for line in manifest.usage}
    assert set(costs) == set(BY_HAND)
    for kind, (batch, sync) in BY_HAND.items():
        assert costs[kind] == ((None, None) if batch is None else (pytest.approx(batch), pytest.approx(sync))), kind
    tokens = {(line.model, line.status): (line.input_tokens, line.cached_tokens) for line in manifest.usage}
    assert tokens["gpt-5-mini", "succeeded"] == (1_400_000, 400_000)
    assert sum(line.requests for line in manifest.usage) == len(rows) == 5
    assert (summary["cost_usd"], summary["sync_cost_usd"], summary["saving_usd"]) == (None, None, None)
    assert "cost unknown" in summary["message"]
    by_row = {row["row"]: row["cost_usd"] for row in rows}
    assert by_row == {0: 0.225, 1: 0.055, 2: 0.325, 3: 0.09, 4: None}


def test_the_sums_estimate_and_saving_of_known_prices(connect, context, tmp_path):
    """Totals are the sums by hand; the estimate, from the caps, was above what it came to."""
    with vendor_that_used() as upstream, Emulator(duration=0, upstream=upstream) as emulator:
        summary, manifest, _ = run(context, connect(emulator.url), tmp_path, USED[:4])
    batch = sum(cost for cost, _ in BY_HAND.values() if cost)
    sync = sum(cost for _, cost in BY_HAND.values() if cost)
    assert (summary["cost_usd"], summary["sync_cost_usd"]) == (pytest.approx(batch), pytest.approx(sync))
    assert round(summary["cost_usd"], 2) == 0.69
    assert summary["saving_usd"] == pytest.approx(sync - batch)
    # Three answers of at most 300,000 tokens at 1 $, one at 4 $ per million, and some prompt.
    assert manifest.estimated_cost_usd == pytest.approx(0.9 + 1.2, abs=0.001)
    assert summary["estimated_cost_usd"] == manifest.estimated_cost_usd
    assert "$0.695" in summary["message"]


def test_negotiated_prices_replace_the_list(connect, context, tmp_path):
    """Rates for one model, a share of the list for all others, and a price for the model that has none."""
    prices = {
        "gpt-5-mini": {"input": 0.2, "cached": 0.01, "output": 1.5},
        "nobody-knows-this-model": {"input": 1000, "output": 2000, "batch_factor": 1},
        "*": {"factor": 0.9},
    }
    with vendor_that_used() as upstream, Emulator(duration=0, upstream=upstream) as emulator:
        summary, manifest, rows = run(context, connect(emulator.url, prices=prices), tmp_path, USED)
    assert {row["row"]: row["cost_usd"] for row in rows} == {
        0: pytest.approx((0.2 + 0.15) / 2),
        1: pytest.approx((0.004 + 0.075) / 2),
        2: pytest.approx((0.04 + 0.45) / 2),
        3: pytest.approx(0.09 * 0.9),
        4: pytest.approx(0.007 + 0.014),
    }
    assert summary["cost_usd"] == pytest.approx(0.175 + 0.0395 + 0.245 + 0.081 + 0.021)
    assert manifest.estimated_cost_usd == pytest.approx(600 + 3 * 0.3 * 0.75 + 1.2 * 0.9, abs=0.2)


@pytest.mark.parametrize(
    "prices",
    [
        {"m": {"input": 1}},
        {"m": {"input": 1, "output": -1}},
        {"m": {"input": 1, "output": 1, "factor": 0.5}},
        {"m": {"inputs": 1, "output": 1}},
        {"m": {"input": "cheap", "output": 1}},
        {"m": 3},
        [1],
    ],
)
def test_unusable_prices_are_refused_before_anything_is_sent(emulator, connect, context, prices):
    """Named by model, with an example."""
    conn_id = connect(emulator.url, prices=prices)
    with pytest.raises(ConfigurationError, match=r"'prices' is not usable.*Nothing was sent"):
        SubmitBatchOperator(task_id="s", conn_id=conn_id, rows=["a"], request=ChatRequest("m")).execute(context)
    assert not emulator.vendor.batches


@pytest.mark.parametrize(
    ("provider", "model", "used", "batch"),
    [
        # Anthropic: 1 $ in, 0.10 read from the cache, 1.25 written to it, 5 out; half of it in batches.
        ("anthropic", "claude-haiku-4-5", {"input_tokens": 1000, "output_tokens": 100}, 0.0005 + 0.00025),
        (
            "anthropic",
            "claude-haiku-4-5",
            {"input_tokens": 1000, "cached_tokens": 600, "cache_write_tokens": 300, "output_tokens": 0},
            (100 * 1 + 600 * 0.1 + 300 * 1.25) / 2e6,
        ),
        # Above 200,000 prompt tokens every token of the request costs more: 6 $ in, 22.50 out.
        ("anthropic", "claude-sonnet-4-5", {"input_tokens": 200_000, "output_tokens": 1000}, (0.6 + 0.015) / 2),
        ("anthropic", "claude-sonnet-4-5", {"input_tokens": 300_000, "output_tokens": 1000}, (1.8 + 0.0225) / 2),
        # The price list has no batch price for embeddings; the vendor's half holds.
        ("openai", "text-embedding-3-small", {"input_tokens": 1_000_000, "output_tokens": 0}, 0.01),
        ("openai", "gpt-5-mini-2025-08-07", {"input_tokens": 1_000_000, "output_tokens": 0}, 0.125),
    ],
)
def test_tiers_and_caches_are_priced_as_the_lists_say(provider, model, used, batch):
    """Worked out by hand, picodollars apart at most."""
    cost = Prices(provider, "0.5").cost(Result(status="succeeded", **used), model)
    assert cost[0] == pytest.approx(batch * PICO, abs=1)


def test_a_rate_that_does_not_divide_is_not_rounded_per_token():
    """A million tokens at 0.123456789 $ cost exactly half of that in a batch."""
    prices = Prices("openai", "0.5", negotiated({"*": {"input": 0.123456789, "output": 0}}))
    assert prices.cost(Result(status="succeeded", input_tokens=10**6, output_tokens=5), "any")[0] == 61_728_394_500


KINDS = {
    "fresh": lambda n: {"input_tokens": n, "output_tokens": 0},
    "cached": lambda n: {"input_tokens": n, "cached_tokens": n, "output_tokens": 0},
    "write_5m": lambda n: {"input_tokens": n, "cache_write_tokens": n, "output_tokens": 0},
    "write_1h": lambda n: {"input_tokens": n, "cache_write_tokens": n, "cache_write_1h_tokens": n, "output_tokens": 0},
    "output": lambda n: {"input_tokens": 0, "output_tokens": n},
    "web_search": lambda n: {"input_tokens": 0, "output_tokens": 0, "tool_uses": {"web_search": n}},
}


def cost_of(prices, price, called=False):
    used = Result(status="succeeded", model=price.model, **KINDS[price.kind](price.amount))
    return prices.cost(used, price.model, called)


@pytest.mark.parametrize("price", PRICES, ids=lambda p: f"{p.model}-{p.kind}")
def test_every_kind_of_token_costs_what_the_bill_says(price):
    """A hand-computed table of models x kinds of token, in batches and outside of them."""
    prices = Prices(price.provider, "0.5")
    batched, called = cost_of(prices, price), cost_of(prices, price, called=True)
    if price.batch_usd is not None:
        assert batched.paid == round(Decimal(price.batch_usd) * PICO)
    assert called.paid == batched.sync == round(Decimal(price.sync_usd) * PICO)


@pytest.mark.parametrize(("model", "cost"), [("gpt-4o-mini", "0.00096"), ("gpt-4.1", "0.0088")])
def test_cached_tokens_are_not_halved_twice(model, cost):
    """10,000 in, 8,000 of them cached, 700 out: whether a batch price exists is a fact of the model."""
    used = Result(status="succeeded", model=model, input_tokens=10_000, cached_tokens=8_000, output_tokens=700)
    assert Prices("openai", "0.5").cost(used, model).paid == round(Decimal(cost) * PICO)


def test_no_discount_is_assumed_where_none_is_known(connect):
    """A gateway's batches cost what it says: null until it is declared; calls cost what the list says."""
    used = Result(status="succeeded", model="gpt-5-mini", input_tokens=10**6, output_tokens=0)

    def cost(called=False, **extra):
        hook = LLMBatchHook(connect("https://gateway.example.com/v1", **extra))
        return Prices.of(hook).cost(used, "gpt-5-mini", called)

    assert cost() is None
    assert cost(called=True).paid == PICO // 4
    assert cost(batch_factor=1).paid == PICO // 4
    assert cost(batch_factor=0.5).paid == PICO // 8
    assert cost(prices={"gpt-5-mini": {"input": 0.1, "output": 1, "batch_factor": 0.8}}) is not None
    assert Prices.of(LLMBatchHook(connect("https://api.openai.com/v1"))).cost(used, "gpt-5-mini").paid == PICO // 8


@pytest.mark.parametrize("region", ["us", "eu", "ae"])
@pytest.mark.parametrize(("model", "share"), [("gpt-5.4", 1.1), ("gpt-5.6-luna-2026-07-01", 1.1), ("gpt-5-mini", 1)])
def test_what_openai_does_in_a_region_costs_more(connect, region, model, share):
    """A tenth, of models since GPT-5.4, in batches and calls; the address is OpenAI's own, so batches are cheaper."""
    used = Result(status="succeeded", model=model, input_tokens=1000, output_tokens=1000)
    hosts = "api.openai.com", f"{region}.api.openai.com"
    prices = [Prices.of(LLMBatchHook(connect(f"https://{host}/v1"))) for host in hosts]
    for called in True, False:
        usual, regional = (one.cost(used, model, called).paid for one in prices)
        assert regional == pytest.approx(usual * share)
    assert OpenAI(f"https://{hosts[1]}").is_own
    for host in f"{region}.api.openai.com.example", f"{region}-api.openai.com", f"{region}.api.openai.com.evil.test":
        assert not OpenAI(f"https://{host}/v1").is_own


def test_other_tiers_cost_something_else():
    """``service_tier`` in online answers: flex is half, an unknown one is not known; in a batch it says nothing."""
    used = Result(status="succeeded", model="gpt-5-mini", input_tokens=10**6, output_tokens=0, service_tier="flex")
    prices = Prices("openai", "0.5")
    assert prices.cost(used, "gpt-5-mini", called=True).paid == PICO // 8
    used.service_tier = "default"
    assert prices.cost(used, "gpt-5-mini", called=True).paid == PICO // 4
    used.service_tier = "scale"
    assert prices.cost(used, "gpt-5-mini", called=True) is None
    assert prices.cost(used, "gpt-5-mini").paid == PICO // 8


def test_tools_without_a_price_make_the_cost_unknown():
    """Null, never 0: code runs and what nobody knows; fetching pages costs tokens alone."""
    used = Result(status="succeeded", model="gpt-5-mini", input_tokens=1, output_tokens=0)
    prices = Prices("openai", "0.5")
    for uses, known in (({"code_interpreter": 1}, False), ({"web_fetch": 3}, True), ({"mcp": 1}, True)):
        used.tool_uses = uses
        assert (prices.cost(used, "gpt-5-mini") is not None) == known, uses


@pytest.mark.parametrize("status", ["succeeded", "truncated", "refused", "invalid", "missing"])
def test_an_answer_without_usage_has_no_known_cost(status):
    """Whatever it was billed: null, never 0."""
    assert Prices("openai", "0.5").cost(Result(status=status), "gpt-5-mini") is None
    assert Prices("openai", "0.5").cost(Result(status="errored"), "gpt-5-mini").paid == 0


def estimated(provider, model, messages, **params):
    spec = RowSpec(
        [{"x": "y"}], RawRequest({"model": model, "messages": messages, "max_tokens": 100, **params}), None, {}
    )
    (line,) = encode_rows(spec, provider, "job")
    use = Use()
    use.add(line)
    estimate = use.estimates()[model]
    return priced(model, estimate, Prices(provider.name, "0.5"), provider.caches_by_itself)


def test_the_estimate_holds_in_the_worst_case():
    """Input that may be written to a cache is estimated at the price of writing it, for five minutes or an hour."""

    def claude(**cache):
        part = {"type": "text", "text": "long " * 4000, **({"cache_control": cache} if cache else {})}
        return estimated(Anthropic(), "claude-sonnet-4-5", [{"role": "user", "content": [part]}])

    plain, short, long = claude(), claude(type="ephemeral"), claude(type="ephemeral", ttl="1h")
    output = 100 * 15 / 2 / 10**6
    for estimate, factor in ((plain, 1), (short, 1.25), (long, 2)):
        assert estimate.cost_usd - output == pytest.approx(estimate.input_tokens * 3 / 2 / 10**6 * factor, rel=0.01)
    said = [{"role": "user", "content": "long " * 4000}]
    luna = estimated(OpenAI(), "gpt-5.6-luna", said)
    assert luna.cost_usd == pytest.approx((luna.input_tokens * 0.125 + 100 * 0.6) / 10**6, rel=0.01)
    mini = estimated(OpenAI(), "gpt-4o-mini", said)
    assert mini.cost_usd == pytest.approx((mini.input_tokens * 0.075 + 100 * 0.3) / 10**6, rel=0.01)


def png(width, height):
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\2\0\0\0"
    return "data:image/png;base64," + base64.b64encode(head + bytes(100_000)).decode()


IMAGES = [
    ("gpt-4o", png(1024, 1024), "high", 765),
    ("gpt-4o", png(2048, 4096), "high", 1105),
    ("gpt-4o", png(4096, 4096), "low", 85),
    ("gpt-4o-mini", "https://x/y.png", "high", 48_169),
    ("gpt-4o", "https://x/y.png", "auto", 1445),
    ("gpt-5.6-luna", "https://x/y.png", "high", 3000),
    ("gpt-5.6-luna", png(512, 512), "low", 308),
    ("o3", png(512, 512), "high", 225),
]


@pytest.mark.parametrize(("model", "url", "detail", "tokens"), IMAGES)
def test_an_image_costs_what_openais_rule_says(model, url, detail, tokens):
    """By its size, or at most where that is not known; never by the length of its base64 or of its URL."""
    part = {"type": "image_url", "image_url": {"url": url, "detail": detail}}
    estimate = estimated(OpenAI(), model, [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}])
    assert tokens <= estimate.input_tokens <= tokens + 120


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("claude-sonnet-4-5", (1000, 1000), 1296),
        ("claude-sonnet-4-5", (200, 200), 64),
        ("claude-sonnet-4-5", None, 1568),
        ("claude-opus-4-7", None, 4784),
        ("claude-opus-4-7", (1000, 1000), 1296),
        ("claude-sonnet-4-20250514", None, 1568),
    ],
)
def test_an_image_costs_what_anthropics_rule_says(model, size, tokens):
    """28-pixel patches, at most so many."""
    assert Anthropic().image_tokens(model, size, "auto") == tokens


UNKNOWN = [
    ({"type": "file", "file": {"file_id": "f"}}, {}, "a file"),
    ({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}, {}, "audio"),
    ({"type": "text", "text": "x"}, {"tools": [{"type": "web_search"}]}, "the tool 'web_search'"),
    ({"type": "text", "text": "x"}, {"web_search_options": {}}, "web search"),
]


@pytest.mark.parametrize(("part", "params", "why"), UNKNOWN)
def test_what_cannot_be_estimated_says_so(connect, context, part, params, why):
    """Files, sound and the vendor's own tools: no estimate, and no ``max_cost`` that could not be held."""
    body = {
        "model": "gpt-5-mini",
        "messages": [{"role": "user", "content": [part, {"type": "text", "text": "{text}"}]}],
    }
    with Emulator(duration=0) as emulator:
        submit = SubmitBatchOperator(
            task_id="s", conn_id=connect(emulator.url), rows=["a"], max_cost=1.0,
            request=RawRequest({**body, "max_completion_tokens": 5, **params}),
        )  # fmt: skip
        with pytest.raises(
            BudgetExceeded, match=rf"cannot be estimated \({re.escape(why)}.*Nothing was sent"
        ) as caught:
            submit.execute(context)
        assert "Remove max_cost" in str(caught.value)
        assert not emulator.vendor.batches


#: what a model takes in one request by its vendor's page; whether the text is longer (a word and its space
#: are one token), and whether it is embedded
WINDOWS = [
    ("gpt-4o-mini", 128_000, 1, False),
    ("gpt-4o-mini", 128_000, 0, False),
    ("text-embedding-3-small", 8_192, 1, True),
    ("of-our-own", 0, 1, False),
]


@pytest.mark.parametrize(("model", "window", "beyond", "embeds"), WINDOWS)
def test_a_prompt_above_the_models_context_is_told_with_the_estimate(
    connect, context, caplog, model, window, beyond, embeds
):
    """It is refused by the vendor for its row alone, and not billed: the others of a night are worth sending."""
    text = "word " * (window + 500 if beyond else max(window - 500, 1))
    request = EmbeddingRequest(model=model, input="{text}") if embeds else ChatRequest(model=model, user="{text}")
    with Emulator(duration=0) as emulator:
        submit = SubmitBatchOperator(task_id="s", conn_id=connect(emulator.url), rows=["short", text], request=request)
        with caplog.at_level("INFO"):
            submit.execute(context)
    [line] = [record for record in caplog.records if "Estimate by model" in record.getMessage()][:1]
    is_told = bool(window) and bool(beyond)
    assert (line.levelname, f"above the model's {window:,}" in line.getMessage()) == (
        "WARNING" if is_told else "INFO", is_told,
    )  # fmt: skip


def test_several_texts_of_one_request_are_held_to_the_window_one_by_one(connect, context, caplog):
    with Emulator(duration=0) as emulator:
        submit = SubmitBatchOperator(
            task_id="s", conn_id=connect(emulator.url), rows=[{"texts": ["word " * 5000] * 2}],
            request=RawRequest({"model": "text-embedding-3-small", "input": "{texts}"}, "/v1/embeddings"),
        )  # fmt: skip
        with caplog.at_level("INFO"):
            submit.execute(context)
    assert "above the model" not in caplog.text


def test_token_arrays_are_one_input():
    """Tokens are counted, not their digits; several arrays are several inputs."""

    def line(texts):
        spec = RowSpec([{"t": texts}], RawRequest({"model": "e", "input": "{t}"}, "/v1/embeddings"), None, {})
        (made,) = encode_rows(spec, OpenAI(), "job")
        return made.kind.inputs, made.tokens

    assert line([100_000, 2, 3]) == (1, 3)
    assert line([[1, 2], [3]]) == (2, 3)
    assert line(["a", "b"])[0] == 2


def test_many_requests_below_a_tier_stay_below_it():
    """Tiers are of one request: 100 times 10,000 tokens are not a million at the long-prompt price."""
    estimate = Estimate(requests=100, input_tokens=10**6, output_tokens=0, largest=10_000)
    cost = priced("gpt-5.6-terra", estimate, Prices("openai", "0.5"), caches_by_itself=False).cost_usd
    assert cost == pytest.approx(1.0)


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5.4", "nobody-knows"])
@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": 2, "cached_tokens": 5000, "output_tokens": 1},
        {"input_tokens": -1, "output_tokens": 1},
        {"input_tokens": 1, "output_tokens": -1},
    ],
)
def test_impossible_token_counts_have_no_price(model, counts):
    """More cached tokens than tokens, fewer than none: unknown, and no reason to fail."""
    assert Prices("openai", "0.5").cost(Result(status="succeeded", **counts), model) is None
