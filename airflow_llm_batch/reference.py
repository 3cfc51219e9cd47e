"""The README's reference, made of signatures and docstrings: arguments, what they take, and configuration.

``python -m airflow_llm_batch.reference`` writes it anew; a test holds it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from airflow_llm_batch.alerts import Alerts
from airflow_llm_batch.console.run import run
from airflow_llm_batch.data import (
    AnswerCache,
    ChatRequest,
    Compare,
    DeltaTable,
    EmbeddingRequest,
    FailedRows,
    RawRequest,
    Sql,
    Table,
)
from airflow_llm_batch.operators import (
    CleanupJobsOperator,
    CompactAnswersOperator,
    CompletionOperator,
    FetchResultsOperator,
    LLMBatchOperator,
    Recovery,
    SubmitBatchOperator,
)
from airflow_llm_batch.operators.arguments import AsksRows, LandsResults
from airflow_llm_batch.operators.rounds import RunsRounds
from airflow_llm_batch.provider_info import OPTIONS
from airflow_llm_batch.providers.describe import README, framed
from airflow_llm_batch.sensors import BatchSensor
from airflow_llm_batch.triggers import completion_asset

#: who takes arguments, by the name that the table has for it
TAKERS: dict[str, Callable[..., Any]] = {
    "Submit": SubmitBatchOperator,
    "LLMBatch": LLMBatchOperator,
    "Completion": CompletionOperator,
    "Fetch": FetchResultsOperator,
    "BatchSensor": BatchSensor,
    "Cleanup": CleanupJobsOperator,
    "Compact": CompactAnswersOperator,
    "run": run,
}
#: what arguments take
THINGS = (
    ChatRequest, EmbeddingRequest, RawRequest, Sql, FailedRows, Table, DeltaTable, AnswerCache, Compare, Recovery,
    Alerts, completion_asset,
)  # fmt: skip
#: whose docstring says what the arguments mean that operators share
SAID_BY: dict[Any, Any] = {
    AsksRows: SubmitBatchOperator,
    LandsResults: FetchResultsOperator,
    RunsRounds: LLMBatchOperator,
}
PARAM = re.compile(r":param (\w+): (.*?)(?=\n\s*:\w|\n\n|\Z)", re.DOTALL)
REFERRED = re.compile("as ``FetchResultsOperator``")


class Argument(NamedTuple):
    """One row: what is the same for all that take it."""

    name: str
    default: str
    rendered: bool
    meaning: str


def said(thing: Any) -> dict[str, str]:
    """Parameter -> what the docstring says of it, on one line."""
    return {name: " ".join(text.split()) for name, text in PARAM.findall(inspect.getdoc(thing) or "")}


def family(taker: Any) -> list[Any]:
    """A class and those of this package that it inherits from, or a function alone."""
    kin = taker.__mro__ if inspect.isclass(taker) else [taker, LLMBatchOperator, *LLMBatchOperator.__mro__]
    return [one for one in kin if one.__module__.startswith("airflow_llm_batch.")]


def parameters(taker: Any) -> dict[str, inspect.Parameter]:
    """Its own arguments, and of a class those that it inherits, without Airflow's; what it sets itself aside."""
    makers = [one for one in family(taker) if "__init__" in vars(one)] if inspect.isclass(taker) else [taker]
    found: dict[str, inspect.Parameter] = {}
    for maker in makers:
        for name, given in inspect.signature(maker.__init__ if inspect.isclass(maker) else maker).parameters.items():
            if name != "self" and given.kind not in (given.VAR_KEYWORD, given.VAR_POSITIONAL):
                found.setdefault(name, given)
    return found


def meaning(taker: Any, name: str) -> str:
    """What an argument means: in its own docstring, or in that of whoever shares it.

    :raises LookupError: where nobody says it.
    """
    texts = [said(one) for kin in family(taker) for one in (kin, SAID_BY.get(kin)) if one is not None]
    meanings = [text[name] for text in texts if name in text]
    # "as FetchResultsOperator" is of use in an editor; here it stands some rows away.
    if whole := [text for text in meanings if not REFERRED.match(text)] or meanings:
        return whole[0]
    for text in texts:
        for other, words in text.items():
            if f"``{name}``" in words:
                return f"see ``{other}``"
    raise LookupError(f"No docstring says what {name} of {taker.__name__} is.")


def shown(default: Any) -> str:
    """A default as it would be written; empty where there is none."""
    if default is inspect.Parameter.empty:
        return "*required*"
    if isinstance(default, timedelta):
        hours = default.total_seconds() / 3600
        return f"`timedelta(hours={hours:g})`" if hours <= 48 else f"`timedelta(days={hours / 24:g})`"
    # A dataclass's default that is made anew each time.
    return "`{}`" if type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS" else f"`{default!r}`"


def arguments(taker: Any) -> Iterator[Argument]:
    rendered = getattr(taker, "template_fields", ())
    for name, given in parameters(taker).items():
        yield Argument(name, shown(given.default), name in rendered, meaning(taker, name))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells as docstrings write them."""
    lines = [head, ["---"] * len(head), *rows]
    written = (" | ".join(re.sub(r"``+", "`", cell).replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join(f"| {line} |" for line in written)


def argument_table() -> str:
    """Every argument with whoever takes it; those that most take first."""
    takers: dict[tuple[str, str, str], list[str]] = {}
    rendered: dict[tuple[str, str, str], bool] = {}
    for who, taker in TAKERS.items():
        for one in arguments(taker):
            row = (one.name, one.default, one.meaning)
            takers.setdefault(row, []).append(who)
            rendered[row] = rendered.get(row, False) or one.rendered
    order = list(TAKERS)
    rows = sorted(takers, key=lambda row: (order.index(takers[row][0]), -len(takers[row])))
    return table(
        ("argument", "of", "default", "Jinja", "meaning"),
        [(f"`{row[0]}`", ", ".join(takers[row]), row[1], "yes" if rendered[row] else "", row[2]) for row in rows],
    )


def thing_table() -> str:
    """What arguments take: requests, sources, destinations, choices."""
    rows = [
        (f"`{thing.__name__}`", f"`{one.name}`", one.default, one.meaning)
        for thing in THINGS
        for one in arguments(thing)
    ]
    return table(("of", "argument", "default", "meaning"), rows)


def config_table() -> str:
    """The options below ``[llm_batch]``."""

    def code(value: Any) -> str:
        return f"`{value}`" if value else ""

    rows = [
        (f"`{name}`", code(option["default"]), option["description"], code(option["example"]))
        for name, option in OPTIONS.items()
    ]
    return table(("option", "default", "meaning", "example"), rows)


MADE: Mapping[str, Callable[[], str]] = {
    "arguments": argument_table,
    "things": thing_table,
    "configuration": config_table,
}


def with_reference(readme: str) -> str:
    """The README with its reference as it is now."""
    for name, make in MADE.items():
        between = re.compile(rf"(<!-- {name} -->\n).*(<!-- end of {name} -->)", re.DOTALL)
        readme = between.sub(partial(framed, make()), readme)
    return readme


if __name__ == "__main__":
    README.write_text(with_reference(README.read_text()))
