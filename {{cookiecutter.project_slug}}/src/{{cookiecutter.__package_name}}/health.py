"""Health routes, for load balancers and orchestrators."""

from fastapi import APIRouter, HTTPException, Request

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """Say whether new clients are welcome: 503 before the start and after the stop."""
    if not request.app.state.ready:
        raise HTTPException(503, "not ready")
    return {"status": "ready"}
