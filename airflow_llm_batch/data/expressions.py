"""Conditions over a row and its answer, written as Jinja expressions: ``output.total == row.amount``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from airflow_llm_batch.exceptions import InputError

#: what an expression is about
OUTPUT, ROW = "output", "row"


class Expressions(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, where ``row.items`` is the column of that name and not a method of mappings."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


ENVIRONMENT = Expressions(undefined=StrictUndefined)


def condition(text: str) -> Callable[[Any, Mapping[str, Any]], bool]:
    """An expression as a function of the output and the row; what is neither there nor tested for is an error of it.

    :raises InputError: for what is no expression, and for a name that nothing has.
    """
    tree = parsed(text)
    if unknown := sorted(find_undeclared_variables(tree) - {OUTPUT, ROW}):
        raise InputError(
            f"The check {text!r} names {', '.join(unknown)}; an expression is about output (the answer, where it has a "
            "schema) and row (the pass-through columns, key, text and what else the answer has). Nothing was sent."
        )
    holds = ENVIRONMENT.compile_expression(text, undefined_to_none=False)
    return lambda output, row: bool(holds(output=output, row=row))


def parsed(text: str) -> nodes.Template:
    """:raises InputError: for what is no expression."""
    try:
        # Alone it would be an expression too when it ends the braces that it is put into here.
        ENVIRONMENT.compile_expression(text)
        return ENVIRONMENT.parse(f"{{{{ {text}\n}}}}")
    except TemplateSyntaxError as error:
        raise InputError(
            f"The check {text!r} is no expression ({error.message}); write a condition such as "
            "'output.total >= 0 and output.label != row.label', or give a function. Nothing was sent."
        ) from None


def members(text: str, of: str) -> Iterator[str]:
    """The members of ``row`` or of ``output`` that an expression reads by a fixed name, and does not only look for."""
    tree = parsed(text)
    looked_for = {id(test.node) for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")} | {
        id(used.node) for used in tree.find_all(nodes.Filter) if used.name in ("default", "d")
    }
    for read in tree.find_all(nodes.Getattr):
        if is_name(read.node, of) and id(read) not in looked_for:
            yield read.attr
    for item in tree.find_all(nodes.Getitem):
        if is_name(item.node, of) and id(item) not in looked_for and isinstance(item.arg, nodes.Const):
            yield str(item.arg.value)


def is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name
