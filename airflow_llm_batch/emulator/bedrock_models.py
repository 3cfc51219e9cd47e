"""Answers of the models behind Bedrock, each family's in its own body, and Converse's.

Source: Bedrock's user guide (inference request parameters and response fields), API reference (Converse).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from airflow_llm_batch.emulator import answers
from airflow_llm_batch.emulator.answers import Bad
from airflow_llm_batch.emulator.schema_rules import anthropic_problem

ANTHROPIC_VERSION = "bedrock-2023-05-31"
STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
#: a text, what a model says before it stands in the prompt templates of Llama and Mistral
LLAMA_USER = re.compile(r"<\|start_header_id\|>user<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", re.DOTALL)
MISTRAL_USER = re.compile(r"\[INST\](.*?)\[/INST\]", re.DOTALL)
COHERE_SIZE, TITAN_SIZE = 1536, 1024
Answer = dict[str, Any] | Bad


def invalid(message: str) -> Bad:
    return Bad(400, "ValidationException", message)


def invoke(model: str, body: Any) -> Answer:
    """What InvokeModel answers.

    :param model: an id, a profile or an ARN.
    """
    if not isinstance(body, dict):
        return invalid("Malformed input request, please reformat your input and try again.")
    answer = next((answer for pattern, answer in MODELS if re.search(pattern, model)), None)
    if answer is None:
        return invalid("The provided model identifier is invalid.")
    said = answer(model, body)
    return invalid(said.message) if isinstance(said, Bad) else said


def claude(model: str, body: dict[str, Any]) -> Answer:
    if body.get("anthropic_version") != ANTHROPIC_VERSION:
        return invalid("anthropic_version: Field required")
    if odd := {"model", "stream", "service_tier", "metadata"} & body.keys():
        return invalid(f"{min(odd)}: Extra inputs are not permitted")
    kept = {name: value for name, value in body.items() if name not in ("anthropic_version", "anthropic_beta")}
    return answers.message({**kept, "model": re.sub(r"^.*anthropic\.|-v\d+:\d+$", "", model)})


def chat(model: str, body: dict[str, Any]) -> Answer:
    """OpenAI's chat completion, as gpt-oss and other open models answer it."""
    said = answers.chat({**body, "model": model}, int(time.time()))
    if not isinstance(said, Bad) and "gpt-oss" in model and said["choices"][0]["message"]["content"] is not None:
        message = said["choices"][0]["message"]
        message["content"] = f"<reasoning>It wants an echo.</reasoning>{message['content']}"
    return said


def mistral(model: str, body: dict[str, Any]) -> Answer:
    if "messages" not in body:
        return prompt_only(model, body)
    if body.get("tool_choice") not in (None, "auto", "any", "none"):
        return invalid("tool_choice must be one of auto, any, none")
    forced = {"tool_choice": "required"} if body.get("tool_choice") == "any" else {}
    said = answers.chat({**body, **forced, "model": model}, int(time.time()))
    if isinstance(said, Bad):
        return said
    choices = [
        {"index": c["index"], "message": c["message"], "stop_reason": c["finish_reason"]} for c in said["choices"]
    ]
    return {"choices": choices, "usage": said["usage"], "model": said["model"], "object": "chat.completion"}


def prompt_only(model: str, body: dict[str, Any]) -> Answer:
    """Mistral's text completion."""
    said = prompted(body, "max_tokens", MISTRAL_USER)
    return said if isinstance(said, Bad) else {"outputs": [{"text": said.text, "stop_reason": said.finish}]}


def llama(model: str, body: dict[str, Any]) -> Answer:
    if odd := body.keys() - {"prompt", "temperature", "top_p", "max_gen_len", "images"}:
        return invalid(f"Malformed input request: #: extraneous key [{min(odd)}] is not permitted")
    said = prompted(body, "max_gen_len", LLAMA_USER)
    if isinstance(said, Bad):
        return said
    return {
        "generation": said.text,
        "prompt_token_count": said.input_tokens,
        "generation_token_count": said.output_tokens,
        "stop_reason": said.finish,
    }


def prompted(body: dict[str, Any], cap: str, user: re.Pattern[str]) -> answers.Reply | Bad:
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return invalid("Malformed input request: #: required key [prompt] not found")
    said = user.findall(prompt)
    return answers.reply((said[-1] if said else prompt).strip(), prompt, None, [], body.get(cap), False)


def converse(model: str, body: Any, *, tools: bool = True) -> Answer:
    """What Converse answers.

    :param tools: whether it takes any: a batch does not.
    """
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        return invalid("The messages field is required and must not be empty.")
    if problem := converse_problem(body, tools):
        return invalid(problem)
    schema = text_schema(body)
    if schema is not None and (problem := anthropic_problem(schema)):
        return invalid(f"outputConfig.textFormat: {problem}")
    specs = [
        tool["toolSpec"] for tool in answers.members_of(body.get("toolConfig")).get("tools", ()) if "toolSpec" in tool
    ]
    offered = [(spec["name"], spec["inputSchema"]["json"]) for spec in specs]
    choice = answers.members_of(answers.members_of(body.get("toolConfig")).get("toolChoice"))
    answered = any("toolResult" in block for block in blocks_of(body))
    named = answers.members_of(choice.get("tool")).get("name")
    said = answers.reply(
        text_of(body["messages"][-1]["content"]),
        "\n".join(
            [text_of(body.get("system") or []), *(text_of(m["content"]) for m in body["messages"]), json.dumps(specs)]
        ),
        schema,
        [] if answered else answers.named_first(offered, named),
        answers.members_of(body.get("inferenceConfig")).get("maxTokens"),
        False,
    )
    key = answers.digest(json.dumps(body, sort_keys=True))
    content: list[dict[str, Any]] = [] if said.text is None else [{"text": said.text}]
    content += [{"toolUse": {"toolUseId": f"tooluse_{key[:22]}", "name": n, "input": a}} for n, a in said.calls]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": STOPS[said.finish],
        "usage": {
            "inputTokens": said.input_tokens,
            "outputTokens": said.output_tokens,
            "totalTokens": said.input_tokens + said.output_tokens,
        },
        "metrics": {"latencyMs": 1},
    }


def nova(model: str, body: dict[str, Any]) -> Answer:
    """Nova's own body, which is Converse's but for its parameters' places."""
    if odd := body.keys() - {"schemaVersion", "system", "messages", "inferenceConfig", "toolConfig", "reasoningConfig"}:
        return invalid(f"Malformed input request: #: extraneous key [{min(odd)}] is not permitted")
    for tool in answers.members_of(body.get("toolConfig")).get("tools", ()):
        schema = answers.members_of(answers.members_of(tool.get("toolSpec")).get("inputSchema")).get("json")
        if schema is not None and (odd := schema.keys() - {"type", "properties", "required"}):
            return invalid(f"The schema of a tool has [{min(odd)}] at its top level.")
    if any("document" in block for block in blocks_of(body)):
        return invalid("Malformed input request: documents are not permitted")
    said = converse(model, body)
    if isinstance(said, Bad):
        return said
    usage = {**said["usage"], "cacheReadInputTokenCount": 0, "cacheWriteInputTokenCount": 0}
    return {"output": said["output"], "stopReason": said["stopReason"], "usage": usage}


def converse_problem(body: dict[str, Any], tools: bool) -> str | None:
    if body.get("toolConfig") and not tools:
        return "Tool calling is not supported in batch inference with the Converse invocation type."
    previous = None
    for message in body["messages"]:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            return "Value at 'messages.role' failed to satisfy constraint: Member must satisfy enum value set."
        if not isinstance(message.get("content"), list) or not message["content"]:
            return "The content field in the Message object is empty. Add a ContentBlock object and try again."
        if message["role"] == previous or (previous is None and message["role"] != "user"):
            return "A conversation must start with a user message and alternate between user and assistant."
        previous = message["role"]
    for block in blocks_of(body):
        if "text" in block and not str(block["text"]).strip():
            return "The text field in the ContentBlock object is blank. Add text to the text field, and try again."
        if sum(name != "cachePoint" for name in block) > 1:
            return "A ContentBlock has one member."
    return None


def text_schema(body: dict[str, Any]) -> Any:
    """The schema that an answer in text has to fit, which travels as a text."""
    wanted = answers.members_of(answers.members_of(body.get("outputConfig")).get("textFormat"))
    text = answers.members_of(answers.members_of(wanted.get("structure")).get("jsonSchema")).get("schema")
    return json.loads(text) if isinstance(text, str) else None


def blocks_of(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        yield from (block for block in content or () if isinstance(block, dict))


def text_of(content: Any) -> str:
    texts = []
    for block in content if isinstance(content, list) else []:
        result = answers.members_of(block.get("toolResult"))
        texts.append(block.get("text") or text_of(result.get("content")) or ("[image]" if "image" in block else ""))
    return "\n".join(filter(None, texts))


def titan_vector(model: str, body: dict[str, Any]) -> Answer:
    text = body.get("inputText")
    if not isinstance(text, str) or not text:
        return invalid("Malformed input request: #: required key [inputText] not found")
    image = answers.members_of(body.get("embeddingConfig")).get("outputEmbeddingLength")
    vector = answers.unit_vector(text, image or body.get("dimensions") or TITAN_SIZE)
    counted: dict[str, Any] = {"embedding": vector, "inputTextTokenCount": answers.tokens(text)}
    return {**counted, "embeddingsByType": {"float": vector}} if "-v2" in model else counted


def cohere_vectors(model: str, body: dict[str, Any]) -> Answer:
    texts = body.get("texts")
    if not isinstance(texts, list) or not 0 < len(texts) <= 96 or not body.get("input_type"):
        return invalid("Malformed input request: #: required keys [texts, input_type] not found, or more than 96 texts")
    vectors = [answers.unit_vector(str(text), body.get("output_dimension") or COHERE_SIZE) for text in texts]
    by_type = bool(body.get("embedding_types"))
    return {
        "id": answers.digest(str(texts))[:36],
        "embeddings": {"float": vectors} if by_type else vectors,
        "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
        "texts": texts,
    }


#: the first whose pattern is found in the model's id
MODELS: tuple[tuple[str, Callable[[str, dict[str, Any]], Answer]], ...] = (
    (r"anthropic\.claude", claude),
    (r"amazon\.titan-embed", titan_vector),
    (r"cohere\.embed", cohere_vectors),
    (r"amazon\.nova", nova),
    (r"meta\.llama", llama),
    (r"mistral\.", mistral),
    (r"(openai|qwen|deepseek|google|nvidia|moonshot|moonshotai|minimax|zai)\.", chat),
)
