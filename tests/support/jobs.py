"""Jobs driven step by step, below the operators."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.jobs.landing.records import Landing
from airflow_llm_batch.jobs.options import Choices, Origin, Recovery, Target, Waves
from airflow_llm_batch.jobs.planning.encoding import RowSpec, passthrough_map
from airflow_llm_batch.jobs.run import JobRun
from airflow_llm_batch.jobs.waiting.wait import JobWait
from support import MODELS, read_jsonl
from support.dialects import DIALECTS


def chat(provider, **more):
    return ChatRequest(**{"model": MODELS[provider], "user": "{text}", "max_tokens": 100, **more})


def spec(rows, request, key=None, passthrough=()):
    return RowSpec(rows, request, key, passthrough_map(passthrough))


def texts(count):
    return [{"id": f"k{n}", "text": f"text {n}"} for n in range(count)]


def plan(store, hook, what, on_change="restart", **waves):
    """The plan of a job, and where it lies."""
    run = JobRun(hook, store, ORIGIN, log, Choices(waves=Waves(**waves), recovery=Recovery(on_change=on_change)))
    run.plan(what)
    return run.store, run.job


def submit(store, hook, what):
    run = JobRun(hook, store, ORIGIN, log, Choices(metadata={"team": "tests"}))
    return run.plan(what), run.submit()


def land(store, hook, job, directory, *target, tries=500):
    watch = JobWait(hook, store, log)
    for _ in range(tries):
        if watch.look().action == "ended":
            break
        time.sleep(0.02)
    manifest = Landing(store, job, hook, Target(f"file://{directory}", *target), log).land(watch.wait.seen)
    return manifest, [row for file in manifest.files if file.endswith(".jsonl") for row in read_jsonl(file)]


def creates(provider):
    return DIALECTS[provider].creates


log: Any = logging.getLogger(__name__)
ORIGIN = Origin("dag", "run", "task")


def make_batch(hook, provider, tmp_path):
    """Two requests, by hand, with the hook alone."""
    path = tmp_path / "in.jsonl"
    if provider == "gemini":
        asked = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {DIALECTS[provider].cap: 9}}
        path.write_text("".join(json.dumps({"key": key, "request": asked}) + "\n" for key in "ab"))
        return hook.create_batch(hook.upload_file(str(path)), model=MODELS[provider]).id
    body = {"model": MODELS[provider], "messages": [{"role": "user", "content": "hi"}], DIALECTS[provider].cap: 9}
    if provider != "anthropic":
        lines = [{"custom_id": c, "method": "POST", "url": "/v1/chat/completions", "body": body} for c in "ab"]
        path.write_text("\n".join(map(json.dumps, lines)))
        return hook.create_batch(hook.upload_file(str(path)), metadata={"k": "v"}).id
    path.write_text("".join(json.dumps({"custom_id": c, "params": body}) + "\n" for c in "ab"))
    return hook.create_batch(requests=path, endpoint="/v1/messages").id
