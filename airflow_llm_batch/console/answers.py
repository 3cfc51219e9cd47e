"""What a run outside of a task gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_llm_batch.storage import storage_path

if TYPE_CHECKING:
    from airflow_llm_batch.results import Manifest


class Answers:
    """One record per row, read from the landed files as they are walked: memory does not grow with rows.

    The records are those that ``FetchResultsOperator`` lands, in the order of the batches; ``row`` and ``key`` say
    whose each is.

    :ivar job: URI of the job directory, where the same run again goes on.
    :ivar summary: what was landed, as the operators' XCom has it; of a run that only plans, the estimate.
    :ivar files: URIs of the landed files.
    """

    def __init__(self, name: str, job: str, summary: dict[str, Any], manifest: Manifest | None = None) -> None:
        self.name, self.job, self.summary, self.manifest = name, job, summary, manifest
        self.files: list[str] = list(summary.get("files", ()))

    @property
    def cost_usd(self) -> float | None:
        """Dollars, None where a price is not known."""
        cost: float | None = self.summary.get("cost_usd")
        return cost

    @property
    def counts(self) -> dict[str, int]:
        """Rows per status."""
        counts: dict[str, int] = self.summary.get("counts", {})
        return counts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from airflow_llm_batch.data.files import read_file

        for file in self.files:
            for _, record in read_file(storage_path(file)):
                yield record

    def __len__(self) -> int:
        return int(self.summary["rows"]) if self.files else 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name!r}: {self.summary['message']}>"
