"""Request templates: one per job, filled for every row.

All are mutable and name their ``template_fields``, so Airflow renders Jinja inside them before a task runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_llm_batch.data.output_schema import asked_schema, json_schema, schema_of
from airflow_llm_batch.exceptions import InputError
from airflow_llm_batch.request import Request

if TYPE_CHECKING:
    from airflow_llm_batch.data.static import Static

CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
CHAT, EMBEDDINGS, MESSAGES = "/v1/chat/completions", "/v1/embeddings", "/v1/messages"
#: LangChain's names of roles
ROLES = {"human": "user", "ai": "assistant"}
Render = Callable[[Mapping[str, Any]], Request]


class RequestTemplate:
    """What ``SubmitBatchOperator(request=...)`` takes.

    :ivar on_null: what a column that is null becomes in a prompt, ``empty`` or ``fail``.
    :ivar known: what its braces mean by the rows' columns (``data.templates.meanings``).
    :ivar called: its requests are called one by one, and not sent in a batch.
    """

    template_fields: ClassVar[tuple[str, ...]] = ()
    on_null: str = "empty"
    known: Mapping[str, str] = MappingProxyType({})
    called: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """Fields that are text, or hold texts, whatever a template's text looks like."""
        return ()

    def compile(self) -> Render:
        """A function from a row to its request.

        :raises InputError: for a template that cannot work for any row.
        """
        raise NotImplementedError

    def text_columns(self) -> list[str] | None:
        """The columns rows are filled from, when they go into text alone; None when more depends on the row."""
        return None

    def columns(self) -> set[str] | None:
        """Every column that a request is filled from, None when that may be any."""
        return None

    def parts(self) -> list[Any]:
        """Everything that may have placeholders."""
        return [getattr(self, f.name) for f in fields(self) if f.name != "output"]  # type: ignore[arg-type]

    def met(self, row: Mapping[str, Any]) -> RequestTemplate:
        """This template as it is meant for rows with these columns.

        :raises InputError: for braces that begin with a column and are none.
        """
        from airflow_llm_batch.data.templates import meanings

        if known := meanings(self.parts(), row):
            met = copy(self)
            met.known = known
            return met
        return self

    def for_calls(self) -> RequestTemplate:
        """This template as it is meant for calls one by one."""
        made = copy(self)
        made.called = True
        return made

    def static(self) -> Static | None:
        """What of its requests is the same in every row, where that is to be cached."""
        return None

    def depends_on_columns(self) -> bool:
        """Whether it takes the rows' own columns to tell what is a placeholder."""
        from airflow_llm_batch.data.templates import columns_of, oddities

        parts = self.parts()
        return bool(oddities(parts)) or any(name != name.strip() for name in columns_of(parts))

    def jinja_names(self) -> set[str]:
        """Names in Jinja's braces, ``{{ name }}``, which are no placeholders."""
        from airflow_llm_batch.data.templates import jinja_names

        return jinja_names(self.parts())

    def schema(self) -> dict[str, Any] | None:
        """The JSON schema answers must fit, None for free text."""
        return None

    def serialize(self) -> dict[str, Any]:
        """For Airflow's rendered-fields view and for ``job.json``."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        if "output" in given:
            given["output"] = self.schema()
        shown = {k: v for k, v in given.items() if v not in (None, {}, []) and (k, v) != ("on_null", "empty")}
        return {"type": type(self).__name__, **shown}


@dataclass
class ChatRequest(RequestTemplate):
    """A chat completion per row.

    :param model: the model's name at the vendor; left out where an operator's ``models`` names several.
    :param system: system prompt template.
    :param user: user prompt template; ``{column}`` is filled from the row. Rows that are plain strings have one
        column, ``text``.
    :param messages: a whole conversation in OpenAI's format instead of ``system`` and ``user``: text and image parts,
        roles system, user, assistant and tool; strings inside it are templates too.
    :param output: a Pydantic model class or a JSON schema that every answer must fit.
    :param max_tokens: cap on the answer's tokens; Anthropic requires one.
    :param params: further body parameters in OpenAI's spelling (``temperature``, ``tools``, ``reasoning_effort``...);
        one that a vendor cannot express is refused by name.
    :param api: ``"responses"`` asks OpenAI's Responses API, with the same rows and results; ``"chat"`` chat
        completions. By default the one that the model takes: from GPT-5.4 on tools beside ``reasoning_effort`` need
        the Responses API.
    :param on_null: what a column that is null becomes in a prompt: ``"empty"``, nothing, which the log tells once; or
        ``"fail"``, the row is refused before anything is sent.
    :param cache: True has the vendor keep what is the same in every row, so that it is read, at a fraction of its
        price, and not billed anew with each of them: tools, schema, system prompt, and all up to the first column.
        Anthropic keeps it for an hour in batches and for five minutes in calls, unless ``"5m"`` or ``"1h"`` is given;
        OpenAI is sent a key for it and, from GPT-5.6 on, where it ends; ``"24h"`` keeps it for a day where an OpenAI
        model can be asked to. Where a vendor caches by itself (Gemini, other servers) or not at all in this lane
        (Bedrock's batches) nothing is sent. Nothing of a prompt is moved: what stands behind the first column is read
        anew with every row, which the log warns of where it is much.
    """

    model: str = ""
    system: str | None = None
    user: str | None = None
    messages: list[dict[str, Any]] | None = None
    output: Any = None
    max_tokens: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    api: str | None = None
    on_null: str = "empty"
    cache: bool | str | None = None

    template_fields: ClassVar[tuple[str, ...]] = ("model", "system", "user", "messages", "max_tokens", "params")

    def __post_init__(self) -> None:
        if self.messages is not None and (self.user is not None or self.system is not None):
            raise InputError("ChatRequest takes either messages, or system and user; it was given both.")
        check_on_null(self.on_null)
        if self.api not in (None, "chat", "responses"):
            raise InputError(f"api is {self.api!r}; give 'chat' or 'responses', or leave it out. Nothing was sent.")

    @property
    def texts(self) -> tuple[str, ...]:
        # Messages that are one template are what it makes.
        return ("model", "system", "user", *(("messages",) if isinstance(self.messages, list) else ()))

    def schema(self) -> dict[str, Any] | None:
        return json_schema(self.output)

    def turns(self) -> list[dict[str, Any]]:
        """The conversation's templates."""
        if self.messages is not None:
            check_turns(self.messages)
            return list(self.messages)
        for name, text in ("system", self.system), ("user", self.user):
            if not isinstance(text, str | None) and not is_parts(text):
                raise InputError(f"ChatRequest.{name} is {text!r:.80}; give a text. Nothing was sent.")
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": "{text}" if self.user is None else self.user}]

    def columns(self) -> set[str] | None:
        from airflow_llm_batch.data.templates import columns_of

        return columns_of([self.model, self.params, self.turns()], self.known)

    def text_columns(self) -> list[str] | None:
        from airflow_llm_batch.data.templates import columns_of

        texts: list[Any] = []
        rest: list[Any] = [self.model, self.params]
        for turn in self.turns():
            content = turn.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            rest.append({name: value for name, value in turn.items() if name != "content"})
            for part in parts:
                text = part.get("text") if isinstance(part, dict) else None
                (texts if isinstance(text, str) else rest).append(text)
                rest.append({k: v for k, v in part.items() if k != "text"} if isinstance(part, dict) else part)
        if (turns := self.turns()) and turns[-1].get("role") == "assistant":
            # How an answer's beginning ends matters to vendors.
            rest.append(turns[-1].get("content"))
        return None if columns_of(rest, self.known) else sorted(columns_of(texts, self.known))

    def static(self) -> Static | None:
        from airflow_llm_batch.data.static import static_of

        return static_of(self.turns(), self.params, self.cache, self.called, self.known) if self.cache else None

    def compile(self) -> Render:
        from airflow_llm_batch.data.params import WRITTEN, given_params, read
        from airflow_llm_batch.data.static import check_cache
        from airflow_llm_batch.data.templates import compile_template

        check_model(self.model)
        check_cache(self.cache, self.turns(), self.params)
        body: dict[str, Any] = {"model": self.model, "messages": None}
        if self.max_tokens is not None:
            body["max_completion_tokens"] = whole_number("max_tokens", self.max_tokens)
        if schema := self.schema():
            # Whether it is strict the provider says, who knows what its strict mode takes.
            named = {"name": str(schema.get("title") or "output"), "schema": asked_schema(self.output)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        self.check_clash(body)
        static = self.static()
        cache = static.cache if static is not None else None
        compile_known = partial(compile_template, known=self.known)
        contents = [text_or_parts(turn, compile_known) for turn in self.turns()]
        params = given_params(self.params)
        fill_rest = compile_known({"model": self.model, **params})
        written = [name for name, value in params.items() if name in WRITTEN and isinstance(value, str)]

        def render(row: Mapping[str, Any]) -> Request:
            filled = {**body, **fill_rest(row)}
            for name in written:
                # A CSV's cell of nothing is a row without this parameter.
                if filled[name] == "" != params[name]:
                    del filled[name]
                else:
                    filled[name] = read(name, filled[name])
            filled["messages"] = [fill(row) for fill in contents]
            return Request(CHAT, filled, self.api, cache)

        return render

    def check_clash(self, body: Mapping[str, Any]) -> None:
        """:raises InputError: for what is asked twice, by an argument and in ``params``."""
        asked = {*body, *(CAPS if self.max_tokens is not None else ())}
        if any(turn.get("role") in ("system", "developer") for turn in self.turns()):
            asked.add("system")
        if clash := sorted(asked & self.params.keys()):
            raise InputError(
                f"ChatRequest.params repeats {', '.join(clash)}, which an argument or a message says already; say it "
                "once. Nothing was sent."
            )


@dataclass
class EmbeddingRequest(RequestTemplate):
    """An embedding per row.

    :param model: the embedding model's name at the vendor.
    :param input: text template, ``{column}`` filled from the row. One placeholder alone for a column of lists embeds
        each text of the list, and the row's ``embedding`` is a list of vectors.
    :param dimensions: length of the vector, where the model lets one choose.
    :param params: further body parameters.
    :param on_null: as ``ChatRequest``.
    """

    model: str = ""
    input: str = "{text}"
    dimensions: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    on_null: str = "empty"

    template_fields: ClassVar[tuple[str, ...]] = ("model", "input", "dimensions", "params")

    def __post_init__(self) -> None:
        check_on_null(self.on_null)

    @property
    def texts(self) -> tuple[str, ...]:
        return ("model", "input")

    def columns(self) -> set[str] | None:
        from airflow_llm_batch.data.templates import columns_of

        return columns_of(self.input, self.known)

    def compile(self) -> Render:
        from airflow_llm_batch.data.params import given_params
        from airflow_llm_batch.data.templates import value_template
        from airflow_llm_batch.data.values import as_text

        check_model(self.model)
        fill = value_template(self.input, self.known)
        rest = given_params(self.params)
        if self.dimensions is not None:
            rest["dimensions"] = whole_number("dimensions", self.dimensions)

        def render(row: Mapping[str, Any]) -> Request:
            value = fill(row)
            text = value if type(value) in (str, list) else as_text(value)
            if not text or (type(text) is list and not all(item or item == 0 for item in text)):
                raise InputError("the text to embed is empty, which vendors refuse; filter such rows out")
            return Request(EMBEDDINGS, {"model": self.model, "input": text, **rest})

        return render


@dataclass
class RawRequest(RequestTemplate):
    """A request body as the vendor wants it.

    :param body: the body; strings inside are ``{column}`` templates, and a string that is nothing but one placeholder
        becomes the column's value with its type.
    :param endpoint: path it is meant for, for example ``/v1/responses`` or ``/v1/messages``.
    :param on_null: as ``ChatRequest``.
    """

    body: dict[str, Any]
    endpoint: str = CHAT
    on_null: str = "empty"

    template_fields: ClassVar[tuple[str, ...]] = ("body", "endpoint")

    def __post_init__(self) -> None:
        check_on_null(self.on_null)

    def schema(self) -> dict[str, Any] | None:
        from airflow_llm_batch.data.templates import columns_of

        schema = schema_of(self.body)
        return None if columns_of(schema) else schema

    def columns(self) -> set[str] | None:
        from airflow_llm_batch.data.templates import columns_of

        return columns_of(self.body, self.known)

    def compile(self) -> Render:
        from airflow_llm_batch.data.templates import compile_template
        from airflow_llm_batch.data.values import plain

        fill = compile_template(plain(self.body), self.known)
        endpoint = self.endpoint
        return lambda row: Request(endpoint, fill(row))


@dataclass
class BatchLines(RequestTemplate):
    """Rows that already are batch input lines, OpenAI's or Anthropic's; used when no request is given."""

    def compile(self) -> Render:
        return line_request

    def serialize(self) -> dict[str, Any]:
        return {"type": "BatchLines"}


def line_request(row: Mapping[str, Any]) -> Request:
    """One line of an existing batch input file as a request.

    :raises InputError: when the row is not such a line.
    """
    if isinstance(row.get("params"), dict) and "custom_id" in row:
        return Request(MESSAGES, row["params"])
    if isinstance(row.get("body"), dict) and isinstance(row.get("url"), str):
        if str(row.get("method", "POST")).upper() != "POST":
            raise InputError(f"its method is {row['method']!r}; batches take POST only")
        return Request("/v1/" + row["url"].removeprefix("/v1").lstrip("/"), row["body"])
    raise InputError(
        'it is not a batch input line ({"custom_id", "method", "url", "body"}) and no request was given; pass '
        "request=ChatRequest(...) to say what to ask of it"
    )


def is_batch_line(row: Mapping[str, Any]) -> bool:
    return "custom_id" in row and (isinstance(row.get("body"), dict) or isinstance(row.get("params"), dict))


def check_on_null(choice: str) -> None:
    """:raises InputError: for an unknown choice."""
    if choice not in ("empty", "fail"):
        raise InputError(f"on_null is {choice!r}; give 'empty' or 'fail'. Nothing was sent.")


def whole_number(name: str, value: Any) -> int:
    """:raises InputError: for what is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputError(f"{name} is {value!r}; give a whole number. Nothing was sent.") from None


def check_model(model: Any) -> None:
    """:raises InputError: for an empty name, which a template that renders to nothing leaves behind."""
    if not isinstance(model, str) or not model.strip():
        raise InputError(f"model is {model!r}; name the vendor's model. Nothing was sent.")


def is_parts(given: Any) -> bool:
    """Whether something is a list of objects: of a message's parts, or of messages."""
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(part, dict) for part in given)


def check_turns(turns: Any) -> None:
    """:raises InputError: for what is no conversation in OpenAI's format."""
    if not is_parts(turns):
        raise InputError(
            f"ChatRequest.messages is {turns!r:.80}; give a list of messages, "
            '[{"role": "user", "content": "..."}]. Nothing was sent.'
        )
    for turn in turns:
        if meant := ROLES.get(str(turn.get("role"))):
            raise InputError(f"A message has the role {turn['role']!r}; here it is {meant!r}. Nothing was sent.")


def text_or_parts(turn: dict[str, Any], compile_template: Callable[[Any], Callable[[Any], Any]]) -> Any:
    """A message's filler. Text content stays text even when it is one placeholder for a number."""
    rest = compile_template({k: v for k, v in turn.items() if k != "content"})
    content = turn.get("content")
    parts: Iterable[Any] = content if isinstance(content, list) else ()
    fills = [part_template(part, compile_template) for part in parts]
    whole = compile_template(content)

    def fill(row: Mapping[str, Any]) -> dict[str, Any]:
        message = {"role": turn.get("role"), "content": [f(row) for f in fills] if fills else whole(row)}
        return message if turn.keys() <= {"role", "content"} else {**message, **rest(row)}

    return fill


def part_template(part: Any, compile_template: Callable[[Any], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        text = compile_template(part["text"])
        rest = {k: v for k, v in part.items() if k != "text"}
        return lambda row: {**rest, "text": text(row)}
    return compile_template(part)
