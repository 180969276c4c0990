"""Health routes, for load balancers and orchestrators."""

from fastapi import APIRouter, HTTPException, Request

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Say whether new clients are welcome: 503 before the start, and once the end has begun."""
    state = request.app.state
    if not state.is_running or state.drain.has_begun:
        raise HTTPException(503, "not ready")
    return {"status": "ready"}
