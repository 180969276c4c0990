"""Health routes, for load balancers and orchestrators."""

from fastapi import APIRouter, HTTPException

from ..realtime import EngineDep

router = APIRouter(tags=["health"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def livez() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
async def readyz(engine: EngineDep) -> dict[str, str]:
    """Say whether clients can be served: 503 before the start, and once a stop has begun."""
    if not engine.is_ready:
        raise HTTPException(503, "not ready")
    return {"status": "ready"}
