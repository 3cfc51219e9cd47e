"""As much of Microsoft Entra ID as gives a program a token: the token endpoint, the documents that its clients read
first, and the endpoint by which a machine asks for the token of its own identity.

Source: Microsoft's OAuth 2.0 client credentials flow, OpenID Connect discovery, and App Service's managed identity
endpoint (2019-08-01); azure-identity judges it.
"""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import JSONResponse

from airflow_llm_batch.emulator.batches import Vendor

router = APIRouter()
#: what a token begins with: no key does
TOKEN = "entra."  # noqa: S105
#: whom tokens for Azure OpenAI are for
AUDIENCES = ("https://cognitiveservices.azure.com", "https://ai.azure.com")


def owns(path: str) -> bool:
    """Whether a path is Entra's."""
    return path == "/msi/token" or path.endswith(("/oauth2/v2.0/token", "/.well-known/openid-configuration"))


def issue(vendor: Vendor) -> tuple[str, int]:
    """A new token, and for how many seconds it is good."""
    token = f"{TOKEN}{uuid.uuid4().hex}.{uuid.uuid4().hex}"
    vendor.tokens[token] = time.time() + vendor.settings.token_seconds
    return token, int(vendor.settings.token_seconds)


def is_good(vendor: Vendor, token: str) -> bool:
    """Whether a token was issued here and has not expired."""
    return time.time() < vendor.tokens.get(token, 0)


@router.post("/{tenant}/oauth2/v2.0/token")
def token(
    tenant: str,
    request: Request,
    grant_type: Annotated[str, Form()],
    client_id: Annotated[str, Form()],
    scope: Annotated[str, Form()],
    client_secret: Annotated[str | None, Form()] = None,
    client_assertion: Annotated[str | None, Form()] = None,
) -> JSONResponse:
    """A token for a client's secret, or for the assertion by which a workload identity proves itself."""
    vendor: Vendor = request.app.state.vendor
    if grant_type != "client_credentials":
        return refused(400, "unsupported_grant_type", f"AADSTS70003: The grant type '{grant_type}' is not supported.")
    if not scope.startswith(AUDIENCES) or "/.default" not in scope:
        return refused(400, "invalid_scope", f"AADSTS70011: The provided value for scope {scope} is not valid.")
    wanted = vendor.settings.client_secret
    if not (client_secret or client_assertion) or (client_secret and wanted not in (None, client_secret)):
        return refused(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
    made, seconds = issue(vendor)
    return JSONResponse(
        {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": made}
    )


@router.get("/msi/token")
def machine(request: Request, resource: str) -> JSONResponse:
    """The token of the machine's own identity."""
    if "x-identity-header" not in request.headers or not resource.startswith(AUDIENCES):
        return refused(400, "invalid_request", "The header or the resource is missing.")
    made, seconds = issue(request.app.state.vendor)
    expires = str(int(time.time()) + seconds)
    return JSONResponse({"access_token": made, "expires_on": expires, "resource": resource, "token_type": "Bearer"})


@router.get("/{tenant}/v2.0/.well-known/openid-configuration")
def discovery(tenant: str, request: Request) -> dict[str, Any]:
    """Where a tenant's endpoints are."""
    base = f"{str(request.base_url).rstrip('/')}/{tenant}"
    return {
        "issuer": f"{base}/v2.0",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "jwks_uri": f"{base}/discovery/v2.0/keys",
    }


def refused(status: int, error: str, message: str) -> JSONResponse:
    return JSONResponse({"error": error, "error_description": message, "correlation_id": str(uuid.uuid4())}, status)
