"""What was landed, summed up row by row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_llm_batch.jobs.money.pricing import Cost
from airflow_llm_batch.jobs.money.rates import dollars, picodollars
from airflow_llm_batch.results import Failure, Manifest, Reason, Result, Usage

#: messages may differ row by row; only so many are told apart
MOST_REASONS = 100


@dataclass(slots=True)
class Sums:
    """What the requests of one model and status used; money in picodollars.

    :param unpriced: requests whose cost is not known; ``unlisted``, those whose list price is not, whatever the vendor
        says that it has charged; ``counted``, requests whose usage is.
    :param uncached: what the same tokens cost where nothing is cached.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    batch_cost: int = 0
    sync_cost: int = 0
    unpriced: int = 0
    counted: int = 0
    cache_write_tokens: int = 0
    uncached: int = 0
    unlisted: int = 0

    def add(self, other: Sums) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def cost_usd(self) -> float | None:
        return None if self.unpriced else dollars(self.cost)

    @property
    def batch_cost_usd(self) -> float | None:
        return None if self.unlisted else dollars(self.batch_cost)

    @property
    def sync_cost_usd(self) -> float | None:
        return None if self.unlisted else dollars(self.sync_cost)

    @property
    def saving_usd(self) -> float | None:
        return None if self.unlisted else dollars(self.sync_cost - self.cost)

    @property
    def cache_saving_usd(self) -> float | None:
        return None if self.unlisted else dollars(self.uncached - self.cost)


@dataclass
class Tally:
    """Tokens and money by model and status, and the reasons of rows that did not succeed."""

    sums: dict[tuple[str, str], Sums] = field(default_factory=dict)
    reasons: Counter[tuple[str, str | None, str | None]] = field(default_factory=Counter)
    #: rows that nobody was asked, by lane, model and status; what their answers had cost in picodollars, and how many
    #: of them had no price
    spared: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    worth: int = 0
    unpriced: int = 0

    def spare(self, result: Result, lane: str, worth: float | None) -> None:
        """Add a row that nobody was asked.

        :param worth: dollars that its answer had cost, None where that is not known.
        """
        self.spared[lane, result.model or "", result.status] += 1
        self.worth += picodollars(worth)
        self.unpriced += result.answered_by is not None and worth is None

    def spared_figures(self) -> dict[str, Any]:
        lanes: Counter[str] = Counter()
        for (lane, _, _), rows in self.spared.items():
            lanes[lane] += rows if lane != "none" else 0
        return {
            "spared": {lane: rows for lane, rows in lanes.items() if rows},
            "spared_usd": None if self.unpriced else dollars(self.worth),
        }

    def add(self, result: Result, cost: Cost | None, uncached: Cost | None) -> None:
        """:param uncached: what the same tokens cost where nothing is cached."""
        kind = (result.model or "", result.status)
        sums = self.sums.get(kind)
        if sums is None:
            sums = self.sums[kind] = Sums()
        sums.requests += 1
        sums.input_tokens += result.input_tokens or 0
        sums.cached_tokens += result.cached_tokens or 0
        sums.output_tokens += result.output_tokens or 0
        sums.cache_write_tokens += result.cache_write_tokens or 0
        sums.counted += result.input_tokens is not None
        if cost is None or cost.batched is None or cost.sync is None or uncached is None:
            sums.unlisted += 1
        else:
            sums.batch_cost += cost.batched
            sums.sync_cost += cost.sync
            sums.uncached += uncached.paid
        if cost is None:
            sums.unpriced += 1
        else:
            sums.cost += cost.paid

    def add_reason(self, failed: Failure) -> None:
        message = failed.error_message[:200] if failed.error_message else None
        reason = (failed.status, failed.error_code, message)
        known = reason in self.reasons or len(self.reasons) < MOST_REASONS
        self.reasons[reason if known else (failed.status, None, None)] += 1

    def add_usage(self, manifest: Manifest) -> None:
        """What an earlier round used."""
        for line in manifest.usage:
            cost = picodollars(line.cost_usd)
            used = Sums(
                line.requests, line.input_tokens, line.cached_tokens, line.output_tokens,
                cost, picodollars(line.batch_cost_usd), picodollars(line.sync_cost_usd),
                0 if line.cost_usd is not None else line.requests,
                cache_write_tokens=line.cache_write_tokens, uncached=cost + picodollars(line.cache_saving_usd),
                unlisted=0 if line.sync_cost_usd is not None else line.requests,
            )  # fmt: skip
            self.sums.setdefault((line.model, line.status), Sums()).add(used)

    def copy(self) -> Tally:
        sums = {kind: replace(sums) for kind, sums in self.sums.items()}
        return Tally(sums, Counter(self.reasons), Counter(self.spared), self.worth, self.unpriced)

    @property
    def requests(self) -> int:
        return sum(sums.requests for sums in self.sums.values())

    @property
    def counts(self) -> Counter[str]:
        """Rows by status, those that nobody was asked too."""
        counts = self.answered()
        for (_, _, status), rows in self.spared.items():
            counts[status] += rows
        return counts

    def answered(self) -> Counter[str]:
        """Requests by status."""
        counts: Counter[str] = Counter()
        for (_, status), sums in self.sums.items():
            counts[status] += sums.requests
        return counts

    @property
    def total(self) -> Sums:
        total = Sums()
        for sums in self.sums.values():
            total.add(sums)
        return total

    @property
    def models(self) -> list[str]:
        asked, spared = (model for model, _ in self.sums), (model for _, model, _ in self.spared)
        return sorted({model for model in (*asked, *spared) if model})

    def by_model(self) -> dict[str, dict[str, Sums]]:
        """What each model used, by status, and over ``all``."""
        found: dict[str, dict[str, Sums]] = {}
        for (model, status), sums in self.sums.items():
            of_model = found.setdefault(model, {"all": Sums()})
            of_model["all"].add(sums)
            of_model[status] = sums
        return found

    def usage(self) -> list[Usage]:
        return [
            Usage(
                model=model,
                status=status,
                requests=sums.requests,
                input_tokens=sums.input_tokens,
                cached_tokens=sums.cached_tokens,
                output_tokens=sums.output_tokens,
                cost_usd=sums.cost_usd,
                batch_cost_usd=sums.batch_cost_usd,
                sync_cost_usd=sums.sync_cost_usd,
                cache_write_tokens=sums.cache_write_tokens,
                cache_saving_usd=sums.cache_saving_usd,
            )
            for (model, status), sums in sorted(self.sums.items())
        ]

    def top_reasons(self, most: int = 5) -> list[Reason]:
        return [
            Reason(status=status, code=code, message=message, rows=rows)
            for (status, code, message), rows in self.reasons.most_common(most)
        ]
