"""Amazon Bedrock's model invocation jobs, and InvokeModel and Converse for calls one by one.

A job reads one object in S3 and writes its results beside it. Source: Bedrock's API reference and service model
(CreateModelInvocationJob and its kin, InvokeModel, Converse), its user guide (batch inference).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
import msgspec

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.models import Batch, Limits, Page, Shard
from airflow_llm_batch.providers.auth import Credentials, Login, Static
from airflow_llm_batch.providers.base import EMBEDDINGS, Batches, Facts, Flow, Provider
from airflow_llm_batch.providers.batches import readable
from airflow_llm_batch.providers.bedrock import jobs, names, objects
from airflow_llm_batch.providers.bedrock.bodies import CONVERSE, INVOKE, chat_request, claude_body
from airflow_llm_batch.providers.bedrock.credentials import Signed, domain
from airflow_llm_batch.providers.bedrock.embeddings import embedding_body
from airflow_llm_batch.providers.bedrock.options import BedrockOptions
from airflow_llm_batch.providers.bedrock.results import read_line, record_id
from airflow_llm_batch.providers.bodies import Call, Payload, Source, Stored, repeatable
from airflow_llm_batch.providers.caching import CLAUDE, NOVA, claudes_mark, least, marked
from airflow_llm_batch.providers.coerce import text_of, word
from airflow_llm_batch.providers.images import anthropic_tokens
from airflow_llm_batch.providers.searching import search
from airflow_llm_batch.providers.troubles import words_of
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
FORMS = {INVOKE: "InvokeModel", CONVERSE: "Converse"}
CONFLICT = "ConflictException"
#: prompt tokens of the largest image, by Nova's guide
LARGEST_IMAGE = 2600


class Sent(msgspec.Struct):
    """A record."""

    recordId: str  # noqa: N815
    modelInput: msgspec.Raw  # noqa: N815


decode_sent = msgspec.json.Decoder(Sent).decode


class Bedrock(Provider):
    name = "bedrock"
    title = "Amazon Bedrock"
    price_id = "aws"
    facts = Facts(
        "an aws connection, or an API key", "strict where the model can, fitted", "yes", "yes", "yours, in S3"
    )
    Options = BedrockOptions
    options: BedrockOptions
    default_base_url = "https://bedrock.{region}.amazonaws.com"
    default_limits: ClassVar[Limits] = Limits(requests=50_000, bytes=1_000_000_000, minimum=100)
    endpoints = frozenset({CHAT, EMBEDDINGS, MESSAGES, INVOKE, CONVERSE})
    takes_empty_text = False
    found_by = "client token"
    is_idempotent = True
    caps = (("max_tokens",), ("max_completion_tokens",), ("max_gen_len",), ("inferenceConfig", "maxTokens"))
    deletes = "inputs"
    batch_price_factor = "0.5"
    page_size = 1000
    find_pages = 20

    def address(self) -> str:
        return f"https://bedrock.{self.region}.{domain(self.region)}"

    @property
    def region(self) -> str:
        return self.options.known_region or "us-east-1"

    @property
    def call_url(self) -> str:
        if self.options.runtime_host:
            return self.options.runtime_host.rstrip("/")
        return f"https://bedrock-runtime.{self.region}.{domain(self.region)}" if self.is_own else self.base_url

    def auth(self, login: Login) -> Credentials:
        if self.is_own and not self.options.known_region:
            raise ConfigurationError(
                f"Connection {login.conn_id!r} names no region; set 'region' in its extra, for example "
                '"region": "us-east-1". Nothing was sent.'
            )
        origins = [self.base_url, self.call_url]
        if login.key and not self.options.aws_conn_id:
            return Static(origins, {"authorization": f"Bearer {login.key}"}, [login.key])
        return Signed(origins, self.options.s3_connection, self.region)

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        bare = self.model_of(model)
        claude = names.family_of(bare) == "anthropic"
        return anthropic_tokens(names.vendors_name(bare), size) if claude else LARGEST_IMAGE

    def cached(self, request: Request) -> Request:
        cache = request.cache
        if cache is None or self.least_cached(request.model, cache.called) is None:
            return request
        mark = claudes_mark(cache)
        if names.family_of(self.model_of(request.model)) == "nova":
            # Nova keeps prompts for five minutes.
            mark = {"type": "ephemeral"}
        return request._replace(body=marked(request.body, cache, "cache_control", mark))

    def least_cached(self, model: str, called: bool) -> int | None:
        bare = self.model_of(model)
        # The guide to prompt caching: not in batch inference.
        return least(names.vendors_name(bare), (*CLAUDE, NOVA)) if called else None

    def model_of(self, name: str) -> str:
        return names.model_of(name, self.options.profiles)

    def translate(self, request: Request) -> Request:
        endpoint, body = self.own_words(request)
        name = str(body.get("model") or "")
        names.check_model(name)
        if endpoint in FORMS:
            return Request(endpoint, body)
        model, options = self.model_of(name), self.options
        family = names.family_of(model)
        if endpoint == MESSAGES:
            # A profile's name need not tell its model.
            if family not in ("anthropic", "other"):
                names.refuse(f"Anthropic's messages for {model}", "choose Claude, or give a ChatRequest")
            made = INVOKE, claude_body(model, body, options.anthropic_beta)
        elif endpoint == EMBEDDINGS:
            made = INVOKE, embedding_body(family, model, body)
        else:
            made = chat_request(family, model, body, options.invocation_type, options.s3_media, options.anthropic_beta)
        return Request(made[0], {"model": name, **made[1]})

    def own_words(self, request: Request) -> tuple[str, dict[str, Any]]:
        """The endpoint, and the body with its model: in Bedrock's own requests that may stand in the path."""
        path, _, last = request.endpoint.strip("/").rpartition("/")
        if last in FORMS and path.startswith("model/"):
            named = {"model": request.body.get("model") or httpx.URL(f"http://h/{path}").path.removeprefix("/model/")}
            return last, {**request.body, **named}
        if request.endpoint in FORMS and "modelId" in request.body:
            kept = {name: value for name, value in request.body.items() if name != "modelId"}
            return request.endpoint, {"model": request.body["modelId"], **kept}
        self.check_endpoint(request.endpoint)
        return request.endpoint, request.body

    def embeds(self, request: Request) -> bool:
        return request.endpoint == INVOKE and "embed" in self.model_of(request.model)

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        return {"recordId": custom_id, "modelInput": {k: v for k, v in request.body.items() if k != "model"}}

    def request_of(self, line: Mapping[str, Any], shard: Shard) -> Request:
        return Request(shard.endpoint, {"model": shard.model, **line["modelInput"]})

    def place(self, name: str, source: str) -> str | None:
        self.options.needed_role()
        if objects.is_readable(objects.plain(source)):
            return source
        return self.options.opened(objects.staged(name, self.options.storage or "", source))

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        raise ConfigurationError(
            "Bedrock takes no uploads: its input lies in S3. Put the file there, and give its s3:// address. Nothing "
            "was sent."
        )
        yield

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        uri = objects.plain(ref or "")
        if not objects.is_readable(uri):
            raise ConfigurationError(f"Bedrock cannot read {ref!r}; give an s3:// address. Nothing was sent.")
        key = self.key_of_shard(shard) if shard.key else uuid.uuid4().hex
        body = self.asked(shard, uri, key)
        response = yield httpx.Request("POST", self.url("model-invocation-job"), json=body)
        if response.is_client_error and self.error_of(response)[0] == CONFLICT:
            # The name is taken: by a create of ours that was thought lost, or else by somebody else's.
            for batch in (yield from self.named(jobs.name_of(key))):
                if batch.metadata.get(jobs.TOKEN) == body[jobs.TOKEN]:
                    return batch
        created = self.expect(response, "the creation of a job")
        return jobs.parse_job({**body, **created, "status": "Submitted"})

    @staticmethod
    def key_of_shard(shard: Shard) -> str:
        """What marks a shard's job: of another planning of the same rows it is another, for Bedrock answers a token
        that it knows with the job it has made of it, however that has ended."""
        return f"{shard.key}-{shard.token}".rstrip("-")

    def asked(self, shard: Shard, uri: str, key: str) -> dict[str, Any]:
        """The body of a create."""
        options = self.options
        owner = {"s3BucketOwner": options.bucket_owner} if options.bucket_owner else {}
        encrypted = {"s3EncryptionKeyId": options.kms_key} if options.kms_key else {}
        reads = {"s3InputFormat": "JSONL", "s3Uri": uri, **owner}
        writes = {"s3Uri": f"{objects.folder_of(uri)}/out/", **owner, **encrypted}
        hours = {"timeoutDurationInHours": options.timeout_hours} if options.timeout_hours else {}
        return {
            jobs.NAME: jobs.name_of(key),
            jobs.TOKEN: jobs.token_of(key),
            "roleArn": options.needed_role(),
            "modelId": shard.model,
            "modelInvocationType": FORMS.get(shard.endpoint, "InvokeModel"),
            "inputDataConfig": {"s3InputDataConfig": reads},
            "outputDataConfig": {"s3OutputDataConfig": writes},
            **hours,
            **options.create,
        }

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        # Our token proves a job to be ours whatever its time says, and Bedrock itself looks for the name.
        key = self.key_of_shard(shard)
        named = yield from self.named(jobs.name_of(key))
        return [batch for batch in named if batch.metadata.get(jobs.TOKEN) in (None, jobs.token_of(key))]

    def named(self, name: str) -> Flow[Batches]:
        """The jobs of a name."""

        def pages(after: str | None) -> Flow[Page]:
            return self.list(after, name=name)

        return (yield from search(self, pages, lambda batch: batch.metadata.get(jobs.NAME) == name))

    def get(self, batch_id: str) -> Flow[Batch]:
        response = yield httpx.Request("GET", self.url("model-invocation-job", batch_id))
        return jobs.parse_job(self.expect(response, f"a look at job {batch_id}"))

    def list(self, after: str | None = None, limit: int | None = None, name: str | None = None) -> Flow[Page]:
        query = {
            "maxResults": limit or self.page_size, "nextToken": after, "nameContains": name,
            "sortBy": "CreationTime", "sortOrder": "Descending",
        }  # fmt: skip
        response = yield httpx.Request("GET", self.url("model-invocation-jobs", query=query))
        body = self.expect(response, "a listing of jobs")
        return Page(readable(body.get("invocationJobSummaries"), jobs.parse_job), word(body.get("nextToken")))

    def cancel(self, batch_id: str) -> Flow[Batch]:
        response = yield repeatable(httpx.Request("POST", self.url("model-invocation-job", batch_id, "stop")))
        if response.status_code not in (400, 409):
            # What has ended cannot be stopped; what it ended as is what the caller wants to know.
            self.expect(response, f"the stop of job {batch_id}")
        return (yield from self.get(batch_id))

    def call(self, line: bytes, shard: Shard) -> Call:
        sent = decode_sent(line)
        action = shard.endpoint if shard.endpoint in FORMS else INVOKE
        path = f"{httpx.URL(self.call_url).path.rstrip('/')}/model/{quote(shard.model, safe='')}/{action}"
        headers = {"content-type": "application/json", "accept": "application/json"}
        return Call(sent.recordId, path.encode(), bytes(sent.modelInput), headers)

    def answered(self, custom_id: str, status: int, body: bytes) -> bytes:
        if 200 <= status < 300:
            return b'{"custom_id":"%b","modelOutput":%b}' % (custom_id.encode(), body)
        return b'{"custom_id":"%b","error":{"errorCode":%d,"answer":%b}}' % (custom_id.encode(), status, body)

    def objects(self, batch: Batch, scope: str) -> Sequence[str]:
        storage = objects.plain(self.options.storage or "")
        uri = batch.input_ref
        if uri is None or not objects.is_below(uri, storage):
            return ()
        written = (uri.rpartition("/")[2] + ".out", "manifest.json.out")
        results = [f"{folder}{name}" for folder in batch.files for name in written] if scope == "all" else []
        return [self.options.opened(one) for one in (uri, *results)]

    def results(self, batch: Batch) -> Sequence[Source]:
        return [Stored(self.options.opened(folder), "*.jsonl.out") for folder in batch.files]

    def inputs(self, batch: Batch) -> Sequence[Source]:
        if not batch.input_ref:
            return ()
        folder, _, name = batch.input_ref.rpartition("/")
        if not name.endswith(objects.INPUT):
            # A job that was made elsewhere may read all of a folder.
            return [Stored(self.options.opened(batch.input_ref.rstrip("/")), f"*{objects.INPUT}")]
        return [Stored(self.options.opened(folder), name)]

    def id_of(self, line: Mapping[str, Any]) -> str:
        return record_id(line)

    def decode(self, line: dict[str, Any]) -> Result:
        return read_line(line)

    @staticmethod
    def error_of(response: httpx.Response) -> tuple[str, str]:
        """AWS's kind of an error stands in a header, or in the body's ``__type``."""
        code, message = Provider.error_of(response)
        try:
            body = msgspec.json.decode(response.content)
        except ValueError:
            body = None
        error = body if isinstance(body, dict) else {}
        kind = response.headers.get("x-amzn-errortype") or text_of(error.get("__type")) or code
        if "Message" in error:
            message = words_of({"message": error["Message"]})[1] or ""
        return kind.partition(":")[0].rpartition("#")[2], message
