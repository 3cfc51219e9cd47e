"""Jinja in arguments, and in what these are made of."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

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
                if isinstance(text := getattr(content, name), str) and is_template(text, env):
                    text = self.dag.get_template_env(force_sandboxed=True).from_string(text).render(context)
                    setattr(content, name, None if text == "None" else text)
                    seen.add(id(text))
            if hasattr(content, "resolve"):
                # Airflow resolves a reference and leaves what else is in it.
                for name in content.template_fields:
                    setattr(content, name, self.render_template(getattr(content, name), context, env, seen))
        return super().render_template(content, context, env, seen)


def is_native(env: jinja2.Environment) -> bool:
    """Whether an environment makes Python's objects of texts (``render_template_as_native_obj``)."""
    from jinja2.nativetypes import NativeEnvironment

    return isinstance(env, NativeEnvironment)


def is_template(text: str, env: jinja2.Environment) -> bool:
    """Whether there is anything to render, whatever marks the DAG has chosen for it."""
    marks = (env.variable_start_string, env.block_start_string, env.comment_start_string, env.line_statement_prefix)
    return any(mark in text for mark in marks if mark)
