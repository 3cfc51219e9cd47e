"""What providers say of flex, held to the vendors' price list and to what their answers look like."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.jobs.money.agreed import Negotiated
from airflow_llm_batch.jobs.money.budget import check_budget, estimated_cost
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import PICO
from airflow_llm_batch.models import Job, Shard
from airflow_llm_batch.providers.bodies import with_members
from airflow_llm_batch.providers.openai.models import takes_flex
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.registry import PROVIDERS, provider_class
from airflow_llm_batch.results import Result

HOST = {"azure": "https://r.openai.azure.com"}


def made(name, host=None, **options):
    given = options
    if name.startswith(("bedrock", "vertex", "anthropic-")):
        given = {"region": "us-east-1", "project": "p", "workspace_id": "wrkspc_1", **options}
    return provider_class(name)(host or HOST.get(name), given)


def test_openais_models_are_those_of_its_price_list():
    """genai-prices has OpenAI's lists by tier: what it has at flex is taken, and what it has at other tiers alone is
    refused; a model of neither is not known."""
    from genai_prices import data_snapshot

    [openai] = [provider for provider in data_snapshot.get_snapshot().providers if provider.id == "openai"]
    wrong = {}
    for model in openai.models:
        tiers = {variant.when.get("service_tier") for variant in model.price_variants or ()} - {None}
        if tiers:
            for name in (model.id, f"{model.id}-2026-01-31"):
                if takes_flex(name) is not ("flex" in tiers):
                    wrong[name] = takes_flex(name)
    assert wrong == {}
    for unknown in (
        "gpt-99",
        "ft:o4-mini:acme::id",
        "gpt-5-codex",
        "gpt-5-search-api",
        "llama-3",
        "o5",
        "o4-mini-deep",
    ):
        assert takes_flex(unknown) is None, unknown


@pytest.mark.parametrize("name", PROVIDERS)
def test_who_has_flex_says_how_and_who_has_not_refuses(name):
    """OpenAI, Gemini and Azure have calls that are slower and cheaper; for all others there is a remedy."""
    provider = made(name)
    call = provider_class("openai")("http://h").call(
        b'{"custom_id":"j-1","method":"POST","url":"/v1/chat/completions","body":{"model":"m","service_tier":"auto"}}',
        Shard(endpoint="/v1/chat/completions"),
    )
    if name not in ("openai", "azure", "gemini"):
        assert (provider.flex_price_factor, provider.flex_discount) == (None, None)
        assert provider.takes_flex("/v1/chat/completions", "gpt-5-mini") is False
        with pytest.raises(ConfigurationError, match=r"no flex tier.*lane='batch'.*Nothing was sent"):
            provider.check_flex("/v1/chat/completions", "gpt-5-mini")
        with pytest.raises(ConfigurationError, match="Nothing was sent"):
            provider.flex_call(call)
        return
    assert provider.flex_discount == "0.5"
    body = json.loads(provider.flex_call(call).body)
    expected = {"serviceTier": "flex"} if name == "gemini" else {"service_tier": "flex"}
    assert body == {"model": "m", **expected}


def test_who_speaks_openais_protocol_has_no_flex_unless_it_says_so():
    """Groq's tier of that name costs as much as any other."""

    class Groq(OpenAI):
        name, default_base_url = "groq", "https://api.groq.com/openai/v1"

    class Other(OpenAI):
        name, flex_price_factor = "other", "0.8"

    assert (Groq.flex_price_factor, Other.flex_price_factor, OpenAI.flex_price_factor) == (None, "0.8", "0.5")
    with pytest.raises(ConfigurationError, match="no flex tier"):
        Groq().check_flex("/v1/chat/completions", "openai/gpt-oss-120b")


def response(http, **error):
    return httpx.Response(http, json={"error": error}, request=httpx.Request("POST", "http://h/v1/x"))


@pytest.mark.parametrize(
    ("name", "answer", "no_room"),
    [
        ("openai", response(429, code="resource_unavailable", message="x"), True),
        ("openai", response(429, message="Resource Unavailable"), True),
        ("openai", response(429, code="rate_limit_exceeded", message="Rate limit reached"), False),
        ("openai", response(503, code="resource_unavailable", message="x"), False),
        ("openai", response(400, message="Resource unavailable"), False),
        ("azure", response(429, code="429", message="Too many requests"), True),
        ("azure", response(503, message="x"), False),
        ("gemini", response(503, code=503, status="UNAVAILABLE", message="overloaded"), True),
        ("gemini", response(429, code=429, status="RESOURCE_EXHAUSTED", message="x"), True),
        ("gemini", response(500, code=500, status="INTERNAL", message="x"), False),
        ("anthropic", response(429, message="Resource unavailable"), False),
    ],
)
def test_want_of_room_is_told_from_other_troubles(name, answer, no_room):
    """As each vendor documents it."""
    assert made(name).has_no_room(answer) == no_room


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (response(400, message="Invalid service_tier argument", param="service_tier"), True),
        (response(400, message="Flex is not available for this model"), True),
        (response(400, message="Service tier flex is not supported for models/x."), True),
        (response(400, message="Invalid value: 'my service_tier flex text'"), False),
        (response(429, message="Invalid service_tier argument"), False),
        (response(400, message="The model is reflexive"), False),
    ],
)
def test_a_refused_tier_is_told_from_a_refused_row(answer, refused):
    """What a message quotes is the row's own."""
    assert made("openai").refuses_flex(answer) == refused


def test_further_members_leave_the_others_as_they_are_written():
    """Numbers, escapes and order; another spelling goes."""
    body = rb'{"a": 1.50, "service_tier": "auto", "b": "\u00e9", "big": 123456789012345678901234567890}'
    extended = with_members(body, {"serviceTier": "flex"}, ["service_tier"])
    assert re.findall(rb"1\.50|\\u00e9|\d{30}", extended) == [b"1.50", b"\\u00e9", b"123456789012345678901234567890"]
    assert list(json.loads(extended)) == ["a", "b", "big", "serviceTier"]
    assert with_members(b"{}", {"x": "y"}) == b'{"x":"y"}'


#: provider, model, tokens, and dollars at flex by the vendors' lists, worked out by hand: a million of one kind
#: (OpenAI's list of flex rounds cached rates up; Google and Microsoft give half of their standard rates)
FLEX = [
    ("openai", "gpt-5-mini", "fresh", "0.125"), ("openai", "gpt-5-mini", "cached", "0.0125"),
    ("openai", "gpt-5-mini", "output", "1"),
    ("openai", "gpt-5", "fresh", "0.625"), ("openai", "gpt-5", "cached", "0.0625"), ("openai", "gpt-5", "output", "5"),
    ("openai", "o4-mini", "fresh", "0.55"), ("openai", "o4-mini", "cached", "0.138"),
    ("openai", "o4-mini", "output", "2.2"),
    ("gemini", "gemini-2.5-flash", "fresh", "0.15"), ("gemini", "gemini-2.5-flash", "output", "1.25"),
    ("azure", "gpt-6-astra", "output", "25"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "kind", "dollars"), FLEX)
def test_flex_costs_what_the_lists_say(name, model, kind, dollars):
    """Beside the price of the same call at the usual tier, which is the saving's other side."""
    provider = made(name)
    prices = Prices(provider.price_id, provider.batch_discount, flex=provider.flex_discount)
    used = Result(status="succeeded", model=model, input_tokens=0, output_tokens=0, service_tier="flex")
    if kind == "output":
        used.output_tokens = 10**6
    else:
        used.input_tokens = 10**6
        used.cached_tokens = 10**6 if kind == "cached" else 0
    cost = prices.cost(used, model, called=True)
    assert cost.paid == round(float(dollars) * PICO)
    assert cost.sync > cost.paid
    used.service_tier = "default"
    assert prices.cost(used, model, called=True).paid == cost.sync


def test_searches_cost_at_flex_what_they_cost():
    """$10 for a thousand, beside tokens at half the price."""
    used = Result(
        status="succeeded", model="gemini-2.5-flash", input_tokens=0, output_tokens=10**6, service_tier="flex"
    )
    prices = Prices("google", "0.5", flex="0.5")
    bare = prices.cost(used, used.model, called=True)
    used.tool_uses = {"web_search": 1000}
    cost = prices.cost(used, used.model, called=True)
    assert cost.paid - bare.paid == cost.sync - bare.sync == 35 * PICO


def test_no_discount_is_assumed_where_none_is_known():
    """A gateway's flex: the list's price where the list has one, else null; the estimate is that of other calls."""
    used = Result(
        status="succeeded", model="gemini-2.5-flash", input_tokens=10**6, output_tokens=0, service_tier="flex"
    )
    assert Prices("google").cost(used, used.model, called=True) is None
    assert Prices("google", flex="0.5").cost(used, used.model, called=True).paid == 15 * PICO // 100
    assert made("openai", "https://gateway.example.com/v1").flex_discount is None
    estimate = Estimate(requests=1, input_tokens=1, output_tokens=1, cost_usd=1.0, sync_cost_usd=2.0)
    assert [estimate.cost(lane) for lane in ("batch", "online", "flex")] == [1.0, 2.0, 2.0]
    assert estimate.model_copy(update={"flex_cost_usd": 1.5}).cost("flex") == 1.5


def test_an_agreed_price_is_halved_too():
    """Rates of one's own, and a share of the list: flex is half of what other calls cost."""
    used = Result(status="succeeded", model="gpt-5-mini", input_tokens=10**6, output_tokens=0, service_tier="flex")
    for agreed, paid in (({"input": 0.2, "output": 1}, 0.1), ({"factor": 0.8}, 0.1)):
        prices = Prices("openai", "0.5", {"*": Negotiated.model_validate(agreed)}, flex="0.5")
        cost = prices.cost(used, "gpt-5-mini", called=True)
        assert (cost.paid, cost.sync) == (round(paid * PICO), round(paid * 2 * PICO))


def test_a_budget_is_held_in_its_lane():
    """By the lane's own estimate, which the refusal tells."""
    from airflow_llm_batch.exceptions import BudgetExceeded

    estimate = Estimate(requests=1, input_tokens=1, output_tokens=1, cost_usd=1.0, sync_cost_usd=4.0, flex_cost_usd=2.0)
    job = Job(
        id="j", fingerprint="f", provider="openai", conn_id="c", created_at="2026-11-01T00:00:00Z", rows=1,
        shards=(), estimate={"m": estimate},
    )  # fmt: skip
    for lane, cost in (("batch", 1.0), ("flex", 2.0), ("online", 4.0)):
        assert estimated_cost(job, lane) == cost
        check_budget(job, cost, lane=lane)
        with pytest.raises(BudgetExceeded, match=rf"at most 1 out, \${cost:.2f}\."):
            check_budget(job, cost - 0.5, lane=lane)
