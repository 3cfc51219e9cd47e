"""The neutral request as the body that a model's own family reads (InvokeModel), or else as Converse's.

Source: Bedrock's user guide, inference request parameters and response fields for foundation models: Anthropic's
messages, OpenAI's chat completions (gpt-oss), Mistral's chat and text completion, Meta's Llama; structured outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.anthropic.chat import fitted_params, message_params
from airflow_llm_batch.providers.anthropic.models import check_params
from airflow_llm_batch.providers.bedrock.blocks import unpacked
from airflow_llm_batch.providers.bedrock.converse import NO_OP, converse_body, nova_body
from airflow_llm_batch.providers.bedrock.names import Family, refuse, vendors_name
from airflow_llm_batch.providers.bedrock.schemas import fitted
from airflow_llm_batch.providers.coerce import members, objects
from airflow_llm_batch.providers.openai.chat import chat_body

INVOKE, CONVERSE = "invoke", "converse"
#: of the API that Anthropic's bodies speak on Bedrock, and that whose rules they obey
ANTHROPIC_VERSION, RULES = "bedrock-2023-05-31", "2023-06-01"
#: what Anthropic's own address takes, and Bedrock does not
NOT_ON_BEDROCK = ("service_tier", "inference_geo", "container", "mcp_servers", "metadata", "context_management")
#: what bodies in OpenAI's words may hold where the model is not OpenAI's
CHAT = frozenset({"messages", "max_tokens", "temperature", "top_p", "stop", "tools", "tool_choice", "response_format"})
#: families whose own body is less than Converse can say
SMALL: frozenset[Family] = frozenset({"llama", "mistral-text", "nova"})
Body = dict[str, Any]


def chat_request(
    family: Family, model: str, body: Mapping[str, Any], form: str, stored_media: bool, betas: Any
) -> tuple[str, Body]:
    """``invoke`` or ``converse``, and the body.

    :param model: bare, for rules and messages.
    :param form: ``auto``, ``InvokeModel`` or ``Converse``.
    :param betas: of Anthropic's API, for its bodies.
    :raises InputError: names what cannot be expressed.
    """
    if form == "Converse" or (form == "auto" and (family == "other" or (family == "open" and not asks_tools(body)))):
        return CONVERSE, converse_body(family, model, body, stored_media)
    try:
        return INVOKE, own_body(family, model, body, stored_media, betas)
    except InputError:
        if form == "InvokeModel" or family not in SMALL:
            raise
        try:
            return CONVERSE, converse_body(family, model, body, stored_media)
        except InputError:
            pass
        raise


def asks_tools(body: Mapping[str, Any]) -> bool:
    return bool(body.get("tools")) or any(
        members(message).get("role") == "tool" for message in body.get("messages") or ()
    )


def own_body(family: Family, model: str, body: Mapping[str, Any], stored_media: bool, betas: Any) -> Body:
    if family == "anthropic":
        return anthropic_body(model, body, betas)
    if family == "nova":
        return nova_body(model, body, stored_media)
    if family in ("openai", "mistral", "open"):
        return chat(family, model, body)
    if family in ("llama", "mistral-text"):
        return prompted(family, model, body)
    return refuse(f"a conversation in {model}'s own body", "set invocation_type to auto in the connection's extra")


def anthropic_body(model: str, body: Mapping[str, Any], betas: Any = None) -> Body:
    return claude_body(model, message_params(dict(body)), betas)


def claude_body(model: str, params: Mapping[str, Any], betas: Any = None) -> Body:
    """Anthropic's own parameters as Bedrock takes them.

    :raises InputError: for what the model, a batch or Bedrock would refuse.
    """
    if not isinstance(params.get("max_tokens"), int) or params["max_tokens"] < 1:
        refuse(f"a request to {model} with max_tokens={params.get('max_tokens')!r}", "set max_tokens, 1 or more")
    for name in NOT_ON_BEDROCK:
        if params.get(name) is not None:
            refuse(f"the parameter {name!r} for {model}", "remove it")
    if params.get("stream"):
        refuse("stream in a batch", "remove it")
    for message in objects(params.get("messages")):
        parts = objects(message.get("content"))
        inner = [
            part for result in parts if result.get("type") == "tool_result" for part in objects(result.get("content"))
        ]
        for part in [*parts, *inner]:
            if members(part.get("source")).get("type") in ("url", "file"):
                refuse(
                    f"{part.get('type')!r} by address or id for {model}, which Bedrock does not fetch",
                    "give what it holds in base64: data:image/png;base64,...",
                )
    check_params({**params, "model": vendors_name(model)}, RULES)
    kept = {name: value for name, value in fitted_params(dict(params)).items() if name not in ("model", "stream")}
    marked = {"anthropic_beta": betas} if betas and "anthropic_beta" not in kept else {}
    return {"anthropic_version": ANTHROPIC_VERSION, **marked, **kept}


def chat(family: Family, model: str, body: Mapping[str, Any]) -> Body:
    """A body in OpenAI's words: gpt-oss takes them all, Mistral and the other open models these few."""
    made = {name: value for name, value in chat_body(dict(body), cap_name(family)).items() if name != "model"}
    for name in list(made):
        if family != "openai" and name not in CHAT:
            if made[name] is not None and NO_OP.get(name, ...) != made[name]:
                refuse(
                    f"the parameter {name!r} for {model}", "remove it, or send it with RawRequest(endpoint='invoke')"
                )
            del made[name]
    check_parts(family, model, made.get("messages"))
    asked = members(members(made.get("response_format")).get("json_schema"))
    if isinstance(asked.get("schema"), dict):
        # Bedrock's own rules, which are narrower than OpenAI's.
        schema = members(members(body.get("response_format")).get("json_schema")).get("schema")
        format_ = {"name": asked.get("name"), "schema": fitted(dict(members(schema)), "an output schema")}
        made["response_format"] = {"type": "json_schema", "json_schema": format_}
    if family == "mistral" and made.get("tool_choice") not in (None, "auto", "none", "any"):
        made["tool_choice"] = any_tool(model, made)
    return made


def cap_name(family: Family) -> Any:
    return lambda name: "max_completion_tokens" if family == "openai" else "max_tokens"


def any_tool(model: str, body: Mapping[str, Any]) -> str:
    """Mistral's word for a tool that has to be called, which names none."""
    named = members(members(body.get("tool_choice")).get("function")).get("name")
    if named and len(body.get("tools") or ()) > 1:
        refuse(f"a choice of the tool {named!r} among several for {model}", "give that tool alone")
    return "any"


def check_parts(family: Family, model: str, messages: Any) -> None:
    """:raises InputError: for images by address, images where the model sees none, and marks of a cache."""
    for message in objects(messages):
        parts = objects(message.get("content"))
        if any(members(given).get("cache_control") for given in [message, *parts]):
            refuse(f"cache_control for {model}", "remove it")
        for part in parts:
            if part.get("type") == "image_url":
                url = str(members(part.get("image_url")).get("url"))
                if family == "openai" and "gpt-oss" in model:
                    refuse(f"an image for {model}, which reads text alone", "choose another model")
                if not url.startswith("data:"):
                    refuse(
                        f"an image by its address {url[:60]!r}, which Bedrock does not fetch", "give data:...;base64"
                    )
                if not unpacked(url)[0].startswith("image/"):
                    refuse(f"an image of type {unpacked(url)[0]!r}", "give an image")


#: what stands between the turns of Llama 3's template; a text that holds it would end its own turn
LLAMA_MARKS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
MISTRAL_MARKS = ("<s>", "</s>", "[INST]", "[/INST]")


def prompted(family: Family, model: str, body: Mapping[str, Any]) -> Body:
    """A conversation as one prompt in the model's own template.

    :raises InputError: for all that is no text, and a text that holds the template's own marks.
    """
    llama = family == "llama"
    cap = "max_gen_len" if llama else "max_tokens"
    names = {"max_tokens": cap, "max_completion_tokens": cap, "temperature": "temperature", "top_p": "top_p"}
    if not llama:
        names |= {"stop": "stop", "top_k": "top_k"}
    made: Body = {"prompt": ""}
    for name, value in body.items():
        if name == "messages":
            turns = plain_turns(model, value, LLAMA_MARKS if llama else MISTRAL_MARKS)
            made["prompt"] = (llama_prompt if llama else mistral_prompt)(turns)
        elif name in names and value is not None:
            made[names[name]] = [value] if name == "stop" and isinstance(value, str) else value
        elif name != "model" and asks(name, value):
            refuse(f"the parameter {name!r} for {model}", "remove it")
    return made


def asks(name: str, value: Any) -> bool:
    """Whether a parameter asks for anything."""
    free_text = name == "response_format" and members(value).get("type") == "text"
    return value is not None and NO_OP.get(name, ...) != value and not free_text


def plain_turns(model: str, messages: Any, marks: tuple[str, ...]) -> list[tuple[str, str]]:
    """``(role, text)`` of each message; system messages are one at the front."""
    turns: list[tuple[str, str]] = []
    for message in messages or ():
        role, content = message.get("role"), message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else objects(content)
        if role not in ("system", "developer", "user", "assistant") or message.get("tool_calls"):
            refuse(f"a message of role {role!r} for {model}", "use system, user and assistant, without tools")
        if any(part.get("type") not in ("text", "input_text", "output_text") for part in parts):
            refuse(f"anything but text in the prompt of {model}", "choose another model")
        if any(members(given).get("cache_control") for given in [message, *parts]):
            refuse(f"cache_control for {model}", "remove it")
        text = "".join(str(part.get("text") or "") for part in parts)
        if mark := next((mark for mark in marks if mark in text), None):
            refuse(
                f"a text with {mark!r} in {model}'s prompt, where it is a mark",
                "set invocation_type to Converse",
            )
        if role == "user" and not text.strip():
            refuse("a message without text", "the prompt of this row is empty; filter such rows out")
        turns.append(("system" if role == "developer" else role, text))
    if not any(role == "user" for role, _ in turns):
        refuse("a conversation without a message of the user", "give one")
    system = "\n".join(text for role, text in turns if role == "system" and text)
    return [*([("system", system)] if system else []), *(turn for turn in turns if turn[0] != "system")]


def llama_prompt(turns: list[tuple[str, str]]) -> str:
    said = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in turns)
    return f"<|begin_of_text|>{said}<|start_header_id|>assistant<|end_header_id|>\n\n"


def mistral_prompt(turns: list[tuple[str, str]]) -> str:
    """The template has no role for a system prompt: it stands before what the user says first."""
    prompt, system = "<s>", ""
    for role, text in turns:
        if role == "system":
            system = f"{text}\n\n"
        elif role == "user":
            prompt += f"[INST] {system}{text} [/INST]"
            system = ""
        else:
            prompt += f" {text}</s>"
    return prompt
