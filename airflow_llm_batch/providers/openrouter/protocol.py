"""OpenRouter's batches: the requests travel inside the create, the results inside the batch.

Source: openrouter.ai/docs/batch-quickstart, the types of ``openrouter`` 1.3 (``BatchSubmitBody``, ``BatchObject``), and
OpenRouter's notes on its routes (github.com/OpenRouterTeam/docs, batch research): there is none that cancels. What an
answer has cost is in its usage (openrouter.ai/docs, usage accounting), in credits, which are dollars. How its callbacks
are signed is documented for video jobs (cookbook, webhooks): by the workspace's secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import httpx
import msgspec
from pydantic import Field

from airflow_llm_batch.exceptions import ConfigurationError, RefusedForGood
from airflow_llm_batch.models import Batch, Limits, Shard
from airflow_llm_batch.providers.anthropic.results import read_message
from airflow_llm_batch.providers.base import Batches, Facts, Flow
from airflow_llm_batch.providers.bodies import Paged, Payload, Source, as_array, streamed
from airflow_llm_batch.providers.coerce import amount, id_of, members, objects, text_of, whole
from airflow_llm_batch.providers.json_lines import parse_line
from airflow_llm_batch.providers.openai.protocol import CHAT, EMBEDDINGS, RESPONSES, FileOptions
from airflow_llm_batch.providers.options import Text
from airflow_llm_batch.providers.presets.charging import Charging
from airflow_llm_batch.providers.searching import by_time_and_size
from airflow_llm_batch.results import Result

MESSAGES = "/v1/messages"
#: what is left of a create's bytes for its members beside the requests
MOST_HEAD = 10_000


class OpenRouterOptions(FileOptions):
    webhook_url: Text = Field(
        None,
        description="Where OpenRouter tells of each batch's end, signed with the workspace's secret (webhook_secret): "
        "this connection's /llm-batches/hooks/{connection}, as it is reached from outside.",
    )


class OpenRouter(Charging):
    name = price_id = "openrouter"
    title = "OpenRouter"
    Options = OpenRouterOptions
    options: OpenRouterOptions
    documented = "https://openrouter.ai/docs/batch-quickstart"
    default_base_url = "https://openrouter.ai/api/v1"
    default_limits: ClassVar[Limits] = Limits(requests=5_000, bytes=200_000_000 - MOST_HEAD)
    endpoints = frozenset({CHAT, RESPONSES, MESSAGES, EMBEDDINGS})
    bare_lines = True
    # Neither metadata nor a name.
    found_by = "time"
    cancels = False
    deletes = "none"
    # "Typically" half the price: what a model's page says holds.
    facts = Facts("key", "as the model can", "as the model can", "by URL", "30 days")

    def __init__(self, base_url: str | None = None, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(base_url, options)
        if self.options.webhook_url and not self.options.webhook_secret:
            raise ConfigurationError(
                "webhook_url is set and webhook_secret is not: OpenRouter's events could not be told from anybody's. "
                "Set it to the signing secret of the workspace, or leave webhook_url out. Nothing was sent."
            )

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        return None
        yield

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        # The server reads as it comes: what is no request has to be known before the first of them.
        callback = {"callback_url": self.options.webhook_url} if self.options.webhook_url else {}
        head = {"endpoint": shard.endpoint, "model": shard.model, **callback, **self.options.create}
        body = as_array(content, msgspec.json.encode(head)[:-1] + b',"requests":[', b"]}")
        headers = {"content-type": "application/json"}
        response = yield streamed("POST", self.url(*self.jobs), headers, body)
        return self.parse(self.expect(response, "the creation of a batch"))

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        return (yield from by_time_and_size(self, shard, since))

    def parse(self, raw: dict[str, Any]) -> Batch:
        batch = super().parse(raw)
        if batch.outcome is None:
            return batch
        # In a listing the results are always left out.
        known: dict[str, Any] = {"files": ("results",), "rates": self.rates_of(members(raw.get("usage")))}
        if batch.outcome not in ("completed", "partial"):
            # One page says that these have results, another that theirs are null, whatever was counted by then.
            known |= {"succeeded": None, "failed": None}
        if why := text_of(members(raw.get("error")).get("message")):
            known["errors"] = (("", why),)
        return batch.model_copy(update=known)

    def cancel(self, batch_id: str) -> Flow[Batch]:
        batch = yield from self.get(batch_id)
        if batch.outcome is None:
            raise RefusedForGood(
                f"{self.title} has no call that cancels a batch: {batch_id} goes on until it has ended, and is billed. "
                "Its results can be landed then.",
                status=httpx.codes.METHOD_NOT_ALLOWED,
            )
        return batch

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        if scope != "all":
            return 0
        response = yield httpx.Request("DELETE", self.url(*self.jobs, batch.id))
        if response.status_code == httpx.codes.NOT_FOUND:
            return 0
        self.expect(response, f"the deletion of batch {batch.id}")
        return 1

    def results(self, batch: Batch) -> Sequence[Source]:
        return [Paged(httpx.Request("GET", self.url(*self.jobs, batch.id)), lines_of)] if batch.files else ()

    def inputs(self, batch: Batch) -> Sequence[Source]:
        return ()

    def decode(self, line: dict[str, Any]) -> Result:
        body = members(members(line.get("response")).get("body"))
        if body.get("type") != "message":
            return super().decode(line)
        result = Result(custom_id=id_of(line))
        read_message(dict(body), result)
        return result

    def rates_of(self, usage: Mapping[str, Any]) -> tuple[float, float] | None:
        """What a token has cost, from a batch's usage: the type of a chat completion in it has no cost."""
        details, cost = members(usage.get("cost_details")), self.charged(usage)
        if cost == 0:
            return 0.0, 0.0
        asked = amount(details.get("upstream_inference_prompt_cost")) or 0
        answered = amount(details.get("upstream_inference_completions_cost")) or 0
        read, written = whole(usage.get("prompt_tokens")) or 0, whole(usage.get("completion_tokens")) or 0
        if cost is None or not asked + answered or (asked and read <= 0) or (answered and written <= 0):
            return None
        share = cost / (asked + answered)
        return share * asked / max(read, 1), share * answered / max(written, 1)

    def charged(self, usage: Mapping[str, Any]) -> float | None:
        cost, details = amount(usage.get("cost")), members(usage.get("cost_details"))
        behind = amount(details.get("upstream_inference_cost"))
        if usage.get("is_byok") is True:
            # By a key of the customer's own, whose owner is billed by the vendor behind it; OpenRouter's is a fee.
            return None if behind is None else behind + (cost or 0)
        # A model that is free, and no figure that nobody has reckoned: the vendor behind it has charged nothing, too.
        is_free = is_nothing(usage.get("cost")) and is_nothing(details.get("upstream_inference_cost"))
        return 0.0 if is_free and usage.get("is_byok") is False else cost


def is_nothing(value: Any) -> bool:
    """0 itself, and not False."""
    return not isinstance(value, bool) and value == 0


def lines_of(response: httpx.Response) -> tuple[list[bytes], None]:
    """The results in a batch, one a line."""
    return [msgspec.json.encode(one) for one in objects(parse_line(response.content).get("results"))], None
