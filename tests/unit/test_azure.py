"""Azure OpenAI with no network: addresses, deployments, spellings, files that are not processed yet."""

from __future__ import annotations

import json
from contextlib import suppress

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import Batch
from openai.types.chat import ChatCompletion

from airflow_llm_batch.exceptions import ConfigurationError, InputError, RefusedForGood, RequestRejected
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.azure.protocol import Azure
from airflow_llm_batch.providers.bodies import PAUSE, Payload
from airflow_llm_batch.providers.troubles import is_full
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

HOST = "https://res.openai.azure.com"
DATED = {"api_version": "2025-04-01-preview"}
CHAT = "/v1/chat/completions"
EMPTY = Payload(tuple, 0)
PENDING = {"error": {"code": "invalidPayload", "message": "The file 'f' is in 'Pending' state. Only 'Processed' ..."}}
FULL = "The number of enqueued tokens has surpassed the configured limit of 30K for the deployment 'd'."


class TestAzure(ProviderContract):
    """The v1 API."""

    made = Azure(HOST)
    running, ended = "in_progress", "completed"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counts = {"total": rows, "completed": rows, "failed": 0}
        return {"id": batch_id, "status": status, "created_at": int(at.timestamp()), "request_counts": counts, **more}


class TestDated(TestAzure):
    """The API with versions, as its first ones spelled things."""

    made = Azure(HOST, DATED)
    running, ended = "InProgress", "Completed"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counts = dict.fromkeys(("total", "completed", "failed"))
        files = {"output_file_id": "", "error_file_id": ""}
        times = {"created_at": f"{at:%Y-%m-%dT%H:%M:%S}.2491382+00:00"}
        return {"id": batch_id, "status": status, "endpoint": None, "request_counts": counts, **times, **files, **more}

    def page(self, items, *, more):
        return {
            "value": items,
            "has_more": more,
            "last_id": items[-1]["id"] if items and isinstance(items[-1], dict) else None,
        }


@pytest.mark.parametrize("options", [{}, DATED])
@pytest.mark.parametrize(
    "typed",
    [
        HOST, f"{HOST}/", f"{HOST}//", f"{HOST}/openai", f"{HOST}/openai/", f"{HOST}/openai/v1", f"{HOST}/openai/v1/",
        f"{HOST}/openai/deployments/mine/chat/completions",
    ],
)  # fmt: skip
def test_what_people_type_as_the_address(options, typed):
    """Every spelling of one resource is one address."""
    made = Azure(typed, options)
    assert made.base_url == f"{HOST}/openai" + ("" if options else "/v1")
    assert made.is_own
    assert made.is_direct
    assert made.batch_discount == "0.5"


@pytest.mark.parametrize(
    ("typed", "base", "own"),
    [
        ("https://r.cognitiveservices.azure.com/", "https://r.cognitiveservices.azure.com/openai/v1", True),
        ("https://r.services.ai.azure.com/api/projects/p", "https://r.services.ai.azure.com/openai/v1", True),
        ("https://r.openai.azure.us", "https://r.openai.azure.us/openai/v1", True),
        ("https://gate.azure-api.net/team/openai", "https://gate.azure-api.net/team/openai/v1", False),
        ("https://gate.example/openai-proxy", "https://gate.example/openai-proxy/openai/v1", False),
        ("https://openai.azure.com.evil.example", "https://openai.azure.com.evil.example/openai/v1", False),
        ("http://127.0.0.1:8089", "http://127.0.0.1:8089/openai/v1", False),
    ],
)
def test_other_hosts(typed, base, own):
    """Azure's own hosts in each cloud; a gateway keeps its path, and may keep the discount."""
    made = Azure(typed)
    assert (made.base_url, made.is_own) == (base, own)
    assert (made.batch_discount == "0.5") == (own or "127.0.0.1" in typed)


def test_there_is_no_address_without_a_host():
    """The message says what to set."""
    with pytest.raises(ConfigurationError, match="host, for example https://my-resource"):
        Azure()


def test_paths_of_both_apis():
    """A version goes with every call of the dated API, and with none of the other."""
    for options, tail in (({}, ""), (DATED, "?api-version=2025-04-01-preview")):
        made = Azure(HOST, options)
        first, second = "/openai/v1" if not options else "/openai", "&" if options else "?"
        assert str(next(made.get("b")).url) == f"{HOST}{first}/batches/b{tail}"
        assert str(next(made.list("x")).url).startswith(f"{HOST}{first}/batches{tail}{second}")
        assert str(made.download("f").url) == f"{HOST}{first}/files/f/content{tail}"


def test_calls_of_both_apis():
    """The dated API has the deployment in the address of calls, but for the Responses API."""

    def path(options, endpoint, **body):
        made = Azure(HOST, options)
        line = made.line(Request(endpoint, {"model": "my dep", **body}), "x-1")
        call = made.call(json.dumps(line).encode(), Shard(endpoint=endpoint))
        assert json.loads(call.body) == {"model": "my dep", **body}
        return call.path.decode()

    version = "?api-version=2025-04-01-preview"
    assert path({}, CHAT, messages=[]) == "/openai/v1/chat/completions"
    assert path(DATED, CHAT, messages=[]) == f"/openai/deployments/my%20dep/chat/completions{version}"
    assert path(DATED, "/v1/embeddings", input="x") == f"/openai/deployments/my%20dep/embeddings{version}"
    assert path(DATED, "/v1/responses", input="x") == f"/openai/responses{version}"
    made = Azure(HOST, DATED)
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"d","messages":[]}}'
    assert made.call(line, Shard(endpoint=CHAT)).path.startswith(b"/openai/deployments/d/chat/completions?")


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/responses", "/v1/embeddings", "/chat/completions"])
@pytest.mark.parametrize("options", [{}, DATED])
def test_a_line_gives_its_request_back(options, endpoint):
    """Whatever either API writes as the url; both spellings are taken."""
    made = Azure(HOST, options)
    body = {"model": "d", "messages": []} if "chat" in endpoint else {"model": "d", "input": "x"}
    translated = made.translate(Request(endpoint, body))
    line = made.line(translated, "x-1")
    assert made.request_of(line, Shard(endpoint=CHAT)) == translated
    assert translated.endpoint.startswith("/v1/")
    assert line["url"] == (translated.endpoint[3:] if options and "responses" not in endpoint else translated.endpoint)


def create_of(made, *answers, endpoint=CHAT):
    shard = Shard(endpoint=endpoint, key="ab12-0")
    return drive(made.create(shard, "f", EMPTY), *answers)


def test_a_create_names_the_endpoint_as_its_lines_do():
    """No expiry that nobody wished for."""
    raw = TestAzure().raw("b", "validating")
    for options, endpoint in (({}, CHAT), (DATED, "/chat/completions")):
        body = json.loads(create_of(Azure(HOST, options), raw)[0][0].content)
        assert body == {
            "input_file_id": "f", "endpoint": endpoint, "completion_window": "24h",
            "metadata": {"airflow_llm_batch": "ab12-0"},
        }  # fmt: skip


def test_rules_are_those_of_the_model_behind_a_deployment():
    """gpt-5 refuses a temperature, whatever its deployment is called; a name alone is no model."""
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": "x"}], "temperature": 0.2}
    with pytest.raises(InputError, match=r"gpt-5-mini .*refuses temperature"):
        Azure(HOST, {"deployments": {"gpt-5": "gpt-5-mini"}}).translate(Request(CHAT, body))
    for made in (Azure(HOST, {"deployments": {"gpt-5": "gpt-4o"}}), Azure(HOST)):
        assert made.translate(Request(CHAT, body)).body == body
    named = Azure(HOST, {"deployments": {"mine": "gpt-5-pro"}}).translate(
        Request(CHAT, {**body, "model": "mine", "temperature": 1})
    )
    assert (named.endpoint, named.model) == ("/v1/responses", "mine")


def test_what_holds_for_every_model_is_refused():
    """JSON that nobody asks for in words, a tool without a fit name."""
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(InputError, match="word JSON"):
        Azure(HOST).translate(
            Request(CHAT, {"model": "d", "messages": messages, "response_format": {"type": "json_object"}})
        )
    tool = {"type": "function", "function": {"name": "no blanks"}}
    with pytest.raises(InputError, match="a tool is named"):
        Azure(HOST).translate(Request(CHAT, {"model": "d", "messages": messages, "tools": [tool]}))


@pytest.mark.parametrize(
    ("options", "cap"),
    [
        ({}, "max_completion_tokens"),
        ({"api_version": "2024-10-21"}, "max_tokens"),
        ({"api_version": "2025-04-01-preview"}, "max_completion_tokens"),
        ({"api_version": "2024-10-21", "deployments": {"d": "o3-mini"}}, "max_completion_tokens"),
        ({"api_version": "2025-04-01-preview", "deployments": {"d": "gpt-4o"}}, "max_tokens"),
        ({"token_cap": "max_tokens"}, "max_tokens"),
    ],
)
def test_the_token_cap_is_called_as_the_version_knows_it(options, cap):
    """The new name came with the reasoning models."""
    made = Azure(HOST, options).translate(Request(CHAT, {"model": "d", "messages": [], "max_completion_tokens": 5}))
    assert made.body == {"model": "d", "messages": [], cap: 5}


def test_prices_and_images_are_the_models():
    """The deployment's name says nothing of either."""
    made = Azure(HOST, {"deployments": {"cheap": "gpt-4o-mini"}})
    assert (made.model_of("cheap"), made.model_of("other"), made.price_id) == ("gpt-4o-mini", "other", "azure")
    of_model = Azure(HOST).image_tokens("gpt-4o-mini", (512, 512), "high")
    assert made.image_tokens("cheap", (512, 512), "high") == of_model != made.image_tokens("gpt-4o", (512, 512), "high")


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-4o-mini-2024-07-18", "o3-mini", "text-embedding-3-small"])
def test_a_batch_costs_half_whoever_the_price_table_has_a_model_from(model):
    """genai-prices lends Azure what it knows of OpenAI's models, but not their batch prices: half, as Azure says."""
    used = Result(model="named", input_tokens=1_000_000, output_tokens=0 if "embed" in model else 1_000_000)
    usual = Prices("openai", "0.5").cost(used, model, called=True)
    made = Azure(HOST, {"deployments": {"named": model}})
    cost = Prices(made.price_id, made.batch_discount, model_of=made.model_of).cost(used, "named")
    assert (cost.batched * 2, cost.paid * 2, cost.sync) == (usual.sync, usual.sync, usual.sync)
    assert Prices(made.price_id, made.batch_discount).cost(used, "named") is None


def upload_of(made, *answers):
    return drive(made.upload("in.jsonl", Payload(lambda: [b"{}\n"], 3)), {"id": "f"}, *answers)


def test_an_upload_waits_until_the_file_is_processed():
    """The pauses grow; a state in any spelling, or none at all, is read."""
    states = [{"status": word} for word in ("pending", "Running", "uploaded", "thinking", None)]
    requests, ref = upload_of(Azure(HOST), *states)
    assert ref == "f"
    assert [r.method for r in requests] == ["POST"] + ["GET"] * 5
    pauses = [r.extensions[PAUSE] for r in requests[1:]]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert upload_of(Azure(HOST), {"status": "Processed"})[1] == "f"


def test_a_file_that_cannot_be_used_says_so():
    """Which file, why, and that nothing was billed; a retry would not help."""
    with pytest.raises(InputError, match=r"file f, whose state is 'error': not JSON.*nothing billed") as caught:
        upload_of(Azure(HOST), {"status": "error", "status_details": "not JSON"})
    assert not caught.value.retry_helps
    with pytest.raises(InputError, match="does not say why"):
        upload_of(Azure(HOST), {"status": "deleted"})


def test_a_file_is_not_waited_for_for_ever():
    """The seconds are the connection's; a retry may help."""
    looks = [{"status": "pending"}] * 40
    with pytest.raises(RequestRejected, match=r"file f within 20 s; its state is 'pending'.*nothing billed") as caught:
        upload_of(Azure(HOST, {"file_seconds": 20}), *looks)
    assert caught.value.retry_helps
    flow = Azure(HOST, {"file_seconds": 20}).processed("f", 20)
    pauses, request = [], next(flow)
    with suppress(RequestRejected):
        while True:
            pauses.append(request.extensions[PAUSE])
            request = flow.send(httpx.Response(200, json=looks[0]))
    assert sum(pauses) == 20


def test_a_create_that_was_too_early_is_made_again():
    """Refused at the door, no batch was made of it: the file is waited for, and the create sent once more."""
    raw = TestAzure().raw("b", "validating")
    requests, batch = create_of(
        Azure(HOST), httpx.Response(400, json=PENDING), {"status": "pending"}, {"status": "processed"}, raw
    )
    assert [r.method for r in requests] == ["POST", "GET", "GET", "POST"]
    assert batch.id == "b"
    with pytest.raises(RefusedForGood, match="Pending"):
        create_of(
            Azure(HOST), httpx.Response(400, json=PENDING), {"status": "processed"}, httpx.Response(400, json=PENDING)
        )


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "token_limit_exceeded", "message": FULL}),
        (400, {"code": "400", "message": "token_limit_exceeded: try again"}),
        (400, {"code": "invalidPayload", "message": "Value for endpoint is not supported."}),
        (409, {"code": "conflict", "message": "The file is in 'Pending' state."}),
    ],
)
def test_other_refusals_are_not_repeated(status, error):
    """One request, and the vendor's code."""
    with pytest.raises(RequestRejected) as caught:
        create_of(Azure(HOST), httpx.Response(status, json={"error": error}))
    assert caught.value.code == error["code"]
    assert is_full(caught.value.code, str(caught.value)) == ("token_limit" in str(error))


@pytest.mark.parametrize("files", [{}, {"output_file_id": "file-1", "error_file_id": "file-2"}])
@pytest.mark.parametrize("counts", [None, {"total": 10, "completed": None, "failed": None}])
def test_a_batch_that_found_no_room_is_full(files, counts):
    """Whatever files Azure names beside it: nothing was done."""
    errors = {"object": "list", "data": [{"code": "token_limit_exceeded", "message": FULL, "line": None}]}
    raw = {"id": "b", "status": "Failed", "errors": errors, "request_counts": counts, **files}
    batch = Azure(HOST).parse(raw)
    assert (batch.outcome, batch.full, batch.files) == ("failed", True, ())
    worked = Azure(HOST).parse({**raw, **files, "request_counts": {"total": 10, "completed": 4, "failed": 0}})
    assert worked.full == (not files)


SAMPLES = [
    # the REST samples of the documentation
    (
        {
            "id": "batch_fe3f", "status": "Validating", "created_at": "2024-07-19T17:13:57.2491382+00:00",
            "expires_at": "2024-07-20T17:13:57.1918498+00:00", "error_file_id": None, "output_file_id": None,
            "input_file_id": "file-2100", "request_counts": {"total": None, "completed": None, "failed": None},
            "completion_window": "24h", "object": "batch",
        },
        (None, (), None, True),
    ),
    (
        {
            "id": "batch_1e1e", "status": "validating", "created_at": 1744402048, "endpoint": "/chat/completions",
            "error_file_id": "", "output_file_id": "", "request_counts": {"completed": 0, "failed": 0, "total": 0},
            "completion_window": "24h", "object": "batch", "input_file_id": "file-e2ba",
        },
        (None, (), 0, True),
    ),
    (
        {
            "id": "batch_6caa", "status": "completed", "created_at": 1722476583, "endpoint": None,
            "error_file_id": "file-c795", "output_file_id": "file-3304", "completion_window": "24h", "object": "batch",
            "request_counts": {"completed": 3, "failed": 0, "total": 3}, "input_file_id": "file-9f3a",
        },
        ("completed", ("file-3304", "file-c795"), 3, True),
    ),
    (
        {
            "id": "batch_80f5", "status": "failed", "created_at": 1725419394, "completed_at": 1725419955,
            "failed_at": None, "output_file_id": "file-ef12", "error_file_id": "file-3b0f", "object": "batch",
            "errors": {"object": "list", "data": [{"code": "empty_file", "message": "The input file is empty."}]},
            "request_counts": {"total": 10, "completed": None, "failed": None}, "completion_window": "24h",
            "input_file_id": "file-c2d9", "endpoint": "/chat/completions",
        },
        ("failed", ("file-ef12", "file-3b0f"), None, True),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "expected"), SAMPLES)
def test_batches_as_the_documentation_shows_them(raw, expected):
    """Read as openai's own type reads the same bytes, times apart, which it leaves as they are."""
    batch, theirs = Azure(HOST).parse(raw), Batch.construct(**raw)
    assert (batch.outcome, batch.files, batch.succeeded, batch.known) == expected
    assert (batch.id, batch.status, batch.input_ref) == (theirs.id, theirs.status.lower(), theirs.input_file_id)
    assert not batch.full
    if isinstance(theirs.created_at, int):
        assert batch.created_at.timestamp() == theirs.created_at
    else:
        assert batch.created_at.isoformat() == "2024-07-19T17:13:57.249138+00:00"


@pytest.mark.parametrize("word", ["Canceled", "canceled", "Cancelled", "cancelled"])
def test_both_ways_to_write_cancelled(word):
    """The documentation's own loop waits for the American one."""
    assert Azure(HOST).parse({"id": "b", "status": word}).outcome == "cancelled"


LINE = {
    "custom_id": "task-0",
    "response": {
        "body": {
            "choices": [
                {
                    "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}},
                    "finish_reason": "stop", "index": 0, "logprobs": None,
                    "message": {"content": "Founded on April 4, 1975.", "role": "assistant"},
                }
            ],
            "created": 1722477079, "id": "chatcmpl-9rFG", "model": "gpt-4o-2024-05-13", "object": "chat.completion",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
            "usage": {"completion_tokens": 24, "prompt_tokens": 27, "total_tokens": 51},
        },
        "request_id": "660b7424", "status_code": 200,
    },
    "error": None,
}  # fmt: skip


def test_an_answer_without_an_id_is_read_as_the_sdk_reads_it():
    """The documentation's sample line: verdicts of the filter are no part of the answer."""
    result = Azure(HOST).read(json.dumps(LINE).encode())
    theirs = ChatCompletion.model_validate(LINE["response"]["body"])
    assert (result.custom_id, result.status, result.text) == ("task-0", "succeeded", theirs.choices[0].message.content)
    assert (result.input_tokens, result.output_tokens) == (theirs.usage.prompt_tokens, theirs.usage.completion_tokens)
    assert result.model == theirs.model


def test_an_answer_whose_filter_broke_down_is_an_answer():
    """content_filter_error stands in the verdicts: the answer was not filtered, and is there."""
    choice = LINE["response"]["body"]["choices"][0]
    broken = {"error": {"code": "content_filter_error", "message": "The contents are not filtered"}}
    body = {**LINE["response"]["body"], "choices": [{**choice, "content_filter_results": broken}]}
    result = Azure(HOST).read(json.dumps({**LINE, "response": {"status_code": 200, "body": body}}).encode())
    assert result.status == "succeeded"


@pytest.mark.parametrize("in_response", [True, False])
def test_a_filtered_prompt_is_refused(in_response):
    """Not an error that a repetition mends; the vendor's code and words are kept."""
    message = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."
    error = {
        "message": message, "type": None, "param": "prompt", "code": "content_filter", "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }  # fmt: skip
    response = {"status_code": 400, "body": {"error": error}} if in_response else None
    line = {"custom_id": "a", "response": response, "error": None if in_response else error}
    result = Azure(HOST).read(json.dumps(line).encode())
    assert (result.status, result.error_code) == ("refused", "content_filter")
    assert "content management policy" in result.error_message


def test_a_filtered_answer_is_refused():
    """finish_reason content_filter."""
    choice = {"finish_reason": "content_filter", "index": 0, "message": {"role": "assistant", "content": None}}
    body = {**LINE["response"]["body"], "choices": [choice]}
    result = Azure(HOST).read(json.dumps({**LINE, "response": {"status_code": 200, "body": body}}).encode())
    assert result.status == "refused"


def test_expiry_is_between_two_weeks_and_thirty_days():
    """By default an input file of the v1 API expires, so that a resource holds ten thousand and not five hundred."""
    for seconds in (3600, 2592001):
        with pytest.raises(ConfigurationError, match="1209600 to 2592000"):
            Azure(HOST, {"expire_seconds": seconds})
    chosen = Azure(HOST, {**DATED, "expire_seconds": 1209600})
    sent = [b"".join(next(made.upload("f", EMPTY)).stream) for made in (chosen, Azure(HOST), Azure(HOST, DATED))]
    assert [b'name="expires_after[seconds]"\r\n\r\n1209600' in body for body in sent] == [True, True, False]
    raw = TestAzure().raw("b", "validating")
    assert json.loads(create_of(chosen, raw)[0][0].content)["output_expires_after"]["seconds"] == 1209600


def test_a_listing_that_begins_with_the_oldest_is_read_to_its_end():
    """No order is documented: only one that falls tells that what follows is older still."""
    suite = TestAzure()
    old = [suite.raw(f"b{n}", "completed", NOW.replace(day=n + 1)) for n in range(3)]
    ours = suite.raw("ours", "validating", metadata={"airflow_llm_batch": "k"})
    shard = Shard(endpoint=CHAT, key="k")
    first, second = {"data": old, "has_more": True}, {"data": [ours], "has_more": False}
    requests, found = drive(suite.made.find(shard, NOW), first, second)
    assert ([batch.id for batch in found], len(requests)) == (["ours"], 2)
    requests, found = drive(suite.made.find(shard, NOW), {"data": old[::-1], "has_more": True})
    assert (found, len(requests)) == ([], 1)


def test_a_key_goes_into_azures_own_header():
    """To the resource, and to nobody else."""
    auth = Azure(HOST).auth(Login("c", "", "k"))
    assert auth.fixed == {"api-key": "k"}
    assert auth.secrets == ("k",)
    assert auth.headers(httpx.Request("GET", f"{HOST}/openai/v1/batches")) == {"api-key": "k"}
    assert auth.headers(httpx.Request("GET", "https://blob.example/x")) == {}
    with pytest.raises(ConfigurationError, match="no key for https://res"):
        Azure(HOST).auth(Login("c"))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_stands_in_a_batch_or_a_file(data):
    """Any JSON value in any field: a listing shows the others, and a file is processed or not."""
    suite = data.draw(st.sampled_from([TestAzure(), TestDated()]))
    names = [*suite.raw("x", suite.running), "metadata", "errors", "output_file_id", "error_file_id"]
    changed = data.draw(st.dictionaries(st.sampled_from(names), ODD, max_size=4))
    ours = suite.raw("ours", suite.ended)
    odd = {**suite.raw("odd", suite.running), **changed}
    page = drive(suite.made.list(), suite.page([odd, "none", None, ours], more=False))[1]
    assert [batch.id for batch in page.items][-1] == "ours"
    body = data.draw(st.dictionaries(st.sampled_from(["status", "status_details", "error", "id"]), ODD))
    try:
        drive(suite.made.processed("f", 1), *([body] * 10))
    except (InputError, RequestRejected) as error:
        assert "nothing billed" in str(error)  # noqa: PT017


@pytest.mark.parametrize("version", ["preview", "v1"])
def test_a_version_that_is_no_date_is_the_v1_apis(version):
    """As Microsoft's guide of the v1 API asks for what is new in it."""
    made = Azure(HOST, {"api_version": version})
    assert str(made.url("batches")) == f"{HOST}/openai/v1/batches?api-version={version}"
    assert made.line(made.translate(Request(CHAT, {"model": "d", "messages": []})), "c")["url"] == CHAT
