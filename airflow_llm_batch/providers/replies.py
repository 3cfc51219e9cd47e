"""A conversation carried on: what a model has answered, and what is said to that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_llm_batch.request import Request

Turn = Callable[[str, str], dict[str, Any]]


def with_reply(request: Request, answer: str, words: str) -> Request | None:
    """A translated request with the model's answer and what is said to it behind its prompt; None for what is no
    conversation.

    The shapes are those of the vendors' APIs: OpenAI's Chat Completions (and all of its kind) and Responses,
    Anthropic's Messages, Gemini's ``contents``, and Bedrock's Converse, whose texts are blocks without a type.
    """
    body = request.body
    if isinstance(turns := body.get("contents"), list):
        return carried_on(request, "contents", turns, parts, ("model", answer), words)
    if isinstance(turns := body.get("messages"), list):
        return carried_on(request, "messages", turns, turn_like(turns), ("assistant", answer), words)
    if "input" in body and request.endpoint.endswith("/responses"):
        said = body["input"]
        turns = said if isinstance(said, list) else [{"role": "user", "content": said}]
        return carried_on(request, "input", turns, plain, ("assistant", answer), words)
    return None


def carried_on(
    request: Request, name: str, turns: list[Any], turn: Turn, answered: tuple[str, str], words: str
) -> Request:
    """:param name: the member that has the turns.
    :param turn: makes one of a role and a text.
    """
    more = [turn(*answered), turn("user", words)]
    return request._replace(body={**request.body, name: [*turns, *more]})


def plain(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def parts(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": text}]}


def blocks(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"text": text}]}


def turn_like(turns: list[Any]) -> Turn:
    """How the turns that are there are written."""
    contents = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    found = [block for content in contents if isinstance(content, list) for block in content]
    return blocks if found and all(isinstance(block, dict) and "type" not in block for block in found) else plain
