"""What Airflow knows of a run."""

from __future__ import annotations

from datetime import UTC, date


def began_on(dag_id: str, run_id: str) -> date | None:
    """The UTC day on which a run was made, None where Airflow has no such run."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    asked = select(DagRun.queued_at, DagRun.start_date).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    with create_session() as session:
        found = session.execute(asked).first()
    moments = [moment for moment in found or () if moment is not None]
    return min(moments).astimezone(UTC).date() if moments else None
