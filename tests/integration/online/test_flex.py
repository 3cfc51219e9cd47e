"""The flex lane: calls at the lower price, turned away while there is no room, paid for by the tier that answers."""

from __future__ import annotations

import json
from collections import Counter
from threading import Event

import pytest
from support import MODELS, read_jsonl
from support.jobs import chat, plan, spec
from support.servers import GOOD, server
from support.tasks import drive
from support.tasks import operator as batch_operator

from airflow_llm_batch.data import ChatRequest, EmbeddingRequest, FailedRows
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import BudgetExceeded, ConfigurationError, Interrupted, RefusedForGood
from airflow_llm_batch.hooks import LLMBatchHook
from airflow_llm_batch.jobs.directory import history
from airflow_llm_batch.jobs.directory.store import JobStore
from airflow_llm_batch.jobs.online.endpoint import Calls
from airflow_llm_batch.jobs.online.finish import unfinished
from airflow_llm_batch.jobs.online.flex import Tier
from airflow_llm_batch.jobs.online.online import Online
from airflow_llm_batch.jobs.view.overview import Overview
from airflow_llm_batch.operators import CompletionOperator

CHAT = "POST /v1/chat/completions"
#: a vendor's refusal for want of room, as OpenAI's guide names it, with no pause for the tests' sake
NO_ROOM = {
    "error": {"message": "Resource unavailable.", "type": "invalid_request_error", "code": "resource_unavailable"}
}


def texts(count):
    return [{"id": f"k{n}", "text": f"text {n}"} for n in range(count)]


def operator(conn_id, tmp_path, model="gpt-5-mini", **arguments):
    given = {
        "rows": texts(60), "key": "id", "request": ChatRequest(model, user="{text}", max_tokens=50), "lane": "flex",
        "destination": f"file://{tmp_path}/out", "concurrency": 8,
    }  # fmt: skip
    return CompletionOperator(task_id="submit", conn_id=conn_id, **{**given, **arguments})


def landed(summary):
    return sorted((row for file in summary["files"] for row in read_jsonl(file)), key=lambda row: row["row"])


def job_of(summary):
    return JobStore(summary["manifest"].removesuffix("/manifest.json"))


@pytest.mark.parametrize(
    ("provider", "model", "extra", "status"),
    [
        ("openai", "gpt-5-mini", {}, None),
        ("gemini", "gemini-3.8-flash", {}, None),
        ("gemini", "gemini-2.5-flash", {}, 429),
        ("azure", "gpt-5.6-terra", {"deployments": {"gpt-5.6-terra": "gpt-5.6-terra"}}, None),
    ],
)
def test_what_is_turned_away_is_asked_again_and_billed_once(connect, context, tmp_path, provider, model, extra, status):
    """Forty refusals at first and a third of all calls after that: every row is landed once, served once, at half the
    price; none fails for want of room, however few tries the connection allows."""
    faults = {"flex": {"full": 40, "share": 0.33, "retry_after": "0", "status": status}}
    with Emulator(duration=0, faults=faults) as emulator:
        conn_id = connect(emulator.url, provider, **{**extra, "retries": 0})
        summary = drive(operator(conn_id, tmp_path, model), context)
        tiers, calls = emulator.vendor.tiers, sum(emulator.vendor.calls.values())
    rows = landed(summary)
    assert [(row["key"], row["status"], row["service_tier"]) for row in rows] == [
        (f"k{n}", "succeeded", "flex") for n in range(60)
    ]
    assert (tiers["flex"], tiers["default"] + tiers["standard"]) == (60, 0)
    assert tiers["turned away"] > 60
    assert calls == 60 + tiers["turned away"]
    assert summary["cost_usd"] == pytest.approx(summary["sync_cost_usd"] / 2) == pytest.approx(summary["saving_usd"])
    assert summary["cost_usd"] < summary["estimated_cost_usd"]
    # The job's directory, the manifest and the page say in which lane it was.
    store = job_of(summary)
    assert (history.lane(store.listing(), store.job()), store.manifest().lane, summary["lane"]) == ("flex",) * 3


def test_a_rate_limit_is_no_want_of_room(connect, context, tmp_path):
    """OpenAI tells them apart: a plain 429 is waited for as online, and given up as online."""

    def answer(times, body):
        assert body["service_tier"] == "flex"
        if "unlucky" in body["messages"][0]["content"]:
            return 429, {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}
        return 200, {**GOOD, "service_tier": "flex"}

    with server(answer) as (url, _, _):
        rows = [{"id": name, "text": name} for name in ("a", "unlucky", *"bcdefg")]
        task = operator(connect(url), tmp_path, rows=rows, call_timeout=1.0, fail_on="none", concurrency=2)
        summary = drive(task, context)
    assert (summary["counts"]["succeeded"], summary["counts"]["errored"]) == (7, 1)


def test_a_request_that_is_too_large_is_not_asked_for_ever(connect, context, tmp_path):
    """Even where every 429 may be for want of room, one that says that the request is too large is the row's."""

    def answer(times, body):
        return 429, {"error": {"code": "429", "message": "Request too large: the prompt must be reduced."}}

    with server(answer) as (url, asked, _):
        task = operator(connect(url, "azure"), tmp_path, rows=texts(1), fail_on="none")
        assert drive(task, context)["counts"]["errored"] == 1
        assert sum(asked.values()) == 1


def test_at_the_deadline_rows_without_room_expire_and_nothing_is_billed(connect, context, tmp_path):
    """As online: what was not answered lands as expired, with the deadline as its reason, and no row as failed."""
    with Emulator(duration=0, faults={"flex": {"full": 10**9, "retry_after": "0.05"}}) as emulator:
        task = operator(connect(emulator.url), tmp_path, rows=texts(5), deadline=1.5, fail_on="none")
        summary = drive(task, context)
        assert emulator.vendor.tiers["flex"] == 0 < emulator.vendor.tiers["turned away"]
    assert summary["counts"]["expired"] == 5
    assert {row["error_code"] for row in landed(summary)} == {"deadline"}
    assert summary["cost_usd"] == 0


def test_rows_cost_what_the_tier_of_their_answer_costs(connect, context, tmp_path):
    """gpt-5-mini: $0.25 and $2 a million tokens, at flex $0.125 and $1. Each row is 1,000,000 in and 100,000 out:
    $0.45, at flex $0.225, whatever was asked; without a word of the tier no discount is assumed."""
    used = {"prompt_tokens": 10**6, "completion_tokens": 10**5, "total_tokens": 1_100_000}
    dollars = {"flex": 0.225, "default": 0.45, "(none)": 0.45}

    def answer(times, body):
        assert body["service_tier"] == "flex"
        tier = body["messages"][0]["content"]
        return 200, {**GOOD, "usage": used, **({"service_tier": tier} if tier != "(none)" else {})}

    with server(answer) as (url, _, _):
        rows = [{"id": tier, "text": tier} for tier in dollars]
        summary = drive(operator(connect(url), tmp_path, rows=rows), context)
    assert {row["key"]: row["cost_usd"] for row in landed(summary)} == dollars
    assert (summary["cost_usd"], summary["sync_cost_usd"]) == (pytest.approx(1.125), pytest.approx(1.35))
    manifest = job_of(summary).manifest()
    assert (manifest.batch_cost_usd, manifest.saving_usd) == (pytest.approx(0.675), pytest.approx(0.225))


def test_what_is_served_at_the_standard_tier_costs_its_price(connect, context, tmp_path):
    """A quarter of the answers are not flex: the sum is that of the rows, each at its own price."""
    with Emulator(duration=0, faults={"flex": {"standard": 0.25}}) as emulator:
        summary = drive(operator(connect(emulator.url), tmp_path), context)
        assert (emulator.vendor.tiers["flex"], emulator.vendor.tiers["default"]) == (45, 15)
    rows = landed(summary)
    assert Counter(row["service_tier"] for row in rows) == {"flex": 45, "default": 15}
    price = {"flex": (0.125e-6, 1e-6), "default": (0.25e-6, 2e-6)}
    for row in rows:
        read, written = price[row["service_tier"]]
        assert row["cost_usd"] == pytest.approx(row["input_tokens"] * read + row["output_tokens"] * written)
    assert summary["cost_usd"] == pytest.approx(sum(row["cost_usd"] for row in rows))


def test_a_killed_task_goes_on_at_flex(connect, context, tmp_path):
    """Killed while there is no room: what was answered is kept, and the next try calls the rest at flex, whatever lane
    it is given."""
    tasks, room = [], Event()

    def answer(times, body):
        if int(body["messages"][0]["content"].split()[-1]) < 20 or room.is_set():
            return 200, {**GOOD, "service_tier": body.get("service_tier", "default")}
        if times:
            tasks[0].on_kill()
        return 429, NO_ROOM

    with server(answer) as (url, asked, bodies):
        conn_id = connect(url)
        tasks.append(operator(conn_id, tmp_path, rows=texts(30)))
        with pytest.raises(Interrupted, match="was killed"):
            drive(tasks[0], context)
        answered = {prompt for prompt in asked if int(prompt.split()[-1].rstrip('"}]')) < 20}
        before = {prompt: asked[prompt] for prompt in answered}
        assert len(answered) == 20
        room.set()
        summary = drive(operator(conn_id, tmp_path, rows=texts(30), lane="online"), context)
        assert {prompt: asked[prompt] for prompt in answered} == before == dict.fromkeys(answered, 1)
        assert {body.get("service_tier") for body in bodies} == {"flex"}
    assert summary["counts"]["succeeded"] == 30
    assert {row["service_tier"] for row in landed(summary)} == {"flex"}
    assert summary["lane"] == "flex"


def test_each_tier_has_an_idempotency_key_of_its_own(connect):
    """A key that stands for one body is not sent with another."""
    provider = LLMBatchHook(connect("http://127.0.0.1:9")).provider
    line = b'{"custom_id":"j-1","method":"POST","url":"/v1/chat/completions","body":{"model":"m","seed":1.50}}'
    call = provider.call(line, None)
    asked = provider.flex_call(call)
    assert json.loads(asked.body) == {"model": "m", "seed": 1.5, "service_tier": "flex"}
    assert b"1.50" in asked.body
    assert asked.headers["idempotency-key"] != call.headers["idempotency-key"]
    assert (asked.custom_id, asked.path) == (call.custom_id, call.path)


@pytest.mark.parametrize(
    ("provider", "request_", "extra", "message"),
    [
        ("anthropic", ChatRequest(MODELS["anthropic"], user="{text}", max_tokens=9), {}, "no flex tier.*lane='batch'"),
        ("openai", ChatRequest("gpt-4o-mini", user="{text}", max_tokens=9), {}, "gpt-4o-mini.*at flex.*lane='batch'"),
        ("openai", EmbeddingRequest("text-embedding-3-small", "{text}"), {}, "/v1/embeddings.*at flex"),
        ("gemini", EmbeddingRequest("gemini-embedding-001", "{text}"), {}, "/v1/embeddings.*at flex|embedContent"),
        (
            "azure", ChatRequest("mini", user="{text}", max_tokens=9), {"api_version": "2025-04-01-preview"},
            "v1 API alone.*2025-04-01-preview.*leave it out",
        ),
    ],
)  # fmt: skip
def test_a_lane_that_is_not_there_is_refused(emulator, connect, context, tmp_path, provider, request_, extra, message):
    """With the remedy, and before anything is sent."""
    task = operator(connect(emulator.url, provider, **extra), tmp_path, request=request_)
    with pytest.raises(ConfigurationError, match=f"{message}.*Nothing was sent"):
        drive(task, context)
    assert not emulator.vendor.calls


@pytest.mark.parametrize("wrong", [{"strategy": "fastest"}, {"also": ["truncated"]}])
def test_what_flex_cannot_be_is_told_when_the_dag_is_parsed(tmp_path, wrong):
    """Never the fastest, and no rounds."""
    with pytest.raises(ConfigurationError, match="Nothing was sent"):
        operator("c", tmp_path, **wrong)


def test_a_tier_that_the_vendor_refuses_ends_the_task_and_no_row(connect, context, tmp_path):
    """A project that may not use flex: one message with the vendor's words and the remedy instead of sixty failures."""
    with Emulator(duration=0, faults={"flex": {"models": []}}) as emulator:
        task = operator(connect(emulator.url), tmp_path, concurrency=1)
        with pytest.raises(RefusedForGood, match=r"refuses flex.*lane='online'.*Invalid service_tier.*not billed"):
            drive(task, context)
        assert emulator.vendor.calls[CHAT] == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("count", "model", "arguments", "extra", "lane", "why"),
    [
        # 5 rows at 8 calls at once are one quarter of an hour, and 60 are eight.
        (5, "gpt-5-mini", {}, {}, "flex", "5 rows under the 200-row threshold, and flex costs less"),
        (5, "gpt-5-mini", {"deadline": None}, {}, "flex", "flex costs less"),
        (5, "gpt-5-mini", {"deadline": 900}, {}, "flex", "flex costs less"),
        (5, "gpt-5-mini", {"deadline": 899}, {}, "online", "too short for flex"),
        (60, "gpt-5-mini", {"deadline": 7200}, {}, "flex", "flex costs less"),
        (60, "gpt-5-mini", {"deadline": 7199}, {}, "online", "too short for flex"),
        (60, "gpt-5-mini", {"deadline": 7199, "concurrency": 60}, {}, "flex", "flex costs less"),
        (60, "gpt-5-mini", {"batch_from": 60, "deadline": 86399}, {}, "flex", "a deadline of 24.0 h"),
        (60, "gpt-5-mini", {"batch_from": 60}, {}, "batch", "60 rows, 60 or more"),
        (60, "gpt-5-mini", {}, {"batch": False}, "flex", "has no batches"),
        # Not on the price list of flex, and not known to anybody.
        (5, "gpt-4o-mini", {}, {}, "online", "5 rows under"),
        (5, "gpt-99", {}, {}, "online", "5 rows under"),
        (5, "gemini-3.8-flash", {}, {"provider": "gemini"}, "flex", "flex costs less"),
        (5, "gemini-2.0-flash", {}, {"provider": "gemini"}, "online", "5 rows under"),
        (5, "claude-haiku-4-5", {}, {"provider": "anthropic"}, "online", "5 rows under"),
        # Which model is behind a deployment has to be known.
        (5, "mine", {}, {"provider": "azure", "deployments": {"mine": "gpt-6-astra"}}, "flex", "flex costs less"),
        (5, "gpt-6-astra", {}, {"provider": "azure"}, "online", "5 rows under"),
        # Several models: all of them, or none. The fastest answer is never flex.
        (5, None, {"models": ["gpt-5-mini", "gpt-5"]}, {}, "flex", "flex costs less"),
        (5, None, {"models": ["gpt-5-mini", "gpt-4o-mini"]}, {}, "online", "5 rows under"),
        (5, None, {"models": ["gpt-5-mini", "gpt-5"], "strategy": "fastest"}, {}, "online", "the fastest"),
    ],
)
def test_auto_prefers_flex_where_it_saves(
    emulator, connect, context, tmp_path, capfd, count, model, arguments, extra, lane, why
):
    """By model, vendor and deadline; the log says why, the vendor's books agree, and a retry stays in it."""
    conn_id = connect(emulator.url, **{"provider": "openai", **extra})
    emulator.vendor.settings.deployments = extra.get("deployments")
    arguments = {"rows": texts(count), "lane": "auto", "poll_interval": 0.05, **arguments}
    summary = drive(operator(conn_id, tmp_path, model or "x", **arguments), context)
    several = 1 if arguments.get("strategy") == "fastest" else len(arguments.get("models", "1"))
    assert summary["counts"]["succeeded"] == count * several
    printed = "".join(capfd.readouterr())
    assert f"Lane: {lane}, for " in printed
    assert why in printed
    assert (emulator.vendor.tiers["flex"] > 0, bool(emulator.vendor.batches)) == (lane == "flex", lane == "batch")
    other = "flex" if lane == "batch" else "batch"
    if arguments.get("strategy") != "fastest":
        drive(operator(conn_id, tmp_path, model or "x", **{**arguments, "lane": other}), context)
        assert f"Lane: {lane}, for the job was begun in it" in "".join(capfd.readouterr())


def test_a_gateway_is_not_assumed_to_have_flex(connect):
    """Asked for, the tier is sent along; by itself it is not chosen, and the estimate has no discount."""
    from airflow_llm_batch.jobs.online import flex

    hook = LLMBatchHook(connect("https://gateway.example.com/v1"))
    hook.provider.check_flex("/v1/chat/completions", "gpt-5-mini")
    assert hook.provider.takes_flex("/v1/chat/completions", "gpt-5-mini") is None
    assert hook.provider.flex_discount is None
    assert hook.provider.takes_flex("/v1/embeddings", "text-embedding-3-small") is False

    class Job:
        shards, request = (), None

    assert not flex.saves(hook, Job())


def test_a_tier_that_a_request_names_is_left_to_it(emulator, connect, context, tmp_path):
    """By itself the lane takes nothing from who wants another tier; who asks for flex gets it."""
    request = ChatRequest("gpt-5-mini", user="{text}", max_tokens=50, params={"service_tier": "priority"})
    conn_id = connect(emulator.url)
    drive(operator(conn_id, tmp_path, request=request, lane="auto", rows=texts(5)), context)
    assert (emulator.vendor.tiers["priority"], emulator.vendor.tiers["flex"]) == (5, 0)
    context["ti"].run_id += "-b"
    drive(operator(conn_id, tmp_path / "b", request=request, rows=texts(5)), context)
    assert (emulator.vendor.tiers["priority"], emulator.vendor.tiers["flex"]) == (5, 5)


def test_the_budget_knows_the_flex_price(emulator, connect, context, tmp_path):
    """50 rows of at most 50 tokens at $1 a million, and some prompt: what flex affords, calls at $2 cannot."""
    conn_id = connect(emulator.url)
    arguments = {"rows": texts(50), "max_cost": 50 * 50 * 1e-6 * 1.5}
    with pytest.raises(BudgetExceeded, match="Estimate by model"):
        drive(operator(conn_id, tmp_path, lane="online", **arguments), context)
    assert not emulator.vendor.calls
    context["ti"].run_id += "-b"
    summary = drive(operator(conn_id, tmp_path, **arguments), context)
    assert summary["cost_usd"] < summary["estimated_cost_usd"] <= arguments["max_cost"]


@pytest.mark.parametrize(("share", "falls_back"), [(1.2, False), (4, True)])
def test_auto_falls_back_only_where_the_budget_has_the_full_price(connect, context, tmp_path, share, falls_back):
    """Nobody has asked for flex: a project that may not use it is called online, unless that may cost too much."""
    with Emulator(duration=0, faults={"flex": {"models": []}}) as emulator:
        task = operator(connect(emulator.url), tmp_path, lane="auto", max_cost=60 * 50 * 1e-6 * share)
        if falls_back:
            assert drive(task, context)["counts"]["succeeded"] == 60
        else:
            with pytest.raises(RefusedForGood, match="refuses flex"):
                drive(task, context)
        assert emulator.vendor.tiers["default"] == (60 if falls_back else 0)


@pytest.mark.parametrize(
    ("model", "faults", "served"),
    [
        ("gpt-5-mini", {}, {"flex": 60}),
        ("gpt-5-mini", {"full": 20, "share": 0.3, "retry_after": "0"}, {"flex": 60}),
        ("gpt-5-mini", {"models": []}, {"default": 60}),
        ("gpt-4o-mini", {}, {"default": 60}),
    ],
)
def test_finishing_online_prefers_flex(connect, context, tmp_path, model, faults, served):
    """What the deadline has cut off is called at flex where the vendor lists the model for it, and at the full price
    where it has none or refuses it after all: each row once."""
    with Emulator(duration=60, cancel_seconds=0, faults={"flex": faults}) as emulator:
        task = batch_operator(
            connect(emulator.url), tmp_path, rows=texts(60), passthrough=None, deadline=0.3,
            on_deadline="finish_online", request=ChatRequest(model, user="{text}", max_tokens=50),
        )  # fmt: skip
        summary = drive(task, context)
        tiers = {tier: count for tier, count in emulator.vendor.tiers.items() if tier in ("flex", "default")}
    assert tiers == served
    rows = landed(summary)
    assert [row["key"] for row in rows] == [f"k{n}" for n in range(60)]
    assert Counter(row["service_tier"] for row in rows) == served
    assert summary["cost_usd"] == pytest.approx(summary["sync_cost_usd"] / (2 if "flex" in served else 1))
    # It was begun as a batch, and the page says so.
    assert summary["lane"] == "batch"


def test_where_flex_stays_without_room_the_rest_is_called_at_the_full_price(connect, tmp_path):
    """Twenty are served at flex and then none any more: the others are called once each at the standard tier."""
    store = JobStore(f"file://{tmp_path}/job")
    with Emulator(duration=0) as emulator:
        hook = LLMBatchHook(connect(emulator.url))
        store, job = plan(store, hook, spec(texts(60), chat("openai"), key="id"))
        real = emulator.vendor.tiers.__class__.__getitem__
        emulator.vendor.settings.faults.flex.retry_after = "0"

        class Counts(Counter):
            """Full once twenty were taken."""

            def __getitem__(self, name):
                if name == "asked" and real(self, "taken") >= 20:
                    emulator.vendor.settings.faults.flex.full = 10**9
                return real(self, name)

        emulator.vendor.tiers = Counts()
        Online(store, hook, job, Calls(lane="flex", fallback=0.0, concurrency=1)).run()
        tiers = emulator.vendor.tiers
        assert (tiers["flex"], tiers["turned away"], tiers["default"]) == (20, 1, 40)
        assert not unfinished(store, hook, job)


def test_the_patience_with_flex_is_counted_from_the_last_good_answer():
    """Growing without end where flex was asked for; until the fallback where it was not; anew after each answer."""
    now = [0.0]

    class Provider:
        title = "Vendor"

        def has_no_room(self, response):
            return response

        def flex_call(self, call):
            return f"{call} at flex"

    patient = Tier(Provider(), "flex", None, lambda: now[0])
    for _ in range(1000):
        now[0] += 60
        assert patient.turns_away(True)
    assert (patient.is_flex, patient.turned_away, patient.of("call")) == (True, 1000, "call at flex")
    tier = Tier(Provider(), "flex", 300.0, lambda: now[0])
    for waited, is_flex in ((0, True), (299, True), (1, False)):
        now[0] += waited
        tier.turns_away(True)
        assert tier.is_flex == is_flex
    assert tier.of("call") == "call"
    tier = Tier(Provider(), "flex", 300.0, lambda: now[0])
    for _ in range(10):
        tier.turns_away(True)
        now[0] += 299
        tier.took()
    assert tier.is_flex
    assert Tier(Provider(), "online").of("call") == "call"


def test_too_few_rows_for_a_batch_are_called_at_flex(emulator, connect, context, tmp_path):
    """small_batches="online": at flex where that saves, held to the synchronous price; cleared, nothing is called."""
    conn_id = connect(emulator.url, limits={"minimum": 100}, small_batches="online")
    summary = drive(batch_operator(conn_id, tmp_path, rows=texts(7), passthrough=None), context)
    assert (summary["counts"]["succeeded"], summary["lane"], summary["batches"]) == (7, "flex", [])
    assert emulator.vendor.tiers["flex"] == 7
    assert drive(batch_operator(conn_id, tmp_path, rows=texts(7), passthrough=None), context) == summary
    assert emulator.vendor.calls[CHAT] == 7


def test_rows_that_failed_at_flex_are_asked_again_like_any_others(connect, context, tmp_path):
    """The tier is the call's and not the row's: FailedRows sends what was planned, in whatever lane."""
    broken = Event()
    broken.set()

    def answer(times, body):
        if "text 3" in body["messages"][0]["content"] and broken.is_set():
            return 500, {"error": {"message": "no"}}
        return 200, {**GOOD, "service_tier": body.get("service_tier", "default")}

    with server(answer) as (url, _, bodies):
        conn_id = connect(url, retries=0)
        first = drive(operator(conn_id, tmp_path, rows=texts(5)), context)
        assert (first["counts"]["succeeded"], first["counts"]["errored"]) == (4, 1)
        broken.clear()
        context["ti"].task_id = "again"
        task = operator(conn_id, tmp_path, rows=FailedRows(first), request=None, key=None, lane="online")
        again = drive(task, context)
        assert "service_tier" not in bodies[-1]
    assert again["counts"]["succeeded"] == 5
    assert Counter(row["service_tier"] for row in landed(again)) == {"flex": 4, "default": 1}


def test_the_page_says_flex(emulator, connect, context, tmp_path):
    """The listing has the lane, the estimate at its price and what it has saved."""
    summary = drive(operator(connect(emulator.url), tmp_path, storage=f"file://{tmp_path}/jobs"), context)
    [view] = Overview(f"file://{tmp_path}/jobs").refresh()
    assert (view.lane, view.state) == ("flex", "landed")
    assert view.estimated_cost_usd == pytest.approx(summary["estimated_cost_usd"])
    assert view.saving_usd == pytest.approx(summary["saving_usd"])
    assert view.saving_usd > 0
