"""Vendors of OpenAI's kind that tell with an answer what they have charged for it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec

from airflow_llm_batch.providers.coerce import members
from airflow_llm_batch.providers.openai.protocol import FileOptions
from airflow_llm_batch.providers.presets.kin import Kin
from airflow_llm_batch.results import Result


class Charging(Kin):
    """Its answers tell it in their usage."""

    options: FileOptions

    def read(self, line: bytes) -> Result:
        result = super().read(line)
        if result.cost_usd is None:
            result.cost_usd = self.charged(members(member_of_body(line, "usage")))
        return result

    @abstractmethod
    def charged(self, usage: Mapping[str, Any]) -> float | None:
        """Dollars that were charged, as a usage says; None where it does not."""


class Response(msgspec.Struct):
    body: dict[str, msgspec.Raw]


class Line(msgspec.Struct):
    response: Response


decode_line = msgspec.json.Decoder(Line).decode


def member_of_body(line: bytes, name: str) -> Any:
    """A member of the body in a result line, None where there is none; the others are not looked at."""
    try:
        value = decode_line(line).response.body.get(name)
        return None if value is None else msgspec.json.decode(value)
    except (ValueError, RecursionError):
        return None
