"""What an answer of OpenAI's API used, or of a server that speaks it: tokens by kind, and the vendor's own tools."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_llm_batch.providers.coerce import members, objects, whole, word
from airflow_llm_batch.providers.openai.models import NEVER_REASON, plain_name
from airflow_llm_batch.results import Result

#: cached tokens, and those written to a cache, in OpenAI's details of a prompt and in other servers' usage (DeepSeek:
#: prompt_cache_hit_tokens; Moonshot: cached_tokens; LiteLLM and OpenRouter: the others)
CACHED = ("cached_tokens", "cache_read_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
WRITTEN = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
#: tokens of the prompt and of the answer, by the names of either API: some gateways write both, one of them as 0
ASKED = ("prompt_tokens", "input_tokens")
SPENT = ("completion_tokens", "output_tokens")
#: where usage tells which of the vendor's own tools ran how often (xAI; Anthropic's behind LiteLLM and OpenRouter), and
#: the ends of the tools' names there. xAI's older search is billed by its sources
RAN = ("server_side_tool_usage_details", "server_tool_use")
TOOL_COUNT = re.compile("(_(calls|requests))+$")
#: in the names of models that search with each call, which OpenAI bills and does not count
SEARCHES = ("-search-preview", "-search-api")
#: output items of the Responses API that are tools of the vendor's own, billed by use
TOOL_ITEM = "_call"
SEARCH, OLD_SEARCH = "web_search", "web_search_preview"
#: what a search may do besides searching
FREE_ACTIONS = ("open_page", "find_in_page", "find")
#: those of them that the customer's side runs, and what is asked of it
OURS = frozenset({"function_call", "custom_tool_call"})


def read_billing(body: dict[str, Any], result: Result) -> None:
    """The model, and what was used."""
    result.model = word(body.get("model"))
    result.service_tier = word(body.get("service_tier"))
    usage = members(body.get("usage"))
    # Embeddings have no output tokens at all: theirs is nothing, not unknown; a total that is told alone is the prompt.
    embeds = "data" in body
    # No prompt is empty: where 0 is told, nobody has counted.
    asked_for = most(ASKED, usage)
    if embeds and not asked_for and not most(SPENT, usage):
        asked_for = whole(usage.get("total_tokens"))
    result.input_tokens = asked_for or None
    asked = members(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    used = members(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    result.cached_tokens, result.cache_write_tokens = most(CACHED, asked, usage), most(WRITTEN, asked, usage)
    result.reasoning_tokens = whole(used.get("reasoning_tokens"))
    spent = most(SPENT, usage)
    total = None if embeds else whole(usage.get("total_tokens"))
    result.output_tokens = answer_tokens(spent or 0, result, total) if usage else spent
    audio = {"audio_input_tokens": asked.get("audio_tokens"), "audio_output_tokens": used.get("audio_tokens")}
    ran = {f"{name}_calls": count for where in RAN for name, count in members(usage.get(where)).items()}
    beside = {**audio, **ran, "live_search_calls": usage.get("num_sources_used")}
    counted = {TOOL_COUNT.sub("", name): count for name, given in beside.items() if (count := whole(given))}
    result.tool_uses = counted or None
    if any(name in (result.model or "") for name in SEARCHES):
        searched(result)


def most(names: Sequence[str], *details: Mapping[str, Any]) -> int | None:
    """The count that servers spell in many ways: some tell it twice, and once as 0."""
    counts = [count for place in details for name in names if (count := whole(place.get(name))) is not None]
    return max(counts, default=None)


def answer_tokens(spent: int, result: Result, total: int | None) -> int:
    """All tokens that are billed as output.

    xAI counts the tokens of reasoning beside ``completion_tokens``, and Gemini's compatible address those of thoughts
    in ``total_tokens`` alone; both bill them.
    """
    if total is not None and result.input_tokens is not None:
        return max(spent, total - result.input_tokens)
    thought = result.reasoning_tokens or 0
    return spent + thought if thought > spent else spent


def searched(result: Result) -> None:
    """A search that the vendor ran, and bills, without telling how often."""
    if SEARCH not in (result.tool_uses or {}):
        result.tool_uses = {**(result.tool_uses or {}), SEARCH: 0}


def uses_of(items: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> dict[str, int]:
    """Which of the vendor's own tools ran, as often as they are billed: on the web that is searches, and not pages that
    are opened and looked through (OpenAI's guide to web search)."""
    ran = [item for item in items if str(item.get("type")).endswith(TOOL_ITEM) and item["type"] not in OURS]
    billed = [item for item in ran if members(item.get("action")).get("type") not in FREE_ACTIONS]
    uses = Counter(str(item["type"]).removesuffix(TOOL_ITEM) for item in billed)
    # The older tool costs models that do not reason another price; an answer repeats which one was asked for.
    older = any(str(tool.get("type")).startswith(OLD_SEARCH) for tool in objects(body.get("tools")))
    if older and NEVER_REASON.match(plain_name(word(body.get("model")) or "")) and (searches := uses.pop(SEARCH, 0)):
        uses[OLD_SEARCH] = searches
    return dict(uses)
