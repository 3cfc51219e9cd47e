"""The checks of a job as they are given, kept and refused."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.data.expressions import OUTPUT, ROW, condition, members
from airflow_llm_batch.data.importable import PATH, NotImportable, found, path_of
from airflow_llm_batch.exceptions import ConfigurationError, InputError
from airflow_llm_batch.models import Rules

if TYPE_CHECKING:
    from airflow_llm_batch.data.requests import RequestTemplate

log = logging.getLogger(__name__)

#: what a check sees of an answer beside its output, as members of ``row``
ANSWER = (
    "text", "reasoning", "tool_calls", "choices", "citations", "embedding", "finish_reason", "input_tokens",
    "output_tokens",
)  # fmt: skip


def texts_of(checks: Any) -> tuple[str, ...] | None:
    """The ``checks`` argument as it is kept: expressions as they are, functions by their paths.

    :param checks: functions, ``module:function`` paths and expressions; None where nothing was said.
    :raises InputError: for an expression that is none.
    :raises ConfigurationError: for a function that another process would not find, and for anything else.
    """
    if checks is None:
        return None
    if isinstance(checks, str) or not isinstance(checks, Sequence):
        raise ConfigurationError(
            f"checks is {checks!r}; give a list of functions and expressions: ['output.total >= 0']. Nothing was sent."
        )
    texts = []
    for check in checks:
        if isinstance(check, str):
            if not PATH.fullmatch(check):
                condition(check)
            texts.append(check)
        elif callable(check) and not isinstance(check, type):
            texts.append(path_of(check))
        else:
            raise ConfigurationError(
                f"checks holds {check!r}; give a function of (output, row), or an expression. Nothing was sent."
            )
    return tuple(texts)


def verify(
    checks: Sequence[str],
    columns: Collection[str],
    schema: Mapping[str, Any] | None,
    *,
    free: bool = False,
    refusal: str = "Nothing was sent.",
) -> None:
    """Refuse checks that no row could pass.

    :param columns: the pass-through columns.
    :param free: there is no schema, and so no output.
    :param refusal: ends the message.
    :raises InputError: for an expression that reads what is not there.
    :raises NotImportable: for a function that is not there.
    """
    have = {ROW: {*columns, "key", *ANSWER}, OUTPUT: properties(schema)}
    for check in checks:
        if PATH.fullmatch(check):
            if not callable(found(check)):
                raise ConfigurationError(f"The check {check} is no function. {refusal}")
            continue
        condition(check)
        if free and (wanted := sorted(set(members(check, OUTPUT)))):
            raise InputError(
                f"The check {check!r} reads output.{wanted[0]}, and without a schema there is no output: give the "
                f"request one, or check row.text. {refusal}"
            )
        for of, known in have.items():
            if known is not None and (missing := sorted(set(members(check, of)) - known)):
                remedy = (
                    "Pass the column through (passthrough=[...])." if of == ROW else "The schema has no such field."
                )
                raise InputError(
                    f"The check {check!r} reads {of}.{missing[0]}, which is not there: {of} has "
                    f"{', '.join(sorted(known))}. {remedy} {refusal}"
                )


def properties(schema: Mapping[str, Any] | None) -> set[str] | None:
    """The fields that an answer can have, None where that may be any."""
    if schema is None or schema.get("additionalProperties") is not False or "properties" not in schema:
        return None
    return set(schema["properties"])


def rules_for(request: RequestTemplate | None, columns: Collection[str], checks: Sequence[str]) -> Rules:
    """The rules of the answers to a request.

    :param request: None for batch input lines, of which each may bring a schema.
    :raises NothingBilled: for checks that no answer could pass.
    """
    schema = request.schema() if request is not None else None
    verify(checks, columns, schema, free=request is not None and schema is None)
    output = getattr(request, "output", None)
    path = None
    if isinstance(output, type):
        try:
            path = path_of(output)
        except NotImportable as error:
            log.warning("Answers are held to the schema of %s alone: %s", output.__qualname__, error)
    return Rules(output_class=path, checks=tuple(checks))
