"""The health routes."""

from fastapi import FastAPI
from fastapi.testclient import TestClient


def test_a_running_application_is_alive_and_ready(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_head_is_answered_and_only_get_is_documented(app: FastAPI) -> None:
    client = TestClient(app)
    with client:
        assert [client.head(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    assert client.head("/readyz").status_code == 503
    paths = app.openapi()["paths"]
    assert [list(paths[path]) for path in ("/livez", "/readyz")] == [["get"], ["get"]]


def test_it_is_not_ready_before_the_start_nor_after_the_stop(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/readyz").status_code == 503
    with client:
        assert client.get("/readyz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/livez").status_code == 200
