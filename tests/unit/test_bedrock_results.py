"""Lines of Bedrock's results, beside what the SDKs of their formats read in the same bytes."""

from __future__ import annotations

import json

import botocore.session
import msgspec
import pytest
from anthropic.types import Message
from botocore.parsers import create_parser
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from airflow_llm_batch.emulator import bedrock_models
from airflow_llm_batch.providers.bedrock.protocol import Bedrock
from airflow_llm_batch.providers.bedrock.results import READERS
from airflow_llm_batch.providers.json_lines import UNREADABLE
from airflow_llm_batch.results import ROW_STATUSES, Result

MADE = Bedrock(None, {"region": "us-east-1"})
CONVERSE = botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse").output_shape
HI = [{"role": "user", "content": "hello"}]


def read(output, **more):
    return MADE.read(msgspec.json.encode({"recordId": "j-1", "modelInput": {}, "modelOutput": output, **more}))


def failed(error):
    return MADE.read(msgspec.json.encode({"recordId": "j-1", "modelInput": {}, "error": error}))


def by_sdk(output):
    raw = {"status_code": 200, "headers": {}, "body": json.dumps(output).encode()}
    return create_parser("rest-json").parse(raw, CONVERSE)


def converse(content, stop="end_turn", **usage):
    usage = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15, **usage}
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop,
        "usage": usage,
        "metrics": {"latencyMs": 1},
    }


def test_claudes_answer_is_what_anthropics_sdk_reads():
    """Text, ending and tokens; the model is the one that was asked, whose price is Bedrock's."""
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": HI}
    output = bedrock_models.invoke("anthropic.claude-haiku-4-5-20251001-v1:0", body)
    output["usage"] |= {"cache_read_input_tokens": 7, "cache_creation_input_tokens": 3}
    sdk, result = Message.model_validate(output), read(output)
    assert (result.status, result.text, result.finish_reason) == ("succeeded", sdk.content[0].text, sdk.stop_reason)
    assert result.input_tokens == sdk.usage.input_tokens + 10
    assert (result.cached_tokens, result.cache_write_tokens) == (7, 3)
    assert (result.output_tokens, result.model) == (sdk.usage.output_tokens, None)


def test_converses_answer_is_what_boto3_reads():
    """Text, thoughts, calls, citations and tokens of a cache."""
    output = converse(
        [
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
            {"text": "So "},
            {"text": "it is."},
            {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"x": 1}}},
        ],
        "tool_use",
        cacheReadInputTokens=4,
        cacheWriteInputTokens=3,
        totalTokens=22,
        cacheDetails=[{"ttl": "1h", "inputTokens": 2}, {"ttl": "5m", "inputTokens": 1}],
    )
    sdk, result = by_sdk(output), read(output)
    content = sdk["output"]["message"]["content"]
    assert result.text == content[1]["text"] + content[2]["text"]
    assert result.reasoning == content[0]["reasoningContent"]["reasoningText"]["text"]
    use = content[3]["toolUse"]
    assert result.tool_calls == [{"id": use["toolUseId"], "name": use["name"], "arguments": use["input"]}]
    assert (result.status, result.finish_reason) == ("succeeded", sdk["stopReason"])
    assert result.input_tokens + result.output_tokens == sdk["usage"]["totalTokens"]
    assert (result.cached_tokens, result.cache_write_tokens, result.cache_write_1h_tokens) == (4, 3, 2)


def test_cached_tokens_may_be_among_the_others():
    """totalTokens tells; Nova's own body spells them another way."""
    among = read(converse([{"text": "a"}], cacheReadInputTokenCount=4))
    assert (among.input_tokens, among.cached_tokens) == (10, 4)
    beside = read(converse([{"text": "a"}], cacheReadInputTokenCount=4, totalTokens=19))
    assert (beside.input_tokens, beside.cached_tokens) == (14, 4)


@pytest.mark.parametrize(
    ("stop", "status"),
    [
        ("end_turn", "succeeded"),
        ("stop_sequence", "succeeded"),
        ("tool_use", "invalid"),
        ("max_tokens", "truncated"),
        ("model_context_window_exceeded", "truncated"),
        ("guardrail_intervened", "refused"),
        ("content_filtered", "refused"),
        ("malformed_model_output", "truncated"),
        ("malformed_tool_use", "truncated"),
        ("something_new", "truncated"),
    ],
)
def test_every_ending_of_the_service_model(stop, status):
    """And one that nobody knows, which never succeeds."""
    assert read(converse([{"text": "a"}], stop)).status == status


def test_a_schemas_answer_comes_by_a_tool_with_nova():
    """The tool that stands for the schema is the answer, and no call."""
    use = {"toolUse": {"toolUseId": "t", "name": "structured_answer", "input": {"x": "1"}}}
    result = read(converse([use], "tool_use"))
    assert (result.status, json.loads(result.text), result.tool_calls) == ("succeeded", {"x": "1"}, None)
    assert result.finish_reason == "end_turn"
    cut = read(converse([{"toolUse": {"toolUseId": "t", "name": "structured_answer", "input": {}}}], "max_tokens"))
    assert cut.status == "truncated"


def test_media_and_citations_are_kept():
    """A picture is an answer; citations lie in the text's own block."""
    picture = {"image": {"format": "png", "source": {"bytes": "AAAA"}}}
    result = read(converse([picture]))
    assert (result.status, result.choices[0]["media"]) == ("succeeded", [picture])
    cited = {"citationsContent": {"content": [{"text": "It says."}], "citations": [{"title": "T"}]}}
    result = read(converse([cited]))
    assert (result.text, result.citations) == ("It says.", [{"title": "T"}])


def test_gpt_oss_answers_are_what_openais_sdk_reads():
    """What it thought stands before the answer in tags of its own."""
    output = bedrock_models.invoke("openai.gpt-oss-20b-1:0", {"messages": HI})
    sdk, result = ChatCompletion.model_validate(output), read(output)
    assert result.text == sdk.choices[0].message.content.partition("</reasoning>")[2] == "hello"
    assert result.reasoning == "It wants an echo."
    assert (result.input_tokens, result.output_tokens) == (sdk.usage.prompt_tokens, sdk.usage.completion_tokens)
    only = {"choices": [{"index": 0, "message": {"content": "<reasoning>hm</reasoning>"}, "finish_reason": "stop"}]}
    assert (read(only).status, read(only).reasoning) == ("invalid", "hm")


@pytest.mark.parametrize(
    ("output", "status", "text", "tokens"),
    [
        (
            {"generation": "a", "prompt_token_count": 3, "generation_token_count": 1, "stop_reason": "stop"},
            "succeeded",
            "a",
            3,
        ),
        ({"generation": "a", "prompt_token_count": 3, "stop_reason": "length"}, "truncated", "a", 3),
        ({"outputs": [{"text": "a", "stop_reason": "stop"}]}, "succeeded", "a", None),
        ({"outputs": []}, "truncated", None, None),
        ({"choices": [{"message": {"content": "a"}, "stop_reason": "stop"}]}, "succeeded", "a", None),
        ({"choices": [{"message": {"content": "a"}, "stop_reason": "length"}]}, "truncated", "a", None),
        (
            {"inputTextTokenCount": 3, "results": [{"tokenCount": 1, "outputText": "a", "completionReason": "FINISH"}]},
            "succeeded",
            "a",
            3,
        ),
        (
            {"inputTextTokenCount": 3, "results": [{"outputText": "a", "completionReason": "LENGTH"}]},
            "truncated",
            "a",
            3,
        ),
        ({"results": [{"outputText": "a", "completionReason": "CONTENT_FILTERED"}]}, "refused", "a", None),
        (
            {"generation": "a", "stop_reason": "stop", "amazon-bedrock-invocationMetrics": {"inputTokenCount": 7}},
            "succeeded",
            "a",
            7,
        ),
        (
            {"generation": "Blocked.", "stop_reason": "stop", "amazon-bedrock-guardrailAction": "INTERVENED"},
            "refused",
            "Blocked.",
            None,
        ),
        ({"generation": "a", "stop_reason": "stop", "amazon-bedrock-guardrailAction": "NONE"}, "succeeded", "a", None),
        ({"content": [{"type": "text", "text": "a"}], "stop_reason": "refusal"}, "refused", "a", None),
        ({"error": {"message": "no"}}, "errored", None, None),
        ({"message": "Malformed input request"}, "errored", None, None),
        ({}, "invalid", None, None),
        ([], "invalid", None, None),
        ("text", "invalid", None, None),
    ],
)
def test_every_familys_answer(output, status, text, tokens):
    """As the user guide has them, and some as nobody has."""
    result = read(output)
    assert (result.status, result.text, result.input_tokens) == (status, text, tokens)


def test_vectors():
    """One, several, by type; what is no vector is told."""
    assert read({"embedding": [0.5, 1], "inputTextTokenCount": 3}).embedding == [0.5, 1]
    by_type = {"embedding": [0.5], "embeddingsByType": {"binary": [1]}, "inputTextTokenCount": 3}
    assert (read(by_type).embedding, read(by_type).input_tokens, read(by_type).output_tokens) == ([0.5], 3, 0)
    assert read({"embeddings": [[1.0]], "response_type": "embeddings_floats"}).embedding == [1.0]
    assert read({"embeddings": {"float": [[1.0], [2.0]]}}).embedding == [[1.0], [2.0]]
    nova = {"embeddings": [{"embeddingType": "TEXT", "embedding": [0.5, 1.0], "truncatedCharLength": 9}]}
    assert (read(nova).status, read(nova).embedding) == ("succeeded", [0.5, 1.0])
    binary = read({"embeddingsByType": {"binary": [1, 0]}, "inputTextTokenCount": 3})
    assert (binary.status, binary.output["embeddingsByType"], binary.input_tokens) == (
        "succeeded",
        {"binary": [1, 0]},
        3,
    )
    for bad in ({"embedding": [None]}, {"embeddings": {"int8": [[1]]}}, {"embeddings": []}, {"embedding": "x"}):
        assert (read(bad).status, read(bad).error_code) == ("invalid", "bad_vector")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"errorCode": 400, "errorMessage": "bad request"}, "errored", "http_400"),
        ({"errorCode": 429, "errorMessage": "Too many requests"}, "errored", "http_429"),
        ({"errorCode": 500, "errorMessage": "Internal"}, "errored", "http_500"),
        ({"errorCode": "ThrottlingException", "errorMessage": "slow down"}, "errored", "ThrottlingException"),
        ({"errorMessage": "blocked by content filter"}, "refused", None),
        ("expired", "errored", "unknown_error"),
    ],
)
def test_a_records_error(error, status, code):
    """By its HTTP status, or its AWS name; repair reads the code."""
    result = failed(error)
    assert result.status == status
    assert code is None or result.error_code == code


@pytest.mark.parametrize(
    "line", [b"{}", b'{"recordId": "a"}', b'{"modelOutput": {}}', b'{"recordId": null, "error": 1}', b"[1]", b"<html>"]
)
def test_what_is_no_result_line(line):
    """It names no row, or tells nothing of one."""
    with pytest.raises(UNREADABLE):
        MADE.read(line)


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.just(10**400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    "text",
                    "toolUse",
                    "content",
                    "message",
                    "usage",
                    "inputTokens",
                    "choices",
                    "stop_reason",
                    "image",
                    "reasoningContent",
                    "reasoningText",
                    "citationsContent",
                    "float",
                    "name",
                    "input",
                    "finish_reason",
                )
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
NAMES = [name for name, _ in READERS] + [
    "stopReason",
    "usage",
    "error",
    "amazon-bedrock-guardrailAction",
    "stop_reason",
]


@given(output=st.dictionaries(st.sampled_from(NAMES), ODD, max_size=5) | ODD, error=st.none() | ODD)
@example(
    output={"output": {"message": {"content": [{"toolUse": {"name": [], "input": "{"}}]}}, "stopReason": {}}, error=None
)
@example(output={"choices": [{"message": {"content": "<reasoning>a"}, "finish_reason": ["stop"]}]}, error=None)
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
def test_whatever_stands_in_an_answer_the_row_gets_a_result(output, error):
    """Any JSON in any place: a status that there is, and never a success without an answer."""
    line = json.dumps({"recordId": "j-1", "modelOutput": output, "error": error}).encode()
    try:
        result = MADE.read(line)
    except UNREADABLE:
        assert (output, error) == (None, None)
        return
    assert isinstance(result, Result)
    assert result.custom_id == "j-1"
    assert result.status in ROW_STATUSES
    assert result.status != "succeeded" or any(
        value is not None for value in (result.text, result.tool_calls, result.embedding, result.output, result.choices)
    )
    msgspec.json.encode(result)


@pytest.mark.parametrize(
    ("output", "status", "message"),
    [
        ({"embedding": None, "inputTextTokenCount": 0, "message": "The image is too large."}, "errored", "too large"),
        ({"generation": None, "prompt_token_count": 3, "stop_reason": "stop"}, "invalid", "it is empty"),
        ({"content": None, "type": "message"}, "invalid", "it is empty"),
        ({"text": "half", "finish_reason": "MAX_TOKENS"}, "truncated", ""),
        ({"text": "", "finish_reason": "ERROR_TOXIC"}, "refused", ""),
        ({"completion": "half", "stop_reason": "max_tokens"}, "truncated", ""),
        ({"completion": "all", "stop_reason": "stop_sequence"}, "succeeded", ""),
        ({"images": ["AAAA"], "finish_reason": "some new word"}, "succeeded", ""),
    ],
)
def test_an_answer_that_holds_none_is_no_success(output, status, message):
    """Null where the answer should stand, and endings of shapes that are not read."""
    result = read(output)
    assert result.status == status
    assert message in (result.error_message or "")
