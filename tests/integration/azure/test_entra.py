"""Entra's tokens: from azure-identity and Airflow's azure provider, over the emulated Entra."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace

import httpx
import pytest
from support.entra import over_tls

from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import ConfigurationError, VendorUnavailable
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.providers.azure import credentials
from airflow_llm_batch.providers.azure.credentials import Entra

SCOPE = "https://cognitiveservices.azure.com/.default"


@pytest.fixture
def machine(emulator, monkeypatch):
    """This machine has an identity, as on App Service."""
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"{emulator.url}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    emulator.vendor.settings.api_key = "nobody's"
    return emulator


@pytest.fixture
def entra(emulator, monkeypatch, tmp_path):
    """An https address of the emulator's Entra, whose certificate everybody trusts."""
    with over_tls(emulator, tmp_path) as url:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        emulator.vendor.settings.api_key = "nobody's"
        emulator.vendor.settings.client_secret = "its-secret-~1"
        yield url


def connection(monkeypatch, conn_id, **given):
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(given))
    return conn_id


def azure(monkeypatch, url, login=None, password=None, **extra):
    extra = {"provider": "azure", "retries": 0, **extra}
    return LLMBatchHook(
        connection(monkeypatch, "az", conn_type="llmbatch", host=url, login=login, password=password, extra=extra)
    )


def tokens(emulator):
    return sum(n for call, n in emulator.vendor.calls.items() if "token" in call)


def test_a_client_secret_is_the_connections_login_and_password(emulator, entra, monkeypatch):
    """azure-identity asks the authority that the connection names; one token serves many calls; no secret is told."""
    hook = azure(monkeypatch, emulator.url, "client", "its-secret-~1", tenant_id="tenant", authority=entra)
    for _ in range(3):
        assert hook.list_batches().items == []
    assert tokens(emulator) == 1
    token = next(iter(emulator.vendor.tokens))
    assert hook.transport.redact(f"x {token} its-secret-~1") == "x *** ***"


def test_a_wrong_secret_is_told_of_once(emulator, entra, monkeypatch, caplog):
    """Entra's own words, no trace of the secret, and no retry that could not help."""
    hook = azure(monkeypatch, emulator.url, "client", "wrong-secret", tenant_id="tenant", authority=entra)
    with pytest.raises(ConfigurationError, match=r"AADSTS7000215.*Nothing was sent") as caught:
        hook.list_batches()
    assert "wrong-secret" not in str(caught.value) + caplog.text
    good, said = hook.test_connection()
    assert not good
    assert "AADSTS7000215" in said


def test_a_workload_identity_proves_itself_by_its_file(emulator, entra, monkeypatch, tmp_path):
    """As on Kubernetes: the environment names tenant, client and the file with the assertion."""
    (tmp_path / "assertion").write_text("signed by the cluster")
    for name, value in {
        "AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_AUTHORITY_HOST": entra,
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "assertion"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    hook = azure(monkeypatch, emulator.url, managed_identity=True, authority=entra)
    assert hook.list_batches().items == []
    assert emulator.vendor.calls["POST /tenant/oauth2/v2.0/token"] == 1


@pytest.mark.parametrize("chosen", [True, "true", "00000000-0000-0000-0000-000000000000"])
@pytest.mark.parametrize("version", [None, "2025-04-01-preview"])
def test_the_machines_identity(machine, monkeypatch, chosen, version):
    """Its own, or one of several by client id; both APIs take the token."""
    hook = azure(monkeypatch, machine.url, managed_identity=chosen, api_version=version)
    assert hook.list_batches().items == []
    assert machine.vendor.calls["GET /msi/token"] == 1


def test_an_airflow_connection_of_type_azure(machine, monkeypatch):
    """Its hook chooses the credential: here the machine's, since there is no secret."""
    connection(monkeypatch, "mine", conn_type="azure")
    hook = azure(monkeypatch, machine.url, azure_conn_id="mine")
    assert hook.list_batches().items == []
    assert machine.vendor.calls["GET /msi/token"] == 1


def test_a_secret_in_an_airflow_connection(monkeypatch):
    """A credential with tokens to give, though the connection does not ask for one."""
    identity = pytest.importorskip("azure.identity")
    extra = {"tenantId": "11111111-1111-1111-1111-111111111111"}
    connection(monkeypatch, "mine", conn_type="azure", login="client", password="secret", extra=extra)
    assert isinstance(credentials.of_connection("mine"), identity.ClientSecretCredential)
    with pytest.raises(ConfigurationError, match="no connection 'nowhere', which azure_conn_id names"):
        credentials.of_connection("nowhere")


def test_a_machine_without_an_identity_says_so(emulator):
    """What was tried, in one sentence; the message does not blame the key."""
    identity = pytest.importorskip("azure.identity")

    class Nobody:
        def get_token(self, *scopes):
            raise identity.CredentialUnavailableError("no identity here.\nand a page more")

    with pytest.raises(ConfigurationError, match=r"gave no token: no identity here\. Nothing was sent") as caught:
        Entra([emulator.url], Nobody, SCOPE).sign(httpx.Request("GET", emulator.url))
    assert "page" not in str(caught.value)


@pytest.mark.parametrize(
    ("login", "extra", "named"),
    [
        ((None, "secret"), {"tenant_id": "t"}, "tenant_id and no login"),
        (("client", None), {"tenant_id": "t"}, "tenant_id and no password"),
        ((None, None), {"managed_identity": True, "authority": "http://127.0.0.1"}, "give an https address"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, login, extra, named):
    """Before anything is sent."""
    with pytest.raises(ConfigurationError, match=named):
        azure(monkeypatch, "https://r.openai.azure.com", *login, **extra).list_batches()


@pytest.mark.parametrize(
    ("extra", "missing"),
    [({"managed_identity": True}, "azure.identity"), ({"azure_conn_id": "x"}, "airflow.providers.microsoft.azure")],
)
def test_a_package_that_is_not_there_is_named(emulator, monkeypatch, extra, missing):
    """With the extra to install."""

    def none(module):
        raise ImportError(f"No module named {missing!r}")

    monkeypatch.setattr(credentials, "import_module", none)
    with pytest.raises(ConfigurationError, match=r"pip install 'airflow-provider-llm-batch\[azure\]'"):
        azure(monkeypatch, emulator.url, **extra).list_batches()


class Clocked:
    """A credential whose tokens are good for an hour, by a clock of the test's."""

    def __init__(self):
        self.now, self.given, self.trouble = 1000.0, 0, None

    def get_token(self, *scopes):
        if self.trouble:
            raise self.trouble
        self.given += 1
        return SimpleNamespace(token=f"token-{self.given}", expires_on=int(self.now + 3600))


def test_a_token_is_renewed_before_it_expires_and_after_a_refusal(caplog):
    """Minutes before; where there is no new one then, the old one serves as long as it is good."""
    clocked = Clocked()
    auth = Entra(["http://h"], lambda: clocked, SCOPE, lambda: clocked.now)
    request = httpx.Request("GET", "http://h/x")

    def shown():
        return auth.sign(request)["authorization"]

    assert [shown(), shown()] == ["Bearer token-1"] * 2
    clocked.now += 3299
    assert shown() == "Bearer token-1"
    clocked.now += 2
    clocked.trouble = OSError("Entra is down")
    with caplog.at_level(logging.WARNING):
        assert shown() == "Bearer token-1"
    assert "old one is still good" in caplog.text
    clocked.trouble = None
    assert shown() == "Bearer token-2"
    assert auth.forget()
    assert shown() == "Bearer token-3"
    assert set(auth.secrets) == {"token-1", "token-2", "token-3"}
    clocked.now += 4000
    clocked.trouble = OSError("Entra is down")
    with pytest.raises(VendorUnavailable, match=r"Entra is down\. Nothing was sent"):
        shown()
    assert auth.headers(httpx.Request("GET", "http://elsewhere/x")) == {}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_token_that_was_taken_back_is_replaced_at_once(machine, monkeypatch, asynchronous):
    """401 in the midst of everything: another token is asked for, and the call made again, once."""
    hook = azure(monkeypatch, machine.url, managed_identity=True)

    def look():
        if not asynchronous:
            return hook.list_batches()

        async def looked():
            async with hook.session():
                return await hook.arun(hook.provider.list())

        return asyncio.run(looked())

    look()
    machine.vendor.tokens.clear()
    assert look().items == []
    assert machine.vendor.calls["GET /msi/token"] == 2
    assert machine.vendor.calls["GET /openai/v1/batches"] == 3


def test_short_lived_tokens_are_renewed_in_time():
    """A token of a second serves half of it; every call has one that is good."""
    with Emulator(duration=0, token_seconds=1, api_key="nobody's") as emulator:

        class Machine:
            def get_token(self, *scopes):
                answer = httpx.get(
                    f"{emulator.url}/msi/token", params={"resource": scopes[0]}, headers={"x-identity-header": "x"}
                ).json()
                return SimpleNamespace(token=answer["access_token"], expires_on=int(answer["expires_on"]))

        auth = Entra([emulator.url], Machine, SCOPE)
        with httpx.Client(auth=auth) as client:
            while tokens(emulator) < 4:
                assert client.get(f"{emulator.url}/openai/v1/batches").status_code == 200
