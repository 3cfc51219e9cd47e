"""Bedrock's OpenAI-compatible batch API: OpenAI's batches of its open models, with an API key, read and written in S3.

Source: Bedrock's user guide (submit a batch of prompts with the OpenAI Batch API): the input is an S3 address, model
and role are headers, results lie in a folder named after the batch, beside the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from airflow_llm_batch.models import Batch, Limits, Shard
from airflow_llm_batch.providers.auth import Credentials, Login
from airflow_llm_batch.providers.base import Batches, Facts, Flow
from airflow_llm_batch.providers.bedrock import objects
from airflow_llm_batch.providers.bedrock.bodies import asks_tools
from airflow_llm_batch.providers.bedrock.credentials import Signed, domain
from airflow_llm_batch.providers.bedrock.names import refuse
from airflow_llm_batch.providers.bedrock.options import AwsOptions
from airflow_llm_batch.providers.bodies import Payload, Source, Stored
from airflow_llm_batch.providers.openai.protocol import CHAT, OpenAI, OpenAIOptions
from airflow_llm_batch.request import Request

PATH = "/openai/v1"
#: names of objects with answers, and with errors
PATTERNS = ("*.jsonl.out", "*.jsonl.err")


class BedrockOpenAIOptions(AwsOptions, OpenAIOptions):
    """OpenAI's, and where things lie in AWS."""


class BedrockOpenAI(OpenAI):
    name = "bedrock-openai"
    title = "Amazon Bedrock (OpenAI's batch API)"
    price_id = "aws"
    facts = Facts("an API key", "refused", "refused", "no", "yours, in S3")
    Options = BedrockOpenAIOptions
    options: BedrockOpenAIOptions
    default_base_url = "https://bedrock-runtime.{region}.amazonaws.com/openai/v1"
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=200_000_000, minimum=100)
    endpoints = frozenset({CHAT})
    one_model_per_batch = True
    console_url = ""
    caches_by_itself = False

    def cached(self, request: Request) -> Request:
        return request

    def least_cached(self, model: str, called: bool) -> int | None:
        return None

    @property
    def region(self) -> str:
        return self.options.known_region or "us-east-1"

    def address(self) -> str:
        return f"https://bedrock-runtime.{self.region}.{domain(self.region)}{PATH}"

    def normalize(self, base_url: str) -> str:
        return base_url if base_url.endswith(PATH) else base_url + PATH

    def auth(self, login: Login) -> Credentials:
        if login.key and not self.options.aws_conn_id:
            return super().auth(login)
        return Signed([self.base_url], self.options.s3_connection, self.region)

    def translate(self, request: Request) -> Request:
        if asks_tools(request.body):
            refuse("tools in this API", "use the provider 'bedrock', whose jobs take them")
        made = super().translate(request._replace(api="chat"))
        kind = (made.body.get("response_format") or {}).get("type", "text")
        if kind != "text":
            refuse(f"response_format {kind!r} in this API", "use the provider 'bedrock', whose jobs take it")
        return made

    def cap_name(self, model: str) -> str:
        return self.options.token_cap or "max_completion_tokens"

    def place(self, name: str, source: str) -> str | None:
        self.options.needed_role()
        if objects.is_readable(objects.plain(source)):
            return source
        return self.options.opened(objects.staged(name, self.options.storage or "", source))

    def create_headers(self, shard: Shard) -> dict[str, str]:
        role = {"x-amzn-bedrock-rolearn": self.options.needed_role(), "x-amzn-bedrock-modelid": shard.model}
        key = self.options.kms_key
        return {**role, **({"x-amzn-bedrock-outputencryptionkeyid": key} if key else {})}

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        return (yield from super().create(shard, objects.plain(ref or ""), content))

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        return (yield from super().find(shard, since, objects.plain(ref or "") or None))

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        return 0
        yield

    def folder(self, batch: Batch) -> str:
        """Where a batch's results lie: named after it, beside its input."""
        uri = objects.plain(batch.input_ref or "")
        return f"{objects.folder_of(uri)}/{batch.id.rpartition('/')[2]}/" if uri else ""

    def objects(self, batch: Batch, scope: str) -> Sequence[str]:
        uri, storage = objects.plain(batch.input_ref or ""), self.options.storage or ""
        if not objects.is_below(uri, objects.plain(storage)):
            return ()
        name = uri.rpartition("/")[2]
        results = [f"{self.folder(batch)}{name}{kind}" for kind in (".out", ".err")] if scope == "all" else []
        return [self.options.opened(one) for one in (uri, *results)]

    def results(self, batch: Batch) -> Sequence[Source]:
        folder = self.folder(batch)
        return [Stored(self.options.opened(folder), pattern) for pattern in PATTERNS] if folder else ()

    def inputs(self, batch: Batch) -> Sequence[Source]:
        folder, _, name = objects.plain(batch.input_ref or "").rpartition("/")
        return [Stored(self.options.opened(folder), name)] if folder else ()
