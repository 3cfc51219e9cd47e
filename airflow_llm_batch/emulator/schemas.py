"""Valid values for a JSON schema, the same ones for the same seed."""

from __future__ import annotations

import random
import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as sre_parser  # type: ignore[import-not-found]
from typing import Any

FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "12345678-1234-4234-8234-123456789abc",
}
WORDS = ("plain", "steady", "bright", "quiet", "fair", "brisk", "mild", "clear")


def fill_schema(schema: Any, seed: str) -> Any:
    """A value that fits ``schema``; optional properties are filled too."""
    return Filler(schema, random.Random(seed)).value(schema, 0)


class Filler:
    def __init__(self, root: Any, random: random.Random) -> None:
        self.root, self.random = root, random

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict):
            return "anything"
        if "$ref" in schema:
            return self.value(self.resolve(schema["$ref"]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self.random.choice(schema["enum"])
        for choice in ("anyOf", "oneOf"):
            if schema.get(choice):
                return self.value(self.choose(schema[choice], depth), depth)
        if schema.get("allOf"):
            merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
            for part in schema["allOf"]:
                part = self.resolve(part["$ref"]) if "$ref" in part else part
                merged = {
                    **merged,
                    **part,
                    "properties": {**merged.get("properties", {}), **part.get("properties", {})},
                }
            return self.value(merged, depth)
        kind = schema.get("type") or (
            "object" if "properties" in schema else "array" if "items" in schema else "string"
        )
        if isinstance(kind, list):
            kind = (
                next((k for k in kind if k != "null"), "null") if depth < 6 else ("null" if "null" in kind else kind[0])
            )
        return getattr(self, f"{kind}_value", lambda schema, depth: None)(schema, depth)

    def choose(self, choices: list[Any], depth: int) -> Any:
        """Deep down a recursive schema, the way out is taken; elsewhere a real value is preferred to null."""
        nulls = [c for c in choices if isinstance(c, dict) and c.get("type") == "null"]
        others = [c for c in choices if c not in nulls]
        if depth > 6 and nulls:
            return nulls[0]
        return self.random.choice(others or choices)

    def resolve(self, ref: str) -> Any:
        found = self.root
        for part in ref.removeprefix("#").strip("/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")] if part else found
        return found

    def object_value(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required = set(schema.get("required") or ())
        return {
            name: self.value(inner, depth + 1)
            for name, inner in (schema.get("properties") or {}).items()
            if name in required or depth < 6
        }

    def array_value(self, schema: dict[str, Any], depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
        count = max(least, min(most, 2 if depth < 6 else 0))
        items: list[Any] = []
        for attempt in range(count * 20):
            if len(items) == count:
                break
            prefix = schema.get("prefixItems") or []
            item = self.value(prefix[len(items)] if len(items) < len(prefix) else schema.get("items", {}), depth + 1)
            if not schema.get("uniqueItems") or item not in items or attempt > count * 18:
                items.append(item)
        return items

    def string_value(self, schema: dict[str, Any], depth: int) -> str:
        if "pattern" in schema:
            text = self.matching(schema["pattern"])
        else:
            text = FORMATS.get(schema.get("format", "")) or " ".join(self.random.choices(WORDS, k=2))
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        return text.ljust(least, "x")[:most] if "pattern" not in schema else text

    def integer_value(self, schema: dict[str, Any], depth: int) -> int:
        step = int(schema.get("multipleOf") or 1)
        low, high = bounds(schema, 1)
        return self.random.randint(-(-int(low) // step), int(high) // step) * step

    def number_value(self, schema: dict[str, Any], depth: int) -> float:
        low, high = bounds(schema, 1e-6)
        if step := schema.get("multipleOf"):
            return float(round(low / step + 0.5) * step)
        return min(max(round(self.random.uniform(low, high), 3), low), high)

    def boolean_value(self, schema: dict[str, Any], depth: int) -> bool:
        return self.random.random() < 0.5

    def matching(self, pattern: str) -> str:
        """A text the pattern matches; covers what schemas use: classes, repeats, groups, alternatives."""
        return "".join(self.token(op, arg) for op, arg in sre_parser.parse(pattern))

    def token(self, op: Any, arg: Any) -> str:
        if op is sre.LITERAL:
            return chr(arg)
        if op is sre.NOT_LITERAL:
            return "a" if arg != ord("a") else "b"
        if op is sre.ANY:
            return "a"
        if op is sre.IN:
            return self.member(arg)
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            least, most, inner = arg
            count = self.random.randint(least, min(most, least + 3))
            return "".join(self.token(*token) for _ in range(count) for token in inner)
        if op is sre.SUBPATTERN:
            return "".join(self.token(*token) for token in arg[3])
        if op is sre.BRANCH:
            return "".join(self.token(*token) for token in self.random.choice(arg[1]))
        return ""  # anchors and look-arounds take no room

    def member(self, options: list[Any]) -> str:
        if options[0][0] is sre.NEGATE:
            allowed = [chr(c) for c in range(48, 123) if not re.match(r"\W", chr(c))]
            return next(c for c in allowed if not any(matches(option, c) for option in options[1:]))
        op, arg = self.random.choice(options)
        if op is sre.RANGE:
            return chr(self.random.randint(*arg))
        if op is sre.CATEGORY:
            return {sre.CATEGORY_DIGIT: "7", sre.CATEGORY_SPACE: " "}.get(arg, "w")
        return chr(arg)


def matches(option: Any, character: str) -> bool:
    op, arg = option
    if op is sre.LITERAL:
        return bool(ord(character) == arg)
    if op is sre.RANGE:
        return bool(arg[0] <= ord(character) <= arg[1])
    return bool(op is sre.CATEGORY and arg is sre.CATEGORY_DIGIT and character.isdigit())


def bounds(schema: dict[str, Any], nudge: float) -> tuple[float, float]:
    low: float | None = schema.get("minimum")
    high: float | None = schema.get("maximum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + nudge
    if high is None and "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - nudge
    if low is None:
        low = 0 if high is None or high >= 0 else high - 100
    return low, low + 100 if high is None else high
