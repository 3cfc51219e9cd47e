"""Vendors and servers of OpenAI's kind: the contract each keeps, and what each has of its own."""

from __future__ import annotations

import hashlib
import json

import httpx
import pytest

from airflow_llm_batch.exceptions import ConfigurationError, InputError, RequestRejected, VendorUnavailable
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.openai.protocol import KEY
from airflow_llm_batch.providers.registry import PRESETS, provider_class
from airflow_llm_batch.request import Request
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"
#: those that make batches, and those that answer calls alone
SERVERS = {"vllm", "ollama", "llamacpp", "compatible"}
VENDORS = sorted(PRESETS.keys() - SERVERS)
SHARD = Shard(endpoint=CHAT, model="m", key="ab12-0", token="t1", rows=2, metadata={"team": "x"})
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def made(name, host="http://h/v1", **extra):
    return provider_class(name)(host, extra)


def chat(model="m", **more):
    return Request(CHAT, {"model": model, "messages": [{"role": "user", "content": "hi"}], **more})


class Kin(ProviderContract):
    """As OpenAI tells of a batch."""

    running, ended = "in_progress", "completed"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        counts = {"total": rows, "completed": rows, "failed": 0}
        return {"id": batch_id, "status": status, "created_at": int(at.timestamp()), "request_counts": counts, **more}


class TestTogether(Kin):
    """Capitals, ISO times, no counts; a listing is an array."""

    made = made("together")
    running, ended, paged = "IN_PROGRESS", "COMPLETED", False

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        status = status if status == "thinking_it_over" else status.upper()
        return {"id": batch_id, "status": status, "created_at": at.isoformat(), "progress": 100, **more}

    def page(self, items, *, more):
        return items

    def test_listings_are_paged(self):
        """A bare array of everything."""
        items = [self.raw("b1", self.running), self.raw("b2", self.ended)]
        requests, page = drive(self.made.list("b1", 5), httpx.Response(200, json=items))
        assert ([b.id for b in page.items], page.after, requests[0].url.query) == (["b1", "b2"], None, b"")


for _name in sorted(PRESETS.keys() - {"together"}):
    _kind = {"made": made(_name), "paged": _name != "groq", "__doc__": f"{_name}'s."}
    globals()[f"Test{provider_class(_name).__name__}"] = type(f"Test{_name}", (Kin,), _kind)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_data(name):
    """Its name, a page that documents it, and whether it makes batches."""
    vendor = provider_class(name)
    assert (vendor.name, vendor.documented.startswith("https://")) == (name, True)
    assert vendor.batch_api == (name not in SERVERS)


@pytest.mark.parametrize(
    ("name", "typed", "base", "own"),
    [
        ("groq", "https://api.groq.com", "https://api.groq.com/openai/v1", True),
        ("groq", None, "https://api.groq.com/openai/v1", True),
        ("groq", "http://gateway/groq/v1/", "http://gateway/groq/v1", False),
        ("together", "https://api.together.xyz", "https://api.together.xyz/v1", True),
        ("deepinfra", "https://api.deepinfra.com", "https://api.deepinfra.com/v1/openai", True),
        ("dashscope", "https://dashscope.aliyuncs.com", "https://dashscope.aliyuncs.com/compatible-mode/v1", True),
        ("dashscope", "https://ws1.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1", None, True),
        ("dashscope", "https://dashscope.aliyuncs.com.evil.test", None, False),
        ("kimi", "https://api.moonshot.cn/v1", "https://api.moonshot.cn/v1", True),
        ("litellm", "http://litellm:4000", "http://litellm:4000/v1", False),
        ("ollama", None, "http://localhost:11434/v1", True),
        ("compatible", "http://box:9000", "http://box:9000/v1", False),
    ],
)
def test_addresses_are_what_people_type(name, typed, base, own):
    """A bare host gets the vendor's path, and the vendor's own hosts are known."""
    provider = made(name, typed)
    assert base is None or provider.base_url == base
    assert provider.is_own == own


@pytest.mark.parametrize("name", ["litellm", "compatible"])
def test_a_server_of_ones_own_has_to_be_named(name):
    """There is no address to guess."""
    with pytest.raises(ConfigurationError, match=r"no address of its own.*host"):
        made(name, None)


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("groq", "0.5"),
        ("together", None),
        ("deepinfra", "0.8"),
        ("doubleword", None),
        ("dashscope", "0.5"),
        ("kimi", "0.6"),
        ("parasail", "0.5"),
        ("perplexity", None),
        ("novita", None),
    ],
)
def test_a_discount_is_the_vendors_own_and_documented(name, factor):
    """None where none is known, and none that a gateway may keep."""
    assert made(name, None).batch_discount == factor
    assert made(name, "http://gateway/v1").batch_discount is None
    assert made(name, None).discounts_stack("m") is False


@pytest.mark.parametrize("name", [*sorted(SERVERS), "litellm"])
def test_no_discount_is_assumed_for_ones_own_server(name):
    """Not on this machine either."""
    assert made(name, "http://127.0.0.1:8000/v1").batch_discount is None


@pytest.mark.parametrize(
    ("name", "asked", "refused"),
    [
        ("groq", ["24h", "48h", "7d", "168h"], ["12h", "8d", "169h", "1w", "0h"]),
        ("dashscope", ["24h", "336h", "14d"], ["23h", "337h", "15d"]),
        ("kimi", ["12h", "1d", "7d"], ["11h", "8d"]),
        ("doubleword", ["24h", "1h"], ["2h", "1d"]),
        ("deepinfra", ["24h"], ["48h"]),
        ("novita", ["48h"], ["24h"]),
        ("together", ["24h"], ["72h"]),
        ("perplexity", ["24h"], ["25h"]),
        ("parasail", ["24h"], ["1h"]),
    ],
)
def test_completion_windows_are_the_vendors(name, asked, refused):
    """What it has is sent as it was asked for; what it has not is refused before anything is."""
    for window in asked:
        requests, _ = drive(made(name, completion_window=window).create(SHARD, "f", Payload(tuple, 0)), {"id": "b"})
        assert json.loads(requests[0].content)["completion_window"] == window
    for window in refused:
        with pytest.raises(ConfigurationError, match=f"completion_window is '{window}'"):
            made(name, completion_window=window)
    assert made(name).window == ("48h" if name == "novita" else "24h")


@pytest.mark.parametrize("name", VENDORS)
def test_a_batch_is_marked_by_what_the_vendor_keeps(name):
    """Metadata where it is kept, and none elsewhere: the input file marks it. Both are found among others."""
    provider = made(name)
    requests, _ = drive(provider.create(SHARD, "file-9", Payload(tuple, 0)), {"id": "b"})
    body = json.loads(requests[0].content)
    keeps = provider.found_by == "metadata"
    assert keeps == (name in {"groq", "deepinfra", "doubleword", "kimi", "perplexity", "litellm"})
    assert body.get("metadata") == ({"team": "x", KEY: "ab12-0"} if keeps else None)
    assert body["input_file_id"] == "file-9"
    other, ours = {"id": "other", "status": "validating"}, {"id": "ours", "status": "validating"}
    ours |= {"metadata": {KEY: "ab12-0"}} if keeps else {"input_file_id": "file-9"}
    page = [other, ours] if name == "together" else {"data": [other, ours]}
    found = drive(provider.find(SHARD, NOW, "file-9"), httpx.Response(200, json=page))[1]
    assert ([batch.id for batch in found], provider.is_marked) == (["ours"], True)


def test_an_idempotency_key_names_the_shard_and_its_planning():
    """The same for every try of it, another for another planning of it; nobody else sends one."""
    sent = [
        drive(made("perplexity").create(shard, "f", Payload(tuple, 0)), {"id": "b"})[0][0].headers["idempotency-key"]
        for shard in (SHARD, SHARD, SHARD.model_copy(update={"token": "t2"}))
    ]
    assert sent[0] == sent[1] != sent[2]
    assert made("perplexity").is_idempotent
    for name in set(VENDORS) - {"perplexity"}:
        requests, _ = drive(made(name).create(SHARD, "f", Payload(tuple, 0)), {"id": "b"})
        assert "idempotency-key" not in requests[0].headers
        assert not made(name).is_idempotent


def test_files_expire_where_the_vendor_lets_them():
    """DeepInfra's results; anywhere else the option is refused and not left out."""
    requests, _ = drive(made("deepinfra", expire_seconds=7200).create(SHARD, "f", Payload(tuple, 0)), {"id": "b"})
    expiry = {"anchor": "created_at", "seconds": 7200}
    assert json.loads(requests[0].content)["output_expires_after"] == expiry
    for name in set(VENDORS) - {"deepinfra"}:
        with pytest.raises(ConfigurationError, match="takes no expiry of files"):
            made(name, expire_seconds=7200)
        host = "http://h" if name == "litellm" else None
        requests, _ = drive(made(name, host).create(SHARD, "f", Payload(tuple, 0)), {"id": "b"})
        assert "output_expires_after" not in json.loads(requests[0].content)


@pytest.mark.parametrize("name", PRESETS)
def test_the_token_cap_has_the_name_that_the_server_knows(name):
    """``max_tokens`` for all but Groq and Kimi, whose documents call it deprecated, and the Agent API."""
    new = {"groq": "max_completion_tokens", "kimi": "max_completion_tokens", "perplexity": "max_output_tokens"}
    body = made(name).translate(chat(max_completion_tokens=50)).body
    assert {key: value for key, value in body.items() if "max" in key} == {new.get(name, "max_tokens"): 50}
    if name != "perplexity":
        body = made(name, token_cap="max_completion_tokens").translate(chat(max_completion_tokens=50)).body
        assert body["max_completion_tokens"] == 50


def test_litellm_knows_openais_models_by_name():
    """Those that reason refuse the old name of the cap, wherever they are asked."""
    assert "max_completion_tokens" in made("litellm").translate(chat("openai/gpt-5-mini", max_tokens=5)).body
    assert "max_tokens" in made("litellm").translate(chat("llama", max_completion_tokens=5)).body


@pytest.mark.parametrize(
    ("name", "model", "more", "match"),
    [
        ("groq", "llama-3.3-70b-versatile", {"logprobs": True}, "Groq refuses logprobs=True"),
        ("groq", "llama-3.3-70b-versatile", {"n": 2}, "Groq refuses n=2"),
        ("groq", "llama-3.3-70b-versatile", {"logit_bias": {"1": 1}}, "Groq refuses logit_bias"),
        ("kimi", "kimi-k2.6", {"temperature": 0}, "refuses temperature=0 with kimi-k2.6"),
        ("kimi", "kimi-k3", {"top_p": 0.5}, "refuses top_p=0.5"),
        ("perplexity", "openai/gpt-5.1", {"seed": 1}, "seed"),
        ("perplexity", "openai/gpt-5.1", {"user": "u"}, "has no user"),
        ("perplexity", "openai/gpt-5.1", {"response_format": {"type": "json_object"}}, "takes no text"),
    ],
)
def test_what_a_vendor_refuses_is_refused_before(name, model, more, match):
    """By name and value; nothing is dropped that changes an answer."""
    with pytest.raises(InputError, match=match):
        made(name).translate(chat(model, **more))


def test_what_asks_for_nothing_is_left_out():
    """Values that are the default, of models that refuse the parameter alone."""
    body = made("groq").translate(chat(n=1, logprobs=False, logit_bias={}, temperature=0.5)).body
    assert body.keys() == {"model", "messages", "temperature"}
    assert made("kimi").translate(chat("kimi-k2.6", temperature=1, n=1)).body.keys() == {"model", "messages"}
    assert made("kimi").translate(chat("moonshot-v1-8k", temperature=0.2)).body["temperature"] == 0.2


def test_groq_refuses_named_messages():
    """``messages[].name`` is answered with 400 there."""
    body = {"model": "m", "messages": [{"role": "user", "name": "jo", "content": "hi"}]}
    with pytest.raises(InputError, match="'name'"):
        made("groq").translate(Request(CHAT, body))
    assert made("deepinfra").translate(Request(CHAT, body)).body == body


@pytest.mark.parametrize(
    ("name", "model", "given", "strict"),
    [
        ("groq", "openai/gpt-oss-20b", None, True),
        ("groq", "llama-4-scout", None, False),
        ("groq", "llama-4-scout", True, True),
        ("together", "any", None, True),
        ("vllm", "any", None, True),
    ],
)
def test_a_schema_is_strict_where_the_model_can(name, model, given, strict):
    """What the user has said holds."""
    asked = {"name": "a", "schema": SCHEMA, **({} if given is None else {"strict": given})}
    body = made(name).translate(chat(model, response_format={"type": "json_schema", "json_schema": asked})).body
    assert body["response_format"]["json_schema"]["strict"] is strict
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize("name", ["together", "novita"])
def test_bare_lines_have_an_id_and_a_body(name):
    """As the documents show them; what was asked is told by the shard."""
    provider = made(name)
    line = provider.encode(chat(max_tokens=5), "ab12-7")
    assert line.keys() == {"custom_id", "body"}
    again = provider.request_of(line, SHARD)
    assert (again.endpoint, again.body) == (CHAT, line["body"])
    call = provider.call(json.dumps(line).encode(), SHARD)
    assert (call.custom_id, call.path) == ("ab12-7", b"/v1/chat/completions")


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"perplexity", "litellm", "vllm", "compatible"}))
def test_the_responses_api_is_refused_where_there_is_none(name):
    """Instead of a batch whose every row fails."""
    with pytest.raises(InputError, match="/v1/responses"):
        made(name).translate(chat(max_tokens=50)._replace(api="responses"))


def test_an_agents_request_has_the_members_of_the_agent_api():
    """A chat with a schema, a tool and earlier answers; sent again it is the same."""
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    earlier = {"role": "assistant", "content": [{"type": "text", "text": "before"}]}
    asked = {"name": "a", "schema": SCHEMA}
    request = chat("openai/gpt-5.1", max_tokens=9, temperature=0.5, tools=[tool], reasoning_effort="low", n=1,
                   response_format={"type": "json_schema", "json_schema": asked})  # fmt: skip
    request.body["messages"].insert(0, earlier)
    done = made("perplexity").translate(request)
    assert done.endpoint == RESPONSES
    assert done.body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert done.body["input"][0]["content"] == [{"type": "input_text", "text": "before"}]
    assert done.body["reasoning"] == {"effort": "low"}
    assert done.body["tools"][0]["name"] == "f"
    assert "text" not in done.body
    assert made("perplexity").translate(done).body == done.body


def test_tools_that_perplexity_runs_have_no_known_price():
    """They are counted, so that no cost is told that leaves them out."""
    usage = {"input_tokens": 5, "output_tokens": 7, "tool_calls_details": {"web_search": {"invocation": 2}}}
    message = {"type": "message", "content": [{"type": "output_text", "text": "hi"}]}
    body = {"object": "response", "status": "completed", "model": "m", "output": [message], "usage": usage}
    result = made("perplexity").read(
        json.dumps({"custom_id": "a", "response": {"status_code": 200, "body": body}}).encode()
    )
    assert (result.status, result.text, result.tool_uses) == ("succeeded", "hi", {"web_search": 2})


@pytest.mark.parametrize(
    ("raw", "outcome", "errors"),
    [
        ({"status": "FAILED", "error": "bad file"}, "failed", (("", "bad file"),)),
        ({"status": "COMPLETED", "error": "", "output_file_id": "o"}, "completed", ()),
        ({"status": "COMPLETED", "output_file_id": "o", "error_file_id": "e"}, "partial", ()),
        ({"job": {"id": "b", "status": "VALIDATING"}, "warning": ""}, None, ()),
        ({"status": "failed", "errors": "no such model"}, "failed", (("", "no such model"),)),
        ({"status": "failed", "errors": {"data": [{"code": "c", "message": "m"}]}}, "failed", (("c", "m"),)),
    ],
)
def test_batches_are_read_as_they_are_told(raw, outcome, errors):
    """Texts for errors, no counts, a wrapped job."""
    batch = made("together").parse({"id": "b", **raw})
    assert (batch.id, batch.outcome, batch.errors, batch.known) == ("b", outcome, errors, True)


def test_an_upload_to_together_goes_to_the_place_it_names():
    """Asked for, stored without our key, processed; the id is the one that was told first."""
    content = Payload(lambda: [b"one\n", b"two\n"], 8)
    redirect = httpx.Response(302, headers={"location": "https://store.test/x?sig=1", "x-together-file-id": "file-1"})
    provider = made("together")
    requests, ref = drive(provider.upload("a.jsonl", content), redirect, httpx.Response(200), {"id": "file-1"})
    assert ref == "file-1"
    assert [(r.method, r.url.host, r.url.path) for r in requests] == [
        ("POST", "h", "/v1/files"), ("PUT", "store.test", "/x"), ("POST", "h", "/v1/files/file-1/preprocess"),
    ]  # fmt: skip
    asked = requests[0].read().decode()
    for text in ("batch-api", "a.jsonl", "jsonl", hashlib.sha256(b"one\ntwo\n").hexdigest()):
        assert f"\r\n\r\n{text}\r\n" in asked
    assert requests[1].headers["content-length"] == "8"
    next(provider.auth(Login("c", "", "planted")).sync_auth_flow(requests[1]))
    assert "authorization" not in requests[1].headers


@pytest.mark.parametrize(("size", "again"), [(8, False), (0, True), (None, True)])
def test_a_file_that_together_knows_is_used_if_it_is_whole(size, again):
    """One that broke off is deleted and sent anew."""
    content = Payload(lambda: [b"one\n", b"two\n"], 8)
    known = httpx.Response(409, json={"error": "exists", "file_id": "file-0"})
    answers = [known, {"id": "file-0", "bytes": size}]
    if again:
        redirect = httpx.Response(302, headers={"location": "/store/x", "x-together-file-id": "file-1"})
        answers += [{"id": "file-0", "deleted": True}, redirect, httpx.Response(200), {"id": "file-1"}]
    requests, ref = drive(made("together").upload("a.jsonl", content), *answers)
    assert ref == ("file-1" if again else "file-0")
    assert [r.method for r in requests] == (
        ["POST", "GET", "DELETE", "POST", "PUT", "POST"] if again else ["POST", "GET"]
    )


def test_a_refused_upload_to_together_is_told():
    """Its words reach the user; an answer that names no place is no upload."""
    content = Payload(lambda: [b"x"], 1)
    with pytest.raises(RequestRejected, match="no credits"):
        drive(made("together").upload("a", content), httpx.Response(402, json={"error": "no credits"}))
    with pytest.raises(VendorUnavailable, match="named no place"):
        drive(made("together").upload("a", content), httpx.Response(200, json={}))


@pytest.mark.parametrize(
    ("extra", "headers", "form", "query"),
    [
        ({"litellm_model": "small"}, {"x-litellm-model": "small"}, {}, {}),
        ({"custom_llm_provider": "azure"}, {"custom-llm-provider": "azure"}, {}, {}),
        ({"target_model_names": "a,b"}, {}, {"target_model_names": "a,b"}, {"target_model_names": "a,b"}),
        ({"litellm_model": "small", "headers": {"x-team": "t"}}, {"x-litellm-model": "small", "x-team": "t"}, {}, {}),
        ({"litellm_model": "a", "headers": {"x-litellm-model": "b"}}, {"x-litellm-model": "b"}, {}, {}),
    ],
)
def test_litellm_is_routed_by_options(extra, headers, form, query):
    """Each stands where the proxy looks for it; what was put there by hand goes before."""
    options = made("litellm", **extra).options
    assert (options.headers, options.form, options.query) == (headers, form, query)
    assert options.unknown == []


def test_litellm_is_told_not_to_repeat_creates():
    """Unless the connection says otherwise."""
    for extra, wanted in (({}, 0), ({"create": {"max_retries": 2}}, 2), ({"create": {"a": 1}}, 0)):
        requests, _ = drive(made("litellm", **extra).create(SHARD, "f", Payload(tuple, 0)), {"id": "b"})
        assert json.loads(requests[0].content)["max_retries"] == wanted
    with pytest.raises(ConfigurationError, match="headers"):
        made("litellm", litellm_model="x", headers="no object")


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_a_server_without_batches_says_so(name):
    """It wants no key, and is asked for its models; ``"batch": true`` overrules it."""
    provider = made(name, "http://127.0.0.1:9/v1")
    assert "has no batch API" in provider.no_batches
    assert made(name, batch=True).no_batches is None
    assert provider.auth(Login("c", "", "")).owns(provider.url())
    requests, seen = drive(provider.probe(), {"data": [{"id": "llama"}]})
    assert (requests[0].url.path, seen) == ("/v1/models", "no batches; models: llama")


def test_others_have_batches_until_the_connection_says_no():
    """``"batch": false`` holds for everybody."""
    assert made("groq").no_batches is None
    assert made("groq", batch=False).no_batches == '"batch": false'


def test_images_of_open_models_are_estimated_by_the_greediest_rule():
    """An estimate is an upper bound."""
    provider = made("together")
    assert provider.image_tokens("m", None, "auto") == provider.image_tokens("m", (99_999, 99_999), "auto") == 16_384
    assert provider.image_tokens("m", (280, 280), "auto") == 101
    assert made("litellm").image_tokens("gpt-4o", None, "low") == 85
