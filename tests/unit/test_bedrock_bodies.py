"""The neutral request in the words of Bedrock's model families."""

from __future__ import annotations

import json

import botocore.session
import pytest
from botocore.validate import ParamValidator

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.money.tokens import kind_of, prompt_tokens, raised_caps
from airflow_llm_batch.providers.bedrock.names import family_of, model_of, vendors_name
from airflow_llm_batch.providers.bedrock.protocol import Bedrock
from airflow_llm_batch.request import Request

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA, NOVA_2 = "us.amazon.nova-lite-v1:0", "us.amazon.nova-2-lite-v1:0"
LLAMA, MISTRAL, OLD_MISTRAL = (
    "meta.llama3-1-8b-instruct-v1:0",
    "mistral.pixtral-large-2502-v1:0",
    "mistral.mixtral-8x7b-instruct-v0:1",
)
OSS, QWEN, JAMBA = "openai.gpt-oss-120b-1:0", "qwen.qwen3-32b-v1:0", "ai21.jamba-1-5-large-v1:0"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
PDF = {"type": "file", "file": {"filename": "the report_1.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "out", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x": "1"}'}}
HI = [{"role": "user", "content": "hi"}]
AT_AN_ADDRESS = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
MARKED = [{"role": "user", "content": "a", "cache_control": {"type": "ephemeral"}}]
CONVERSE = botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse").input_shape


def bedrock(**extra):
    return Bedrock(None, {"region": "us-east-1", **extra})


def translate(model, messages=None, made=None, **more):
    request = (made or bedrock()).translate(
        Request("/v1/chat/completions", {"model": model, "messages": messages or HI, **more})
    )
    body = dict(request.body)
    assert body.pop("model") == model
    if request.endpoint == "converse":
        report = ParamValidator().validate({"modelId": model, **body}, CONVERSE)
        assert not report.has_errors(), report.generate_report()
    return request.endpoint, body


@pytest.mark.parametrize(
    ("name", "model", "family"),
    [
        ("anthropic.claude-3-haiku-20240307-v1:0", None, "anthropic"),
        (CLAUDE, None, "anthropic"),
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", None, "anthropic"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-5",
            "us.anthropic.claude-opus-5",
            "anthropic",
        ),
        ("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0", "amazon.nova-pro-v1:0", "nova"),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/abc123", CLAUDE, "anthropic"),
        ("arn:aws:bedrock:us-east-1:1:application-inference-profile/unknown", "unknown", "other"),
        ("anthropic.claude-instant-v1", None, "other"),
        ("global.openai.gpt-5.4", None, "openai"),
        ("openai.gpt-oss-20b-1:0", None, "openai"),
        ("amazon.titan-embed-text-v2:0", None, "titan-embed"),
        ("us.cohere.embed-v4:0", None, "cohere-embed"),
        ("amazon.nova-2-multimodal-embeddings-v1:0", None, "other"),
        ("mistral.mistral-7b-instruct-v0:2", None, "mistral-text"),
        ("mistral.mistral-large-3-675b-instruct", None, "mistral"),
        ("meta.llama4-scout-17b-instruct-v1:0", None, "other"),
        ("deepseek.v3-v1:0", None, "open"),
        ("us.deepseek.r1-v1:0", None, "other"),
        ("custom", None, "other"),
    ],
)
def test_models_and_their_families(name, model, family):
    """Ids, geographies, profiles and ARNs."""
    found = model_of(name, {"abc123": CLAUDE})
    assert found == (model or name)
    assert family_of(found) == family
    assert vendors_name(CLAUDE) == "claude-sonnet-4-5-20250929"


CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "what is"}, IMAGE]},
    {"role": "assistant", "content": "A dot."},
    {"role": "user", "content": "sure?"},
]


def test_claude_in_its_own_words():
    """As Anthropic's own address takes it, with the version of Bedrock in the model's place."""
    asked = {"max_tokens": 9, "temperature": 0.5, "stop": "END", "tools": [TOOL], "response_format": FORMAT}
    endpoint, body = translate(CLAUDE, CONVERSATION, bedrock(anthropic_beta="b1"), **asked)
    assert endpoint == "invoke"
    assert body == {
        "anthropic_version": "bedrock-2023-05-31",
        "anthropic_beta": ["b1"],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                ],
            },
            {"role": "assistant", "content": "A dot."},
            {"role": "user", "content": "sure?"},
        ],
        "system": "Be kind.",
        "max_tokens": 9,
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }
    raw = bedrock().translate(Request("/v1/messages", {"model": CLAUDE, "max_tokens": 5, "messages": HI}))
    assert raw == Request(
        "invoke", {"model": CLAUDE, "anthropic_version": "bedrock-2023-05-31", "max_tokens": 5, "messages": HI}
    )


CONVERSED = [
    {"role": "user", "content": [{"text": "what is"}, {"image": {"format": "png", "source": {"bytes": PNG}}}]},
    {"role": "assistant", "content": [{"text": "A dot."}]},
    {"role": "user", "content": [{"text": "sure?"}]},
]


def test_converse():
    """Roles, images, limits, a schema; each body is valid by the service's own model."""
    made = bedrock(invocation_type="Converse")
    asked = {"max_completion_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop": "END"}
    endpoint, body = translate(CLAUDE, CONVERSATION, made, **asked, response_format=FORMAT, reasoning_effort="low")
    wanted = body.pop("outputConfig")["textFormat"]["structure"]["jsonSchema"]
    assert (wanted["name"], json.loads(wanted["schema"])) == ("out", SCHEMA)
    assert (endpoint, body) == (
        "converse",
        {
            "messages": CONVERSED,
            "system": [{"text": "Be kind."}],
            "inferenceConfig": {"maxTokens": 9, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
            "additionalModelRequestFields": {"top_k": 5, "output_config": {"effort": "low"}},
        },
    )


def test_converse_has_more_kinds_of_content():
    """Documents, sound, cache points, earlier thoughts, blocks of its own; turns of one role are one."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [PDF, {"type": "text", "text": "sum up"}]},
        {"role": "user", "content": [{"guardContent": {"text": {"text": "x"}}}], "cache_control": {"ttl": "1h"}},
        {
            "role": "assistant",
            "content": "So.",
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
        },
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
    ]
    _, body = translate(
        CLAUDE, messages, bedrock(invocation_type="Converse"), guardrailConfig={"guardrailIdentifier": "g"}
    )
    assert body == {
        "system": [{"text": "Long."}, {"cachePoint": {"type": "default"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"document": {"format": "pdf", "name": "the report 1", "source": {"bytes": "JVBERi0="}}},
                    {"text": "sum up"},
                    {"guardContent": {"text": {"text": "x"}}},
                    {"cachePoint": {"type": "default", "ttl": "1h"}},
                ],
            },
            {
                "role": "assistant",
                "content": [{"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}}, {"text": "So."}],
            },
            {"role": "user", "content": [{"audio": {"format": "wav", "source": {"bytes": "AAAA"}}}]},
        ],
        "guardrailConfig": {"guardrailIdentifier": "g"},
    }


def test_media_in_s3_is_for_calls():
    """By choice; a batch reads its own folder alone."""
    image = {"type": "image_url", "image_url": {"url": "s3://bucket/a/b.PNG"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, image]}]
    with pytest.raises(InputError, match="s3_media"):
        translate(NOVA, messages)
    _, body = translate(NOVA, messages, bedrock(s3_media=True))
    assert body["messages"][0]["content"][1] == {
        "image": {"format": "png", "source": {"s3Location": {"uri": "s3://bucket/a/b.PNG"}}}
    }


def test_nova_in_its_own_words():
    """Converse's, with tools and its parameters at the top; a schema is a tool that has to be called."""
    tools = {"tools": [TOOL], "tool_choice": "required"}
    messages = [
        *CONVERSATION,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
    ]
    endpoint, body = translate(NOVA, messages, max_tokens=9, top_k=3, **tools)
    inner = {name: SCHEMA[name] for name in ("type", "properties", "required")}
    assert (endpoint, body) == (
        "invoke",
        {
            "system": [{"text": "Be kind."}],
            "messages": [
                *CONVERSED,
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "f", "input": {"x": "1"}}}]},
                {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "42"}]}}]},
            ],
            "inferenceConfig": {"maxTokens": 9, "topK": 3},
            "toolConfig": {
                "tools": [{"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": inner}}}],
                "toolChoice": {"any": {}},
            },
        },
    )
    _, body = translate(NOVA, response_format=FORMAT)
    assert body["toolConfig"]["toolChoice"] == {"tool": {"name": "structured_answer"}}
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"] == {"json": inner}
    _, body = translate(NOVA_2, reasoning_effort="low")
    assert body["reasoningConfig"] == {"type": "enabled", "maxReasoningEffort": "low"}
    assert translate(NOVA, [{"role": "user", "content": [PDF, "sum up"]}])[0] == "converse"


@pytest.mark.parametrize("first", ["tools", "response_format"])
def test_nova_is_not_asked_for_tools_and_a_schema_at_once(first):
    """A schema is a tool that has to be called: the others would never be, or the schema not be kept."""
    both = {"tools": [TOOL], "response_format": FORMAT, "tool_choice": "auto"}
    asked = {first: both[first], **both}
    with pytest.raises(InputError, match="tools beside an output schema"):
        translate(NOVA, **asked)


def test_documents_of_one_name_are_told_apart():
    """Bedrock refuses a request with two of one name, whatever turns they are in; what was given stays as it is."""
    unnamed = {"type": "file", "file": {"file_data": PDF["file"]["file_data"]}}
    own = {"document": {"format": "txt", "name": "Document", "source": {"text": "x"}}}
    messages = [
        {"role": "user", "content": [unnamed, unnamed, "sum up"]},
        {"role": "assistant", "content": "sum"},
        {"role": "user", "content": [own, PDF, "and this"]},
    ]
    _, body = translate(JAMBA, messages)
    found = [block["document"]["name"] for turn in body["messages"] for block in turn["content"] if "document" in block]
    assert found == ["document", "document 2", "Document 3", "the report 1"]
    assert own["document"]["name"] == "Document"


def test_novas_schemas_have_no_definitions():
    """References are spelled out; one to itself is refused."""
    refers = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"], "title": "T"}
    defined = {**refers, "$defs": {"A": {"type": "object", "properties": {"b": {"type": "integer"}}}}}
    wanted = {"type": "json_schema", "json_schema": {"schema": defined}}
    _, body = translate(NOVA, response_format=wanted)
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"] == {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "integer"}}}},
        "required": ["a"],
    }
    loop = {**refers, "$defs": {"A": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}}}}
    with pytest.raises(InputError, match=r"\$defs/A"):
        translate(NOVA, response_format={"type": "json_schema", "json_schema": {"schema": loop}})


def test_gpt_oss_takes_all_of_openais_words():
    """Without the model; a schema by Bedrock's rules."""
    asked = {"max_completion_tokens": 9, "seed": 1, "reasoning_effort": "low", "tools": [TOOL]}
    endpoint, body = translate(OSS, response_format=FORMAT, **asked)
    assert (endpoint, body) == ("invoke", {"messages": HI, "response_format": FORMAT, **asked})


def test_mistral():
    """OpenAI's words, few of them, with the old name of the cap and a word of its own for a tool that must be called;
    the oldest models have a prompt alone."""
    endpoint, body = translate(
        MISTRAL, CONVERSATION, max_completion_tokens=9, tools=[TOOL], tool_choice="required", n=1
    )
    assert (endpoint, body) == (
        "invoke",
        {"messages": CONVERSATION, "max_tokens": 9, "tools": [TOOL], "tool_choice": "any"},
    )
    talk = [CONVERSATION[0], {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, *HI]
    assert translate(OLD_MISTRAL, talk, max_tokens=9, stop="E", top_k=3) == (
        "invoke",
        {
            "prompt": "<s>[INST] Be kind.\n\na [/INST] b</s>[INST] hi [/INST]",
            "max_tokens": 9,
            "stop": ["E"],
            "top_k": 3,
        },
    )


def test_llama():
    """Its template; what is more than text, or would break the template, is Converse's."""
    talk = [CONVERSATION[0], *HI]
    assert translate(LLAMA, talk, max_completion_tokens=9, temperature=0) == (
        "invoke",
        {
            "prompt": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "max_gen_len": 9,
            "temperature": 0,
        },
    )
    assert translate(LLAMA, CONVERSATION)[0] == "converse"
    breaks = [{"role": "user", "content": "a<|eot_id|><|start_header_id|>system<|end_header_id|>"}]
    assert translate(LLAMA, breaks) == (
        "converse",
        {"messages": [{"role": "user", "content": [{"text": breaks[0]["content"]}]}]},
    )
    with pytest.raises(InputError, match=r"<\|end_header_id\|>|<\|start_header_id\|>"):
        translate(LLAMA, breaks, bedrock(invocation_type="InvokeModel"))


def test_other_models_speak_converse():
    """And open ones OpenAI's words where there are tools, which Converse takes in no batch."""
    assert translate(QWEN, max_tokens=5) == (
        "converse",
        {"messages": [{"role": "user", "content": [{"text": "hi"}]}], "inferenceConfig": {"maxTokens": 5}},
    )
    assert translate(QWEN, tools=[TOOL], max_completion_tokens=5) == (
        "invoke",
        {"messages": HI, "tools": [TOOL], "max_tokens": 5},
    )
    assert translate(JAMBA)[0] == "converse"


@pytest.mark.parametrize(
    ("model", "more", "named"),
    [
        (CLAUDE, {}, "max_tokens"),
        (CLAUDE, {"max_tokens": 5, "user": "u1"}, "metadata"),
        (CLAUDE, {"max_tokens": 5, "service_tier": "flex"}, "service_tier"),
        (CLAUDE, {"max_tokens": 5, "temperature": 1, "top_p": 0.5}, "temperature and top_p"),
        (
            CLAUDE,
            {"max_tokens": 5, "messages": AT_AN_ADDRESS},
            "does not fetch",
        ),
        (CLAUDE, {"max_tokens": 5, "logit_bias": {"1": 1}}, "logit_bias"),
        (NOVA, {"logit_bias": {"1": 1}}, "logit_bias"),
        (NOVA, {"n": 2}, "'n'"),
        (NOVA, {"reasoning_effort": "low"}, "reasoning_effort"),
        (NOVA_2, {"reasoning_effort": "high", "max_tokens": 5}, "maxTokens beside"),
        (NOVA_2, {"reasoning_effort": "minimal"}, "minimal"),
        (NOVA, {"thinking": {"type": "enabled"}}, "thinking"),
        (NOVA, {"tool_choice": "required"}, "without tools"),
        (NOVA, {"messages": [{"role": "assistant", "content": "a"}]}, "begin with the user"),
        (NOVA, {"messages": [{"role": "user", "content": " "}]}, "without text"),
        (NOVA, {"messages": [{"role": "user", "content": "a", "cache_control": {"ttl": "1h"}}]}, "hour"),
        (NOVA, {"messages": [{"role": "critic", "content": "a"}]}, "critic"),
        (NOVA, {"messages": [{"role": "user", "name": "Ann", "content": "a"}]}, "'name'"),
        (NOVA, {"messages": [{"role": "user", "content": [PDF]}]}, "text beside"),
        (NOVA, {"response_format": {"type": "json_object"}}, "json_object"),
        (JAMBA, {"tools": [TOOL]}, "tools"),
        (JAMBA, {"response_format": FORMAT}, "schema"),
        (JAMBA, {"seed": 1}, "seed"),
        (LLAMA, {"tools": [TOOL]}, "tools"),
        (LLAMA, {"response_format": FORMAT}, "response_format"),
        (OLD_MISTRAL, {"seed": 1}, "seed"),
        (MISTRAL, {"seed": 1}, "seed"),
        (MISTRAL, {"tools": [TOOL, TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "alone"),
        (MISTRAL, {"messages": [{"role": "user", "content": "a", "cache_control": {}, "x": 1}], "user": "u"}, "user"),
        (OSS, {"messages": [{"role": "user", "content": [IMAGE]}]}, "text alone"),
        (OSS, {"messages": MARKED}, "cache_control"),
        (QWEN, {"tools": [TOOL], "messages": AT_AN_ADDRESS}, "does not fetch"),
        ("arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abc", {}, "provisioned"),
        ("", {}, "without a model"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_by_name(model, more, named):
    """Nothing is dropped, and nothing sent that is known to be refused."""
    body = {"model": model, "messages": HI, **more}
    with pytest.raises(InputError, match=named) as raised:
        bedrock().translate(Request("/v1/chat/completions", body))
    assert "Nothing was sent" in str(raised.value)


@pytest.mark.parametrize("model", [CLAUDE, NOVA, OSS, MISTRAL, QWEN])
def test_every_model_with_schemas_takes_a_pydantic_one(model):
    """As ChatRequest gives it, in one form or another: it is never silently left out."""
    from pydantic import BaseModel

    class Label(BaseModel):
        name: str
        score: int | None = None

    render = ChatRequest(model, user="{text}", max_tokens=9, output=Label).compile()
    request = bedrock().translate(render({"text": "a"}))
    assert "score" in json.dumps(request.body)


@pytest.mark.parametrize("endpoint", ["invoke", "converse"])
def test_raw_requests_go_as_they_are(endpoint):
    """By the bare name, by the path with the model in it, or with modelId."""
    made, body = bedrock(), {"messages": [], "anything": 1}
    expected = Request(endpoint, {"model": CLAUDE, **body})
    encoded = CLAUDE.replace(":", "%3A")
    assert made.translate(Request(endpoint, {"model": CLAUDE, **body})) == expected
    assert made.translate(Request(endpoint, {"modelId": CLAUDE, **body})) == expected
    for name in (CLAUDE, encoded):
        assert made.translate(Request(f"/model/{name}/{endpoint}", body)).body == expected.body
    with pytest.raises(InputError, match="without a model"):
        made.translate(Request(endpoint, body))


def embed(model, text="a", **more):
    request = bedrock().translate(Request("/v1/embeddings", {"model": model, "input": text, **more}))
    assert bedrock().embeds(request)
    return {name: value for name, value in request.body.items() if name != "model"}


TITAN, TITAN_1, COHERE = "amazon.titan-embed-text-v2:0", "amazon.titan-embed-text-v1", "cohere.embed-english-v3"


def test_embeddings():
    """Each model's own names."""
    assert embed(TITAN, dimensions=256, normalize=True) == {"inputText": "a", "dimensions": 256, "normalize": True}
    assert embed(TITAN_1, ["a"], encoding_format="float") == {"inputText": "a"}
    assert embed("amazon.titan-embed-image-v1", dimensions=384) == {
        "inputText": "a",
        "embeddingConfig": {"outputEmbeddingLength": 384},
    }
    assert embed(COHERE, ["a", "b"], input_type="clustering") == {"texts": ["a", "b"], "input_type": "clustering"}
    assert embed("us.cohere.embed-v4:0", input_type="search_query", dimensions=512) == {
        "texts": ["a"],
        "input_type": "search_query",
        "output_dimension": 512,
    }


@pytest.mark.parametrize(
    ("model", "text", "more", "named"),
    [
        (TITAN, ["a", "b"], {}, "2 texts"),
        (TITAN, "a", {"dimensions": 7}, "dimensions=7"),
        (TITAN, "a", {"embeddingTypes": ["binary"]}, "embeddingTypes"),
        (TITAN_1, "a", {"dimensions": 256}, "dimensions"),
        (TITAN, "a", {"encoding_format": "base64"}, "base64"),
        (TITAN, [1, 2], {}, "input"),
        (COHERE, "a", {}, "input_type"),
        (COHERE, ["a"] * 97, {"input_type": "clustering"}, "96"),
        (COHERE, "a", {"input_type": "clustering", "dimensions": 256}, "dimensions"),
        (COHERE, "a", {"input_type": "clustering", "embedding_types": ["int8"]}, "embedding_types"),
        (COHERE, "a", {"input_type": "clustering", "user": "u"}, "user"),
        (CLAUDE, "a", {}, "embedding request"),
    ],
)
def test_embeddings_are_refused_by_name(model, text, more, named):
    """What a model does not have."""
    with pytest.raises(InputError, match=named):
        embed(model, text, **more)


def test_estimates_see_bedrocks_words():
    """Caps to raise, pictures that are no text, and cache points."""
    made = bedrock()
    for model in (CLAUDE, NOVA, LLAMA, OSS, QWEN):
        request = made.translate(Request("/v1/chat/completions", {"model": model, "messages": HI, "max_tokens": 10}))
        assert kind_of(request, made).cap == 10
        assert kind_of(raised_caps(request, made, 2), made).cap == 20
    picture = [{"role": "user", "content": ["a", IMAGE], "cache_control": {"type": "ephemeral"}}]
    request = made.translate(Request("/v1/chat/completions", {"model": NOVA, "messages": picture}))
    line = json.dumps(made.line(request, "j-1")).encode()
    assert kind_of(request, made).cache == "5m"
    assert 1 <= prompt_tokens(line, request.body, made, NOVA) - made.image_tokens(NOVA, None, "auto") <= 2
    assert made.image_tokens(CLAUDE, (1, 1), "auto") == 1


def test_messages_are_claudes_alone_and_hold_what_they_show():
    """Another family would refuse every row; an image at an address is not fetched within a tool's result either."""
    shown = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    turn = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [shown]}]}
    profile = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    asked = {"max_tokens": 9, "messages": HI}
    made = bedrock()
    assert made.translate(Request("/v1/messages", {"model": profile, **asked})).endpoint == "invoke"
    with pytest.raises(InputError, match=r"Anthropic's messages for us\.amazon\.nova"):
        made.translate(Request("/v1/messages", {"model": NOVA, **asked}))
    with pytest.raises(InputError, match="by address"):
        made.translate(Request("/v1/messages", {"model": CLAUDE, "max_tokens": 9, "messages": [turn]}))
