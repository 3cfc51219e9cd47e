"""The neutral chat request as Mistral's API takes it, which answers an unknown member with 422.

Source: the types of ``mistralai`` 3.7 (ChatCompletionRequest, EmbeddingRequest, messages).
"""

from __future__ import annotations

from typing import Any

from airflow_llm_batch.providers.openai.models import refuse

#: members of a chat; ``stream`` has no place in a batch
CHAT_MEMBERS = frozenset(
    {"frequency_penalty", "guardrails", "logprobs", "max_tokens", "messages", "metadata", "min_tokens", "model", "n"}
    | {"parallel_tool_calls", "prediction", "presence_penalty", "prompt_cache_key", "prompt_logprobs", "prompt_mode"}
    | {"random_seed", "reasoning_effort", "repetition_penalty", "response_format", "safe_prompt", "service_tier"}
    | {"stop", "temperature", "tool_choice", "tools", "top_k", "top_logprobs", "top_p", "top_prompt_logprobs"}
)
EMBEDDING_MEMBERS = frozenset({"encoding_format", "input", "metadata", "model", "output_dimension", "output_dtype"})
#: members of a message, by whose it is
MESSAGE_MEMBERS = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
HOTTEST = 1.5
#: OpenAI's names and Mistral's
RENAMED = {"seed": "random_seed", "dimensions": "output_dimension"}


def mistral_body(body: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """A body in Mistral's words; the same object where nothing is to be changed.

    :param known: the members that it may have.
    :raises InputError: names what Mistral has no member for.
    """
    if any(name in RENAMED and RENAMED[name] in known for name in body):
        body = {RENAMED[name] if RENAMED.get(name) in known else name: value for name, value in body.items()}
    body = without(body, known, "Mistral has no")
    if isinstance(heat := body.get("temperature"), int | float) and not 0 <= heat <= HOTTEST:
        # The whole file would be refused.
        refuse(f"temperature is {heat}, and Mistral takes 0 to {HOTTEST}", "choose one between")
    if "messages" not in body or not isinstance(body["messages"], list):
        return body
    messages = [mistral_message(message) for message in body["messages"]]
    same = all(new is old for new, old in zip(messages, body["messages"], strict=True))
    return body if same else {**body, "messages": messages}


def mistral_message(message: Any) -> Any:
    """A message without members that say nothing; a developer's is the system's.

    :raises InputError: for a member that says something and that Mistral does not take.
    """
    if not isinstance(message, dict):
        return message
    if message.get("role") == "developer":
        message = {**message, "role": "system"}
    role = str(message.get("role"))
    if role not in MESSAGE_MEMBERS:
        refuse(f"Mistral takes no message of role {role!r}", f"use one of {', '.join(MESSAGE_MEMBERS)}")
    return without(message, MESSAGE_MEMBERS[role], f"Mistral takes no message of role {role!r} with")


def without(given: dict[str, Any], known: frozenset[str], said: str) -> dict[str, Any]:
    """An object without unknown members that say nothing: null, false, nothing in them.

    :raises InputError: names the others, after what is ``said``.
    """
    if given.keys() <= known:
        return given
    if wrong := sorted(name for name in given.keys() - known if says(given[name])):
        refuse(f"{said} {', '.join(wrong)}", "remove it")
    return {name: value for name, value in given.items() if name in known}


def says(value: Any) -> bool:
    return value not in (None, False, "", [], {})
