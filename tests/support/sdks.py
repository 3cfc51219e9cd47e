"""The vendors' own SDKs before the emulator."""

from __future__ import annotations

import json
import time

import anthropic
import openai

from support import SECRET


def openai_client(emulator, **options):
    return openai.OpenAI(base_url=emulator.openai_url, api_key=SECRET, max_retries=0, **options)


def anthropic_client(emulator, **options):
    return anthropic.Anthropic(base_url=emulator.url, api_key=SECRET, max_retries=0, **options)


def chat(text, **more):
    return {"model": "gpt-5-mini", "messages": [{"role": "user", "content": text}], **more}


def create(client, file, endpoint="/v1/chat/completions", **more):
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def line(custom_id, body, url="/v1/chat/completions"):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode()


def message(custom_id, text="hi", **more):
    params = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": text}], **more}
    return {"custom_id": custom_id, "params": params}


def until(read, wanted, tries=200):
    for _ in range(tries):
        batch = read()
        if wanted(batch):
            return batch
        time.sleep(0.02)
    raise AssertionError(f"never reached: {batch}")


def upload(client, *lines):
    return client.files.create(purpose="batch", file=("in.jsonl", b"\n".join(lines)))
