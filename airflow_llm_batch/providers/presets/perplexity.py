"""Perplexity's batches of its Agent API, which is OpenAI's Responses API with members of its own.

Source: docs.perplexity.ai (Batch API) and the types of ``perplexityai`` 0.46.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.models import Limits
from airflow_llm_batch.providers.coerce import amount, members, objects, whole
from airflow_llm_batch.providers.openai.models import refuse
from airflow_llm_batch.providers.openai.protocol import CHAT, RESPONSES
from airflow_llm_batch.providers.presets.charging import Charging
from airflow_llm_batch.providers.presets.kin import facts
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

#: members of a request, as the SDK's ``ResponsesRequestInput`` has them
TAKEN = frozenset(
    {"effort", "input", "instructions", "language_preference", "max_output_tokens", "max_steps", "model", "models"}
    | {"preset", "previous_response_id", "profile", "prompt_cache_key", "reasoning", "response_format", "service_tier"}
    | {"skills", "step_budget_reminder", "store", "temperature", "tool_choice", "tools", "top_p"}
)


class Perplexity(Charging):
    name = price_id = "perplexity"
    title = "Perplexity (Agent API)"
    documented = "https://docs.perplexity.ai/docs/agent-api/batch"
    default_base_url = "https://api.perplexity.ai/v1"
    # Neither limits nor a discount are documented.
    default_limits = Limits(requests=10_000, bytes=100_000_000)
    endpoints = frozenset({CHAT, RESPONSES})
    found_by = "metadata"
    is_idempotent = True
    idempotency_header = "idempotency-key"
    facts = facts("30 days")._replace(schemas="fitted")

    def translate(self, request: Request) -> Request:
        made = super().translate(request._replace(api="responses") if request.endpoint == CHAT else request)
        return made._replace(body=agent_body(made.body))

    def decode(self, line: dict[str, Any]) -> Result:
        result = super().decode(line)
        body = members(members(line.get("response")).get("body"))
        used = members(members(body.get("usage")).get("tool_calls_details"))
        # Tools that it runs are billed by use.
        counted = {tool: whole(members(uses).get("invocation")) or 0 for tool, uses in used.items()}
        result.tool_uses = {**(result.tool_uses or {}), **counted} or None
        return result

    def charged(self, usage: Mapping[str, Any]) -> float | None:
        return amount(members(usage.get("cost")).get("total_cost"))


def agent_body(body: dict[str, Any]) -> dict[str, Any]:
    """A body of the Responses API as the Agent API takes it; the same object where nothing is to be changed.

    :raises InputError: names what it has no member for.
    """
    text = members(body.get("text"))
    asked = members(text.get("format"))
    if "text" in body:
        if text.keys() - {"format"} or asked.get("type") not in (None, "text", "json_schema"):
            refuse(f"Perplexity's Agent API takes no text={body['text']!r}", "ask for a JSON schema, or remove it")
        body = {name: value for name, value in body.items() if name != "text"}
        if asked.get("type") == "json_schema":
            schema = {name: value for name, value in asked.items() if name != "type"}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if unknown := sorted(name for name in body.keys() - TAKEN if body[name] not in (None, False)):
        refuse(f"Perplexity's Agent API has no {', '.join(unknown)}", "remove it")
    if any(name not in TAKEN for name in body):
        body = {name: value for name, value in body.items() if name in TAKEN}
    items = body.get("input")
    if isinstance(items, list) and any(part.get("type") == "output_text" for part in parts_of(items)):
        body["input"] = [plain(item) for item in items]
    return body


def parts_of(items: list[Any]) -> list[dict[str, Any]]:
    return [part for item in objects(items) for part in objects(item.get("content"))]


def plain(item: Any) -> Any:
    """A message whose texts are ``input_text``, whoever has said them: the SDK's type of a part knows no other."""
    if not isinstance(item, dict) or not isinstance(item.get("content"), list):
        return item
    parts = [{**p, "type": "input_text"} if members(p).get("type") == "output_text" else p for p in item["content"]]
    return {**item, "content": parts}
