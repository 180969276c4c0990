"""All that this project touches of its server, uvicorn, beyond what uvicorn documents.

- `http_protocol.py` extends `HttpToolsProtocol`; `sliced_protocol.py` and `websocket_protocol.py`
  extend `WebSocketsSansIOProtocol`: they override callbacks, and read and set attributes.
- `inbox.py` takes the place of that protocol's `queue`; `frames.py` unmasks with `apply_mask` of
  `websockets`.
- `fast_path.py` finds the protocol that `send` and `receive` belong to, or whose `run_asgi` the
  current task runs, and writes to its `transport`.
- `stop_signals.py` finds uvicorn's `Server` among the handlers of signals.
- `logging.py` starts from `LOGGING_CONFIG`, extends `DefaultFormatter`, and filters log records,
  some of which `websockets` writes, by their message.

`tests/realtime/test_uvicorn.py` names what a new release of uvicorn has changed of these.
"""
