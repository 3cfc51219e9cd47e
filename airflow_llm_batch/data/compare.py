"""How the answers of several models to the same rows are compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_llm_batch.exceptions import ConfigurationError

#: what a row that models answer differently has beside its pass-through columns
ANSWERS, DIFFER = "answers", "differ_in"
#: fields of an output that are compared one by one unless they are chosen
MOST_FIELDS = 50
#: what is compared where there are no fields
WHOLE = ""


@dataclass
class Compare:
    """What ``compare`` of an operator with ``models`` takes.

    :param truth: the pass-through column that holds the right answer, or ``{field of the output: column}``: each
        model's accuracy is told then. Case, blanks and final punctuation do not count, and ``"4"`` is 4.
    :param fields: of the output, which agreement and disagreement are about; all of them by default. Texts that are
        written freely (a summary, a reason) never agree, and are better left out.
    :param disagreements: rows that the models answer differently are landed alone as well, as JSON lines in the folder
        ``_disagreements`` of the destination: their pass-through columns, ``key``, ``answers`` by model and
        ``differ_in``.
    """

    truth: str | Mapping[str, str] | None = None
    fields: Sequence[str] | None = None
    disagreements: bool = False


def compare_of(given: Any) -> Compare | None:
    """The ``compare`` argument, None where nothing is to be compared.

    :raises ConfigurationError: for what is none.
    """
    if given is True:
        return Compare()
    if given is False or given is None:
        return None
    if isinstance(given, Compare) and not isinstance(given.fields, str):
        return given
    raise ConfigurationError(
        f"compare is {given!r}; give True, False, or Compare(truth=column, fields=[...], disagreements=True). Nothing "
        "was sent."
    )


def check_compare(compare: Compare, schema: Mapping[str, Any] | None, columns: Collection[str]) -> None:
    """Refuse a comparison that cannot be made.

    :param columns: the pass-through columns.
    :raises ConfigurationError: for a field or a column that is not there.
    """
    named = fields_of(compare, schema)
    known = set(properties(schema) or ())
    if unknown := sorted({*named, *truths_of(compare, schema)} - known - {WHOLE}):
        raise ConfigurationError(
            f"compare names {', '.join(unknown)}, and the output has {', '.join(sorted(known)) or 'no fields'}. "
            "Nothing was sent."
        )
    for column in truths_of(compare, schema).values():
        if column not in columns:
            raise ConfigurationError(
                f"compare takes the right answer from the column {column!r}, which is not passed through: "
                f"passthrough=[{column!r}]. Nothing was sent."
            )
    if compare.disagreements and (taken := sorted({ANSWERS, DIFFER} & set(columns))):
        raise ConfigurationError(
            f"The rows that models disagree about have {', '.join(taken)} of their own; pass the column through under "
            f"another name: passthrough={{'input_{taken[0]}': {taken[0]!r}}}. Nothing was sent."
        )


def properties(schema: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The fields of an object's schema, None of any other."""
    if schema is None:
        return None
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    root = (schema.get("$defs") or {}).get(name, schema) if name else schema
    found = root.get("properties") if isinstance(root, Mapping) else None
    return found if isinstance(found, Mapping) and found else None


def fields_of(compare: Compare, schema: Mapping[str, Any] | None) -> list[str]:
    """The fields that are compared; the whole answer's alone where it has none."""
    if compare.fields:
        return list(dict.fromkeys(compare.fields))
    return list(properties(schema) or [WHOLE])[:MOST_FIELDS]


def truths_of(compare: Compare, schema: Mapping[str, Any] | None) -> dict[str, str]:
    """Field of the output -> the column that has the right answer.

    :raises ConfigurationError: for a column alone, where it is not clear which field it is of.
    """
    if isinstance(compare.truth, Mapping):
        return dict(compare.truth)
    if not compare.truth:
        return {}
    fields = list(properties(schema) or [WHOLE])
    if len(fields) == 1:
        return {fields[0]: compare.truth}
    if compare.truth in fields:
        return {compare.truth: compare.truth}
    raise ConfigurationError(
        f"compare takes the right answer from the column {compare.truth!r}, and the output has {', '.join(fields)}: "
        f"say of which it is, truth={{{fields[0]!r}: {compare.truth!r}}}. Nothing was sent."
    )
