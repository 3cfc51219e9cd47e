"""Synchronous calls beside LiteLLM's: time, CPU and memory, against one server in another process.

    python tests/benchmarks/online.py
    python tests/benchmarks/online.py --calls 200000 --only ours

Every contender runs in a process of its own: 2,000 calls that take 50 ms each, a hundred at once. Ideal is the calls'
time divided by how many run at once. LiteLLM is left out where it is not installed. Then one row to two models, of
which one takes three seconds: how long the first good answer takes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import table

SERVER = """
import asyncio, json, sys
def answer(model):
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    told = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
    body = json.dumps(told).encode()
    head = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n"
    return head % len(body) + body
class Model(asyncio.Protocol):
    asked = 0
    def connection_made(self, transport):
        self.transport, self.read = transport, b""
    def data_received(self, data):
        self.read += data
        head, _, rest = self.read.partition(b"\\r\\n\\r\\n")
        size = int(head.lower().partition(b"content-length:")[2].split(b"\\r\\n")[0] or 0)
        if _ and head.startswith(b"GET"):
            told = b"%d" % Model.asked
            self.read = b""
            self.transport.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n%b" % (len(told), told))
        elif _ and len(rest) >= size:
            Model.asked += 1
            self.read = rest[size:]
            model = json.loads(rest[:size])["model"]
            late = 3.0 if model.startswith("slow") else float(sys.argv[1])
            asyncio.get_running_loop().call_later(late, self.transport.write, answer(model))
async def main():
    server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def model_server(latency: float) -> Iterator[str]:
    """A server whose calls take so many seconds, in a process of its own; a GET tells how many it has had."""
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(latency)], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"  # type: ignore[union-attr]
    finally:
        server.terminate()
        server.wait()


def ours(url: str, calls: int, at_once: int, models: list[str] | None = None) -> None:
    from types import SimpleNamespace

    from airflow_llm_batch.data import ChatRequest
    from airflow_llm_batch.jobs.online import online
    from airflow_llm_batch.jobs.online.race import Race
    from airflow_llm_batch.operators import CompletionOperator

    connection = {"conn_type": "llmbatch", "host": url, "password": "key-1", "extra": {"provider": "openai"}}
    os.environ["AIRFLOW_CONN_BENCH"] = json.dumps(connection)
    home = Path(os.environ["AIRFLOW_HOME"])
    source = home / "rows.jsonl"
    source.write_text("".join(f'{{"text": "hello {n}"}}\n' for n in range(calls)))
    task = CompletionOperator(
        task_id="bench", conn_id="bench", rows=f"file://{source}", request=ChatRequest("gpt-5-mini", max_tokens=50),
        destination=f"file://{home}/out", storage=f"file://{home}/jobs", concurrency=at_once,
        **({"models": models, "strategy": "fastest"} if models else {}),
    )  # fmt: skip
    clock = Clock()
    target = Race if models else online.Online
    real = target.run

    def run(self: object) -> None:
        clock.start()
        real(self)  # type: ignore[arg-type]
        clock.stop()

    target.run = run  # type: ignore[method-assign]
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="bench", map_index=-1)
    began = time.process_time()
    summary = task.execute({"ti": ti})
    assert summary["counts"]["succeeded"] == calls
    clock.tell(whole=time.process_time() - began)


def litellm(url: str, calls: int, at_once: int, models: list[str] | None = None) -> None:
    import litellm as peer

    peer.suppress_debug_info = True
    peer.telemetry = False
    options = {"api_base": f"{url}/v1", "api_key": "key-1", "max_tokens": 50}
    conversations = [[{"role": "user", "content": f"hello {n}"}] for n in range(calls)]
    warm = {"model": "openai/gpt-5-mini", **options}
    peer.completion(messages=conversations[0], **warm)
    clock = Clock()
    clock.start()
    if models:
        peer.batch_completion_models(models=[f"openai/{m}" for m in models], messages=conversations[0], **options)
    else:
        answers = peer.batch_completion(messages=conversations, max_workers=at_once, **warm)
        assert all(answer.choices[0].message.content == "hello" for answer in answers)
    clock.stop()
    clock.tell()


class Clock:
    def start(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu

    def tell(self, **more: float) -> None:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"wall": self.wall, "cpu": self.cpu, "peak": peak, **more}))


def measured(name: str, url: str, calls: int, at_once: int, models: list[str] | None = None) -> dict | None:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "AIRFLOW_HOME": home}
        command = [
            sys.executable,
            __file__,
            "--as",
            name,
            "--url",
            url,
            "--calls",
            str(calls),
            "--at-once",
            str(at_once),
        ]
        command += ["--models", *models] if models else []
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        if "No module named 'litellm'" in done.stderr:
            return None
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=100)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds a call takes")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each contender; the best counts")
    parser.add_argument("--only", choices=["ours", "litellm"])
    parser.add_argument("--as", dest="name", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--models", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.name:
        {"ours": ours, "litellm": litellm}[given.name](given.url, given.calls, given.at_once, given.models)
        return
    with model_server(given.latency) as url:
        ideal = given.calls * given.latency / given.at_once
        rows = []
        for name in [given.only] if given.only else ["ours", "litellm"]:
            runs = [measured(name, url, given.calls, given.at_once) for _ in range(given.repeat)]
            if None in runs:
                print(f"{name} is not installed")
                continue
            best = min(runs, key=lambda run: run["wall"])
            race = alone = {"wall": 0.0}
            if not given.only:
                race = measured(name, url, 1, 10, ["gpt-5-mini", "slow-model"])
                alone = measured(name, url, 1, 10)
            walls = [alone["wall"], race["wall"]]
            rows.append([name, best["wall"], best["wall"] / ideal, best["cpu"], best["peak"], *walls])
        if len(rows) > 1:
            print(f"CPU of ours: {rows[0][3] / rows[1][3]:.2f} of LiteLLM's")
        print(f"{given.calls:,} calls of {given.latency * 1000:.0f} ms, {given.at_once} at once: ideally {ideal:.2f} s")
        shown = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
        print(table(["", "wall s", "x ideal", "CPU s", "peak MB", "fast model, s", "fastest of two, s"], shown))


if __name__ == "__main__":
    main()
