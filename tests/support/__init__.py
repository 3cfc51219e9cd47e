"""What tests share: where things lie, and how results are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
MODELS = {
    "openai": "gpt-5-mini", "azure": "gpt-5-mini", "anthropic": "claude-haiku-4-5", "gemini": "gemini-3.8-flash",
    "mistral": "mistral-small-latest", "openrouter": "openai/gpt-5-mini", "xai": "grok-4.3",
    "fireworks": "accounts/fireworks/models/llama-v3p1-8b-instruct",
}  # fmt: skip
SECRET = "sk-planted-secret-4711"


def read_jsonl(uri: str | Path) -> list[dict[str, Any]]:
    """The records of a JSON lines file, split at newlines only."""
    raw = Path(str(uri).removeprefix("file://")).read_bytes()
    return [json.loads(line) for line in raw.split(b"\n") if line]
