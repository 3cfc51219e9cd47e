"""What a row is billed: every spelling of usage comes to the tokens and dollars that the vendor asks for."""

import json
from types import SimpleNamespace

import httpx
import msgspec
import pytest

from airflow_llm_batch.estimate import Estimate
from airflow_llm_batch.jobs.landing.figures import costs
from airflow_llm_batch.jobs.money.agreed import Negotiated
from airflow_llm_batch.jobs.money.budget import priced
from airflow_llm_batch.jobs.money.likely import likely
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import PICO
from airflow_llm_batch.jobs.money.tally import Tally
from airflow_llm_batch.jobs.money.tokens import kind_of
from airflow_llm_batch.providers.anthropic.protocol import Anthropic
from airflow_llm_batch.providers.gemini.protocol import Gemini
from airflow_llm_batch.providers.openai.protocol import OpenAI
from airflow_llm_batch.providers.openrouter.protocol import OpenRouter
from airflow_llm_batch.providers.presets.litellm import LiteLLM
from airflow_llm_batch.providers.presets.perplexity import Perplexity
from airflow_llm_batch.providers.xai.protocol import XAI
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

OPENAI, ANTHROPIC, GEMINI = OpenAI("http://h"), Anthropic("http://h"), Gemini("http://h")
#: dollars for a million tokens
RATES = Negotiated.model_validate({"input": 1, "cached": 0.1, "cache_write": 1.25, "output": 10, "batch_factor": 1})


def answer(usage, model="m", **message):
    said = {"role": "assistant", "content": "fine", **message}
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": "stop"}
    body = {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}
    line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
    return OPENAI.read(json.dumps(line).encode())


def used(prompt, completion, total=None, prompt_details=None, details=None, **more):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    named = {"total_tokens": total, "prompt_tokens_details": prompt_details, "completion_tokens_details": details}
    return {**usage, **{name: value for name, value in named.items() if value is not None}}


OUTPUT = [
    (used(100, 10, 110), 10),
    (used(100, 10), 10),
    (used(100, 10, 110, details={"reasoning_tokens": 8}), 10),
    # xAI: reasoning beside the completion (docs.x.ai, consumption)
    (used(100, 10, 3110, details={"reasoning_tokens": 3000}), 3010),
    (used(100, 10, details={"reasoning_tokens": 3000}), 3010),
    # Gemini's compatible address: thoughts in the total alone
    (used(100, 10, 1110), 1010),
    (used(100, None, 1110), 1010),
    (used(100, 10, 0), 10),
]


@pytest.mark.parametrize(("usage", "output"), OUTPUT)
def test_all_output_is_counted(usage, output):
    """Thoughts too, wherever the vendor counts them."""
    assert answer(usage).output_tokens == output


COUNTED = [
    # both APIs' names at once, one of them unused (new-api)
    ({**used(0, 0, 110), "input_tokens": 100, "output_tokens": 10}, (100, 10)),
    ({**used(100, 10, 110), "input_tokens": 0, "output_tokens": 0}, (100, 10)),
    ({**used(None, None), "input_tokens": 100, "output_tokens": 10}, (100, 10)),
    # nobody has counted the prompt
    (used(0, 0, 0), (None, 0)),
    (used(0, 10, 10), (None, 10)),
    (used(None, 10), (None, 10)),
    ({"completion_tokens": 10}, (None, 10)),
]


@pytest.mark.parametrize(("usage", "counts"), COUNTED)
def test_no_answer_has_an_empty_prompt(usage, counts):
    """What was not counted has no price, and never none."""
    result = answer(usage, "gpt-4o-mini")
    assert (result.input_tokens, result.output_tokens) == counts
    cost = Prices("openai", "0.5").cost(result, "gpt-4o-mini")
    dollars = None if counts[0] is None else (100 * 0.15 + 10 * 0.6) / 10**6 / 2
    assert cost is None if dollars is None else cost.paid == pytest.approx(dollars * PICO)


@pytest.mark.parametrize("status", [200, 422])
def test_a_body_that_is_a_text_is_read(status):
    """It was paid for as any other; a text that is no JSON is the error it always was."""
    body = {
        "model": "m",
        "usage": used(100, 10, 110),
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
    }
    refusal = {"object": "error", "message": "bad", "type": "invalid_request_error"}
    for text in json.dumps(body if status == 200 else refusal), "bad":
        line = {"custom_id": "a", "response": {"status_code": status, "body": text}, "error": None}
        result = OPENAI.read(json.dumps(line).encode())
        if status == 200 and text != "bad":
            assert (result.status, result.text, result.input_tokens) == ("succeeded", "x", 100)
        else:
            assert (result.status, result.error_message) == ("errored", "bad")


RAN = [
    ({"num_sources_used": 0}, None),
    ({"num_sources_used": 5}, {"live_search": 5}),
    ({"server_side_tool_usage_details": {"web_search_calls": 0, "x_search_calls": 2}}, {"x_search": 2}),
    ({"server_tool_use": {"web_search_requests": 3}}, {"web_search": 3}),
    ({"server_tool_use": None, "server_side_tool_usage_details": {}}, None),
]


@pytest.mark.parametrize(("more", "uses"), RAN)
def test_tools_that_usage_counts_are_billed(more, uses):
    """xAI's, and those of vendors behind gateways: nothing else in the answer tells of them."""
    result = answer(used(100, 10, 110, **more))
    assert result.tool_uses == uses
    cost = Prices("openai", "0.5", {"m": RATES}).cost(result, "m")
    assert cost is None if uses else cost.paid == 200 * PICO // 10**6


@pytest.mark.parametrize("prompt", [{"prompt_tokens": None}, {}, {"prompt_tokens": 7}, {"prompt_tokens": 0}])
def test_the_total_of_a_vector_is_its_prompt(prompt):
    """Voyage tells no other count."""
    body = {"object": "list", "model": "m", "data": [{"embedding": [0.5]}], "usage": {**prompt, "total_tokens": 7}}
    line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
    result = OPENAI.read(json.dumps(line).encode())
    assert (result.input_tokens, result.output_tokens) == (7, 0)


@pytest.mark.parametrize(("spent", "paid"), [(0, 0), (5, None)])
def test_a_refusal_without_a_token_costs_nothing(spent, paid):
    """What was not counted is not known only where there was an answer."""
    refused = Result(status="refused", input_tokens=None, output_tokens=spent)
    cost = Prices("openai", "0.5", {"m": RATES}).cost(refused, "m")
    assert (cost and cost.paid) == paid


@pytest.mark.parametrize("names", [("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")])
def test_a_total_beside_its_parts_is_no_prompt(names):
    """Pictures come as data, too, and what they took is output."""
    asked, spent = names
    usage = {asked: 50, spent: 4160, "total_tokens": 4210}
    line = {"custom_id": "a", "response": {"status_code": 200, "body": {"data": [{"b64_json": "x"}], "usage": usage}}}
    assert OPENAI.read(json.dumps(line).encode()).input_tokens == 50


def test_a_vector_has_no_output():
    """Whatever its total holds."""
    body = {"object": "list", "model": "e", "data": [{"embedding": [0.5]}]}
    for usage in ({"prompt_tokens": 5, "total_tokens": 9}, {"prompt_tokens": 5}):
        line = {"custom_id": "a", "response": {"status_code": 200, "body": {**body, "usage": usage}}}
        result = OPENAI.read(json.dumps(line).encode())
        assert (result.input_tokens, result.output_tokens) == (5, 0)


CACHES = [
    (used(1000, 0, prompt_details={"cached_tokens": 900}), 900, None),
    (used(1000, 0, prompt_cache_hit_tokens=900, prompt_cache_miss_tokens=100), 900, None),  # DeepSeek
    (used(1000, 0, cached_tokens=900), 900, None),  # Moonshot
    (used(1000, 0, prompt_details={"cached_tokens": 0}, cached_tokens=900), 900, None),
    (
        used(
            1000, 0, prompt_details={"cached_tokens": 0, "cache_creation_tokens": 900}, cache_creation_input_tokens=900
        ),
        0,
        900,
    ),  # LiteLLM, OpenRouter
    (used(1000, 0, cache_read_input_tokens=900, cache_creation_input_tokens=50), 900, 50),
    (used(1000, 0, prompt_details={"cached_tokens": 100, "cache_write_tokens": 200}), 100, 200),
]


@pytest.mark.parametrize(("usage", "cached", "written"), CACHES)
def test_caches_are_counted_in_any_spelling(usage, cached, written):
    """And billed at their own rates."""
    result = answer(usage)
    assert (result.cached_tokens, result.cache_write_tokens) == (cached, written)
    cost = Prices("openai", "1", {"m": RATES}).cost(result, "m")
    rest = 1000 - cached - (written or 0)
    assert cost.paid == round((rest + 0.1 * cached + 1.25 * (written or 0)) * PICO / 1e6)


HEARD = used(1000, 1000, 2000, {"cached_tokens": 0, "audio_tokens": 1000}, {"audio_tokens": 1000})
BOTH = used(1000, 1000, 2000, {"audio_tokens": 400}, {"audio_tokens": 600})
AUDIO = [
    # OpenAI, pricing: gpt-audio text 2.50 in and 10 out, audio 32 in and 64 out for a million tokens
    ("gpt-audio", HEARD, 0.032 + 0.064),
    ("gpt-audio", BOTH, (600 * 2.5 + 400 * 32 + 400 * 10 + 600 * 64) / 1e6),
    ("gpt-audio", used(1000, 1000, 2000, {"audio_tokens": 2000}), None),
    ("gpt-audio", used(1000, 1000, 2000, {"audio_tokens": 500, "cached_tokens": 100}), None),
    ("gpt-4o-mini", HEARD, None),
    ("m", HEARD, None),
]


@pytest.mark.parametrize(("model", "usage", "dollars"), AUDIO)
def test_audio_has_its_own_price_or_none(model, usage, dollars):
    """Where the table and the customer's prices do not know it, the cost is null, never that of text."""
    cost = Prices("openai", "0.5", {"m": RATES}).cost(answer(usage, model), model, called=True)
    assert (cost and cost.paid) == (dollars and round(dollars * PICO))


PICTURE = {"inlineData": {"mimeType": "image/png", "data": "AA"}}
GRAPH = [{"executableCode": {"code": "plot()"}}, {"codeExecutionResult": {"output": ""}}, PICTURE, {"text": "a"}]
DRAWN = [
    # Google, pricing: 2.5 Flash Image 0.30 in, 2.50 out, pictures 30 for a million tokens, in a batch half of it
    ("gemini-2.5-flash-image", [PICTURE], {"IMAGE": 1290}, (100 * 0.15 + 10 * 1.25 + 1290 * 15) / 1e6),
    # Nano Banana Pro: 2 in, 12 out, pictures 120
    (
        "gemini-3-pro-image-preview",
        [{"text": "a"}, PICTURE],
        {"IMAGE": 1120, "TEXT": 180},
        100e-6 + 180 * 6e-6 + 0.0672,
    ),
    ("gemini-2.5-flash-image", [{"text": "a"}], {"TEXT": 1300}, (100 * 0.15 + 1300 * 1.25) / 1e6),
    ("gemini-2.5-flash-image", [PICTURE], {}, None),
    ("gemini-2.5-flash-image", [PICTURE], {"IMAGE": 1301}, None),
    ("gemini-2.5-flash", [PICTURE], {"IMAGE": 1290}, None),
    ("gemini-2.5-flash", GRAPH, {}, (100 * 0.15 + 1300 * 1.25) / 1e6),
]


@pytest.mark.parametrize(("model", "parts", "details", "dollars"), DRAWN)
def test_a_picture_costs_what_pictures_cost(model, parts, details, dollars):
    """Its tokens are among those of the answer, and twelve times as dear or more; what nobody tells has no price."""
    usage = {
        "promptTokenCount": 100,
        "candidatesTokenCount": 1300,
        "candidatesTokensDetails": [{"modality": kind, "tokenCount": count} for kind, count in details.items()],
    }
    candidate = {"content": {"parts": parts}, "finishReason": "STOP"}
    line = {"key": "a", "response": {"modelVersion": model, "candidates": [candidate], "usageMetadata": usage}}
    cost = Prices("google", "0.5").cost(GEMINI.read(json.dumps(line).encode()), model)
    assert (cost and cost.paid) == (dollars and pytest.approx(dollars * PICO))


@pytest.mark.parametrize("spelled", ["promptTokenDetails", "promptTokensDetails"])
def test_what_is_embedded_costs_by_its_kind(spelled):
    """Gemini Embedding 2, by the table: text 0.20, pictures 0.45, sound 6.50, films 12 for a million tokens."""
    kinds = {"TEXT": 42, "IMAGE": 258, "AUDIO": 100, "VIDEO": 600}
    details = [{"modality": kind, "tokenCount": count} for kind, count in kinds.items()]
    answer = {"embedding": {"values": [0.5]}, "usageMetadata": {"promptTokenCount": 1000, spelled: details}}
    result = GEMINI.read(json.dumps({"key": "a", "response": answer}).encode())
    cost = Prices("google", "0.5").cost(result, "gemini-embedding-2", called=True)
    assert cost.paid == pytest.approx((42 * 0.2 + 258 * 0.45 + 100 * 6.5 + 600 * 12) * 1e-6 * PICO)


@pytest.mark.parametrize(
    ("model", "million"), [("gemini-2.5-flash-image", 30), ("gemini-3-pro-image-preview", 120), ("gemini-2.5-pro", 10)]
)
def test_the_budget_of_a_model_that_draws_is_one_of_pictures(model, million):
    """Whatever it draws, the bill is not above the estimate."""
    estimate = Estimate(requests=1000, input_tokens=0, output_tokens=10**6, largest=1)
    found = priced(model, estimate, Prices("google", "0.5"), caches_by_itself=False)
    assert (found.cost_usd, found.sync_cost_usd) == (pytest.approx(million / 2), pytest.approx(million))
    assert likely(model, found, Prices("google", "0.5")).likely_usd == pytest.approx(million / 2, rel=1e-3)


NOTED = [{"type": "url_citation", "url_citation": {"url": "u"}}]
SEARCHED = [
    ("gpt-4o-search-preview-2025-03-11", {}),
    ("gpt-5-search-api", {}),
    ("gpt-4o", {"annotations": NOTED}),
    ("m", {"annotations": NOTED}),
]


@pytest.mark.parametrize(("model", "message"), SEARCHED)
def test_a_search_that_nobody_has_counted_has_no_price(model, message):
    """OpenAI bills it by the call, beside tokens, and its usage does not tell."""
    result = answer(used(10, 5, 15), model, **message)
    assert result.tool_uses == {"web_search": 0}
    assert Prices("openai", "0.5", {"m": RATES}).cost(result, model, called=True) is None


def searched(model, *actions, tool="web_search"):
    """A Responses answer after what was done on the web; None for a search that says no more."""
    calls = [{"type": "web_search_call", **({"action": {"type": one}} if one else {})} for one in actions]
    message = {"type": "message", "content": [{"type": "output_text", "text": "x"}]}
    body = {"object": "response", "status": "completed", "model": model, "tools": [{"type": tool}]}
    body |= {"output": [*calls, message], "usage": {"input_tokens": 1000, "output_tokens": 0}}
    line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
    return OPENAI.read(json.dumps(line).encode())


WEB = [
    (("search", "open_page", "find_in_page", "search"), "web_search", "gpt-5-mini", 0.02),
    ((None, "open_page"), "web_search", "gpt-5-mini", 0.01),
    (("open_page",), "web_search", "gpt-5-mini", 0),
    (("search",), "web_search", "gpt-4o", 0.01),
    # $25 for models that do not reason, $10 for those that do
    (("search",), "web_search_preview", "gpt-4o-2024-08-06", None),
    (("search",), "web_search_preview_2025_03_11", "gpt-4.1", None),
    (("search",), "web_search_preview", "gpt-5-mini", 0.01),
    (("open_page",), "web_search_preview", "gpt-4o", 0),
]


@pytest.mark.parametrize(("actions", "tool", "model", "fee"), WEB)
def test_searches_are_billed_and_pages_are_not(actions, tool, model, fee):
    """OpenAI's guide to web search, and its price list of tools."""
    prices = Prices("openai", "0.5")
    tokens = prices.cost(searched(model), model).paid
    cost = prices.cost(searched(model, *actions, tool=tool), model)
    assert cost is None if fee is None else cost.paid - tokens == pytest.approx(fee * PICO)


def claude(usage, model):
    message = {"model": model, "stop_reason": "end_turn", "content": [{"type": "text", "text": "x"}], "usage": usage}
    line = {"custom_id": "a", "result": {"type": "succeeded", "message": message}}
    return ANTHROPIC.read(json.dumps(line).encode())


TURN = {"type": "message", "input_tokens": 1000, "output_tokens": 100}
PAST = {"input_tokens": 20_000, "output_tokens": 500, "cache_read_input_tokens": 30_000}
WROTE = {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600}
ADVICE = {"type": "advisor_message", "model": "claude-opus-4-7", "input_tokens": 9000, "output_tokens": 900}
#: what stands beside 1,000 tokens in and 100 out of Sonnet 4.6, and the dollars for a million of it outside of batches
BESIDE = [
    ({"iterations": [TURN]}, 0),
    ({"iterations": []}, 0),
    # compacting is billed as the answer is, and not in its totals (platform.claude.com: compaction)
    ({"iterations": [{"type": "compaction", **PAST}, TURN]}, 20_000 * 3 + 500 * 15 + 30_000 * 0.3),
    ({"iterations": [{"type": "compaction", "cache_creation": WROTE}, TURN]}, 400 * 3.75 + 600 * 6),
    # caches by their time alone
    ({"cache_creation": WROTE}, 400 * 3.75 + 600 * 6),
    ({"cache_creation": WROTE, "cache_creation_input_tokens": 0}, 400 * 3.75 + 600 * 6),
    ({"cache_creation": WROTE, "cache_creation_input_tokens": 1000}, 400 * 3.75 + 600 * 6),
    # the declined try of a fallback is not billed
    ({"iterations": [{"type": "message", **PAST}, {**TURN, "type": "fallback_message"}]}, 0),
    # another model's rates (platform.claude.com, advisor tool: usage and billing)
    ({"iterations": [TURN, ADVICE]}, None),
    # a model without a fast price
    ({"speed": "standard"}, 0),
    ({"speed": "fast"}, None),
]


@pytest.mark.parametrize(("more", "beside"), BESIDE)
def test_what_stands_beside_the_totals_is_billed(more, beside):
    """By the answer's own rates, or by none that is known."""
    result = claude({"input_tokens": 1000, "output_tokens": 100, **more}, "claude-sonnet-4-6")
    cost = Prices("anthropic", "0.5").cost(result, "claude-sonnet-4-6", called=True)
    assert cost is None if beside is None else cost.paid == pytest.approx((4500 + beside) / 10**6 * PICO)


def test_an_answer_at_a_higher_speed_costs_more():
    """Twice as much with Opus 4.8, what is read from a cache too."""
    usage = {"input_tokens": 1000, "output_tokens": 100, "cache_read_input_tokens": 1000, "speed": "fast"}
    prices = Prices("anthropic", "0.5")
    fast, usual = (claude(one, "claude-opus-4-8") for one in (usage, {**usage, "speed": "standard"}))
    assert prices.cost(fast, "m", called=True).paid == 2 * prices.cost(usual, "m", called=True).paid


TRAFFIC = [
    ("ON_DEMAND", None, 1),
    ("ON_DEMAND_FLEX", "flex", 0.5),
    ("ON_DEMAND_PRIORITY", "priority", None),
    # bought by the hour, and not by the token
    ("PROVISIONED_THROUGHPUT", "provisioned_throughput", None),
]


@pytest.mark.parametrize(("traffic", "tier", "share"), TRAFFIC)
def test_vertex_tells_the_tier_by_the_traffic(traffic, tier, share):
    """A call by another than the usual one costs what that costs; a batch has none."""
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 10, "trafficType": traffic}
    answer = {"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}
    response = {"candidates": [answer], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}
    result = GEMINI.read(json.dumps({"key": "a", "response": response}).encode())
    prices = Prices("google", "0.5", flex="0.5")
    usual = (1000 * 0.3 + 10 * 2.5) / 10**6 * PICO
    called = prices.cost(result, "gemini-2.5-flash", called=True)
    assert result.service_tier == tier
    assert called is None if share is None else called.paid == pytest.approx(usual * share)
    assert prices.cost(result, "gemini-2.5-flash").paid == pytest.approx(usual / 2)


def test_thoughts_are_counted():
    """Among the output, as every vendor's are."""
    usage = {"input_tokens": 1, "output_tokens": 9, "output_tokens_details": {"thinking_tokens": 7}}
    assert [claude({**usage, **more}, "m").reasoning_tokens for more in ({}, {"speed": "fast"})] == [7, 7]


def test_nobody_has_counted_an_empty_prompt():
    """Likewise at Anthropic's kin; what was read from a cache is a prompt."""
    for usage in {"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 0, "output_tokens": 9, "iterations": [TURN]}:
        assert claude(usage, "claude-sonnet-4-6").input_tokens is None
    assert claude({"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 5}, "m").input_tokens == 5


@pytest.mark.parametrize(("geo", "factor"), [("us", 1.1), ("global", 1), ("not_available", 1), (None, 1)])
def test_inference_in_the_us_costs_a_tenth_more(geo, factor):
    """Anthropic, pricing, data residency: all kinds of tokens, in batches too; searches cost the same."""
    usage = {"input_tokens": 1000, "output_tokens": 1000, "inference_geo": geo}
    message = {"model": "claude-opus-4-6", "stop_reason": "end_turn", "content": [{"type": "text", "text": "x"}]}
    prices = Prices("anthropic", "0.5")
    for tools, extra in ({}, 0), ({"server_tool_use": {"web_search_requests": 2}}, 0.02):
        answer = {"type": "succeeded", "message": {**message, "usage": {**usage, **tools}}}
        result = ANTHROPIC.read(json.dumps({"custom_id": "a", "result": answer}).encode())
        assert result.inference_geo == geo
        cost = prices.cost(result, "claude-opus-4-6")
        assert cost.paid == pytest.approx((0.015 * factor + extra) * PICO)


STORED = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"conversation": {"id": "conv_1"}}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"prompt": "a text", "previous_response_id": None}, ""),
    ({"prompt": [1, 2, 3]}, ""),
]


@pytest.mark.parametrize(("more", "named"), STORED)
def test_a_prompt_that_the_vendor_keeps_cannot_be_estimated(more, named):
    """The Responses API adds it to what the line shows: what it is called is told."""
    unknown = kind_of(Request("/v1/responses", {"model": "m", "input": "x", **more}), OPENAI).unknown
    assert (named in unknown) if named else unknown == ""


def test_a_name_is_looked_up_once():
    """A deployment may be called like another model: it has the price of what is behind it, and not of one further."""
    deployments = {"cheap": "gpt-4o-mini", "gpt-4o-mini": "gpt-4o"}
    used = Result(status="succeeded", input_tokens=1000, cached_tokens=0, output_tokens=10)
    named = Prices("openai", "0.5", model_of=lambda name: deployments.get(name, name))
    for name, model in deployments.items():
        assert named.cost(used, name) == Prices("openai", "0.5").cost(used, model)
    assert named.cost(used, "cheap") != named.cost(used, "gpt-4o-mini")


#: usage as the vendor documents it, and the dollars that it says were charged
CHARGED = [
    # openrouter.ai/docs, usage accounting; ``is_byok`` as its types have it
    (OpenRouter, {"cost": 0.95, "cost_details": {"upstream_inference_cost": None}}, 0.95),
    (OpenRouter, {"cost": 0.95, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.95}}, 0.95),
    # by a key of one's own: what its owner pays beside OpenRouter's fee
    (OpenRouter, {"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 1}}, 1.05),
    (OpenRouter, {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 1}}, 1),
    (OpenRouter, {"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, None),
    (OpenRouter, {"cost": 0.05, "is_byok": True}, None),
    # free, which both have to say
    (OpenRouter, {"cost": 0, "is_byok": False, "cost_details": {"upstream_inference_cost": 0}}, 0),
    (OpenRouter, {"cost": 0, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}, None),
    (OpenRouter, {"cost": 0, "cost_details": {"upstream_inference_cost": 0}}, None),
    (OpenRouter, {"cost": False, "is_byok": False, "cost_details": {"upstream_inference_cost": False}}, None),
    # docs.x.ai, cost tracking: its own example
    (XAI, {"cost_in_usd_ticks": 37756000}, 0.0037756),
    # perplexityai 0.46, ``ResponsesUsage``
    (Perplexity, {"cost": {"currency": "USD", "input_cost": 0.1, "output_cost": 0.2, "total_cost": 0.35}}, 0.35),
    # what is no amount says nothing; nor does 0, which gateways write where nobody has reckoned
    *((vendor, {}, None) for vendor in (OpenRouter, XAI, Perplexity)),
    *((OpenRouter, {"cost": cost}, None) for cost in (0, None, "0.95", True, -1, {}, [1], 1e300)),
    *((XAI, {"cost_in_usd_ticks": ticks}, None) for ticks in (0, None, "1", -5, {})),
    *((Perplexity, {"cost": cost}, None) for cost in (None, 0.35, {}, {"total_cost": None}, [])),
    # of any other server nobody has documented what it means
    *((vendor, {"cost": 0.95, "cost_in_usd_ticks": 5}, None) for vendor in (OpenAI, LiteLLM)),
]


@pytest.mark.parametrize(("vendor", "cost", "dollars"), CHARGED)
def test_what_a_vendor_says_that_it_has_charged_is_read(vendor, cost, dollars):
    """Beside an answer as frequent as any, and of a row that failed."""
    usage = {"prompt_tokens": 194, "completion_tokens": 2, "total_tokens": 196, **cost}
    choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
    provider = vendor("http://h")
    for more in ({"choices": [choice]}, {"error": {"message": "no"}}):
        body = {"model": "m", "usage": usage, **more}
        line = json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None})
        assert provider.read(line.encode()).cost_usd == dollars


def test_a_charge_is_the_cost_unless_another_was_agreed_on():
    """The list price stays beside it, for what batches and caches save; it is unknown where there is no list."""
    used = Result(status="succeeded", model="gpt-5-mini", input_tokens=1000, output_tokens=100)
    paid = msgspec.structs.replace(used, cost_usd=0.5)
    prices = Prices("openai", "0.5")
    listed = prices.cost(used, "gpt-5-mini")
    assert prices.cost(paid, "gpt-5-mini") == listed._replace(paid=PICO // 2)
    nobodys = msgspec.structs.replace(paid, model="nobody-knows")
    assert prices.cost(nobodys, "") == (PICO // 2, None, None)
    assert prices.cost(msgspec.structs.replace(nobodys, input_tokens=None), "") == (PICO // 2, None, None)
    # A discount that is not known hides no charge.
    assert Prices("openai").cost(paid, "gpt-5-mini", called=True).paid == PICO // 2
    agreed = Prices("openai", "0.5", {"*": RATES})
    assert agreed.cost(paid, "gpt-5-mini") == agreed.cost(used, "gpt-5-mini")


@pytest.mark.parametrize("cached", [0, 800])
def test_a_sum_of_charges_knows_what_it_does_not_know(cached):
    """Without a list there is a cost, and no saving; what caches have saved goes by the list."""
    paid = Result(status="succeeded", model="gpt-5-mini", input_tokens=1000, output_tokens=100, cost_usd=0.5)
    paid.cached_tokens = cached
    prices, tally = Prices("openai", "0.5"), Tally()
    tally.add(paid, *costs(paid, "", prices.cost))
    assert (tally.total.cost_usd, tally.total.saving_usd < 0) == (0.5, True)
    unlisted = msgspec.structs.replace(paid, model="nobody-knows", cached_tokens=0)
    bare, read = (msgspec.structs.replace(paid, cost_usd=None, cached_tokens=n) for n in (0, cached))
    saved = prices.cost(bare, "").paid - prices.cost(read, "").paid
    assert (tally.total.cache_saving_usd, saved > 0) == (pytest.approx(saved / PICO), bool(cached))
    tally.add(unlisted, *costs(unlisted, "", prices.cost))
    # And as an earlier round's manifest tells it.
    again = Tally()
    again.add_usage(SimpleNamespace(usage=tally.usage()))
    for total in (tally.total, again.total):
        assert (total.cost_usd, total.requests) == (1, 2)
        assert [total.batch_cost_usd, total.sync_cost_usd, total.saving_usd, total.cache_saving_usd] == [None] * 4


HEADERS = [
    ("0.000415", 0.000415),
    ("4.15e-07", 4.15e-07),
    *((text, None) for text in ("0.0", "None", "nan", "inf", "")),
]


@pytest.mark.parametrize(("header", "dollars"), HEADERS)
@pytest.mark.parametrize("body", [b'{"model":"small","usage":{"prompt_tokens":2}}', b"{}", b'{"usage": 5}', b'{"cut'])
def test_a_proxy_tells_what_a_call_has_cost_beside_its_answer(header, dollars, body):
    """By its own prices, of a model that has a name there alone; the answer stays what it is."""
    provider = LiteLLM("http://h")
    response = httpx.Response(200, content=body, headers={"x-litellm-response-cost": header})
    kept = provider.body_of(response)
    if body == b'{"cut':
        assert kept == body
        return
    assert {**json.loads(kept), "x-litellm-response-cost": None} == {
        **json.loads(body),
        "x-litellm-response-cost": None,
    }
    result = provider.read(provider.answered("a", 200, kept))
    assert result.cost_usd == dollars
    assert provider.read(provider.answered("a", 200, body)).cost_usd is None
