"""Close codes that reach a browser while it is sending."""

import pytest
from fastapi.responses import HTMLResponse

from ..engine.serving import Serve, echo_app
from .conftest import OpenPage

pytestmark = pytest.mark.anyio

CLOSE_CODES = """async ([url, size]) => {
    const codes = [];
    while (codes.length < 20) {
        const socket = new WebSocket(url);
        socket.onopen = () => socket.send(new Uint8Array(size));
        codes.push((await new Promise((resolve) => (socket.onclose = resolve))).code);
    }
    return codes;
}"""


@pytest.mark.parametrize("size", [65_600, 70_000, 1_000_000, 4_000_000])
async def test_browser_learns_that_a_message_is_too_big(
    open_page: OpenPage, serve: Serve, size: int
) -> None:
    app = echo_app(max_message_bytes=65_536)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return '<link rel="icon" href="data:,">'

    url = serve(app)
    opened = await open_page(url)
    assert await opened.evaluate(CLOSE_CODES, [f"{url}/all", size]) == [1009] * 20
