"""A job's end as Airflow's asset events, made where Airflow's database is: in the API server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_llm_batch.jobs.directory.awaited import Awaited

log = logging.getLogger(__name__)


def make_asset_events(awaited: Awaited, conn_id: str) -> int:
    """An event of the asset that the job's task names as its ``completion``, and of ``llm-batch://{connection}/{dag}/
    {task}``, as far as Airflow knows these assets; the job handle is their extra.

    :return: how many.
    """
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import and_, or_, select

    own = f"llm-batch://{conn_id}/{awaited.place}"
    wanted = [or_(AssetModel.uri == own, AssetModel.name == own)]
    if awaited.completion:
        wanted.append(and_(AssetModel.name == awaited.completion, AssetModel.uri == awaited.uri))
    with create_session() as session:
        assets = list(session.scalars(select(AssetModel).where(or_(*wanted))))
        for asset in assets:
            asset_manager.register_asset_change(asset=asset, extra=dict(awaited.handle), session=session)
    if awaited.completion and not any(asset.name == awaited.completion for asset in assets):
        log.warning("Airflow knows no asset %r: no DAG is scheduled on it, and nobody is told.", awaited.completion)
    return len(assets)
