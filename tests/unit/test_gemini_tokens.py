"""What Gemini's requests are estimated at: pictures by its rule, what nobody can measure as unknown."""

from __future__ import annotations

import json

import pytest

from airflow_llm_batch.jobs.money.tokens import kind_of, prompt_tokens, raised_caps
from airflow_llm_batch.providers.gemini.protocol import Gemini
from airflow_llm_batch.providers.images import gemini_tokens
from airflow_llm_batch.request import Request

MADE = Gemini("http://h")
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAIAAAACUFjqAAAAEklEQVR4nGP8z4APMOGVHbHSAEEsAROxCnMTAAAA"
    "AElFTkSuQmCC"
)


def translated(*content, model="gemini-2.5-flash", **more):
    parts = [{"type": "text", "text": "hi"}, *content]
    return MADE.translate(
        Request("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": parts}], **more})
    )


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gemini-2.5-flash", (384, 384), "auto", 258),
        ("gemini-2.5-flash", (960, 540), "auto", 258 * 6),
        ("gemini-2.5-flash", (768, 768), "auto", 258 * 4),
        ("gemini-2.5-flash", (9000, 9000), "auto", 258 * 16),
        ("gemini-2.5-flash", None, "auto", 258 * 16),
        ("gemini-3.8-flash", (10, 10), "auto", 1120),
        ("gemini-3.8-flash", None, "low", 280),
        ("gemini-3.8-flash", None, "MEDIA_RESOLUTION_MEDIUM", 560),
    ],
)
def test_an_image_is_tiles_or_a_resolution(model, size, detail, tokens):
    """Up to 2.5 tiles of 258 tokens, six for the guide's 960 x 540; from 3 on as many as its resolution."""
    assert gemini_tokens(model, size, detail) == tokens


def test_a_picture_is_counted_by_its_size_and_not_by_its_bytes():
    """A ten-pixel square is one tile, however long its base64 is."""
    request = translated({"type": "image_url", "image_url": {"url": PNG}})
    line = json.dumps(MADE.line(request, "a")).encode()
    bare = json.dumps(MADE.line(translated(), "a")).encode()
    seen = prompt_tokens(line, request.body, MADE, request.model)
    text = prompt_tokens(bare, translated().body, MADE, request.model)
    assert 258 <= seen - text <= 258 + 30
    assert not kind_of(request, MADE).unknown


@pytest.mark.parametrize(
    ("request_", "unknown"),
    [
        (translated({"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}}), "a file"),
        (translated({"type": "video_url", "video_url": "https://youtu.be/x"}), "a file"),
        (translated(tools=[{"googleSearch": {}}]), "googleSearch"),
        (translated(cachedContent="cachedContents/x"), "cachedContent"),
    ],
)
def test_what_nobody_can_measure_is_unknown(request_, unknown):
    """Documents, films, searches, caches."""
    assert unknown in kind_of(request_, MADE).unknown


def test_caps_are_found_multiplied_and_raised():
    """maxOutputTokens, for each candidate; embeddings have none."""
    request = translated(max_tokens=10, n=3)
    assert kind_of(request, MADE).cap == 30
    assert raised_caps(request, MADE, 1.5).body["generationConfig"]["maxOutputTokens"] == 15
    assert request.body["generationConfig"]["maxOutputTokens"] == 10
    vector = MADE.translate(Request("/v1/embeddings", {"model": "gemini-embedding-001", "input": "x"}))
    assert kind_of(vector, MADE).cap == 0
