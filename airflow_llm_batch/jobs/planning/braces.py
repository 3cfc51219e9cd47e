"""What a request's braces mean for the rows that there are, and templates that would ask nothing of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.exceptions import InputError

if TYPE_CHECKING:
    from airflow_llm_batch.data.requests import RequestTemplate


def check_template(template: RequestTemplate | None, row: Mapping[str, Any], number: int) -> None:
    """Refuse a template that would ask the same of every row.

    :raises InputError: also for one with a column's name in Jinja's braces, which would go out as it stands.
    """
    if template is None or template.columns() is None:
        return
    if names := sorted(template.jinja_names() & row.keys()):
        raise InputError(
            f"The request has '{{{{ {names[0]} }}}}', Jinja's way; a column is written {{{names[0]}}} here. "
            "Nothing was sent."
        )
    if number == 1 and not template.columns():
        raise InputError(
            "The request names no column of its rows, so all of them would be asked the same. Write {column} where a "
            f"row's value belongs; the rows have {', '.join(map(repr, row)) or 'no columns'}. ({{{{ column }}}} is "
            "Jinja's: Airflow has filled it, with nothing, before the task ran.) Nothing was sent."
        )


def needs_columns(template: RequestTemplate | None) -> bool:
    """Whether the rows' columns tell what the request's braces mean."""
    return template is not None and template.columns() is not None and template.depends_on_columns()


def check_meaning(template: RequestTemplate | None, row: Mapping[str, Any]) -> None:
    """:raises InputError: for a row whose columns would make placeholders of what was none in the first."""
    if template is not None and (new := template.met(row).known.keys() - template.known.keys()):
        name = min(new)
        raise InputError(
            f"it has a column that the request's {{{name}}} means, and the first row has none such; give it to every "
            f"row, or write {{{{{name}}}}} for the braces themselves"
        )
