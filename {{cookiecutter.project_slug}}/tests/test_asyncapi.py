"""The documents of the WebSocket routes, which are made from the endpoints' signatures."""

from fastapi.testclient import TestClient


def test_every_websocket_route_is_documented(client: TestClient) -> None:
    document = client.get("/asyncapi.json").json()
    addresses = {channel["address"] for channel in document["channels"].values()}
{% if cookiecutter.include_echo %}
    assert "/ws" in addresses
{% endif %}
{% if cookiecutter.include_json %}
    assert "/ws_json" in addresses
{% endif %}
{% if cookiecutter.include_broadcast %}
    assert {"/ws_broadcast", "/ws_broadcast/{room}"} <= addresses
{% endif %}
{% if not cookiecutter.include_echo and not cookiecutter.include_json and not cookiecutter.include_broadcast %}
    assert addresses == set()
{% endif %}


def test_there_is_a_page_for_people(client: TestClient) -> None:
    assert "WebSocket API" in client.get("/asyncapi").text
