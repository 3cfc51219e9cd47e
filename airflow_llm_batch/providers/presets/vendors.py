"""Vendors whose batches are OpenAI's with other words.

Source: the page in ``documented``, unless a comment names another.
"""

from __future__ import annotations

import re

from airflow_llm_batch.models import Limits
from airflow_llm_batch.providers.openai.chat import CAP
from airflow_llm_batch.providers.openai.protocol import CHAT, EMBEDDINGS
from airflow_llm_batch.providers.presets.kin import Kin, facts

COMPLETIONS = "/v1/completions"


class Groq(Kin):
    name = price_id = "groq"
    title = "Groq"
    documented = "https://console.groq.com/docs/batch"
    default_base_url = "https://api.groq.com/openai/v1"
    # groq-python says 100 MB; some pages say 200.
    default_limits = Limits(requests=50_000, bytes=100_000_000)
    windows = range(24, 7 * 24 + 1)
    found_by = "metadata"
    pages = False
    batch_price_factor = "0.5"
    cap = CAP
    # console.groq.com/docs/openai: answered with 400.
    refused = {"logprobs": False, "top_logprobs": None, "logit_bias": {}, "n": 1}  # noqa: RUF012
    refused_in_messages = frozenset({"name"})
    # console.groq.com/docs/structured-outputs: other models do their best.
    strict = re.compile("gpt-oss")
    facts = facts("30 days")._replace(schemas="strict with gpt-oss, fitted")


class DeepInfra(Kin):
    name = "deepinfra"
    title = "DeepInfra"
    documented = "https://docs.deepinfra.com/batch/introduction"
    default_base_url = "https://api.deepinfra.com/v1/openai"
    # Limits are not documented.
    endpoints = frozenset({CHAT, COMPLETIONS, EMBEDDINGS})
    found_by = "metadata"
    batch_price_factor = "0.8"
    expires = frozenset({"output"})
    facts = facts("30 days")


class Doubleword(Kin):
    name = price_id = "doubleword"
    title = "Doubleword"
    documented = "https://docs.doubleword.ai/inference-api/batch-inference"
    default_base_url = "https://api.doubleword.ai/v1"
    # The number of requests is not documented.
    default_limits = Limits(requests=50_000, bytes=200_000_000)
    endpoints = frozenset({CHAT, EMBEDDINGS})
    windows = ("24h", "1h")
    # github.com/doublewordai/control-layer keeps and shows it. Prices differ by model and window: no factor.
    found_by = "metadata"
    facts = facts("not documented")


class DashScope(Kin):
    name = "dashscope"
    title = "Alibaba Cloud Model Studio (DashScope)"
    documented = "https://www.alibabacloud.com/help/en/model-studio/batch-interfaces-compatible-with-openai"
    default_base_url = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
    hosts = re.compile(r"dashscope[a-z-]*\.aliyuncs\.com|[\w-]+\.[\w-]+\.maas\.aliyuncs\.com")
    default_limits = Limits(requests=50_000, bytes=500_000_000)
    endpoints = frozenset({CHAT, EMBEDDINGS})
    windows = range(24, 336 + 1)
    # Of metadata, a name and a description are documented, and no more.
    batch_price_factor = "0.5"
    facts = facts("30 days")


class Kimi(Kin):
    name = "kimi"
    price_id = "moonshotai"
    title = "Kimi (Moonshot AI)"
    documented = "https://platform.kimi.ai/docs/api/batch-create"
    default_base_url = "https://api.moonshot.ai/v1"
    hosts = re.compile(r"api\.moonshot\.(ai|cn)")
    # The number of requests is not documented.
    windows = range(12, 7 * 24 + 1)
    found_by = "metadata"
    batch_price_factor = "0.6"
    cap = CAP
    # What these models fix; any other value is an error.
    refused = {"temperature": 1, "top_p": 0.95, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}  # noqa: RUF012
    refused_by = re.compile(r"kimi-k(2\.[5-9]|[3-9])")
    facts = facts("not documented")


class Parasail(Kin):
    name = "parasail"
    title = "Parasail"
    documented = "https://docs.parasail.io/parasail-docs/batch"
    default_base_url = "https://api.parasail.io/v1"
    # Limits are those of its own client (github.com/parasail-ai/openai-batch); metadata is in its schema, not promised.
    endpoints = frozenset({CHAT, EMBEDDINGS})
    batch_price_factor = "0.5"
    facts = facts("not documented")


class Novita(Kin):
    name = price_id = "novita"
    title = "Novita AI"
    documented = "https://novita.ai/docs/guides/llm-batch-api"
    default_base_url = "https://api.novita.ai/openai/v1"
    # Neither limits nor a discount are documented; metadata is shown, and no create takes it.
    endpoints = frozenset({CHAT, COMPLETIONS})
    windows, usual_window = ("48h",), "48h"
    bare_lines = True
    facts = facts("15 days")
