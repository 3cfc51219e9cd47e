"""What OpenAI's models take, by their names; what one would refuse row by row is refused before anything is sent.

Only names that clearly match are judged, and only where OpenAI itself is asked: a gateway may know better.

Source: OpenAI's API reference and its pages of each model, the guides to reasoning models ("parameter
compatibility") and to structured outputs, and the messages of its 400s (``unsupported_parameter``,
``unsupported_value``) as openai-python's and LiteLLM's issues quote them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, NoReturn

from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.providers.coerce import members

#: models that refuse the old name of the token cap, wherever they are asked
REASONING = re.compile(r"(^|/)(o\d|gpt-[5-9]|codex)")
VERSION = re.compile(r"gpt-(\d+)(?:\.(\d+))?")
#: the first that refuses tools beside reasoning_effort in chat completions
NEEDS_RESPONSES = (5, 4)
#: served by the Responses API alone
RESPONSES_ONLY = re.compile(
    r"o\d-pro|gpt-5(\.\d+)?-pro|gpt-5(\.\d+)?-codex|codex-mini|o\d(-mini)?-deep-research|computer-use-preview"
)
#: reason about every request: sampling is not the caller's. From GPT-5.1 on that depends on the effort
ALWAYS_REASON = re.compile(r"o[134](?![a-z0-9])|gpt-5(?![.\w])(?!-chat)")
REASON_BY_EFFORT = re.compile(r"gpt-5\.\d+(?!\d)(?!.*chat)")
#: do not reason at all
NEVER_REASON = re.compile(r"gpt-3\.5|gpt-4(?![\w.])|gpt-4o|gpt-4\.1|chatgpt-4o")
#: older than structured outputs
NO_SCHEMA = re.compile(r"gpt-3\.5|gpt-4(?![\w.])|gpt-4o-2024-05-13|o1-mini|o1-preview")
#: parameters that a reasoning model refuses, and the value that asks for nothing
FIXED: dict[str, Any] = {
    "temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False,
    "top_logprobs": None, "logit_bias": {},
}  # fmt: skip
#: those of them that are the caller's again where GPT-5.1 and later do not reason
SAMPLING = frozenset({"temperature", "top_p", "logprobs", "top_logprobs"})
#: refuse stop sequences
NO_STOP = re.compile(r"o3(?![a-z0-9])|o4-mini|gpt-5(?![.\w])(?!-chat)")

#: on OpenAI's price list of flex, dated names included; and those that only its other lists have
FLEX = re.compile(
    r"(o3|o4-mini|gpt-5(\.[1245])?|gpt-5(\.4)?-(mini|nano)|gpt-5\.[45]-pro|gpt-5\.6-(luna|sol|terra)"
    r"|gpt-6-(astra|luna|sol)|gpt-6\.1-(sol|terra))(-\d{4}-\d{2}-\d{2})?"
)
NO_FLEX = re.compile(
    r"(gpt-3\.5|gpt-4|gpt-4\.1|gpt-4o|chatgpt-4o|o1|o3-mini|o3-pro|gpt-5-pro|gpt-5\.2-pro|gpt-5\.3-codex)(-.+)?"
)


def takes_flex(model: str) -> bool | None:
    """Whether OpenAI's price list has flex for a model; None for a model that it does not have, as tuned ones."""
    if "ft:" in model:
        return None
    name = plain_name(model)
    return True if FLEX.fullmatch(name) else False if NO_FLEX.fullmatch(name) else None


def refuse(what: str, remedy: str) -> NoReturn:
    raise InputError(f"{what}; {remedy}. Nothing was sent.")


class Traits(NamedTuple):
    """What is known of a model.

    :ivar sampled: whether sampling parameters are taken: True, False, or None where it depends on the effort.
    """

    responses_only: bool
    sampled: bool | None
    efforts: bool
    schemas: bool
    stops: bool
    version: tuple[int, int]


@cache
def traits(model: str) -> Traits:
    name = plain_name(model)
    version = VERSION.match(name)
    by_effort = REASON_BY_EFFORT.match(name) is not None
    return Traits(
        responses_only=RESPONSES_ONLY.match(name) is not None,
        sampled=None if by_effort else ALWAYS_REASON.match(name) is None,
        efforts=NEVER_REASON.match(name) is None,
        schemas=NO_SCHEMA.match(name) is None,
        stops=NO_STOP.match(name) is None,
        version=(int(version[1]), int(version[2] or 0)) if version else (0, 0),
    )


def plain_name(model: str) -> str:
    """The model's own name: ``openai/gpt-4o`` and ``ft:gpt-4o:org::id`` are gpt-4o."""
    return model.rpartition("/")[2].removeprefix("ft:").partition(":")[0]


def effort_of(body: Mapping[str, Any]) -> Any:
    return body.get("reasoning_effort") or members(body.get("reasoning")).get("effort")


def needs_responses(body: Mapping[str, Any], direct: bool) -> bool:
    """Whether a model takes this conversation in the Responses API only.

    :param direct: OpenAI itself is asked.
    """
    known = traits(str(body.get("model") or ""))
    if direct and known.responses_only:
        return True
    return bool(body.get("tools")) and effort_of(body) not in (None, "none") and known.version >= NEEDS_RESPONSES


def check_api(model: str) -> None:
    """:raises InputError: for a model that chat completions do not have."""
    if traits(model).responses_only:
        refuse(f"{model} is served by the Responses API alone", "leave api out, or give api='responses'")


def fitted_to_model(body: dict[str, Any]) -> dict[str, Any]:
    """A body of either API without what its model refuses and nobody misses; the same object where there is none.

    :raises InputError: names the parameter that the model refuses.
    """
    model = str(body.get("model") or "")
    known, effort = traits(model), effort_of(body)
    if effort is not None and not known.efforts:
        refuse(f"{model} does not reason and refuses a reasoning effort", "remove it, or choose a reasoning model")
    if not known.schemas:
        check_schema(body, model)
    if not known.stops and body.get("stop"):
        refuse(f"{model} refuses 'stop'", "remove it")
    refused: Callable[[str], bool] = FIXED.__contains__
    if known.sampled is None:
        # Without an effort their default counts, which is another from model to model.
        if effort in (None, "none"):
            return body
        refused = SAMPLING.__contains__
    elif known.sampled:
        return body
    useless = set()
    for name in filter(refused, body):
        if body[name] is not None and body[name] != FIXED[name]:
            why = "reasons" if known.sampled is False else f"reasons (effort {effort!r})"
            refuse(f"{model} {why} and refuses {name}={body[name]!r}", "remove it")
        useless.add(name)
    return {name: value for name, value in body.items() if name not in useless} if useless else body


def check_schema(body: Mapping[str, Any], model: str) -> None:
    wanted = members(body.get("response_format")) or members(members(body.get("text")).get("format"))
    if wanted.get("type") == "json_schema":
        refuse(
            f"{model} is older than structured outputs and refuses a JSON schema",
            "choose gpt-4o-mini or a later model, or leave output out and ask for JSON "
            "(params={'response_format': {'type': 'json_object'}})",
        )
