"""The vendors' own SDKs drive the emulator: what they accept is what a vendor's answer looks like."""

from __future__ import annotations

import json
import time

import anthropic
import httpx
import openai
import pytest
from support.sdks import anthropic_client, chat, create, line, message, openai_client, until, upload

from airflow_llm_batch.emulator import Emulator


def test_openai_batch_moves_through_its_states_and_answers_every_line():
    """Upload, create, poll through validating, in_progress, finalizing, completed, download."""
    with Emulator(duration=1.5) as emulator:
        client = openai_client(emulator)
        file = upload(client, *(line(f"r{n}", chat(f"text {n}")) for n in range(20)))
        assert (file.purpose, file.status, file.filename) == ("batch", "processed", "in.jsonl")
        batch = create(client, file, metadata={"k": "v"})
        seen, counts = [batch.status], []
        for _ in range(400):
            batch = client.batches.retrieve(batch.id)
            counts.append(batch.request_counts.completed)
            if seen[-1] != batch.status:
                seen.append(batch.status)
            if batch.status == "completed":
                break
            time.sleep(0.01)
        assert seen == ["validating", "in_progress", "finalizing", "completed"]
        assert counts == sorted(counts)
        assert counts[-1] == 20
        assert batch.metadata == {"k": "v"}
        assert batch.error_file_id is None
        results = [json.loads(text) for text in client.files.content(batch.output_file_id).text.splitlines()]
        said = {r["custom_id"]: r["response"]["body"]["choices"][0]["message"]["content"] for r in results}
        assert said == {f"r{n}": f"text {n}" for n in range(20)}


def test_openai_cancel_keeps_what_was_done_and_explains_the_rest():
    """Cancelling goes through cancelling to cancelled; finished rows are in the output, others in the error file."""
    with Emulator(duration=1.0) as emulator:
        client = openai_client(emulator)
        batch = create(client, upload(client, *(line(f"r{n}", chat(f"t{n}")) for n in range(50))))
        until(lambda: client.batches.retrieve(batch.id), lambda b: b.request_counts.completed > 0)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = until(lambda: client.batches.retrieve(batch.id), lambda b: b.status == "cancelled")
        done = client.files.content(batch.output_file_id).text.splitlines()
        rest = [json.loads(text) for text in client.files.content(batch.error_file_id).text.splitlines()]
        assert len(done) + len(rest) == 50
        assert {r["error"]["code"] for r in rest} == {"batch_cancelled"}
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)


def test_openai_pages_its_listing(emulator):
    """The SDK's own paginator walks every batch once, newest first."""
    client = openai_client(emulator)
    file = upload(client, line("a", chat("x")))
    ids = [create(client, file).id for _ in range(7)]
    assert [batch.id for batch in client.batches.list(limit=3)] == ids[::-1]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([line("a", chat("x")), line("a", chat("y"))], "duplicate_custom_id"),
        ([line("a", {"model": "m", "input": "x"}, "/v1/embeddings")], "url_mismatch"),
        ([b"not json"], "invalid_json_line"),
        ([b'{"custom_id": "a"}'], "invalid_json_line"),
        ([line("a", chat("x")), line("b", {**chat("x"), "model": "other"})], "model_mismatch"),
        ([line("a", chat("x", stream=True))], "invalid_request"),
        ([b""], "empty_file"),
    ],
)
def test_openai_bad_files_fail_after_a_create_that_succeeded(emulator, lines, code):
    """As at the vendor: the create answers 200, validation fails the batch and says why."""
    client = openai_client(emulator)
    batch = client.batches.retrieve(create(client, upload(client, *lines)).id)
    assert batch.status == "failed"
    assert batch.errors.data[0].code == code
    assert batch.output_file_id is None


def test_openai_refuses_at_the_door(emulator):
    """Unknown file, endpoint and window, a missing key, an unknown batch."""
    client = openai_client(emulator)
    file = upload(client, line("a", chat("x")))
    for wrong in ({"input_file_id": "file-none"}, {"endpoint": "/v1/audio"}, {"completion_window": "1h"}):
        right = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        with pytest.raises(openai.BadRequestError):
            client.batches.create(**{**right, **wrong})
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    assert httpx.get(f"{emulator.openai_url}/batches").status_code == 401


def test_openai_files_can_be_listed_read_and_deleted(emulator):
    """The rest of the Files API."""
    client = openai_client(emulator)
    file = client.files.create(
        purpose="batch", file=("a.jsonl", b"{}"), expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert client.files.retrieve(file.id).expires_at == file.created_at + 3600
    assert [f.id for f in client.files.list(purpose="batch")] == [file.id]
    assert client.files.content(file.id).content == b"{}"
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_openai_synchronous_endpoints_echo_fill_schemas_and_call_tools(emulator):
    """Chat, structured output, tools, truncation, responses and embeddings through the SDK."""
    client = openai_client(emulator)
    schema = {
        "type": "object",
        "properties": {
            "mood": {"type": "string", "enum": ["good", "bad"]},
            "score": {"type": "integer", "minimum": 1, "maximum": 5},
        },
        "required": ["mood", "score"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "o", "schema": schema, "strict": True}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert client.chat.completions.create(**chat("hello")).choices[0].message.content == "hello"
    filled = json.loads(client.chat.completions.create(**chat("x", response_format=wanted)).choices[0].message.content)
    assert filled["mood"] in ("good", "bad")
    assert 1 <= filled["score"] <= 5
    called = client.chat.completions.create(**chat("x", tools=[tool])).choices[0]
    assert (called.finish_reason, called.message.tool_calls[0].function.name) == ("tool_calls", "f")
    assert (
        client.chat.completions.create(**chat("long " * 50, max_completion_tokens=3)).choices[0].finish_reason
        == "length"
    )
    assert client.responses.create(model="gpt-5-mini", input="hi there").output_text == "hi there"
    vectors = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], dimensions=8).data
    assert [len(v.embedding) for v in vectors] == [8, 8]
    assert vectors[0].embedding != vectors[1].embedding


def test_anthropic_batch_is_created_read_listed_and_its_results_streamed():
    """Counters stay at processing until the end, then results come from results_url."""
    with Emulator(duration=0.5) as emulator:
        client = anthropic_client(emulator)
        batches = client.messages.batches
        batch = batches.create(requests=[message(f"r{n}", f"text {n}") for n in range(12)])
        assert (batch.processing_status, batch.request_counts.processing) == ("in_progress", 12)
        assert batch.results_url is None
        batch = until(lambda: batches.retrieve(batch.id), lambda b: b.processing_status == "ended")
        assert batch.request_counts.succeeded == 12
        said = {r.custom_id: r.result.message.content[0].text for r in batches.results(batch.id)}
        assert said == {f"r{n}": f"text {n}" for n in range(12)}
        more = [batches.create(requests=[message("a")]).id for _ in range(4)]
        assert [b.id for b in batches.list(limit=2)] == [*more[::-1], batch.id]


def test_anthropic_cancel_and_delete():
    """Canceled rows are told one by one; only an ended batch can be deleted."""
    with Emulator(duration=1.0) as emulator:
        batches = anthropic_client(emulator).messages.batches
        batch = batches.create(requests=[message(f"r{n}") for n in range(40)])
        with pytest.raises(anthropic.BadRequestError):
            batches.delete(batch.id)
        assert batches.cancel(batch.id).processing_status == "canceling"
        batch = until(lambda: batches.retrieve(batch.id), lambda b: b.processing_status == "ended")
        kinds = [r.result.type for r in batches.results(batch.id)]
        assert len(kinds) == 40
        assert kinds.count("canceled") == batch.request_counts.canceled > 0
        assert batches.delete(batch.id).type == "message_batch_deleted"
        with pytest.raises(anthropic.NotFoundError):
            batches.retrieve(batch.id)


def test_anthropic_judges_ids_at_once_and_params_row_by_row(emulator):
    """Duplicate and ill-formed custom_ids refuse the create; bad params make one row errored."""
    batches = anthropic_client(emulator).messages.batches
    for wrong in ([message("a"), message("a")], [message("no spaces")], []):
        with pytest.raises(anthropic.BadRequestError):
            batches.create(requests=wrong)
    lacking = {"custom_id": "b", "params": {"model": "m", "messages": [{"role": "user", "content": "x"}]}}
    batch = batches.create(requests=[message("a"), lacking])
    results = {r.custom_id: r.result for r in batches.results(batch.id)}
    assert results["a"].type == "succeeded"
    assert results["b"].error.error.type == "invalid_request_error"
    assert httpx.get(f"{emulator.url}/v1/messages/batches", headers={"anthropic-version": "1"}).status_code == 401
    assert httpx.get(f"{emulator.url}/v1/messages/batches", headers={"x-api-key": "k"}).status_code == 400


def test_anthropic_messages_fill_schemas_and_use_tools(emulator):
    """The synchronous endpoint: output_config, tools, truncation."""
    client = anthropic_client(emulator)
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    base = message("_")["params"]
    said = client.messages.create(**base, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert isinstance(json.loads(said.content[0].text)["n"], int)
    used = client.messages.create(**base, tools=[{"name": "f", "input_schema": schema}])
    assert (used.stop_reason, used.content[0].name) == ("tool_use", "f")
    cut = client.messages.create(**{**base, "max_tokens": 1, "messages": [{"role": "user", "content": "long " * 30}]})
    assert cut.stop_reason == "max_tokens"


def test_a_fixed_key_is_the_only_one_accepted():
    """--api-key."""
    with Emulator(api_key="right") as emulator:
        assert openai.OpenAI(base_url=emulator.openai_url, api_key="right").batches.list().data == []
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=emulator.openai_url, api_key="wrong").batches.list()
        with pytest.raises(anthropic.AuthenticationError):
            anthropic.Anthropic(base_url=emulator.url, api_key="wrong").messages.batches.list()


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_upstream_answers_every_request_of_a_batch(dialect):
    """--upstream: another server is asked for every row, whichever API the batch came by."""
    with Emulator() as real, Emulator(upstream=real.url) as front:
        if dialect == "openai":
            client = openai_client(front)
            batch = create(client, upload(client, *(line(f"r{n}", chat(f"t{n}")) for n in range(30))))
            batch = until(lambda: client.batches.retrieve(batch.id), lambda b: b.status == "completed")
            lines = client.files.content(batch.output_file_id).text.splitlines()
            said = {(r := json.loads(text))["custom_id"]: r["response"]["body"]["choices"][0] for text in lines}
            said = {key: choice["message"]["content"] for key, choice in said.items()}
        else:
            batches = anthropic_client(front).messages.batches
            batch = batches.create(requests=[message(f"r{n}", f"t{n}") for n in range(30)])
            until(lambda: batches.retrieve(batch.id), lambda b: b.processing_status == "ended")
            said = {r.custom_id: r.result.message.content[0].text for r in batches.results(batch.id)}
        assert said == {f"r{n}": f"t{n}" for n in range(30)}
        assert real.vendor.calls["POST /v1/chat/completions"] == 30


def test_enqueued_token_limit_fails_a_batch_after_its_create():
    """The create succeeds; the batch then fails with token_limit_exceeded until room appears."""
    with Emulator(duration=0.4, faults={"enqueued_tokens": 60}) as emulator:
        client = openai_client(emulator)
        file = upload(client, line("a", chat("x" * 100)))
        first, second = create(client, file), create(client, file)
        second = until(lambda: client.batches.retrieve(second.id), lambda b: b.status == "failed")
        assert second.errors.data[0].code == "token_limit_exceeded"
        until(lambda: client.batches.retrieve(first.id), lambda b: b.status == "completed")
        third = create(client, file)
        assert until(lambda: client.batches.retrieve(third.id), lambda b: b.status != "validating").status != "failed"
