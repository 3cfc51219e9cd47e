"""Answers to model requests: echoes, filled schemas and tool calls; the same for the same request."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from array import array
from typing import Any, NamedTuple

from airflow_llm_batch.emulator import judge
from airflow_llm_batch.emulator.caches import problem_of
from airflow_llm_batch.emulator.counting import (
    AROUND,
    BYTES_PER_TOKEN,
    TOOLS,
    claude_tokens,
    openai_tokens,
    words,
)
from airflow_llm_batch.emulator.counting import chat_tokens as chat_tokens
from airflow_llm_batch.emulator.counting import tokens as tokens
from airflow_llm_batch.emulator.schemas import fill_schema


class Bad(NamedTuple):
    """A request the vendor would refuse: HTTP status, error type, message."""

    status: int
    kind: str
    message: str
    param: str | None = None


class Reply(NamedTuple):
    """What the model says. ``finish`` is OpenAI's word: ``stop``, ``length`` or ``tool_calls``."""

    text: str | None
    calls: list[tuple[str, Any]]
    finish: str
    input_tokens: int
    output_tokens: int


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def text_of(content: Any) -> str:
    """The text of a message's content, string or parts; images are named."""
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(
        part.get("text") or ("[image]" if "image" in str(part.get("type")) else text_of(part.get("content")))
        for part in parts
    )


def members_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def named_first(tools: list[tuple[str, Any]], name: str | None) -> list[tuple[str, Any]]:
    """The tools with the one in front that has to be called."""
    return sorted(tools, key=lambda tool: tool[0] != name) if name else tools


def asked_for(*parts: Any) -> list[str]:
    """Schemas and tools, which vendors count as prompt."""
    return [json.dumps(part, separators=(",", ":")) for part in parts if part]


def reply(
    prompt: str, everything: str, schema: Any, tools: list[tuple[str, Any]], cap: int | None, as_json: bool
) -> Reply:
    """:param tools: name and argument schema; :param everything: all that is read, for the token count."""
    asked = tokens(everything)
    if tools:
        name, arguments = tools[0]
        filled = fill_schema(arguments, prompt)
        return Reply(None, [(name, filled)], "tool_calls", asked, tokens(json.dumps(filled)))
    if schema is not None:
        text = json.dumps(fill_schema(schema, prompt))
    else:
        text = json.dumps({"echo": prompt}) if as_json else prompt
    if cap is not None and tokens(text) > cap:
        return Reply(text.encode()[: cap * BYTES_PER_TOKEN].decode("utf-8", "ignore"), [], "length", asked, cap)
    return Reply(text, [], "stop", asked, tokens(text))


def chat(body: dict[str, Any], created: int) -> dict[str, Any] | Bad:
    """A chat completion."""
    if not body.get("model"):
        return Bad(400, "invalid_request_error", "you must provide a model parameter", "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return Bad(400, "invalid_request_error", "Missing required parameter: 'messages'.", "messages")
    if problem := judge.chat_problem(body):
        return Bad(400, "invalid_request_error", *problem)
    wanted = body.get("response_format") or {}
    tools = [
        (t["function"]["name"], t["function"].get("parameters") or {})
        for t in body.get("tools") or ()
        if "function" in t
    ]
    answered = any(m.get("role") == "tool" for m in messages) or body.get("tool_choice") == "none"
    tools = named_first(tools, (members_of(body.get("tool_choice")).get("function") or {}).get("name"))
    prompt = text_of(messages[-1].get("content"))
    said = reply(
        prompt,
        "",
        (wanted.get("json_schema") or {}).get("schema") if wanted.get("type") == "json_schema" else None,
        [] if answered else tools,
        body.get("max_completion_tokens") or body.get("max_tokens"),
        wanted.get("type") == "json_object",
    )
    turns = [(str(m.get("role")), str(m.get("name") or ""), text_of(m.get("content"))) for m in messages]
    schema = (wanted.get("json_schema") or {}).get("schema")
    said = said._replace(input_tokens=chat_tokens(turns, body.get("tools"), schema, str(body["model"])))
    key = digest(json.dumps(body, sort_keys=True))
    choices = body.get("n") or 1
    message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None, "annotations": []}
    if said.calls:
        message["tool_calls"] = [
            {"id": f"call_{key[:24]}", "type": "function", "function": {"name": n, "arguments": json.dumps(a)}}
            for n, a in said.calls
        ]
    return {
        "id": f"chatcmpl-{key[:29]}",
        "object": "chat.completion",
        "created": created,
        "model": body["model"],
        "choices": [
            {"index": index, "message": message, "logprobs": logprobs(body, said), "finish_reason": said.finish}
            for index in range(choices)
        ],
        "usage": {
            "prompt_tokens": said.input_tokens,
            "completion_tokens": said.output_tokens * choices,
            "total_tokens": said.input_tokens + said.output_tokens * choices,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_emulator",
    }  # fmt: skip


def logprobs(body: dict[str, Any], said: Reply) -> dict[str, Any] | None:
    """A probability per word with the space behind it, where they were asked for."""
    if not body.get("logprobs"):
        return None

    def logprob(word: str, rank: int) -> dict[str, Any]:
        return {"token": word, "logprob": -0.1 - rank, "bytes": list(word.encode())}

    ranks = range(body.get("top_logprobs") or 0)
    tokens = [
        {**logprob(word, 0), "top_logprobs": [logprob(word + "?" * rank, rank) for rank in ranks]}
        for word in re.findall(r"\S+\s*|\s+", said.text or "")
    ]
    return {"content": tokens, "refusal": None}


def embeddings(body: dict[str, Any], created: int) -> dict[str, Any] | Bad:
    """Embedding vectors of unit length, the same for the same text."""
    if not body.get("model"):
        return Bad(400, "invalid_request_error", "you must provide a model parameter", "model")
    given = body.get("input")
    if not given:
        return Bad(400, "invalid_request_error", "'$.input' is invalid: it must not be empty.", "input")
    texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    size = body.get("dimensions") or (3072 if "large" in body["model"] else 1536)
    data = []
    for index, text in enumerate(texts):
        vector: Any = unit_vector(text if isinstance(text, str) else json.dumps(text), size)
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(array("f", vector).tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    used = sum(openai_tokens(text, body["model"]) if isinstance(text, str) else len(text) for text in texts)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def unit_vector(text: str, size: int) -> list[float]:
    draw = random.Random(digest(text)).random
    raw = [draw() - 0.5 for _ in range(size)]
    length = sum(x * x for x in raw) ** 0.5
    return [round(x / length, 8) for x in raw]


def completions(body: dict[str, Any], created: int) -> dict[str, Any] | Bad:
    """A completion of the old kind."""
    if not body.get("model"):
        return Bad(400, "invalid_request_error", "you must provide a model parameter", "model")
    said = reply(
        str(body.get("prompt") or ""), str(body.get("prompt") or ""), None, [], body.get("max_tokens", 16), False
    )
    return {
        "id": f"cmpl-{digest(str(body))[:29]}",
        "object": "text_completion",
        "created": created,
        "model": body["model"],
        "choices": [{"index": 0, "text": said.text, "logprobs": None, "finish_reason": said.finish}],
        "usage": {
            "prompt_tokens": said.input_tokens,
            "completion_tokens": said.output_tokens,
            "total_tokens": said.input_tokens + said.output_tokens,
        },
    }


def moderations(body: dict[str, Any], created: int) -> dict[str, Any] | Bad:
    """A moderation verdict: nothing is ever flagged."""
    given = body.get("input")
    if not given:
        return Bad(400, "invalid_request_error", "Missing required parameter: 'input'.", "input")
    names = (
        "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
        "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
    )  # fmt: skip
    verdict = {
        "flagged": False, "categories": dict.fromkeys(names, False), "category_scores": dict.fromkeys(names, 0.0),
        "category_applied_input_types": {name: ["text"] for name in names},
    }  # fmt: skip
    results = [verdict for _ in (given if isinstance(given, list) else [given])]
    return {
        "id": f"modr-{digest(str(given))[:24]}",
        "model": body.get("model", "omni-moderation-latest"),
        "results": results,
    }


def message(params: dict[str, Any], tier: str = "standard") -> dict[str, Any] | Bad:
    """An Anthropic message."""
    for name in ("model", "max_tokens", "messages"):
        if not params.get(name):
            return Bad(400, "invalid_request_error", f"{name}: Field required")
    if problem := judge.message_problem(params) or problem_of(params):
        return Bad(400, "invalid_request_error", problem)
    schema = ((params.get("output_config") or {}).get("format") or {}).get("schema")
    tools = [(t["name"], t["input_schema"]) for t in params.get("tools") or () if "input_schema" in t]
    messages = params["messages"]
    answered = any(
        isinstance(m.get("content"), list) and any(b.get("type") == "tool_result" for b in m["content"])
        for m in messages
    )
    if (params.get("tool_choice") or {}).get("type") == "none" or answered:
        tools = []
    tools = named_first(tools, (params.get("tool_choice") or {}).get("name"))
    read = "".join(
        [
            text_of(params.get("system")),
            *(text_of(m.get("content")) for m in messages),
            *asked_for(schema),
            words(params.get("tools") or []),
        ]
    )
    said = reply(
        text_of(messages[-1].get("content")),
        "",
        schema,
        tools,
        params["max_tokens"],
        False,
    )
    asked = AROUND + claude_tokens(read, str(params["model"])) + (TOOLS if params.get("tools") else 0)
    said = said._replace(input_tokens=asked)
    key = digest(json.dumps(params, sort_keys=True))
    content: list[dict[str, Any]] = [] if said.text is None else [{"type": "text", "text": said.text}]
    content += [{"type": "tool_use", "id": f"toolu_{key[:24]}", "name": n, "input": a} for n, a in said.calls]
    stops = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    return {
        "id": f"msg_{key[:24]}",
        "type": "message",
        "role": "assistant",
        "model": params["model"],
        "content": content,
        "stop_reason": stops[said.finish],
        "stop_sequence": None,
        "usage": {
            "input_tokens": said.input_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": said.output_tokens,
            "service_tier": tier,
        },
    }
