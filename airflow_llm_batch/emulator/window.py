"""A window into the emulator: what it has seen, what it does wrong, and its public keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Request

from airflow_llm_batch.emulator.settings import Faults

if TYPE_CHECKING:
    from airflow_llm_batch.emulator.batches import Vendor

router = APIRouter()


@router.get("/.well-known/jwks.json")
def public_keys(request: Request) -> dict[str, Any]:
    keys: dict[str, Any] = request.app.state.keys.public()
    return keys


@router.get("/_emulator/stats")
def stats(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = request.app.state.vendor.stats()
    return found


@router.put("/_emulator/faults")
def set_faults(request: Request, faults: Faults) -> Faults:
    request.app.state.vendor.settings.faults = faults
    return faults


@router.put("/_emulator/duration")
def set_duration(request: Request, seconds: Annotated[float, Body(ge=0)]) -> float:
    """Of batches that are created from now on."""
    request.app.state.vendor.settings.duration = seconds
    return seconds


@router.post("/_emulator/reset")
def reset(request: Request) -> None:
    """Forget every file, batch, call and fault."""
    vendor: Vendor = request.app.state.vendor
    store = request.app.state.store
    kept = (vendor.files, vendor.batches, vendor.keys, vendor.calls, vendor.tiers, vendor.failures, store)
    for held in kept:
        held.clear()
    vendor.settings.faults = Faults()
