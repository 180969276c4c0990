"""Publishing from another process."""

import pytest
from fastapi_realtime.rooms import PublishError, post_message

from .room_app import connect_events, next_event, room_app, token_app
from .serving import Serve


def test_a_message_reaches_the_room(serve: Serve) -> None:
    url = serve(token_app(zoe={"publish": ["tea"], "join": ["tea"]}))
    with connect_events(f"{url}/rooms/tea", "zoe") as zoe:
        room = f"{url.replace('ws:', 'http:')}/rooms/tea?x=y"
        assert post_message(room, '"Hellö"', "zoe") == next_event(zoe, "message")["id"]


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("/rooms/tea", "{", "422: the body is not JSON"),
        ("/nowhere", "1", "404: Not Found"),
        ("/list", "1", "200: this is not the answer of a room"),
        ("/text", "1", "202: this is not the answer of a room"),
    ],
)
def test_an_answer_that_is_not_an_id_is_explained(
    serve: Serve, path: str, text: str, reason: str
) -> None:
    app = room_app()

    @app.post("/list")
    async def a_list() -> list[str]:
        return []

    @app.post("/text", status_code=202)
    async def a_text() -> str:
        return "text"

    with pytest.raises(PublishError, match=reason):
        post_message(serve(app).replace("ws:", "http:") + path, text)


def test_a_text_that_is_not_utf8_is_explained() -> None:
    with pytest.raises(PublishError, match="surrogates"):
        post_message("http://127.0.0.1:1/", "\udcff")


@pytest.mark.parametrize(
    "url",
    [
        "https://[::1]:1/",
        "http://127.0.0.1:no/",
        "http:///",
        "http://a b/",
        "http://[::1",
        "wss://127.0.0.1:1/",
        "127.0.0.1:8000",
    ],
)
def test_a_server_that_cannot_be_reached_is_named(url: str) -> None:
    with pytest.raises(PublishError, match=url.replace("[", ".").replace("]", ".")):
        post_message(url, "1")
