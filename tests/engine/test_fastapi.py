"""What the engine relies on in FastAPI beyond its documentation, all in `fastapi_internals.py`.

A new release that changes it makes one of these fail, with the name of what has changed. Without
the names, API documents say less, and applications still start.
"""

import inspect
import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import fastapi.dependencies.models
import fastapi.dependencies.utils
import fastapi.routing
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi_realtime import Admitted, fastapi_internals
from fastapi_realtime.messages import find_routes

NAMES = {
    "Dependant": fastapi.dependencies.models,
    "get_typed_signature": fastapi.dependencies.utils,
    "RouteContext": fastapi.routing,
    "iter_route_contexts": fastapi.routing,
}
LIBRARIES = {
    "fastapi_internals": ("fastapi", "starlette"),
    "uvicorn_internals": ("uvicorn", "websockets"),
}
"""The modules of internals, and the libraries whose names they have."""
CONTEXT = "endpoint methods name original_route path path_format"
"""Attributes of the context of a route that the engine reads, and that all routes have."""
WITHOUT_INTERNALS = """
import fastapi.dependencies.models, fastapi.dependencies.utils, fastapi.routing
modules = fastapi.dependencies.models, fastapi.dependencies.utils, fastapi.routing
hidden = [(module, name) for module in modules for name in NAMES if hasattr(module, name)]
kept = [getattr(*each) for each in hidden]
for module, name in hidden:
    delattr(module, name)
from fastapi_realtime import Admitted, Realtime, RealtimeSettings, add_asyncapi
for (module, name), value in zip(hidden, kept):  # FastAPI itself needs them
    setattr(module, name, value)

from typing import Annotated
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient

app = FastAPI()
Realtime(RealtimeSettings()).install(app)
add_asyncapi(app)


@app.websocket("/double")
async def double(connection: Admitted[int, int], by: Annotated[int, Query()] = 2) -> None:
    async for number in connection:
        await connection.send(by * number)


with TestClient(app) as client:
    with client.websocket_connect("/double?by=3") as websocket:
        websocket.send_json(7)
        assert websocket.receive_json() == 21
        websocket.send_text("x")
        assert websocket.receive_json()["error"]["code"] == "invalid_json"
    channels = client.get("/asyncapi.json").json()["channels"]
    assert [each["address"] for each in channels.values()] == ["/double"]
    assert list(channels["double"]["bindings"]["ws"]["query"]["properties"]) == ["by"]
    assert client.get("/asyncapi").status_code == 200
"""


@pytest.mark.parametrize("name", NAMES)
def test_fastapi_has_the_names_that_the_engine_imports(name: str) -> None:
    assert hasattr(NAMES[name], name), f"FastAPI changed: {NAMES[name].__name__}.{name} is gone"
    assert getattr(fastapi_internals, name) is getattr(NAMES[name], name)


async def dependency(number: int) -> int:
    """Return a parameter."""
    return number


async def outer() -> None:
    """Belong to all routes of a router."""


def test_contexts_have_the_attributes_that_the_engine_reads() -> None:
    app, router = FastAPI(), APIRouter(prefix="/inner", tags=["inner"])

    @router.websocket("/{item}")
    async def item(connection: Admitted, item: str, number: int = Depends(dependency)) -> None: ...

    @router.get("/{item}")
    async def get_item(item: str) -> None: ...

    app.include_router(router, prefix="/outer", dependencies=[Depends(outer)])
    contexts = {each.name: each for _, each in find_routes(app.routes)}
    for name in ("item", "get_item"):
        missing = {each for each in CONTEXT.split() if not hasattr(contexts[name], each)}
        assert not missing, f"FastAPI changed: RouteContext has no {missing}"
        assert contexts[name].path == "/outer/inner/{item}"
    assert getattr(contexts["get_item"], "include_in_schema", None) is True
    dependant: Any = getattr(contexts["item"], "dependant", None)
    assert inspect.isfunction(dependant.call)
    calls = [each.call for each in dependant.dependencies]
    assert dependency in calls
    assert [each.dependency for each in getattr(contexts["item"], "dependencies", [])] == [outer]


def test_without_them_an_application_starts_and_its_documents_say_less() -> None:
    script = WITHOUT_INTERNALS.replace("NAMES", repr([*NAMES]))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        assert f".{name}: API documents are poorer" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_stands_in_for_them_finds_the_routes_of_the_application_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = FastAPI()

    @app.websocket("/{item}")
    async def item(connection: Admitted, item: str) -> None: ...

    for name, module in NAMES.items():
        monkeypatch.delattr(module, name)
    plain = run_path(str(fastapi_internals.__file__))
    (context,) = [each for each in plain["iter_route_contexts"](app.routes) if each.name == "item"]
    assert (context.path, context.path_format, context.tags) == ("/{item}", "/{item}", None)
    assert context.endpoint is item
    assert [*plain["get_typed_signature"](item).parameters] == ["connection", "item"]


def test_there_is_a_test_for_each_module_of_internals() -> None:
    package = Path(str(fastapi_internals.__file__)).parent
    assert {path.stem for path in package.rglob("*_internals.py")} == LIBRARIES.keys()
    for library in [each for libraries in LIBRARIES.values() for each in libraries]:
        assert Path(__file__).with_name(f"test_{library}.py").exists()
