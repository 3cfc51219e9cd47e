"""Recorded traffic of real vendors against the emulator: same requests in, same shapes out."""

from __future__ import annotations

import gzip
import json
import time
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from support import SECRET

from airflow_llm_batch.emulator import Emulator


def recorded(path):
    """``(method, path, request body, content type, response body)`` of each distinct exchange."""
    seen = set()
    for exchange in yaml.safe_load(path.read_text())["interactions"]:
        request, body = exchange["request"], exchange["response"]["body"]["string"]
        body = body.encode() if isinstance(body, str) else body
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        key = (request["method"], request["uri"], body[:600])
        if key not in seen:
            seen.add(key)
            sent = request["body"] or ""
            kind = (request["headers"].get("content-type") or [""])[0]
            yield request["method"], urlsplit(request["uri"]).path, sent, kind, body


def shape(value):
    """Names and JSON types, nulls aside: what a client can rely on."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def covers(ours, theirs, where="$"):
    """Every field the vendor sent is in the emulator's answer, with the same type."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), where
        for key, inner in theirs.items():
            assert key in ours, f"{where}.{key} is missing"
            covers(ours[key], inner, f"{where}.{key}")
    elif isinstance(theirs, list) and theirs:
        covers(ours[0], theirs[0], f"{where}[]")
    elif not isinstance(theirs, list):
        assert ours == theirs, where


@pytest.mark.parametrize("vendor", ["openai", "anthropic"])
def test_recorded_traffic_replays(shared, vendor):
    """The recorded requests, sent to the emulator, are answered in the recorded shapes, state by state."""
    compared = 0
    headers = {"authorization": f"Bearer {SECRET}", "anthropic-version": "2023-06-01"}
    with Emulator(duration=1.0) as emulator, httpx.Client(base_url=emulator.url, headers=headers) as http:
        ids = {}
        for method, path, sent, kind, answer in recorded(shared / "samples" / f"recording_{vendor}.yaml"):
            for theirs, ours in ids.items():
                path, sent = path.replace(theirs, ours), sent.replace(theirs, ours)
            steps = [
                json.loads(line) for line in ([answer] if b"\n}" in answer else answer.split(b"\n")) if line.strip()
            ]
            wanted = steps[0].get("status") or steps[0].get("processing_status")
            for _ in range(300):
                response = http.request(
                    method, path, content=sent.encode(), headers={"content-type": kind} if kind else {}
                )
                assert response.status_code == 200, response.text
                lines = [json.loads(line) for line in response.text.split("\n") if line.strip()]
                if (lines[0].get("status") or lines[0].get("processing_status")) == wanted:
                    break
                time.sleep(0.01)
            else:
                raise AssertionError(f"{path} never said {wanted!r}")
            assert len(lines) == len(steps)
            for ours, theirs in zip(lines, steps, strict=True):
                covers(shape(ours), drop_volatile(shape(theirs)))
                if "custom_id" not in ours:
                    ids |= {theirs[n]: ours[n] for n in ("id", "output_file_id") if theirs.get(n) and ours.get(n)}
            compared += 1
    assert compared >= (6 if vendor == "openai" else 3)


def drop_volatile(shape):
    """Fields that only some of a vendor's models send."""
    if isinstance(shape, dict):
        return {k: drop_volatile(v) for k, v in shape.items() if k not in ("logprobs", "system_fingerprint")}
    return [drop_volatile(item) for item in shape] if isinstance(shape, list) else shape
