"""``python -m airflow_llm_batch.emulator --port 8089``"""

from __future__ import annotations

import argparse
import sys

import uvicorn

from airflow_llm_batch.emulator.app import create_app
from airflow_llm_batch.emulator.settings import Faults, Settings


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_llm_batch.emulator",
        description="A local server that speaks the vendors' batch APIs. Listens on 127.0.0.1.",
    )
    parser.add_argument("--port", type=int, default=8089)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds from a batch's creation to its end")
    parser.add_argument("--api-key", help="the only key to accept; any by default")
    parser.add_argument("--upstream", help="base URL of an OpenAI-compatible server that is to answer every request")
    parser.add_argument("--upstream-key", default="none")
    parser.add_argument("--upstream-concurrency", type=int, default=16)
    parser.add_argument("--s3-endpoint", help="S3 server of Bedrock's jobs; what boto3 finds in the environment else")
    parser.add_argument("--bedrock-minimum", type=int, default=100, help="records that Bedrock's jobs have at least")
    parser.add_argument(
        "--faults",
        default="{}",
        help='what goes wrong, as JSON: {"row_errors": 0.01, "shuffle": true, "http": [{"on": "POST /v1/batches", '
        '"cut": "after"}]}; can be replaced while running with PUT /_emulator/faults',
    )
    parser.add_argument("--webhook-url", help="where an event is sent when a batch has ended")
    parser.add_argument("--webhook-secret", default=Settings().webhook_secret, help="what signs it")
    given = parser.parse_args()
    settings = Settings(
        duration=given.duration,
        api_key=given.api_key,
        upstream=given.upstream,
        upstream_key=given.upstream_key,
        upstream_concurrency=given.upstream_concurrency,
        webhook_url=given.webhook_url,
        webhook_secret=given.webhook_secret,
        s3_endpoint=given.s3_endpoint,
        bedrock_minimum=given.bedrock_minimum,
        faults=Faults.model_validate_json(given.faults),
    )
    sys.stderr.write(
        f"OpenAI base URL http://127.0.0.1:{given.port}/v1, Anthropic base URL http://127.0.0.1:{given.port}; "
        f"batches take {given.duration:g} s; any key does unless --api-key says otherwise.\n"
    )
    app = create_app(settings)
    try:
        uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")
    finally:
        app.state.vendor.close()


if __name__ == "__main__":
    main()
