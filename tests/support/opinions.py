"""Models that answer each in its own way, behind the emulator's batches and calls."""

from __future__ import annotations

import json
from contextlib import contextmanager

from airflow_llm_batch.emulator import Emulator
from support.servers import server


@contextmanager
def opinions(said, **settings):
    """An emulator whose models answer what ``said(model, prompt)`` returns; anything but a text as JSON.

    :return: the emulator, and the bodies that models were asked with.
    """

    def answer(times, body):
        model, text = body["model"], said(body["model"], body["messages"][-1]["content"])
        message = {"role": "assistant", "content": text if isinstance(text, str) else json.dumps(text)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return 200, {"object": "chat.completion", "model": model, "choices": [choice], "usage": usage}

    with server(answer) as (url, _, bodies), Emulator(**{"duration": 0, "upstream": url, **settings}) as emulator:
        yield emulator, bodies
