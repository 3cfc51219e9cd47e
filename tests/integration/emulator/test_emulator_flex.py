"""The vendors' SDKs call the emulator at flex: what is served, what is turned away, and what is refused."""

from __future__ import annotations

import openai
import pytest
from support import SECRET
from support.sdks import chat, openai_client

from airflow_llm_batch.emulator import Emulator


def genai_client(emulator):
    genai = pytest.importorskip("google.genai")
    return genai.Client(api_key=SECRET, http_options=genai.types.HttpOptions(base_url=emulator.url))


def test_openai_tells_the_tier_that_has_served(emulator):
    """In both APIs, as the SDK's types say: what was asked, or the project's default."""
    client = openai_client(emulator)
    assert client.chat.completions.create(**chat("hi", service_tier="flex")).service_tier == "flex"
    assert client.chat.completions.create(**chat("hi")).service_tier == "default"
    assert client.responses.create(model="gpt-5.4", input="hi", service_tier="flex").service_tier == "flex"
    assert client.responses.create(model="o3-2025-04-16", input="hi", service_tier="flex").service_tier == "flex"
    assert client.chat.completions.create(**chat("hi", service_tier="priority")).service_tier == "priority"
    assert emulator.vendor.stats()["tiers"] == {"asked": 3, "taken": 3, "flex": 3, "default": 1, "priority": 1}


def test_openai_turns_away_without_room(emulator):
    """ "429 Resource Unavailable": the first two, and then every other one; nothing of them is served."""
    emulator.vendor.settings.faults.flex.full = 2
    emulator.vendor.settings.faults.flex.share = 0.5
    emulator.vendor.settings.faults.flex.retry_after = "7"
    client, tiers = openai_client(emulator), []
    for _ in range(6):
        try:
            tiers.append(client.chat.completions.create(**chat("hi", service_tier="flex")).service_tier)
        except openai.RateLimitError as error:
            tiers.append((error.code, error.response.headers["retry-after"]))
    away = ("resource_unavailable", "7")
    assert tiers == [away, away, "flex", away, "flex", away]
    assert (emulator.vendor.tiers["flex"], emulator.vendor.tiers["turned away"]) == (2, 4)
    # The usual tier has room.
    assert client.chat.completions.create(**chat("hi")).service_tier == "default"


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-5-pro", "gpt-5.3-codex"])
def test_openai_refuses_flex_for_models_that_are_not_on_its_list(emulator, model):
    """ "Invalid service_tier argument", with the parameter; the same call without it is served."""
    client = openai_client(emulator)
    with pytest.raises(openai.BadRequestError, match="Invalid service_tier argument") as refused:
        client.responses.create(model=model, input="hi", service_tier="flex")
    assert refused.value.param == "service_tier"
    assert client.responses.create(model=model, input="hi").service_tier == "default"


def test_a_share_may_be_served_at_the_standard_tier(emulator):
    """The response value may be different from the value set in the parameter, as the SDK's types say."""
    emulator.vendor.settings.faults.flex.standard = 0.25
    client = openai_client(emulator)
    tiers = [client.chat.completions.create(**chat("hi", service_tier="flex")).service_tier for _ in range(8)]
    assert tiers == ["flex", "flex", "flex", "default"] * 2


def test_gemini_tells_the_tier_in_usage_and_header(emulator):
    """Google's SDK sends serviceTier beside the contents; the header says what has served."""
    client = genai_client(emulator)
    for asked, served in (
        ({"service_tier": "flex"}, "flex"),
        ({"service_tier": "standard"}, "standard"),
        ({}, "standard"),
    ):
        answer = client.models.generate_content(model="gemini-3.8-flash", contents="hi", config=asked)
        assert answer.text == "hi"
        assert answer.sdk_http_response.headers["x-gemini-service-tier"] == served
    assert (emulator.vendor.tiers["flex"], emulator.vendor.tiers["standard"]) == (1, 2)


@pytest.mark.parametrize(("status", "error"), [(None, (503, "UNAVAILABLE")), (429, (429, "RESOURCE_EXHAUSTED"))])
def test_gemini_turns_away_without_room(emulator, status, error):
    """503 when it is at capacity, 429 when resources are exhausted; the standard tier is asked for by the caller."""
    errors = pytest.importorskip("google.genai.errors")
    emulator.vendor.settings.faults.flex.full = 10
    emulator.vendor.settings.faults.flex.status = status
    client = genai_client(emulator)
    with pytest.raises(errors.APIError) as raised:
        client.models.generate_content(model="gemini-2.5-pro", contents="hi", config={"service_tier": "flex"})
    assert (raised.value.code, raised.value.status) == error
    assert client.models.generate_content(model="gemini-2.5-pro", contents="hi").text == "hi"


def test_gemini_refuses_flex_for_models_that_its_guide_does_not_list(emulator):
    """A client error, and nothing served."""
    errors = pytest.importorskip("google.genai.errors")
    client = genai_client(emulator)
    with pytest.raises(errors.ClientError) as raised:
        client.models.generate_content(model="gemini-2.0-flash", contents="hi", config={"service_tier": "flex"})
    assert raised.value.code == 400
    assert not emulator.vendor.tiers["standard"] + emulator.vendor.tiers["flex"]


def test_azure_goes_by_the_model_behind_a_deployment():
    """The v1 API: a deployment of a model on its short list is served at flex, another is refused with 400."""
    with Emulator(deployments={"cheap": "gpt-5.6-luna", "mini": "gpt-5-mini"}) as emulator:
        client = openai.OpenAI(base_url=f"{emulator.url}/openai/v1", api_key=SECRET, max_retries=0)
        answer = client.responses.create(model="cheap", input="hi", service_tier="flex")
        assert answer.service_tier == "flex"
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="mini", input="hi", service_tier="flex")
        assert refused.value.type == "invalid_request_error"
        emulator.vendor.settings.faults.flex.full = 10
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(**{**chat("hi", service_tier="flex"), "model": "cheap"})
