"""Models as Bedrock names them: ids, inference profiles and ARNs, and the family whose body a model reads.

Source: Bedrock's user guide (inference request parameters and response fields, inference profiles, supported models).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NoReturn

from airflow_llm_batch.exceptions import InputError

Family = Literal[
    "anthropic", "nova", "llama", "mistral", "mistral-text", "openai", "open", "titan-embed", "cohere-embed", "other"
]
VENDORS = (
    "ai21|amazon|anthropic|cohere|deepseek|google|luma|meta|minimax|mistral|moonshotai|moonshot|nvidia|openai|qwen"
    "|stability|twelvelabs|writer|zai"
)
#: a vendor and its model, behind the geography of an inference profile
OF_VENDOR = re.compile(rf"(?:^|[./])({VENDORS})\.(.+)$")
#: by vendor and model, the first that fits
FAMILIES: tuple[tuple[re.Pattern[str], Family], ...] = (
    (re.compile(r"anthropic\.claude-(v2|instant)"), "other"),
    (re.compile(r"anthropic\."), "anthropic"),
    (re.compile(r"amazon\.titan-embed"), "titan-embed"),
    (re.compile(r"amazon\.nova.*-embed"), "other"),
    (re.compile(r"amazon\.nova-"), "nova"),
    (re.compile(r"cohere\.embed-"), "cohere-embed"),
    (re.compile(r"meta\.llama3"), "llama"),
    (re.compile(r"mistral\.(mistral-7b|mixtral|mistral-small-2402)"), "mistral-text"),
    (re.compile(r"mistral\."), "mistral"),
    (re.compile(r"openai\."), "openai"),
    (re.compile(r"deepseek\.r1"), "other"),
    (re.compile(r"(deepseek|google|minimax|moonshot(ai)?|nvidia|qwen|zai)\."), "open"),
)
#: a model's version behind its name, which only Bedrock writes: claude-haiku-4-5-20251001-v1:0
VERSION = re.compile(r"-v\d+(:\d+)?$")
PROVISIONED = re.compile(r":provisioned-model/")


def refuse(what: str, remedy: str) -> NoReturn:
    raise InputError(f"Bedrock cannot express {what}; {remedy}. Nothing was sent.")


def model_of(name: str, profiles: Mapping[str, str]) -> str:
    """The model behind an ARN or a profile. The geography stays: prices differ by it.

    :param profiles: what the connection says of profiles whose names do not tell their model.
    """
    known = profiles.get(name) or profiles.get(name.rpartition("/")[2])
    return known or (name.rpartition("/")[2] if name.startswith("arn:") else name)


def family_of(model: str) -> Family:
    """:param model: as ``model_of`` gives it."""
    found = OF_VENDOR.search(model)
    spelled = f"{found[1]}.{found[2]}" if found else ""
    return next((family for pattern, family in FAMILIES if pattern.match(spelled)), "other")


def vendors_name(model: str) -> str:
    """What the model's own vendor calls it: ``claude-haiku-4-5-20251001``."""
    found = OF_VENDOR.search(model)
    return VERSION.sub("", found[2] if found else model)


def check_model(name: str) -> None:
    """:raises InputError: for a model that no batch takes."""
    if not name:
        refuse("a request without a model", "name the model, an inference profile or its ARN")
    if PROVISIONED.search(name):
        refuse(f"a batch of the provisioned model {name!r}", "name the foundation model or an inference profile")
