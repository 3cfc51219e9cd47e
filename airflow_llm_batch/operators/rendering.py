"""Jinja in arguments, and in what these are made of."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_llm_batch.data.failed import ResolveMixin

if TYPE_CHECKING:
    import jinja2
    from airflow.providers.common.compat.sdk import Context


class RendersArguments(BaseOperator):
    """Renders as Airflow does, but for what it would spoil: objects that tasks share, and texts that are meant so."""

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        env = jinja_env or self.get_template_env()
        seen = set() if seen_oids is None else seen_oids
        if isinstance(content, str):
            # Native rendering makes a number of "12", a list of "[1]", and takes the quotes off, whoever wrote it.
            if is_native(env) and not is_template(content, env):
                return content
        elif hasattr(type(content), "template_fields"):
            # Rendered in place, and shared by every run of the DAG object and by all of a mapped task's instances.
            content = copy.copy(content)
            for name in getattr(content, "texts", ()) if is_native(env) else ():
                texts = as_text(getattr(content, name), context, self.dag.get_template_env(force_sandboxed=True))
                setattr(content, name, texts)
                seen.add(id(texts))
            if hasattr(content, "resolve"):
                # Airflow resolves a reference and leaves what else is in it.
                for name in content.template_fields:
                    setattr(content, name, self.render_template(getattr(content, name), context, env, seen))
        return super().render_template(content, context, env, seen)


def as_text(given: Any, context: Context, env: jinja2.Environment) -> Any:
    """A text rendered as text, and every text of a list or mapping; one of None is none, and one that is a list or
    mapping, of parts or of messages, is that."""
    if isinstance(given, ResolveMixin):
        return given.resolve(context)
    if isinstance(given, list):
        return [as_text(inner, context, env) for inner in given]
    if isinstance(given, dict):
        return {name: as_text(inner, context, env) for name, inner in given.items()}
    if not (isinstance(given, str) and is_template(given, env)):
        return given
    start, end, whole = env.variable_start_string, env.variable_end_string, given.strip()
    inner = whole.removeprefix(start).removesuffix(end)
    if whole == f"{start}{inner}{end}" and start not in inner:
        value = env.compile_expression(inner)(**context)
        if isinstance(value, list | dict):
            return value
    text = env.from_string(given).render(context)
    return None if text == "None" else text


def is_native(env: jinja2.Environment) -> bool:
    """Whether an environment makes Python's objects of texts (``render_template_as_native_obj``)."""
    from jinja2.nativetypes import NativeEnvironment

    return isinstance(env, NativeEnvironment)


def is_template(text: str, env: jinja2.Environment) -> bool:
    """Whether there is anything to render, whatever marks the DAG has chosen for it."""
    marks = (env.variable_start_string, env.block_start_string, env.comment_start_string, env.line_statement_prefix)
    return any(mark in text for mark in marks if mark)
