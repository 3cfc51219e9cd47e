"""The neutral request in Gemini's words; what has none is refused by name. Google's own types read what is sent."""

from __future__ import annotations

import json

import pytest
from google.genai import types

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.gemini.chat import embed_params, generate_params
from airflow_llm_batch.providers.gemini.protocol import Gemini
from airflow_llm_batch.request import Request

PIXEL = "data:image/png;base64,QUJD"
USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
OBJECT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": OBJECT}}
NEW, OLD, OLDEST = "gemini-3.8-flash", "gemini-2.5-flash", "gemini-2.0-flash"


def asked(*messages, model=NEW, **body):
    return generate_params({"model": model, "messages": list(messages) or [USER], **body})


def parts_of(content, **more):
    return asked({"role": "user", "content": content}, **more)["contents"][0]["parts"]


def config(model=NEW, **body):
    return asked(model=model, **body).get("generationConfig")


def refused(what, **body):
    with pytest.raises(InputError, match=rf"Gemini cannot express .*{what}.*Nothing was sent"):
        asked(*body.pop("messages", ()), **body)


def test_a_conversation_is_translated_whole():
    """System, turns, images, a call and its result; Google's types take every part of it."""
    params = asked(
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "in French"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PIXEL}}],
        },
        {"role": "assistant", "content": "so?", "tool_calls": [CALL, {**CALL, "id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "tool", "tool_call_id": "c2", "content": '{"y": 2}'},
        {"role": "user", "content": "and?"},
        model=OLD,
    )
    assert params == {
        "model": OLD,
        "systemInstruction": {"parts": [{"text": "be brief"}, {"text": "in French"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "look"}, {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}]},
            {
                "role": "model",
                "parts": [
                    {"text": "so?"},
                    {"functionCall": {"id": "c1", "name": "f", "args": {"x": 1}}},
                    {"functionCall": {"id": "c2", "name": "f", "args": {"x": 1}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "f", "response": {"output": 42}}},
                    {"functionResponse": {"id": "c2", "name": "f", "response": {"y": 2}}},
                    {"text": "and?"},
                ],
            },
        ],
    }
    for content in [*params["contents"], params["systemInstruction"]]:
        types.Content.model_validate(content)


@pytest.mark.parametrize(
    ("part", "made"),
    [
        ({"type": "image_url", "image_url": "https://x/y.webp?sig=1"}, ("https://x/y.webp?sig=1", "image/webp")),
        ({"type": "image_url", "image_url": {"url": "gs://b/a.JPG"}}, ("gs://b/a.JPG", "image/jpeg")),
        (
            {"type": "image_url", "image_url": {"url": "https://x/y", "format": "image/png"}},
            ("https://x/y", "image/png"),
        ),
        ({"type": "video_url", "video_url": {"url": "gs://b/a.mp4"}}, ("gs://b/a.mp4", "video/mp4")),
        ({"type": "video_url", "video_url": {"url": "https://youtu.be/x"}}, ("https://youtu.be/x", None)),
        (
            {"type": "file", "file": {"file_id": "files/abc"}},
            ("https://generativelanguage.googleapis.com/v1beta/files/abc", None),
        ),
        ({"type": "file", "file": {"file_id": "gs://b/d.pdf"}}, ("gs://b/d.pdf", "application/pdf")),
        ({"type": "input_file", "file_url": "https://x/d.pdf"}, ("https://x/d.pdf", "application/pdf")),
    ],
)
def test_addresses_become_file_data(part, made):
    """Of pages, buckets and the Files API; the type is told by the name, or said beside it."""
    uri, kind = made
    wanted = {"fileUri": uri, **({"mimeType": kind} if kind else {})}
    assert parts_of([part]) == [{"fileData": wanted}]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/jpg;base64,QUJD"}}, "image/jpeg"),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}}, "application/pdf"),
        ({"type": "file", "file": {"file_data": "QUJD", "filename": "a.csv"}}, "text/csv"),
        ({"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}, "audio/wav"),
    ],
)
def test_bytes_become_inline_data(part, kind):
    """Images, documents, sounds."""
    assert parts_of([part]) == [{"inlineData": {"mimeType": kind, "data": "QUJD"}}]
    types.Part.model_validate(parts_of([part])[0])


def test_parts_in_geminis_words_go_as_they_are():
    """In either spelling."""
    given = [{"text": "a"}, {"inline_data": {"mime_type": "x/y", "data": "QUJD"}}, {"fileData": {"fileUri": "u"}}]
    assert parts_of(given) == [given[0], {"inlineData": given[1]["inline_data"]}, given[2]]


@pytest.mark.parametrize(
    ("body", "made"),
    [
        (
            {"temperature": 0, "top_p": 0.5, "top_k": 7, "seed": 3},
            {"temperature": 0, "topP": 0.5, "topK": 7, "seed": 3},
        ),
        ({"max_tokens": 9}, {"maxOutputTokens": 9}),
        ({"max_completion_tokens": 9}, {"maxOutputTokens": 9}),
        (
            {"n": 2, "presence_penalty": 0.5, "frequency_penalty": 1},
            {"candidateCount": 2, "presencePenalty": 0.5, "frequencyPenalty": 1},
        ),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}),
        ({"logprobs": True, "top_logprobs": 3}, {"responseLogprobs": True, "logprobs": 3}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        ({"response_format": {"type": "text"}}, None),
        ({"n": 1, "stream": False, "logprobs": False, "parallel_tool_calls": True, "frequency_penalty": 0}, None),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}),
        (
            {"generation_config": {"media_resolution": "MEDIA_RESOLUTION_LOW"}},
            {"mediaResolution": "MEDIA_RESOLUTION_LOW"},
        ),
        ({"mediaResolution": "MEDIA_RESOLUTION_LOW"}, {"mediaResolution": "MEDIA_RESOLUTION_LOW"}),
    ],
)
def test_parameters_are_translated(body, made):
    """Neutral names and Gemini's own, which its types know."""
    assert config(**body) == made
    if made:
        types.GenerationConfig.model_validate(made)


def test_schemas_are_asked_for_as_json_schemas():
    """What Gemini does not know is told to the model in words."""
    schema = {
        "type": "object",
        "properties": {
            "kind": {"const": "a"},
            "n": {"type": "integer", "minimum": 1, "multipleOf": 2},
            "free": {"type": "object"},
            "map": {"type": "object", "additionalProperties": {"type": "string", "minLength": 2}},
            "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
            "more": {"type": "array", "items": {"$ref": "#"}},
            "either": {"oneOf": [{"type": "string"}, {"type": "null"}]},
            "yes": {"type": "boolean", "enum": [True]},
        },
        "required": ["kind"],
    }
    made = config(response_format={"type": "json_schema", "json_schema": {"name": "o", "schema": schema}})
    assert made == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": ["a"]},
                "n": {"type": "integer", "minimum": 1, "description": "(multipleOf: 2)"},
                "free": {"type": "object", "properties": {}, "required": [], "additionalProperties": True},
                "map": {
                    "type": "object",
                    "properties": {},
                    "required": [],
                    "additionalProperties": {"type": "string", "description": "(minLength: 2)"},
                },
                "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "maxItems": 2},
                "more": {"type": "array", "items": {"$ref": "#"}},
                "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "yes": {"type": "boolean", "description": "(enum: [true])"},
            },
            "required": ["kind"],
            "additionalProperties": False,
        },
    }


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "object", "properties": {"x": {}}}, "'type' at /properties/x"),
        ({"type": "object", "properties": {"c": {"$ref": "#"}}, "required": ["c"]}, r"'\$ref' at /properties/c"),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/A"}},
                "$defs": {
                    "A": {"type": "object", "properties": {"b": {"$ref": "#/$defs/B"}}, "required": ["b"]},
                    "B": {
                        "type": "object",
                        "properties": {"l": {"type": "array", "items": {"$ref": "#/$defs/A"}}},
                        "required": ["l"],
                    },
                },
            },
            r"'\$ref' at /\$defs/A/properties/b/properties/l/items",
        ),
        ({"type": "object", "patternProperties": {"^a": {"type": "string"}}}, "'patternProperties'"),
    ],
)
def test_schemas_that_cannot_be_asked_for_are_refused(schema, where):
    """By keyword and place: any value, and a definition that holds itself where it may not be left out."""
    refused(where, response_format={"type": "json_schema", "json_schema": {"name": "o", "schema": schema}})


@pytest.mark.parametrize(
    ("model", "body", "made"),
    [
        (OLD, {"reasoning_effort": "none"}, {"thinkingBudget": 0}),
        (OLD, {"reasoning_effort": "minimal"}, {"thinkingBudget": 1024}),
        (OLD, {"reasoning_effort": "low"}, {"thinkingBudget": 1024}),
        (OLD, {"reasoning_effort": "medium"}, {"thinkingBudget": 8192}),
        ("gemini-2.5-pro", {"reasoning_effort": "high"}, {"thinkingBudget": 24576}),
        (NEW, {"reasoning_effort": "low"}, {"thinkingLevel": "LOW"}),
        (NEW, {"reasoning_effort": "minimal"}, {"thinkingLevel": "LOW"}),
        ("gemini-3-flash-preview", {"reasoning_effort": "minimal"}, {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.1-pro-preview", {"reasoning_effort": "high"}, {"thinkingLevel": "HIGH"}),
        (NEW, {"reasoning_effort": "xhigh"}, {"thinkingLevel": "XHIGH"}),
        (
            OLD,
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            {"thinkingBudget": 2000, "includeThoughts": True},
        ),
        (OLD, {"thinking": {"type": "disabled"}}, {"thinkingBudget": 0}),
        (NEW, {"thinking": {"type": "adaptive"}}, {"includeThoughts": True}),
        (NEW, {"reasoning": {"effort": "low", "exclude": False}}, {"thinkingLevel": "LOW", "includeThoughts": True}),
        (OLD, {"thinking_budget": -1, "include_thoughts": True}, {"thinkingBudget": -1, "includeThoughts": True}),
        (NEW, {"thinkingConfig": {"thinking_level": "low"}}, {"thinkingLevel": "low"}),
        (
            NEW,
            {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}, "reasoning_effort": "low"},
            {"includeThoughts": True, "thinkingLevel": "LOW"},
        ),
    ],
)
def test_thinking_is_a_budget_or_a_level(model, body, made):
    """Up to 2.5 tokens, from 3 on a word."""
    assert config(model, **body)["thinkingConfig"] == made
    types.ThinkingConfig.model_validate(made)


@pytest.mark.parametrize(
    ("what", "model", "body"),
    [
        ("'none' for gemini-3", NEW, {"reasoning_effort": "none"}),
        ("'none' for gemini-2.5-pro", "gemini-2.5-pro", {"reasoning_effort": "none"}),
        ("'xhigh' for gemini-2.5", OLD, {"reasoning_effort": "xhigh"}),
        ("does not think", OLDEST, {"reasoning_effort": "low"}),
        ("budget of 0", "gemini-2.5-pro", {"thinking_budget": 0}),
        ("budget of 64", "gemini-2.5-pro", {"thinking_budget": 64}),
        ("budget of 40000", OLD, {"thinking_budget": 40000}),
        ("budget of 100 ", "gemini-2.5-flash-lite", {"thinking_budget": 100}),
        ("budget beside a thinking level", NEW, {"thinking_budget": 2000, "reasoning_effort": "low"}),
        ("thinking level for", OLD, {"thinkingConfig": {"thinkingLevel": "LOW"}}),
        ("'odd'", NEW, {"thinking": {"odd": 1}}),
        ("type 'odd'", NEW, {"thinking": {"type": "odd"}}),
    ],
)
def test_thinking_that_a_model_does_not_know_is_refused(what, model, body):
    """By the documented ranges and levels."""
    refused(what, model=model, **body)


@pytest.mark.parametrize(
    ("choice", "strict", "made"),
    [
        (None, False, None),
        ("auto", False, {"mode": "AUTO"}),
        ("none", False, {"mode": "NONE"}),
        ("required", False, {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "f"}}, False, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
        (None, True, {"mode": "VALIDATED"}),
        ("auto", True, {"mode": "VALIDATED"}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TOOL]}},
            False,
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
        ),
        ({"mode": "ANY", "allowed_function_names": ["f"]}, False, {"mode": "ANY", "allowedFunctionNames": ["f"]}),
    ],
)
def test_tools_and_what_is_chosen_of_them(choice, strict, made):
    """Functions, a choice, arguments that have to be valid."""
    tool = {**TOOL, "function": {**TOOL["function"], **({"strict": True} if strict else {})}}
    params = asked(tools=[tool], **({"tool_choice": choice} if choice else {}))
    declared = {"name": "f", "description": "d", "parametersJsonSchema": OBJECT}
    if strict:
        declared["parametersJsonSchema"] = {**OBJECT, "additionalProperties": False}
    assert params["tools"] == [{"functionDeclarations": [declared]}]
    assert params.get("toolConfig") == (made and {"functionCallingConfig": made})
    types.Tool.model_validate(params["tools"][0])
    if made:
        types.ToolConfig.model_validate(params["toolConfig"])


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/A", "$defs": {"A": OBJECT}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "anyOf": [OBJECT]},
    ],
)
def test_parameters_without_properties_of_their_own_are_kept(schema):
    """Behind a reference, of any name, in a union; what has no room for an argument is left out."""
    for parameters, declared in (
        (schema, {"parametersJsonSchema": schema}),
        ({"type": "object", "properties": {}}, {}),
    ):
        made = asked(tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
        assert made["tools"] == [{"functionDeclarations": [{"name": "f", **declared}]}]


def test_the_vendors_own_tools_stand_beside_functions():
    """googleSearch and its kin; web_search_options is a search."""
    own = [{"googleSearch": {}}, {"function_declarations": [{"name": "g"}]}, TOOL, {"codeExecution": {}}]
    made = asked(tools=own)["tools"]
    assert [sorted(tool) for tool in made] == [["functionDeclarations"], ["googleSearch"], ["codeExecution"]]
    assert [f["name"] for f in made[0]["functionDeclarations"]] == ["g", "f"]
    assert asked(web_search_options={})["tools"] == [{"googleSearch": {}}]


def test_signatures_are_given_back_or_said_to_be_missing():
    """Gemini 3 wants one with the first call of a turn; older models do not."""
    turns = [
        USER,
        {"role": "assistant", "tool_calls": [CALL, CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]
    made = asked(*turns)["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in made] == ["skip_thought_signature_validator", None]
    signed = {**CALL, "extra_content": {"google": {"thought_signature": "abc"}}}
    turns[1] = {"role": "assistant", "tool_calls": [signed]}
    assert asked(*turns)["contents"][1]["parts"][0]["thoughtSignature"] == "abc"
    turns[1] = {"role": "assistant", "tool_calls": [CALL]}
    assert "thoughtSignature" not in asked(*turns, model=OLD)["contents"][1]["parts"][0]


def test_members_of_geminis_own_go_as_they_are():
    """In either spelling; a tier is translated."""
    safety = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]
    params = asked(safety_settings=safety, cachedContent="cachedContents/x", service_tier="flex", labels={"a": "b"})
    assert params["safetySettings"] == safety
    assert (params["cachedContent"], params["serviceTier"], params["labels"]) == (
        "cachedContents/x",
        "flex",
        {"a": "b"},
    )
    assert "serviceTier" not in asked(service_tier="auto")
    assert asked(system_instruction="be brief")["systemInstruction"] == {"parts": [{"text": "be brief"}]}


SYSTEM = {"role": "system", "content": "s"}


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("'logit_bias'", {"logit_bias": {"1": 2}}),
        ("'user'", {"user": "u"}),
        ("'metadata'", {"metadata": {"a": "b"}}),
        ("'stream'", {"stream": True}),
        ("'parallel_tool_calls'", {"parallel_tool_calls": False, "tools": [TOOL]}),
        ("'cache_control'", {"cache_control": {"type": "ephemeral"}}),
        ("cache mark", {"messages": [{**USER, "cache_control": {"type": "ephemeral"}}]}),
        (
            "cache mark",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]},
        ),
        ("temperature=3", {"temperature": 3}),
        ("maxOutputTokens=0", {"max_tokens": 0}),
        ("candidateCount=9", {"n": 9}),
        ("6 stop sequences", {"stop": list("abcdef")}),
        ("top_logprobs without", {"top_logprobs": 2}),
        ("given twice", {"max_tokens": 5, "max_completion_tokens": 6}),
        ("a message's 'name'", {"messages": [{**USER, "name": "bob"}]}),
        ("role 'critic'", {"messages": [{"role": "critic", "content": "x"}]}),
        ("without text", {"messages": [{"role": "user", "content": ""}]}),
        ("without a user's message", {"messages": [SYSTEM]}),
        (
            "more than text",
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": PIXEL}]}, USER]},
        ),
        ("beside the parameter", {"messages": [SYSTEM, USER], "systemInstruction": "x"}),
        ("type 'refusal'", {"messages": [{"role": "user", "content": [{"type": "refusal"}]}]}),
        ("whose URL is ''", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": ""}]}]}),
        (
            "at 's3://b/a.png'",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "s3://b/a.png"}]}]},
        ),
        (
            "type its name does not tell",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://x/y"}]}]},
        ),
        ("the data URL", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,x"}]}]}),
        ("no message before it makes", {"messages": [USER, {"role": "tool", "tool_call_id": "zz", "content": "x"}]}),
        (
            "no JSON object",
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[1"}}]}
                ]
            },
        ),
        ("the tool 'custom'", {"tools": [{"type": "custom", "custom": {"name": "c"}}]}),
        ("named 'a b'", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
        ("without functions", {"tool_choice": "required"}),
        ("tool_choice 'odd'", {"tools": [TOOL], "tool_choice": "odd"}),
        ("response_format 'grammar'", {"response_format": {"type": "grammar"}}),
        ("without a schema", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
        ("generationConfig's 'odd'", {"generationConfig": {"odd": 1}}),
        (
            "beside functions for gemini-2.5",
            {"model": OLD, "tools": [TOOL], "response_format": {"type": "json_object"}},
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(what, body):
    """Never dropped."""
    refused(what, **body)


@pytest.mark.parametrize("named", [{"task_type": "CLUSTERING"}, {"taskType": "CLUSTERING"}, {"title": "t"}])
def test_a_model_that_wants_its_task_in_words_is_told_it_by_nothing_else(named):
    """The guide: Gemini Embedding 2 "expects the task type and title to be inlined directly within the prompt"."""
    given = {"input": "x", "dimensions": 8, **named}
    assert set(embed_params({"model": "gemini-embedding-001", **given})) > {"content", "outputDimensionality"}
    for model in ("gemini-embedding-2", "models/gemini-embedding-2-preview"):
        with pytest.raises(InputError, match=r"write it into the text.*Nothing was sent"):
            embed_params({"model": model, **given})


def test_embeddings_are_one_text_a_row():
    """Dimensions, task and title; several inputs and odd parameters are refused."""
    made = embed_params({"model": "models/gemini-e", "input": ["x"], "dimensions": 8, "task_type": "RETRIEVAL_QUERY"})
    content = {"parts": [{"text": "x"}]}
    assert made == {"model": "gemini-e", "content": content, "outputDimensionality": 8, "taskType": "RETRIEVAL_QUERY"}
    for wrong in (
        {"input": ["a", "b"]},
        {"input": ""},
        {"input": "a", "encoding_format": "base64"},
        {"input": "a", "user": "u"},
    ):
        with pytest.raises(InputError, match="Nothing was sent"):
            embed_params({"model": "m", **wrong})


def test_nothing_of_the_given_body_is_changed():
    """Rows share their template."""
    body = {"model": NEW, "messages": [USER, {"role": "assistant", "content": [{"text": "a"}]}, USER], "tools": [TOOL]}
    before = json.dumps(body)
    generate_params(body)
    assert json.dumps(body) == before


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("labels", {"labels": {"a": "b"}}),
        ("audioTimestamp", {"generationConfig": {"audio_timestamp": True}}),
        ("enterpriseWebSearch", {"tools": [{"enterpriseWebSearch": {}}]}),
    ],
)
def test_what_vertex_alone_has_is_refused(what, body):
    """By name, in a neutral request and in one of Gemini's own."""
    for request in (
        Request("/v1/chat/completions", {"model": NEW, "messages": [USER], **body}),
        Request("generateContent", {"model": NEW, "contents": [], **body}),
    ):
        with pytest.raises(InputError, match=rf"{what}.*Vertex AI.*Nothing was sent"):
            Gemini().translate(request)
