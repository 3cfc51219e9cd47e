"""JSON schemas, fitted to what a vendor's constrained decoding takes.

Every keyword only narrows what fits, so dropping one that a vendor does not know asks for a little more than was meant,
and the answer is validated when it is landed; what is dropped is told to the model in the description. What cannot be
asked for without losing answers (objects with properties of any name, say) does not fit: the schema is then sent
without constraint where the vendor has such a mode, and refused, naming keyword and place, where it has none.

Source: OpenAI's guide to structured outputs (supported schemas), Anthropic's (JSON schema limitations), Gemini's API
reference (``responseJsonSchema``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

#: what stands around a schema whose root is no object, which vendors want it to be
VALUE = "value"
#: how a reference names the whole schema
ROOT = ("#", "#/")
DEFINITIONS = ("$defs", "definitions")
#: keywords that say nothing of a value
ANNOTATIONS = frozenset(
    {"title", "examples", "example", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment", "$anchor"}
    | {"discriminator", "nullable", "default", "contentEncoding", "contentMediaType", "externalDocs", "xml"}
)
NAME = re.compile(r"[^a-zA-Z0-9_-]")
LOOK_AROUND = re.compile(r"\(\?(=|!|<[=!])")
NAMED_GROUP = re.compile(r"\(\?P?<[^=!]")
BACK_REFERENCE = re.compile(r"\\[1-9]|\(\?P=|\\k<")
WORD_BOUNDARY = re.compile(r"\\[bB]")


class Unfit(Exception):
    """A schema that a vendor's constrained decoding cannot take; says what and where."""

    def __init__(self, keyword: str, path: str, why: str) -> None:
        super().__init__(f"{keyword!r} at {path or 'the root'}: {why}")


REFUSED_PATTERNS = (LOOK_AROUND, BACK_REFERENCE, WORD_BOUNDARY, NAMED_GROUP)


def compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


@dataclass(frozen=True, eq=False)
class Dialect:
    """What one vendor's constrained decoding takes.

    :param keywords: that it knows, besides those of structure.
    :param formats: of strings.
    :param all_required: every property has to be required.
    :param recursion: a definition may name itself.
    :param pattern: whether it takes a regular expression.
    :param most: limits by what they count: ``depth`` (objects and arrays in each other), ``properties``, ``enum``
        values, ``long_enum`` characters of one of more than 250 values, ``characters`` of names and constants,
        ``optional`` properties, ``unions``.
    :param open_objects: an object may have properties of any name; ``tuples``: an array a schema for each of its first
        items; ``constants``: the types of values that an ``enum`` may have, None for any.
    """

    keywords: frozenset[str]
    formats: frozenset[str]
    all_required: bool
    recursion: bool
    pattern: Callable[[str], bool]
    most: Mapping[str, int]
    most_min_items: int | None = None
    open_objects: bool = False
    tuples: bool = False
    constants: tuple[type, ...] | None = None


OPENAI = Dialect(
    keywords=frozenset(
        {"type", "description", "title", "enum", "const", "pattern", "format", "multipleOf", "minimum", "maximum"}
        | {"exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"}
    ),
    formats=frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}),
    all_required=True,
    recursion=True,
    pattern=lambda text: compiles(text) and not LOOK_AROUND.search(text) and not BACK_REFERENCE.search(text),
    most={"depth": 10, "properties": 5000, "enum": 1000, "long_enum": 15_000, "characters": 120_000},
)
#: values of an enum from which on their length counts
MANY = 250
ANTHROPIC = Dialect(
    keywords=frozenset({"type", "description", "title", "enum", "const", "pattern", "format", "minItems"}),
    formats=OPENAI.formats | {"uri"},
    all_required=False,
    recursion=False,
    pattern=lambda text: (
        not any(rule.search(text) for rule in (LOOK_AROUND, BACK_REFERENCE, WORD_BOUNDARY, NAMED_GROUP))
    ),
    most={"optional": 24, "unions": 16},
    most_min_items=1,
)
#: recursion has rules of its own: see ``gemini/schema.py``
GEMINI = Dialect(
    keywords=frozenset(
        {"type", "description", "title", "enum", "format", "minimum", "maximum", "minItems", "maxItems"}
        | {"propertyOrdering"}
    ),
    formats=frozenset({"date-time", "date", "time"}),
    all_required=False,
    recursion=True,
    pattern=lambda text: False,
    most={},
    open_objects=True,
    tuples=True,
    constants=(str, int, float),
)


def fit(schema: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """The schema as the dialect takes it; the same object where it is taken as it is.

    :raises Unfit: when it cannot be.
    """
    fitted = fit_json(msgspec.json.encode(schema), dialect)
    if isinstance(fitted, Unfit):
        raise fitted
    return schema if fitted is None else fitted


@lru_cache(256)
def fit_json(encoded: bytes, dialect: Dialect) -> dict[str, Any] | Unfit | None:
    """``fit`` of an encoded schema: a job's rows mostly share one. None for one that is taken as it is."""
    schema = msgspec.json.decode(encoded)
    try:
        fitted = Fitting(schema, dialect).root()
    except Unfit as error:
        return error.with_traceback(None)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        return Unfit("schema", "", f"it is no well-formed JSON schema ({error})")
    return None if fitted == schema else fitted


def loose(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema for a mode without constraint, which wants an object at the root all the same."""
    if is_object(schema):
        return schema
    definitions = {name: schema[name] for name in DEFINITIONS if name in schema}
    inner = {name: value for name, value in schema.items() if name not in DEFINITIONS}
    return {**wrapped(inner), **definitions}


def wrapped(inner: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {VALUE: inner}, "required": [VALUE], "additionalProperties": False}


def is_object(schema: Any, root: Any = None, depth: int = 0) -> bool:
    """Whether all that fits a schema are objects, as far as its root says."""
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > 50:
        return False
    if "$ref" in schema:
        return is_object(target_of(root, schema["$ref"]), root, depth + 1)
    return schema.get("type", "object" if "properties" in schema else None) == "object"


def target_of(root: Any, ref: Any) -> Any:
    """What a local reference points to, None for one that points nowhere or elsewhere."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    target: Any = root
    for part in filter(None, ref.removeprefix("#").split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, dict) else None
    return target


def schema_name(name: Any) -> str:
    """A name as vendors take it: ASCII letters, digits, ``_`` and ``-``, at most 64."""
    return (NAME.sub("_", name)[:64] if isinstance(name, str) else "") or "output"


class Counts(NamedTuple):
    """What limits are about."""

    depth: int
    properties: int
    enum: int
    long_enum: int
    characters: int
    optional: int
    unions: int


class Fitting:
    """One schema on its way to a dialect."""

    def __init__(self, schema: dict[str, Any], dialect: Dialect) -> None:
        self.source, self.dialect = schema, dialect
        self.definitions: dict[str, Any] = {}
        #: definitions' names to the references they stand for, and the references that are being looked at
        self.names: dict[str, str] = {}
        self.open: list[str] = []

    def root(self) -> dict[str, Any]:
        source, seen = self.source, 0
        while isinstance(source, dict) and "$ref" in source:
            found = target_of(self.source, source["$ref"])
            if not isinstance(found, dict) or (seen := seen + 1) > 50:
                raise Unfit("$ref", "", f"{source['$ref']!r} points to no definition")
            source = {**found, **{name: value for name, value in source.items() if name not in ("$ref", *DEFINITIONS)}}
        inner = {name: value for name, value in source.items() if name not in DEFINITIONS}
        fitted = self.part(inner, "")
        if not is_object(inner):
            fitted = wrapped(fitted)
        if self.definitions:
            fitted = {**fitted, "$defs": self.definitions}
        self.check_limits(fitted)
        return fitted

    def part(self, node: Any, path: str) -> dict[str, Any]:
        if node is True or node == {}:
            raise Unfit("type", path, "a schema that takes any value")
        if not isinstance(node, dict):
            raise Unfit("type", path, f"{node!r} is no schema")
        if len(path) > 5000:
            raise Unfit("$ref", path[:60], "it is nested too deep")
        if "$ref" in node:
            return self.reference(node, path)
        if "allOf" in node:
            return self.part(self.merged(node, path), path)
        node = {**node, "anyOf": node["oneOf"]} if "oneOf" in node and "anyOf" not in node else node
        if (options := by_type(node)) is not None:
            return self.part(options, path)
        if "const" in node and "const" not in self.dialect.keywords and "enum" not in node:
            node = as_enum(node)
        notes: list[str] = []
        made = {name: value for name, value in node.items() if self.keeps(name, value, notes)}
        if "anyOf" in node and not ("type" in node or "properties" in node):
            self.union(node, made, path)
        else:
            self.typed(node, made, notes, path)
        if notes:
            made["description"] = " ".join(filter(None, [made.get("description"), f"({', '.join(notes)})"]))
        return made

    def keeps(self, name: str, value: Any, notes: list[str]) -> bool:
        """Whether a keyword is taken as it is; what is dropped and limits a value is noted."""
        dialect = self.dialect
        good = name in dialect.keywords
        if name == "pattern":
            good = good and isinstance(value, str) and dialect.pattern(value)
        elif name == "format":
            good = good and value in dialect.formats
        elif name == "minItems" and dialect.most_min_items is not None:
            good = good and value in range(dialect.most_min_items + 1)
        elif name in ("enum", "const"):
            good = good and all(self.is_constant(item) for item in (value if name == "enum" else [value]))
        if not good and name not in ANNOTATIONS and name not in STRUCTURE and not name.startswith("x-"):
            notes.append(f"{name}: {value if isinstance(value, str) else msgspec.json.encode(value).decode()[:200]}")
        return good

    def is_constant(self, value: Any) -> bool:
        """Whether a value may stand in an ``enum``."""
        kinds = self.dialect.constants
        return not isinstance(value, dict | list if kinds is None else dict | list | bool) and (
            kinds is None or isinstance(value, kinds)
        )

    def union(self, node: dict[str, Any], made: dict[str, Any], path: str) -> None:
        if not isinstance(node["anyOf"], list) or not node["anyOf"]:
            raise Unfit("anyOf", path, "it has no alternatives")
        for name in made.keys() - {"description", "title"}:
            del made[name]
        made["anyOf"] = [self.part(option, f"{path}/anyOf/{place}") for place, option in enumerate(node["anyOf"])]

    def typed(self, node: dict[str, Any], made: dict[str, Any], notes: list[str], path: str) -> None:
        kinds = node.get("type")
        if kinds is None:
            kinds = "object" if "properties" in node else "array" if {"items", "prefixItems"} & node.keys() else None
            if kinds:
                made["type"] = kinds
            elif kind := type_of([*made.get("enum", ()), *([made["const"]] if "const" in made else [])]):
                made["type"] = kind
            else:
                raise Unfit("type", path, "it has none")
        if "object" in (kinds if isinstance(kinds, list) else [kinds]):
            self.object(node, made, path)
        if "array" in (kinds if isinstance(kinds, list) else [kinds]):
            self.array(node, made, notes, path)

    def object(self, node: dict[str, Any], made: dict[str, Any], path: str) -> None:
        more, properties = node.get("additionalProperties"), node.get("properties")
        if node.get("patternProperties"):
            raise Unfit("patternProperties", path, "an object with properties of any name cannot be asked for")
        opened = self.dialect.open_objects and (more not in (None, False) or not (more is False or properties))
        if not opened and (
            more not in (None, False) or (more is None and (not properties or self.dialect.all_required))
        ):
            raise Unfit("additionalProperties", path, "an object that may have further properties cannot be asked for")
        properties = properties if isinstance(properties, dict) else {}
        required = [name for name in node.get("required") or () if name in properties]
        if self.dialect.all_required and set(required) != properties.keys():
            missing = next(name for name in properties if name not in required)
            raise Unfit("required", path, f"every property has to be required, and {missing!r} is not")
        made["properties"] = {name: self.part(inner, f"{path}/properties/{name}") for name, inner in properties.items()}
        made["required"] = required
        made["additionalProperties"] = False
        if opened:
            free = more is None or more is True or more == {}
            made["additionalProperties"] = True if free else self.part(more, f"{path}/additionalProperties")

    def array(self, node: dict[str, Any], made: dict[str, Any], notes: list[str], path: str) -> None:
        first, rest = node.get("prefixItems"), node.get("items")
        if isinstance(first, list) and first and self.dialect.tuples:
            made["prefixItems"] = [self.part(item, f"{path}/prefixItems/{place}") for place, item in enumerate(first)]
            if isinstance(rest, dict) and rest:
                made["items"] = self.part(rest, f"{path}/items")
            elif rest is False:
                made["maxItems"] = min(made.get("maxItems", len(first)), len(first))
            return
        if isinstance(first, list) and first:
            options = [*first, *([rest] if isinstance(rest, dict) and rest else [])]
            different = [option for place, option in enumerate(options) if option not in options[:place]]
            rest = different[0] if len(different) == 1 else {"anyOf": different}
            notes.append(f"prefixItems: {msgspec.json.encode(first).decode()[:200]}")
            if (
                node.get("items") is False
                and "minItems" in self.dialect.keywords
                and "maxItems" in self.dialect.keywords
            ):
                made.update(
                    minItems=made.get("minItems", 0), maxItems=min(made.get("maxItems", len(first)), len(first))
                )
        if not isinstance(rest, dict) or not rest:
            raise Unfit("items", path, "an array of anything cannot be asked for")
        made["items"] = self.part(rest, f"{path}/items")
        if (least := node.get("minItems")) and "minItems" not in made and self.dialect.most_min_items:
            made["minItems"] = min(least, self.dialect.most_min_items)

    def reference(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        """A reference alone; what stands beside one is not taken, so a described one becomes its definition."""
        ref = node["$ref"]
        target = target_of(self.source, ref)
        if not isinstance(target, dict):
            raise Unfit("$ref", path, f"{ref!r} points to no definition in the schema")
        if not self.dialect.recursion and (ref in self.open or ref in ROOT):
            raise Unfit("$ref", path, "a definition that holds itself cannot be asked for")
        beside = {name: value for name, value in node.items() if name != "$ref" and name not in ANNOTATIONS}
        if beside and ref not in self.open:
            self.open.append(ref)
            made = self.part({**target, **beside}, path)
            self.open.pop()
            return made
        return {"$ref": "#" if ref in ROOT else f"#/$defs/{self.define(ref, target)}"}

    def define(self, ref: str, target: dict[str, Any]) -> str:
        """The name of a definition, which is fitted when it is first named."""
        name = schema_name(ref.rpartition("/")[2])
        while self.names.get(name, ref) != ref:
            name += "_"
        if name not in self.names:
            self.names[name] = ref
            self.definitions[name] = {}
            self.open.append(ref)
            self.definitions[name] = self.part(target, f"/$defs/{name}")
            self.open.pop()
        return name

    def merged(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        """A node with its ``allOf`` in it."""
        made = {name: value for name, value in node.items() if name != "allOf"}
        if not isinstance(node["allOf"], list):
            raise Unfit("allOf", path, "it is no list")
        for item in node["allOf"]:
            part = item
            if isinstance(item, dict) and "$ref" in item:
                if item["$ref"] in self.open or not isinstance(target_of(self.source, item["$ref"]), dict):
                    raise Unfit("allOf", path, f"{item['$ref']!r} cannot be merged into it")
                part = {**target_of(self.source, item["$ref"]), **{n: v for n, v in item.items() if n != "$ref"}}
            if not isinstance(part, dict):
                raise Unfit("allOf", path, f"{part!r} is no schema")
            for name, value in part.items():
                if name == "properties" and isinstance(made.get(name), dict) and isinstance(value, dict):
                    made[name] = {**made[name], **value}
                elif name == "required" and isinstance(made.get(name), list):
                    made[name] = list(dict.fromkeys([*made[name], *value]))
                elif name == "allOf":
                    made[name] = [*made.get(name, ()), *value]
                elif made.setdefault(name, value) != value and name not in ANNOTATIONS | {"description"}:
                    raise Unfit("allOf", path, f"its parts differ in {name!r}")
        return made

    def check_limits(self, fitted: dict[str, Any]) -> None:
        counts = count(fitted)._asdict()
        for name, most in self.dialect.most.items():
            if counts[name] > most:
                raise Unfit(name, "", f"the schema has {counts[name]:,}, and {most:,} are taken")


#: keywords that are looked at one by one
STRUCTURE = frozenset(
    {"properties", "required", "additionalProperties", "items", "prefixItems", "anyOf", "oneOf", "allOf", "$ref"}
    | {"patternProperties", *DEFINITIONS}
)


def type_of(constants: list[Any]) -> str | None:
    """The one JSON type of constants."""
    names = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    kinds = {names.get(type(value)) for value in constants}
    return kinds.pop() if len(kinds) == 1 else "number" if kinds == {"integer", "number"} else None


def as_enum(node: dict[str, Any]) -> dict[str, Any]:
    """A constant as an ``enum`` of one value, for a dialect without ``const``."""
    kind = type_of([node["const"]])
    if kind in ("null", None):
        return {**node, "type": "null"} if kind else node
    rest = {name: value for name, value in node.items() if name != "const"}
    return {"type": kind, **rest, "enum": [node["const"]]}


def by_type(node: dict[str, Any]) -> dict[str, Any] | None:
    """An ``enum`` of values of several types as one alternative per type, as vendors want it; None for any other."""
    values = node.get("enum")
    if not isinstance(values, list) or not values or (type_of(values) and not isinstance(node.get("type"), list)):
        return None
    groups: dict[str | None, list[Any]] = {}
    for value in values:
        groups.setdefault(type_of([value]), []).append(value)
    if None in groups:
        return None
    options = [{"type": "null"} if kind == "null" else {"type": kind, "enum": of} for kind, of in groups.items()]
    beside = {name: value for name, value in node.items() if name in ("description", "title")}
    return {**options[0], **beside} if len(options) == 1 else {**beside, "anyOf": options}


def count(schema: dict[str, Any]) -> Counts:
    """What a fitted schema has of everything that vendors limit."""
    properties = enum = long_enum = characters = optional = unions = deepest = 0
    for node, depth in nodes(schema):
        deepest = max(deepest, depth)
        named = node.get("properties") or {}
        properties += len(named)
        optional += len(named.keys() - set(node.get("required") or ()))
        constants = [*(node.get("enum") or ()), *([node["const"]] if "const" in node else [])]
        enum += len(node.get("enum") or ())
        texts = [*named, *(node.get("$defs") or ()), *(c for c in constants if isinstance(c, str))]
        characters += sum(map(len, texts))
        long_enum = max(
            long_enum, sum(len(str(c)) for c in node.get("enum") or ()) * (len(node.get("enum") or ()) > 250)
        )
        unions += "anyOf" in node or isinstance(node.get("type"), list)
    return Counts(deepest, properties, enum, long_enum, characters, optional, unions)


def nodes(schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """Every part of a fitted schema, and how many objects and arrays it lies in, itself included."""
    queue: list[tuple[Any, int]] = [(schema, 0)]
    while queue:
        node, depth = queue.pop()
        depth += "properties" in node or "items" in node
        yield node, depth
        queue += ((inner, depth) for inner in (node.get("properties") or {}).values())
        queue += ((inner, 0) for inner in (node.get("$defs") or {}).values())
        queue += ((inner, depth) for inner in node.get("anyOf") or ())
        if "items" in node:
            queue.append((node["items"], depth))
