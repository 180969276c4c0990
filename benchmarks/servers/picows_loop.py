"""picows, a WebSocket library in Cython, without a framework."""

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

members: set[WSTransport] = set()


class Member(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        members.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        members.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            message = b"New message: " + frame.get_payload_as_bytes()
            for member in members:
                if member is not transport:
                    member.send(WSMsgType.TEXT, message)


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            message = b"Message text was: " + frame.get_payload_as_bytes()
            transport.send(WSMsgType.TEXT, message)


def make_listener(request: WSUpgradeRequest) -> WSListener:
    return Echo() if request.path == b"/ws" else Member()


async def main() -> None:
    server = await ws_create_server(make_listener, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


uvloop.run(main())
