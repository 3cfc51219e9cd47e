"""``@task.llm_rows``: a function that returns rows, run as an ``LLMBatchOperator``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    TaskDecorator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_llm_batch.operators.llm_batch import LLMBatchOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class LLMRowsDecoratedOperator(DecoratedOperator, LLMBatchOperator):
    """Calls the function for the rows, then does what ``LLMBatchOperator`` does.

    The function must return the same rows at every try of one run: other rows are other input. What it returns is not
    rendered; it is somebody else's text.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in LLMBatchOperator.template_fields if name != "rows"),
    )
    custom_operator_name = "@task.llm_rows"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, **kwargs)

    def given_rows(self, context: Context) -> Any:
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        return self.python_callable(*self.op_args, **kwargs)


def llm_rows_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """Make a function that returns rows (a list, a URI, ``Sql``) an ``@task.llm_rows`` task.

    :param kwargs: of ``LLMBatchOperator``, but for ``rows``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=LLMRowsDecoratedOperator, **kwargs
    )
