"""Whatever vendors answer and rows carry, for hypothesis."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from hypothesis import strategies as st

from airflow_llm_batch.data.values import Nanoseconds, plain, to_json

FINE = Nanoseconds("2026-01-01T00:00:00.000000001")
words = st.text(max_size=4) | st.sampled_from(["\ud800", "a\udfff", "", "1E400"])
numbers = st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.just(10**400)
anything = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
cells: Any = (
    anything | st.binary(max_size=3) | st.dates() | st.times() | st.datetimes(timezones=st.none() | st.just(dt.UTC))
)
cells |= st.decimals(allow_nan=False, allow_infinity=False) | st.just(FINE) | st.timedeltas()
vectors = st.none() | st.lists(numbers | st.none(), max_size=3) | st.lists(st.lists(numbers, max_size=2), max_size=2)
vectors |= st.sampled_from([msgspec.Raw(b"[1e400]"), msgspec.Raw(b"[0.5,1]"), [msgspec.Raw(b"[1]")]])
fields = st.fixed_dictionaries(
    {},
    optional={
        "text": words, "reasoning": words, "output": anything, "embedding": vectors, "model": words,
        "finish_reason": words, "error_code": words, "error_message": words, "input_tokens": numbers | anything,
        "output_tokens": st.integers(-(2**65), 2**65), "cost_usd": st.floats() | st.none(), "choices": anything,
        "logprobs": anything, "citations": anything, "raw": anything,
        "tool_calls": st.lists(st.fixed_dictionaries({"id": words, "name": words, "arguments": anything}), max_size=2),
    },
)  # fmt: skip


def encoded(value):
    """A cell as planning takes it, or nothing where it refuses such rows itself."""
    try:
        value = plain(value)
        to_json(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return value
