"""``ChatRequest(cache=True)`` against emulators that cache by the vendors' rules: what is written, read, paid and told.

Dollars are worked out by hand from the price pages; tokens are those that the vendor's answers name.
"""

import json
import logging

import pytest
from support import read_jsonl
from support.tasks import run

from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.jobs.view.detail import landed
from airflow_llm_batch.operators import CompletionOperator
from airflow_llm_batch.results import Manifest

#: 7,000 characters; with "Say " behind it 7,004, which are 2,002 tokens of Claude's at 3.5 characters each
LONG = "abcdef " * 1000
STATIC = 2002
ROWS = [{"text": f"row {number:03}"} for number in range(100)]


def asked(model, **more):
    return ChatRequest(
        **{"model": model, "system": LONG, "user": "Say {text}", "max_tokens": 20, "cache": True, **more}
    )


def manifest_of(summary):
    return json.loads(open(summary["manifest"].removeprefix("file://")).read())


def usage_of(rows):
    """Tokens as the vendor told them, by name, of all rows."""
    sums = {}
    for row in rows:
        raw = json.loads(row["raw"]) if isinstance(row["raw"], str) else row["raw"]
        answer = raw["result"]["message"] if "result" in raw else raw["response"]["body"]
        for name, count in answer["usage"].items():
            counts = count if isinstance(count, dict) else {name: count}
            for inner, tokens in counts.items():
                if isinstance(tokens, int):
                    sums[inner] = sums.get(inner, 0) + tokens
    return sums


def sent_by(emulator):
    return [line for batch in emulator.vendor.batches.values() for line in read_jsonl(batch.lines)]


def test_claudes_batches_write_once_and_read_after(connect, context, tmp_path, caplog, capsys):
    """An hour's cache, in a batch of claude-sonnet-4-5: fresh $1.50, written $3, read $0.15, out $7.50 a million. The
    job's page has the same figures."""
    with Emulator(duration=0.2) as emulator:
        summary, rows = run(
            context, connect(emulator.url, "anthropic"), tmp_path, rows=ROWS, request=asked("claude-sonnet-4-5"),
            fetch={"keep_raw": True},
        )  # fmt: skip
        sent = sent_by(emulator)
    for line in sent:
        assert line["params"]["system"] == LONG
        head, tail = line["params"]["messages"][0]["content"]
        assert head == {"type": "text", "text": "Say ", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        assert tail["text"].startswith("row ")
    usage = usage_of(rows)
    assert usage["ephemeral_1h_input_tokens"] == usage["cache_creation_input_tokens"] == STATIC
    assert usage["cache_read_input_tokens"] == 99 * STATIC
    manifest = manifest_of(summary)
    assert (manifest["cache_write_tokens"], manifest["cached_tokens"]) == (STATIC, 99 * STATIC)
    # 2,002 written and 198,198 read: $0.006006 and $0.0297297; the same 200,200 uncached: $0.3003
    fresh, out = usage["input_tokens"] * 1.5e-6, usage["output_tokens"] * 7.5e-6
    assert manifest["cost_usd"] == pytest.approx(0.006006 + 0.0297297 + fresh + out)
    assert manifest["cache_saving_usd"] == pytest.approx(0.3003 - 0.006006 - 0.0297297)
    share = 99 * STATIC / (100 * STATIC + usage["input_tokens"])
    assert manifest["cached_share"] == pytest.approx(share)
    assert f"{share:.0%} of the input read from caches; caches saved $0.264564" in summary["message"]
    assert "198,198 tokens read, 2,002 written; $0.264564 saved" in capsys.readouterr().out
    assert "cache has no effect" not in caplog.text
    usage = landed(Manifest.model_validate(manifest), Manifest.model_validate(manifest).rounds)
    assert (usage["cached_tokens"], usage["cache_write_tokens"]) == (99 * STATIC, STATIC)
    assert usage["cache_saving_usd"] == pytest.approx(manifest["cache_saving_usd"])


def test_both_prices_are_told_before(connect, context, tmp_path, caplog):
    """At most: all of it written, nothing read. Likely: written once, read ever after; answers as long as the cap."""
    caplog.set_level(logging.INFO)
    with Emulator(duration=0.2) as emulator:
        summary, _ = run(
            context, connect(emulator.url, "anthropic"), tmp_path, rows=ROWS, request=asked("claude-sonnet-4-5")
        )
    from airflow_llm_batch.jobs.directory.store import JobStore

    manifest = manifest_of(summary)
    estimate = JobStore(manifest["job"]).job().estimate["claude-sonnet-4-5"]
    fresh, out = estimate.input_tokens / 100 - estimate.static, 20 * 7.5e-6 * 100
    assert estimate.static == pytest.approx(STATIC, rel=0.01)
    assert estimate.cost_usd == pytest.approx(100 * (estimate.static * 3e-6 + fresh * 1.5e-6) + out, rel=0.001)
    read = (estimate.static * 3e-6 + 99 * estimate.static * 0.15e-6) + 100 * fresh * 1.5e-6 + out
    assert estimate.likely_usd == pytest.approx(read, rel=0.001)
    assert manifest["cost_usd"] < estimate.likely_usd < estimate.cost_usd / 8
    assert "tokens that all share are read from the cache" in caplog.text
    assert "(from length)" in caplog.text


def test_claudes_calls_are_kept_for_five_minutes(connect, context, tmp_path):
    """One by one: written $3.75, read $0.30, fresh $3, out $15 a million."""
    with Emulator() as emulator:
        operator = CompletionOperator(
            task_id="ask", conn_id=connect(emulator.url, "anthropic"), rows=ROWS[:20], keep_raw=True, concurrency=1,
            request=asked("claude-sonnet-4-5"), destination=f"file://{tmp_path}/out",
        )  # fmt: skip
        summary = operator.execute(context)
        assert not emulator.vendor.batches
    rows = [row for file in summary["files"] for row in read_jsonl(file)]
    usage = usage_of(rows)
    assert (usage["ephemeral_5m_input_tokens"], usage["ephemeral_1h_input_tokens"]) == (STATIC, 0)
    assert usage["cache_read_input_tokens"] == 19 * STATIC
    # 2,002 x 3.75 = $0.0075075; 38,038 x 0.30 = $0.0114114; uncached 40,040 x 3 = $0.12012
    manifest = manifest_of(summary)
    rest = usage["input_tokens"] * 3e-6 + usage["output_tokens"] * 15e-6
    assert manifest["cost_usd"] == pytest.approx(0.0075075 + 0.0114114 + rest)
    assert manifest["cache_saving_usd"] == pytest.approx(0.12012 - 0.0075075 - 0.0114114)


def test_openais_prompts_share_a_key(connect, context, tmp_path):
    """gpt-5-mini in a batch: fresh $0.125, read $0.0125, out $1 a million. The text is left in one piece."""
    with Emulator(duration=0.2) as emulator:
        summary, rows = run(
            context, connect(emulator.url), tmp_path, rows=ROWS, request=asked("gpt-5-mini"), fetch={"keep_raw": True}
        )
        bodies = [line["body"] for line in sent_by(emulator)]
    assert len({body["prompt_cache_key"] for body in bodies}) == 1
    assert all(body["messages"][1]["content"].startswith("Say row") for body in bodies)
    assert not any("prompt_cache_options" in body or "prompt_cache_retention" in body for body in bodies)
    usage = usage_of(rows)
    read = usage["cached_tokens"]
    assert read % 128 == 0
    assert read >= 99 * 1024
    manifest = manifest_of(summary)
    fresh = usage["prompt_tokens"] - read
    assert manifest["cost_usd"] == pytest.approx(
        fresh * 0.125e-6 + read * 0.0125e-6 + usage["completion_tokens"] * 1e-6
    )
    assert manifest["cache_saving_usd"] == pytest.approx(read * 0.1125e-6)


def test_from_gpt_5_6_on_nothing_is_written_in_vain(connect, context, tmp_path, capsys):
    """gpt-5.6-luna in a batch: fresh $0.10, read $0.01, written $0.125 a million. By itself each row's whole prompt is
    written and none is read, a quarter more than without a cache, which is told; marked, the static part is read."""
    with Emulator(duration=0.2) as emulator:
        conn_id = connect(emulator.url)
        request = asked("gpt-5.6-luna", cache=None)
        summary, rows = run(context, conn_id, tmp_path / "a", rows=ROWS, request=request, fetch={"keep_raw": True})
        usage, plain = usage_of(rows), manifest_of(summary)
        assert (usage["cached_tokens"], usage["cache_write_tokens"]) == (0, usage["prompt_tokens"])
        assert plain["cache_saving_usd"] == pytest.approx(-usage["prompt_tokens"] * 0.025e-6)
        assert "tokens were written to the vendor's cache and none read" in capsys.readouterr().out
        assert "caches cost $" in summary["message"]
        emulator.vendor.batches.clear()
        summary, rows = run(
            context, conn_id, tmp_path / "b", rows=ROWS, request=asked("gpt-5.6-luna"), fetch={"keep_raw": True}
        )
        bodies = [line["body"] for line in sent_by(emulator)]
    for body in bodies:
        assert body["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}
        head, tail = body["messages"][1]["content"]
        assert head == {"type": "text", "text": "Say ", "prompt_cache_breakpoint": {"mode": "explicit"}}
        assert tail["text"].startswith("row ")
    usage, manifest = usage_of(rows), manifest_of(summary)
    wrote, read = usage["cache_write_tokens"], usage["cached_tokens"]
    assert read == 99 * wrote
    fresh = usage["prompt_tokens"] - read - wrote
    assert manifest["cost_usd"] == pytest.approx(
        (fresh * 0.1 + read * 0.01 + wrote * 0.125 + usage["completion_tokens"] * 0.6) * 1e-6
    )
    assert manifest["cost_usd"] < plain["cost_usd"] / 3
    assert "were written to the vendor's cache" not in capsys.readouterr().out


WARNED = [
    ({"model": "claude-haiku-4-5"}, "about 2,0", "nothing below 4,096"),
    ({"system": "Be brief."}, "are the same in every row", "nothing below 1,024"),
    ({"system": None, "user": "{text}" + LONG}, "7,000 characters", "stand behind {text}"),
]


@pytest.mark.parametrize(("more", "says", "also"), WARNED)
def test_what_will_not_be_cached_is_told_before(connect, context, tmp_path, caplog, more, says, also):
    """Too short for the model; static text behind the first column. The limit, the value and what to do."""
    with Emulator(duration=0.1) as emulator:
        run(
            context, connect(emulator.url, "anthropic"), tmp_path, rows=ROWS[:2],
            request=asked(**{"model": "claude-sonnet-4-5", "max_tokens": 5000, **more}),
        )  # fmt: skip
    assert says in caplog.text
    assert also in caplog.text


REFUSED = [
    ({"cache": "2h"}, "give True, '5m', '1h', '24h' or False"),
    ({"cache": "24h"}, "Claude's caches are kept for 5m or 1h"),
    (
        {"system": None, "user": None, "messages": [{"role": "user", "content": "{text}", "cache_control": {}}]},
        "a mark of its own",
    ),
]


@pytest.mark.parametrize(("more", "says"), REFUSED)
def test_what_cannot_be_is_refused(connect, context, tmp_path, more, says):
    """Before anything is sent."""
    with Emulator(duration=0.1) as emulator:
        with pytest.raises(InputError, match=says):
            run(
                context, connect(emulator.url, "anthropic"), tmp_path, rows=ROWS[:2],
                request=asked("claude-sonnet-4-5", **more),
            )  # fmt: skip
        assert not emulator.vendor.batches
