"""What a job cost, to the cent, against figures worked out by hand."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import read_jsonl

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.pricing import PICO, Prices, negotiated
from airflow_llm_batch.jobs.store import JobStore
from airflow_llm_batch.models import Result
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


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
    told = {(line.model, line.status): (line.cost_usd, line.sync_cost_usd) for line in manifest.usage}
    assert set(told) == set(BY_HAND)
    for kind, (batch, sync) in BY_HAND.items():
        assert told[kind] == ((None, None) if batch is None else (pytest.approx(batch), pytest.approx(sync))), kind
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
    prices = Prices("openai", "0.5", negotiated({"prices": {"*": {"input": 0.123456789, "output": 0}}}))
    assert prices.cost(Result(status="succeeded", input_tokens=10**6, output_tokens=5), "any")[0] == 61_728_394_500
