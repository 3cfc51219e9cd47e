"""Keys as most vendors take them: ``Authorization: Bearer``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import Request

if TYPE_CHECKING:
    from airflow_llm_batch.emulator.batches import Vendor


def held_by(refused: Callable[[], Exception]) -> Callable[[Request], Vendor]:
    """What every route asks for that wants a key.

    :param refused: the vendor's words for a bad one.
    """

    def vendor_of(request: Request) -> Vendor:
        vendor: Vendor = request.app.state.vendor
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key or vendor.settings.api_key not in (None, key):
            raise refused()
        return vendor

    # FastAPI reads it to know what the route is given.
    vendor_of.__annotations__ = {"request": Request}
    return vendor_of
