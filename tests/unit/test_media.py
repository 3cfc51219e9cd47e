"""What stands beside text in a prompt, in each dialect: counted by the vendor's rule, and not as text."""

import base64
import json
import struct

import pytest

from airflow_llm_batch.jobs.money.media import media
from airflow_llm_batch.jobs.money.tokens import prompt_tokens, tools_of
from airflow_llm_batch.providers.openai.protocol import OpenAI

HEAD = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 512, 512, 8, 2, 0, 0, 0) + b"\0\0\0\0"
PICTURE = base64.b64encode(HEAD + b"\0" * 30_000).decode()
URL = f"data:image/png;base64,{PICTURE}"
ANTHROPICS = {"type": "base64", "media_type": "image/png", "data": PICTURE}
DIALECTS = {
    "openai": {"messages": [{"content": [{"type": "image_url", "image_url": {"url": URL}}]}]},
    "anthropic": {"messages": [{"content": [{"type": "image", "source": ANTHROPICS}]}]},
    "gemini": {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": PICTURE}}]}]},
    "gemini, snake case": {"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": PICTURE}}]}]},
    "converse": {"messages": [{"content": [{"image": {"format": "png", "source": {"bytes": PICTURE}}}]}]},
}
UNKNOWN = [
    {"contents": [{"parts": [{"fileData": {"mimeType": "application/pdf", "fileUri": "gs://b/x.pdf"}}]}]},
    {"contents": [{"parts": [{"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}]}]},
    {"messages": [{"content": [{"document": {"format": "pdf", "name": "x", "source": {"bytes": "AAAA"}}}]}]},
    {"content": {"parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": PICTURE}}]}},
    {"messages": [{"content": [{"video": {"format": "mp4", "source": {"s3Location": {"uri": "s3://b/x"}}}}]}]},
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_picture_is_counted_as_one(dialect):
    """The same picture costs the same in every spelling, and its characters cost nothing."""
    body, provider = DIALECTS[dialect], OpenAI()
    line = json.dumps(body).encode()
    (part,) = media(body, provider, "gpt-4o")
    assert (part.tokens, part.unknown) == (provider.image_tokens("gpt-4o", (512, 512), "auto"), "")
    assert part.tokens < prompt_tokens(line, body, provider, "gpt-4o") < part.tokens + 100 < len(PICTURE) / 4


@pytest.mark.parametrize("body", UNKNOWN)
def test_what_nobody_has_counted_is_unknown(body):
    """Files, sound and films: a guess for the queue, and no estimate of cost."""
    (part,) = media(body, OpenAI(), "m")
    assert part.unknown


def test_tools_that_a_vendor_runs_are_unknown_in_each_dialect():
    """A function of the user's reads nothing by itself."""
    assert tools_of({"tools": [{"googleSearch": {}}]})
    assert tools_of({"tools": [{"type": "web_search"}]})
    assert not tools_of({"tools": [{"functionDeclarations": [{"name": "f"}]}]})
    assert not tools_of({"tools": [{"type": "function", "function": {"name": "f"}}]})
