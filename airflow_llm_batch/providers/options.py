"""What a connection's extra may hold. One model a provider: its fields are checked, and documented, here alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, ValidationInfo

from airflow_llm_batch.exceptions import ConfigurationError
from airflow_llm_batch.numbers import number

#: the schema's mark of a field that the connection's form shows
FORM: dict[str, JsonValue] = {"form": True}


def problems_of(error: ValidationError) -> str:
    """What is wrong with what was given, without what was given: that may hold a key."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def a_number(value: Any, info: ValidationInfo) -> float | None:
    return None if is_empty(value) else number(f"The connection's {info.field_name}", value)


def a_count(value: Any, info: ValidationInfo) -> int | None:
    if is_empty(value):
        return None
    try:
        found = 0 if isinstance(value, bool) else int(value)
    except (TypeError, ValueError):
        found = 0
    if found < 1:
        raise ConfigurationError(f"{info.field_name} is {value!r}; give a whole number from 1 up. Nothing was sent.")
    return found


def a_text(value: Any) -> str | None:
    """A text; numbers are taken for one, as people write versions and ids."""
    if is_empty(value):
        return None
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def texts(value: Any, info: ValidationInfo) -> dict[str, str]:
    """An object of texts."""
    given = value or {}
    if not isinstance(given, Mapping) or any(isinstance(item, dict | list | type(None)) for item in given.values()):
        raise ConfigurationError(
            f"The connection's extra {info.field_name!r} is no object of texts; give one, for example "
            f'"{info.field_name}": {{"x-litellm-model": "gpt-5-mini"}}. Nothing was sent.'
        )
    return {str(key): str(item) for key, item in given.items()}


def members(value: Any, info: ValidationInfo) -> dict[str, Any]:
    """An object."""
    given = value or {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"The connection's extra {info.field_name!r} is a {type(given).__name__}; give an object. Nothing was sent."
        )
    return dict(given)


Number = Annotated[float | None, BeforeValidator(a_number)]
Count = Annotated[int | None, BeforeValidator(a_count)]
Text = Annotated[str | None, BeforeValidator(a_text)]
Texts = Annotated[dict[str, str], BeforeValidator(texts)]
Members = Annotated[dict[str, Any], BeforeValidator(members)]


class Options(BaseModel):
    """What every provider understands."""

    model_config = ConfigDict(frozen=True, extra="allow")

    provider: Text = Field(None, description="Whose batch API it is.", json_schema_extra=FORM)
    headers: Texts = Field({}, description="Further headers of every call, as gateways route by them; see Proxies.")
    query: Texts = Field({}, description="Further query parameters of every call.")
    form: Texts = Field({}, description="Further form fields of an upload.")
    create: Members = Field({}, description="Further members of the body that creates a batch.")
    limits: Members = Field(
        {},
        description='What one batch may hold, where that is not what the vendor lets everybody: {"requests": 10000, '
        '"bytes": 100000000, "embedding_inputs": 50000, "minimum": 100}.',
    )
    prices: Any = Field(
        None,
        description='Model, or * for all others, to {"input": 0.25, "output": 2.0}, dollars per million tokens outside '
        'of batches, or to {"factor": 0.9}, a share of the list price.',
    )
    batch_factor: Number = Field(
        None,
        ge=0,
        le=1,
        description="What a batch costs relative to synchronous calls, where the address is a gateway's: none is "
        "assumed to hand the vendor's discount on; see Money.",
    )
    timeout: Number = Field(None, description="Seconds of silence allowed in a call (120).", json_schema_extra=FORM)
    connect_timeout: Number = Field(None, description="Seconds allowed for connecting (15).")
    retries: Number = Field(None, description="How often a call is repeated that costs nothing when it is (5).")
    settle_seconds: Number = Field(
        None, description="Seconds by which a vendor's listing may lag behind a create (15)."
    )
    create_seconds: Number = Field(None, description="Seconds that another machine's create may take (180).")
    lapse_seconds: Number = Field(
        None, description="Seconds without a sign of life after which a try has lost its claim (60)."
    )
    requests_per_minute: Number = Field(
        None,
        description="Calls a minute that all workers together make one by one, divided among those that call.",
    )
    tokens_per_minute: Number = Field(None, description="Prompt tokens of those calls, as we estimate them.")
    delivery_seconds: Number = Field(
        None,
        description="Seconds for which results that the vendor counts and withholds are asked for (120).",
    )
    undelivered: Text = Field(None, description='"land" to land without them after that; the landing fails otherwise.')
    room_seconds: Number = Field(
        None,
        description="Seconds for which a full queue is left alone before it is tried again, when nothing of the job "
        "has ended meanwhile; doubled each time, up to 15 minutes (60).",
    )
    expire_seconds: Number = Field(
        None,
        description="Seconds after which the vendor is to delete files by itself; at OpenAI's own address inputs go "
        "after two weeks.",
    )
    delete_files: Text = Field(
        None,
        description='Which of the vendor\'s files are deleted once their results are landed: "none", "inputs" '
        '(OpenAI\'s default; the requests remain in the job directory) or "all" (results cannot be landed '
        "once more then).",
    )
    webhook_secret: Text = Field(
        None,
        description="The secret with which the vendor signs the events that it pushes to "
        "/llm-batches/hooks/{connection}; a waiting task looks at once then.",
    )
    batch: bool | None = Field(
        None, description='false for a server without a batch API: CompletionOperator(lane="auto") calls it.'
    )
    small_batches: Literal["refuse", "online"] | None = Field(
        None,
        description='What becomes of a job with fewer rows than the vendor\'s smallest batch: "refuse" it (the '
        'default), or call its rows "online", at the price of synchronous calls at most: at flex where that saves.',
    )
    max_enqueued_tokens: Count = Field(None, description="Prompt tokens of a job in the vendor's queue at once.")
    budget: Any = Field(
        None,
        description='Dollars that all jobs on the connection may cost, by month or day (UTC): {"month": 1000, '
        '"by": "team"}, or a list of such; by the connection (the default), "dag", "tag" or a metadata key.',
    )
    max_running_shards: Count = Field(None, description="Batches of a job in the vendor's queue at once.")

    @classmethod
    def read(cls, extra: Mapping[str, Any]) -> Self:
        """A connection's extra.

        :raises ConfigurationError: names the option, its value and what it may be.
        """
        try:
            return cls.model_validate(dict(extra))
        except ValidationError as error:
            raise ConfigurationError(
                f"The connection's extra is not usable: {problems_of(error)}. Nothing was sent."
            ) from None

    @property
    def takes_events(self) -> bool:
        """Whether the vendor may tell of ends by itself."""
        return bool(self.webhook_secret)

    @property
    def unknown(self) -> list[str]:
        """What stands in the extra and means nothing here."""
        return sorted(self.model_extra or ())

    @classmethod
    def names(cls) -> list[str]:
        return sorted(cls.model_fields)
