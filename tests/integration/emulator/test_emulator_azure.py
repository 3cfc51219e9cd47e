"""openai's own clients before the emulated Azure, on both of its surfaces; azure-identity before its Entra."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pytest
from support import SECRET
from support.sdks import chat, create, line, until, upload

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.emulator.azure_lines import FILTERED

VERSION = "2025-04-01-preview"


def client_of(emulator, surface, **options):
    given = {"max_retries": 0, "api_key": SECRET, **options}
    if surface == "v1":
        return openai.OpenAI(base_url=f"{emulator.url}/openai/v1/", **given)
    return openai.AzureOpenAI(azure_endpoint=emulator.url, **{"api_version": VERSION, **given})


@pytest.fixture(params=["v1", "legacy"])
def client(request, emulator):
    return client_of(emulator, request.param)


def test_a_batch_from_upload_to_results(client, emulator):
    """Files, create, retrieve, list, content: an empty text for a file that is not there, an error file of no bytes."""
    file = upload(client, *(line(f"r{n}", chat(f"text {n}"), "/chat/completions") for n in range(5)))
    assert (file.purpose, file.status) == ("batch", "processed")
    emulator.vendor.settings.duration = 0.3
    batch = create(client, file, "/chat/completions", metadata={"k": "v"})
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("validating", "", "")
    batch = until(lambda: client.batches.retrieve(batch.id), lambda b: b.status == "completed")
    assert batch.metadata == {"k": "v"}
    assert batch.request_counts.completed == 5
    assert client.files.content(batch.error_file_id).content == b""
    results = [json.loads(text) for text in client.files.content(batch.output_file_id).text.splitlines()]
    assert {r["custom_id"]: r["response"]["body"]["choices"][0]["message"]["content"] for r in results} == {
        f"r{n}": f"text {n}" for n in range(5)
    }
    assert all("id" not in r and r["response"]["body"]["prompt_filter_results"] for r in results)
    more = [create(client, file).id for _ in range(4)]
    assert [b.id for b in client.batches.list(limit=2)] == [*more[::-1], batch.id]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_both_surfaces_tell_of_the_same_batches_and_openai_of_none(emulator):
    """One resource, two addresses; its batches are not those of the OpenAI beside it."""
    one, other = client_of(emulator, "v1"), client_of(emulator, "legacy")
    batch = create(one, upload(one, line("a", chat("x"))))
    assert other.batches.retrieve(batch.id).id == batch.id
    direct = openai.OpenAI(base_url=emulator.openai_url, api_key=SECRET, max_retries=0)
    assert direct.batches.list().data == []
    with pytest.raises(openai.NotFoundError):
        direct.batches.retrieve(batch.id)


def test_a_file_is_processed_before_it_can_be_used():
    """pending until then, and no batch can be made of it."""
    with Emulator(duration=0, file_seconds=0.5) as emulator:
        client = client_of(emulator, "v1")
        file = upload(client, line("a", chat("x")))
        assert file.status == "pending"
        with pytest.raises(openai.BadRequestError, match="'Pending' state"):
            create(client, file)
        until(lambda: client.files.retrieve(file.id), lambda f: f.status == "processed")
        assert create(client, file).id


def test_cancelling_keeps_what_was_done():
    """Through cancelling to cancelled; a second wish is a conflict."""
    with Emulator(duration=1.0) as emulator:
        client = client_of(emulator, "legacy")
        batch = create(client, upload(client, *(line(f"r{n}", chat(f"t{n}")) for n in range(50))))
        until(lambda: client.batches.retrieve(batch.id), lambda b: b.request_counts.completed > 0)
        assert client.batches.cancel(batch.id).status == "cancelling"
        batch = until(lambda: client.batches.retrieve(batch.id), lambda b: b.status == "cancelled")
        lines = [client.files.content(id_).text.splitlines() for id_ in (batch.output_file_id, batch.error_file_id)]
        assert sum(map(len, lines)) == 50
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ([line("a", chat("x")), line("a", chat("y"))], "duplicate_custom_id"),
        ([line("a", {"model": "known", "input": "x"}, "/embeddings")], "url_mismatch"),
        ([line("a", {**chat("x"), "model": "known"}), line("b", {**chat("x"), "model": "other"})], "model_mismatch"),
        ([line("a", {**chat("x"), "model": "nowhere"})], "model_not_found"),
        ([b"\xef\xbb\xbf" + line("a", chat("x"))], "invalid_request"),
        ([b"not json"], "invalid_json_line"),
        ([b""], "empty_file"),
        ([b" \n"], "empty_batch"),
    ],
)
def test_bad_files_fail_after_a_create_that_succeeded(content, code):
    """completed_at is set where failed_at should be, both files have ids and no bytes, and counts are null."""
    with Emulator(duration=0, deployments={"gpt-5-mini": "gpt-5-mini", "known": "gpt-4o"}) as emulator:
        client = client_of(emulator, "v1")
        batch = client.batches.retrieve(create(client, upload(client, *content)).id)
        assert (batch.status, batch.errors.data[0].code) == ("failed", code)
        assert (batch.failed_at, batch.request_counts.completed) == (None, None)
        assert batch.completed_at
        assert client.files.content(batch.output_file_id).content == b""


@pytest.mark.parametrize("how", ["fault", "version"])
def test_first_versions_tell_in_capitals(emulator, how):
    """Validating, times as text, null counts, no endpoint."""
    emulator.vendor.settings.duration = 60
    emulator.faults(capitals=how == "fault")
    client = client_of(emulator, "legacy", api_version=VERSION if how == "fault" else "2024-07-01-preview")
    batch = create(client, upload(client, line("a", chat("x"))))
    assert (batch.status, batch.endpoint, batch.output_file_id) == ("Validating", None, None)
    assert batch.created_at.endswith(".2491382+00:00")
    assert batch.request_counts.total is None


def test_a_full_queue_in_either_form():
    """A failed batch, or 400 at the door."""
    with Emulator(duration=60, faults={"enqueued_tokens": 60}) as emulator:
        client = client_of(emulator, "v1")
        file = upload(client, line("a", chat("x" * 100)))
        create(client, file)
        second = create(client, file)
        emulator.vendor.batches[second.id].duration = 0
        assert client.batches.retrieve(second.id).errors.data[0].code == "token_limit_exceeded"
        emulator.faults(enqueued_tokens=60, refuse_enqueued=400)
        with pytest.raises(openai.BadRequestError, match="has surpassed the configured limit of 60 for") as caught:
            create(client, file)
        assert caught.value.code == "token_limit_exceeded"


def test_files_expire_within_bounds_in_either_spelling(client, emulator):
    """Fourteen to thirty days; the SDK writes brackets, the documentation's curl dots."""
    file = client.files.create(
        purpose="batch", file=("a.jsonl", b"{}"), expires_after={"anchor": "created_at", "seconds": 1209600}
    )
    assert client.files.retrieve(file.id).expires_at == file.created_at + 1209600
    with pytest.raises(openai.BadRequestError):
        client.files.create(
            purpose="batch", file=("a.jsonl", b"{}"), expires_after={"anchor": "created_at", "seconds": 3600}
        )
    form = {"purpose": "batch", "expires_after.seconds": "1209600", "expires_after.anchor": "created_at"}
    uploaded = httpx.post(
        f"{emulator.url}/openai/v1/files", data=form, files={"file": ("a", b"{}")}, headers={"api-key": SECRET}
    ).json()
    assert uploaded["expires_at"] == uploaded["created_at"] + 1209600


def test_calls_name_the_deployment_in_their_body_or_address():
    """Chat, embeddings and responses; the model behind a deployment answers, and its rules hold."""
    deployments = {"mine": "gpt-5-mini", "vectors": "text-embedding-3-small"}
    with Emulator(deployments=deployments) as emulator:
        for surface in ("v1", "legacy"):
            client = client_of(emulator, surface)
            said = client.chat.completions.create(**{**chat("hello"), "model": "mine"})
            assert (said.choices[0].message.content, said.model) == ("hello", "gpt-5-mini")
            assert client.responses.create(model="mine", input="hi").model == "mine"
            assert len(client.embeddings.create(model="vectors", input=["a"], dimensions=8).data[0].embedding) == 8
            with pytest.raises(openai.BadRequestError, match="max_completion_tokens"):
                client.chat.completions.create(**{**chat("hello", max_tokens=5), "model": "mine"})
            with pytest.raises(openai.NotFoundError) as caught:
                client.chat.completions.create(**chat("hello"))
            assert caught.value.code == "DeploymentNotFound"
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(**{**chat(f"x {FILTERED}"), "model": "mine"})
            assert caught.value.body["innererror"]["code"] == "ResponsibleAIPolicyViolation"


def test_keys_and_tokens_are_asked_for():
    """No key, a wrong one, a token that nobody issued, one that has expired; without a version nothing is there."""
    with Emulator(api_key="right") as emulator:
        entra = f"{emulator.url}/tenant/oauth2/v2.0/token"
        form = {
            "grant_type": "client_credentials", "client_id": "c", "client_secret": "s",
            "scope": "https://cognitiveservices.azure.com/.default",
        }  # fmt: skip
        token = httpx.post(entra, data=form).json()["access_token"]
        by_token = openai.AzureOpenAI(
            azure_endpoint=emulator.url, api_version=VERSION, azure_ad_token=token, max_retries=0
        )
        for good in ({"surface": "v1"}, {"surface": "legacy"}):
            assert client_of(emulator, **good, api_key="right").batches.list().data == []
        assert by_token.batches.list().data == []
        emulator.vendor.tokens = dict.fromkeys(emulator.vendor.tokens, 0.0)
        wrong = client_of(emulator, "v1", api_key="wrong")
        forged = client_of(emulator, "v1", api_key="entra.forged")
        for client in (by_token, wrong, forged):
            with pytest.raises(openai.AuthenticationError):
                client.batches.list()
        assert httpx.get(f"{emulator.url}/openai/v1/batches").status_code == 401
        assert httpx.get(f"{emulator.url}/openai/batches", headers={"api-key": "right"}).status_code == 404


def test_the_machines_identity_gives_a_token(emulator, monkeypatch):
    """azure-identity asks the endpoint that the environment names, and its token opens both surfaces."""
    identity = pytest.importorskip("azure.identity")
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{emulator.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    token = identity.ManagedIdentityCredential().get_token("https://cognitiveservices.azure.com/.default")
    assert 3000 < token.expires_on - time.time() < 4000
    for surface in ("v1", "legacy"):
        assert client_of(emulator, surface, api_key=token.token).batches.list().data == []


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"client_secret": "wrong"}, 401),
        ({"scope": "https://graph.microsoft.com/.default"}, 400),
        ({"grant_type": "x"}, 400),
    ],
)
def test_entra_refuses(changed, status):
    """A wrong secret, another audience, another grant."""
    with Emulator(client_secret="s") as emulator:
        form = {
            "grant_type": "client_credentials", "client_id": "c", "client_secret": "s",
            "scope": "https://cognitiveservices.azure.com/.default",
        }  # fmt: skip
        entra = f"{emulator.url}/tenant/oauth2/v2.0/token"
        assert httpx.post(entra, data=form).status_code == 200
        assert httpx.post(entra, data={**form, **changed}).status_code == status
