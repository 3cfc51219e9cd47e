"""Lines of Azure's batch files, where they are not OpenAI's: what is wrong with them, and what is answered.

Source: Microsoft's how-to of Azure OpenAI batches (error codes, known issues, sample output), and its content filter's
reference.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

from airflow_llm_batch.emulator.batches import EmulatedBatch, StoredFile, Vendor
from airflow_llm_batch.emulator.openai_lines import answer_line, response_line, validate

MOST_REQUESTS = 100_000
#: a prompt that holds this does not pass the content filter
FILTERED = "[does not pass the filter]"
NO_DEPLOYMENT = (
    "Validation failed: A valid model deployment name couldn't be extracted from the input file. Please ensure that "
    "each row in the input file has a valid deployment name specified in the 'model' field, and that the deployment "
    "name is consistent across all rows."
)


def endpoint_of(url: str) -> str:
    """An endpoint as OpenAI spells it: Azure takes it without its version as well."""
    return url if url.startswith("/v1/") else f"/v1{url}"


def check_lines(vendor: Vendor, batch: EmulatedBatch, stored: StoredFile) -> None:
    """Look at the lines as Azure does after a create that succeeded."""
    with stored.path.open("rb") as file:
        marked = file.read(3) == codecs.BOM_UTF8
    validate(vendor, batch, stored.path, MOST_REQUESTS, endpoint_of)
    known = vendor.settings.deployments
    if marked:
        batch.problems[:] = [{"code": "invalid_request", "message": NO_DEPLOYMENT, "line": None, "param": None}]
    elif batch.model is not None and known is not None and batch.model not in known:
        message = f"The provided model deployment '{batch.model}' does not exist."
        batch.problems.insert(0, {"code": "model_not_found", "message": message, "line": None, "param": None})
    elif [problem["code"] for problem in batch.problems] == ["empty_file"] and stored.path.stat().st_size:
        batch.problems[0]["code"] = "empty_batch"


def answered_line(vendor: Vendor, line: dict[str, Any], unfinished: str | None) -> tuple[bool, dict[str, Any]]:
    """The answer to a batch line: it has no id of its own."""
    if unfinished is None and FILTERED in json.dumps(line["body"]):
        answer: tuple[bool, dict[str, Any]] = False, response_line(line["custom_id"], 400, filtered())
    else:
        name = line["body"].get("model")
        body = {**line["body"], "model": (vendor.settings.deployments or {}).get(name, name)}
        answer = answer_line({**line, "body": body}, unfinished)
        spell(answer[1].get("response") and answer[1]["response"]["body"], name)
    return answer[0], {key: value for key, value in answer[1].items() if key != "id"}


def filtered() -> dict[str, Any]:
    """The refusal of a prompt."""
    verdict = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual")}
    verdict["violence"] = {"filtered": True, "severity": "medium"}
    message = (
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please "
        "modify your prompt and retry."
    )
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": verdict}
    return {
        "error": {
            "message": message, "type": None, "param": "prompt", "code": "content_filter", "status": 400,
            "innererror": inner,
        }
    }  # fmt: skip


def spell(body: Any, deployment: Any) -> None:
    """An answer as Azure writes it: with the filter's verdicts; the Responses API names the deployment as the model."""
    safe = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
    if not isinstance(body, dict) or body.get("error"):
        return
    if body.get("object") == "response":
        body["model"] = deployment
    for choice in body.get("choices") or ():
        choice["content_filter_results"] = safe
        body["prompt_filter_results"] = [{"prompt_index": 0, "content_filter_results": safe}]
