"""Anthropic's API behind two clouds' accounts, below ``/anthropic-aws`` and ``/anthropic-google``: its own endpoints,
at other addresses and for other credentials.

Source: docs.aws.amazon.com/claude-platform (making requests), ``anthropic`` 2.12 (``lib/aws``, ``lib/google_cloud``).
"""

from __future__ import annotations

import re

from fastapi import APIRouter, Depends, Request

from airflow_llm_batch.emulator import anthropic

AWS, GOOGLE = "/anthropic-aws", "/anthropic-google"
INVOKE = f"{GOOGLE}/v1/projects/{{project}}/locations/{{location}}/workspaces/{{workspace}}/invoke"
SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=\w+/\d{8}/[a-z0-9-]+/aws-external-anthropic/aws4_request,")
Refusal = anthropic.Refusal


def owns(path: str) -> bool:
    """Whether a path is below one of the clouds."""
    return path.startswith((f"{AWS}/", f"{GOOGLE}/"))


def on_aws(request: Request) -> None:
    """:raises Refusal: without a workspace, and for a signature that is for another service."""
    if not request.headers.get("anthropic-workspace-id"):
        raise Refusal(400, "anthropic-workspace-id: header is required")
    given = request.headers.get("authorization", "")
    if given.startswith("AWS4-") and not SCOPE.match(given):
        raise Refusal(403, "The credential is scoped to another service.")
    request.state.base = AWS


def on_google(request: Request, project: str, location: str, workspace: str) -> None:
    """Any caller may come where no token was settled on, as with an anonymous connection."""
    request.state.base = INVOKE.format(project=project, location=location, workspace=workspace)
    request.state.anonymous = True


router = APIRouter()
router.include_router(anthropic.router, prefix=AWS, dependencies=[Depends(on_aws)])
router.include_router(anthropic.router, prefix=INVOKE, dependencies=[Depends(on_google)])
