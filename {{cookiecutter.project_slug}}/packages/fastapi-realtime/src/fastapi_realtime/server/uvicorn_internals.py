"""All that the engine uses of uvicorn and `websockets` beyond their documentation.

`http_protocol.py` also overrides methods and uses attributes of two of uvicorn's classes;
`tests/engine/test_uvicorn.py` of the template lists them. Hence the upper bound on uvicorn in
`pyproject.toml`.
"""

from contextlib import suppress
from typing import Any

from uvicorn.config import LOGGING_CONFIG as LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter as DefaultFormatter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HttpToolsProtocol
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle as RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected as ClientDisconnected
from uvicorn.protocols.utils import get_local_addr as get_local_addr
from uvicorn.protocols.utils import get_remote_addr as get_remote_addr
from uvicorn.protocols.utils import is_ssl as is_ssl
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState as ServerState
from websockets.frames import Close as Close
from websockets.frames import apply_mask as apply_mask
from websockets.http11 import Request as Request
from websockets.server import ServerProtocol as ServerProtocol

WEBSOCKET_PROTOCOLS: tuple[type[Any], ...] = (WebSocketsSansIOProtocol,)
"""uvicorn's protocols whose `send` writes a whole frame at once: others can write between two."""
with suppress(ImportError):
    from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

    WEBSOCKET_PROTOCOLS = (WebSocketsSansIOProtocol, WSProtocol)
