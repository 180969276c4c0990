"""Level 1: all code in the documents of a project works as it stands there."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import PACKAGE, Bake, run_module
from .test_rendering import owners_files, package

FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"`((?:endpoints/|tests/|)\w+\.py)`[^`]*\Z")
"""The file that a block of code is to be written to, named at the end of the text before it."""
KITCHEN = """
from fastapi.testclient import TestClient

from .test_broadcast import listener


def test_an_order_reaches_both_rooms(client: TestClient) -> None:
    with listener(client, "/tea") as tea, listener(client, "/kitchen") as kitchen:
        id = client.post("/kitchen?number=7").json()
        assert tea.receive_json()["id"] == id
        assert kitchen.receive_json()["data"] == {"order": 7}
"""
ASSISTANT = """
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from my_websocket_app.endpoints import assistant
from starlette.testclient import WebSocketTestSession


def connect(client: TestClient, query: str) -> WebSocketTestSession:
    return client.websocket_connect(f"/assistant/lobby?{query}", ["events.v1"])


def next_event(websocket: WebSocketTestSession, kind: str) -> dict[str, Any]:
    while (event := websocket.receive_json())["type"] != kind:
        pass
    return event


def ask(websocket: WebSocketTestSession, data: object) -> None:
    websocket.send_text(json.dumps({"type": "message", "data": data}))


def test_an_answer_grows_and_who_reloads_goes_on_where_it_is(client: TestClient) -> None:
    with connect(client, "") as zoe:
        ask(zoe, "Tea or coffee?")
        answer = next_event(zoe, "message")["id"]
        seen = next_event(zoe, "append")
        text = seen["data"]
        with connect(client, f"since={seen['id']}") as again, connect(client, "last=5") as new:
            while not text.endswith("coffee? "):
                event = next_event(again, "append")
                assert event["to"] == answer
                text += event["data"]
            assert text == "You have asked: Tea or coffee? "
            read = ""
            while read != text:
                read += next_event(new, "append")["data"]
    (last,) = client.get("/ws_broadcast/lobby?last=1").json()["messages"]
    assert (last["id"], last["data"]) == (answer, text)


def test_an_answer_can_be_stopped(client: TestClient) -> None:
    with connect(client, "") as zoe:
        ask(zoe, "A " * 1000)
        next_event(zoe, "append")
        ask(zoe, {"stop": True})
        with connect(client, "last=1") as new:
            assert next_event(new, "message")["data"] == {"stop": True}
            next_event(new, "present")
        ask(zoe, "Once more?")
        answer = next_event(zoe, "message")["id"]
        while (event := next_event(zoe, "append"))["to"] != answer:
            pass
        assert event["data"] == "You "
    while assistant.answers:
        client.get("/livez")


def test_an_answer_may_be_long(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stream(question: str) -> AsyncIterator[str]:
        for _ in range(300):
            yield "x" * 1000
        yield "end"

    monkeypatch.setattr(assistant, "stream", stream)
    with connect(client, "") as zoe:
        ask(zoe, "Why?")
        while next_event(zoe, "append")["data"] != "end":
            pass


def test_an_answer_ends_when_nobody_is_left(client: TestClient) -> None:
    with connect(client, "") as zoe:
        ask(zoe, "A " * 1000)
        next_event(zoe, "append")
    while assistant.answers:
        client.get("/livez")
    (last,) = client.get("/ws_broadcast/lobby?last=1").json()["messages"]
    assert len(last["data"]) < 1000
"""
ITEMS = """
import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse


def test_parameters_reach_the_endpoint(client: TestClient) -> None:
    with client.websocket_connect("/items/3?q=tea") as websocket:
        websocket.send_text("Hello")
        assert websocket.receive_text() == "3 tea: Hello"


@pytest.mark.parametrize(("item_id", "status"), [("13", 403), ("0", 422), ("x", 422)])
def test_what_is_invalid_is_refused(client: TestClient, item_id: str, status: int) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refusal,
        client.websocket_connect(f"/items/{item_id}"),
    ):
        pass
    assert refusal.value.status_code == status
"""


def blocks(project: Path) -> list[tuple[str, str, str]]:
    """Return language, code and file, if it has one, of each block of code in the documents."""
    found = []
    for path, text in owners_files(project).items():
        if path.endswith(".md"):
            for block in FENCE.finditer(text):
                file = FILE.search(text[: block.start()])
                is_whole = (
                    block[2].startswith(("from ", "import ", '"""')) and "...\n" not in block[2]
                )
                found.append((block[1], block[2], file[1] if file and is_whole else ""))
    return found


def follow(project: Path) -> set[str]:
    """Write the files that the documents show, and make the changes that README.md names."""
    source = project / "src" / package(project)
    main = source / "main.py"
    written = set()
    for language, code, file in blocks(project):
        if language == "python" and file:
            folder = project if file.startswith("tests/") else source
            (folder / file).write_text(code, "utf-8")
            written.add(file)
    for name in sorted(file[10:-3] for file in written if file.startswith("endpoints/")):
        text = main.read_text("utf-8")
        settings = "from .settings import Settings\n"
        text = text.replace(settings, f"from .endpoints.{name} import router as {name}\n{settings}")
        text = text.replace(
            "    return app\n", f"    app.include_router({name})\n    return app\n", 1
        )
        main.write_text(text, "utf-8")
    settings = (source / "settings.py").read_text("utf-8")
    settings = settings.replace("\n\n\nSettingsDep", "\n\n    volume: int = 1\n\n\nSettingsDep")
    (source / "settings.py").write_text(settings, "utf-8")
    with (project / ".env.example").open("a", encoding="utf-8") as example:
        example.write("# APP_VOLUME=1\n")
    return written


@pytest.mark.parametrize("answers", [{"auth": "none"}, {"auth": "jwt", "broker": "redis"}], ids=str)
def test_what_the_documents_show_passes_its_tests_and_checks(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers).project_path
    documents = "".join(
        text for path, text in owners_files(project).items() if path.endswith(".md")
    )
    assert "    volume: int = 1\n" in documents
    assert "`# APP_VOLUME=1`" in documents
    written = follow(project)
    assert written == {
        *("endpoints/shout.py", "endpoints/orders.py", "endpoints/items.py"),
        *(
            "endpoints/assistant.py",
            "endpoints/kitchen.py",
            "tests/test_shout.py",
            "tests/test_orders.py",
            "metrics.py",
        ),
    }
    (project / "src/my_websocket_app/metrics.py").unlink()  # needs what the project has not
    for name, code in (("assistant", ASSISTANT), ("kitchen", KITCHEN), ("items", ITEMS)):
        (project / f"tests/test_{name}.py").write_text(code.lstrip(), "utf-8")
    run_module("pytest", "-p", "no:cacheprovider", cwd=project)
    run_module("ruff", "check", "--no-cache", "--fix", ".", cwd=project)
    run_module("ruff", "format", "--no-cache", "--check", ".", cwd=project)
    engine = str(PACKAGE / "src")
    run_module("ty", "check", "--error-on-warning", "--extra-search-path", engine, cwd=project)


@pytest.mark.parametrize("answers", [{"auth": "none"}, {"auth": "jwt", "broker": "redis"}], ids=str)
def test_every_other_block_of_code_is_valid(
    bake: Bake, answers: dict[str, str], tmp_path: Path
) -> None:
    project = bake(**answers).project_path
    snippets = [(language, code) for language, code, file in blocks(project) if not file]
    for code in [code for language, code in snippets if language == "python"]:
        for part in code.split("...\n"):
            lines = part.splitlines()
            indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
            text = "\n".join(line[indent:] for line in lines)
            compile(text, "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    node = shutil.which("node")
    for number, code in enumerate(code for language, code in snippets if language == "js"):
        script = tmp_path / f"{number}.mjs"
        script.write_text(code, "utf-8")
        if node:
            subprocess.run([node, "--check", script], check=True)
