"""Servers that answer calls and have no batch API: their rows are called one by one.

Source: the servers' documentation of their OpenAI-compatible endpoints.
"""

from __future__ import annotations

import httpx

from airflow_llm_batch.providers.auth import Login
from airflow_llm_batch.providers.base import Flow
from airflow_llm_batch.providers.coerce import objects
from airflow_llm_batch.providers.openai.protocol import CHAT, EMBEDDINGS, RESPONSES, OpenAI
from airflow_llm_batch.providers.presets.kin import Kin, facts
from airflow_llm_batch.providers.presets.vendors import COMPLETIONS


class Server(Kin):
    """Any server that speaks OpenAI's API, by its base URL."""

    name = "compatible"
    title = "Any OpenAI-compatible server"
    documented = "https://platform.openai.com/docs/api-reference"
    default_base_url = ""
    batch_api = False
    endpoints = OpenAI.endpoints
    # Where one has batches after all, "batch": true says so: nothing more is known of them.
    facts = facts("no batches")

    def key_of(self, login: Login) -> str:
        return login.key or "none"

    def probe(self) -> Flow[str]:
        response = yield httpx.Request("GET", self.url("models"))
        named = [str(model.get("id")) for model in objects(self.expect(response, "a listing of models").get("data"))]
        return f"no batches; models: {', '.join(named[:5]) or 'none'}"


class VLLM(Server):
    name = "vllm"
    title = "vLLM"
    documented = "https://docs.vllm.ai/en/latest/serving/openai_compatible_server/"
    default_base_url = "http://localhost:8000/v1"
    endpoints = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES})


class Ollama(Server):
    name = "ollama"
    title = "Ollama"
    documented = "https://docs.ollama.com/api/openai-compatibility"
    default_base_url = "http://localhost:11434/v1"
    endpoints = frozenset({CHAT, COMPLETIONS, EMBEDDINGS})


class LlamaCpp(Server):
    name = "llamacpp"
    title = "llama.cpp"
    documented = "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"
    default_base_url = "http://localhost:8080/v1"
    endpoints = frozenset({CHAT, COMPLETIONS, EMBEDDINGS})
