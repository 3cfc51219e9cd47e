"""A LiteLLM proxy before another vendor's batches.

Source: the batches and files endpoints of LiteLLM 1.106 (``litellm/proxy``): what routes a call, what is sent again;
docs.litellm.ai/docs/proxy/response_headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import httpx
from pydantic import Field, model_validator

from airflow_llm_batch.models import Limits
from airflow_llm_batch.providers.bodies import with_members
from airflow_llm_batch.providers.coerce import amount, decimal
from airflow_llm_batch.providers.images import openai_tokens
from airflow_llm_batch.providers.json_lines import UNREADABLE
from airflow_llm_batch.providers.openai.chat import CAP, OLD_CAP
from airflow_llm_batch.providers.openai.models import REASONING
from airflow_llm_batch.providers.openai.protocol import FileOptions, OpenAI
from airflow_llm_batch.providers.options import Text
from airflow_llm_batch.providers.presets.charging import member_of_body
from airflow_llm_batch.providers.presets.kin import Kin, facts
from airflow_llm_batch.results import Result

#: how an option routes: the place, and the name there
ROUTES = {
    "litellm_model": (("headers", "x-litellm-model"),),
    "custom_llm_provider": (("headers", "custom-llm-provider"),),
    # An upload is routed by its form, a listing by its query.
    "target_model_names": (("form", "target_model_names"), ("query", "target_model_names")),
}
#: the header of an answer to a call with the dollars that it has cost, kept as a member of its body
COST = "x-litellm-response-cost"


class LiteLLMOptions(FileOptions):
    litellm_model: Text = Field(
        None, description="Which of the proxy's models lends its account, as the header x-litellm-model."
    )
    target_model_names: Text = Field(
        None, description="Which of the proxy's models its managed files are for, as the upload's form field."
    )
    custom_llm_provider: Text = Field(
        None, description="Which vendor of the proxy's files_settings is meant, as the header custom-llm-provider."
    )

    @model_validator(mode="before")
    @classmethod
    def routed(cls, given: Any) -> Any:
        """Options as what they add to calls; what the user has set there by hand goes before."""
        made = dict(given)
        for option, places in ROUTES.items():
            for place, name in places if made.get(option) else ():
                made[place] = joined({name: made[option]}, made.get(place))
        # Its client repeats a create that got no answer by itself, and behind our back.
        return {**made, "create": joined({"max_retries": 0}, made.get("create"))}


def joined(ours: dict[str, Any], theirs: Any) -> Any:
    """What is no object is left for its own check to refuse."""
    return {**ours, **(theirs or {})} if isinstance(theirs, Mapping | None) else theirs


class LiteLLM(Kin):
    name = "litellm"
    title = "LiteLLM proxy"
    documented = "https://docs.litellm.ai/docs/batches"
    Options = LiteLLMOptions
    default_base_url = ""
    # It batches OpenAI's models first of all; whether the discount is handed on only its owner knows.
    price_id = "openai"
    default_limits: ClassVar[Limits] = OpenAI.default_limits
    endpoints = OpenAI.endpoints
    found_by = "metadata"
    tells_beside = True
    facts = facts("as the vendor behind it")

    @property
    def is_own(self) -> bool:
        return False

    def cap_name(self, model: str) -> str:
        return self.options.token_cap or (CAP if REASONING.search(model) else OLD_CAP)

    def body_of(self, response: httpx.Response) -> bytes:
        # By the proxy's own prices and margins: it knows which model stands behind a name of its own.
        cost = amount(decimal(response.headers.get(COST, "")))
        if cost is not None:
            with suppress(*UNREADABLE):
                return with_members(response.content, {COST: cost})
        return response.content

    def read(self, line: bytes) -> Result:
        result = super().read(line)
        if COST.encode() in line:
            result.cost_usd = amount(member_of_body(line, COST))
        return result

    def discounts_stack(self, model: str) -> bool:
        return True

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        return openai_tokens(model, size, detail)
