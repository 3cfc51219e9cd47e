"""Prompt tokens as the vendors' documentation has them counted.

OpenAI: its cookbook, "How to count tokens with tiktoken": by the model's encoding where it is on this machine, else
four bytes to a token; three tokens for each message and one for its name, three that prime the reply; functions by
``num_tokens_for_tools``. Anthropic: about 3.5 characters to a token (glossary), 30 percent more from Opus 4.7 and
Sonnet 5 on (token counting), 346 tokens of a system prompt where there are tools (tool use); the five around a prompt
are those of the guide's first example.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import Any

from airflow_llm_batch.tokenizers import CL100K, O200K, tokenizer

BYTES_PER_TOKEN = 4
OLDER = re.compile(r"gpt-(3|4(?![o.]))|text-embedding")
FINER = re.compile(r"opus-4-[789](?!\d)|(opus|sonnet|haiku|fable|mythos)-5")
AROUND, TOOLS = 5, 346
#: characters of texts whose counts are kept
SHORT = 2000


def tokens(text: str) -> int:
    """Four bytes to a token."""
    return max(1, -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN))


def openai_tokens(text: str, model: str) -> int:
    if not text:
        return 0
    # Roles, instructions and schemas are the same in every row.
    return (counted if len(text) <= SHORT else counted.__wrapped__)(text, CL100K if OLDER.search(model) else O200K)


@lru_cache(4096)
def counted(text: str, vocabulary: str) -> int:
    known = tokenizer(vocabulary)
    return known.count(text) if known is not None else tokens(text)


def chat_tokens(messages: list[tuple[str, str, str]], tools: Any, wanted: Any, model: str) -> int:
    """:param messages: role, name and text of each; :param wanted: the schema of the answer."""
    total = 3
    for role, name, text in messages:
        total += 3 + openai_tokens(role, model) + openai_tokens(text, model)
        total += openai_tokens(name, model) + 1 if name else 0
    if tools:
        total += 12 + sum(tool_tokens(tool, model) for tool in tools if isinstance(tool, dict))
    return total + (openai_tokens(json.dumps(wanted, separators=(",", ":")), model) if wanted else 0)


def tool_tokens(tool: dict[str, Any], model: str) -> int:
    inner = tool.get("function")
    function = inner if isinstance(inner, dict) else tool
    if "name" not in function:
        return openai_tokens(json.dumps(tool), model)
    total = 10 if OLDER.search(model) else 7
    total += openai_tokens(f"{function['name']}:{(function.get('description') or '').removesuffix('.')}", model)
    properties = (function.get("parameters") or {}).get("properties") or {}
    total += 3 if properties else 0
    for key, held in properties.items():
        total += 3
        if "enum" in held:
            total += sum(3 + openai_tokens(str(item), model) for item in held["enum"]) - 3
        total += openai_tokens(f"{key}:{held.get('type')}:{(held.get('description') or '').removesuffix('.')}", model)
    return total


def words(value: Any) -> str:
    """What a tool says, without the signs around it: so the guide's second example comes near its 403 tokens."""
    if isinstance(value, dict):
        return " ".join(f"{name} {words(inner)}" for name, inner in value.items())
    return " ".join(map(words, value)) if isinstance(value, list) else str(value)


def claude_tokens(text: str, model: str) -> int:
    """A character of a script that is not Latin is a token of its own."""
    wide = sum(ord(character) > 0x2E7F for character in text) if not text.isascii() else 0
    return math.ceil(((len(text) - wide) / 3.5 + wide) * (1.3 if FINER.search(model) else 1))
