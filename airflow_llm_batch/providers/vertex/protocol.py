"""Vertex AI's batch prediction: jobs that read Cloud Storage and write to it.

Source: the REST reference of ``projects.locations.batchPredictionJobs`` (v1), its guides for Gemini, Gemini embeddings
and Claude, and google-genai (``batches.py``).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar
from urllib.parse import urlsplit

import httpx
import msgspec
from pydantic import BeforeValidator, Field

from airflow_llm_batch.exceptions import ConfigurationError, InputError
from airflow_llm_batch.models import Batch, Limits, Page, Shard
from airflow_llm_batch.providers.auth import Credentials, Login, Static
from airflow_llm_batch.providers.base import Batches, Facts, Flow, Provider
from airflow_llm_batch.providers.batches import readable
from airflow_llm_batch.providers.bodies import Call, Payload, Source, Stored, repeatable
from airflow_llm_batch.providers.caching import CLAUDE, GEMINI, claudes_mark, least, marked
from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.images import anthropic_tokens, gemini_tokens
from airflow_llm_batch.providers.options import FORM, Options, Text, Texts
from airflow_llm_batch.providers.searching import search
from airflow_llm_batch.providers.vertex import names, requests
from airflow_llm_batch.providers.vertex.credentials import DEFAULT_CONNECTION, Google, chain
from airflow_llm_batch.providers.vertex.jobs import MARK, parse_job
from airflow_llm_batch.providers.vertex.results import read_line, row_of
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result

#: result files: ``predictions.jsonl``, ``predictions_0001.jsonl``, and ``predictions.jsonl-00000-of-00002``
PATTERNS = ("predictions*.jsonl", "predictions*.jsonl-*-of-*")
#: what a job exports while it runs: of one that was ended before it was through it may be all there is ("if the job is
#: terminated, all completed rows are exported", and billed), and of any other the same once more
EXPORTED = ("incremental_predictions*.jsonl", "incremental_predictions*.jsonl-*-of-*")
WHOLE = "JOB_STATE_SUCCEEDED"
VERSIONED = re.compile(r"/v1(beta1)?$")
#: characters of a job's name for people
LONGEST_NAME = 128


class VertexOptions(Options):
    project: Text = Field(None, description="Google Cloud project that runs the jobs.", json_schema_extra=FORM)
    location: Text = Field(
        None,
        description="Where they run: a region, global (the default), us or eu; Claude wants one of its regions.",
        json_schema_extra=FORM,
    )
    storage: Text = Field(
        None,
        description="gs://bucket/prefix that the jobs read and write where the job directory is not in Cloud Storage.",
        json_schema_extra=FORM,
    )
    gcp_conn_id: Text = Field(
        None,
        description="Airflow connection of type google_cloud_platform for calls and results (google_cloud_default).",
        json_schema_extra=FORM,
    )
    impersonation_chain: Annotated[list[str] | None, BeforeValidator(chain)] = Field(
        None, description="Service accounts to act as, the last one asks; as the google connection has it by default."
    )
    quota_project: Text = Field(None, description="Project that calls are counted to (x-goog-user-project).")
    api_version: Text = Field(None, description="v1 if empty, or v1beta1.")
    anthropic_version: Text = Field(None, description="Version of Claude's API, vertex-2023-10-16 if empty.")
    labels: Texts = Field({}, description="Further labels of the jobs, as billing reports them.")


class Vertex(Provider):
    name = "vertex"
    title = "Vertex AI"
    Options = VertexOptions
    options: VertexOptions
    price_id = "google"
    found_by = "label"
    default_base_url = "https://aiplatform.googleapis.com"
    default_limits: ClassVar[Limits] = Limits(requests=200_000, bytes=1_000_000_000)
    endpoints = frozenset({requests.CHAT, requests.EMBEDDINGS, requests.GENERATE, requests.EMBED, requests.MESSAGES})
    caps = (("generationConfig", "maxOutputTokens"), ("max_tokens",))
    batch_price_factor = "0.5"
    facts = Facts("google connection (key file, impersonation, ADC)", "fitted", "yes", "yes", "until deleted")
    deletes = "inputs"
    page_size = 100
    console_url = "https://console.cloud.google.com/vertex-ai/batch-predictions"

    def address(self) -> str:
        return names.address(self.location)

    def normalize(self, base_url: str) -> str:
        return VERSIONED.sub("", base_url)

    @property
    def location(self) -> str:
        return self.options.location or names.GLOBAL

    @property
    def anthropic_version(self) -> str:
        return self.options.anthropic_version or requests.ANTHROPIC_VERSION

    @property
    def google_connection(self) -> str:
        return self.options.gcp_conn_id or DEFAULT_CONNECTION

    @property
    def project(self) -> str:
        """:raises ConfigurationError: where the connection names none."""
        if not self.options.project:
            raise ConfigurationError(
                "The connection names no Google Cloud project; set 'project' in its extra, for example "
                '{"provider": "vertex", "project": "my-project", "location": "us-central1"}. Nothing was sent.'
            )
        return self.options.project

    def auth(self, login: Login) -> Credentials:
        if login.key:
            # A gateway's key; Google itself wants tokens, which the google connection fetches.
            return Static([self.base_url], {"authorization": f"Bearer {login.key}"}, [login.key])
        options = self.options
        return Google([self.base_url], self.google_connection, options.impersonation_chain, options.quota_project)

    def model_of(self, name: str) -> str:
        # Names end in a version, @20250929, or in @default.
        try:
            return names.model_of(name).name.partition("@")[0]
        except InputError:
            return name

    def discounts_stack(self, model: str) -> bool:
        # Of Gemini's, the guide of batch inference: the discount of a cache hit takes precedence over the batch's.
        return self.model_of(model).startswith("claude")

    def price_share(self, model: str) -> str:
        return "1.1" if self.location != names.GLOBAL and names.DEARER.match(self.model_of(model)) else "1"

    def translate(self, request: Request) -> Request:
        self.check_endpoint(request.endpoint)
        return requests.translated(request, self.is_direct)

    def cached(self, request: Request) -> Request:
        cache = request.cache
        # What is said of Claude's caches on Vertex AI is said of calls.
        if cache is None or not cache.called or "claude" not in request.model:
            return request
        return request._replace(body=marked(request.body, cache, "cache_control", claudes_mark(cache)))

    def least_cached(self, model: str, called: bool) -> int | None:
        return least(self.model_of(model), (*(CLAUDE if called else ()), *GEMINI))

    def line(self, request: Request, custom_id: str) -> dict[str, Any]:
        return requests.line(request, custom_id, self.anthropic_version)

    def request_of(self, line: Mapping[str, Any], shard: Shard) -> Request:
        return requests.request_of(line, shard.model, self.anthropic_version)

    def embeds(self, request: Request) -> bool:
        return request.endpoint in (requests.EMBED, requests.EMBEDDINGS)

    def image_tokens(self, model: str, size: tuple[int, int] | None, detail: str) -> int:
        publisher, name = names.model_of(model)
        return anthropic_tokens(name, size) if publisher == "anthropic" else gemini_tokens(name, size, detail)

    def place(self, name: str, source: str) -> str | None:
        if names.in_store(source):
            return source
        if not self.options.storage:
            raise ConfigurationError(
                "Vertex AI reads its jobs from Cloud Storage, and neither the job directory lies there nor has the "
                "connection a 'storage': set it to gs://bucket/prefix, or [llm_batch] storage to a gs:// URI. "
                "Nothing was sent."
            )
        return f"{self.storage}/{name.replace('/', '-')}"

    @property
    def storage(self) -> str:
        """The connection's own place, with the Airflow connection that reaches it."""
        given = names.folder(self.options.storage or "")
        return names.reached(names.bare(given), self.reader)

    @property
    def reader(self) -> str:
        """The Airflow connection that reads results: that of ``storage`` where it names one."""
        named, at, _ = urlsplit(self.options.storage or "").netloc.rpartition("@")
        return named if at else self.google_connection

    def upload(self, filename: str, content: Payload) -> Flow[str | None]:
        return None
        yield

    def create(self, shard: Shard, ref: str | None, content: Payload) -> Flow[Batch]:
        if ref is None or not names.in_store(ref):
            raise ConfigurationError(f"Vertex AI reads gs:// URIs, not {ref!r}. Nothing was sent.")
        if not shard.model and "model" not in self.options.create:
            raise ConfigurationError("A batch prediction job is of one model, and none is named. Nothing was sent.")
        marks = {**self.options.labels, **shard.metadata}
        labels = {names.label_safe(key, "l_"): names.label_safe(value) for key, value in marks.items()}
        if shard.key:
            labels[MARK] = names.digest(shard.key)
        # Beside its input; a directory of its own, so that no other try's results are taken for these.
        output = f"{names.bare(ref).rpartition('/')[0]}/vertex-{uuid.uuid4().hex[:12]}"
        body = {
            "displayName": (shard.key or f"llm-batch-{uuid.uuid4().hex[:8]}")[:LONGEST_NAME],
            "model": names.model_of(shard.model).resource,
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [names.bare(ref)]}},
            "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": output}},
            **self.options.create,
        }
        # Whatever the connection adds: by its mark a create that got no answer is found.
        body["labels"] = {**members(self.options.create.get("labels")), **labels}
        response = yield httpx.Request("POST", self.jobs(), json=body)
        return parse_job(self.expect(response, "the creation of a batch prediction job"))

    def find(self, shard: Shard, since: datetime, ref: str | None = None) -> Flow[Batches]:
        # The label proves a job to be ours, whatever its time says. A server that ignores the filter tells all.
        mark = names.digest(shard.key)

        def pages(after: str | None) -> Flow[Page]:
            return self._page(after, self.page_size, f"labels.{MARK}={mark}")

        return (yield from search(self, pages, lambda batch: batch.metadata.get(MARK) == mark))

    def get(self, batch_id: str) -> Flow[Batch]:
        response = yield httpx.Request("GET", self.jobs(batch_id))
        return parse_job(self.expect(response, f"a look at job {batch_id}"))

    def list(self, after: str | None = None, limit: int | None = None) -> Flow[Page]:
        return (yield from self._page(after, limit or self.page_size, None))

    def _page(self, after: str | None, limit: int, wanted: str | None) -> Flow[Page]:
        query = {"pageSize": limit, "pageToken": after, "filter": wanted}
        response = yield httpx.Request("GET", self.jobs(query=query))
        body = self.expect(response, "a listing of batch prediction jobs")
        token = body.get("nextPageToken")
        items = readable(body.get("batchPredictionJobs"), parse_job)
        return Page(items, token if isinstance(token, str) and token else None)

    def cancel(self, batch_id: str) -> Flow[Batch]:
        response = yield repeatable(httpx.Request("POST", verb(self.jobs(batch_id), "cancel"), json={}))
        if response.status_code not in (400, 409):
            self.expect(response, f"the cancellation of job {batch_id}")
        # The answer is empty; and a job that has ended cannot be cancelled any more.
        return (yield from self.get(batch_id))

    def delete(self, batch: Batch, scope: str) -> Flow[int]:
        if scope != "all":
            return 0
        response = yield httpx.Request("DELETE", self.jobs(batch.id))
        if response.status_code == httpx.codes.NOT_FOUND:
            return 0
        self.expect(response, f"the deletion of job {batch.id}")
        return 1

    def objects(self, batch: Batch, scope: str) -> Sequence[str]:
        if not self.options.storage or batch.input_ref is None:
            return ()
        own = names.bare(self.storage)
        # The results are in a folder: as many files as the service likes.
        mine = [batch.input_ref, *(f"{uri.rstrip('/')}/" for uri in batch.files if scope == "all")]
        return [names.reached(uri, self.reader) for uri in mine if uri.startswith(f"{own}/")]

    def results(self, batch: Batch) -> Sequence[Source]:
        folders = [names.reached(uri.rstrip("/"), self.reader) for uri in batch.files]
        patterns = PATTERNS if batch.status == WHOLE else (*PATTERNS, *EXPORTED)
        return [Stored(folder, pattern) for folder in folders for pattern in patterns]

    def inputs(self, batch: Batch) -> Sequence[Source]:
        directory, _, name = (batch.input_ref or "").rpartition("/")
        return [Stored(names.reached(directory, self.reader), literal(name))] if directory else ()

    def call(self, line: bytes, shard: Shard) -> Call:
        sent = msgspec.json.decode(line)
        action, body = requests.call_body(sent)
        url = verb(self.at(*names.model_of(shard.model).resource.split("/")), action)
        headers = {"content-type": "application/json"}
        return Call(row_of(sent), url.raw_path, msgspec.json.encode(body), headers)

    def answered(self, custom_id: str, status: int, body: bytes) -> bytes:
        member = b"response" if 200 <= status < 300 else b"error"
        return b'{"custom_id":"%b","status_code":%d,"%b":%b}' % (custom_id.encode(), status, member, body)

    def id_of(self, line: Mapping[str, Any]) -> str:
        return row_of(line)

    def decode(self, line: dict[str, Any]) -> Result:
        return read_line(line)

    def at(self, *parts: str, query: Mapping[str, Any] | None = None) -> httpx.URL:
        """An address below the project's location; a resource's whole name is one already."""
        version = self.options.api_version or "v1"
        if parts[:1] == ("projects",):
            return self.url(version, *parts, query=query)
        return self.url(version, "projects", self.project, "locations", self.location, *parts, query=query)

    def jobs(self, batch_id: str | None = None, query: Mapping[str, Any] | None = None) -> httpx.URL:
        if batch_id is not None and names.JOB.fullmatch(batch_id):
            return self.at(*batch_id.split("/"), query=query)
        return self.at("batchPredictionJobs", *([batch_id] if batch_id is not None else ()), query=query)


def verb(url: httpx.URL, action: str) -> httpx.URL:
    """The address of a method of a resource. Models' versions keep their @, as Google's clients write them."""
    path, mark, query = url.raw_path.partition(b"?")
    return url.copy_with(raw_path=path.replace(b"%40", b"@") + b":" + action.encode() + mark + query)


def literal(name: str) -> str:
    """A name as a pattern that it alone fits."""
    return re.sub(r"([*?\[])", r"[\1]", name)
