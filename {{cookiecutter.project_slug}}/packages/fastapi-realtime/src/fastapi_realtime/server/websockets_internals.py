"""All names of `websockets` that the engine uses, besides its client and exceptions."""

from websockets.frames import Close, apply_mask
from websockets.http11 import Request
from websockets.server import ServerProtocol

__all__ = ["Close", "Request", "ServerProtocol", "apply_mask"]
