"""Health routes, for load balancers and orchestrators."""

from fastapi import APIRouter, HTTPException
from fastapi_realtime import RealtimeDep

router = APIRouter(tags=["health"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def livez() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
async def readyz(realtime: RealtimeDep) -> dict[str, str]:
    """Say whether clients can be served: 503 before the start, and once a stop has begun."""
    if not realtime.is_ready:
        raise HTTPException(503, "not ready")
    return {"status": "ready"}
