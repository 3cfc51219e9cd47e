"""What an answer has to be beyond JSON that fits its schema: a valid instance of its class, and what a job's checks
want. An answer that is not is ``invalid``, by the same path in every lane."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from inspect import getattr_static
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel, ValidationError

from airflow_llm_batch.data.checks import ANSWER
from airflow_llm_batch.data.expressions import condition
from airflow_llm_batch.data.importable import PATH, NotImportable, found, short
from airflow_llm_batch.data.outputs import OutputCheck, refuse
from airflow_llm_batch.data.values import to_json
from airflow_llm_batch.models import Rules
from airflow_llm_batch.results import Result

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

#: codes of rows that are ``invalid`` for these reasons
NOT_VALID, FAILED, CRASHED = "validation_failed", "check_failed", "check_crashed"
#: decides a row's status by its answer, its key and its pass-through columns, the last two as JSON
Check = Callable[[Result, msgspec.Raw, msgspec.Raw], None]


class Instance:
    """Validates an answer as a Pydantic class. What the class makes of it is the output from then on.

    :param schema: the class's own.
    """

    def __init__(self, model: Any, schema: Mapping[str, Any], fits: OutputCheck) -> None:
        self.model, self.name, self.is_valid = model, model.__name__, fits.is_valid
        # Every answer is read and written: without the methods around it that takes a third less. A class that has
        # methods of its own keeps them.
        self.is_usual = getattr(model, "__pydantic_complete__", False) and all(
            getattr_static(model, name) is getattr_static(BaseModel, name)
            for name in ("model_validate_json", "model_dump")
        )
        if self.is_usual:
            self.read, serializer = model.__pydantic_validator__.validate_json, model.__pydantic_serializer__
            self.write, self.write_json = serializer.to_python, serializer.to_json
        written = to_json(schema)
        self.has_sets = b'"uniqueItems"' in written
        # Pydantic writes stars for its secrets: such an answer stays as the model wrote it.
        self.has_secrets = b'"writeOnly":true' in written

    def __call__(self, result: Result) -> None:
        try:
            data = to_json(result.output)
            made = self.read(data) if self.is_usual else self.model.model_validate_json(data)
        except ValidationError as error:
            refuse(result, NOT_VALID, f"The answer is no valid {self.name}{problems(error)}")
        except Exception as error:
            refuse(result, CRASHED, f"Validating the answer as {self.name} crashed: {type(error).__name__}: {error}")
        else:
            # One that is written otherwise than it is read would not fit the columns that the schema has promised.
            try:
                if self.has_secrets or self.is_written_as(made, data):
                    return
                if self.is_valid(output := self.dumped(made)):
                    result.output = output
            except Exception:  # noqa: S110  (it stays as the model has written it)
                pass

    def is_written_as(self, made: Any, data: bytes) -> bool:
        """Whether the class has changed nothing of an answer, byte for byte: mostly it has not."""
        return (
            self.is_usual
            and not self.has_sets
            and type(made) is self.model
            and self.write_json(made, by_alias=True, round_trip=True, warnings=False) == data
        )

    def dumped(self, made: Any) -> Any:
        output = self.written(made, mode="json")
        return in_order(output, self.written(made)) if self.has_sets else output

    def written(self, made: Any, **how: str) -> Any:
        # A validator may have made an instance of another class.
        if self.is_usual and type(made) is self.model:
            return self.write(made, by_alias=True, round_trip=True, warnings=False, **how)
        return made.model_dump(by_alias=True, round_trip=True, warnings=False, **how)


def in_order(written: Any, made: Any) -> Any:
    """A JSON value with what were sets in order: the same answer makes the same bytes in every process."""
    if isinstance(made, Mapping):
        return {name: in_order(value, part) for (name, value), part in zip(written.items(), made.values(), strict=True)}
    if isinstance(made, set | frozenset):
        return sorted(written, key=to_json)
    if isinstance(made, list | tuple):
        return [in_order(value, part) for value, part in zip(written, made, strict=True)]
    return written


def problems(error: ValidationError) -> str:
    """The first of a validation's complaints, with its place."""
    first, *more = error.errors(include_url=False, include_context=False, include_input=False)
    place = "".join(f"[{part!r}]" for part in first["loc"])
    others = f" (and {len(more)} more)" if more else ""
    return f"{f' at {place}' if place else ''}: {first['msg'].removeprefix('Value error, ')}{others}"


class RowCheck:
    """Decides whether an answer is good: by its schema, its class and the job's checks, in this order.

    :ivar is_short: its class is not there, and answers are held to the schema and the checks.
    :raises NotImportable: for a check that is not there: nothing unchecked is called succeeded.
    """

    def __init__(self, schema: dict[str, Any] | None, rules: Rules, log: Logger | logging.Logger) -> None:
        self.fits = OutputCheck(schema) if schema is not None else None
        self.instance: Instance | None = None
        self.is_short = False
        if rules.output_class is not None and self.fits is not None and schema is not None:
            try:
                self.instance = Instance(found(rules.output_class), schema, self.fits)
            except NotImportable as error:
                self.is_short = True
                log.warning(
                    "Answers are checked against their schema alone, its class's validators do not run: %s", error
                )
        self.checks = [(name_of(check), runner(check)) for check in rules.checks]

    def __call__(self, result: Result, key: msgspec.Raw, columns: msgspec.Raw) -> None:
        if self.fits is not None:
            self.fits(result)
            if self.instance is not None and result.status == "succeeded" and not result.tool_calls:
                self.instance(result)
        if self.checks and result.status == "succeeded":
            self.run(result, key, columns)
        if result.status == "invalid":
            result.output = None

    def run(self, result: Result, key: msgspec.Raw, columns: msgspec.Raw) -> None:
        """Apply the checks, up to the first that does not pass."""
        row = seen(result, key, columns)
        for name, check in self.checks:
            try:
                reason = check(result.output, row)
            except (ValueError, AssertionError) as error:
                reason = str(error) or type(error).__name__
            except Exception as error:
                refuse(result, CRASHED, f"{name} crashed: {type(error).__name__}: {error}")
                return
            if reason is not None:
                refuse(result, FAILED, f"{name}: {reason}" if reason else f"{name} does not hold.")
                return


def seen(result: Result, key: msgspec.Raw, columns: msgspec.Raw) -> dict[str, Any]:
    """A row as its checks see it."""
    row = {name: getattr(result, name) for name in ANSWER}
    if isinstance(row["embedding"], msgspec.Raw):
        row["embedding"] = msgspec.json.decode(row["embedding"])
    row["key"] = msgspec.json.decode(key)
    row.update(msgspec.json.decode(columns))
    return row


def name_of(check: str) -> str:
    """What a reason begins with."""
    return short(check) if PATH.fullmatch(check) else check


def runner(check: str) -> Callable[[Any, dict[str, Any]], str | None]:
    """A check as a function that returns None for good, and else the reason, which may be empty."""
    if not PATH.fullmatch(check):
        holds = condition(check)
        return lambda output, row: None if holds(output, row) else ""
    function = found(check)

    def run(output: Any, row: dict[str, Any]) -> str | None:
        verdict = function(output, row)
        if verdict is None or (isinstance(verdict, str) and verdict):
            return verdict
        # numpy has truths of its own.
        if type(verdict).__name__ in ("bool", "bool_"):
            return None if verdict else ""
        raise TypeError(f"it has returned {verdict!r}; return True, False or a reason")

    return run


def row_check(schema: dict[str, Any] | None, rules: Rules, log: Logger | logging.Logger) -> Check | None:
    """What a job's answers have to pass, None where all do."""
    if rules != Rules():
        return RowCheck(schema, rules, log)
    return OutputCheck(schema) if schema is not None else None
