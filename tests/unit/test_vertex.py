"""Vertex AI's protocol, with no network."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from fnmatch import fnmatchcase

import httpx
import msgspec
import pytest

from airflow_llm_batch.exceptions import ConfigurationError, InputError, VendorUnavailable
from airflow_llm_batch.jobs.money.agreed import negotiated
from airflow_llm_batch.jobs.money.pricing import Prices
from airflow_llm_batch.jobs.money.rates import PICO
from airflow_llm_batch.models import Shard
from airflow_llm_batch.providers.auth import Login, Static
from airflow_llm_batch.providers.bodies import Payload
from airflow_llm_batch.providers.gemini.protocol import Gemini
from airflow_llm_batch.providers.vertex.protocol import Vertex
from airflow_llm_batch.request import Request
from airflow_llm_batch.results import Result
from airflow_llm_batch.testing.providers import NOW, ProviderContract, drive

CHAT = "/v1/chat/completions"
PARENT = "projects/p1/locations/us-central1"
EXTRA = {"project": "p1", "location": "us-central1"}
REF = "gs://conn@b/jobs/shards/00000/requests.jsonl"


def vertex(**extra):
    return Vertex(None, {**EXTRA, **extra})


def chat(model, **more):
    return Request(CHAT, {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more})


class TestVertex(ProviderContract):
    made = vertex()
    running, ended = "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"

    def raw(self, batch_id, status, at=NOW, rows=2, **more):
        stats = {"successfulCount": str(rows)}
        name = f"{PARENT}/batchPredictionJobs/{batch_id}"
        return {"name": name, "state": status, "createTime": at.isoformat(), "completionStats": stats, **more}

    def page(self, items, *, more):
        return {"batchPredictionJobs": items, **({"nextPageToken": "b2"} if more else {})}

    def test_create_names_input_output_model_and_owner(self):
        """The body of a create: URIs without connections, labels that are safe, a directory of its own for results."""
        shard = Shard(endpoint="generateContent", model="gemini-2.5-flash", key="ab12-0", metadata={"Team": "My DAG"})
        made = vertex(labels={"cost": "x"})
        requests, batch = drive(made.create(shard, REF, Payload(tuple, 0)), self.raw("b", "JOB_STATE_PENDING"))
        assert str(requests[0].url) == f"https://us-central1-aiplatform.googleapis.com/v1/{PARENT}/batchPredictionJobs"
        body = json.loads(requests[0].content)
        prefix = body["outputConfig"]["gcsDestination"]["outputUriPrefix"]
        assert prefix.startswith("gs://b/jobs/shards/00000/vertex-")
        mark = body["labels"].pop("airflow_llm_batch")
        assert re.fullmatch(r"[a-z][a-z0-9]{0,62}", mark)
        assert body == {
            "displayName": "ab12-0",
            "model": "publishers/google/models/gemini-2.5-flash",
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [REF.replace("conn@", "")]}},
            "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": prefix}},
            "labels": {"cost": "x", "team": "my_dag"},
        }
        again, _ = drive(made.create(shard, REF, Payload(tuple, 0)), self.raw("b", "JOB_STATE_PENDING"))
        assert json.loads(again[0].content)["outputConfig"] != body["outputConfig"]
        assert batch.id == "b"

    def test_find_knows_its_own_by_label(self):
        """A server that ignores the filter tells of other jobs too: they are not ours, whatever they are called."""
        shard = Shard(endpoint="generateContent", key="ab12-0", rows=2)
        created, _ = drive(
            self.made.create(shard.model_copy(update={"model": "gemini-x"}), REF, Payload(tuple, 0)),
            self.raw("b", "JOB_STATE_PENDING"),
        )
        labels = json.loads(created[0].content)["labels"]
        first = self.page(
            [self.raw("other", self.running), self.raw("namesake", self.running, displayName="ab12-0")], more=True
        )
        second = self.page([None, {"odd": 1}, self.raw("mine", self.running, labels=labels)], more=False)
        requests, found = drive(self.made.find(shard, NOW), first, second)
        assert [batch.id for batch in found] == ["mine"]
        mark = labels["airflow_llm_batch"]
        assert [dict(r.url.params).get("filter") for r in requests] == [f"labels.airflow_llm_batch={mark}"] * 2
        assert dict(requests[1].url.params)["pageToken"] == "b2"

    def test_a_search_without_an_end_is_given_up_in_doubt(self):
        """More jobs than are looked at: nothing is sent again."""
        made = vertex()
        made.find_pages = 2
        first, second = (self.page([self.raw(name, self.running)], more=True) for name in ("one", "two"))
        with pytest.raises(VendorUnavailable, match="more than 2 pages"):
            drive(made.find(Shard(endpoint="x", key="k"), NOW), first, {**second, "nextPageToken": "b3"})


@pytest.mark.parametrize(
    ("state", "stats", "outcome", "counts"),
    [
        ("JOB_STATE_SUCCEEDED", {"successfulCount": "2"}, "completed", (2, 2, 0)),
        ("JOB_STATE_SUCCEEDED", {"successfulCount": "1", "failedCount": "1"}, "partial", (2, 1, 1)),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", {"successfulCount": 1, "incompleteCount": 1}, "partial", (2, 1, 0)),
        ("JOB_STATE_EXPIRED", {"successfulCount": "1", "incompleteCount": "4"}, "expired", (5, 1, 0)),
        ("JOB_STATE_FAILED", {"incompleteCount": "-1"}, "failed", (None, None, None)),
        ("JOB_STATE_CANCELLED", None, "cancelled", (None, None, None)),
        ("JOB_STATE_SUCCEEDED", {"successfulCount": "many"}, "completed", (None, None, None)),
        *(
            (f"JOB_STATE_{state}", {}, None, (None, None, None))
            for state in ("QUEUED", "PENDING", "PAUSED", "UPDATING")
        ),
        ("JOB_STATE_CANCELLING", {}, None, (None, None, None)),
        ("JOB_STATE_UNSPECIFIED", {}, None, (None, None, None)),
    ],
)
def test_states_and_counts(state, stats, outcome, counts):
    """Every documented state; counts are int64 in texts, zeros left out, -1 for one that is not known."""
    raw = {"name": f"{PARENT}/batchPredictionJobs/7", "state": state, "completionStats": stats}
    _, batch = drive(vertex().get("7"), raw)
    assert (batch.outcome, batch.known) == (outcome, True)
    assert (batch.total, batch.succeeded, batch.failed) == counts


def test_results_lie_where_the_job_says():
    """In its own directory; below what it was given where it does not tell; nowhere while it runs."""
    made = vertex(gcp_conn_id="gcp")
    place = {"outputInfo": {"gcsOutputDirectory": "gs://b/out/prediction-model-1"}}
    given = {"outputConfig": {"gcsDestination": {"outputUriPrefix": "gs://b/out/x/"}}}
    found = []
    for state, more in (("SUCCEEDED", {**place, **given}), ("CANCELLED", given), ("FAILED", {}), ("RUNNING", given)):
        _, batch = drive(made.get("7"), {"name": "7", "state": f"JOB_STATE_{state}", **more})
        found.append(list(made.results(batch)))
    assert [[one.uri for one in sources] for sources in found] == [
        ["gs://gcp@b/out/prediction-model-1"] * 2,
        ["gs://gcp@b/out/x"] * 4,
        [],
        [],
    ]


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("predictions.jsonl", 1),
        ("predictions_0001.jsonl", 1),
        # As users of large jobs have met them, with what lies beside them.
        ("predictions.jsonl-00001-of-00002", 1),
        ("predictions.jsonl.metadata", 0),
        ("incremental_predictions.jsonl", 0),
        ("requests.jsonl", 0),
    ],
)
def test_every_result_file_is_read_once(name, times):
    """Whatever a large job's parts are called."""
    _, batch = drive(
        vertex().get("7"),
        {"name": "7", "state": "JOB_STATE_SUCCEEDED", "outputInfo": {"gcsOutputDirectory": "gs://b/out"}},
    )
    assert sum(fnmatchcase(name, source.pattern) for source in vertex().results(batch)) == times


EXPORTED = ("incremental_predictions.jsonl", "incremental_predictions_0001.jsonl")


@pytest.mark.parametrize("name", [*EXPORTED, "incremental_predictions.jsonl-00000-of-00002", "predictions.jsonl"])
@pytest.mark.parametrize("state", ["CANCELLED", "EXPIRED", "FAILED", "PARTIALLY_SUCCEEDED"])
def test_what_a_job_exported_before_it_was_ended_is_read(state, name):
    """The guide: while a job runs what is completed is exported; of a terminated one all of it is, and is charged."""
    place = {"outputInfo": {"gcsOutputDirectory": "gs://b/out"}}
    _, batch = drive(vertex().get("7"), {"name": "7", "state": f"JOB_STATE_{state}", **place})
    assert sum(fnmatchcase(name, source.pattern) for source in vertex().results(batch)) == 1


def test_inputs_are_the_one_object():
    """Whatever its name holds; others beside it are not read."""
    source = {"gcsSource": {"uris": ["gs://b/in/a[1]*.jsonl"]}}
    _, batch = drive(vertex().get("7"), {"name": "7", "state": "JOB_STATE_RUNNING", "inputConfig": source})
    (stored,) = vertex().inputs(batch)
    assert stored.uri == "gs://google_cloud_default@b/in"
    assert fnmatchcase("a[1]*.jsonl", stored.pattern)
    assert not fnmatchcase("a1x.jsonl", stored.pattern)


def test_why_a_job_failed_is_told():
    """google.rpc.Status, with the code as a word; a used up quota means that it may be created again later."""
    for error, why, full in (
        ({"code": 3, "message": "bad line"}, ("invalid_argument", "bad line"), False),
        ({"code": 8, "message": "Quota exceeded"}, ("resource_exhausted", "Quota exceeded"), True),
    ):
        # The service repeats where results were to go, results or none.
        meant = {"outputConfig": {"gcsDestination": {"outputUriPrefix": "gs://b/out"}}}
        job = {"name": "7", "state": "JOB_STATE_FAILED", "error": error, **meant}
        _, batch = drive(vertex().get("7"), job)
        assert (batch.errors, batch.full) == ((why,), full)
        for more in (
            {"outputInfo": {"gcsOutputDirectory": "gs://b/out/p"}},
            {"completionStats": {"successfulCount": "1"}},
        ):
            assert not drive(vertex().get("7"), {**job, **more})[1].full


def test_labels_of_a_connections_own_leave_the_mark():
    """A create that got no answer is found by it."""
    made = vertex(create={"labels": {"team": "t"}, "encryptionSpec": {"kmsKeyName": "k"}})
    shard = Shard(endpoint="generateContent", model="gemini-2.5-flash", key="job-0")
    body = json.loads(next(made.create(shard, "gs://b/in.jsonl", None)).content)
    assert body["labels"].keys() == {"team", "airflow_llm_batch"}
    assert body["encryptionSpec"] == {"kmsKeyName": "k"}


@pytest.mark.parametrize(
    ("given", "resource", "priced"),
    [
        ("gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("google/gemini-2.5-pro", "publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("publishers/google/models/gemini-2.5-pro", "publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("claude-sonnet-4-5@20250929", "publishers/anthropic/models/claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        (f"{PARENT}/publishers/anthropic/models/claude-x", "publishers/anthropic/models/claude-x", "claude-x"),
        (f"{PARENT}/models/123", f"{PARENT}/models/123", f"{PARENT}/models/123"),
    ],
)
def test_models_by_any_of_their_names(given, resource, priced):
    """A plain name, one with its publisher, a resource's name, a tuned model's."""
    made = vertex()
    job = {"name": "7", "state": "JOB_STATE_PENDING"}
    requests, _ = drive(made.create(Shard(endpoint="x", model=given), REF, Payload(tuple, 0)), job)
    assert json.loads(requests[0].content)["model"] == resource
    assert made.model_of(given) == priced


def test_what_cannot_be_batched_is_refused_by_name():
    """Other publishers, older embeddings, what is the Developer API's, ids that are no labels, a create by no model."""
    made = vertex()
    files = "https://generativelanguage.googleapis.com/v1beta/files/x"
    part = {"type": "image_url", "image_url": {"url": files}}
    for request, named in (
        (chat("meta/llama-4"), "meta"),
        (Request("/v1/embeddings", {"model": "text-embedding-005", "input": "x"}), "gemini-embedding-001"),
        (Request("/v1/embeddings", {"model": "gemini-2.5-flash", "input": "x"}), "makes none"),
        (Request("/v1/embeddings", {"model": "gemini-embedding-001", "input": ["x", "y"]}), "2 inputs"),
        (chat("gemini-2.5-flash", store=True), "'store'"),
        (chat("gemini-2.5-flash", labels={"llm_batch_row": "x"}), "llm_batch_row"),
        (chat("gemini-2.5-flash", messages=[{"role": "user", "content": [part]}]), "gs://"),
        (chat("claude-haiku-4-5", max_tokens=None), "max_tokens"),
        (chat("claude-haiku-4-5", stream=True), "stream"),
        (Request("generateContent", {"model": "claude-haiku-4-5", "contents": []}), "/v1/messages"),
        (Request("/v1/messages", {"model": "gemini-2.5-flash", "messages": []}), "generateContent"),
    ):
        with pytest.raises(InputError, match=named) as refused:
            made.translate(request)
        assert "Nothing was sent." in str(refused.value)
    with pytest.raises(InputError, match="'Row 1'"):
        made.encode(chat("gemini-2.5-flash"), "Row 1")
    with pytest.raises(ConfigurationError, match="none is named"):
        next(made.create(Shard(endpoint="x"), REF, Payload(tuple, 0)))
    with pytest.raises(ConfigurationError, match="gs://"):
        next(made.create(Shard(endpoint="x", model="m"), None, Payload(tuple, 0)))


@pytest.mark.parametrize(
    "request_",
    [
        chat("gemini-2.5-flash", labels={"team": "x"}),
        chat("publishers/google/models/gemini-2.5-pro", temperature=0.5),
        chat("claude-haiku-4-5@20251001"),
        Request(
            "/v1/messages",
            {
                "model": "claude-x",
                "max_tokens": 5,
                "messages": [{"role": "user", "content": "x"}],
                "anthropic_version": "other",
            },
        ),
        Request("generateContent", {"model": "gemini-x", "contents": [{"role": "user", "parts": [{"text": "x"}]}]}),
        Request("/v1/embeddings", {"model": "gemini-embedding-001", "input": "x", "dimensions": 8, "task_type": "T"}),
        Request("/v1/embeddings", {"model": "gemini-embedding-2", "input": "x"}),
        Request("embedContent", {"model": "gemini-embedding-2", "content": {"parts": [{"text": "x"}]}}),
    ],
)
def test_lines_say_all_that_is_needed_to_ask_again(request_):
    """A line names its row, holds no model, and turns back into the request; a call's address has the model."""
    made = vertex()
    asked = made.translate(request_)
    assert made.translate(asked) == asked
    line = made.line(asked, "ab12cd34-7")
    assert made.id_of(line) == "ab12cd34-7"
    assert "model" not in line["request"]
    shard = Shard(endpoint=asked.endpoint, model=asked.model)
    assert made.request_of(line, shard) == asked
    call = made.call(msgspec.json.encode(line), shard)
    assert call.custom_id == "ab12cd34-7"
    name = asked.model.rpartition("/")[2]
    verb = {"generateContent": "generateContent", "embedContent": "embedContent"}.get(asked.endpoint, "rawPredict")
    assert call.path.decode().endswith(f"/models/{name}:{verb}")
    assert made.embeds(asked) == (verb == "embedContent")


def test_places():
    """The job directory's own file where it lies in Cloud Storage; below the connection's storage elsewhere."""
    made = vertex(storage="gs://b/stage/")
    assert made.place("k.jsonl", REF) == REF
    assert made.place("k/1.jsonl", "file:///jobs/r.jsonl") == "gs://google_cloud_default@b/stage/k-1.jsonl"
    assert vertex(storage="gs://c@b/s").place("k", "s3://x/y") == "gs://c@b/s/k"
    assert drive(made.upload("x", Payload(tuple, 0))) == ([], None)
    with pytest.raises(ConfigurationError, match="storage"):
        vertex().place("k", "file:///jobs/r.jsonl")
    with pytest.raises(ConfigurationError, match="s3://b"):
        vertex(storage="s3://b").place("k", "file:///jobs/r.jsonl")


def test_stored_objects_that_may_go():
    """What was staged in the connection's own storage; never what lies in a job directory."""
    made = vertex(storage="gs://b/stage")

    def batch_of(source):
        raw = {
            "name": "7",
            "state": "JOB_STATE_SUCCEEDED",
            "inputConfig": {"gcsSource": {"uris": [source]}},
            "outputInfo": {"gcsOutputDirectory": "gs://b/stage/vertex-1/prediction-model-1"},
        }
        return drive(made.get("7"), raw)[1]

    reached = "gs://google_cloud_default@b/stage"
    staged = batch_of("gs://b/stage/k.jsonl")
    assert list(made.objects(staged, "inputs")) == [f"{reached}/k.jsonl"]
    assert list(made.objects(staged, "all")) == [f"{reached}/k.jsonl", f"{reached}/vertex-1/prediction-model-1/"]
    assert list(made.objects(batch_of("gs://b/stagecoach/k"), "inputs")) == []
    assert list(vertex().objects(staged, "all")) == []


def test_addresses_by_location():
    """Regions, the global one, those of several regions; a gateway's own, with or without a version."""
    for location, host in (
        (None, "aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
    ):
        made = Vertex(None, {"project": "p", "location": location})
        assert made.base_url == f"https://{host}"
        assert made.is_own
    for given in ("http://h", "http://h/v1", "http://h/v1beta1/"):
        made = Vertex(given, {**EXTRA, "api_version": "v1beta1"})
        assert str(made.jobs("7")) == f"http://h/v1beta1/{PARENT}/batchPredictionJobs/7"
    other = "projects/p2/locations/eu/batchPredictionJobs/9"
    assert made.jobs(other).path == f"/v1beta1/{other}"
    with pytest.raises(ConfigurationError, match="'project'"):
        Vertex(None, {}).jobs()


def test_a_key_is_a_gateways():
    """It goes as a bearer token; without one the google connection is asked, and not before the first request."""
    auth = vertex().auth(Login("c", key="secret"))
    assert isinstance(auth, Static)
    request = httpx.Request("GET", vertex().jobs())
    assert auth.headers(request)["authorization"] == "Bearer secret"
    assert auth.headers(httpx.Request("GET", "https://elsewhere/")) == {}
    assert auth.secrets == ("secret",)
    google = vertex(gcp_conn_id="nowhere", impersonation_chain="a@x, b@x").auth(Login("c"))
    assert (google.conn_id, google.impersonation_chain, google.secrets) == ("nowhere", ["a@x", "b@x"], ())


@pytest.mark.parametrize(
    ("model", "cached", "sync"),
    [
        # 2.5 Flash: 0.30 in, 0.03 cached, 2.50 out; batch 0.15 and 1.25, and cached as outside of it.
        ("gemini-2.5-flash", "0.000030", "0.000030"),
        # 3.5 Flash has no batch price in the table: half of 1.50 in, and 0.15 cached all the same.
        ("gemini-3.5-flash", "0.00015", "0.00015"),
        # 3.8 Flash, 0.075 cached: whatever the table's batch price says of it.
        ("publishers/google/models/gemini-3.8-flash", "0.000075", "0.000075"),
        # Claude's discounts stack.
        ("claude-haiku-4-5@20251001", "0.00005", "0.0001"),
    ],
)
def test_discounts_of_cache_and_batch_do_not_stack(model, cached, sync):
    """A thousand cached tokens of a prompt of two thousand, beside the same prompt without a cache."""
    made = vertex()
    prices = Prices("google", "0.5", model_of=made.model_of, stacks=made.discounts_stack)

    def cost(read, hit):
        return prices.cost(Result(status="succeeded", input_tokens=read, cached_tokens=hit, output_tokens=100), model)

    fresh, hit = cost(1000, 0), cost(2000, 1000)
    assert hit.paid - fresh.paid == pytest.approx(Decimal(cached) * PICO, abs=1)
    assert hit.sync - fresh.sync == pytest.approx(Decimal(sync) * PICO, abs=1)
    assert fresh.paid * 2 == pytest.approx(fresh.sync, abs=1)


def test_cached_tokens_of_a_batch_cost_the_same_at_the_developer_api():
    """2.5 Flash, 0.15 in and 1.25 out in a batch, and 0.03 cached as outside of it, by the guide."""
    prices = Prices("google", "0.5", stacks=Gemini().discounts_stack)
    used = Result(status="succeeded", input_tokens=10**6, cached_tokens=4 * 10**5, output_tokens=10**6)
    cost = prices.cost(used, "gemini-2.5-flash")
    assert cost.paid == Decimal("1.352") * PICO  # 0.6 * 0.15 + 0.4 * 0.03 + 1.25


def test_cached_tokens_above_a_tier_cost_what_that_tier_says():
    """2.5 Pro above 200,000 tokens: 2.50 in and 0.25 cached; in a batch 1.25, and 0.25."""
    made = vertex()
    prices = Prices("google", "0.5", model_of=made.model_of, stacks=made.discounts_stack)
    used = Result(status="succeeded", input_tokens=400_000, cached_tokens=100_000, output_tokens=0)
    cost = prices.cost(used, "gemini-2.5-pro")
    assert cost.paid == pytest.approx(Decimal("0.3") * Decimal("1.25") * PICO + Decimal("0.025") * PICO, abs=1)
    assert cost.sync == pytest.approx(Decimal("0.3") * Decimal("2.5") * PICO + Decimal("0.025") * PICO, abs=1)


def test_an_agreed_rate_for_cached_tokens_is_not_halved_either():
    """Rates of one's own: the cached one holds in batches, where there is one."""
    used = Result(status="succeeded", input_tokens=10**6, cached_tokens=10**6, output_tokens=0)
    for agreed, dollars in (({"cached": 0.1}, "0.1"), ({}, "0.5")):
        prices = Prices(
            "google", "0.5", negotiated({"*": {"input": 1, "output": 2, **agreed}}), stacks=lambda model: False
        )
        assert prices.cost(used, "gemini-2.5-flash").paid == Decimal(dollars) * PICO


PLACES = [
    # Anthropic, Claude on Vertex AI: from Sonnet 4.5 on, regional and multi-region endpoints cost a tenth more
    ("claude-sonnet-4-5@20250929", True),
    ("claude-haiku-4-5@20251001", True),
    ("publishers/anthropic/models/claude-opus-4-6@default", True),
    ("claude-opus-5", True),
    ("claude-sonnet-4@20250514", False),
    ("claude-opus-4-1@20250805", False),
    ("claude-3-5-haiku@20241022", False),
    # Google, pricing of the platform: global and non-global prices
    ("gemini-3.1-flash-lite", True),
    ("gemini-3.5-flash", True),
    ("google/gemini-3.8-flash", True),
    ("gemini-4-argon", True),
    ("gemini-2.5-pro", False),
    ("gemini-2.5-flash-lite", False),
    ("gemini-3-flash-preview", False),
    ("gemini-3.1-pro-preview", False),
    ("gemini-embedding-001", False),
]


@pytest.mark.parametrize(("model", "dearer"), PLACES)
@pytest.mark.parametrize(
    ("location", "is_global"), [(None, True), ("global", True), ("us-east5", False), ("eu", False)]
)
def test_what_a_location_adds_to_the_bill(model, dearer, location, is_global):
    """In batches and calls, on all kinds of tokens."""
    made = Vertex(None, {"project": "p", "location": location})
    assert Decimal(made.price_share(model)) == Decimal("1.1" if dearer and not is_global else "1")


def test_searches_cost_the_same_at_every_location():
    """Beside tokens that cost a tenth more; rates of one's own are what they say."""
    made = Vertex(None, {"project": "p", "location": "us-central1"})
    used = Result(status="succeeded", input_tokens=10**6, cached_tokens=0, output_tokens=0, tool_uses={"web_search": 1})
    for agreed, dollars in (({}, "1.664"), ({"input": 1, "output": 2}, "1.014"), ({"factor": 0.5}, "0.832")):
        known = negotiated({"*": agreed}) if agreed else None
        prices = Prices("google", "0.5", known, model_of=made.model_of, share=made.price_share)
        assert prices.cost(used, "gemini-3.5-flash", called=True).paid == Decimal(dollars) * PICO
