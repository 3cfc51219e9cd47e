"""The promise, with the process killed at every step it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import TESTS
from support.object_stores import absent

#: a task that is killed waits for nobody, and runs where a whole Airflow beside it leaves a processor idle
GIVES_WAY = ["nice", sys.executable]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "column",
    [
        "bedrock",
        "openai azure",
        "anthropic gemini",
        "vertex rounds",
        "waves tried",
        "cached table",
        "ladder",
        "groq together perplexity",
        "mistral openrouter",
        "xai fireworks",
        "anthropic-aws anthropic-google",
    ],
)
def test_killed_at_every_step_each_row_is_paid_and_landed_once(capsys, column):
    """SIGKILL before and after every file and request of every task, and every connection cut: the table is exact."""
    command = [*GIVES_WAY, str(TESTS / "killing" / "harness.py"), *column.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1450)
    known = ("provider", "Wanted", *column.split())
    table = [line for line in done.stdout.splitlines() if line.startswith(known)]
    summary = next(line for line in done.stdout.splitlines() if "points struck" in line)
    with capsys.disabled():
        print("\n" + "\n".join(table) + "\n" + summary)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(table) > 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_tries_at_once_pay_and_land_each_row_once(capsys):
    """Every lane and vendor, on one host and as if on two, side by side and with the first try frozen for a while."""
    command = [sys.executable, str(TESTS / "killing" / "twins.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850)
    lanes = ("lane", "submit", "wait", "fetch", "rounds", "online", "fastest", "finish_online", "Wanted", "models")
    table = [line for line in done.stdout.splitlines() if line.startswith(lanes)]
    with capsys.disabled():
        print("\n" + "\n".join(table) + "\n" + done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(table) > 56


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
def test_killed_at_requests_to_its_store_each_row_is_paid_and_landed_once(capsys, kind):
    """A sample of the requests that change something there; of uploads in parts none stays open."""
    if reason := absent(kind):
        pytest.skip(reason)
    command = [*GIVES_WAY, str(TESTS / "killing" / "stores.py"), kind, "--points", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850)
    table = [line for line in done.stdout.splitlines() if line.startswith(("store ", kind))]
    with capsys.disabled():
        print("\n" + "\n".join([*table, *done.stdout.splitlines()[-1:]]))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(table) == 12 + 3
