"""The vendors' own SDKs judge what else the emulator speaks: streams, uploads, lists, models, counts, request ids."""

from __future__ import annotations

import json

import anthropic
import openai
import pydantic
import pytest
from support import MODELS
from support.sdks import anthropic_client, chat, create, line, message, openai_client, until, upload

from airflow_llm_batch.emulator import Emulator

GPT, CLAUDE = MODELS["openai"], MODELS["anthropic"]
TEXT = "a text of several pieces"
SCHEMA = {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"], "additionalProperties": False,
}  # fmt: skip
FLAT = [{"type": "function", "name": name, "parameters": SCHEMA} for name in ("weather", "news")]
NESTED = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "news")]
CLAUDES = [{"name": name, "input_schema": SCHEMA} for name in ("weather", "news")]
gpt, claude = pytest.fixture(openai_client), pytest.fixture(anthropic_client)


def unknown(value):
    """Names that an SDK's classes do not know."""
    known = isinstance(value, pydantic.BaseModel)
    inside = [item for _, item in value] if known else value if isinstance(value, list) else []
    return [*((known and value.model_extra) or ()), *(name for item in inside for name in unknown(item))]


def checked(answer):
    """The answer, once its SDK class has taken it strictly: nothing missing, mistyped or unknown."""
    text = answer.to_json(exclude_unset=True, exclude_none=False)
    assert not unknown(type(answer).model_validate_json(text, strict=True))
    return answer


def test_a_chat_completion_streams_to_what_it_is_at_once(gpt):
    """Text of two answers, and its usage in a last chunk of its own where it was asked for."""
    asked = chat(TEXT, n=2)
    assert all(checked(c).choices and c.usage is None for c in gpt.chat.completions.create(**asked, stream=True))
    with gpt.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        assert "".join(event.delta for event in stream if event.type == "content.delta") == TEXT * 2
        streamed = stream.get_final_completion()
    at_once = checked(gpt.chat.completions.create(**asked))
    said, wanted = ([(c.index, c.message.content, c.finish_reason) for c in a.choices] for a in (streamed, at_once))
    assert (said, streamed.usage) == (wanted, at_once.usage)


def test_the_named_tool_is_called_in_a_stream_of_either_api(gpt):
    """Arguments come in deltas that add up to what the answer has at once."""
    asked = chat("x", tools=NESTED, tool_choice={"type": "function", "function": {"name": "news"}})
    at_once = checked(gpt.chat.completions.create(**asked)).choices[0].message.tool_calls[0].function
    with gpt.chat.completions.stream(**asked) as stream:
        deltas = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        said = stream.get_final_completion().choices[0].message
    assert (said.content, said.tool_calls[0].function.name, at_once.name) == (None, "news", "news")
    assert "".join(deltas) == said.tool_calls[0].function.arguments == at_once.arguments
    with pytest.raises(openai.BadRequestError):
        gpt.chat.completions.create(**{**asked, "tools": NESTED[:1]})
    asked = {"model": GPT, "input": "x", "tools": FLAT, "tool_choice": {"type": "function", "name": "news"}}
    [at_once] = gpt.responses.create(**asked).output
    with gpt.responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        [said] = stream.get_final_response().output
    assert ("".join(deltas), said.name) == (said.arguments, "news") == (at_once.arguments, at_once.name)
    assert [checked(event) for event in gpt.responses.create(**asked, stream=True)]


def test_a_response_streams_to_what_it_is_at_once(gpt):
    """The SDK's own accumulation of the text, and the events around it."""
    asked = {"model": GPT, "input": TEXT}
    with gpt.responses.stream(**asked) as stream:
        events = list(stream)
        final = stream.get_final_response()
    snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
    assert snapshots[-1] == final.output_text == checked(gpt.responses.create(**asked)).output_text == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert [checked(event).type for event in gpt.responses.create(**asked, stream=True)] == [e.type for e in events]


@pytest.mark.parametrize("tools", [False, True])
def test_a_message_streams_to_what_it_is_at_once(claude, tools):
    """Text, the named tool's input, and the usage of the whole."""
    asked = message("_", TEXT)["params"]
    asked |= {"tools": CLAUDES, "tool_choice": {"type": "tool", "name": "news"}} if tools else {}
    with claude.messages.stream(**asked) as stream:
        events = list(stream)
        final = checked(stream.get_final_message())
    at_once = checked(claude.messages.create(**asked))
    assert (final.stop_reason, final.usage) == (at_once.stop_reason, at_once.usage)
    [said], [wanted] = final.content, at_once.content
    if tools:
        streamed = json.loads("".join(event.partial_json for event in events if event.type == "input_json"))
        assert (said.name, said.input, streamed) == ("news", wanted.input, wanted.input)
    else:
        assert "".join(event.text for event in events if event.type == "text") == said.text == wanted.text == TEXT
    assert [checked(event) for event in claude.messages.create(**asked, stream=True)]


def test_other_answers_are_whole(gpt):
    """``n``, ``logprobs`` that spell the text, the word that JSON mode wants to see; endpoints beside chat."""
    two = checked(gpt.chat.completions.create(**chat("two words", n=2, logprobs=True, top_logprobs=2)))
    one = gpt.chat.completions.create(**chat("two words"))
    assert (len(two.choices), two.usage.completion_tokens) == (2, 2 * one.usage.completion_tokens)
    for choice in two.choices:
        assert "".join(token.token for token in choice.logprobs.content) == "two words"
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)
    mode = {"response_format": {"type": "json_object"}}
    with pytest.raises(openai.BadRequestError, match="json"):
        gpt.chat.completions.create(**chat("an object, please", **mode))
    assert json.loads(gpt.chat.completions.create(**chat("in JSON, please", **mode)).choices[0].message.content)
    checked(gpt.embeddings.create(model="text-embedding-3-small", input="x", encoding_format="float"))
    checked(gpt.completions.create(model="gpt-3.5-turbo-instruct", prompt="x"))
    checked(gpt.moderations.create(model="omni-moderation-latest", input="x"))


def test_a_large_file_goes_up_in_parts_and_into_a_batch(gpt, tmp_path):
    """The SDK's chunked upload; the batch answers each line and sums up its usage."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(line(f"r{n}", chat(f"text {n}")) for n in range(30)))
    done = checked(gpt.uploads.upload_file_chunked(file=path, mime_type="text/jsonl", purpose="batch", part_size=1000))
    assert (done.status, done.file.bytes, done.file.filename) == ("completed", path.stat().st_size, "in.jsonl")
    assert gpt.files.content(done.file.id).content == path.read_bytes()
    made = create(gpt, done.file)
    batch = checked(until(lambda: gpt.batches.retrieve(made.id), lambda b: b.status == "completed"))
    rows = gpt.files.content(batch.output_file_id).text.splitlines()
    used = [json.loads(row)["response"]["body"]["usage"] for row in rows]
    assert len(used) == batch.request_counts.completed == 30
    totals = [sum(u[name] for u in used) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    assert [batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens] == totals


def test_an_upload_keeps_to_its_rules(gpt):
    """Parts in the order that is named, as many bytes as were announced, nothing once it has ended."""
    given = {"bytes": 6, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "batch"}
    begun, other = checked(gpt.uploads.create(**given)), gpt.uploads.create(**given)
    first, second = (checked(gpt.uploads.parts.create(begun.id, data=data)).id for data in (b"abc", b"def"))
    for wrong in ({"part_ids": [first]}, {"part_ids": ["none"]}, {"part_ids": [first, second], "md5": "0" * 32}):
        with pytest.raises(openai.BadRequestError):
            gpt.uploads.complete(begun.id, **wrong)
    assert gpt.files.content(gpt.uploads.complete(begun.id, part_ids=[second, first]).file.id).content == b"defabc"
    assert checked(gpt.uploads.cancel(other.id)).status == "cancelled"
    for ended in (begun, other):
        with pytest.raises(openai.BadRequestError):
            gpt.uploads.parts.create(ended.id, data=b"abc")


def test_files_are_listed_by_order_page_and_purpose(gpt):
    """The SDK's paginator walks all pages either way; ``after`` begins behind a file."""
    ids = [upload(gpt, b"{}").id for _ in range(5)]
    other = gpt.files.create(purpose="user_data", file=("a.txt", b"x")).id
    page = gpt.files.list(order="asc", limit=2, purpose="batch")
    assert ([checked(file).id for file in page.data], [file.id for file in page]) == (ids[:2], ids)
    assert [file.id for file in gpt.files.list(limit=2)] == [other, *ids[::-1]]
    assert [file.id for file in gpt.files.list(order="asc", after=ids[3], limit=1)] == [ids[4], other]


def test_both_vendors_list_their_models(gpt, claude):
    """In pages and one by one; an unknown one is not found, a key is needed."""
    for client, mine, vendor in ((gpt, GPT, openai), (claude, CLAUDE, anthropic)):
        names = [checked(model).id for model in client.models.list()]
        assert mine in [checked(client.models.retrieve(name)).id for name in names]
        with pytest.raises(vendor.NotFoundError):
            client.models.retrieve("no-such-model")
        with Emulator(api_key="right") as locked, pytest.raises(vendor.AuthenticationError):
            (openai_client if vendor is openai else anthropic_client)(locked).models.list()
    page = claude.models.list(limit=1)
    assert (len(page.data), [model.id for model in page]) == (1, names)


def test_every_answer_and_every_refusal_has_a_request_id(gpt, claude):
    """Where the SDKs look for it; Anthropic's refusals tell the same one in their body."""
    answers = [gpt.chat.completions.create(**chat("x")), gpt.batches.list(), gpt.models.retrieve(GPT)]
    answers += [claude.messages.create(**message("_")["params"]), claude.models.retrieve(CLAUDE)]
    ids = [answer._request_id for answer in answers]
    for wrong in (gpt.batches.retrieve, claude.messages.batches.retrieve, claude.models.retrieve):
        with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)) as refused:
            wrong("none")
        ids.append(refused.value.request_id)
        assert refused.value.body.get("request_id") in (None if wrong == gpt.batches.retrieve else ids[-1],)
    assert len({name for name in ids if name.startswith("req_")}) == len(ids)


def test_tokens_are_counted_as_a_message_bills_them(claude):
    """With system, tools and thinking, without a cap."""
    asked = {"model": CLAUDE, "messages": [{"role": "user", "content": TEXT}], "system": "Be brief.", "tools": CLAUDES}
    asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    billed = claude.messages.create(**asked, max_tokens=2000).usage.input_tokens
    assert checked(claude.messages.count_tokens(**asked)).input_tokens == billed
