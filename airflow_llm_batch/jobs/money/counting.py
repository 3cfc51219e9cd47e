"""Prompt tokens of a request: what of its body the model reads, counted by a tokenizer or by its length.

Tools and schemas are counted as vendors are known to write them into a prompt; nobody documents that of schemas.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from airflow_llm_batch.data.values import to_json
from airflow_llm_batch.providers.coerce import members, objects
from airflow_llm_batch.providers.counting import Counting
from airflow_llm_batch.tokenizers import CL100K, Tokenizer, tokenizer

#: where bodies hold what the model reads, in all dialects
PROMPTS = (
    "messages", "input", "prompt", "system", "instructions", "contents", "systemInstruction", "system_instruction",
    "content", "inputText", "texts", "query", "message", "chat_history", "documents", "request", "requests",
)  # fmt: skip
#: and what of that is no text of it: names, media, marks
SILENT = frozenset(
    {"type", "role", "id", "tool_call_id", "tool_use_id", "toolUseId", "call_id", "cache_control", "cachePoint"}
    | {"prompt_cache_breakpoint", "url", "image_url", "image", "video", "audio", "input_audio", "file", "file_data"}
    | {"file_id", "fileData", "inlineData", "inline_data", "mimeType", "mime_type", "detail", "signature", "status"}
    | {"thoughtSignature", "thought_signature", "model", "taskType", "task_type", "format", "media_resolution"}
)
#: members that hold the arguments of a call, which are read as JSON
ARGUMENTS = frozenset({"input", "args"})
#: bytes that are neither letters nor blanks: they make shorter tokens, as in code, tables and numbers
SIGNS = bytes(c for c in range(33, 127) if not chr(c).isalpha())
#: bytes of UTF-8 that are no ASCII, and those with which characters from U+3000 on begin
BEYOND, EAST = bytes(range(0x80, 0x100)), bytes(range(0xE3, 0xEE))
#: the share of signs in prose, and how much more than a letter each further one counts
USUAL, MORE = 0.06, 2.5
#: OpenAI's rule for functions: around each (older models: cl100k_base), around all of them, properties, an enum
FUNCTION, OLD_FUNCTION, FUNCTIONS, PROPERTIES, PROPERTY, ENUM, ITEM = 7, 10, 12, 3, 3, -3, 3


class Length(NamedTuple):
    """What of a text decides on its tokens where nobody counts them.

    :param latin: characters of ASCII, ``signs`` among them.
    :param wide: of Chinese, Japanese and Korean; ``other``, of all other scripts.
    """

    latin: int = 0
    signs: int = 0
    wide: int = 0
    other: int = 0

    def __add__(self, more: Any) -> Length:
        return Length(self[0] + more[0], self[1] + more[1], self[2] + more[2], self[3] + more[3])


class Counted(NamedTuple):
    """What a model reads of a request.

    :param texts: of its messages, in order; None for a body in words that are not known here.
    :param rest: tokens of everything else: what stands around messages, tools, schemas.
    """

    texts: list[str] | None
    rest: int


class Counter:
    """Counts the tokens of one model's texts.

    :ivar exact: the tokenizer, None where it is not there.
    """

    def __init__(self, counting: Counting) -> None:
        self.counting = counting
        self.exact: Tokenizer | None = tokenizer(counting.vocabulary) if counting.vocabulary else None

    @property
    def basis(self) -> str:
        """How it counts, for people."""
        return f"counted by {self.exact.name} ({self.exact.vocabulary})" if self.exact else "from length"

    def count(self, *texts: str) -> float:
        if self.exact is not None:
            return sum(map(self.exact.count, texts))
        return self.tokens(sum(map(length_of, texts), Length()))

    def tokens(self, length: Length) -> float:
        """By the length of a text and the kind of it: prose, code and numbers, scripts without an alphabet."""
        latin, signs, wide, other = length
        further = max(signs - USUAL * latin, 0)
        return (latin + MORE * further) / self.counting.characters + (wide + other / 2) * self.counting.wide

    def body(self, body: Mapping[str, Any]) -> Counted:
        """:param body: translated."""
        counting = self.counting
        texts = list(texts_of(body)) if any(name in body for name in PROMPTS) else None
        turns = body.get("messages", body.get("input"))
        messages = len(objects(turns)) if isinstance(turns, list) else 1
        rest: float = counting.request + counting.message * messages
        if isinstance(turns, list):
            rest += sum(self.count(str(turn["name"])) + 1 for turn in objects(turns) if turn.get("name"))
        tools = body.get("tools") or members(body.get("toolConfig")).get("tools")
        if tools:
            rest += counting.tools + self.tools(tools)
        rest += sum(map(self.json, schemas_of(body)))
        return Counted(texts, round(rest))

    def tools(self, tools: Any) -> float:
        """Functions, as the vendor is known to write them into the prompt."""
        if self.counting.vocabulary:
            return self.functions(tools)
        # The example of Anthropic's guide comes to what its tool says, without the signs around that.
        return self.count(words(tools)) if self.counting.tools else self.json(tools)

    def json(self, value: Any) -> float:
        """What is read as JSON: its signs are no more than letters, since they are always the same."""
        written = as_json(value)
        return self.exact.count(written) if self.exact is not None else len(written) / self.counting.characters

    def functions(self, tools: Any) -> float:
        """Functions by OpenAI's rule, which the vendor has published; anything else as JSON."""
        around = OLD_FUNCTION if self.counting.vocabulary == CL100K else FUNCTION
        count: float = FUNCTIONS
        for tool in objects(tools):
            function = members(tool.get("function")) or tool
            if not isinstance(function.get("name"), str):
                count += self.json(tool)
                continue
            count += around + self.count(f"{function['name']}:{plain(function.get('description'))}")
            properties = members(members(function.get("parameters")).get("properties"))
            count += PROPERTIES if properties else 0
            for name, schema in properties.items():
                held = members(schema)
                count += PROPERTY + self.count(f"{name}:{held.get('type')}:{plain(held.get('description'))}")
                if isinstance(held.get("enum"), list):
                    count += ENUM + sum(ITEM + self.count(str(item)) for item in held["enum"])
                if inner := {key: held[key] for key in ("properties", "items", "anyOf") if key in held}:
                    count += self.json(inner)
        return count


def length_of(text: str) -> Length:
    raw = text.encode("utf-8", "replace")
    signs = len(raw) - len(raw.translate(None, SIGNS))
    if len(raw) == len(text):
        return Length(len(raw), signs)
    latin, wide = len(raw.translate(None, BEYOND)), len(raw) - len(raw.translate(None, EAST))
    return Length(latin, signs, wide, max(len(text) - latin - wide, 0))


def plain(description: Any) -> str:
    return str(description or "").removesuffix(".")


def words(value: Any) -> str:
    """What a schema says, without the signs around it."""
    if isinstance(value, dict):
        return " ".join(f"{name} {words(inner)}" for name, inner in value.items())
    return " ".join(map(words, value)) if isinstance(value, list) else str(value)


def as_json(value: Any) -> str:
    try:
        return to_json(value).decode("utf-8", "replace")
    except (TypeError, ValueError, msgspec.MsgspecError):
        return str(value)


def texts_of(body: Mapping[str, Any]) -> Iterator[str]:
    """Every text that the model reads, media, tools and schemas aside."""
    for name in PROMPTS:
        if name in body:
            yield from texts_in(body[name])


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "source":
                # A document that is text is read as such.
                if members(inner).get("type") in ("text", "content"):
                    yield from texts_in(inner.get("data") or inner.get("content"))
            elif name in ARGUMENTS and isinstance(inner, dict):
                yield as_json(inner)
            elif name not in SILENT and name != "name":
                yield from texts_in(inner)
            elif name == "name" and isinstance(inner, str) and "role" not in value:
                yield inner


def schemas_of(body: Mapping[str, Any]) -> Iterator[Any]:
    """Schemas that the answer has to fit, in all dialects."""
    generation = members(body.get("generationConfig"))
    for found in (
        members(members(body.get("response_format")).get("json_schema")).get("schema"),
        members(members(body.get("text")).get("format")).get("schema"),
        members(members(body.get("output_config")).get("format")).get("schema"),
        generation.get("responseJsonSchema"),
        generation.get("responseSchema"),
    ):
        if found:
            yield found
