"""All names of `websockets` that the engine uses, besides its client and exceptions."""

from websockets.frames import Close, Frame, Opcode, apply_mask
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

__all__ = ["OPEN", "Close", "Frame", "Opcode", "Request", "ServerProtocol", "apply_mask"]
