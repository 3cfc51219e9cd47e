"""The pages in a whole running Airflow, driven by a browser as people would: log in, look, filter, open, cancel.

Screenshots are left in ``tests/ui/screenshots`` for people to look at.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from support import TESTS
from support.partitioned import STATES, make_set

from airflow_llm_batch import demo, demo_processes, links
from airflow_llm_batch.data import ChatRequest
from airflow_llm_batch.emulator import Emulator
from airflow_llm_batch.links import job_page
from airflow_llm_batch.operators import FetchResultsOperator, SubmitBatchOperator
from airflow_llm_batch.sensors import BatchSensor

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(580),
    pytest.mark.skipif(CHROMIUM is None, reason="no browser was found: apt-get install chromium"),
]
SHOTS = TESTS / "ui" / "screenshots"
DAG = "nightly_review_labels"
USERS = {"admin": "admin", "viewer": "viewer", "outsider": "viewer"}
PARTS = ("api-server", "scheduler", "dag-processor", "triggerer")
NASTY = "<img src=x onerror=\"document.title='owned'\">"


class Site:
    """A running Airflow with an emulator of the vendor beside it."""

    def __init__(self, url, emulator, storage):
        self.url, self.emulator, self.storage = url, emulator, storage
        self.api = httpx.Client(base_url=url, timeout=30)
        token = self.api.post("/auth/token", json={"username": "admin", "password": "pw-admin"}).json()
        self.api.headers["authorization"] = f"Bearer {token['access_token']}"

    def trigger(self, dag_id=DAG, **conf):
        self.api.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()
        run = self.api.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": conf})
        run.raise_for_status()
        return run.json()["dag_run_id"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """api-server, scheduler, triggerer and dag-processor; three users; an empty job store."""
    home = tmp_path_factory.mktemp("airflow")
    with Emulator(duration=20, faults={"row_errors": 0.02}) as emulator:
        port = demo.free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        environment = demo.airflow_environment(home) | demo.connections("openai", emulator.url, None)
        environment |= demo.api_environment(port)
        environment = inherited | {k: v for k, v in environment.items() if k.startswith("AIRFLOW") or k == "PATH"}
        (home / "passwords.json").write_text(json.dumps({user: f"pw-{user}" for user in USERS}))
        connection = json.loads(environment["AIRFLOW_CONN_LLM_BATCH_DEFAULT"])
        connection["extra"]["budget"] = {"month": 5}
        environment["AIRFLOW_CONN_LLM_BATCH_DEFAULT"] = json.dumps(connection)
        environment |= {
            "PYTHONPATH": str(TESTS / "ui"),
            "AIRFLOW__CORE__AUTH_MANAGER": "llm_batch_test_auth.PerDagAuthManager",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        log = home / "airflow.log"
        with log.open("wb") as output:
            options = {"env": environment, "stdout": output, "stderr": output, "start_new_session": True}
            airflow = [sys.executable, "-m", "airflow"]
            subprocess.run([*airflow, "db", "migrate"], check=True, **options)
            # Not as "standalone", which insists on the simple auth manager itself.
            processes = [subprocess.Popen([*airflow, part], **options) for part in PARTS]
        try:
            yield started(processes, f"http://127.0.0.1:{port}", emulator, f"file://{home}/jobs", log)
        finally:
            for process in processes:
                demo_processes.end([process.pid], process)


def started(processes, url, emulator, storage, log):
    for _ in range(240):
        assert not any(process.poll() for process in processes), log.read_text(errors="replace")[-3000:]
        try:
            site = Site(url, emulator, storage)
            if site.api.get(f"/api/v2/dags/{DAG}").status_code == 200:
                return site
        except (httpx.TransportError, KeyError, ValueError):
            pass
        time.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        # CI runs as root, where Chromium's own sandbox cannot.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """One user's browser window."""

    def __init__(self, browser, site, user, scheme="light"):
        self.site = site
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=scheme)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.errors = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(site.url)
        self.page.fill("input[name=username]", user)
        self.page.fill("input[name=password]", f"pw-{user}")
        self.page.click("button[type=submit]")
        self.page.get_by_role("link", name="Batches", exact=True).first.wait_for()

    def open(self):
        """The pages, by Airflow's own navigation."""
        self.page.get_by_role("link", name="Batches", exact=True).first.click()
        self.frame = self.page.frame_locator("iframe")
        self.frame.get_by_role("heading", name="LLM batches").wait_for()
        return self.frame

    def open_page(self, address):
        """A job's page by its link; where that is not in Airflow's frame it is a page of its own."""
        self.page.goto(self.site.url + urlsplit(address).path)
        return self.page.frame_locator("iframe") if links.frame_is_linked() else self.page

    def row(self, run_id):
        return self.frame.locator(f'tr[data-job="{DAG}/{run_id}/submit/-1"]')

    def shoot(self, name):
        self.page.screenshot(path=SHOTS / f"{name}.png")


def wait_for(check, seconds=120, every=0.5):
    deadline = time.time() + seconds
    while time.time() < deadline:
        if (value := check()) is not None:
            return value
        time.sleep(every)
    raise AssertionError(f"not within {seconds} seconds")


def test_the_pages_from_an_empty_store_to_a_cancelled_job(site, browser):
    """The whole way that a user goes."""
    admin = Visit(browser, site, "admin")
    frame = admin.open()
    frame.get_by_text("No LLM batches yet.").wait_for()
    admin.shoot("1-empty")

    # A running job's bar moves to done, and the page needs no reloading.
    run_id = site.trigger(reviews=1200, data=f"{site.storage}-data")
    row = admin.row(run_id)
    row.wait_for(timeout=120_000)
    bar = row.get_by_role("progressbar")
    seen = set()

    def moved():
        seen.add(int(bar.get_attribute("aria-valuenow")))
        return True if row.locator(".badge").inner_text() == "landed with failures" else None

    frame.locator(".badge.running").first.wait_for(timeout=60_000)
    admin.shoot("2-running")
    wait_for(moved)
    assert max(seen) == 1200
    assert len(seen) >= 3, seen
    assert "1,200 / 1,200 rows" in row.inner_text()
    assert "saved" in row.inner_text()

    # Filters: what does not fit goes, what fits stays.
    frame.get_by_label("State").select_option("running")
    frame.get_by_text("No job fits these filters.").wait_for()
    if links.frame_is_linked():
        # What is chosen is in the address bar, which brings it back.
        admin.page.wait_for_url("**/plugin/llm-batches/llm-batches/?state=running")
        admin.page.reload()
        frame.get_by_text("No job fits these filters.").wait_for()
    frame.get_by_role("button", name="Clear").click()
    frame.get_by_label("Search").fill("nothing is called so")
    frame.get_by_label("Search").press("Enter")
    frame.get_by_text("No job fits these filters.").wait_for()
    frame.get_by_label("Search").fill("nightly gpt")
    frame.get_by_label("Search").press("Enter")
    row.wait_for()
    frame.get_by_label("DAG").select_option(DAG)
    row.wait_for()
    frame.get_by_role("button", name="Dollars").click()
    frame.get_by_role("button", name="Dollars", pressed=True).wait_for()
    # What is left of a budget that spans jobs, spent by now.
    budget = frame.get_by_role("row", name="connection 'llm_batch_default'")
    assert "$5.00" in budget.inner_text()
    assert "0.0% reserved" in budget.get_by_role("img").get_attribute("aria-label")
    admin.shoot("3-landed")

    # The job's page: batches, counts, the failed rows with their reasons, files.
    # A click anywhere in the row.
    bar.click()
    frame.get_by_role("heading", name="Rows that failed").wait_for()
    frame.locator("tr[data-row]").first.wait_for()
    text = frame.locator("main").inner_text()
    assert "server_error" in text
    assert "succeeded" in text
    assert "Landed files" in text
    assert "tried first, one by one" in text
    frame.get_by_role("heading", name="Tried first").wait_for()
    frame.get_by_text("Request as it was sent").first.click()
    frame.locator("details[open] pre", has_text="custom_id").first.wait_for()
    batch_id = frame.locator("td.mono", has_text="batch_").first.inner_text().split()[0]
    assert batch_id in site.emulator.vendor.batches
    # The rows: how the answers spread, those behind a bar, one by its key, its request, and what the vendor said.
    bars = frame.locator("[data-field=sentiment] button")
    value = bars.first.inner_text()
    bars.first.click()
    frame.locator("tr[data-row]", has_text=value).first.wait_for()
    assert frame.get_by_label("is").input_value() == value
    admin.shoot("4-answers")
    frame.locator("#answers-next").click()
    frame.get_by_text("11 to 20").first.wait_for()
    frame.get_by_role("button", name="Clear").click()
    row_key = frame.locator("tr[data-row] td.mono").nth(3).inner_text().split("\n")[0]
    frame.get_by_label("Key").fill(row_key)
    frame.get_by_label("Key").press("Enter")
    wait_for(lambda: True if frame.locator("tr[data-row]").count() == 1 else None)
    frame.locator("tr[data-row]").get_by_text("Request as it was sent").click()
    frame.locator("tr[data-row] pre", has_text="custom_id").first.wait_for()
    frame.get_by_text("Answer as it came").first.click()
    frame.locator("details[open] pre", has_text="server_error").first.wait_for()
    frame.get_by_role("button", name=f"Copy {batch_id}").click()
    frame.get_by_text("Copied").wait_for()
    assert admin.page.evaluate("navigator.clipboard.readText()") == batch_id
    admin.shoot("4-job")

    # Out of the frame, to the task and its logs, and back in by the tab on the DAG run.
    frame.get_by_role("link", name="Task and logs").click()
    admin.page.wait_for_url(f"**/dags/{DAG}/runs/**/tasks/submit**")
    admin.page.goto(f"{site.url}/dags/{DAG}/runs/{run_id}/plugin/llm-batches-run")
    tab = admin.page.frame_locator("iframe")
    tab.get_by_role("link", name=DAG).wait_for()
    admin.shoot("5-run-tab")

    # A job that runs for long is cancelled, after a question.
    site.emulator.vendor.settings.duration = 600
    long_run = site.trigger(reviews=600, data=f"{site.storage}-data")
    frame = admin.open()
    admin.row(long_run).locator(".badge.running").wait_for(timeout=120_000)
    viewer = Visit(browser, site, "viewer")
    viewer.open()
    viewer.row(long_run).get_by_role("link", name=DAG).click()
    viewer.frame.get_by_text("Batches", exact=True).wait_for()
    assert viewer.frame.locator("#cancel-job").count() == 0
    viewer.shoot("6-viewer")

    admin.row(long_run).get_by_role("link", name=DAG).click()
    frame.get_by_role("button", name="Cancel job").click()
    frame.get_by_role("dialog").wait_for()
    admin.shoot("7-cancel")
    frame.get_by_role("button", name="Keep running").click()
    ours = [batch for batch in site.emulator.vendor.batches.values() if batch.duration == 600]
    assert ours
    assert not any(batch.cancelled_at for batch in ours)
    frame.get_by_role("button", name="Cancel job").click()
    frame.get_by_role("button", name="Cancel the batches").click()
    frame.get_by_text("was asked for").wait_for()
    assert all(batch.cancelled_at for batch in ours)
    for batch in ours:
        batch.cancelled_at -= 600
    wait_for(
        lambda: (
            True
            if "cancelled" in frame.locator("main").inner_text() and frame.locator("#cancel-job").count() == 0
            else None
        )
    )
    admin.shoot("8-cancelled")

    # Narrow: nothing lies beyond the edge. And the link of the task's button opens it in Airflow's frame.
    admin.page.set_viewport_size({"width": 390, "height": 844})
    narrow = admin.open_page(job_page(f"{site.storage}/{DAG}/{run_id}/submit/-1"))
    narrow.locator("tr[data-row]").first.wait_for()
    edges = narrow.locator("html").evaluate("html => [html.scrollWidth, html.clientWidth]")
    assert edges[0] <= edges[1]
    admin.shoot("8-narrow")

    # Somebody who may not see the DAG gets neither row nor button.
    outsider = Visit(browser, site, "outsider")
    outsider.open()
    outsider.frame.get_by_text("No LLM batches yet.").wait_for()
    assert outsider.frame.locator("tr[data-job]").count() == 0
    outsider.page.goto(f"{site.url}/llm-batches/job/{DAG}/{run_id}/submit/-1")
    outsider.page.get_by_role("alert").get_by_text("not yours to see").wait_for()
    assert outsider.page.locator("button", has_text="Cancel").count() == 0
    outsider.shoot("9-outsider")
    assert admin.errors == viewer.errors == outsider.errors == []


def test_what_rows_say_stays_text_on_the_page_in_dark_too(site, browser, monkeypatch):
    """HTML in a key, a prompt and an error message is shown and not run; dark as Airflow's own."""
    connection = {
        "conn_type": "llmbatch",
        "host": site.emulator.url,
        "password": "k-12345",
        "extra": {"provider": "openai"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_NASTY", json.dumps(connection))
    site.emulator.vendor.settings.duration = 0
    site.emulator.faults(row_errors=1)
    ti = SimpleNamespace(dag_id=DAG, run_id="nasty", task_id="submit", map_index=-1)
    asked = {"rows": [{"id": NASTY, "text": NASTY}], "key": "id", "conn_id": "nasty", "storage": site.storage}
    request = ChatRequest("gpt-5-mini", system=NASTY, user="{text}", max_tokens=9)
    job = SubmitBatchOperator(task_id="submit", request=request, **asked).execute({"ti": ti})
    job = BatchSensor(task_id="w", job=job, deferrable=False, poke_interval=0.1).execute({"ti": ti})
    fetch = FetchResultsOperator(task_id="f", job=job, destination=f"{site.storage}-data/nasty", fail_on="none")
    fetch.execute({"ti": ti})
    admin = Visit(browser, site, "admin", scheme="dark")
    frame = admin.open()
    admin.row("nasty").get_by_role("link", name=DAG).click()
    frame.get_by_role("heading", name="Rows that failed").wait_for()
    frame.get_by_text("Request template").click()
    assert NASTY in frame.locator("td.mono.wrap").first.inner_text().replace('\\"', '"')
    assert frame.locator("main img").count() == 0
    assert "owned" not in (admin.page.title(), frame.locator("html").evaluate("() => document.title"))
    background = frame.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert max(int(part) for part in background.strip("rgba()").split(",")[:3]) < 60
    admin.shoot("10-dark")
    assert admin.errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_set_of_partitions_opens_to_its_map_and_sums(site, browser, monkeypatch, scheme):
    """One line, clicked: a cell for each of 64 partitions, sums by state with what to do, and lines of those chosen."""
    monkeypatch.setenv("AIRFLOW__LLM_BATCH__STORAGE", site.storage)
    connection = {"conn_type": "llmbatch", "host": site.emulator.url, "password": "k", "extra": {"provider": "openai"}}
    monkeypatch.setenv("AIRFLOW_CONN_PARTS", json.dumps(connection))
    run_id, rows = f"set-{scheme}", site.storage.removeprefix("file://") + f"-{scheme}"
    os.makedirs(rows)
    make_set(site.emulator, "parts", site.storage, rows, DAG, run_id)
    admin = Visit(browser, site, "admin", scheme=scheme)
    frame = admin.open()
    line = frame.locator(f'tr[data-job="{DAG}/{run_id}/ask/partitions-64"]')
    line.wait_for()
    assert "64 partitions, 48 landed" in line.inner_text()
    assert "4 over budget" in line.inner_text()
    frame.get_by_label("Search").fill(run_id)
    frame.get_by_label("Search").press("Enter")
    wait_for(lambda: True if frame.locator("tr[data-job]").count() == 1 else None)
    line.get_by_role("button", name=DAG).click()
    frame.locator("tr.part").first.wait_for()
    # All that are not simply landed have a line, in their order.
    lines = frame.locator("tr.part .name").all_inner_texts()
    assert len(lines) == sum(STATES.values()) - STATES["landed"]
    assert lines == sorted(lines, key=lambda name: int(name.split()[1].split("/")[0]))
    cells = frame.locator(".map .cell")
    assert cells.count() == 64
    for state, count in {**STATES, "none": 64 - sum(STATES.values())}.items():
        assert frame.locator(f".map .cell.{state}").count() == count, state
    sums = frame.locator(".sums")
    for text in ("above max_cost=$0.001000", "clear their tasks", "FailedRows", "have not run yet"):
        assert text in sums.inner_text()
    admin.shoot(f"11-set-{scheme}")
    # One state alone, and all again.
    only = sums.get_by_role("button", name="over budget")
    only.click()
    sums.get_by_role("button", name="over budget", pressed=True).wait_for()
    assert frame.locator("tr.part .badge").all_inner_texts() == ["over budget"] * STATES["over_budget"]
    sums.get_by_role("button", name="landed", exact=True).click()
    sums.get_by_role("button", name="landed", exact=True, pressed=True).wait_for()
    assert frame.locator("tr.part").count() == STATES["landed"]
    # Narrow, nothing lies beyond the edge; what there is no room for a head above says what it counts.
    admin.page.set_viewport_size({"width": 390, "height": 844})
    sums.get_by_text("40 partitions").wait_for()
    edges = frame.locator("html").evaluate("html => [html.scrollWidth, html.clientWidth]")
    assert edges[0] <= edges[1]
    frame.locator("html").evaluate("() => document.querySelector('.map').scrollIntoView()")
    admin.shoot(f"12-set-narrow-{scheme}")
    admin.page.set_viewport_size({"width": 1400, "height": 900})
    # A cell leads to its partition, which says why it was not sent.
    frame.locator(".map .cell.over_budget").first.click()
    frame.get_by_role("status").get_by_text("above max_cost=").wait_for()
    admin.shoot(f"13-over-budget-{scheme}")
    frame.get_by_role("link", name="LLM batches").click()
    line.wait_for()
    # It is closed by whom it was opened.
    line.get_by_role("button", name=DAG).click()
    line.locator("button[aria-expanded=true]").wait_for()
    frame.locator("tr.part").first.wait_for()
    line.get_by_role("button", name=DAG).click()
    line.locator("button[aria-expanded=false]").wait_for()
    assert frame.locator("tr.part").count() == 0
    assert admin.errors == []
