"""Access tokens from Airflow's google connection: fetched once, renewed before they expire, shown to nobody else."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import httpx
import pytest
from support.servers import serving

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.providers.vertex.credentials import Google

pytest.importorskip("airflow.providers.google")
rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
from cryptography.hazmat.primitives import serialization  # noqa: E402

HERE, ELSEWHERE = "http://vertex.test", "http://elsewhere.test"


class Tokens:
    """Google's token endpoint: counts what it gives, or answers with a status of its own."""

    def __init__(self):
        self.given, self.status, self.seconds, self.asked = 0, 200, 3600, []
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                tokens.asked.append(parse_qs(body.decode()))
                tokens.given += tokens.status == 200
                said = {"access_token": f"token-{tokens.given}", "expires_in": tokens.seconds, "token_type": "Bearer"}
                if tokens.status != 200:
                    said = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
                data = json.dumps(said).encode()
                self.send_response(tokens.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}/token"


@pytest.fixture
def tokens():
    made = Tokens()
    with serving(made.server):
        yield made


@pytest.fixture(scope="module")
def private_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.fixture
def google(monkeypatch, tokens, private_key):
    """A google connection with a service account's key; returns what signs with it."""

    def define(**extra):
        account = {
            "type": "service_account",
            "project_id": "p1",
            "private_key_id": "k1",
            "private_key": private_key,
            "client_email": "robot@p1.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": tokens.url,
        }
        known = {"keyfile_dict": json.dumps(account), "project": "p1", **extra}
        connection = {"conn_type": "google_cloud_platform", "extra": known}
        monkeypatch.setenv("AIRFLOW_CONN_GCP_TEST", json.dumps(connection))
        return Google([HERE], "gcp_test")

    return define


def asked(auth, statuses=(200,)):
    """The authorizations that a call shows, the server answering with these statuses."""
    seen, left = [], list(statuses)

    def answer(request):
        seen.append(request.headers.get("authorization"))
        return httpx.Response(left.pop(0) if left else 200)

    with httpx.Client(transport=httpx.MockTransport(answer), auth=auth) as client:
        response = client.get(f"{HERE}/v1/x")
    return seen, response.status_code


def test_one_token_serves_many_calls(google, tokens):
    """It is fetched with the first call, and never shown to another address."""
    auth = google()
    assert (tokens.given, auth.secrets) == (0, ())
    assert [asked(auth) for _ in range(3)] == [(["Bearer token-1"], 200)] * 3
    assert (tokens.given, auth.secrets) == (1, ("token-1",))
    assert auth.headers(httpx.Request("GET", f"{ELSEWHERE}/v1/x")) == {}
    # The scope that Vertex AI asks for is in what was signed.
    assert tokens.asked[0]["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


def test_a_token_is_renewed_before_it_expires(google, tokens):
    """One that ends within minutes is not used any more."""
    auth = google()
    asked(auth)
    auth.credentials().expiry -= timedelta(seconds=3600 - 120)
    assert asked(auth)[0] == ["Bearer token-2"]
    assert auth.secrets == ("token-2",)


def test_a_token_that_is_refused_is_fetched_anew_once(google, tokens):
    """A revoked one: 401, another token, and no third try."""
    auth = google()
    assert asked(auth, [401, 200]) == (["Bearer token-1", "Bearer token-2"], 200)
    assert asked(auth, [401, 401]) == (["Bearer token-2", "Bearer token-3"], 401)


def test_on_an_event_loop_and_from_many_threads(google, tokens):
    """Calls at once share one token; a loop is not held up by its fetching."""

    async def several():
        transport = httpx.MockTransport(lambda request: httpx.Response(200, headers=request.headers))
        async with httpx.AsyncClient(transport=transport, auth=google()) as client:
            answers = await asyncio.gather(*(client.get(f"{HERE}/{n}") for n in range(8)))
        return {answer.headers["authorization"] for answer in answers}

    assert asyncio.run(several()) == {"Bearer token-1"}
    assert tokens.given == 1


def test_whom_calls_are_counted_to(google, tokens):
    """The connection's own project for quotas, or the one that is named beside it."""
    request = httpx.Request("GET", f"{HERE}/x")
    assert "x-goog-user-project" not in google().headers(request)
    assert google(quota_project_id="other-project").headers(request)["x-goog-user-project"] == "other-project"
    auth = google()
    auth.quota_project = "mine"
    assert auth.headers(request)["x-goog-user-project"] == "mine"


def test_a_refusal_of_the_tokens_names_the_connection(google, tokens, private_key):
    """For good where the key is refused; a call that was never sent where the server is down for a while."""
    tokens.status = 400
    with pytest.raises(ConfigurationError, match=r"gcp_test.*Invalid JWT Signature.*Nothing was sent") as refused:
        asked(google())
    assert private_key[40:80] not in str(refused.value)
    tokens.server.shutdown()
    tokens.server.server_close()
    with pytest.raises(httpx.ConnectError, match="No access token"):
        asked(google())


def test_an_anonymous_connection_shows_nothing(monkeypatch):
    """Another server stands in for Google; there is no second token to try."""
    extra = {"is_anonymous": True, "project": "p1"}
    connection = {"conn_type": "google_cloud_platform", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_GCP_NOBODY", json.dumps(connection))
    auth = Google([HERE], "gcp_nobody")
    assert asked(auth, [401]) == ([None], 401)
    assert auth.secrets == ()


def test_impersonation_is_asked_for(google, tokens):
    """A chain of service accounts stands for the key's own."""
    auth = google()
    auth.impersonation_chain = ["first@p1.iam.gserviceaccount.com", "last@p1.iam.gserviceaccount.com"]
    known = auth.credentials()
    assert known.service_account_email == "last@p1.iam.gserviceaccount.com"


def test_what_is_missing_is_named(monkeypatch):
    """The connection, or Airflow's google provider with the extra that brings it."""
    with pytest.raises(ConfigurationError, match=r"no_such_google.*google_cloud_platform.*Nothing was sent"):
        asked(Google([HERE], "no_such_google"))
    monkeypatch.setitem(sys.modules, "airflow.providers.google.common.hooks.base_google", None)
    with pytest.raises(ConfigurationError, match=r"airflow-provider-llm-batch\[gcs\]"):
        asked(Google([HERE], "any"))
