"""Level 1: the code in the README of a project works as it stands there."""

import re
from pathlib import Path

import pytest

from ..conftest import Bake, run_module

ORDERS = """
from fastapi.testclient import TestClient

from .test_broadcast import listener


def test_an_order_reaches_both_rooms(client: TestClient) -> None:
    with listener(client, "/tea") as tea, listener(client, "/kitchen") as kitchen:
        id = client.post("/orders?number=7").json()
        assert tea.receive_json()["id"] == id
        assert kitchen.receive_json()["data"] == {"order": 7}
"""
CODE = re.compile(r"`((?:endpoints|tests)/(\w+)\.py)`[^`]*```python\n(.*?)```", re.DOTALL)
"""A file that the reader is to write, its stem, and its text."""


def follow(readme: str, project: Path) -> set[str]:
    """Write the files that a README shows, and add the endpoints to the application."""
    (package,) = (project / "src").iterdir()
    application = package / "application.py"
    names = set()
    for path, name, code in CODE.findall(readme):
        folder = project if path.startswith("tests/") else package
        is_new = not (folder / path).exists()
        (folder / path).write_text(code, "utf-8")
        names.add(name)
        if path.startswith("endpoints/") and is_new:
            text = application.read_text("utf-8")
            health = "from .endpoints.health import router as health\n"
            text = text.replace(health, f"{health}from .endpoints.{name} import router as {name}\n")
            text = text.replace(
                "    return app\n", f"    app.include_router({name})\n    return app\n"
            )
            application.write_text(text, "utf-8")
    return names


@pytest.mark.parametrize("auth", ["none", "jwt"])
def test_what_the_readme_shows_passes_its_tests_and_checks(bake: Bake, auth: str) -> None:
    project = bake(auth=auth).project_path
    names = follow((project / "README.md").read_text("utf-8"), project)
    endpoints = {"shout", "orders", "json_messages", "items"}
    assert names == endpoints | {"test_shout", "test_json_messages", "test_items"}
    (project / "tests/test_orders.py").write_text(ORDERS, "utf-8")
    others = ("--ignore", "tests/realtime", "--ignore", "tests/web")
    run_module("pytest", *others, "-p", "no:cacheprovider", cwd=project)
    run_module("ruff", "check", "--no-cache", "--fix", ".", cwd=project)
    run_module("ruff", "format", "--no-cache", "--check", "src", cwd=project)
    run_module("ty", "check", "--error-on-warning", cwd=project)
