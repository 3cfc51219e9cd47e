"""What was landed, summed up row by row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from airflow_llm_batch.jobs.pricing import Cost, dollars
from airflow_llm_batch.models import ROW_STATUSES, Reason, Result

#: messages may differ row by row; only so many are told apart
MOST_REASONS = 100


@dataclass
class Tally:
    """Counts, tokens, money and reasons of results.

    :param unpriced: rows whose cost is not known.
    """

    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(ROW_STATUSES, 0)))
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    batch_cost: int = 0
    sync_cost: int = 0
    unpriced: int = 0
    models: set[str] = field(default_factory=set)
    reasons: Counter[tuple[str, str | None, str | None]] = field(default_factory=Counter)

    def add(self, result: Result, cost: Cost | None) -> None:
        self.counts[result.status] += 1
        self.input_tokens += result.input_tokens or 0
        self.cached_tokens += result.cached_tokens or 0
        self.output_tokens += result.output_tokens or 0
        if cost is None:
            self.unpriced += 1
        else:
            self.batch_cost += cost[0]
            self.sync_cost += cost[1]
        if result.model and result.model not in self.models:
            self.models.add(result.model)
        if result.status != "succeeded":
            message = result.error_message[:200] if result.error_message else None
            reason = (result.status, result.error_code, message)
            known = reason in self.reasons or len(self.reasons) < MOST_REASONS
            self.reasons[reason if known else (result.status, None, None)] += 1

    def copy(self) -> Tally:
        return replace(self, counts=Counter(self.counts), models=set(self.models), reasons=Counter(self.reasons))

    @property
    def rows(self) -> int:
        return sum(self.counts.values())

    @property
    def cost_usd(self) -> float | None:
        return None if self.unpriced else dollars(self.batch_cost)

    @property
    def sync_cost_usd(self) -> float | None:
        return None if self.unpriced else dollars(self.sync_cost)

    def top_reasons(self, most: int = 5) -> list[Reason]:
        return [
            Reason(status=status, code=code, message=message, rows=rows)
            for (status, code, message), rows in self.reasons.most_common(most)
        ]
