"""The neutral chat request (OpenAI's format) as a body of the Converse API, and as Nova's own, which is almost that.

What has no counterpart is refused by name, never dropped. Source: Bedrock's API reference (Converse) and its user guide
(batch inference: no tools in the Converse form; structured outputs), Nova's user guides (request schema, extended
thinking, structured output by a tool that has to be called).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from airflow_llm_batch.providers.bedrock.blocks import cache_point, content_blocks, names_apart, tool_result, tool_use
from airflow_llm_batch.providers.bedrock.names import Family, refuse
from airflow_llm_batch.providers.bedrock.schemas import fitted, for_nova
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.schemas import schema_name

#: neutral parameters whose default asks for nothing
NO_OP: dict[str, Any] = {
    "n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0,
    "parallel_tool_calls": True,
}  # fmt: skip
#: Converse's own parameters, which may be given as they are
OWN = frozenset(
    {"guardrailConfig", "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "promptVariables"}
)
#: members of a message that say something, and have no place in Converse's
UNSPEAKABLE = ("name", "function_call", "refusal", "audio")
#: the tool that Nova has to call where an answer has to fit a schema: its arguments are the answer
ANSWER_TOOL = "structured_answer"
EFFORTS = ("low", "medium", "high")
#: whose models take a schema in Converse
WITH_SCHEMA = frozenset({"anthropic", "open", "openai", "mistral"})
Body = dict[str, Any]


class Converse:
    """One request on its way.

    :param family: of the model.
    :param native: Nova's own body, which takes tools in batches and has its parameters at the top.
    :param stored_media: ``s3://`` addresses are sent as they are.
    """

    def __init__(self, family: Family, model: str, *, native: bool = False, stored_media: bool = False) -> None:
        self.family, self.model, self.native, self.stored_media = family, model, native, stored_media
        self.body: Body = {"messages": []}
        self.system: list[Body] = []
        self.inference: Body = {}
        self.more: Body = {}
        self.tools: Body = {}
        #: the tool whose arguments are the answer
        self.answer: Body = {}

    def translate(self, body: Mapping[str, Any]) -> Body:
        """:raises InputError: names the parameter, role or content part that has no counterpart."""
        for name, value in body.items():
            if name in OWN:
                self.body[name] = value
            elif name in TRANSLATE:
                TRANSLATE[name](self, value)
            elif value is not None and NO_OP.get(name, ...) != value and name != "model":
                refuse(f"the parameter {name!r}", "remove it, or send the body with RawRequest(endpoint='converse')")
        return self.settled()

    def settled(self) -> Body:
        if members(self.more.get("reasoningConfig")).get("maxReasoningEffort") == "high" and self.inference:
            # Nova's guide: with the highest effort its length and its sampling are its own.
            refuse(
                f"{', '.join(self.inference)} beside reasoning_effort 'high' for {self.model}",
                "remove it, or use medium",
            )
        if self.answer and self.tools:
            refuse(
                f"tools beside an output schema for {self.model}, whose answer is a tool's call then",
                "give one of the two",
            )
        self.tools = self.answer or self.tools
        names_apart(self.body["messages"])
        if self.family == "nova":
            check_marks([self.system, self.body["messages"], self.tools])
        if self.system:
            self.body["system"] = self.system
        if self.inference:
            self.body["inferenceConfig"] = self.inference
        if self.tools.get("tools"):
            self.body["toolConfig"] = self.tools
        elif "toolChoice" in self.tools:
            refuse("tool_choice without tools", "give tools, or leave it out")
        if self.more and self.native:
            self.body |= self.more
        elif self.more:
            self.body["additionalModelRequestFields"] = self.more
        return self.body

    def messages(self, value: list[Body]) -> None:
        for message in value:
            role = message.get("role")
            said = next((name for name in UNSPEAKABLE if message.get(name) and (name, role) != ("name", "tool")), None)
            if said is not None:
                refuse(f"a message's {said!r}", "write it into the text, or leave it out")
            mark = cache_point(message)
            content = message.get("content")
            if role in ("system", "developer"):
                self.system += [*self.system_blocks(content), *mark]
            elif role == "tool":
                self.check_tools()
                self.append("user", [tool_result(message, self.stored_media), *mark])
            elif role == "assistant":
                self.append("assistant", [*self.earlier(message), *mark])
            elif role == "user":
                blocks = content_blocks(content, self.stored_media)
                if not blocks:
                    refuse("a message without text", "the prompt of this row is empty; filter such rows out")
                self.append("user", [*blocks, *mark])
            else:
                refuse(f"a message of role {role!r}", "use system, user, assistant or tool")
        turns = self.body["messages"]
        if not turns or turns[0]["role"] != "user":
            refuse("a conversation that does not begin with the user", "give the first message the role user")

    def system_blocks(self, content: Any) -> list[Body]:
        blocks = content_blocks(content, self.stored_media)
        if odd := next((block for block in blocks if block.keys() - {"text", "guardContent", "cachePoint"}), None):
            refuse(f"a system message with {next(iter(odd))!r}", "put it into a message of role user")
        return blocks

    def earlier(self, message: Body) -> list[Body]:
        """An earlier answer: what was thought, in the blocks that LiteLLM hands on, comes before what was said."""
        thought = content_blocks(message.get("thinking_blocks") or [], self.stored_media)
        calls = message.get("tool_calls") or []
        if calls:
            self.check_tools()
        return [*thought, *content_blocks(message.get("content"), self.stored_media), *map(tool_use, calls)]

    def append(self, role: str, content: list[Body]) -> None:
        """Add to the conversation; turns alternate, so consecutive messages of one role become one."""
        turns = self.body["messages"]
        if content and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += content
        elif content:
            turns.append({"role": role, "content": content})

    def check_tools(self) -> None:
        if not self.native:
            refuse(
                f"tools for {self.model}: batches in the Converse form take none",
                "choose a model whose own body takes tools (Claude, Nova, gpt-oss, Mistral) and leave invocation_type "
                "at auto, or call it one by one with RawRequest(endpoint='converse')",
            )

    def set_tools(self, value: list[Body] | None) -> None:
        for tool in value or ():
            self.check_tools()
            function = members(tool.get("function"))
            if tool.get("type") != "function" or not function.get("name"):
                refuse(f"a tool of type {tool.get('type')!r}", "give functions with names and parameters")
            schema = function.get("parameters") or {"type": "object", "properties": {}}
            spec = {"name": function["name"], "inputSchema": {"json": for_nova(schema, f"tool {function['name']!r}")}}
            if function.get("description"):
                spec["description"] = function["description"]
            self.tools.setdefault("tools", []).append({"toolSpec": spec})
            self.tools["tools"] += cache_point(tool) or cache_point(function)

    def tool_choice(self, value: Any) -> None:
        named = members(members(value).get("function")).get("name")
        if named:
            self.tools["toolChoice"] = {"tool": {"name": named}}
        elif value in ("auto", "required"):
            self.tools["toolChoice"] = {"any" if value == "required" else "auto": {}}
        elif value is not None:
            refuse(f"tool_choice {value!r}", "use auto, required or a function, or give no tools")

    def response_format(self, value: Body | None) -> None:
        kind = (value or {}).get("type", "text")
        if kind == "text" or not value:
            return
        asked = members(value.get("json_schema"))
        schema = asked.get("schema")
        if kind != "json_schema" or not isinstance(schema, dict):
            refuse(f"response_format {kind!r}", "give a JSON schema (ChatRequest(output=...))")
        if self.native:
            self.answer_by_tool(for_nova(schema, "an output schema"))
        elif self.family in WITH_SCHEMA:
            text = msgspec.json.encode(fitted(schema, "an output schema")).decode()
            wanted = {"name": schema_name(asked.get("name")), "schema": text}
            self.body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": wanted}}}
        else:
            refuse(
                f"an output schema for {self.model}",
                "choose a model that takes one (Claude, Nova, gpt-oss, Mistral, Qwen), or ask without output and parse "
                "the text",
            )

    def answer_by_tool(self, schema: Body) -> None:
        """A schema as Nova's guide has it: as the arguments of a tool that has to be called."""
        spec = {
            "name": ANSWER_TOOL,
            "description": "Give the answer.",
            "inputSchema": {"json": schema},
        }
        self.answer = {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": ANSWER_TOOL}}}

    def top_k(self, value: int | None) -> None:
        if value is None:
            return
        if self.native:
            self.inference["topK"] = value
        elif self.family == "nova":
            self.more.setdefault("inferenceConfig", {})["topK"] = value
        elif self.family in ("anthropic", "mistral", "mistral-text", "open"):
            self.more["top_k"] = value
        else:
            refuse(f"top_k for {self.model}", "remove it")

    def reasoning_effort(self, value: str | None) -> None:
        if value in (None, "none"):
            return
        if self.family == "openai":
            self.more["reasoning_effort"] = value
        elif self.family == "anthropic":
            self.more.setdefault("output_config", {})["effort"] = value
        elif self.family == "nova" and "nova-2" in self.model:
            self.nova_thinks(str(value))
        else:
            refuse(f"reasoning_effort for {self.model}", "remove it")

    def nova_thinks(self, effort: str) -> None:
        if effort not in EFFORTS:
            refuse(f"reasoning_effort {effort!r} for {self.model}", f"use one of {', '.join(EFFORTS)}")
        self.more["reasoningConfig"] = {"type": "enabled", "maxReasoningEffort": effort}

    def thinking(self, value: Body | None) -> None:
        if value is not None and self.family != "anthropic":
            refuse(f"thinking for {self.model}", "use reasoning_effort where the model knows it")
        if value is not None:
            self.more["thinking"] = value

    def additional(self, value: Body | None) -> None:
        self.more |= value or {}

    def limit(self, name: str) -> Callable[[Any], None]:
        def put(value: Any) -> None:
            if value is not None:
                self.inference[name] = [value] if name == "stopSequences" and isinstance(value, str) else value

        return put


def converse_body(family: Family, model: str, body: Mapping[str, Any], stored_media: bool = False) -> Body:
    """:raises InputError: names what Converse cannot express in a batch."""
    return Converse(family, model, stored_media=stored_media).translate(body)


def nova_body(model: str, body: Mapping[str, Any], stored_media: bool = False) -> Body:
    """:raises InputError: names what Nova's own body cannot express."""
    made = Converse("nova", model, native=True, stored_media=stored_media).translate(body)
    if any("document" in block for turn in made["messages"] for block in turn["content"]):
        refuse("a document in Nova's own body", "set invocation_type to Converse in the connection's extra")
    return made


def check_marks(body: Any) -> None:
    """:raises InputError: for a cache that is to be kept for an hour, which Nova does not do."""
    if isinstance(body, dict):
        if members(body.get("cachePoint")).get("ttl") not in (None, "5m"):
            refuse("a cache of an hour for Nova", "leave ttl out: it keeps them for five minutes")
        for inner in body.values():
            check_marks(inner)
    elif isinstance(body, list):
        for inner in body:
            check_marks(inner)


TRANSLATE: dict[str, Callable[[Converse, Any], None]] = {
    "messages": Converse.messages,
    "max_tokens": lambda made, value: made.limit("maxTokens")(value),
    "max_completion_tokens": lambda made, value: made.limit("maxTokens")(value),
    "temperature": lambda made, value: made.limit("temperature")(value),
    "top_p": lambda made, value: made.limit("topP")(value),
    "stop": lambda made, value: made.limit("stopSequences")(value),
    "tools": Converse.set_tools,
    "tool_choice": Converse.tool_choice,
    "response_format": Converse.response_format,
    "top_k": Converse.top_k,
    "reasoning_effort": Converse.reasoning_effort,
    "thinking": Converse.thinking,
    "additionalModelRequestFields": Converse.additional,
}
